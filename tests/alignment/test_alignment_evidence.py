"""Alignment under missing evidence, under every symmetry of the method, and the smoothness of rotations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import check, exact_windows
from test_alignment import released_case

from geo4d.alignment import AlignmentConfig, align
from geo4d.alignment.joint.terms.smoothness import angular_acceleration
from geo4d.errors import AlignmentError
from geo4d.geometry.rotation import so3_exp
from geo4d.metrics.pose import pose_metrics

FIELDS = ("windows", "points", "weight", "disparity", "disparity_weight", "ray_direction", "ray_moment")
ROTATION = so3_exp(torch.tensor([0.3, -0.2, 0.4]))


def noisy_windows():
    predictions, _ = exact_windows(noise=0.02)
    return replace(predictions, disparity_weight=torch.ones_like(predictions.disparity))


def chosen(predictions, index):
    return replace(predictions, **{name: getattr(predictions, name)[index] for name in FIELDS})


def moved_points(p):
    points, weight = p.points.clone(), p.weight.clone()
    points[1], weight[1] = 3 * points[1] @ ROTATION.T + torch.tensor([0.5, 0.2, 1.0]), weight[1] / 3
    return replace(p, points=points, weight=weight)


def moved_disparity(p):
    disparity = p.disparity.clone()
    disparity[1] = 0.5 * disparity[1] + 0.3
    return replace(p, disparity=disparity)


def moved_rays(p):
    direction, moment = p.ray_direction.clone(), p.ray_moment.clone()
    direction[1] = direction[1] @ ROTATION.T
    shift = torch.tensor([0.3, 0.1, -0.2]).expand_as(direction[1])
    moment[1] = 2 * moment[1] @ ROTATION.T + torch.linalg.cross(shift, direction[1])
    return replace(p, ray_direction=direction, ray_moment=moment)


SYMMETRIES = {
    "points": moved_points,
    "disparity": moved_disparity,
    "rays": moved_rays,
    "order": lambda p: chosen(p, torch.arange(len(p.windows)).flip(0)),
    "twice": lambda p: chosen(p, torch.arange(len(p.windows)).repeat_interleave(2)),
}


@pytest.mark.parametrize("name", SYMMETRIES)
def test_the_reconstruction_does_not_move(name):
    predictions = noisy_windows()
    before, after = align(predictions), align(SYMMETRIES[name](predictions))
    np.testing.assert_allclose(after.cam_to_world, before.cam_to_world, atol=1e-6)
    np.testing.assert_allclose(np.log(after.depth / before.depth), 0, atol=1e-2)
    assert after.intrinsics[0, 0, 0] == pytest.approx(before.intrinsics[0, 0, 0], rel=1e-6)


@pytest.mark.parametrize("dead", [1, 2])
def test_a_window_without_weight_does_not_cut_the_chain(dead):
    predictions, truth = exact_windows()
    weight = predictions.weight.clone()
    weight[dead] = 0
    result = align(replace(predictions, weight=weight), config=AlignmentConfig(use_rays=False))
    # frames that the dead window alone holds have no other evidence
    held = int(predictions.windows[[g for g in range(len(weight)) if g != dead]].max()) + 1
    poses = np.linalg.inv(truth[1][:1]) @ truth[1]
    extent = np.ptp(poses[:held, :3, 3], axis=0).max()
    assert pose_metrics(result.cam_to_world[:held], poses[:held]).ate_sim3 < 1e-3 * extent
    assert any(f"Window {dead} " in warning for warning in result.diagnostics["warnings"])


def test_unusable_rays_are_left_out_aloud():
    predictions, truth = exact_windows()
    zero = torch.zeros_like(predictions.ray_direction)
    for direction in (torch.full_like(zero, torch.nan), zero):
        result = align(replace(predictions, ray_direction=direction))
        assert "rays" not in result.diagnostics["terms"]
        assert any("Ray maps" in warning for warning in result.diagnostics["warnings"])
        check(result, truth)
        with pytest.raises(AlignmentError, match="no other modality"):
            align(replace(predictions, ray_direction=direction, points=None, weight=None, disparity=None))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_a_steady_turn_has_no_angular_acceleration(seed):
    generator = torch.Generator().manual_seed(seed)
    turn = 0.2 * torch.randn(3, generator=generator, dtype=torch.float64)
    start = so3_exp(torch.randn(3, generator=generator, dtype=torch.float64))
    steady = so3_exp(torch.arange(7)[:, None] * turn) @ start
    assert angular_acceleration(steady).abs().max() < 1e-10
    jerked = steady.clone()
    jerked[3] = so3_exp(torch.tensor([0.0, 0.05, 0.0], dtype=torch.float64)) @ jerked[3]
    assert angular_acceleration(jerked).norm(dim=-1).max() > 0.05


def test_rotations_of_noisy_windows_are_smooth(shared):
    predictions, case = released_case(shared, noise="hard", seed=11, T=30, world="varied")
    assert pose_metrics(align(predictions).cam_to_world, case["gt_cam_to_world"]).rpe_rotation_deg < 0.5
