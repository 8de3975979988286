"""Depth edges against the truth: are they where they should be, and are they sharp?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geo4d.errors import InputError
from geo4d.metrics.checks import require_maps, require_predicted_depth, require_true_depth

RATIOS = np.linspace(1.05, 1.25, 10)


@dataclass(frozen=True)
class BoundaryMetrics:
    """Means over the thresholds, weighted by the threshold; shares from 0 to 1."""

    precision: float
    recall: float
    f1: float


def boundary_metrics(
    predicted: np.ndarray, true: np.ndarray, mask: np.ndarray, *, ratios: np.ndarray = RATIOS
) -> BoundaryMetrics:
    """Occluding edges of (t, h, w) depth, as Depth Pro defines them (Bochkovskii et al. 2024, section 3.2).

    Between neighbours i and j (left, right, above or below) there is an edge with j behind if depth_j / depth_i > r.
    With c and c* for the predicted and true edges, precision = sum c c* / sum c and recall = sum c c* / sum c*, over
    all pairs whose truth is known at both ends; F1 is their harmonic mean, for ten ratios r from 1.05 to 1.25, and the
    means are weighted by r. It needs no alignment of scale. The sums run over the whole video and the four directions
    together (the authors' script takes them per image and direction, which counts a direction without edges as a
    failure); a ratio at which neither side has an edge has no say. A pixel without positive finite prediction has no
    edges.

    Raises InputError for shapes that differ, for predictions without depth, and where the truth has no edge at all.
    """
    require_maps("Predicted depth", predicted, true, mask)
    require_true_depth(true, mask)
    if predicted.ndim != 3:
        raise InputError(f"Depth must be (t, h, w) to have edges; got {predicted.shape}.")
    usable = np.isfinite(predicted) & (predicted > 0)
    require_predicted_depth(predicted[mask & usable])
    log_p, log_t = (
        np.log(np.where(ok, depth, 1.0).astype(np.float64)) for depth, ok in ((predicted, usable), (true, mask))
    )
    both = predicted_edges = true_edges = np.zeros(len(ratios))
    for axis in (1, 2):
        near, far = _ends(axis)
        valid, judged = mask[near] & mask[far], usable[near] & usable[far]
        step_p, step_t = (log_p[far] - log_p[near])[valid], (log_t[far] - log_t[near])[valid]
        step_p = np.where(judged[valid], step_p, 0.0)
        counts = np.array([_count(step_p, step_t, float(np.log(ratio))) for ratio in ratios])
        both, predicted_edges, true_edges = (
            both + counts[:, 0],
            predicted_edges + counts[:, 1],
            true_edges + counts[:, 2],
        )
    if not true_edges.any():
        raise InputError(
            f"Boundaries cannot be scored: true depth has no edge of ratio {ratios.min():g} or more; leave this video "
            "out."
        )
    weight = np.where(predicted_edges + true_edges > 0, ratios, 0.0)
    weight = weight / weight.sum()
    return BoundaryMetrics(
        precision=float(weight @ (both / np.maximum(predicted_edges, 1))),
        recall=float(weight @ (both / np.maximum(true_edges, 1))),
        f1=float(weight @ (2 * both / np.maximum(predicted_edges + true_edges, 1))),
    )


def _ends(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Indices of the first and the second pixel of all neighbours along an axis of (t, h, w)."""
    whole = [slice(None)] * 3
    first, second = whole.copy(), whole.copy()
    first[axis], second[axis] = slice(None, -1), slice(1, None)
    return tuple(first), tuple(second)


def _count(step_p: np.ndarray, step_t: np.ndarray, least: float) -> list[int]:
    """Edges in both, in the prediction, in the truth, of log steps (n,), counting either direction."""
    up_p, down_p, up_t, down_t = step_p > least, step_p < -least, step_t > least, step_t < -least
    pairs = ((up_p & up_t, down_p & down_t), (up_p, down_p), (up_t, down_t))
    return [int(np.count_nonzero(up) + np.count_nonzero(down)) for up, down in pairs]
