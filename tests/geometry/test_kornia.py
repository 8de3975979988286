"""Parts that stand on kornia, or beside it: kornia is the oracle of what is written by hand."""

import kornia.geometry as kornia
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn.functional import interpolate

from geo4d.errors import InputError
from geo4d.geometry.camera import (
    intrinsics_from_focal,
    pixel_rays,
    pixel_rays_cam,
    project,
    undistort_points,
    unproject,
)
from geo4d.geometry.epipolar import essential_matrix, homography, relative_camera
from geo4d.geometry.pixels import pixel_grid
from geo4d.geometry.pnp import camera_from_points
from geo4d.geometry.resample import nearest_pixel, resize_nearest
from geo4d.geometry.rigid import invert_rigid, relative_to_first, rigid, transform_points
from geo4d.geometry.rotation import rotation_angle, so3_exp, so3_log

HALF_PIXEL = torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], dtype=torch.float64)
LENS = torch.tensor([[60.0, 1.5, 45], [0, 65, 30], [0, 0, 1]], dtype=torch.float64)


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 0.1, 2.6, 2.8, 3.14, np.pi - 1e-7, np.pi - 1e-12])
def test_logarithm_at_any_angle(angle: float) -> None:
    """Half turns too: by the antisymmetric part alone the logarithm of a half turn was zero."""
    vectors = angle * torch.nn.functional.normalize(randn(0, 2, 5, 3), dim=-1)
    rotations = torch.from_numpy(Rotation.from_rotvec(vectors.reshape(-1, 3).numpy()).as_matrix()).view(2, 5, 3, 3)
    torch.testing.assert_close(so3_exp(vectors), rotations, atol=1e-14, rtol=0)
    torch.testing.assert_close(so3_log(rotations), vectors, atol=1e-9, rtol=0)
    torch.testing.assert_close(kornia.rotation_matrix_to_axis_angle(rotations), so3_log(rotations), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        rotation_angle(rotations), torch.full((2, 5), angle, dtype=torch.float64), atol=1e-9, rtol=0
    )


def test_relative_poses() -> None:
    path = rigid(so3_exp(randn(1, 6, 3)), randn(2, 6, 3))
    oracle = kornia.relative_transformation(path[:1].expand_as(path), path)
    torch.testing.assert_close(relative_to_first(path), oracle, atol=1e-14, rtol=0)
    torch.testing.assert_close(relative_to_first(path.view(1, 6, 4, 4))[0], oracle, atol=1e-14, rtol=0)


def test_cameras_without_skew() -> None:
    """kornia counts pixels from the first one's centre."""
    intrinsics = intrinsics_from_focal(40 + randn(3, 4).abs(), 6, 9)
    depth = 1 + randn(4, 4, 6, 9).abs()
    points = unproject(depth, intrinsics)
    torch.testing.assert_close(points, kornia.depth.depth_to_3d_v2(depth, intrinsics - HALF_PIXEL), atol=1e-13, rtol=0)
    flat = points.flatten(1, 2)
    torch.testing.assert_close(
        project(flat, intrinsics), kornia.project_points(flat, intrinsics[:, None]), atol=1e-12, rtol=0
    )


def test_skew_and_scenes_in_any_unit() -> None:
    pixels = pixel_grid(5, 8, dtype=torch.float64).flatten(0, 1)
    for unit in (1e-12, 1.0, 1e12):
        points = unit * unproject(1 + randn(5, 5, 8).abs(), LENS).flatten(0, 1)
        torch.testing.assert_close(project(points, LENS), pixels, atol=1e-11, rtol=0)
    assert pixel_rays_cam(LENS, 5, 8)[..., 2].eq(1).all()
    assert project(torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64), LENS).isinf().all()


@pytest.mark.parametrize("coefficients", [4, 5, 8, 12, 14])
def test_undistorted_points_are_seen_where_they_were(coefficients: int) -> None:
    numbers = [-0.25, 0.08, 1e-3, -2e-3, -0.01, 0.02, 0.01, 0.002, 1e-3, 1e-4, -1e-3, 2e-4, 0.01, -0.02]
    distortion = torch.tensor(numbers[:coefficients], dtype=torch.float64)
    straight = 8 * randn(6, 30, 2) + LENS[:2, 2]
    slopes = pixel_rays(straight, LENS)[:, :2]
    plane = torch.eye(3, dtype=torch.float64)
    seen = kornia.calibration.distort_points(slopes, plane, distortion)
    bent = project(torch.cat([seen, torch.ones_like(seen[:, :1])], dim=-1), LENS)
    torch.testing.assert_close(undistort_points(bent, LENS, distortion), straight, atol=1e-7, rtol=0)
    assert (bent - straight).abs().max() > 0.1


def test_distortions_that_cannot_be_undone() -> None:
    far = torch.tensor([[45.0, 30], [400, 300]], dtype=torch.float64)
    with pytest.raises(InputError, match="1 of 2 pixels cannot be freed"):
        undistort_points(far, LENS, torch.tensor([-0.4, 0.0, 0.0, 0.0], dtype=torch.float64))
    with pytest.raises(InputError, match="4, 5, 8, 12 or 14 coefficients"):
        undistort_points(far, LENS, torch.zeros(3, dtype=torch.float64))


