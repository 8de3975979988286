"""Alignment against exact truth: analytic windows of a scene, every subset of modalities, symmetries, weak input."""

import importlib.util
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import FOCAL, W, check, exact_windows

from geo4d.alignment import AlignmentConfig, align
from geo4d.alignment.joint.config import JointConfig
from geo4d.errors import AlignmentError, ConfigError
from geo4d.geometry.rotation import so3_exp
from geo4d.metrics.depth import depth_metrics
from geo4d.metrics.focal import focal_error
from geo4d.metrics.pose import pose_metrics
from geo4d.scene import WindowPredictions


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("drop", [(), ("rays",), ("disparity",), ("disparity", "rays")])
def test_exact_windows_give_the_exact_scene(shifted, drop):
    predictions, truth = exact_windows(shifted=shifted)
    config = AlignmentConfig(**{f"use_{name}": False for name in drop})
    check(align(predictions, config=config), truth)


@pytest.mark.parametrize("frames", [1, 2, 3, 15, 16, 17])
def test_any_length(frames):
    predictions, truth = exact_windows(frames)
    result = align(predictions)
    assert result.num_frames == frames and np.isfinite(result.cam_to_world).all()
    if frames > 1:
        check(result, truth, ate=1e-2)


def released_case(shared, **options):
    spec = importlib.util.spec_from_file_location("make_case", shared / "alignment" / "make_case.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    case = module.make_case(**options)
    names = ("windows", "points", "weight", "disparity", "ray_direction", "ray_moment")
    predictions = WindowPredictions(**{name: torch.from_numpy(case[name]) for name in names})
    return predictions, case


def errors(result, case):
    poses, extent = case["gt_cam_to_world"], np.ptp(case["gt_cam_to_world"][:, :3, 3], axis=0).max()
    k = np.tile(case["gt_intrinsics"], (len(poses), 1, 1))
    depth = depth_metrics(result.depth, case["gt_depth"], case["gt_depth"] > 0).abs_rel
    return depth, pose_metrics(result.cam_to_world, poses).ate_sim3 / extent, focal_error(result.intrinsics, k)


def test_clean_case_of_another_hand(shared):
    predictions, case = released_case(shared, noise="clean", seed=0, T=24)
    depth, ate, focal = errors(align(predictions), case)
    assert depth < 1e-3 and ate < 1e-3 and focal < 5e-3


def test_a_shifted_pixel_centre_is_noticed(shared):
    predictions, case = released_case(shared, noise="clean", seed=0, T=24, centre=0.0)
    _, ate, _ = errors(align(predictions), case)
    assert ate > 1e-3


def test_noisy_case_beats_the_released_optimiser(shared):
    predictions, case = released_case(shared, noise="realistic", seed=0, T=30)
    result = align(predictions)
    assert pose_metrics(result.cam_to_world, case["gt_cam_to_world"]).ate_sim3 < 0.03  # released: 0.061
    depth, _, focal = errors(result, case)
    assert depth < 0.02 and focal < 0.01


def test_symmetries_of_the_method():
    predictions, _ = exact_windows(noise=0.01)
    before = align(predictions)
    rotation = so3_exp(torch.tensor([0.0, 0.0, 0.0]))
    points, disparity = predictions.points.clone(), predictions.disparity.clone()
    points[1] = 2.5 * points[1] @ rotation.T
    weight = predictions.weight.clone()
    weight[1] /= 2.5
    disparity[0] = 0.5 * disparity[0] + 0.3
    order = torch.tensor([2, 0, 1])[: len(points)]
    moved = replace(
        predictions, points=points, weight=weight, disparity=disparity, disparity_weight=torch.ones_like(disparity)
    )
    reference = align(replace(predictions, disparity_weight=torch.ones_like(disparity)))
    shuffled = {
        name: getattr(moved, name)[order]
        for name in ("windows", "points", "weight", "disparity", "disparity_weight", "ray_direction", "ray_moment")
    }
    after = align(replace(moved, **shuffled))
    np.testing.assert_allclose(after.cam_to_world, reference.cam_to_world, atol=2e-3)
    both = after.valid & reference.valid
    np.testing.assert_allclose(np.log(after.depth[both] / reference.depth[both]), 0, atol=1e-2)
    assert before.num_frames == after.num_frames


def test_pixels_without_weight_may_hold_anything():
    predictions, truth = exact_windows()
    weight = predictions.weight.clone()
    weight[:, :, :6] = 0
    points = predictions.points.clone()
    points[:, :, :6] = torch.nan
    result = align(replace(predictions, points=points, weight=weight, disparity=None))
    assert not result.valid[:, :6].any() and result.valid[:, 6:].all()
    check(result, truth)


def test_disparity_alone_and_rays_alone():
    predictions, truth = exact_windows()
    only = align(predictions, config=AlignmentConfig(use_points=False, use_rays=False))
    assert np.allclose(only.cam_to_world, np.eye(4)) and only.valid.any()
    assert "static" in only.diagnostics["warnings"][0]
    cameras = align(predictions, config=AlignmentConfig(use_points=False, use_disparity=False))
    assert not cameras.valid.any()
    poses = truth[1]
    assert pose_metrics(cameras.cam_to_world, np.linalg.inv(poses[:1]) @ poses).ate_sim3 < 1e-3
    assert cameras.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=1e-3)


def test_noise_for_input_gives_finite_output():
    predictions, _ = exact_windows()
    generator = torch.Generator().manual_seed(1)
    noisy = {
        n: torch.randn(getattr(predictions, n).shape, generator=generator)
        for n in ("points", "ray_direction", "ray_moment")
    }
    noisy["disparity"] = torch.rand(predictions.disparity.shape, generator=generator)
    result = align(replace(predictions, **noisy))
    assert np.isfinite(result.cam_to_world).all() and np.isfinite(result.depth[result.valid]).all()
    view = 2 * np.degrees(np.arctan(W / 2 / result.intrinsics[0, 0, 0]))
    assert 19 < view < 121


def test_the_same_input_gives_the_same_result():
    predictions, _ = exact_windows(noise=0.02)
    first, second = align(predictions), align(predictions)
    assert np.array_equal(first.depth, second.depth, equal_nan=True) and np.array_equal(
        first.cam_to_world, second.cam_to_world
    )


def test_bad_input_is_refused():
    predictions, _ = exact_windows()
    with pytest.raises(AlignmentError, match="usable sampled pixels"):
        align(replace(predictions, weight=torch.zeros_like(predictions.weight)))
    with pytest.raises(ConfigError, match="at least one"):
        AlignmentConfig(use_points=False, use_disparity=False, use_rays=False)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_an_alignment_with_a_learnt_loss_is_as_good(noise):
    predictions, truth = exact_windows(16, length=8, noise=noise)
    config = AlignmentConfig(joint=JointConfig(loss="adaptive"), motion=False)
    if noise == 0:
        check(align(predictions, config=config), truth)
        return
    usual, _ = check(align(predictions, config=AlignmentConfig(motion=False)), truth, depth=0.02, ate=0.05, focal=0.03)
    depth, pose = check(align(predictions, config=config), truth, depth=0.02, ate=0.05, focal=0.03)
    assert depth.abs_rel < 1.2 * usual.abs_rel and math.isfinite(pose.ate_sim3)
