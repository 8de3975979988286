"""Plücker rays of a camera: unit direction d and moment m = o x d (method 2, method 6)."""

from __future__ import annotations

import torch

from geo4d._typing import Float, Tensor
from geo4d.geometry.camera import pixel_rays_cam


def plucker_rays(
    intrinsics: Float[Tensor, "*b 3 3"], cam_to_win: Float[Tensor, "*b 4 4"], height: int, width: int
) -> tuple[Float[Tensor, "*b h w 3"], Float[Tensor, "*b h w 3"]]:
    """Unit directions and moments of every pixel's ray, in the frame that `cam_to_win` leads to."""
    rays = pixel_rays_cam(intrinsics, height, width)
    directions = torch.nn.functional.normalize(
        torch.einsum("...ij,...hwj->...hwi", cam_to_win[..., :3, :3], rays), dim=-1
    )
    centres = cam_to_win[..., None, None, :3, 3].expand_as(directions)
    return directions, torch.linalg.cross(centres, directions)


def fit_centre(
    direction: Float[Tensor, "*b n 3"], moment: Float[Tensor, "*b n 3"], weight: Float[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b 3"]:
    """The camera centre o that minimises sum w |o x d - m|^2 (paper Eq. 6).

    Directions need not have unit length. The 3x3 system is singular if all rays are parallel.
    """
    w = torch.ones_like(direction[..., 0]) if weight is None else weight
    # |o x d - m|^2 = |[d] o + m|^2 with [d] the cross-product matrix; [d]^T [d] = |d|^2 I - d d^T, [d]^T m = m x d
    square = (w * direction.square().sum(-1)).sum(-1)[..., None, None] * torch.eye(
        3, dtype=direction.dtype, device=direction.device
    )
    normal = square - torch.einsum("...n,...ni,...nj->...ij", w, direction, direction)
    right = (w[..., None] * torch.linalg.cross(direction, moment)).sum(-2)
    return torch.linalg.solve(normal, right[..., None])[..., 0]
