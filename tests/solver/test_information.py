"""Covariances of what observations may leave undetermined."""

import numpy as np
import pytest

from geo4d.solver.information import bounded_covariance


def test_a_determined_system_has_its_inverse() -> None:
    half = np.random.default_rng(0).normal(size=(5, 4, 4))
    information = half @ half.swapaxes(1, 2) + np.eye(4)
    np.testing.assert_allclose(bounded_covariance(information, 1e-6), np.linalg.inv(information), rtol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e12, 1e200])
def test_an_undetermined_direction_is_as_uncertain_as_is_allowed(scale: float) -> None:
    information = scale * np.diag([1.0, 1.0, 0.0])[None]  # with 1e-6 on the diagonal it is singular to rounding
    covariance = bounded_covariance(information, 1e-6)[0]
    assert covariance[2, 2] == pytest.approx(1e6)
    assert covariance[0, 0] == pytest.approx(1 / max(scale, 1e-6))


def test_what_is_not_finite_tells_nothing() -> None:
    information = np.full((2, 3, 3), np.nan)
    information[1] = np.inf
    np.testing.assert_allclose(bounded_covariance(information, 1.0), np.broadcast_to(np.eye(3), (2, 3, 3)))
