"""Depth of a video against the truth: one explicit alignment for the whole video, then errors over all true pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geo4d.errors import InputError
from geo4d.geometry.fitting import fit_scale_l1, fit_scale_shift_l1

MIN_DEPTH = 1e-3  # aligned depth is raised to this


@dataclass(frozen=True)
class DepthMetrics:
    """Means over all pixels with true depth; `scale` and `shift` are what the alignment found."""

    abs_rel: float
    sq_rel: float
    rmse: float
    log_rmse: float
    delta1: float
    delta2: float
    delta3: float
    scale: float
    shift: float


def align_depth(predicted: np.ndarray, true: np.ndarray, mask: np.ndarray, alignment: str) -> tuple[np.ndarray, float, float]:
    """Scale and shift one video's depth (any shape) onto the truth where `mask`; returns depth, scale, shift.

    Where the truth is known but the prediction is not finite (it says: sky, or too far), the video's 99th percentile stands
    in: a hole is an error, not an excuse. Raises InputError without true pixels, without any prediction, or for an unknown alignment.
    """
    if not mask.any():
        raise InputError("Depth cannot be scored: the mask of true depth is empty; check the ground truth.")
    finite = np.isfinite(predicted)
    if not finite.any():
        raise InputError("Depth cannot be scored: no predicted depth is finite; check the reconstruction.")
    filled = np.where(finite, predicted, np.quantile(predicted[finite], 0.99)).astype(np.float64)
    x, y = filled[mask], true[mask].astype(np.float64)
    if alignment == "none":
        scale, shift = 1.0, 0.0
    elif alignment == "median_scale":
        scale, shift = float(np.median(y) / np.median(x)), 0.0
    elif alignment == "scale_l1":
        scale, shift = fit_scale_l1(x, y), 0.0
    elif alignment == "scale_shift_l1":
        scale, shift = fit_scale_shift_l1(x, y)
    else:
        raise InputError(f"Depth alignment must be none, median_scale, scale_l1 or scale_shift_l1; got {alignment!r}.")
    return np.maximum(scale * filled + shift, MIN_DEPTH), scale, shift


def depth_metrics(predicted: np.ndarray, true: np.ndarray, mask: np.ndarray, *, alignment: str = "scale_shift_l1") -> DepthMetrics:
    """Scores one video, (t, h, w) z-depths; `mask` says where `true` is known."""
    aligned, scale, shift = align_depth(predicted, true, mask, alignment)
    p, t = aligned[mask], true[mask].astype(np.float64)
    ratio = np.maximum(p / t, t / p)
    return DepthMetrics(
        abs_rel=float(np.mean(np.abs(p - t) / t)),
        sq_rel=float(np.mean((p - t) ** 2 / t)),
        rmse=float(np.sqrt(np.mean((p - t) ** 2))),
        log_rmse=float(np.sqrt(np.mean(np.log(p / t) ** 2))),
        delta1=float(np.mean(ratio < 1.25)),
        delta2=float(np.mean(ratio < 1.25**2)),
        delta3=float(np.mean(ratio < 1.25**3)),
        scale=scale,
        shift=shift,
    )
