"""The two alignment solvers on the same window predictions, in one process with one thread: accuracy, CPU time, ratios.

    python benchmarks/alignment.py CASE.npz ...

A case holds what `geo4d align` reads, and the truth: gt_depth (t, h, w), gt_intrinsics (3, 3), gt_cam_to_world (t, 4, 4).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

from geo4d.alignment import AlignmentConfig, align
from geo4d.io.windows import load_windows
from geo4d.metrics.depth import depth_metrics
from geo4d.metrics.pose import focal_error, pose_metrics

COLUMNS = ("ATE", "RPE-t", "RPE-r deg", "Abs Rel %", "focal %", "CPU s")


def measure(path: Path, solver: str, steps: int) -> list[float]:
    """One row of the table."""
    predictions = load_windows(path)
    with np.load(path, allow_pickle=False) as case:
        depth, poses, intrinsics = case["gt_depth"], case["gt_cam_to_world"], case["gt_intrinsics"]
    started = time.process_time()
    result = align(predictions, AlignmentConfig(solver=solver, paper_steps=steps))  # type: ignore[arg-type]
    seconds = time.process_time() - started
    pose = pose_metrics(result.cam_to_world, poses)
    focal = math.expm1(focal_error(result.intrinsics, np.tile(intrinsics, (len(depth), 1, 1))))
    abs_rel = depth_metrics(result.depth, depth, depth > 0).abs_rel
    return [pose.ate_sim3, pose.rpe_translation, pose.rpe_rotation_deg, 100 * abs_rel, 100 * focal, seconds]


def main() -> None:
    """Prints a table and the geometric means of the ratios fast / paper."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=500, help="of the paper's first-order optimisation, at full resolution")
    args = parser.parse_args()
    torch.set_num_threads(1)
    write = sys.stdout.write
    write(f"{'case':28s}{'solver':8s}" + "".join(f"{name:>11s}" for name in COLUMNS) + "\n")
    ratios = []
    for path in args.cases:
        measure(path, "fast", 1)  # libraries warm up
        rows = {solver: measure(path, solver, args.steps) for solver in ("fast", "paper")}
        for solver, row in rows.items():
            write(f"{path.stem[:27]:28s}{solver:8s}" + "".join(f"{value:11.4f}" for value in row) + "\n")
        ratios.append([fast / max(paper, 1e-12) for fast, paper in zip(rows["fast"], rows["paper"], strict=True)])
    means = np.exp(np.log(np.maximum(ratios, 1e-12)).mean(axis=0))
    write(f"{'geometric mean fast / paper':36s}" + "".join(f"{value:11.4f}" for value in means) + "\n")
    write(f"fast takes 1/{1 / means[-1]:.0f} of the paper's CPU seconds\n")


if __name__ == "__main__":
    main()
