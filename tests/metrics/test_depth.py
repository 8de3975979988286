"""Depth errors: known answers, a slow plain reference, and the descent of the released evaluation."""

import math

import numpy as np
import pytest
import torch

from geo4d.errors import ConfigError, InputError
from geo4d.metrics import RELEASED_PROTOCOLS, DepthAlignment, DepthErrors, DepthProtocol, average_depth, depth_metrics

RNG = np.random.default_rng(0)
DEPTH = RNG.uniform(1, 9, (3, 8, 10))
MASK = RNG.random(DEPTH.shape) < 0.8
AS_IT_IS = DepthProtocol(DepthAlignment("none"))
NUMBERS = ("abs_rel", "sq_rel", "rmse", "log_rmse", "delta1", "delta2", "delta3")


def plain(predicted, true):
    """The seven numbers, one pixel at a time."""
    sums = [0.0] * 7
    for p, t in zip(predicted.tolist(), true.tolist(), strict=True):
        raised = max(p, 1e-5)
        ratio = max(raised / t, t / raised)
        terms = (
            abs(p - t) / t,
            (p - t) ** 2 / t,
            (p - t) ** 2,
            math.log(raised / t) ** 2,
            ratio < 1.25,
            ratio < 1.5625,
            ratio < 1.953125,
        )
        sums = [a + b for a, b in zip(sums, terms, strict=True)]
    means = [value / len(true) for value in sums]
    return [math.sqrt(value) if k in (2, 3) else value for k, value in enumerate(means)]


def descend(x, y, *, rate, steps):
    """Scale and shift by Adam on the sum of absolute values in float32, from (ratio of lower medians, 0)."""
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    unknowns = torch.tensor([float(y.median() / x.median()), 0.0], requires_grad=True)
    optimizer = torch.optim.Adam([unknowns], lr=rate)
    last = np.inf
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (unknowns[0] * x + unknowns[1] - y).abs().sum()
        loss.backward()
        optimizer.step()
        if abs(last - loss.item()) < 1e-6:
            break
        last = loss.item()
    return unknowns.detach().double().numpy()


def values(errors):
    return [getattr(errors, name) for name in NUMBERS]


def test_perfect_depth_and_known_maps():
    for kind in ("none", "median", "scale", "scale_shift"):
        result = depth_metrics(DEPTH, DEPTH, MASK, protocol=DepthProtocol(DepthAlignment(kind)))
        assert values(result) == pytest.approx([0, 0, 0, 0, 1, 1, 1], abs=1e-9)
    result = depth_metrics(0.5 * DEPTH - 3, DEPTH, MASK)
    assert result.abs_rel < 1e-9 and result.fit.scale[0] == pytest.approx(2) and result.fit.shift[0] == pytest.approx(6)
    assert depth_metrics(4 * DEPTH, DEPTH, MASK, protocol=DepthProtocol(DepthAlignment("scale"))).fit.scale[
        0
    ] == pytest.approx(0.25)


def test_known_errors():
    result = depth_metrics(1.3 * DEPTH, DEPTH, MASK, protocol=AS_IT_IS)
    true = DEPTH[MASK]
    expected = [0.3, 0.09 * true.mean(), 0.3 * np.sqrt((true**2).mean()), np.log(1.3), 0, 1, 1]
    assert values(result) == pytest.approx(expected, abs=1e-12) and result.pixels == MASK.sum()
    flat = np.full((1, 400, 500), 5.0)
    noise = depth_metrics(flat + 0.1 * RNG.normal(size=flat.shape), flat, flat > 0, protocol=AS_IT_IS)
    assert noise.abs_rel == pytest.approx(0.02 * np.sqrt(2 / np.pi), rel=0.01) and noise.rmse == pytest.approx(
        0.1, rel=0.01
    )


@pytest.mark.parametrize("name", sorted(RELEASED_PROTOCOLS))
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_a_plain_reference(name, seed):
    rng = np.random.default_rng(seed)
    true = rng.uniform(1, 90, (2, 6, 7))
    predicted = (true + rng.normal(size=true.shape) * 6) / rng.uniform(1, 8)
    mask, fit_mask = rng.random(true.shape) < 0.8, rng.random(true.shape) < 0.7
    protocol = RELEASED_PROTOCOLS[name]
    result = depth_metrics(predicted, true, mask, protocol=protocol, fit_mask=fit_mask)
    valid = mask & (true < (protocol.max_depth or np.inf))
    aligned = result.fit.scale[0] * predicted + result.fit.shift[0]
    aligned = np.minimum(aligned, protocol.clip or np.inf)
    assert values(result) == pytest.approx(plain(aligned[valid], true[valid]), abs=1e-9)
    assert result.pixels == valid.sum()
    again = protocol.alignment.fit(predicted, true, valid & fit_mask)
    assert (again.scale[0], again.shift[0]) == (result.fit.scale[0], result.fit.shift[0])


