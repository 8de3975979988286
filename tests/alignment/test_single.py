"""One modality alone, and every pair: what each can tell is right, what it cannot is said and not made up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import FOCAL, H, W, camera_path, exact_windows

from geo4d.alignment import AlignmentConfig, Priors, align
from geo4d.alignment.fallback.rays_only import ray_focal
from geo4d.errors import AlignmentError
from geo4d.metrics.pose import pose_metrics
from geo4d.scene import WindowPredictions

MODALITIES = ("points", "disparity", "rays")
INTRINSICS = np.array([[FOCAL, 0, W / 2], [0, FOCAL, H / 2], [0, 0, 1]])


@pytest.fixture(scope="module")
def exact():
    return exact_windows(24)


def alone(predictions, *names):
    drop = {"points": ("points", "weight"), "disparity": ("disparity",), "rays": ("ray_direction", "ray_moment")}
    return replace(predictions, **{field: None for name in MODALITIES if name not in names for field in drop[name]})


def relative(poses):
    return np.linalg.inv(poses[:1]) @ poses


def scale_and_spread(result, depth):
    off = np.log(result.depth / depth)[result.valid]
    return np.median(off), np.abs(off - np.median(off)).max()


@pytest.mark.parametrize("names", [("points",), ("points", "disparity"), ("points", "rays"), MODALITIES])
def test_points_give_everything(exact, names):
    predictions, (depth, poses) = exact
    result = align(alone(predictions, *names), config=AlignmentConfig(motion=False))
    assert result.diagnostics["terms"] == list(names) and result.diagnostics["warnings"] == []
    assert pose_metrics(result.cam_to_world, relative(poses)).ate_sim3 < 2e-3
    assert scale_and_spread(result, depth)[1] < 1e-3 and result.valid.all()
    assert result.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=1e-3)
    assert not result.is_metric and result.pose_covariance is not None


def affine_rest(result, depth):
    """How far inverse depth is from the truth's after the best scale and shift of the whole."""
    mine, true = 1 / result.depth[result.valid].astype(np.float64), 1 / depth[result.valid]
    a, b = np.polyfit(mine, true, 1)
    return np.abs(a * mine + b - true).max() / true.mean()


def test_disparity_alone_gives_depth_up_to_scale_and_shift(exact):
    predictions, (depth, _) = exact
    result = align(alone(predictions, "disparity"))
    assert affine_rest(result, depth) < 1e-3  # one scale and shift for all windows
    assert result.valid.mean() > 0.95
    np.testing.assert_array_equal(result.cam_to_world, np.tile(np.eye(4), (24, 1, 1)))
    assert len(result.diagnostics["disparity_fits"]) == len(predictions.windows)
    warning = " ".join(result.diagnostics["warnings"])
    assert "static" in warning and "default focal length" in warning and "unknown shift" in warning
    assert result.intrinsics[0, 0, 0] == pytest.approx(AlignmentConfig().joint.focal_prior * W)
    assert not result.is_metric and result.pose_covariance is None and result.dynamic is None


