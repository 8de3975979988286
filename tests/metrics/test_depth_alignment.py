"""Fits of depth: exact, invariant, and refused where they mean nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from geo4d.errors import ConfigError, InputError
from geo4d.metrics import DepthAlignment, Descent
from geo4d.metrics.checks import require_choice

SEEDS = st.integers(0, 10_000)
EVERY = [DepthAlignment(kind, loss) for kind in ("median", "scale", "scale_shift") for loss in ("l1", "l2")]


def video(seed=0, shape=(3, 6, 7)):
    rng = np.random.default_rng(seed)
    return rng.uniform(1, 9, shape), rng.random(shape) < 0.8


def least(x, y, *, shift=(None, None)):
    """The least sum of |s x + t - y| with s from 0 up and bounds on t, by linear programming."""
    n = len(x)
    equations = np.c_[x, np.ones(n), -np.eye(n), np.eye(n)]
    bounds = [(0, None), shift] + [(0, None)] * (2 * n)
    return linprog(np.r_[0, 0, np.ones(2 * n)], A_eq=equations, b_eq=y, bounds=bounds).fun


def data(seed, num, *, rounded):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 5, num)
    y = np.abs(2 * x + 0.3 + rng.standard_cauchy(num) * 0.5) + 0.1
    if rounded:
        x, y = np.ceil(4 * x) / 4, np.ceil(4 * y) / 4
    return x[None], y[None], np.ones((1, num), bool)


def residual(fit, x, y):
    return np.abs(fit.scale[0] * x + fit.shift[0] - y).sum()


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 40), st.booleans())
def test_least_absolute_deviations_are_those_of_a_linear_programme(seed, num, rounded):
    x, y, valid = data(seed, num, rounded=rounded)
    best = least(x[0], y[0])
    assert residual(DepthAlignment().fit(x, y, valid), x, y) == pytest.approx(best, rel=1e-9, abs=1e-9)
    scaled = DepthAlignment("scale").fit(x, y, valid)
    assert residual(scaled, x, y) == pytest.approx(least(x[0], y[0], shift=(0, 0)), rel=1e-9, abs=1e-9)


def test_scale_and_shift_themselves_are_those_of_the_linear_programme():
    for seed in range(10):
        x, y, valid = data(seed, 61, rounded=False)
        n = 61
        equations = np.c_[x[0], np.ones(n), -np.eye(n), np.eye(n)]
        solution = linprog(
            np.r_[0, 0, np.ones(2 * n)], A_eq=equations, b_eq=y[0], bounds=[(None, None)] * 2 + [(0, None)] * 2 * n
        ).x
        fit = DepthAlignment().fit(x, y, valid)
        assert fit.scale[0] == pytest.approx(solution[0], abs=1e-6) and fit.shift[0] == pytest.approx(
            solution[1], abs=1e-6
        )


def test_a_large_fit_satisfies_the_condition_of_a_minimum():
    rng = np.random.default_rng(1)
    true = rng.uniform(1, 70, (1, 200_000))
    x = 0.03 * true * (1 + 0.1 * rng.normal(size=true.shape)) + 0.1
    fit = DepthAlignment().fit(x, true, true > 0)
    left = (fit.scale[0] * x + fit.shift[0] - true)[0]
    two = np.argsort(np.abs(left))[:2]  # the best line passes through two points, whose signs are free in [-1, 1]
    assert np.abs(left[two]).max() < 1e-9
    sign = np.sign(left)
    sign[two] = 0
    free = np.linalg.solve([[1, 1], x[0, two]], [-sign.sum(), -(sign * x[0]).sum()])
    assert np.abs(free).max() <= 1 + 1e-6


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_least_squares(seed):
    depth, valid = video(seed)
    true = np.abs(2 * depth + np.random.default_rng(seed + 1).normal(size=depth.shape)) + 0.1
    x, y = depth[valid], true[valid]
    (scale, shift), *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)
    fit = DepthAlignment(loss="l2").fit(depth, true, valid)
    assert np.allclose(fit.scale, scale, atol=1e-9) and np.allclose(fit.shift, shift, atol=1e-9)
    assert np.allclose(
        DepthAlignment("scale", "l2").fit(depth, true, valid).scale,
        np.linalg.lstsq(x[:, None], y, rcond=None)[0],
        atol=1e-9,
    )


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(0.01, 100), st.floats(-3, 3))
def test_what_is_fitted_does_not_matter(seed, scale, shift):
    depth, valid = video(seed)
    rng = np.random.default_rng(seed)
    true = depth * rng.uniform(0.8, 1.2, depth.shape)
    for alignment in EVERY:
        affine = alignment.kind == "scale_shift"
        for per in ("video", "frame"):
            fit = DepthAlignment(alignment.kind, alignment.loss, per)
            other = scale * depth + (shift if affine else 0)
            one, two = (fit.fit(d, true, valid).apply(d) for d in (depth, other))
            np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)
        disparity = scale / depth + (abs(shift) if affine else 0)
        fit = DepthAlignment(alignment.kind, alignment.loss, space="disparity")
        one, two = (fit.fit(d, true, valid).apply(d) for d in (depth, 1 / disparity))
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alignment", [*EVERY, DepthAlignment("none")], ids=str)
@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_a_known_map_is_found(alignment, space):
    true, valid = video()
    scale, shift = (2.0 if alignment.kind != "none" else 1.0), (0.25 if alignment.kind == "scale_shift" else 0.0)
    for per in ("video", "frame"):
        factor = (
            np.array([1, 2, 3])[:, None, None] if per == "frame" and alignment.kind != "none" else np.ones((3, 1, 1))
        )
        source = true if space == "depth" else 1 / true
        predicted = (source - shift) / (scale * factor) + (10 if alignment.kind == "scale_shift" else 0)
        predicted = predicted if space == "depth" else 1 / predicted
        fit = DepthAlignment(alignment.kind, alignment.loss, per, space).fit(predicted, true, valid)
        np.testing.assert_allclose(fit.apply(predicted)[valid], true[valid], rtol=1e-9)
        np.testing.assert_allclose(fit.apply_to(1, predicted[1]), fit.apply(predicted)[1])
        np.testing.assert_allclose(fit.scale, scale * factor[:, 0, 0], rtol=1e-9)


def test_holes_take_no_part_and_an_empty_frame_has_the_fit_of_the_video():
    true, valid = video()
    predicted = true / 2
    predicted[0, :3], predicted[1] = np.nan, np.inf
    fit = DepthAlignment("scale", per="frame").fit(predicted, true, valid)
    np.testing.assert_allclose(fit.scale, 2)
    assert np.isnan(fit.apply(predicted)[0, 0]).all()


def test_disparity_that_crosses_zero_is_put_at_the_farthest_truth():
    true, valid = video()
    fit = DepthAlignment(space="disparity").fit(1 / (1 / true + 1), true, valid)
    far = fit.apply(np.full((3, 1, 1), 1e6))
    np.testing.assert_allclose(far, true[valid].max())


def test_constant_depth_is_fitted_by_the_middle_of_the_truth():
    true, valid = video()
    ones = np.ones_like(true)
    for loss, middle in (("l1", np.sort(true[valid])[(valid.sum() - 1) // 2]), ("l2", true[valid].mean())):
        fit = DepthAlignment(loss=loss).fit(ones, true, valid)
        assert fit.scale[0] == 0 and fit.shift[0] == pytest.approx(middle)


def test_names_and_settings():
    assert str(DepthAlignment()) == "scale+shift l1 per video in depth" and str(DepthAlignment("none")) == "none"
    assert str(DepthAlignment("median", per="frame", space="disparity")) == "median per frame in disparity"
    descent = Descent(rate=1e-4, steps=1000)
    assert str(DepthAlignment(descent=descent)).endswith("by 1000 steps of 0.0001 from the median scale")
    for options in ({"kind": "scale", "descent": descent}, {"loss": "l2", "descent": descent}):
        with pytest.raises(ConfigError, match="descent"):
            DepthAlignment(**options)
    with pytest.raises(ConfigError, match="one of l2, l1; got 'huber'"):
        require_choice("The loss", "huber", ("l2", "l1"))


def test_depth_that_cannot_be_fitted():
    true, valid = video()
    for predicted, target, mask, message in (
        (true[:2], true, valid, "resize"),
        (true, true, valid & False, "empty"),
        (true, true, valid.astype(np.uint8), "bool"),
        (true, 0 * true, valid, "positive"),
        (true, true * np.nan, valid, "not finite"),
        (0 * true, true, valid, "zero"),
        (true * np.nan, true, valid, "no predicted depth"),
    ):
        with pytest.raises(InputError, match=message):
            DepthAlignment().fit(predicted, target, mask)
    with pytest.raises(InputError, match="no predicted depth"):
        DepthAlignment(space="disparity").fit(-true, true, valid)
    with pytest.raises(InputError, match="positive median"):
        DepthAlignment("median").fit(-true, true, valid)
