"""The pinhole camera: rays, projection, unprojection. Camera frame: x right, y down, z forward."""

from __future__ import annotations

import torch

from geo4d._typing import Float, Tensor
from geo4d.geometry.pixels import pixel_grid


def intrinsics_from_focal(focal_px: Float[Tensor, "*b"], height: int, width: int) -> Float[Tensor, "*b 3 3"]:
    """Square pixels, principal point at the image centre."""
    zero, one = torch.zeros_like(focal_px), torch.ones_like(focal_px)
    rows = (focal_px, zero, one * (width / 2), zero, focal_px, one * (height / 2), zero, zero, one)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def pixel_rays_cam(intrinsics: Float[Tensor, "*b 3 3"], height: int, width: int) -> Float[Tensor, "*b h w 3"]:
    """The ray K^-1 (u, v, 1)^T of every pixel, in the camera frame, with z = 1 (not unit length)."""
    pixels = pixel_grid(height, width, device=intrinsics.device, dtype=intrinsics.dtype)  # (h, w, 2)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    return torch.einsum("...ij,hwj->...hwi", torch.linalg.inv(intrinsics), homogeneous)


def unproject(depth: Float[Tensor, "*b h w"], intrinsics: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b h w 3"]:
    """Points of a z-depth map in the camera frame; invalid depths (nan, inf) stay invalid."""
    return depth[..., None] * pixel_rays_cam(intrinsics, depth.shape[-2], depth.shape[-1])


def project(points_cam: Float[Tensor, "*b n 3"], intrinsics: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b n 2"]:
    """Pixels (u, v) of points in the camera frame; points at or behind the camera centre give inf, nan or mirrored pixels."""
    homogeneous = points_cam @ intrinsics.mT
    return homogeneous[..., :2] / homogeneous[..., 2:]
