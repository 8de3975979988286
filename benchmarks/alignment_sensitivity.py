"""What every number of the alignment does: each is halved and doubled, on clips that nothing is scored on."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from alignment_cases import LAWS, Case, geometric_mean, procedural, score
from alignment_honesty import motion_scores
from alignment_network import predict

from geo4d import Geo4D, Reconstruction
from geo4d.alignment import AlignmentConfig, Priors, align
from geo4d.alignment.align import complete, draft_of, select
from geo4d.alignment.joint.steps import prepare, solve_joint
from geo4d.errors import Geo4DError
from geo4d.evaluation.synthetic import SyntheticSet, TrueClip, render_true_clip, score_reconstruction
from geo4d.evaluation.tum import read_tum_clip
from geo4d.scene import Tracks, WindowPredictions

DEVELOPMENT_SPLIT = 830_001  # of procedural scenes, apart from those that are scored
AFTER_WINDOWS = ("bundle.", "depth.correction.", "finish.")  # numbers that change nothing before followed points come in
PARTS = {"windows": ("joint.", "depth."), "tracks": ("bundle.", "depth.correction."), "moving": ("finish.moving.", "motion")}
NOTHING = 1e-3  # relative change of a score, below which a number moves nothing
MISS = 10.0  # times the usual score, that a run counts for which is refused

Scores = dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One clip on which a configuration is scored."""

    name: str
    run: Callable[..., Reconstruction]  # of a configuration; `as_usual` says whether all that comes before followed points is as usual
    score: Callable[[Reconstruction], Scores]


def numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, float | int]]:
    """Every number of a tree of settings, by its name."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{prefix}{item.name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + item.name, value


def changed(config: Any, name: str, value: float | int) -> Any:
    """The settings with one number changed."""
    first, _, rest = name.partition(".")
    return replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


def sensitivity(args: argparse.Namespace) -> dict[str, Any]:
    """A row for each number, and those that move nothing."""
    usual = AlignmentConfig()
    trials = {part: list(make(args)) for part, make in (("windows", _windows), ("tracks", _tracks), ("moving", _moving))}
    before = {part: [_scored(trial, usual, as_usual=True) for trial in some] for part, some in trials.items()}
    result: dict[str, Any] = {"usual": {part: _mean(rows) for part, rows in before.items()}, "numbers": {}}
    sys.stdout.write("".join(f"usual, {part}: {_text(numbers)}\n" for part, numbers in result["usual"].items()))
    for name, value in numbers(usual):
        part = next((part for part, names in reversed(PARTS.items()) if name.startswith(names)), None)
        if part is None or not fnmatch(name, args.only):
            continue
        row = {}
        for word, factor in (("half", 0.5), ("double", 2.0)):
            other = type(value)(value * factor)
            if other == value:
                continue
            row[word] = _ratios(trials[part], before[part], usual, name, other)
        moved = any(isinstance(found, str) or any(abs(math.log(max(r, 1e-9))) > NOTHING for r in found.values()) for found in row.values())
        result["numbers"][name] = {"value": value, "part": part, "moves": moved, **row}
        words = "; ".join(f"{word} {found if isinstance(found, str) else _text(found)}" for word, found in row.items())
        sys.stdout.write(f"{name} = {value:g}: {words if moved else 'moves nothing'}\n")
        sys.stdout.flush()
    still = [name for name, row in result["numbers"].items() if not row["moves"]]
    sys.stdout.write(f"\n{len(result['numbers'])} numbers; these move nothing here: {', '.join(still) or 'none'}\n")
    return result


def _ratios(trials: list[Trial], before: list[Scores], usual: AlignmentConfig, name: str, value: float | int) -> Scores | str:
    """Geometric means over the clips of each score by the usual one; a sentence for what is refused."""
    try:
        config = changed(usual, name, value)
    except Geo4DError:
        return "refused"
    rows = [_scored(trial, config, as_usual=name.startswith(AFTER_WINDOWS)) for trial in trials]
    pairs = [(after, old) for after, old in zip(rows, before, strict=True)]
    keys = pairs[0][1].keys()
    return {key: geometric_mean((after.get(key, MISS * old[key]) + 1e-9) / (old[key] + 1e-9) for after, old in pairs) for key in keys}


def _scored(trial: Trial, config: AlignmentConfig, *, as_usual: bool) -> Scores:
    try:
        return trial.score(trial.run(config, as_usual=as_usual))
    except Geo4DError:
        return {}


def _windows(args: argparse.Namespace) -> Iterator[Trial]:
    """Simulated windows under two laws of noise, without tracks."""
    for index in range(args.count):
        for law in ("usual", "hard"):
            case = procedural(7000 + index, LAWS[law], size=(48, 72))

            def run(config: AlignmentConfig, *, as_usual: bool, case: Case = case) -> Reconstruction:
                return align(case.predictions, config=replace(config, motion=False))

            def scores(result: Reconstruction, case: Case = case) -> Scores:
                found = score(result, case)
                return {"ATE": found["ATE"], "RPE-r": found["RPE-r deg"], "Abs Rel": found["Abs Rel %"], "focal": found["focal %"]}

            yield Trial(f"scene {index} {law}", run, scores)


def _tracks(args: argparse.Namespace) -> Iterator[Trial]:
    """A network's windows and followed points, of procedural clips and of recordings."""
    model = Geo4D.from_pretrained(args.model, device="cpu")
    dataset = SyntheticSet(DEVELOPMENT_SPLIT, args.count)
    clips = [(f"clip {index}", render_true_clip(dataset, index)) for index in range(args.count)]
    clips += [(folder.name, read_tum_clip(folder, depth_scale=args.depth_scale, max_frames=args.frames)) for folder in args.recordings]
    for name, clip in clips:
        yield _tracked(name, clip, *predict(model, clip))


