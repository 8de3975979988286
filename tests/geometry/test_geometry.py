"""Laws of the geometry, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from geo4d.alignment.joint.guess import fit_similarity_robust
from geo4d.errors import InputError
from geo4d.geometry.camera import intrinsics_from_focal, pixel_rays_cam, project, unproject
from geo4d.geometry.fitting import fit_scale_l1, fit_scale_shift_l1, weighted_median
from geo4d.geometry.pixels import pixel_grid, resize_intrinsics
from geo4d.geometry.plucker import fit_centre, plucker_rays
from geo4d.geometry.rigid import invert_rigid, relative_to_first, rigid, transform_points
from geo4d.geometry.rotation import fit_rotation, rotation_angle, so3_exp, so3_log
from geo4d.geometry.similarity import fit_similarity

seeds = st.integers(0, 2**31)
shapes = st.sampled_from([(), (1,), (2, 3)])


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_rigid(seed, *shape):
    return rigid(so3_exp(randn(seed, *shape, 3)), randn(seed + 1, *shape, 3))


@settings(max_examples=20, deadline=None)
@given(seeds, shapes)
def test_project_undoes_unproject(seed, shape):
    intrinsics = intrinsics_from_focal(20 + randn(seed, *shape).abs() * 30, 7, 11)
    depth = 0.5 + randn(seed + 1, *shape, 7, 11).abs()
    pixels = project(unproject(depth, intrinsics).flatten(-3, -2), intrinsics)
    torch.testing.assert_close(
        pixels.unflatten(-2, (7, 11)), pixel_grid(7, 11, dtype=torch.float64).expand(*shape, 7, 11, 2)
    )


def test_pixel_centres_are_at_one_half():
    grid = pixel_grid(3, 5)
    assert grid[0, 0].tolist() == [0.5, 0.5] and grid[2, 4].tolist() == [4.5, 2.5]
    rays = pixel_rays_cam(intrinsics_from_focal(torch.tensor(10.0), 3, 5), 3, 5)
    assert rays[1, 2].tolist() == [0.0, 0.0, 1.0]


def test_resized_intrinsics_see_the_same_rays():
    intrinsics = intrinsics_from_focal(torch.tensor(10.0, dtype=torch.float64), 4, 6)
    large = pixel_rays_cam(resize_intrinsics(intrinsics, (4, 6), (12, 18)), 12, 18)[1::3, 1::3]
    torch.testing.assert_close(large, pixel_rays_cam(intrinsics, 4, 6))


@settings(max_examples=20, deadline=None)
@given(seeds, shapes)
def test_rigid_transforms_form_a_group(seed, shape):
    transform, points = random_rigid(seed, *shape), randn(seed + 5, *shape, 6, 3)
    torch.testing.assert_close(transform_points(invert_rigid(transform), transform_points(transform, points)), points)
    path = random_rigid(seed, 4)
    first = relative_to_first(path)
    torch.testing.assert_close(first[0], torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(path[:1] @ first, path)


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([1e-9, 1e-4, 0.3, 1.0]))
def test_exponential_and_logarithm(seed, size):
    vector = torch.nn.functional.normalize(randn(seed, 5, 3), dim=-1) * size
    torch.testing.assert_close(so3_log(so3_exp(vector)), vector, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(
        rotation_angle(so3_exp(vector)), torch.full((5,), size, dtype=torch.float64), atol=1e-12, rtol=1e-8
    )


@settings(max_examples=20, deadline=None)
@given(seeds, shapes)
def test_camera_to_rays_to_camera(seed, shape):
    intrinsics = intrinsics_from_focal(torch.full(shape, 9.0, dtype=torch.float64), 5, 7)
    pose = random_rigid(seed, *shape)
    direction, moment = plucker_rays(intrinsics, pose, 5, 7)
    assert (direction * moment).sum(-1).abs().max() < 1e-12
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones_like(direction[..., 0]))
    torch.testing.assert_close(fit_centre(direction.flatten(-3, -2), moment.flatten(-3, -2)), pose[..., :3, 3])
    own, _ = plucker_rays(intrinsics, torch.eye(4, dtype=torch.float64).expand_as(pose), 5, 7)
    rotation = fit_rotation(own.flatten(-3, -2), direction.flatten(-3, -2))
    torch.testing.assert_close(rotation, pose[..., :3, :3])


def test_released_ray_map_cases(shared):
    import sys

    sys.path.insert(0, str(shared / "compat" / "raymap"))
    import cases

    direction, moment, _pose, _ = (torch.from_numpy(np.asarray(x)) for x in cases.load("384x512_noisy"))
    reference = np.load(shared / "compat" / "raymap" / "384x512_noisy.npz")
    d, m = (x[0].permute(1, 2, 3, 0).double() for x in (direction, moment))
    crop = (d.shape[2] - d.shape[1]) // 2
    d, m = (x[:, :, crop : crop + x.shape[1]].flatten(1, 2) for x in (d, m))
    unit = torch.nn.functional.normalize(d, dim=-1)
    rotation = fit_rotation(unit[:1].expand_as(unit), unit)
    np.testing.assert_allclose(rotation.numpy(), reference["R"], atol=1e-4)
    np.testing.assert_allclose(fit_centre(unit, m).numpy(), reference["centers"], atol=0.02)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_umeyama_is_exact_and_robust(seed):
    points = randn(seed, 60, 3)
    rotation, shift, scale = so3_exp(randn(seed + 1, 3)), randn(seed + 2, 3), 0.3 + randn(seed + 3).abs()
    target = scale * points @ rotation.T + shift
    exact = fit_similarity(points, target, torch.ones(60, dtype=torch.float64))
    torch.testing.assert_close(exact.apply(points), target)
    target[:12] += 5.0
    robust = fit_similarity_robust(points, target, torch.ones(60, dtype=torch.float64))
    torch.testing.assert_close(robust.apply(points)[12:], target[12:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n", [2, 5, 60])
def test_least_absolute_deviations_equal_a_linear_programme(n):
    rng = np.random.default_rng(n)
    for _ in range(5):
        x, w = rng.normal(size=n) ** 3, rng.random(n) + 0.1
        y = 2 * x + rng.standard_cauchy(n)
        scale, shift = fit_scale_shift_l1(x, y, w)
        value = (w * np.abs(scale * x + shift - y)).sum()
        equations = np.c_[x, -x, np.ones(n), -np.ones(n), -np.eye(n), np.eye(n)]
        best = linprog(np.r_[0, 0, 0, 0, w, w], A_eq=equations, b_eq=y).fun
        assert value <= best + 1e-8 * max(best, 1)


def test_fits_of_degenerate_data():
    assert fit_scale_shift_l1(np.full(5, 2.0), np.arange(5.0)) == (0.0, 2.0)
    assert weighted_median(np.array([1.0, 5.0, 9.0]), np.array([0.1, 0.1, 5.0])) == 9.0
    assert fit_scale_l1(np.array([1.0, 2.0, 0.0]), np.array([3.0, 6.0, 1.0])) == 3.0
    with pytest.raises(InputError, match="no valid pixel"):
        fit_scale_shift_l1(np.zeros(0), np.zeros(0))
