"""Depth edges: perfect ones, blurred ones, shifted ones, and the sums of the definition."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from geo4d.errors import InputError
from geo4d.metrics import boundary_metrics


def scene(seed=0):
    """Boxes at random depths before a wall."""
    rng = np.random.default_rng(seed)
    depth = np.full((2, 40, 50), 9.0)
    for k in range(12):
        y, x = rng.integers(0, 30), rng.integers(0, 40)
        depth[k % 2, y : y + 10, x : x + 10] = rng.uniform(2, 8)
    return depth


def plain(predicted, true, mask, ratio):
    """Sums of the definition over every pixel and each of its four neighbours."""
    t, h, w = true.shape
    both = ours = theirs = 0
    for f in range(t):
        for y in range(h):
            for x in range(w):
                for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                    if 0 <= v < h and 0 <= u < w and mask[f, y, x] and mask[f, v, u]:
                        c = predicted[f, v, u] / predicted[f, y, x] > ratio
                        d = true[f, v, u] / true[f, y, x] > ratio
                        both, ours, theirs = both + (c and d), ours + c, theirs + d
    return both, ours, theirs


def test_perfect_edges_at_any_scale():
    true = scene()
    for scale in (1.0, 0.01, 30.0):
        result = boundary_metrics(scale * true, true, true > 0)
        assert (result.precision, result.recall, result.f1) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("ratio", [1.05, 1.2])
def test_equal_to_a_plain_reference(ratio):
    true = scene(1)
    rng = np.random.default_rng(2)
    predicted = true * np.exp(0.1 * rng.normal(size=true.shape))
    mask = rng.random(true.shape) < 0.9
    both, ours, theirs = plain(predicted, true, mask, ratio)
    result = boundary_metrics(predicted, true, mask, ratios=np.array([ratio]))
    assert result.precision == pytest.approx(both / ours) and result.recall == pytest.approx(both / theirs)
    assert result.f1 == pytest.approx(2 / (ours / both + theirs / both))


def test_thresholds_are_weighted_by_themselves():
    true, predicted = scene(3), scene(3) ** 0.5
    ratios = np.array([1.05, 1.5, 2.5])
    each = [boundary_metrics(predicted, true, true > 0, ratios=ratios[k : k + 1]) for k in range(3)]
    mean = boundary_metrics(predicted, true, true > 0, ratios=ratios)
    assert mean.recall == pytest.approx(sum(r * e.recall for r, e in zip(ratios, each, strict=True)) / ratios.sum())
    assert mean.recall < mean.precision == pytest.approx(2.55 / 5.05)  # nothing is predicted at 2.5


def test_blurred_flat_shifted_and_missing_edges():
    true = scene()
    blurred = boundary_metrics(gaussian_filter(true, (0, 2, 2)), true, true > 0)
    assert 0.1 < blurred.f1 < 0.8
    flat = boundary_metrics(np.ones_like(true), true, true > 0)
    assert (flat.precision, flat.recall, flat.f1) == (0, 0, 0)
    assert boundary_metrics(np.roll(true, 1, axis=2), true, true > 0).f1 < 0.7
    assert boundary_metrics(1 / true, true, true > 0).f1 == 0  # near and far swapped
    half = true.copy()
    half[1] = np.nan
    result = boundary_metrics(half, true, true > 0)
    assert result.precision == pytest.approx(1) and 0.2 < result.recall < 0.8


def test_boundaries_that_cannot_be_scored():
    true = scene()
    for predicted, target, mask, message in (
        (true, np.ones_like(true), true > 0, "no edge"),
        (true * np.nan, true, true > 0, "no predicted depth"),
        (0 * true, true, true > 0, "no predicted depth"),
        (true[0], true, true > 0, "resize"),
        (true, -true, true > 0, "positive"),
    ):
        with pytest.raises(InputError, match=message):
            boundary_metrics(predicted, target, mask)
    with pytest.raises(InputError, match=r"\(t, h, w\)"):
        boundary_metrics(true[0], true[0], true[0] > 0)
