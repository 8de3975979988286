"""Point maps against the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from geo4d.errors import InputError
from geo4d.geometry.similarity import fit_similarity
from geo4d.metrics.checks import require_choice, require_maps

INLIER = 0.25  # relative error of a point that counts as found


@dataclass(frozen=True)
class PointMetrics:
    """Means over all points whose truth is known."""

    rel: float  # mean |p - t| / |t - c|, with c the camera that sees the point
    delta: float  # share with a relative error below 0.25
    distance: float  # mean |p - t| in units of the truth
    points: int
    free_scale_is_negative: np.ndarray  # (t,) bool: a free fit of scale would turn the frame's points round


@dataclass(frozen=True)
class PointAlignment:
    """Which map takes predicted onto true points, by least squares.

    Every residual may be taken relative to its distance. `scale` is about the origin of the frame, and not negative:
    points that a free fit would turn round get scale 0, and the metrics say so; `sim3` is a full similarity (Umeyama
    1991), whose scale never is. `relative` weighs a squared residual by 1 / |t - c|^2, which is what `rel` measures;
    `uniform` lets far points decide.
    """

    kind: Literal["none", "scale", "sim3"] = "scale"
    weight: Literal["uniform", "relative"] = "relative"
    per: Literal["video", "frame"] = "video"

    def __post_init__(self) -> None:
        require_choice("The kind of point alignment", self.kind, ("none", "scale", "sim3"))
        require_choice("The weight of point alignment", self.weight, ("uniform", "relative"))
        require_choice("Point alignment per", self.per, ("video", "frame"))

    def fit_apply(self, points: np.ndarray, true: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, bool]:
        """Aligned (n, 3) points of one group, and whether a free scale would be negative.

        `distance` is that of the truth from its camera.
        """
        if self.kind == "none":
            return points, False
        weight = np.ones(len(points)) if self.weight == "uniform" else 1 / distance**2
        if self.kind == "scale":
            square = weight @ (points**2).sum(1)
            if square == 0:
                raise InputError(
                    "Points cannot be scaled: every predicted point is at the origin; check the reconstruction."
                )
            scale = float(weight @ (points * true).sum(1)) / square
            return max(scale, 0.0) * points, bool(scale < 0)
        if len(points) < 3:
            raise InputError(f"A similarity needs at least 3 points; got {len(points)}; align by scale or per video.")
        source = torch.from_numpy(points)
        return fit_similarity(source, torch.from_numpy(true), torch.from_numpy(weight)).apply(source).numpy(), False


def point_metrics(
    predicted: np.ndarray,
    true: np.ndarray,
    mask: np.ndarray,
    *,
    alignment: PointAlignment | None = None,
    centres: np.ndarray | None = None,
) -> PointMetrics:
    """Scores (t, h, w, 3) points of one video, all in one frame or each in its camera's.

    `mask` says where `true` is known. `centres` (t, 3) are the true camera centres in the frame of `true`, the origin
    if not given (points in camera frames). A missing prediction (not finite) takes no part in the fit and counts as a
    point at the camera: relative error 1. Raises InputError for shapes that differ, an empty mask, a true point at its
    camera, or no finite prediction.
    """
    alignment = alignment or PointAlignment()
    require_maps("Predicted points", predicted, true, mask, channels=3)
    if centres is not None and (centres.shape != (len(true), 3) or not np.isfinite(centres).all()):
        raise InputError(f"Camera centres must be finite and of shape {(len(true), 3)}; got {centres.shape}.")
    frame = np.nonzero(mask)[0]
    p, t = predicted[mask].astype(np.float64), true[mask].astype(np.float64)
    c = np.zeros_like(t) if centres is None else centres.astype(np.float64)[frame]
    distance = np.linalg.norm(t - c, axis=1)
    if distance.min() == 0:
        raise InputError(
            "Relative point errors need true points away from their camera; take points at the camera out of the mask."
        )
    found = np.isfinite(p).all(1)
    if not found.any():
        raise InputError(
            "Points cannot be scored: no predicted point is finite where the truth is known; check the reconstruction."
        )
    aligned = c.copy()
    flipped = np.zeros(len(true), bool)
    groups = [found] if alignment.per == "video" else [found & (frame == i) for i in np.unique(frame[found])]
    for group in groups:
        aligned[group], flips = alignment.fit_apply(p[group], t[group], distance[group])
        flipped[slice(None) if alignment.per == "video" else frame[group]] = flips
    error = np.linalg.norm(aligned - t, axis=1)
    relative = error / distance
    return PointMetrics(float(relative.mean()), float((relative < INLIER).mean()), float(error.mean()), len(t), flipped)
