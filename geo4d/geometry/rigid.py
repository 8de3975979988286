"""Rigid transforms as 4x4 matrices, named `<from>_to_<to>`: kornia's, with any leading axes."""

from __future__ import annotations

from kornia.geometry import linalg
from kornia.geometry.conversions import Rt_to_matrix4x4

from geo4d._typing import Float, Tensor


def rigid(rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """The 4x4 matrix of x -> R x + t."""
    return Rt_to_matrix4x4(rotation.reshape(-1, 3, 3), translation.reshape(-1, 3, 1)).view(*rotation.shape[:-2], 4, 4)


def invert_rigid(transform: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """The inverse, by transposing the rotation."""
    return linalg.inverse_transformation(transform.reshape(-1, 4, 4)).view(transform.shape)


def transform_points(transform: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n 3"]:
    """Applies a rigid transform to a list of points."""
    return linalg.transform_points(transform, points)


def relative_to_first(cam_to_world: Float[Tensor, "*b t 4 4"]) -> Float[Tensor, "*b t 4 4"]:
    """The same cameras in the frame of the first of them."""
    # not kornia's relative_transformation: torch.broadcast_shapes in it loads sympy, half a second of every run
    return invert_rigid(cam_to_world[..., :1, :, :]) @ cam_to_world
