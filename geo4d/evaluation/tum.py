"""A recording in TUM layout (rgb.txt, depth.txt, groundtruth.txt) through the pipeline, beside the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from geo4d.errors import InputError
from geo4d.evaluation.synthetic import Predict, TrueClip, medians, score_baselines, score_reconstruction, statistics
from geo4d.io.reconstruction import read_tum

MAX_GAP = 0.02  # seconds between a frame and its depth or pose


def evaluate_tum(root: Path, predict: Predict | None, *, depth_scale: float, max_frames: int | None) -> dict[str, Any]:
    """Scores one recording; the result has the form of `evaluate_synthetic`'s with a single clip."""
    clip = read_tum_clip(root, depth_scale=depth_scale, max_frames=max_frames)
    entry: dict[str, Any] = {"index": 0, "statistics": statistics(clip), **score_baselines(clip)}
    if predict is not None:
        entry["model"] = score_reconstruction(clip, predict(clip))
    return {"set": {"root": root.name, "frames": len(clip.frames)}, "median": medians([entry]), "clips": [entry]}


def read_tum_clip(root: Path, *, depth_scale: float, max_frames: int | None) -> TrueClip:
    """Frames with the depth map and the pose nearest in time (within 20 ms); others are left out.

    Focal length comes from intrinsics.txt (fx fy cx cy) if it is there, else from the TUM default of 525 pixels.
    """
    rgb, depth = _read_list(root / "rgb.txt"), _read_list(root / "depth.txt")
    times, poses = read_tum(root / "groundtruth.txt")
    depth_times = np.array([t for t, _ in depth])
    frames: list[np.ndarray] = []
    maps: list[np.ndarray] = []
    kept: list[tuple[float, int]] = []
    for time, name in rgb:
        if len(frames) == max_frames:
            break
        i, j = int(np.abs(depth_times - time).argmin()), int(np.abs(times - time).argmin())
        if abs(depth_times[i] - time) > MAX_GAP or abs(times[j] - time) > MAX_GAP:
            continue
        frames.append(np.asarray(Image.open(root / name).convert("RGB")))
        maps.append(np.asarray(Image.open(root / depth[i][1])).astype(np.float32) / depth_scale)
        kept.append((time, j))
    if not frames:
        raise InputError(f"{root} has no frame with depth and pose within {MAX_GAP} s; check its lists.")
    stacked, index = np.stack(maps), [j for _, j in kept]
    path = root / "intrinsics.txt"
    fx, fy, cx, cy = np.loadtxt(path) if path.exists() else (525.0, 525.0, frames[0].shape[1] / 2, frames[0].shape[0] / 2)
    intrinsics = np.tile(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), (len(frames), 1, 1))
    relative = np.linalg.inv(poses[index[0]]) @ poses[index]
    timestamps = np.array([time for time, _ in kept])
    dynamic = np.zeros(stacked.shape, bool)
    return TrueClip(np.stack(frames), timestamps - timestamps[0], stacked, stacked > 0, dynamic, intrinsics, relative)


def _read_list(path: Path) -> list[tuple[float, str]]:
    """Lines of `time name`; comment lines begin with #."""
    if not path.is_file():
        raise InputError(f"{path} is missing; expected a recording in TUM layout (rgb.txt, depth.txt, groundtruth.txt).")
    lines = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [(float(line[0]), line[1]) for line in lines]