def test_windows_of_disparity_are_brought_to_the_first_ones_scale_and_shift(exact):
    predictions, (depth, _) = exact
    disparity = predictions.disparity.clone()
    disparity[1] = 0.5 * disparity[1] + 0.2
    disparity[2] = 0.8 * disparity[2] - 0.1
    weight = torch.ones_like(disparity)
    before = align(alone(replace(predictions, disparity_weight=weight), "disparity"))
    after = align(alone(replace(predictions, disparity=disparity, disparity_weight=weight), "disparity"))
    assert affine_rest(after, depth) < 1e-3
    np.testing.assert_allclose(after.depth, before.depth, rtol=1e-3)
    mine, moved = (r.diagnostics["disparity_fits"][1] for r in (before, after))
    assert moved["scale"] == pytest.approx(0.5 * mine["scale"], rel=1e-3)


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_a_window_of_disparity_that_is_upside_down_is_left_out(exact, odd):
    predictions, (depth, poses) = exact
    disparity = predictions.disparity.clone()
    disparity[odd] = 1.1 - disparity[odd]
    only = alone(replace(predictions, disparity=disparity), "disparity")
    result = align(only)
    assert (
        affine_rest(result, depth) < 1e-3 and np.corrcoef(result.depth[result.valid], depth[result.valid])[0, 1] > 0.9
    )
    assert f"The disparity of window {odd} falls" in result.diagnostics["warnings"][0]
    scales = [fit["scale"] for fit in result.diagnostics["disparity_fits"]]
    assert scales[odd] == 0 and min(scales[:odd] + scales[odd + 1 :]) > 0
    others = np.unique(np.delete(predictions.windows.numpy(), odd, axis=0))
    assert (result.valid.mean(axis=(1, 2)) > 0.9).tolist() == [frame in others for frame in range(24)]
    seen = align(only, priors=Priors(cam_to_world=poses, intrinsics=INTRINSICS))  # whose scale the cameras tell
    off, spread = scale_and_spread(seen, depth)
    assert abs(off) < 0.01 and spread < 0.03


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_flat_wall_does_not_fall(exact, noise):
    predictions, _ = exact
    wall = 0.5 + noise * torch.randn(predictions.disparity.shape, generator=torch.Generator().manual_seed(0))
    result = align(alone(replace(predictions, disparity=wall), "disparity"))
    assert min(fit["scale"] for fit in result.diagnostics["disparity_fits"]) > 0
    assert len(result.diagnostics["warnings"]) == 1 and result.valid.any(axis=(1, 2)).all()


@pytest.mark.parametrize("is_metric", [False, True])
def test_given_cameras_that_move_give_disparity_its_scale(exact, is_metric):
    predictions, (depth, poses) = exact
    priors = Priors(cam_to_world=poses, poses_are_metric=is_metric, intrinsics=INTRINSICS)
    result = align(alone(predictions, "disparity"), priors=priors)
    off, spread = scale_and_spread(result, depth)
    assert abs(off) < 0.01 and spread < 0.03
    assert result.is_metric == is_metric and result.diagnostics["warnings"] == []
    np.testing.assert_allclose(result.cam_to_world, relative(poses), atol=1e-9)
    np.testing.assert_allclose(result.intrinsics, np.tile(INTRINSICS, (24, 1, 1)))
    far = align(alone(predictions, "disparity"), priors=replace(priors, cam_to_world=_stretched(poses, 3.0)))
    assert scale_and_spread(far, depth)[0] == pytest.approx(np.log(3.0) + off, abs=0.02)  # the cameras are the ruler


def _stretched(poses, factor):
    moved = poses.copy()
    moved[:, :3, 3] *= factor
    return moved


@pytest.mark.parametrize("move", [0.0, 0.01])
def test_given_cameras_that_hardly_move_leave_the_scale_unknown(move):
    poses = camera_path(24, turn=1.0, move=(move, 0.0, 0.0))
    predictions, (depth, true) = exact_windows(24, poses=poses)
    priors = Priors(cam_to_world=true, poses_are_metric=True, intrinsics=INTRINSICS)
    result = align(alone(predictions, "disparity"), priors=priors)
    assert "do not move enough" in result.diagnostics["warnings"][0]
    assert not result.is_metric and affine_rest(result, depth) < 1e-3
    np.testing.assert_allclose(result.cam_to_world, relative(true), atol=1e-9)


def test_rays_alone_give_cameras_and_no_depth(exact):
    predictions, (_, poses) = exact
    result = align(alone(predictions, "rays"))
    assert pose_metrics(result.cam_to_world, relative(poses)).ate_sim3 < 1e-4
    assert pose_metrics(result.cam_to_world, relative(poses)).rotation_deg < 1e-3
    assert not result.valid.any() and np.isnan(result.depth).all() and not result.confidence.any()
    assert result.intrinsics[5, 0, 0] == pytest.approx(FOCAL, rel=1e-3)
    assert result.diagnostics["terms"] == ["rays"] and "no depth" in result.diagnostics["warnings"][0]
    assert not result.is_metric and result.dynamic is None


