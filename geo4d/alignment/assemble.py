"""From solved cameras and depth to the result: arrays in the first camera's frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.confidence import DEFAULT_SIGMA, relative_error
from geo4d.alignment.observations import Lens
from geo4d.errors import InputError
from geo4d.geometry.rigid import relative_to_first
from geo4d.geometry.rotation import fit_rotation
from geo4d.geometry.similarity import Similarity
from geo4d.scene import Reconstruction, WindowPredictions

UNITS = (1e-9, 1e9)  # metres that the unit of a scene can be


@dataclass(frozen=True)
class Dense:
    """Log depth, nan where unknown, and its expected error."""

    log_depth: Float[Tensor, "t h w"]
    error: Float[Tensor, "t h w"]

    @classmethod
    def of(cls, log_depth: Tensor, precision: Tensor, spread: Tensor, *, own_sigma: float = DEFAULT_SIGMA) -> Dense:
        """From what the fusion gives."""
        return cls(log_depth, relative_error(log_depth, precision, spread, own_sigma))

    @property
    def mean_error(self) -> float:
        """Expected error of the whole, which is what tells a good result from a bad one without the truth."""
        return float(self.error.nanmean())


def assemble(
    predictions: WindowPredictions,
    dense: Dense,
    poses: Float[Tensor, "t 4 4"],
    lens: Lens,
    focal: Float[Tensor, "t"],
    diagnostics: dict[str, Any],
    covariance: Float[Tensor, "t 6 6"] | None = None,
) -> Reconstruction:
    """The result as arrays, in the first camera's frame."""
    frames, height, width = dense.log_depth.shape
    valid = dense.log_depth.isfinite()
    images = predictions.images if predictions.images is not None else np.zeros((frames, height, width, 3), np.uint8)
    if images.shape[1:3] != (height, width):
        rows = ((np.arange(height) + 0.5) * images.shape[1] / height).astype(int)
        images = images[:, rows][:, :, ((np.arange(width) + 0.5) * images.shape[2] / width).astype(int)]
    poses = poses.double()
    if covariance is not None:
        turn = torch.block_diag(poses[0, :3, :3], poses[0, :3, :3])
        covariance = turn.T @ covariance @ turn
    typical = dense.error[valid].median() if valid.any() else torch.tensor(1.0)
    confidence = torch.where(valid, typical / dense.error.clamp_min(1e-9), 0.0)
    return Reconstruction(
        depth=torch.where(valid, dense.log_depth.exp(), torch.nan).numpy().astype(np.float32),
        confidence=confidence.numpy().astype(np.float32),
        valid=valid.numpy(),
        images=np.ascontiguousarray(images[:frames]),
        intrinsics=lens.intrinsics(focal, height, width).numpy(),
        cam_to_world=relative_to_first(poses).numpy(),
        timestamps=np.arange(frames) / 24.0 if predictions.timestamps is None else np.asarray(predictions.timestamps, np.float64)[:frames],
        source_size=predictions.source_size or (height, width),
        diagnostics={"warnings": [], "typical_error": float(typical), "expected_error": dense.mean_error, **diagnostics},
        pose_covariance=None if covariance is None else covariance.numpy(),
    )


def scaled(result: Reconstruction, metres: float) -> Reconstruction:
    """The same scene, its unit taken for so many metres. Raises InputError for a number that no scene has."""
    if not UNITS[0] < metres < UNITS[1]:  # nan fails too
        raise InputError(f"What is known of lengths makes a unit of this scene {metres:.3g} metres, which cannot be; check the lengths.")
    poses = np.array(result.cam_to_world)
    poses[:, :3, 3] *= metres
    covariance = result.pose_covariance
    if covariance is not None:
        factor = np.array([1.0, 1, 1, metres, metres, metres])
        covariance = covariance * factor[:, None] * factor
    return replace(result, depth=(result.depth * np.float32(metres)), cam_to_world=poses, pose_covariance=covariance, is_metric=True)


def ray_similarities(windows: Tensor, poses: Float[Tensor, "t 4 4"], rays: Float[Tensor, "g v 4 4"]) -> Similarity:
    """Start of each window's ray similarity: rotation by Procrustes on the cameras' axes, then scale and shift of centres."""
    target = poses[windows]  # (g, v, 4, 4)
    axes = rays[..., :3, :3].transpose(-1, -2).flatten(1, 2), target[..., :3, :3].transpose(-1, -2).flatten(1, 2)
    rotation = fit_rotation(*axes)
    turned = (rotation[:, None] @ rays[..., :3, 3:])[..., 0]
    centres = target[..., :3, 3]
    a, b = turned - turned.mean(1, keepdim=True), centres - centres.mean(1, keepdim=True)
    # both are noisy: the ratio of their spreads is not biased towards either
    scale = (b.square().sum((1, 2)) / a.square().sum((1, 2)).clamp_min(1e-12)).sqrt().clamp(1e-6, 1e6)
    return Similarity(scale, rotation, centres.mean(1) - scale[:, None] * turned.mean(1))
