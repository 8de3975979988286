"""Train a model, stage by stage; started again, it goes on where it was."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

HELP = "a folder of stages (configs/train/small), stage files, and settings that hold for all of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d train FOLDER | FILE.yaml ... key=value ...`."""
    parser.add_argument("settings", nargs="*", metavar="FOLDER | FILE.yaml | key=value", help=HELP)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: PyTorch's)")
    parser.add_argument(
        "--list", action="store_true", help="print the stages and what they begin with, and train nothing"
    )


def run(args: argparse.Namespace) -> None:
    """Reads the recipe and runs it."""
    import sys

    import torch

    from geo4d.errors import ConfigError
    from geo4d.training.ranks import choose_device, is_main, leave
    from geo4d.training.recipe import load_recipe, run_recipe

    paths = [entry for entry in args.settings if "=" not in entry]
    stages = load_recipe(paths, [entry for entry in args.settings if "=" in entry])
    if args.list:
        for stage in stages:
            modalities = f"  modalities {' '.join(stage.modalities)}" if stage.modalities else ""
            beginning = stage.start or f"random weights, {stage.preset}"
            sys.stdout.write(f"{stage.out}/{stage.name}  {stage.kind}  from {beginning}{modalities}\n")
        return
    if args.threads is not None:
        if args.threads < 1:
            raise ConfigError(f"--threads must be at least 1; got {args.threads}.")
        torch.set_num_threads(args.threads)
    choose_device(stages[0].device)  # connects the processes, before anything asks which of them this is
    if not is_main():
        logging.getLogger("geo4d").setLevel(logging.WARNING)
    run_recipe(stages, lru_cache(make_pipeline_validator))
    leave()


def make_pipeline_validator(config: Any) -> Callable[[Any, Path, int], dict[str, float]] | None:
    """Scores a model by the whole pipeline on held-out scenes, and draws previews.

    None where no clips are asked for.
    """
    if config.clips < 1:
        return None
    from dataclasses import replace

    import numpy as np

    from geo4d.errors import Geo4DError
    from geo4d.evaluation.synthetic import SyntheticSet, TrueClip, error_ratio, render_true_clip, score_reconstruction
    from geo4d.pipeline import Geo4D, InferConfig
    from geo4d.training.ranks import is_main
    from geo4d.training.validation import VALIDATION_SPLIT
    from geo4d.viewer.preview import write_preview

    clips: list[TrueClip] = []
    settings = InferConfig(tracks=config.tracks)

    def validate(model: Any, folder: Path, step: int) -> dict[str, float]:
        """Medians over the clips, of which the first is drawn into `folder`."""
        if not clips:
            dataset = SyntheticSet(VALIDATION_SPLIT, config.clips, config.frames)
            clips.extend(render_true_clip(dataset, index + FIRST_CLIP) for index in range(config.clips))
        pipeline, scores, failed = Geo4D(model), [], 0
        for number, clip in enumerate(clips):
            try:
                video = pipeline.read(clip.frames, settings)
                fps = 1 / float(np.diff(clip.timestamps).mean())
                result = pipeline.reconstruct(replace(video, timestamps=clip.timestamps, fps=fps), settings)
            except Geo4DError as error:
                failed += 1
                logging.getLogger("geo4d").warning("Validation clip %d failed: %s", number, error)
                continue
            scores.append({**score_reconstruction(clip, result), "error_ratio": error_ratio(clip, result)})
            if number == 0 and is_main():
                pictures = folder / f"step_{step:08d}"
                pictures.mkdir(parents=True, exist_ok=True)
                write_preview(result, pictures)
        means = {name: float(np.median([score[name] for score in scores])) for name in SHOWN} if scores else {}
        return {**{f"pipeline_{name}": value for name, value in means.items()}, "pipeline_failed": float(failed)}

    return validate


SHOWN = ("abs_rel", "ate_scale", "ate_sim3", "error_ratio")
FIRST_CLIP = 5000  # apart from the scenes of the quick figures
