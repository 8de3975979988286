"""The camera that sees known points at given pixels: a start for what refines it, since every pixel is believed."""

from __future__ import annotations

import torch
from kornia.geometry import solve_pnp_dlt

from geo4d._typing import Float, Tensor
from geo4d.errors import InputError
from geo4d.geometry.camera import pixel_rays
from geo4d.geometry.rigid import invert_rigid, rigid

MIN_POINTS = 6  # with a weight: two linear equations each for the eleven free numbers of a projection
MIN_THICKNESS = 1e-4  # of the points, by their own size, below which they count as lying in one plane


def camera_from_points(
    points_world: Float[Tensor, "b n 3"],
    pixels: Float[Tensor, "b n 2"],
    intrinsics: Float[Tensor, "b 3 3"],
    weight: Float[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b 4 4"]:
    """cam_to_world by the direct linear transform, exact if pixels are.

    Raises InputError if fewer than six points of a camera carry weight, if they lie in one plane, or if anything is not
    finite.
    """
    counts = torch.ones_like(pixels[..., 0]) if weight is None else weight
    least = int((counts != 0).sum(-1).min()) if len(counts) else MIN_POINTS
    if least < MIN_POINTS:
        raise InputError(f"A camera needs at least {MIN_POINTS} known points with a weight; got {least}.")
    if not all(bool(value.isfinite().all()) for value in (points_world, pixels, counts)):
        raise InputError("A camera needs finite points, pixels and weights; leave out points that were not seen.")
    centred = (points_world - points_world.mean(-2, keepdim=True)) * (counts != 0)[..., None]
    spread = torch.linalg.svdvals(centred)
    if bool((spread[..., 2] <= MIN_THICKNESS * spread[..., 0]).any()):
        raise InputError(
            "The known points of a camera lie in one plane or on a line, which leaves it undetermined; give others too."
        )
    # kornia would drop the skew of K
    plane = torch.eye(3, dtype=pixels.dtype, device=pixels.device).expand_as(intrinsics)
    found = solve_pnp_dlt(points_world, pixel_rays(pixels, intrinsics)[..., :2], plane, weight, svd_eps=0.0)
    return invert_rigid(rigid(found[..., :3], found[..., 3]))
