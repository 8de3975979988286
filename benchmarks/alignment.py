"""The alignment, measured on windows whose truth is known.

Every part prints a table and can write JSON and plots with --out.

    python benchmarks/alignment.py solvers CASE.npz ...      # our two solvers in one process, one thread: errors, CPU s
    python benchmarks/alignment.py solvers --seeds 0 1 2     # the same on procedural scenes of any seed
    python benchmarks/alignment.py recorded --maker MAKER.py # beside what the published optimiser was measured to leave
    python benchmarks/alignment.py varied --maker MAKER.py   # many kinds, beside what the windows could give at best
    python benchmarks/alignment.py ablation                  # modalities x solver x noise
    python benchmarks/alignment.py honesty                   # confidence, covariances, quality without truth, motion
    python benchmarks/alignment.py long 100 500 2000         # time and memory against length
    python benchmarks/alignment.py network                   # on the output of a network, not on simulated windows
    python benchmarks/alignment.py sensitivity               # every number halved and doubled

A case holds what `geo4d align` reads, and the truth: gt_depth (t, h, w), gt_intrinsics (3, 3) and gt_cam_to_world
(t, 4, 4).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alignment_cases import (
    LAWS,
    Case,
    from_arrays,
    from_file,
    geometric_mean,
    maker,
    oracle_abs_rel,
    procedural,
    score,
    varied,
)
from alignment_honesty import honesty
from alignment_long import long_videos
from alignment_network import network
from alignment_sensitivity import add_arguments, sensitivity

from geo4d import Reconstruction
from geo4d.alignment import AlignmentConfig, align
from geo4d.alignment.config import PaperConfig
from geo4d.alignment.joint.config import JointConfig
from geo4d.scene import Tracks
from geo4d.tracks import track_points

COLUMNS = ("ATE", "RPE-t", "RPE-r deg", "Abs Rel %", "scale only %", "focal %", "CPU s")
RECORDED = Path(__file__).with_name("alignment_released.json")
MODALITIES = {"p": "points", "d": "disparity", "r": "rays"}
ABLATIONS = (
    ("fast", "p"), ("fast", "d"), ("fast", "r"), ("fast", "pd"), ("fast", "pr"), ("fast", "pdr"),
    ("fast, adaptive loss", "pdr"), ("fast and tracks", "pdr"),
    ("paper", "p"), ("paper", "pd"), ("paper", "pr"), ("paper", "pdr"),
)  # fmt: skip


def timed(case: Case, config: AlignmentConfig) -> tuple[Reconstruction, dict[str, float]]:
    """The result, its scores and its CPU seconds."""
    started = time.process_time()
    result = align(case.predictions, config=config)
    seconds = time.process_time() - started
    return result, {**score(result, case), "CPU s": seconds}


def table(rows: Sequence[tuple[str, dict[str, float]]], columns: Sequence[str] = COLUMNS) -> None:
    """Rows as text."""
    width = max(len(name) for name, _ in rows) + 2
    lines = [" " * width + "".join(f"{name:>14s}" for name in columns)]
    lines += [
        f"{name:{width}s}" + "".join(f"{row.get(key, float('nan')):14.4f}" for key in columns) for name, row in rows
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def ratios(pairs: Sequence[tuple[dict[str, float], dict[str, float]]], columns: Sequence[str]) -> dict[str, float]:
    """Geometric mean of the first's numbers by the second's."""
    return {key: geometric_mean(a[key] / max(b[key], 1e-12) for a, b in pairs) for key in columns}


def solvers(args: argparse.Namespace) -> dict[str, Any]:
    """Both solvers on each case."""
    cases = [from_file(path) for path in args.cases] + [procedural(seed, LAWS[args.noise]) for seed in args.seeds]
    if not cases:
        raise SystemExit("Give case files, or --seeds of procedural scenes.")
    rows, pairs = [], []
    for case in cases:
        align(case.predictions, config=AlignmentConfig(motion=False))  # libraries warm up
        fast = timed(case, AlignmentConfig(motion=False))[1]
        paper = timed(case, AlignmentConfig(solver="paper", paper=PaperConfig(steps=args.steps)))[1]
        rows += [(f"{case.name} fast", fast), (f"{case.name} paper", paper)]
        pairs.append((fast, paper))
    mean = ratios(pairs, COLUMNS)
    table([*rows, ("geometric mean fast / paper", mean)])
    sys.stdout.write(f"fast takes 1/{1 / mean['CPU s']:.0f} of the paper's CPU seconds\n")
    return {"rows": dict(rows), "ratio": mean}


def recorded(args: argparse.Namespace) -> dict[str, Any]:
    """`fast` beside the figures that are on record for the published optimiser and for a prototype."""
    make_case = maker(args.maker)
    rows, noisy = [], []
    for entry in json.loads(RECORDED.read_text()):
        released, prototype, modalities = (entry.pop(key) for key in ("released", "prototype", "modalities"))
        case = from_arrays(
            make_case(**entry), " ".join(f"{key}={value}" for key, value in entry.items()) + f" {modalities}"
        )
        config = AlignmentConfig(motion=False, **{f"use_{name}": key in modalities for key, name in MODALITIES.items()})
        ours = timed(case, config)[1]
        above = [key for key in COLUMNS[:4] if ours[key] > released[key] + 5e-4]
        rows += [(case.name, ours), ("    published optimiser", released)]
        if above:
            rows[-2] = (f"{case.name} ABOVE: {', '.join(above)}", ours)
        if modalities == "pdr" and entry["noise"] != "clean":
            noisy.append((ours, released, prototype))
    means = [
        ("mean ratio to the published optimiser", ratios([(a, b) for a, b, _ in noisy], COLUMNS)),
        ("mean ratio to the prototype", ratios([(a, c) for a, _, c in noisy], COLUMNS)),
    ]
    table([*rows, *means])
    return {"rows": [[name, row] for name, row in rows], "ratios": dict(means)}


def varied_cases(args: argparse.Namespace) -> dict[str, Any]:
    """`fast` on many kinds of cases; Abs Rel beside the oracle's."""
    rows = []
    for case in varied(maker(args.maker), args.count, args.seed):
        row = timed(case, AlignmentConfig(motion=False))[1]
        row["oracle %"] = oracle_abs_rel(case)
        rows.append((case.name, {**row, "by oracle": row["Abs Rel %"] / row["oracle %"]}))
    columns = (*COLUMNS[:4], "oracle %", "by oracle", "focal %")
    summary = []
    for noise in dict.fromkeys(name for name, _ in rows):
        some = [row for name, row in rows if name == noise]
        for label, merge in (("geometric mean", geometric_mean), ("median", np.median), ("worst", max)):
            summary.append((f"{noise}, {label}", {key: float(merge([row[key] for row in some])) for key in columns}))
    table([*rows, *summary], columns)
    return {"rows": [[name, row] for name, row in rows], "summary": dict(summary)}


