"""Inputs that break alignments.

Wrong windows, outliers, cameras that do not move, skies, odd shapes, zooms, nothing at all.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import FOCAL, H, W, camera_path, check, exact_windows

from geo4d.alignment import AlignmentConfig, align
from geo4d.errors import AlignmentError
from geo4d.geometry.rotation import so3_exp
from geo4d.metrics.depth import depth_metrics
from geo4d.metrics.pose import pose_metrics
from geo4d.scene import WindowPredictions

DENSE = ("points", "weight", "disparity", "ray_direction", "ray_moment")


def with_window(predictions, g, **values):
    changed = {}
    for name, value in values.items():
        changed[name] = getattr(predictions, name).clone()
        changed[name][g] = value
    return replace(predictions, **changed)


def relative(poses):
    return np.linalg.inv(poses[:1]) @ poses


def path_by_depth(result):
    centres = result.cam_to_world[:, :3, 3]
    return np.linalg.norm(centres - centres[0], axis=1).max() / np.median(result.depth[result.valid])


def test_a_window_of_noise_is_named_and_does_little_harm():
    predictions, (depth, poses) = exact_windows(44, noise=0.01)
    generator = torch.Generator().manual_seed(3)
    noise = {
        name: torch.randn(getattr(predictions, name)[3].shape, generator=generator)
        for name in DENSE
        if name != "weight"
    }
    result = align(with_window(predictions, 3, **noise))
    assert 3 in [suspect["window"] for suspect in result.diagnostics["suspect_windows"]]
    extent = np.ptp(poses[:, :3, 3], axis=0).max()
    assert pose_metrics(result.cam_to_world, relative(poses)).ate_sim3 < 0.02 * extent
    assert depth_metrics(result.depth, depth, result.valid).abs_rel < 0.02


def test_a_window_of_disparity_that_is_upside_down_has_no_say_beside_points():
    predictions, (depth, _) = exact_windows(44, noise=0.01)
    expected = align(predictions)
    for odd in (0, 3, 7):
        result = align(with_window(predictions, odd, disparity=1.1 - predictions.disparity[odd]))
        assert depth_metrics(result.depth, depth, result.valid).abs_rel < 0.01
        np.testing.assert_allclose(result.cam_to_world, expected.cam_to_world, atol=1e-9)
        assert np.isnan(result.diagnostics["windows"][odd]["disparity"])


def test_a_window_whose_points_are_turned_round_is_named_and_not_turned_back():
    predictions, (depth, poses) = exact_windows(44, noise=0.01)
    result = align(with_window(predictions, 3, points=-predictions.points[3]))
    assert min(window["scale"] for window in result.diagnostics["windows"]) > 0
    assert 3 in [suspect["window"] for suspect in result.diagnostics["suspect_windows"]]
    assert depth_metrics(result.depth, depth, result.valid).abs_rel < 0.02
    assert pose_metrics(result.cam_to_world, relative(poses)).ate_sim3 < 1e-3


def test_two_swapped_windows_are_noticed():
    predictions, (depth, _) = exact_windows(60, noise=0.01)
    order = torch.arange(len(predictions.windows))
    order[3], order[8] = 8, 3
    swapped = replace(predictions, **{name: getattr(predictions, name)[order] for name in DENSE})
    result = align(swapped)
    found = [suspect["window"] for suspect in result.diagnostics["suspect_windows"]]
    assert {3, 8} & set(found)
    assert np.isfinite(result.cam_to_world).all()
    assert depth_metrics(result.depth, depth, result.valid).abs_rel < 0.1
    assert result.diagnostics["expected_error"] > 1.3 * align(predictions).diagnostics["expected_error"]


def test_forty_percent_outliers():
    predictions, (depth, poses) = exact_windows(28, noise=0.01)
    generator = torch.Generator().manual_seed(5)
    wild, odd = (torch.rand(predictions.weight.shape, generator=generator) < 0.4 for _ in range(2))
    stretch = torch.exp(1.4 * torch.rand(wild.shape, generator=generator) - 0.7)
    points = torch.where(wild[..., None], predictions.points * stretch[..., None], predictions.points)
    disparity = torch.where(odd, torch.rand(wild.shape, generator=generator), predictions.disparity)
    result = align(replace(predictions, points=points, disparity=disparity))
    pose = pose_metrics(result.cam_to_world, relative(poses))
    assert pose.ate_sim3 < 0.01 * np.ptp(poses[:, :3, 3], axis=0).max() and pose.rotation_deg < 0.3
    error = np.log(result.depth / depth)[result.valid]
    assert np.median(np.abs(error - np.median(error))) < 0.02  # where most windows are wrong, so is the depth
    assert result.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_static_camera_stays_where_it_is(noise):
    predictions, (depth, _) = exact_windows(24, noise=noise, poses=camera_path(24, turn=0.0, move=(0.0, 0.0, 0.0)))
    result = align(predictions)
    assert path_by_depth(result) < (1e-4 if noise == 0 else 0.01)
    assert depth_metrics(result.depth, depth, result.valid).abs_rel < 0.01


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_pure_rotation_invents_no_path(noise):
    poses = camera_path(24, turn=2.0, move=(0.0, 0.0, 0.0))
    predictions, (depth, true) = exact_windows(24, noise=noise, poses=poses)
    result = align(predictions)
    assert path_by_depth(result) < (1e-4 if noise == 0 else 0.01)
    assert pose_metrics(result.cam_to_world, relative(true)).rotation_deg < (0.02 if noise == 0 else 0.3)
    assert depth_metrics(result.depth, depth, result.valid).abs_rel < 0.01


def test_forward_motion_alone():
    predictions, truth = exact_windows(24, noise=0.01, poses=camera_path(24, turn=0.0, move=(0.0, 0.0, 3.0)))
    check(align(predictions), truth, depth=0.01, ate=0.02, focal=0.02)


def test_a_scene_that_moves_almost_entirely():
    t = torch.linspace(0, 1, 24, dtype=torch.float64)[:, None, None]
    waves = (
        torch.sin(torch.arange(W, dtype=torch.float64) / 5)
        * torch.cos(torch.arange(H, dtype=torch.float64) / 4)[:, None]
    )
    moving = torch.where(
        (torch.arange(W) > 5), 1 + 0.3 * torch.sin(6 * t + 2 * waves), torch.ones(24, H, W, dtype=torch.float64)
    )
    predictions, truth = exact_windows(24, noise=0.01, move_depth=moving)
    check(align(predictions), truth, depth=0.02, ate=0.03, focal=0.02)


def test_sky_over_half_the_image():
    predictions, truth = exact_windows(24, noise=0.01)
    weight, points, disparity = (getattr(predictions, name).clone() for name in ("weight", "points", "disparity"))
    weight[:, :, : H // 2], points[:, :, : H // 2], disparity[:, :, : H // 2] = 0, torch.inf, 0
    result = align(replace(predictions, weight=weight, points=points, disparity=disparity))
    assert not result.valid[:, : H // 2].any() and result.valid[:, H // 2 :].all()
    check(result, truth, depth=0.02, ate=0.03, focal=0.03)


@pytest.mark.parametrize("frames", [16, 20])
def test_one_window_and_two(frames):
    predictions, truth = exact_windows(frames, noise=0.01)
    assert len(predictions.windows) == (1 if frames == 16 else 2)
    result = align(predictions)
    check(result, truth, depth=0.02, ate=0.05, focal=0.03)
    assert np.isfinite(result.pose_covariance).all()
    assert (result.confidence[result.valid] > 0).all() and result.diagnostics["expected_error"] > 1e-3


@pytest.mark.parametrize("modalities", [("disparity", "rays"), ("rays",), ("disparity",)])
@pytest.mark.parametrize("frames", [1, 2, 17])
def test_few_frames_and_few_modalities(frames, modalities):
    predictions, truth = exact_windows(frames)
    result = align(predictions, config=AlignmentConfig(**{f"use_{name}": False for name in modalities}))
    assert result.num_frames == frames
    if frames > 1:
        check(result, truth, ate=1e-2)


@pytest.mark.parametrize("size", [(28, 28), (36, 24), (48, 20)])
def test_square_and_portrait_frames(size):
    predictions, truth = exact_windows(20, size=size)
    check(align(predictions), truth)


def test_a_zoom_is_noticed_and_followed():
    focals = FOCAL * torch.linspace(1.0, 1.5, 32, dtype=torch.float64)
    predictions, truth = exact_windows(32, focal=focals)
    shared = align(predictions)
    assert any("focal=per_frame" in warning for warning in shared.diagnostics["warnings"])
    result = align(predictions, config=AlignmentConfig(focal="per_frame"))
    assert not any("focal=per_frame" in warning for warning in result.diagnostics["warnings"])
    check(result, truth, depth=0.01, ate=0.02, focal=0.01, true_focal=focals.numpy())
    assert result.intrinsics[-1, 0, 0] == pytest.approx(float(focals[-1]), rel=0.03)


def test_a_steady_focal_length_is_not_taken_for_a_zoom():
    predictions, truth = exact_windows(32, noise=0.02)
    assert not any("focal" in warning for warning in align(predictions).diagnostics["warnings"])
    check(align(predictions, config=AlignmentConfig(focal="per_frame")), truth, depth=0.02, ate=0.03, focal=0.03)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_disparity_says_nothing(value):
    predictions, truth = exact_windows(20)
    without = align(replace(predictions, disparity=None))
    result = align(replace(predictions, disparity=torch.full_like(predictions.disparity, value)))
    check(result, truth)
    np.testing.assert_allclose(result.depth, without.depth, rtol=1e-3)


def test_nothing_at_all_is_refused():
    predictions, _ = exact_windows(20)
    nothing = torch.zeros_like(predictions.weight)
    with pytest.raises(AlignmentError, match="usable sampled pixels"):
        align(replace(predictions, weight=nothing))
    with pytest.raises(AlignmentError, match="pixels with a weight"):
        align(replace(predictions, points=None, weight=None, disparity_weight=nothing))


def test_rescaled_points_with_rescaled_weights():
    predictions, _ = exact_windows(24, noise=0.02)
    points, weight = predictions.points.clone(), predictions.weight.clone()
    points[1], weight[1] = 5 * points[1], weight[1] / 5
    before, after = align(predictions), align(replace(predictions, points=points, weight=weight))
    np.testing.assert_allclose(after.cam_to_world, before.cam_to_world, atol=1e-6)
    np.testing.assert_allclose(after.depth, before.depth, rtol=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_cameras_do_not_run_away_from_windows_that_disagree_across_the_view(seed):
    """From far off all depths agree: that must not be worth more than where things are seen."""
    predictions, (depth, _) = exact_windows(24)
    generator = torch.Generator().manual_seed(seed)
    turn = so3_exp(0.1 * torch.randn(*predictions.points.shape[:2], 3, generator=generator))
    turned = torch.einsum("gvij,gvhwj->gvhwi", turn, predictions.points)
    # each frame turned, its depth as it was
    points = turned * (predictions.points[..., 2:] / turned[..., 2:].clamp_min(0.05))
    result = align(
        WindowPredictions(windows=predictions.windows, points=points, weight=predictions.weight, points_origin="camera")
    )
    unit = float(np.median(depth)) / 1.5  # of the first window
    assert np.nanmedian(result.depth) == pytest.approx(unit, rel=0.6)
