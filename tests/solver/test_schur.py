"""Points eliminated by groups, dense and sparse, against the product written out."""

import numpy as np
import pytest

from geo4d.solver import schur
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


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("group", [1, 7, 192])
def test_the_reduced_system_is_the_product_written_out(
    dense: bool, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schur, "DENSE_UNKNOWNS", 10_000 if dense else 0)
    monkeypatch.setattr(schur, "GROUP", group)
    point, camera = rows(3)
    found = PointElimination(point, camera, 40, 9)
    np.testing.assert_array_equal(found.point[found.entry], point)
    np.testing.assert_array_equal(found.camera[found.entry], camera)
    rng = np.random.default_rng(0)
    coupling, by_inverse = rng.normal(size=(2, len(found.point), 4, 3))
    whole = np.zeros((2, 9, 4, 40, 3))
    for values, blocks in zip(whole, (coupling, by_inverse), strict=True):
        for entry, (p, c) in enumerate(zip(found.point, found.camera, strict=True)):
            values[c, :, p] = blocks[entry]
    first, second = whole.reshape(2, 36, 120)
    reduced = found.reduced(coupling, by_inverse)
    assert isinstance(reduced, np.ndarray) == dense
    np.testing.assert_allclose(reduced if dense else reduced.toarray(), second @ first.T, atol=1e-12)


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
