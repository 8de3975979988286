"""Robust one- and two-parameter fits, exact: weighted medians and least absolute deviations."""

from __future__ import annotations

import numpy as np

from geo4d.errors import InputError

MAX_CUTS = 200  # intersections of tangents: a cap on time, the function touches one long before


def weighted_median(values: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The lower weighted median of (n,) values: a minimiser of sum w |x - value|."""
    if weight is None:
        return float(np.partition(values, (len(values) - 1) // 2)[(len(values) - 1) // 2])
    order = np.argsort(values)
    cumulative = np.cumsum(weight[order])
    return float(values[order[np.searchsorted(cumulative, 0.5 * cumulative[-1])]])


def fit_scale_l1(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The scale s that minimises sum w |s x - y|: the weighted median of y / x with weights w |x|.

    Raises InputError if every x is 0.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    weight = np.ones_like(x) if weight is None else np.asarray(weight, np.float64)
    use = (x != 0) & (weight > 0)
    if not use.any():
        raise InputError("A scale cannot be fitted: every value is zero or has no weight; check the masks.")
    return weighted_median(y[use] / x[use], (weight * np.abs(x))[use])


def fit_scale_shift_l1(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, float]:
    """Scale s and shift t that minimise sum w |s x + t - y|, exactly (to rounding).

    For a given s the best t is a weighted median, and what is left is convex and piecewise linear in s: tangents at
    both ends of a bracket are intersected until the function touches their intersection. A constant x gives s = 0.
    Raises InputError without data.
    """
    x, y = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    w = None if weight is None else np.asarray(weight, np.float64).ravel()
    if w is not None:
        x, y, w = x[w > 0], y[w > 0], w[w > 0]
    if len(x) == 0:
        raise InputError("Scale and shift cannot be fitted: there is no valid pixel; check the masks.")
    centre = float(x.mean())
    spread = float(np.abs(x - centre).mean())
    if spread < 1e-12 * max(1.0, abs(centre)):
        return 0.0, weighted_median(y, w)
    u = (x - centre) / spread  # conditioned; undone at the end
    slope = _minimise_tangents(u, y, w)
    shift = weighted_median(y - slope * u, w)
    return slope / spread, shift - slope * centre / spread


def _minimise_tangents(u: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> float:
    """The slope at which min_t sum w |slope u + t - y| is least."""

    def evaluate(slope: float) -> tuple[float, float]:
        """Value and a subgradient in the slope."""
        residual = slope * u - y
        residual = residual + weighted_median(-residual, w)
        sign = np.sign(residual)
        # the residuals at zero may take any sign in [-1, 1]: choose theirs so that the signs sum to 0 (t is optimal)
        zero = residual == 0
        ones = np.ones_like(u) if w is None else w
        free = (ones * zero).sum()
        if free > 0:
            sign = sign + zero * np.clip(-(ones * sign).sum() / free, -1, 1)
        return float((ones * np.abs(residual)).sum()), float((ones * sign * u).sum())

    left, right = _bracket(u, y, evaluate)
    (a, fa, ga), (b, fb, gb) = left, right
    best = min((fa, a), (fb, b))
    for _ in range(MAX_CUTS):
        if ga >= 0 or gb <= 0 or gb - ga <= 0:
            break
        s = (fa - fb + gb * b - ga * a) / (gb - ga)
        bound = fa + ga * (s - a)
        s = min(max(s, a), b)
        f, g = evaluate(s)
        best = min(best, (f, s))
        if f <= bound + 1e-12 * abs(f) or s in (a, b):
            break
        if g < 0:
            a, fa, ga = s, f, g
        else:
            b, fb, gb = s, f, g
    return best[1]


def _bracket(
    u: np.ndarray, y: np.ndarray, evaluate: object
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Two slopes with the minimum between them, from the least-squares one outwards."""
    start = float((u * (y - y.mean())).sum() / max((u * u).sum(), 1e-300))
    step = float(np.abs(y - y.mean() - start * u).mean()) + 1e-9 * (abs(start) + 1)
    f, g = evaluate(start)  # type: ignore[operator]
    left = right = (start, f, g)
    for _ in range(200):
        if left[2] <= 0:
            break
        right = left
        left = (left[0] - step, *evaluate(left[0] - step))  # type: ignore[operator]
        step *= 2
    for _ in range(200):
        if right[2] >= 0:
            break
        left = right
        right = (right[0] + step, *evaluate(right[0] + step))  # type: ignore[operator]
        step *= 2
    return left, right
