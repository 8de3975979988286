"""Ray maps that are spoilt in one place cost that place alone, and it is named."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import check, exact_windows

from geo4d.alignment import AlignmentConfig, align
from geo4d.alignment.joint.observations import ray_cameras
from geo4d.errors import AlignmentError

STILL = AlignmentConfig(motion=False)


@pytest.fixture(scope="module")
def exact():
    return exact_windows(24, noise=0.01)


def spoilt(predictions, window, frame, value):
    direction = predictions.ray_direction.clone()
    direction[window, frame] = value
    return replace(predictions, ray_direction=direction)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0, torch.tensor([0.0, 0.0, 1.0])])
def test_one_frame_is_left_out_alone(exact, value) -> None:
    predictions, truth = exact
    broken = spoilt(predictions, 1, 5, value)
    usable = ray_cameras(broken).usable
    assert usable.sum() == usable.numel() - 1 and not usable[1, 5]
    result = align(broken, config=STILL)
    assert "rays" in result.diagnostics["terms"]
    (warning,) = (w for w in result.diagnostics["warnings"] if "Ray maps" in w)
    assert "window 1, frame 9," in warning  # its fifth, as the video counts
    check(result, truth, depth=0.02, ate=0.02)
    whole = align(predictions, config=STILL)
    np.testing.assert_allclose(result.cam_to_world, whole.cam_to_world, atol=2e-3)


def test_a_nan_in_one_pixel_costs_a_block_of_rays(exact) -> None:
    predictions, _ = exact
    direction = predictions.ray_direction.clone()
    direction[2, 3, 4, 4, 1] = torch.nan
    result = align(replace(predictions, ray_direction=direction), config=STILL)
    assert not [warning for warning in result.diagnostics["warnings"] if "Ray maps" in warning]
    np.testing.assert_allclose(result.cam_to_world, align(predictions, config=STILL).cam_to_world, atol=1e-4)


def test_a_window_without_its_first_frame_is_left_out_alone(exact) -> None:
    """Its rotations are told from the first frame's rays."""
    predictions, truth = exact
    broken = spoilt(predictions, 0, 0, torch.nan)
    usable = ray_cameras(broken).usable
    assert not usable[0].any() and usable[1:].all()
    check(align(broken, config=STILL), truth, depth=0.02, ate=0.02)


def test_given_matrices_are_left_out_one_by_one(exact) -> None:
    predictions, truth = exact
    cameras = ray_cameras(predictions).cam_to_win.clone()
    cameras[1, 3, 0, 3] = torch.nan
    given = replace(predictions, ray_direction=None, ray_moment=None, ray_cam_to_win=cameras)
    result = align(given, config=STILL)
    assert any("window 1, frame 7," in warning for warning in result.diagnostics["warnings"])
    check(result, truth, depth=0.02, ate=0.02)


def test_rays_that_are_all_spoilt_are_said_to_be(exact) -> None:
    predictions, truth = exact
    broken = replace(predictions, ray_direction=torch.full_like(predictions.ray_direction, torch.nan))
    result = align(broken, config=STILL)
    assert "rays" not in result.diagnostics["terms"]
    assert [warning for warning in result.diagnostics["warnings"] if "Ray maps" in warning]
    check(result, truth, depth=0.02, ate=0.02)
    with pytest.raises(AlignmentError, match="no other modality"):
        align(replace(broken, points=None, weight=None, disparity=None))


def test_rays_alone_go_on_past_a_spoilt_frame(exact) -> None:
    predictions, (_, poses) = exact
    alone = replace(spoilt(predictions, 1, 5, torch.nan), points=None, weight=None, disparity=None)
    result = align(alone)
    assert any("window 1, frame 9," in warning for warning in result.diagnostics["warnings"])
    assert np.isfinite(result.cam_to_world).all()
    true = np.linalg.inv(poses[:1]) @ poses
    np.testing.assert_allclose(result.cam_to_world[:, :3, :3], true[:, :3, :3], atol=5e-3)