def _tracked(name: str, clip: TrueClip, windows: WindowPredictions, tracks: Tracks) -> Trial:
    usual, priors = AlignmentConfig(motion=False), Priors()
    windows = select(windows, usual)
    draft = draft_of(windows, solve_joint(prepare(windows, usual, priors)), priors, usual)

    def run(config: AlignmentConfig, *, as_usual: bool) -> Reconstruction:
        config = replace(config, motion=False)
        return complete(windows, draft, tracks, priors, config) if as_usual else align(windows, tracks=tracks, config=config)

    def scores(result: Reconstruction) -> Scores:
        found = score_reconstruction(clip, result)
        return {"ATE": found["ate_scale"], "RPE-r": found["rpe_rotation_deg"], "Abs Rel": found["abs_rel"], "focal": found["focal_error"]}

    return Trial(name, run, scores)


def _moving(args: argparse.Namespace) -> Iterator[Trial]:
    """What moves, against the truth: one minus the intersection over union."""
    for index in range(3 * args.count):
        case = procedural(7100 + index, LAWS["usual"], size=(48, 72))
        if case.moving is None or not case.moving.any():
            continue

        def run(config: AlignmentConfig, *, as_usual: bool, case: Case = case) -> Reconstruction:
            return align(case.predictions, config=config)

        def scores(result: Reconstruction, case: Case = case) -> Scores:
            assert result.dynamic is not None and case.moving is not None
            return {"1 - IoU": 1 - motion_scores(result.dynamic[case.valid], case.moving[case.valid])["iou"]}

        yield Trial(f"scene {index}", run, scores)


def _mean(rows: list[Scores]) -> Scores:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else {}


def _text(scores: Scores) -> str:
    return ", ".join(f"{key} {value:.3f}" for key, value in scores.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the part `sensitivity`."""
    parser.add_argument("--only", default="*", help="pattern of the numbers' names, such as 'bundle.*'")
    parser.add_argument("--count", type=int, default=2, help="clips of each kind")
    parser.add_argument("--model", default="small")
    parser.add_argument("--recordings", nargs="*", type=Path, default=[], help="folders in TUM layout")
    parser.add_argument("--depth-scale", type=float, default=1000.0, help="depth PNG value of one metre")
    parser.add_argument("--frames", type=int, default=32, help="at most so many of recordings")
