"""Upside down is not good: no scale is negative, in no protocol, and the sign that a free fit takes is said."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, lsq_linear

from geo4d.evaluation.protocols import PROTOCOLS
from geo4d.geometry.fitting import fit_scale_l1, fit_scale_shift_l1, weighted_median
from geo4d.metrics import (
    RELEASED_PROTOCOLS,
    DepthAlignment,
    DepthProtocol,
    Descent,
    PointAlignment,
    depth_metrics,
    point_metrics,
)

SEEDS = st.integers(0, 10_000)
FREE = [
    DepthAlignment("scale_shift", *rest) for rest in product(("l1", "l2"), ("video", "frame"), ("depth", "disparity"))
]
SAID = {
    **{f"released {name}": protocol for name, protocol in RELEASED_PROTOCOLS.items()},
    **{name: protocol.depth for name, protocol in PROTOCOLS.items()},
    **{
        f"{name} {dataset}": depth for name, protocol in PROTOCOLS.items() for dataset, depth in protocol.by_set.items()
    },
    **{str(alignment): DepthProtocol(alignment) for alignment in FREE},
}


def street(seed=0, shape=(3, 20, 24)):
    """Depth that falls from the top of the picture to its bottom, and where it is known."""
    rng = np.random.default_rng(seed)
    ground = np.linspace(30, 2, shape[1])[:, None] * np.ones(shape)
    return ground * rng.uniform(0.8, 1.2, shape), rng.random(shape) < 0.9


def upside_down(depth):
    """What is near is far, in two ways: mirrored in the middle of the range, and disparity taken for depth."""
    return depth.max() + depth.min() - depth, 20 / depth


def random_data(seed, num):
    """Predictions (1, n) that rise or fall with the truth, or have nothing to do with it."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 5, num)
    slope = rng.choice([-1.0, 0.0, 1.0])
    return x[None], np.abs(slope * x + 6 + 0.5 * rng.standard_cauchy(num))[None] + 0.1, np.ones((1, num), bool)


@pytest.mark.parametrize("name", SAID)
def test_what_is_upside_down_is_no_better_than_constant_depth_in_any_protocol(name):
    true, valid = street()
    protocol, alignment = SAID[name], SAID[name].alignment
    # where nothing is fitted, a constant in the truth's unit
    size = np.median(true[valid]) if alignment.kind == "none" else 1.0
    constant = depth_metrics(np.full(true.shape, size), true, valid, protocol=protocol)
    for wrong in upside_down(true):
        found = depth_metrics(wrong, true, valid, protocol=protocol)
        assert found.abs_rel >= constant.abs_rel - 1e-12 and found.delta1 <= constant.delta1 + 1e-12
        assert (found.fit.scale >= 0).all()
        assert found.fit.free_scale_is_negative.shape == (3,) and found.fit.free_scale_is_negative.dtype == bool
        assert (found.fit.free_scale_is_negative == (alignment.kind == "scale_shift")).all()
        if alignment.kind == "scale_shift" and alignment.descent is None:
            assert found.abs_rel == pytest.approx(constant.abs_rel, abs=1e-12) and (found.fit.scale == 0).all()
    for right in (constant, depth_metrics(2 * true + 1, true, valid, protocol=protocol)):
        assert not right.fit.free_scale_is_negative.any()


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(3, 40), st.sampled_from(["depth", "disparity"]), st.booleans())
def test_least_absolute_deviations_are_the_best_of_all_scales_from_zero_up(seed, num, space, with_shift):
    x, y, valid = random_data(seed, num)
    alignment = DepthAlignment("scale_shift" if with_shift else "scale", space=space)
    fit = alignment.fit(x, y, valid)
    p, t = (x[0], y[0]) if space == "depth" else (1 / x[0], 1 / y[0])

    def least(scale):
        bounds = [scale, (None, None) if with_shift else (0, 0), *[(0, None)] * (2 * num)]
        equations = np.c_[p, np.ones(num), -np.eye(num), np.eye(num)]
        return linprog(np.r_[0, 0, np.ones(2 * num)], A_eq=equations, b_eq=t, bounds=bounds)

    bounded, free = least((0, None)), least((None, None))
    assert fit.scale[0] >= 0
    assert np.abs(fit.scale[0] * p + fit.shift[0] - t).sum() == pytest.approx(bounded.fun, rel=1e-9, abs=1e-9)
    if fit.free_scale_is_negative[0]:
        assert free.fun <= bounded.fun + 1e-9 and fit.scale[0] == 0
    else:
        assert free.fun == pytest.approx(bounded.fun, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(3, 40), st.sampled_from(["depth", "disparity"]), st.booleans())
