"""Points eliminated by groups, within a band and beside a border, against the product written out."""

import numpy as np
import pytest

from geo4d.solver import schur
from geo4d.solver.banded import BorderedSystem
from geo4d.solver.schur import PointElimination


def rows(seed: int, *, cameras: int = 9, points: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Who sees whom.

    Tracks of three frames, some with a gap, some pairs twice, one point that nobody sees, one seen by all.
    """
    rng = np.random.default_rng(seed)
    pairs = [
        (p, (first + k) % cameras)
        for p in range(2, points)
        for first in [rng.integers(cameras)]
        for k in (0, 1, rng.integers(2, 5))
    ]
    pairs += [(0, camera) for camera in range(cameras)] + pairs[:5]
    return tuple(rng.permutation(np.array(pairs)).T)


def eliminated(found: PointElimination, unknowns: np.ndarray, border: int, whole: np.ndarray, pull: np.ndarray):
    """The system that loses the points, written out; `whole` (t, c, n, 3) are the couplings."""
    size = int(unknowns.max()) + 1 - border
    system = BorderedSystem(size, found.bandwidth(unknowns), border)
    found.eliminate(system, unknowns, lambda some: whole[found.camera[some], :, found.point[some]], pull)
    matrix = np.zeros((size + border, size + border))
    for column in range(size):
        rows = slice(column, min(column + system.bandwidth + 1, size))
        matrix[rows, column] = matrix[column, rows] = system.band[column, : rows.stop - column]
    matrix[:size, size:], matrix[size:, :size] = system.beside, system.beside.T
    matrix[size:, size:] = system.corner
    return matrix, system.right


@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize("group", [1, 7, 192])
@pytest.mark.parametrize("short", [0, 100])
def test_the_reduced_system_is_the_product_written_out(
    border: int, group: int, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schur, "SHORT", short)
    monkeypatch.setattr(schur, "GROUP", group)
    point, camera = rows(3)
    found = PointElimination(point, camera, 40, 9)
    np.testing.assert_array_equal(found.point[found.entry], point)
    np.testing.assert_array_equal(found.camera[found.entry], camera)
    rng = np.random.default_rng(0)
    is_free = np.ones((9, 4), bool)
    is_free[0] = is_free[4, 1] = False
    if border:
        is_free[:, -1] = False
    unknowns = found.unknowns(is_free)
    if border:
        unknowns[:, -1] = is_free.sum()  # one for all cameras
    whole, pull = np.zeros((9, 4, 40, 3)), rng.normal(size=(40, 3))
    for p, c in zip(found.point, found.camera, strict=True):
        whole[c, :, p] = rng.normal(size=(4, 3))
    matrix, right = eliminated(found, unknowns, border, whole, pull)
    selection = np.zeros((36, len(right)))
    free = unknowns.ravel() >= 0
    selection[np.flatnonzero(free), unknowns.ravel()[free]] = 1.0
    laid = selection.T @ whole.reshape(36, 120)
    np.testing.assert_allclose(matrix, -laid @ laid.T, atol=1e-12)
    np.testing.assert_allclose(right, -laid @ pull.ravel(), atol=1e-12)


def test_a_camera_that_comes_back_does_not_widen_the_band_to_the_whole_video() -> None:
    """There and back again along the same points: frames meet those that see the same from the way back."""
    frames, length = 200, 6
    place = np.minimum(np.arange(frames), frames - 1 - np.arange(frames))
    point, camera = np.nonzero(np.abs(np.arange(frames // 2)[:, None] - place) < length)
    found = PointElimination(point, camera, frames // 2, frames)
    assert found.width < 6 * length
    assert PointElimination(*np.nonzero(np.tri(40, 40)), 40, 40).width == 39  # all meet


def test_work_grows_with_the_length_of_tracks_and_not_of_the_video() -> None:
    """Points of a long video are taken with the few cameras that see them, those with a gap apart."""
    frames, per_frame, length = 400, 6, 12
    first = np.repeat(np.arange(frames - length), per_frame)
    point = np.repeat(np.arange(len(first)), length)
    camera = (first[:, None] + np.arange(length)).ravel()
    camera[:length:2] += 300  # one track with gaps
    groups = PointElimination(point, camera, len(first), frames)._groups
    widths = sorted(len(group.camera) for group in groups)
    assert widths[-2] <= schur.GROUP / per_frame + 2 * length and len(groups) == -(-len(first) // schur.GROUP)
