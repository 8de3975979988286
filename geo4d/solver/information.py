"""Covariances of what observations may leave undetermined."""

from __future__ import annotations

import numpy as np


def bounded_covariance(information: np.ndarray, least: float) -> np.ndarray:
    """Inverses (n, k, k) of information matrices, each of whose directions has the information `least` at least.

    So there is an inverse whatever the observations leave undetermined, however large the others' information is:
    `least` added to the diagonal would be lost to the rounding of that. An entry that is not finite tells nothing.
    """
    values, axes = np.linalg.eigh(np.nan_to_num(information, nan=0.0, posinf=0.0, neginf=0.0))
    return (axes / values.clip(least)[:, None, :]) @ axes.swapaxes(1, 2)
