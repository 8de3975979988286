"""Two views of points that stand still: essential matrix, relative camera, homography; all of it kornia's.

Nothing here is robust: every pair of pixels is believed, by its weight.
"""

from __future__ import annotations

from kornia.geometry import find_homography_dlt
from kornia.geometry.epipolar import (
    find_fundamental,
    motion_from_essential_choose_solution,
    project_to_essential,
    sampson_epipolar_distance,
)

from geo4d._typing import Float, Int, Tensor
from geo4d.errors import InputError
from geo4d.geometry.camera import pixel_rays
from geo4d.geometry.rigid import rigid

MIN_EPIPOLAR, MIN_HOMOGRAPHY = 8, 4  # pairs of pixels: one and two linear equations each for eight free numbers


def essential_matrix(
    pixels_i: Float[Tensor, "b n 2"],
    pixels_j: Float[Tensor, "b n 2"],
    intrinsics_i: Float[Tensor, "b 3 3"],
    intrinsics_j: Float[Tensor, "b 3 3"],
    weight: Float[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b 3 3"]:
    """E with y^T E x = 0 for the rays x = K_i^-1 (u, v, 1) and y of the same points (eight-point algorithm).

    Points in one plane, or a camera that only turned, leave it undetermined. Raises InputError for fewer than eight
    points, or pixels that are not finite.
    """
    _check(pixels_i, pixels_j, MIN_EPIPOLAR, "An essential matrix")
    rays = [pixel_rays(p, k)[..., :2] for p, k in ((pixels_i, intrinsics_i), (pixels_j, intrinsics_j))]
    return project_to_essential(find_fundamental(rays[0], rays[1], weight))


def relative_camera(
    pixels_i: Float[Tensor, "b n 2"],
    pixels_j: Float[Tensor, "b n 2"],
    intrinsics_i: Float[Tensor, "b 3 3"],
    intrinsics_j: Float[Tensor, "b 3 3"],
    weight: Float[Tensor, "b n"] | None = None,
) -> tuple[Float[Tensor, "b 4 4"], Int[Tensor, "b"]]:
    """cam_i_to_cam_j with a translation of length 1, and how many points lie in front of both cameras then.

    See `essential_matrix`, and for what it raises.
    """
    essential = essential_matrix(pixels_i, pixels_j, intrinsics_i, intrinsics_j, weight)
    mask = None if weight is None else weight > 0
    rotation, translation, _, ahead = motion_from_essential_choose_solution(
        essential, intrinsics_i, intrinsics_j, pixels_i, pixels_j, mask
    )
    return rigid(rotation, translation[..., 0]), ahead


def homography(
    pixels_i: Float[Tensor, "b n 2"], pixels_j: Float[Tensor, "b n 2"], weight: Float[Tensor, "b n"] | None = None
) -> Float[Tensor, "b 3 3"]:
    """H, 1 at its end, that maps pixels of i to those of j.

    Of points in one plane, or of a camera that turns where it stands. Raises InputError for fewer than four points, or
    pixels that are not finite.
    """
    _check(pixels_i, pixels_j, MIN_HOMOGRAPHY, "A homography")
    return find_homography_dlt(pixels_i, pixels_j, weight)


def sampson_distance(
    fundamental: Float[Tensor, "b 3 3"], pixels_i: Float[Tensor, "b n 2"], pixels_j: Float[Tensor, "b n 2"]
) -> Float[Tensor, "b n"]:
    """How far pairs of pixels are from obeying x_j^T F x_i = 0, to first order, in pixels.

    At the epipole itself, nan.
    """
    return sampson_epipolar_distance(pixels_i, pixels_j, fundamental, squared=True, eps=0.0).sqrt()


def _check(pixels_i: Tensor, pixels_j: Tensor, least: int, what: str) -> None:
    number = pixels_i.shape[-2]
    if number < least:
        raise InputError(f"{what} needs at least {least} points seen in both images; got {number}.")
    if not bool(pixels_i.isfinite().all() and pixels_j.isfinite().all()):
        raise InputError(f"{what} needs finite pixels; leave out points that were not seen in both images.")
