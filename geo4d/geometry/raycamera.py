"""The camera of a ray map, two ways (METHOD section 6): as the released script finds it, and as the paper writes it."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from geo4d._typing import Float, Tensor
from geo4d.errors import InputError
from geo4d.geometry.pixels import pixel_grid
from geo4d.geometry.plucker import fit_centre
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import fit_rotation

MIN_RAY_SPREAD = 1e-6  # second moment across the common direction, below which rays determine no camera


def released_ray_cameras(direction: Float[Tensor, "v h w 3"], moment: Float[Tensor, "v h w 3"]) -> Float[Tensor, "v 4 4"]:
    """cam_to_win of a window's frames from raw maps, as the released script has it (COMPAT section 10).

    The centred square alone is read; the rotation is the one that best turns the first frame's directions into frame i's, so
    the first frame is the reference and all frames share one set of intrinsics; moments are not rescaled. Where the two sides
    differ by an odd number the square is rounded down (the script's is a pixel too wide, which its resampling hides).
    """
    height, width = direction.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = (slice(None), slice(top, top + side), slice(left, left + side))
    unit = normalize(direction[square].flatten(1, 2).double(), dim=-1)
    centre = fit_centre(unit, moment[square].flatten(1, 2).double())
    rotation = fit_rotation(unit[:1].expand_as(unit), unit)
    return rigid(rotation, centre).to(direction.dtype)


def fit_ray_camera(
    direction: Float[Tensor, "*b h w 3"], moment: Float[Tensor, "*b h w 3"], weight: Float[Tensor, "*b h w"] | None = None
) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 4 4"]]:
    """Intrinsics (pixels) and cam_to_win of every frame for itself, as the paper has it.

    Centre by Eq. 6; H = K R by Eq. 7, min sum w |H d x u|^2 over |H| = 1 with u the pixel's own ray, as the eigenvector of a
    9x9 matrix, then RQ decomposition; K is upper triangular, its skew is what the rays say. Not robust: many wild rays pull H
    towards the collapsed map that sends every ray to the centre. Raises InputError if values are not finite or the rays do
    not spread in two directions.
    """
    height, width = direction.shape[-3:-1]
    unit = normalize(direction.flatten(-3, -2).double(), dim=-1)
    moments = moment.flatten(-3, -2).double()
    weights = torch.ones_like(unit[..., 0]) if weight is None else weight.flatten(-2, -1).double()
    _check(unit, moments, weights)
    to_canonical = _canonical(height, width, unit)
    pixels = pixel_grid(height, width, device=unit.device, dtype=torch.float64).flatten(0, 1)
    pixels = _rays(pixels, to_canonical)
    homography = _fit_homography(unit, pixels, weights)
    intrinsics, world_to_cam = _rq(homography)
    intrinsics = torch.linalg.inv(to_canonical) @ intrinsics
    pose = rigid(world_to_cam.mT, fit_centre(unit, moments, weights))
    return (intrinsics / intrinsics[..., 2:, 2:]).to(direction.dtype), pose.to(direction.dtype)


def _check(unit: Tensor, moment: Tensor, weight: Tensor) -> None:
    if not all(bool(value.isfinite().all()) for value in (unit, moment, weight)):
        raise InputError("The ray maps or their weights are not finite; mask or replace what is not.")
    share = weight / weight.sum(dim=-1, keepdim=True).clamp_min(1e-30)
    spread = torch.linalg.eigvalsh(torch.einsum("...n,...ni,...nj->...ij", share, unit, unit))  # ascending
    if bool((spread[..., 0] < MIN_RAY_SPREAD).any()):
        raise InputError("The rays of a frame are parallel or in one plane and determine no camera; look at the ray maps.")


def _canonical(height: int, width: int, like: Tensor) -> Float[Tensor, "3 3"]:
    """Pixels to a centred frame in units of the longer side, so that the least-squares problem is well conditioned."""
    side = max(height, width)
    rows = [[1 / side, 0.0, -width / (2 * side)], [0.0, 1 / side, -height / (2 * side)], [0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def _rays(pixels: Float[Tensor, "n 2"], to_canonical: Float[Tensor, "3 3"]) -> Float[Tensor, "n 3"]:
    """Unit rays of pixels in the canonical frame."""
    return normalize(torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=-1) @ to_canonical.T, dim=-1)


def _fit_homography(unit: Float[Tensor, "*b n 3"], pixels: Float[Tensor, "n 3"], weight: Float[Tensor, "*b n"]) -> Float[Tensor, "*b 3 3"]:
    """H of Eq. 7, with H d on the pixels' side and det H > 0."""
    # [u]x H d = 0: with h = rows of H, the normal matrix is sum w (I - u u^T) (x) d d^T, since |u| = 1
    across = torch.eye(3, dtype=unit.dtype, device=unit.device) - pixels[:, :, None] * pixels[:, None, :]  # (n, 3, 3)
    normal = torch.einsum("...n,nij,...nk,...nl->...ikjl", weight, across, unit, unit).flatten(-4, -3).flatten(-2, -1)
    homography = torch.linalg.eigh(normal)[1][..., 0].unflatten(-1, (3, 3))
    side = torch.einsum("...ni,...ij,nj->...n", unit, homography.mT, pixels)
    return homography * torch.sign((weight * side).sum(-1))[..., None, None]


def _rq(matrix: Float[Tensor, "*b 3 3"]) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3 3"]]:
    """Upper triangular factor with a positive diagonal, and rotation: the QR decomposition of the matrix read backwards."""
    q, r = torch.linalg.qr(matrix.flip(-2).mT)
    upper, rotation = r.mT.flip(-1).flip(-2), q.mT.flip(-2)
    sign = torch.sign(upper.diagonal(dim1=-2, dim2=-1))
    return upper * sign[..., None, :], rotation * sign[..., :, None]