def ablation(args: argparse.Namespace) -> dict[str, Any]:
    """Which modality and which solver is worth what, under three levels of noise; medians over scenes."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for noise in args.noises:
        cases = [procedural(seed, LAWS[noise]) for seed in args.seeds]
        tracks = [track_points(case.predictions.images) for case in cases]
        for solver, modalities in ABLATIONS:
            scores = [
                _ablated(case, solver, modalities, args.steps, track) for case, track in zip(cases, tracks, strict=True)
            ]
            name = f"{solver}: {modalities}"
            result.setdefault(noise, {})[name] = {
                key: float(np.median([row[key] for row in scores])) for key in COLUMNS
            }
        sys.stdout.write(f"\nnoise {noise}, medians over {len(cases)} scenes\n")
        table(list(result[noise].items()))
    return result


def _ablated(case: Case, solver: str, modalities: str, steps: int, tracks: Tracks) -> dict[str, float]:
    """One row; what a modality cannot tell is nan."""
    config = AlignmentConfig(
        solver="paper" if solver == "paper" else "fast",
        joint=JointConfig(loss="adaptive" if "adaptive" in solver else "cauchy"),
        motion=False,
        paper=PaperConfig(steps=steps),
        **{f"use_{name}": key in modalities for key, name in MODALITIES.items()},
    )
    started = time.process_time()
    result = align(case.predictions, tracks=tracks if "tracks" in solver else None, config=config)
    seconds = time.process_time() - started
    scores = {**score(result, case), "CPU s": seconds}
    unknown = (*COLUMNS[:3], "focal %") if modalities == "d" else ()
    return {key: float("nan") if key in unknown else value for key, value in scores.items()}


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)

    def part(name: str, function: Any, description: str) -> argparse.ArgumentParser:
        sub = parts.add_parser(name, help=description, description=description)
        sub.set_defaults(function=function)
        sub.add_argument("--out", type=Path, default=None, help="folder for NAME.json and plots")
        return sub

    sub = part("solvers", solvers, "fast and paper on the same cases")
    sub.add_argument("cases", nargs="*", type=Path)
    sub.add_argument("--seeds", nargs="*", type=int, default=[], help="procedural scenes")
    sub.add_argument("--noise", choices=list(LAWS), default="usual", help="of procedural scenes")
    sub.add_argument(
        "--steps", type=int, default=500, help="of the paper's first-order optimisation, at full resolution"
    )
    sub = part("recorded", recorded, "fast beside figures on record for the published optimiser")
    sub.add_argument("--maker", type=Path, required=True, help="Python file with make_case; it is run")
    sub = part("varied", varied_cases, "fast on cases of many kinds, beside an oracle")
    sub.add_argument("--maker", type=Path, required=True, help="Python file with make_case; it is run")
    sub.add_argument("--count", type=int, default=40)
    sub.add_argument("--seed", type=int, default=0)
    sub = part("ablation", ablation, "modalities x solver x noise on procedural scenes")
    sub.add_argument("--seeds", nargs="*", type=int, default=list(range(8)))
    sub.add_argument("--noises", nargs="*", choices=list(LAWS), default=["soft", "usual", "hard"])
    sub.add_argument(
        "--steps", type=int, default=500, help="of the paper's first-order optimisation, at full resolution"
    )
    sub = part("honesty", honesty, "confidence, covariances, quality without truth, motion masks")
    sub.add_argument("--count", type=int, default=100, help="procedural cases of varied noise")
    sub.add_argument(
        "--maker", type=Path, default=None, help="Python file with make_case, for its cases too; it is run"
    )
    sub = part("long", long_videos, "time and memory against length")
    sub.add_argument("frames", nargs="*", type=int, default=[100, 500, 2000])
    sub = part("network", network, "on what a network gives for held-out clips, recordings and videos")
    sub.add_argument("--model", default="small")
    sub.add_argument("--count", type=int, default=16, help="held-out clips")
    sub.add_argument("--recordings", nargs="*", type=Path, default=[], help="folders in TUM layout")
    sub.add_argument("--depth-scale", type=float, default=1000.0, help="depth PNG value of one metre")
    sub.add_argument("--videos", nargs="*", type=Path, default=[], help="without truth")
    sub.add_argument("--frames", type=int, default=None, help="at most so many of recordings and videos")
    add_arguments(
        part("sensitivity", sensitivity, "every number of the alignment halved and doubled, on development clips")
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = args.function(args)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"alignment_{args.part}.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
