"""Rigid transforms as 4x4 matrices, named `<from>_to_<to>`."""

from __future__ import annotations

import torch

from geo4d._typing import Float, Tensor


def rigid(rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """The 4x4 matrix of x -> R x + t."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def invert_rigid(transform: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """The inverse, by transposing the rotation."""
    rotation_inverse = transform[..., :3, :3].mT
    return rigid(rotation_inverse, -(rotation_inverse @ transform[..., :3, 3:])[..., 0])


def transform_points(transform: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n 3"]:
    """Applies a rigid transform to a list of points."""
    return points @ transform[..., :3, :3].mT + transform[..., None, :3, 3]


def relative_to_first(cam_to_world: Float[Tensor, "*b t 4 4"]) -> Float[Tensor, "*b t 4 4"]:
    """The same cameras in the frame of the first of them."""
    return invert_rigid(cam_to_world[..., :1, :, :]) @ cam_to_world