def test_coarse_rays_of_another_aspect_give_the_same_camera(exact):
    predictions, (_, poses) = exact
    coarse = torch.nn.functional.adaptive_avg_pool2d

    def pooled(rays):
        return coarse(rays.flatten(0, 1).movedim(-1, 1), (8, 18)).movedim(1, -1).unflatten(0, rays.shape[:2])

    rays = alone(predictions, "rays")
    rays = replace(rays, ray_direction=pooled(rays.ray_direction), ray_moment=pooled(rays.ray_moment))
    result = align(rays)
    assert pose_metrics(result.cam_to_world, relative(poses)).ate_sim3 < 0.01
    k = result.intrinsics[0]  # of the rays' own grid, whose pixels are not square
    assert k[0, 0] == pytest.approx(FOCAL * 18 / W, rel=0.01) and k[1, 1] == pytest.approx(FOCAL * 8 / H, rel=0.01)


def test_given_cameras_of_windows_stand_in_for_ray_maps(exact):
    predictions, (_, poses) = exact
    truth = torch.from_numpy(poses)
    cam_to_win = (torch.linalg.inv(truth[predictions.windows[:, :1]]) @ truth[predictions.windows]).float()
    result = align(WindowPredictions(windows=predictions.windows, ray_cam_to_win=cam_to_win))
    assert pose_metrics(result.cam_to_world, relative(poses)).ate_sim3 < 1e-4
    assert not result.valid.any() and result.intrinsics[0, 0, 0] == pytest.approx(0.8 * result.depth.shape[2])


def test_rays_of_windows_that_share_nothing_are_said_to_be_loose(exact):
    predictions, _ = exact_windows(32, stride=16)
    result = align(alone(predictions, "rays"))
    assert any("Window 1 shares no frame" in warning for warning in result.diagnostics["warnings"])
    assert np.isfinite(result.cam_to_world).all()


def test_disparity_and_rays_without_points(exact):
    predictions, (depth, poses) = exact
    result = align(alone(predictions, "disparity", "rays"))
    assert result.diagnostics["terms"] == ["disparity", "rays"] and result.diagnostics["warnings"] == []
    pose = pose_metrics(result.cam_to_world, relative(poses))
    assert pose.ate_sim3 < 1e-4 and pose.rotation_deg < 1e-3
    off, spread = scale_and_spread(result, depth)
    path, true = (np.linalg.norm(p[-1, :3, 3] - p[0, :3, 3]) for p in (result.cam_to_world, poses))
    assert off == pytest.approx(np.log(path / true), abs=0.01) and spread < 0.03  # in the cameras' own unit
    assert result.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=1e-3) and not result.is_metric


def test_nothing_usable_is_refused(exact):
    predictions, _ = exact
    with pytest.raises(AlignmentError, match="fewer than 10 pixels"):
        align(alone(replace(predictions, disparity=torch.zeros_like(predictions.disparity)), "disparity"))
    with pytest.raises(AlignmentError, match="no other modality"):
        align(alone(replace(predictions, ray_moment=torch.full_like(predictions.ray_moment, torch.nan)), "rays"))
    with pytest.raises(AlignmentError, match="no other modality"):
        align(alone(replace(predictions, ray_moment=None), "rays"))  # directions alone place no camera


@pytest.mark.parametrize("wrong", ["parallel", "mirrored", "not finite"])
def test_rays_that_tell_no_camera_do_not_spoil_the_focal_length(exact, wrong):
    predictions, _ = exact
    direction = predictions.ray_direction.clone()
    bad = {
        "parallel": direction.new_tensor([0.0, 0, 1]),
        "mirrored": direction[0, 0].flip(1),
        "not finite": direction.new_tensor(torch.nan),
    }
    direction[:-1, 0] = bad[wrong]
    fx, fy = ray_focal(replace(predictions, ray_direction=direction), H, W)
    assert fx == pytest.approx(FOCAL, rel=1e-3) and fy == pytest.approx(FOCAL, rel=1e-3)
    direction[-1, 0] = bad[wrong]
    assert ray_focal(replace(predictions, ray_direction=direction), H, W) is None