def two_views(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points of camera i (2, 20, 3), i_to_j (2, 4, 4), and their pixels in both; two pairs of cameras with skewed K."""
    points = randn(seed, 2, 20, 3) + torch.tensor([0, 0, 6.0])
    shift = torch.nn.functional.normalize(randn(seed + 1, 2, 3), dim=-1)
    i_to_j = rigid(so3_exp(0.2 * randn(seed + 2, 2, 3)), shift)
    lenses = LENS.expand(2, 3, 3)
    return points, i_to_j, project(points, lenses), project(transform_points(i_to_j, points), lenses)


@pytest.mark.parametrize("seed", range(3))
def test_relative_camera_of_two_views(seed: int) -> None:
    _, i_to_j, in_i, in_j = two_views(seed)
    lenses = LENS.expand(2, 3, 3)
    found, ahead = relative_camera(in_i, in_j, lenses, lenses)
    torch.testing.assert_close(found, i_to_j, atol=1e-8, rtol=0)
    assert ahead.tolist() == [20, 20]
    essential = essential_matrix(in_i, in_j, lenses, lenses)
    x, y = (pixel_rays(pixels, lenses) for pixels in (in_i, in_j))
    assert torch.einsum("bni,bij,bnj->bn", y, essential, x).abs().max() < 1e-9
    wrong = in_j.clone()
    wrong[:, 3] += 20
    weight = torch.ones(2, 20, dtype=torch.float64)
    weight[:, 3] = 0
    weighted, ahead = relative_camera(in_i, wrong, lenses, lenses, weight)
    torch.testing.assert_close(weighted, i_to_j, atol=1e-8, rtol=0)
    assert ahead.tolist() == [19, 19]


def test_homography_of_a_camera_that_turns() -> None:
    turn = so3_exp(0.1 * randn(8, 2, 3))
    pixels = 20 * randn(9, 2, 12, 2) + LENS[:2, 2]
    truth = LENS @ turn @ torch.linalg.inv(LENS)
    moved = project(pixel_rays(pixels, LENS.expand(2, 3, 3)) @ turn.mT, LENS.expand(2, 3, 3))
    torch.testing.assert_close(homography(pixels, moved), truth / truth[:, 2:, 2:], atol=1e-8, rtol=0)


def test_two_views_that_say_too_little() -> None:
    _, _, in_i, in_j = two_views(0)
    lenses = LENS.expand(2, 3, 3)
    with pytest.raises(InputError, match="at least 8 points seen in both images; got 7"):
        essential_matrix(in_i[:, :7], in_j[:, :7], lenses, lenses)
    with pytest.raises(InputError, match="at least 4 points"):
        homography(in_i[:, :3], in_j[:, :3])
    in_i[0, 0] = torch.nan
    with pytest.raises(InputError, match="finite pixels"):
        homography(in_i, in_j)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_camera_of_known_points(unit: float) -> None:
    points, i_to_j, _, in_j = two_views(4)
    lenses = LENS.expand(2, 3, 3)
    found = camera_from_points(unit * points, in_j, lenses)
    truth = invert_rigid(i_to_j)
    torch.testing.assert_close(found[:, :3, :3], truth[:, :3, :3], atol=1e-8, rtol=0)
    torch.testing.assert_close(found[:, :3, 3] / unit, truth[:, :3, 3], atol=1e-8, rtol=0)
    in_j[:, 0] += 30
    weight = torch.ones(2, 20, dtype=torch.float64)
    weight[:, 0] = 0
    torch.testing.assert_close(camera_from_points(points, in_j, lenses, weight), truth, atol=1e-8, rtol=0)


def test_points_that_determine_no_camera() -> None:
    points, _, pixels, _ = two_views(4)
    lenses = LENS.expand(2, 3, 3)
    flat = points * torch.tensor([1.0, 1, 0])
    for wrong, message in (
        (points[:, :5], "at least 6 known points"),
        (flat, "in one plane"),
        (points * torch.nan, "finite points"),
    ):
        with pytest.raises(InputError, match=message):
            camera_from_points(wrong, pixels[:, : wrong.shape[1]], lenses)


@pytest.mark.parametrize(("size", "to"), [((6, 9), (12, 27)), ((6, 9), (4, 5)), ((7, 5), (3, 11)), ((1, 1), (3, 2))])
def test_nearest_values_are_those_of_torch(size: tuple[int, int], to: tuple[int, int]) -> None:
    maps = randn(10, 2, *size)
    expected = interpolate(maps[:, None], size=to, mode="nearest-exact")[:, 0]
    np.testing.assert_array_equal(resize_nearest(maps.numpy(), *to), expected.numpy())
    centres = pixel_grid(*to, dtype=torch.float64).flatten(0, 1).numpy()
    row, column = nearest_pixel(centres, to, size)
    np.testing.assert_array_equal(maps[0].numpy()[row, column].reshape(to), expected[0].numpy())