def test_least_squares_are_the_best_of_all_scales_from_zero_up(seed, num, space, with_shift):
    x, y, valid = random_data(seed, num)
    fit = DepthAlignment("scale_shift" if with_shift else "scale", "l2", space=space).fit(x, y, valid)
    p, t = (x[0], y[0]) if space == "depth" else (1 / x[0], 1 / y[0])
    columns = np.c_[p, np.ones(num)] if with_shift else p[:, None]
    best = lsq_linear(columns, t, bounds=([0, -np.inf][: columns.shape[1]], np.inf), method="bvls", tol=1e-14)
    free = np.linalg.lstsq(columns, t, rcond=None)[0]
    assert np.square(fit.scale[0] * p + fit.shift[0] - t).sum() == pytest.approx(2 * best.cost, rel=1e-7, abs=1e-9)
    assert fit.scale[0] >= 0 and fit.free_scale_is_negative[0] == (free[0] < 0)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_a_free_fit_with_a_positive_scale_is_kept_to_the_last_bit(seed):
    x, valid = street(seed)
    y = np.abs(0.5 * x + np.random.default_rng(seed).normal(size=x.shape)) + 0.1
    p, t = x[valid], y[valid]
    free = {
        ("scale_shift", "l1"): fit_scale_shift_l1(p, t),
        ("scale", "l1"): (fit_scale_l1(p, t), 0.0),
        ("scale", "l2"): (float(p @ t / (p @ p)), 0.0),
        ("median", "l1"): (weighted_median(t) / weighted_median(p), 0.0),
    }
    for (kind, loss), expected in free.items():
        fit = DepthAlignment(kind, loss).fit(x, y, valid)
        assert (fit.scale[0], fit.shift[0]) == expected and not fit.free_scale_is_negative.any()


def test_only_the_frame_that_is_upside_down_is_flattened():
    true, valid = street()
    predicted = 3 * true + 1
    predicted[1] = upside_down(true[1])[0]
    for loss, space in product(("l1", "l2"), ("depth", "disparity")):
        protocol = DepthProtocol(DepthAlignment(loss=loss, per="frame", space=space))
        said = predicted if space == "depth" else 1 / (3 / predicted + 1)
        found = depth_metrics(said, true, valid, protocol=protocol)
        constant = depth_metrics(np.ones(true.shape), true, valid, protocol=protocol)
        assert found.fit.free_scale_is_negative.tolist() == [False, True, False]
        assert found.frames[1].abs_rel == pytest.approx(constant.frames[1].abs_rel)
        assert max(found.frames[0].abs_rel, found.frames[2].abs_rel) < (1e-9 if space == "depth" else 0.3)


def test_a_frame_without_prediction_has_the_sign_of_the_video():
    true, valid = street()
    predicted = upside_down(true)[0]
    predicted[0] = np.nan
    fit = DepthAlignment(per="frame").fit(predicted, true, valid)
    assert fit.free_scale_is_negative.all() and (fit.scale == 0).all()
    aligned = fit.apply(predicted)
    assert np.isnan(aligned[0]).all() and np.ptp(aligned[1]) == 0  # a hole stays a hole


def test_a_descent_stops_at_scale_zero():
    true, valid = street()
    predicted = 10 * upside_down(true)[0]
    start = weighted_median(true[valid]) / weighted_median(predicted[valid])
    short = Descent(rate=1e-4, steps=1000)
    fit = DepthAlignment(descent=short).fit(predicted, true, valid)
    assert fit.free_scale_is_negative.all() and 0 <= fit.scale[0] < start
    long = DepthAlignment(descent=Descent(rate=1e-2, steps=5000)).fit(predicted, true, valid)
    assert long.free_scale_is_negative.all() and 0 <= long.scale[0] < 1e-2
    assert long.apply(predicted)[valid].std() < 0.2 * true[valid].std()


def test_at_scale_zero_every_pixel_with_a_depth_gets_the_shift():
    true, valid = street()
    predicted = upside_down(true)[1]
    predicted[0, 0, :2] = 0, np.inf
    valid[0, 0, :2] = False
    for space in ("depth", "disparity"):
        fit = DepthAlignment(space=space).fit(predicted, true, valid)
        aligned = fit.apply(predicted)
        assert np.isnan(aligned[0, 0, 1]) and np.unique(np.delete(aligned, 1)).size == 1


def test_points_that_are_turned_round_are_scaled_to_nothing():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(3, 6, 8, 3)) + [0, 0, 6]
    mask = rng.random(true.shape[:3]) < 0.8
    for weight, per in product(("uniform", "relative"), ("video", "frame")):
        found = point_metrics(-true, true, mask, alignment=PointAlignment("scale", weight, per))
        assert (
            found.rel == pytest.approx(1) and found.delta == 0 and found.free_scale_is_negative.tolist() == [True] * 3
        )
        right = point_metrics(true / 3, true, mask, alignment=PointAlignment("scale", weight, per))
        assert right.rel == pytest.approx(0, abs=1e-9) and right.free_scale_is_negative.tolist() == [False] * 3
    one = true.copy()
    one[1] *= -1
    assert point_metrics(one, true, mask, alignment=PointAlignment(per="frame")).free_scale_is_negative.tolist() == [
        False,
        True,
        False,
    ]
    # a similarity turns and never mirrors
    mirrored = point_metrics(-true, true, mask, alignment=PointAlignment("sim3"))
    assert mirrored.rel > 0.05 and not mirrored.free_scale_is_negative.any()
