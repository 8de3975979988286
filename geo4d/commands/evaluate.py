"""Score the pipeline on held-out procedural clips or a TUM-layout recording, beside the baselines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from geo4d.commands.infer import add_model_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d evaluate synthetic ...` or `geo4d evaluate tum ROOT ...`."""
    parser.add_argument("dataset", choices=["synthetic", "tum"], help="procedural clips, or a recording in TUM layout")
    parser.add_argument("root", nargs="?", default=None, help="folder of the recording (tum)")
    parser.add_argument("--seed", type=int, default=None, help="scene split (synthetic); default: the held-out set")
    parser.add_argument("--num", type=int, default=16, help="clips (synthetic)")
    parser.add_argument("--frames", type=int, default=None, help="frames a clip (synthetic: 32), at most so many (tum: all)")
    parser.add_argument("--depth-scale", type=float, default=5000.0, help="depth PNG value of one metre (tum)")
    parser.add_argument("--json", default=None, metavar="FILE", help="write every number here")
    add_model_arguments(parser)
    parser.add_argument("--stride", type=int, default=4, help="frames between windows")
    parser.add_argument("--steps", type=int, default=None, help="DDIM steps, or 0 for one step from zero input; default: the model's own")
    parser.add_argument("--no-tracks", dest="tracks", action="store_false", help="cameras by the network alone")
    parser.add_argument("--baselines-only", action="store_true", help="run no model")


def run(args: argparse.Namespace) -> None:
    """Scores, prints a table, writes the JSON."""
    import sys

    from geo4d.errors import ConfigError
    from geo4d.evaluation.synthetic import HELD_OUT_SEED, SyntheticSet, evaluate_synthetic, table, write_json
    from geo4d.evaluation.tum import evaluate_tum
    from geo4d.progress import Bars

    predict = None if args.baselines_only else _predictor(args)
    if args.dataset == "synthetic":
        dataset = SyntheticSet(args.seed if args.seed is not None else HELD_OUT_SEED, args.num, args.frames or 32)
        result = evaluate_synthetic(dataset, predict, progress=Bars(hidden=args.quiet).counter("clips"))
    elif args.root is None:
        raise ConfigError("geo4d evaluate tum needs the folder of the recording; give it after the word tum.")
    else:
        result = evaluate_tum(Path(args.root), predict, depth_scale=args.depth_scale, max_frames=args.frames)
    names = ("model", "vae", "device", "dtype", "stride", "steps", "tracks")
    result["settings"] = {name: getattr(args, name) for name in names}
    sys.stdout.write(table(result) + "\n")
    if args.json:
        write_json(result, Path(args.json))


def _predictor(args: argparse.Namespace) -> Any:
    from dataclasses import replace

    from geo4d.pipeline import Geo4D, InferConfig

    model = Geo4D.from_pretrained(args.model, vae=args.vae, device=args.device, dtype=args.dtype)
    config = InferConfig(stride=args.stride, steps=args.steps, tracks=args.tracks)

    def predict(clip: Any) -> Any:
        resized = model.read(clip.frames, config)
        fps = 1 / float((clip.timestamps[1:] - clip.timestamps[:-1]).mean()) if len(clip.timestamps) > 1 else resized.fps
        return model.reconstruct(replace(resized, timestamps=clip.timestamps, fps=fps), config)

    return predict
