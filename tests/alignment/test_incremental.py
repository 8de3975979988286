"""Alignments that grow.

They are as good as the one of all windows at once, and only what the new windows touch is solved again.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import FOCAL, check, exact_windows

from geo4d.alignment import AlignmentConfig, IncrementalAlignment, align
from geo4d.errors import AlignmentError, ConfigError, InputError
from geo4d.metrics.depth import depth_metrics
from geo4d.metrics.pose import pose_metrics

NAMES = ("windows", "points", "weight", "disparity", "ray_direction", "ray_moment")
STILL = AlignmentConfig(motion=False)


def first_windows(predictions, count):
    found = {name: None if getattr(predictions, name) is None else getattr(predictions, name)[:count] for name in NAMES}
    return replace(predictions, **found)


def jittering(predictions, sigma=0.01):
    """Points of each frame moved as a whole and rescaled: what windows do not agree about."""
    generator = torch.Generator().manual_seed(7)
    g, v = predictions.windows.shape
    stretch = 1 + sigma * torch.randn(g, v, 1, 1, 1, generator=generator)
    return replace(
        predictions, points=predictions.points * stretch + 0.3 * sigma * torch.randn(g, v, 1, 1, 3, generator=generator)
    )


@pytest.fixture(scope="module")
def exact():
    return exact_windows(32)


@pytest.fixture(scope="module")
def noisy():
    predictions, truth = exact_windows(32, noise=0.01)
    return jittering(
        replace(predictions, ray_direction=None, ray_moment=None)
    ), truth  # exact rays would hide the noise


def errors(result, truth):
    depth, poses = (values[: result.num_frames] for values in truth)
    return (
        pose_metrics(result.cam_to_world, np.linalg.inv(poses[:1]) @ poses).ate_sim3,
        depth_metrics(result.depth, depth, result.valid).abs_rel,
    )


@pytest.mark.parametrize("lag", [1, 8])
def test_window_by_window_is_as_good_as_all_at_once(exact, lag):
    predictions, truth = exact
    growing = IncrementalAlignment(STILL, lag=lag)
    solved = [growing.update(first_windows(predictions, count)) for count in range(1, 6)]
    assert solved == [min(count, lag + 1) for count in range(1, 6)]  # the lag and the new one
    assert growing.num_windows == len(predictions.windows) == 5
    result = growing.reconstruct(predictions)
    check(result, truth)
    np.testing.assert_allclose(result.intrinsics[:, 0, 0], FOCAL, rtol=1e-3)  # in every frame, whenever it was solved


def test_noise_hurts_no_more_than_in_one_solve(noisy):
    predictions, truth = noisy
    growing = IncrementalAlignment(STILL)
    for count in (2, 5):
        assert growing.update(first_windows(predictions, count)) == count  # all within the lag
    grown, batch = growing.reconstruct(predictions), align(predictions, config=STILL)
    ate, depth = errors(batch, truth)
    assert ate > 1e-3  # the noise is felt at all
    grown_ate, grown_depth = errors(grown, truth)
    assert grown_ate < 1.2 * ate + 1e-4 and grown_depth < 1.2 * depth
    assert grown.intrinsics[0, 0, 0] == pytest.approx(batch.intrinsics[0, 0, 0], rel=0.01)
    assert grown.diagnostics["terms"] == batch.diagnostics["terms"] and len(grown.diagnostics["windows"]) == 5
    assert grown.diagnostics["expected_error"] == pytest.approx(batch.diagnostics["expected_error"], rel=0.2)


def test_what_lies_before_the_lag_stays_and_the_rest_moves(noisy):
    predictions, truth = noisy
    growing = IncrementalAlignment(STILL, lag=1)
    growing.update(first_windows(predictions, 3))
    before = growing.reconstruct(first_windows(predictions, 3))
    again = growing.reconstruct(first_windows(predictions, 3))
    assert np.array_equal(before.cam_to_world, again.cam_to_world) and np.array_equal(
        before.depth, again.depth, equal_nan=True
    )
    assert growing.update(first_windows(predictions, 5)) == 3
    after = growing.reconstruct(predictions)
    held = int(predictions.windows[:2].max()) + 1  # frames of the windows before the lag
    assert before.num_frames == 24 and after.num_frames == 32
    np.testing.assert_allclose(after.cam_to_world[:held], before.cam_to_world[:held], atol=1e-12)
    assert np.abs(after.cam_to_world[held:24] - before.cam_to_world[held:]).max() > 1e-6
    untouched = int(predictions.windows[2].min())  # frames of no window that was solved again
    np.testing.assert_array_equal(after.intrinsics[:untouched], before.intrinsics[:untouched])
    assert errors(after, truth)[0] < 0.05


def test_a_result_between_is_whole(exact):
    predictions, truth = exact
    growing = IncrementalAlignment(AlignmentConfig())
    growing.update(first_windows(predictions, 2))
    between = growing.reconstruct(first_windows(predictions, 2))
    check(between, (truth[0][:20], truth[1][:20]))
    assert between.dynamic.shape == between.depth.shape and between.pose_covariance.shape == (20, 6, 6)
    assert growing.update(first_windows(predictions, 2)) == 0  # nothing new, nothing to do
    growing.update(predictions)
    check(growing.reconstruct(predictions), truth)


@pytest.mark.parametrize("drop", [("ray_direction", "ray_moment"), ("disparity",)])
def test_other_modalities_may_be_missing_or_switched_off(exact, drop):
    predictions, truth = exact
    lacking = replace(predictions, **dict.fromkeys(drop))
    switched = AlignmentConfig(motion=False, **{f"use_{'rays' if len(drop) == 2 else 'disparity'}": False})
    results = []
    for config, given in ((STILL, lacking), (switched, predictions)):
        growing = IncrementalAlignment(config)
        growing.update(first_windows(given, 3))
        growing.update(given)
        results.append(growing.reconstruct(given))
        assert "rays" in results[-1].diagnostics["terms"] or len(drop) == 2
        assert "disparity" in results[-1].diagnostics["terms"] or len(drop) == 1
    check(results[0], truth)
    np.testing.assert_allclose(results[1].depth, results[0].depth, rtol=1e-2)


def test_the_same_frames_in_another_order_of_updates(exact):
    predictions, _ = exact
    growing = IncrementalAlignment(STILL)
    growing.update(first_windows(predictions, 3))
    backwards = first_windows(predictions, 3)
    backwards = replace(backwards, **{name: getattr(backwards, name).flip(0) for name in NAMES})
    with pytest.raises(InputError, match="order of their first frames"):
        growing.update(backwards)
    with pytest.raises(InputError, match="first 3 windows are not those"):
        growing.update(first_windows(predictions, 2))  # fewer than before
    moved = replace(predictions, windows=predictions.windows + (torch.arange(5) == 1).long()[:, None])
    with pytest.raises(InputError, match="first 3 windows are not those"):
        growing.update(moved)
    assert growing.num_windows == 3  # a refusal changes nothing
    growing.update(predictions)
    assert growing.num_windows == 5


def test_a_window_given_twice_is_no_harm(exact):
    predictions, truth = exact
    twice = torch.tensor([0, 1, 2, 2, 3, 4])
    doubled = replace(predictions, **{name: getattr(predictions, name)[twice] for name in NAMES})
    growing = IncrementalAlignment(STILL, lag=2)
    for count in (3, 4, 6):
        growing.update(first_windows(doubled, count))
    check(growing.reconstruct(doubled), truth)


def test_what_cannot_grow_is_refused(exact):
    predictions, _ = exact
    for settings in ({"solver": "paper"}, {"use_points": False}, {"focal": "per_frame"}):
        with pytest.raises(ConfigError, match="Growing alignments need"):
            IncrementalAlignment(AlignmentConfig(**settings))
    with pytest.raises(ConfigError, match="lag of at least 1"):
        IncrementalAlignment(lag=0)
    growing = IncrementalAlignment(STILL)
    with pytest.raises(InputError, match="call update with window predictions first"):
        growing.reconstruct(predictions)
    with pytest.raises(InputError, match="need point maps"):
        growing.update(replace(predictions, points=None, weight=None))
    with pytest.raises(AlignmentError, match="usable sampled pixels"):
        growing.update(replace(predictions, weight=torch.zeros_like(predictions.weight)))
    assert growing.num_windows == 0
    growing.update(first_windows(predictions, 2))
    with pytest.raises(InputError, match="2 windows are aligned, 5 were given"):
        growing.reconstruct(predictions)


def test_maps_of_another_size_or_with_fewer_modalities_are_refused(exact):
    predictions, _ = exact
    growing = IncrementalAlignment(STILL)
    growing.update(first_windows(predictions, 3))
    smaller = {name: getattr(predictions, name)[:, :, ::2, ::2] for name in NAMES if name != "windows"}
    with pytest.raises(InputError, match=r"18 x 12 with .*before are 36 x 24"):
        growing.update(replace(predictions, **smaller))
    with pytest.raises(InputError, match=r"disparity; those .*before are .*ray_moment"):
        growing.update(replace(predictions, ray_direction=None, ray_moment=None))
    with pytest.raises(InputError, match="18 x 12"):
        growing.reconstruct(
            replace(first_windows(predictions, 3), **{name: value[:3] for name, value in smaller.items()})
        )
    assert growing.num_windows == 3
