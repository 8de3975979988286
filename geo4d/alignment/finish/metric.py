"""The size of the scene from lengths that are known.

A distance between two points, the camera's height above the ground.
"""

from __future__ import annotations

import math

import numpy as np

from geo4d.alignment.depth.dense import metres_by_given
from geo4d.alignment.draft import Draft
from geo4d.alignment.finish.assemble import scaled
from geo4d.alignment.finish.config import MetricConfig
from geo4d.alignment.priors import Distance, Priors
from geo4d.errors import InputError
from geo4d.scene import Reconstruction

GROUND_TRIES = 200  # planes that are tried: one of three points in ten hits a ground that holds a third of them
GROUND_POINTS = 400  # of a frame, drawn at random: enough to tell which plane holds the most
GROUND_FRAMES = 32  # of the video, evenly spaced: the median of their heights changes little with more


def in_metres(result: Reconstruction, draft: Draft, priors: Priors, config: MetricConfig) -> Reconstruction:
    """The reconstruction in metres if any prior says how large the scene is; all that say it are reported.

    Measured on the result as it is going to be: final cameras, final depth. Raises InputError where a length cannot be
    measured.
    """
    found: dict[str, float] = {}
    if draft.is_metric:
        found["poses"] = 1.0
    if draft.joint is not None and draft.fused is not None:
        poses, scale = draft.joint.priors.given.poses, draft.joint.unknowns.poses
        if poses is not None and priors.poses_are_metric:
            metres = 1.0 if scale is None else 1 / float(scale.scale)
            path = float((poses[:, :3, 3] - poses[0, :3, 3]).norm(dim=-1).max())
            if path > config.least_path * metres * float(np.nanmedian(result.depth)):
                found["poses"] = metres
            else:
                warning = "The given cameras hardly move, so they do not say how large the scene is."
                result = result.with_diagnostics(warnings=[*result.diagnostics["warnings"], warning])
        by_depth = metres_by_given(draft.fused, draft.working_depth)
        found |= {} if by_depth is None else {"depth": by_depth}
    found |= metres_by_lengths(result, priors, config)
    if not found:
        return result
    return scaled(result, next(iter(found.values()))).with_diagnostics(metres_per_unit=found)


def metres_by_lengths(result: Reconstruction, priors: Priors, config: MetricConfig) -> dict[str, float]:
    """Metres by unit of the scene, by each kind of length that is given.

    Raises InputError where it cannot be measured.
    """
    found = {}
    if priors.distances:
        ratios = [distance.metres / _measure(result, distance) for distance in priors.distances]
        found["distances"] = float(np.exp(np.mean(np.log(ratios))))
    if priors.camera_height is not None:
        found["camera_height"] = priors.camera_height / height_above_ground(result, config)
    return found


def _measure(result: Reconstruction, distance: Distance) -> float:
    ends = []
    for frame, (u, v) in ((distance.frame_a, distance.pixel_a), (distance.frame_b, distance.pixel_b)):
        height, width = result.source_size
        if not (0 <= frame < result.num_frames and 0 <= u < width and 0 <= v < height):
            raise InputError(
                f"A known distance ends at pixel ({u}, {v}) of frame {frame}, outside the video; give pixels within "
                f"{width} x {height}."
            )
        row, column = int(v * result.depth.shape[1] / height), int(u * result.depth.shape[2] / width)
        point = result.points_world(frame)[row, column]
        if not np.isfinite(point).all():
            raise InputError(
                f"A known distance ends at pixel ({u}, {v}) of frame {frame}, which has no depth; choose another point."
            )
        ends.append(point)
    length = float(np.linalg.norm(ends[0] - ends[1]))
    if length <= 0:
        raise InputError("A known distance has both its ends at one point; choose two points.")
    return length


def height_above_ground(result: Reconstruction, config: MetricConfig | None = None) -> float:
    """Of the camera, in units of the scene: the median over the frames in which a ground plane is found.

    Raises InputError if too few frames show one.
    """
    config = config or MetricConfig()
    generator = np.random.default_rng(0)
    heights = []
    for frame in range(0, result.num_frames, max(1, result.num_frames // GROUND_FRAMES)):
        points = result.points_cam(frame)
        lower = points[int(config.lower * len(points)) :].reshape(-1, 3)
        lower = lower[np.isfinite(lower).all(axis=1)]
        heights.append(_plane_height(lower, generator, config) if len(lower) >= 50 else None)
    found = [height for height in heights if height is not None]
    if len(found) < max(1, config.least_frames * len(heights)):
        raise InputError(
            "No ground plane is seen below the camera, so its height cannot be used; give a known distance instead."
        )
    return float(np.median(found))


def _plane_height(points: np.ndarray, generator: np.random.Generator, config: MetricConfig) -> float | None:
    """Distance of the origin from the plane that holds most points and is roughly level; None without a clear one."""
    points = points[generator.choice(len(points), min(GROUND_POINTS, len(points)), replace=False)]
    steepest = math.cos(math.radians(config.steepest_deg))
    tolerance = config.thickness * np.linalg.norm(points, axis=1)
    best, height, share = 0.0, None, 0.0
    for _ in range(GROUND_TRIES):
        a, b, c = points[generator.choice(len(points), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-9 or abs(normal[1]) < steepest * length:
            continue
        normal = normal / length
        off = np.abs(points @ normal - a @ normal) / tolerance
        # near points count more: a tilted plane that also catches the foot of a wall must not win
        score = np.maximum(1 - off**2, 0).sum()
        if score > best:
            best, height, share = score, abs(float(a @ normal)), float((off < 1).mean())
    return height if share > config.least_share else None
