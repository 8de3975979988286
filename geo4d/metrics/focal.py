"""Focal length against the truth."""

from __future__ import annotations

import numpy as np

from geo4d.errors import InputError


def focal_error(predicted: np.ndarray, true: np.ndarray, *, relative: bool = False) -> float:
    """Mean over the frames of |log f / f*|, or with `relative` of |f - f*| / f*.

    Intrinsics (t, 3, 3) are at one resolution. The focal length of a frame is the geometric mean of fx and fy. Raises
    InputError for other shapes or lengths, and for focal lengths that are not positive.
    """
    if predicted.shape != true.shape or true.ndim != 3 or true.shape[1:] != (3, 3) or len(true) == 0:
        raise InputError(
            f"Intrinsics must both be (t, 3, 3) of the same frames; got {predicted.shape} and {true.shape}."
        )
    f, g = _log_focal("Predicted", predicted), _log_focal("True", true)
    return float(np.abs(np.expm1(f - g) if relative else f - g).mean())


def _log_focal(what: str, intrinsics: np.ndarray) -> np.ndarray:
    diagonal = intrinsics[:, [0, 1], [0, 1]].astype(np.float64)
    if not (np.isfinite(diagonal) & (diagonal > 0)).all():
        raise InputError(
            f"{what} focal lengths must be positive and finite; got {diagonal.min():g}; check the intrinsics."
        )
    return np.log(diagonal).mean(1)
