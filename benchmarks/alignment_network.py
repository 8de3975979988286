"""The alignment on what a network really gives.

Both solvers, and tracks, on held-out clips, recordings and plain videos.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from geo4d import Geo4D, Reconstruction
from geo4d.alignment import AlignmentConfig, align
from geo4d.alignment.joint.config import JointConfig
from geo4d.evaluation.synthetic import SyntheticSet, TrueClip, render_true_clip, score_reconstruction
from geo4d.evaluation.tum import read_tum_clip
from geo4d.pipeline import InferConfig
from geo4d.scene import Tracks, Video, WindowPredictions

COLUMNS = (
    "abs_rel",
    "abs_rel_median_scale",
    "ate_by_static",
    "rpe_rotation_deg",
    "direction_deg",
    "focal_error",
    "CPU s",
)
VARIANTS = {
    "fast, tracks": AlignmentConfig(),
    "fast": AlignmentConfig(),
    "fast, adaptive loss": AlignmentConfig(joint=JointConfig(loss="adaptive")),
    "fast, points alone": AlignmentConfig(use_disparity=False, use_rays=False),
    "fast, without rays": AlignmentConfig(use_rays=False),
    "fast, without disparity": AlignmentConfig(use_disparity=False),
    "paper": AlignmentConfig(solver="paper"),
}
MOVING = 0.05  # path by the median depth, from which a static camera is a baseline worth beating


def network(args: argparse.Namespace) -> dict[str, Any]:
    """Medians over the clips; recordings and videos one by one."""
    model = Geo4D.from_pretrained(args.model, device="cpu")
    result: dict[str, Any] = {}
    clips = [(clip, *predict(model, clip)) for clip in held_out(args)]
    rows = {
        name: [scored(clip, *aligned(windows, tracks, name)) for clip, windows, tracks in clips] for name in VARIANTS
    }
    result["held-out clips"] = _report(f"{len(clips)} held-out clips, medians", rows)
    for folder in args.recordings:
        clip = read_tum_clip(folder, depth_scale=args.depth_scale, max_frames=args.frames)
        windows, tracks = predict(model, clip)
        result[folder.name] = _report(
            folder.name, {name: [scored(clip, *aligned(windows, tracks, name))] for name in VARIANTS}
        )
    for path in args.videos:
        result[path.name] = compare(model, path, args.frames)
    return result


def held_out(args: argparse.Namespace) -> Iterator[TrueClip]:
    """Procedural clips of the split that nothing was developed on."""
    dataset = SyntheticSet(num=args.count)
    for index in range(args.count):
        yield render_true_clip(dataset, index)


def predict(model: Any, clip: TrueClip) -> tuple[WindowPredictions, Tracks]:
    """What the network says, and the tracks of the source frames."""
    read = model.read(clip.frames, InferConfig())
    return model.predict(Video(read.frames, clip.timestamps, 24.0, read.source_size)), read.tracks


def aligned(windows: WindowPredictions, tracks: Tracks, name: str) -> tuple[Reconstruction, float]:
    """One variant's result and its CPU seconds."""
    started = time.process_time()
    result = align(windows, tracks=tracks if "tracks" in name else None, config=VARIANTS[name])
    return result, time.process_time() - started


def scored(clip: TrueClip, result: Reconstruction, seconds: float) -> dict[str, float]:
    """Metrics with the error of the path by that of a camera that stands still (nan where it hardly moves)."""
    row = score_reconstruction(clip, result)
    centres = clip.cam_to_world[:, :3, 3] / np.median(clip.depth[clip.valid])
    moves = np.linalg.norm(np.diff(centres, axis=0), axis=1).sum() >= MOVING
    static = float(np.sqrt((centres**2).sum(1).mean()))
    return {**row, "ate_by_static": row["ate_scale"] / static if moves else float("nan"), "CPU s": seconds}


def compare(model: Any, path: Path, frames: int | None) -> dict[str, float]:
    """Without truth: how far both solvers differ, and what they cost."""
    read = model.read(path, InferConfig(max_frames=frames))
    windows = model.predict(read)
    (fast, fast_seconds), (paper, paper_seconds) = (aligned(windows, read.tracks, name) for name in ("fast", "paper"))
    both = fast.valid & paper.valid
    apart = np.log(fast.depth[both] / paper.depth[both])
    row = {
        "frames": float(len(fast.depth)),
        "median abs log depth apart": float(np.median(np.abs(apart - np.median(apart)))),
        "log focal apart": float(np.log(fast.intrinsics[0, 0, 0] / paper.intrinsics[0, 0, 0])),
        "expected error (fast)": float(fast.diagnostics["expected_error"]),
        "fast CPU s": fast_seconds,
        "paper CPU s": paper_seconds,
    }
    sys.stdout.write(f"\n{path.name}\n" + "".join(f"  {key:28s}{value:9.3f}\n" for key, value in row.items()))
    return row


def _report(title: str, rows: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Prints and returns medians."""
    table = {
        name: {key: float(np.nanmedian([row[key] for row in some] or [np.nan])) for key in COLUMNS}
        for name, some in rows.items()
    }
    sys.stdout.write(f"\n{title}\n{'':26s}" + "".join(f"{key:>22s}" for key in COLUMNS) + "\n")
    sys.stdout.write(
        "".join(f"{name:26s}" + "".join(f"{row[key]:22.4f}" for key in COLUMNS) + "\n" for name, row in table.items())
    )
    return table
