"""The pinhole camera: rays, projection, unprojection, lens distortion. Camera frame: x right, y down, z forward.

Pixel centres are at +0.5. kornia's parts are put together here with products by K and its inverse: its own depth_to_3d
and project_points count from integers, drop the skew of K, and take points within 1e-8 of the camera's plane as they
are.
"""

from __future__ import annotations

import torch
from kornia.geometry.calibration import distort_points
from kornia.geometry.calibration import undistort_points as remove_distortion
from kornia.geometry.camera import project_points_z1
from kornia.geometry.conversions import convert_points_to_homogeneous
from kornia.geometry.depth import depth_to_3d_v2

from geo4d._typing import Float, Tensor
from geo4d.errors import InputError
from geo4d.geometry.pixels import pixel_grid

UNDISTORT_ROUNDS = 200  # of a fixed point that gains a digit in some three rounds at the border of a wide lens
UNDISTORTED = 1e-9  # focal lengths by which a point may miss where it came from


def intrinsics_from_focal(focal_px: Float[Tensor, "*b"], height: int, width: int) -> Float[Tensor, "*b 3 3"]:
    """Square pixels, principal point at the image centre."""
    zero, one = torch.zeros_like(focal_px), torch.ones_like(focal_px)
    rows = (focal_px, zero, one * (width / 2), zero, focal_px, one * (height / 2), zero, zero, one)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def pixel_rays(pixels: Float[Tensor, "*b n 2"], intrinsics: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b n 3"]:
    """The rays K^-1 (u, v, 1)^T of pixels (u, v), in the camera frame, with z = 1 (not unit length)."""
    return convert_points_to_homogeneous(pixels) @ torch.linalg.inv(intrinsics).mT


def pixel_rays_cam(intrinsics: Float[Tensor, "*b 3 3"], height: int, width: int) -> Float[Tensor, "*b h w 3"]:
    """The same of every pixel of an image."""
    pixels = pixel_grid(height, width, device=intrinsics.device, dtype=intrinsics.dtype).flatten(0, 1)
    return pixel_rays(pixels.expand(*intrinsics.shape[:-2], -1, -1), intrinsics).unflatten(-2, (height, width))


def unproject(depth: Float[Tensor, "*b h w"], intrinsics: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b h w 3"]:
    """Points of a z-depth map in the camera frame; invalid depths (nan, inf) stay invalid."""
    rays = pixel_rays_cam(intrinsics, depth.shape[-2], depth.shape[-1])
    return depth_to_3d_v2(depth, intrinsics, xyz_grid=rays)


def project(points_cam: Float[Tensor, "*b n 3"], intrinsics: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b n 2"]:
    """Pixels (u, v) of points in the camera frame.

    Points at or behind the camera centre give inf, nan or mirrored pixels.
    """
    return project_points_z1(points_cam @ intrinsics.mT)


def undistort_points(
    pixels: Float[Tensor, "*b n 2"], intrinsics: Float[Tensor, "*b 3 3"], distortion: Float[Tensor, "*b k"]
) -> Float[Tensor, "*b n 2"]:
    """Where pixels of a distorted image would lie in a pinhole image with the same intrinsics.

    Args:
        pixels: in the distorted image, centres at +0.5.
        intrinsics: of both images.
        distortion: OpenCV's coefficients k1, k2, p1, p2 [, k3 [, k4, k5, k6 [, s1, s2, s3, s4 [, tau_x, tau_y]]]].

    Raises:
        InputError: another number of coefficients, or pixels that the lens cannot show (it folds over before it gets
            there).
    """
    if distortion.shape[-1] not in (4, 5, 8, 12, 14):
        raise InputError(
            f"A distortion has 4, 5, 8, 12 or 14 coefficients in OpenCV's order; got {distortion.shape[-1]}."
        )
    seen = pixel_rays(pixels, intrinsics)[..., :2]
    plane = torch.eye(3, dtype=seen.dtype, device=seen.device).expand_as(intrinsics)
    straight = remove_distortion(seen, plane, distortion, num_iters=UNDISTORT_ROUNDS)
    tolerance = max(UNDISTORTED, 8 * torch.finfo(seen.dtype).eps)
    missed = ~(
        (distort_points(straight, plane, distortion) - seen).abs().amax(-1) <= tolerance * (1 + seen.abs().amax(-1))
    )
    if bool(missed.any()):
        raise InputError(
            f"{int(missed.sum())} of {missed.numel()} pixels cannot be freed of this distortion, which shows nothing "
            "there; check the coefficients and their order, or leave out what lies near the border."
        )
    return project(convert_points_to_homogeneous(straight), intrinsics)
