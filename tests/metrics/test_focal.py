"""Focal length: known errors, and what cannot be compared."""

import numpy as np
import pytest

from geo4d.errors import InputError
from geo4d.metrics import focal_error

K = np.tile(np.diag([10.0, 12.0, 1]), (3, 1, 1))


def test_known_errors():
    assert focal_error(K, K) == 0
    assert focal_error(K * [2, 2, 1], K) == pytest.approx(np.log(2))
    assert focal_error(K * [0.9, 0.9, 1], K, relative=True) == pytest.approx(0.1)
    assert focal_error(K * [4, 1, 1], K, relative=True) == pytest.approx(1)  # the geometric mean of fx and fy
    each = K * np.array([1.0, 1.1, 1.2])[:, None, None]
    assert focal_error(each, K, relative=True) == pytest.approx(0.1)


def test_focal_lengths_that_cannot_be_compared():
    for predicted, message in ((K[:2], r"\(t, 3, 3\)"), (0 * K, "Predicted.*positive"), (K * np.nan, "positive")):
        with pytest.raises(InputError, match=message):
            focal_error(predicted, K)
    with pytest.raises(InputError, match="True"):
        focal_error(K, -K)
