"""Depth of a video against the truth, after one explicit alignment, over every pixel whose true depth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from geo4d.errors import InputError
from geo4d.metrics.alignment import FittedDepth
from geo4d.metrics.checks import require_choice, require_maps, require_predicted_depth, require_true_depth
from geo4d.metrics.protocol import DepthProtocol

# aligned depth is raised to this for ratios and logarithms (as in the released evaluation), and only there
MIN_DEPTH = 1e-5
HOLE_QUANTILE = 0.99
NUMBERS = ("abs_rel", "sq_rel", "rmse", "log_rmse", "delta1", "delta2", "delta3")
ROOTS = np.array([name in ("rmse", "log_rmse") for name in NUMBERS])


@dataclass(frozen=True)
class DepthErrors:
    """The seven usual numbers; lengths in units of the truth, deltas as shares from 0 to 1."""

    abs_rel: float  # mean |p - t| / t
    sq_rel: float  # mean (p - t)^2 / t
    rmse: float
    log_rmse: float  # of natural logarithms
    delta1: float  # share with max(p / t, t / p) < 1.25
    delta2: float  # < 1.25^2
    delta3: float  # < 1.25^3
    pixels: int  # how many were scored


@dataclass(frozen=True)
class DepthMetrics(DepthErrors):
    """Numbers of a video, of each of its frames (None: no true pixel there), and the alignment that was found."""

    frames: tuple[DepthErrors | None, ...]
    fit: FittedDepth


def depth_metrics(
    predicted: np.ndarray,
    true: np.ndarray,
    mask: np.ndarray,
    *,
    protocol: DepthProtocol | None = None,
    fit_mask: np.ndarray | None = None,
) -> DepthMetrics:
    """Scores one video, (t, h, w) z-depths; `mask` says where `true` is known, `fit_mask` which pixels the fit may use.

    Where the truth is known but the prediction is not finite (it says: sky, or too far), the 99th percentile of the
    video's prediction stands in for the errors, though not for the fit: a hole is an error, not an excuse. Raises
    InputError for shapes that differ, an empty mask, true depth that is not positive inside it, and predictions without
    depth or all zero.
    """
    protocol = protocol or DepthProtocol()
    require_maps("Predicted depth", predicted, true, mask)
    require_true_depth(true, mask)
    valid = mask if protocol.max_depth is None else mask & (true < protocol.max_depth)
    if not valid.any():
        raise InputError(f"Depth cannot be scored: no true depth is below {protocol.max_depth}; check its unit.")
    if fit_mask is not None and fit_mask.shape != mask.shape:
        raise InputError(f"The mask of the fit must have the shape of the truth {mask.shape}; got {fit_mask.shape}.")
    chosen = valid if fit_mask is None else valid & fit_mask
    if not chosen.any():
        raise InputError(
            "Depth cannot be aligned: the masks of the truth and of the fit have no pixel in common; widen the mask of "
            "the fit."
        )
    fit = protocol.alignment.fit(predicted, true, chosen)
    usable = protocol.alignment.usable(predicted)
    require_predicted_depth(predicted[valid & usable])
    stand_in = 0.0 if usable[valid].all() else float(np.quantile(predicted[usable].astype(np.float64), HOLE_QUANTILE))
    sums = np.zeros((len(true), len(NUMBERS)))
    for i in range(len(true)):
        here = valid[i]
        aligned = fit.apply_to(i, np.where(usable[i], predicted[i], stand_in)[here])
        if protocol.clip is not None:
            aligned = np.minimum(aligned, protocol.clip)
        sums[i] = _sums(aligned, true[i][here].astype(np.float64))
    return _gather(sums, valid.reshape(len(valid), -1).sum(1), protocol.weighting, fit)


def average_depth(videos: Sequence[DepthErrors], *, by: Literal["pixel", "video"]) -> DepthErrors:
    """Numbers of a data set: means of its videos' numbers.

    Weighted by their pixels (as in the released evaluation) or all alike. Raises InputError without videos.
    """
    require_choice("An average of depth errors by", by, ("pixel", "video"))
    if not videos:
        raise InputError("Depth errors cannot be averaged: there is no video; check the data set.")
    pixels = np.array([video.pixels for video in videos])
    weight = pixels if by == "pixel" else np.ones(len(videos))
    numbers = np.array([[getattr(video, name) for name in NUMBERS] for video in videos])
    return _errors(weight @ numbers / weight.sum(), int(pixels.sum()))


def _sums(p: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Sums over pixels (n,) of what the seven numbers are means of."""
    difference, positive = np.abs(p - t), np.maximum(p, MIN_DEPTH)
    log = np.abs(np.log(positive / t))
    ratio = np.maximum(positive / t, t / positive)
    squares = (difference**2 / t).sum(), (difference**2).sum(), (log**2).sum()
    return np.array([(difference / t).sum(), *squares, *((ratio < 1.25**k).sum() for k in (1, 2, 3))])


def _gather(sums: np.ndarray, counts: np.ndarray, weighting: str, fit: FittedDepth) -> DepthMetrics:
    means = sums / np.maximum(counts, 1)[:, None]
    per_frame = np.where(ROOTS, np.sqrt(means), means)
    frames = tuple(_errors(row, int(n)) if n else None for row, n in zip(per_frame, counts, strict=True))
    if weighting == "pixel":
        mean = sums.sum(0) / counts.sum()
        video = np.where(ROOTS, np.sqrt(mean), mean)
    else:
        video = per_frame[counts > 0].mean(0)
    return DepthMetrics(*map(float, video), pixels=int(counts.sum()), frames=frames, fit=fit)


def _errors(row: np.ndarray, pixels: int) -> DepthErrors:
    return DepthErrors(*map(float, row), pixels=pixels)
