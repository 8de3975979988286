"""The result's arrays, from final cameras and depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.cameras import Cameras
from geo4d.errors import InputError
from geo4d.geometry.pixels import resize_intrinsics
from geo4d.geometry.resample import resize_nearest
from geo4d.scene import Reconstruction, WindowPredictions

UNITS = (1e-9, 1e9)  # metres that the unit of a scene can be


def assemble(
    predictions: WindowPredictions,
    log_depth: Float[Tensor, "t h w"],
    error: Float[Tensor, "t h w"],
    cameras: Cameras,
    diagnostics: dict[str, Any],
    covariance: Float[Tensor, "t 6 6"] | None = None,
) -> Reconstruction:
    """The result in the first camera's frame and the alignment's unit, at the resolution of the depth.

    `error` is the expected one of log depth; both are nan where unknown.
    """
    frames, height, width = log_depth.shape
    valid = log_depth.isfinite()
    images = predictions.images if predictions.images is not None else np.zeros((frames, height, width, 3), np.uint8)
    typical = error[valid].median() if valid.any() else torch.tensor(1.0)
    confidence = torch.where(valid, typical / error.clamp_min(1e-9), 0.0)
    return Reconstruction(
        depth=torch.where(valid, log_depth.exp(), torch.nan).numpy().astype(np.float32),
        confidence=confidence.numpy().astype(np.float32),
        valid=valid.numpy(),
        images=np.ascontiguousarray(resize_nearest(images[:frames], height, width)),
        intrinsics=cameras.intrinsics(height, width).numpy(),
        cam_to_world=cameras.cam_to_world.numpy(),
        timestamps=np.arange(frames) / 24.0
        if predictions.timestamps is None
        else np.asarray(predictions.timestamps, np.float64)[:frames],
        source_size=predictions.source_size or (height, width),
        diagnostics={
            "warnings": [],
            "typical_error": float(typical),
            "expected_error": float(error.nanmean()),
            **diagnostics,
        },
        pose_covariance=None if covariance is None else covariance.numpy(),
    )


def at_size(result: Reconstruction, height: int, width: int) -> Reconstruction:
    """The same with coarser maps, by the nearest pixels; itself if it is of that size."""
    size = result.depth.shape[1:]
    if size == (height, width):
        return result
    maps = {
        name: resize_nearest(np.asarray(getattr(result, name)), height, width)
        for name in ("depth", "confidence", "valid", "images")
    }
    intrinsics = resize_intrinsics(torch.from_numpy(np.asarray(result.intrinsics)), size, (height, width)).numpy()
    return replace(result, **maps, intrinsics=intrinsics)


def scaled(result: Reconstruction, metres: float) -> Reconstruction:
    """The same scene, its unit taken for so many metres. Raises InputError for a number that no scene has."""
    if not UNITS[0] < metres < UNITS[1]:  # nan fails too
        raise InputError(
            f"What is known of lengths makes a unit of this scene {metres:.3g} metres, which cannot be; check the "
            "lengths."
        )
    poses = np.array(result.cam_to_world)
    poses[:, :3, 3] *= metres
    covariance = result.pose_covariance
    if covariance is not None:
        factor = np.array([1.0, 1, 1, metres, metres, metres])
        covariance = covariance * factor[:, None] * factor
    return replace(
        result,
        depth=(result.depth * np.float32(metres)),
        cam_to_world=poses,
        pose_covariance=covariance,
        is_metric=True,
    )
