"""Rotations: exponential and logarithm, angles, the best rotation between two sets of directions."""

from __future__ import annotations

import torch

from geo4d._typing import Float, Tensor


def skew(v: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Matrix of the cross product with v, so that the matrix times x is v cross x."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def so3_exp(v: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation about v by |v| radians (Rodrigues), smooth at zero."""
    square = v.square().sum(-1)[..., None, None]
    angle = square.clamp_min(1e-24).sqrt()
    small = square < 1e-8
    a = torch.where(small, 1 - square / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / square.clamp_min(1e-24))
    k = skew(v)
    return torch.eye(3, dtype=v.dtype, device=v.device) + a * k + b * (k @ k)


def so3_log(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """The rotation vector, length below pi; near pi the axis loses precision."""
    r = rotation
    axis = torch.stack([r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], dim=-1) / 2
    sine = axis.norm(dim=-1, keepdim=True)
    cosine = (r.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2
    angle = torch.atan2(sine, cosine)
    return axis * torch.where(sine > 1e-9, angle / sine.clamp_min(1e-12), torch.ones_like(sine))


def rotation_angle(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Angle in radians, 0 to pi."""
    return so3_log(rotation).norm(dim=-1)


def fit_rotation(
    source: Float[Tensor, "*b n 3"], target: Float[Tensor, "*b n 3"], weight: Float[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b 3 3"]:
    """The rotation R that minimises sum w |R source - target|^2 (orthogonal Procrustes)."""
    weighted = target if weight is None else target * weight[..., None]
    u, _, vt = torch.linalg.svd(weighted.mT @ source)
    sign = torch.ones_like(u[..., 0])
    sign[..., 2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vt))
    return u @ (sign[..., None] * vt)
