"""Does the depth of things that stand still stand still? Measured on tracked points, through the cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geo4d.errors import InputError
from geo4d.geometry.camera import pixel_rays
from geo4d.metrics.checks import require_trajectory
from geo4d.scene import Tracks


@dataclass(frozen=True)
class DepthStability:
    """Relative changes of static points' depth between two sightings, and how much could be measured."""

    mean: float
    median: float
    pairs: int  # how many pairs of sightings were compared
    coverage: float  # share of static sightings at which there is a predicted depth


def depth_stability(
    depth: np.ndarray,
    intrinsics: np.ndarray,
    cam_to_world: np.ndarray,
    tracks: Tracks,
    *,
    static: np.ndarray | None = None,
    gap: int = 1,
) -> DepthStability:
    """Compares each static point with itself `gap` frames later: a gap of 1 shows flicker, a long one drift.

    A point seen in frames i and j = i + gap is put into the world by the depth of frame i and looked at from camera j,
    where it has depth z; the relative change is |z - d_j| / d_j, with d_j the depth that frame j has there. Depth
    between pixels is interpolated in 1 / depth, which is exact on planes. With the true cameras and depth at their
    scale this is the instability of depth alone; with the predicted cameras it is the inconsistency of the whole
    result. Depth that is wrong in the same way in every frame of a camera that stands still is stable: that error is
    for `depth_metrics`.

    Args:
        depth: (t, h, w) z-depth; not finite or not positive where there is none.
        intrinsics: (t, 3, 3) of the depth maps.
        cam_to_world: (t, 4, 4) in the unit of depth.
        tracks: points followed through the video; only sightings inside the image count.
        static: (n,) bool for tracks 0 to n - 1: it does not move in the world. None: no track moves.
        gap: frames between the two sightings.

    Raises:
        InputError: shapes that do not fit, or no static point that has depth in two frames `gap` apart.
    """
    cameras = require_trajectory("The trajectory", cam_to_world)
    _check(depth, intrinsics, cameras, tracks, static, gap)
    track, frame, position = _static_rows(tracks, static, depth.shape[1:])
    here = _sample(depth, frame, position)
    frame_intrinsics = torch.tensor(intrinsics, dtype=torch.float64)[torch.from_numpy(frame)]
    rays = pixel_rays(torch.from_numpy(position)[:, None], frame_intrinsics)[:, 0].numpy()
    rotation, centre = cameras[frame, :3, :3], cameras[frame, :3, 3]
    points_world = np.einsum("mij,mj->mi", rotation, rays * here[:, None]) + centre
    first, second = _pairs(track, frame, gap)
    z = ((points_world[first] - centre[second]) * rotation[second, :, 2]).sum(1)
    change = np.abs(z - here[second]) / here[second]
    change = change[np.isfinite(change)]
    if change.size == 0:
        raise InputError(
            f"Stability cannot be measured: no static point has depth in two frames {gap} apart; track more points."
        )
    return DepthStability(float(change.mean()), float(np.median(change)), change.size, float(np.isfinite(here).mean()))


def _static_rows(
    tracks: Tracks, static: np.ndarray | None, size: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Track, frame and position, in pixels of the depth map, of the sightings that count."""
    source_height, source_width = tracks.source_size
    position = tracks.position.astype(np.float64) * [size[1] / source_width, size[0] / source_height]
    keep = ((position >= 0) & (position < [size[1], size[0]])).all(1)
    if static is not None:
        keep &= static[tracks.track]
    return tracks.track[keep], tracks.frame[keep].astype(np.int64), position[keep]


def _pairs(track: np.ndarray, frame: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the first and of the second sighting of one track, `gap` frames apart."""
    number = track.astype(np.int64) * (int(frame.max(initial=0)) + gap + 1)
    order = np.argsort(number + frame)
    key = (number + frame)[order]
    second = np.minimum(np.searchsorted(key, number + frame + gap), max(len(key) - 1, 0))
    first = np.flatnonzero(key[second] == number + frame + gap) if len(key) else np.zeros(0, np.int64)
    return first, order[second[first]]


def _sample(depth: np.ndarray, frame: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Depth (m,) of frames (m,) at positions (m, 2), bilinear in 1 / depth.

    nan where one of the four pixels has none.
    """
    height, width = depth.shape[1:]
    x, y = np.clip(position[:, 0] - 0.5, 0, width - 1), np.clip(position[:, 1] - 0.5, 0, height - 1)
    x0, y0 = x.astype(np.int64), y.astype(np.int64)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    a, b = x - x0, y - y0

    def disparity(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        value = depth[frame, row, column].astype(np.float64)
        good = np.isfinite(value) & (value > 0)
        return np.where(good, 1 / np.where(good, value, 1.0), np.nan)

    upper = (1 - a) * disparity(y0, x0) + a * disparity(y0, x1)
    lower = (1 - a) * disparity(y1, x0) + a * disparity(y1, x1)
    return 1 / ((1 - b) * upper + b * lower)


def _check(
    depth: np.ndarray, intrinsics: np.ndarray, cameras: np.ndarray, tracks: Tracks, static: np.ndarray | None, gap: int
) -> None:
    frames = len(depth)
    if depth.ndim != 3 or intrinsics.shape != (frames, 3, 3) or len(cameras) != frames or tracks.num_frames != frames:
        raise InputError(
            f"Depth (t, h, w) needs intrinsics (t, 3, 3), cameras and tracks of the same frames; "
            f"got {depth.shape}, {intrinsics.shape}, {len(cameras)} cameras and tracks of {tracks.num_frames} frames."
        )
    if static is not None and (static.ndim != 1 or static.dtype != bool or len(static) < tracks.num_tracks):
        raise InputError(
            f"`static` must be bool, one for each of {tracks.num_tracks} tracks; got {static.dtype} {static.shape}."
        )
    if not 1 <= gap < frames:
        raise InputError(f"The gap between sightings must be from 1 to {frames - 1} for {frames} frames; got {gap}.")