@pytest.mark.parametrize("unit", [2, 20, 100])
def test_equal_to_the_descent_of_the_released_evaluation(unit):
    rng = np.random.default_rng(5)
    true = np.exp(rng.uniform(1, 4, (1, 40, 50)))
    predicted = (true * (1 + 0.1 * rng.normal(size=true.shape)) + 4) / unit
    found = {}
    for name, rate, steps, tolerance in (("sintel", 1e-2, 5000, 2e-4), ("kitti_released", 1e-4, 1000, 1e-6)):
        protocol = RELEASED_PROTOCOLS[name]
        found[name] = depth_metrics(predicted, true, true > 0, protocol=protocol)
        scale, shift = descend(predicted.ravel(), true.ravel(), rate=rate, steps=steps)
        aligned = np.minimum(scale * predicted + shift, protocol.clip or np.inf)
        assert values(found[name])[0] == pytest.approx(plain(aligned.ravel(), true.ravel())[0], abs=tolerance)
    full = depth_metrics(predicted, true, true > 0, protocol=RELEASED_PROTOCOLS["kitti"])
    assert full.abs_rel < found["kitti_released"].abs_rel - 1e-2  # what the short descent leaves on the table


def test_weights_are_said():
    mask = MASK.copy()
    mask[1, 2:], mask[2] = False, False
    predicted = DEPTH * np.array([1.1, 1.5, 7.0])[:, None, None]
    pixel = depth_metrics(predicted, DEPTH, mask, protocol=AS_IT_IS)
    frame = depth_metrics(predicted, DEPTH, mask, protocol=DepthProtocol(DepthAlignment("none"), weighting="frame"))
    n = mask.sum((1, 2))
    assert pixel.abs_rel == pytest.approx((0.1 * n[0] + 0.5 * n[1]) / n.sum()) and frame.abs_rel == pytest.approx(0.3)
    assert frame.log_rmse == pytest.approx((np.log(1.1) + np.log(1.5)) / 2)
    assert pixel.frames[2] is None and pixel.frames[1].abs_rel == pytest.approx(0.5) and pixel.frames[0].pixels == n[0]
    videos = [DepthErrors(*[0.1] * 7, pixels=10), DepthErrors(*[0.4] * 7, pixels=20)]
    assert average_depth(videos, by="pixel").rmse == pytest.approx(0.3) and average_depth(
        videos, by="video"
    ).rmse == pytest.approx(0.25)
    assert average_depth(videos, by="pixel").pixels == 30


def test_frames_can_be_aligned_one_by_one():
    predicted = DEPTH * np.array([1.0, 2.0, 3.0])[:, None, None]
    assert depth_metrics(predicted, DEPTH, MASK).abs_rel > 0.1
    assert depth_metrics(predicted, DEPTH, MASK, protocol=DepthProtocol(DepthAlignment(per="frame"))).abs_rel < 1e-9


def test_a_hole_is_an_error_but_does_not_move_the_fit():
    holes = DEPTH.copy()
    holes[0] = np.nan
    result = depth_metrics(holes, DEPTH, MASK)
    assert result.abs_rel > 0.1 and result.frames[1].abs_rel < 1e-9 and result.pixels == MASK.sum()
    filled = np.where(np.isfinite(holes), holes, np.quantile(holes[1:], 0.99))
    assert values(result) == pytest.approx(plain(filled[MASK], DEPTH[MASK]), abs=1e-9)


def test_outside_the_mask_anything_may_stand():
    predicted, true = np.where(MASK, DEPTH, np.nan), np.where(MASK, DEPTH, -np.inf)
    assert depth_metrics(predicted, true, MASK).abs_rel < 1e-9


def test_depth_that_cannot_be_scored():
    for predicted, mask, message in (
        (DEPTH, MASK & False, "empty"),
        (DEPTH * np.nan, MASK, "no predicted depth"),
        (0 * DEPTH, MASK, "zero"),
        (DEPTH[:, :4], MASK, "resize"),
    ):
        for kind in ("none", "scale", "scale_shift"):
            with pytest.raises(InputError, match=message):
                depth_metrics(predicted, DEPTH, mask, protocol=DepthProtocol(DepthAlignment(kind)))
    with pytest.raises(InputError, match="positive"):
        depth_metrics(DEPTH, 0 * DEPTH, MASK)
    with pytest.raises(InputError, match="below"):
        depth_metrics(DEPTH, DEPTH, MASK, protocol=DepthProtocol(max_depth=0.5))
    with pytest.raises(InputError, match="in common"):
        depth_metrics(DEPTH, DEPTH, MASK, fit_mask=~MASK)
    with pytest.raises(InputError, match="mask of the fit"):
        depth_metrics(DEPTH, DEPTH, MASK, fit_mask=MASK[:1])
    with pytest.raises(InputError, match="no video"):
        average_depth([], by="pixel")
    with pytest.raises(ConfigError, match="max_depth"):
        DepthProtocol(max_depth=-1.0)
