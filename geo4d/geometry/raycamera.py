"""The camera of a ray map, two ways (method 6): as the released script finds it, and as the paper writes it."""

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
MIN_PIXELS = 4  # two equations each for the eight free numbers of a homography
MIN_STIFFNESS = 1e-11  # least over largest eigenvalue of the normal matrix, below which pixels determine no homography
MAX_STEPS = 50  # about five are taken; a start far off (an extreme focal length, wild rays) takes more
STEP_TOLERANCE = 1e-12  # of a homography of norm 1


def released_ray_cameras(direction: Float[Tensor, "v h w 3"], moment: Float[Tensor, "v h w 3"]) -> Float[Tensor, "v 4 4"]:
    """cam_to_win of a window's frames from raw maps, as the released script has it (compat 10).

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
    """Intrinsics (pixels) and cam_to_win of every frame for itself, as the paper has it but for what is minimised.

    Centre by Eq. 6; H = K R as in Eq. 7, then RQ decomposition; K is upper triangular, its skew is what the rays say. Eq. 7's
    algebraic cost under |H| = 1 shrinks H d, noise and all, and so shifts K by pixels on noisy maps; here H minimises the angles,
    sum w |normalize(H^-1 p) - d|^2 for pixels p. A pixel counts if its weight is positive and its rays and weight are finite; the
    others may hold anything, nan included. Wild rays pull, but by a bounded cost.

    Raises InputError if in a frame fewer than four pixels count, they do not spread in two directions, or the map is mirrored.
    """
    height, width = direction.shape[-3:-1]
    weights = torch.ones_like(direction[..., 0]) if weight is None else weight
    unit, moments, share = _countable(direction.flatten(-3, -2), moment.flatten(-3, -2), weights.flatten(-2, -1))
    to_canonical = _canonical(height, width, unit)
    pixels = pixel_grid(height, width, device=unit.device, dtype=torch.float64).flatten(0, 1)
    pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=-1) @ to_canonical.T
    _check_spread(unit, pixels, share)
    intrinsics, world_to_cam = _rq(torch.linalg.inv(_fit_pixel_rays(unit, pixels, share)))
    intrinsics = torch.linalg.inv(to_canonical) @ intrinsics
    pose = rigid(world_to_cam.mT, fit_centre(unit, moments, share))
    return (intrinsics / intrinsics[..., 2:, 2:]).to(direction.dtype), pose.to(direction.dtype)


def _countable(
    direction: Float[Tensor, "*b n 3"], moment: Float[Tensor, "*b n 3"], weight: Float[Tensor, "*b n"]
) -> tuple[Float[Tensor, "*b n 3"], Float[Tensor, "*b n 3"], Float[Tensor, "*b n"]]:
    """Unit directions, moments and weights that sum to 1, float64, with zeros where a pixel does not count.

    Raises InputError if fewer than four pixels of a frame count.
    """
    direction, moment, weight = direction.double(), moment.double(), weight.double()
    counts = direction.isfinite().all(-1) & moment.isfinite().all(-1) & weight.isfinite() & (weight > 0)
    number = counts.sum(-1)
    if bool((number < MIN_PIXELS).any()):
        raise InputError(
            f"A frame's ray maps need at least {MIN_PIXELS} pixels with finite rays and a finite positive weight, "
            f"but one has {int(number.min())}; look at its maps and weights or leave the frame out."
        )
    # replaced, not multiplied by zero: 0 * nan is nan
    direction, moment = (value.where(counts[..., None], 0.0) for value in (direction, moment))
    weight = weight.where(counts, 0.0)
    weight = weight / weight.amax(dim=-1, keepdim=True)  # first, so that the sum neither overflows nor vanishes
    return normalize(direction, dim=-1), moment, weight / weight.sum(dim=-1, keepdim=True)


def _check_spread(unit: Float[Tensor, "*b n 3"], pixels: Float[Tensor, "n 3"], share: Float[Tensor, "*b n"]) -> None:
    """Raise InputError if the rays of a frame are parallel or in one plane, or its pixels on one line."""
    rays = torch.linalg.eigvalsh(torch.einsum("...n,...ni,...nj->...ij", share, unit, unit))[..., 0]  # ascending
    grid = torch.linalg.eigvalsh(torch.einsum("...n,ni,nj->...ij", share, pixels, pixels))[..., 0]
    if bool(((rays < MIN_RAY_SPREAD) | (grid < MIN_STIFFNESS)).any()):
        raise InputError(
            "The rays of a frame must spread in two directions, but are parallel, in one plane or from pixels on one line and "
            "determine no camera; look at its maps and weights or leave the frame out."
        )


def _canonical(height: int, width: int, like: Tensor) -> Float[Tensor, "3 3"]:
    """Pixels to a centred frame in units of the longer side, so that the least-squares problem is well conditioned."""
    side = max(height, width)
    rows = [[1 / side, 0.0, -width / (2 * side)], [0.0, 1 / side, -height / (2 * side)], [0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def _fit_pixel_rays(unit: Float[Tensor, "*b n 3"], pixels: Float[Tensor, "n 3"], share: Float[Tensor, "*b n"]) -> Float[Tensor, "*b 3 3"]:
    """G = (K R)^-1 of norm 1, canonical pixels to directions, that minimises sum w |normalize(G p) - d|^2; det G > 0.

    The noise sits in d, so d is what is predicted: a fit with noise on both sides of its products is biased. Levenberg-Marquardt
    from the linear regression of d on the pixels' unit rays. Raises InputError if G is not determined or mirrors.
    """
    rays = normalize(pixels, dim=-1)
    onto = torch.einsum("...n,...ni,nj->...ij", share, unit, rays)
    found = _unit_norm(onto @ torch.linalg.inv(torch.einsum("...n,ni,nj->...ij", share, rays, rays)))
    cost, normal, slope = _linearise(found, unit, pixels, share)
    damping = torch.full_like(cost, 1e-3)
    identity = torch.eye(9, dtype=unit.dtype, device=unit.device)
    for _ in range(MAX_STEPS):
        scale = normal.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        flat = found.flatten(-2, -1)
        gauge = flat[..., :, None] * flat[..., None, :]  # the scale of G changes nothing: hold it
        step = -torch.linalg.solve(normal + scale * (gauge + damping[..., None, None] * identity), slope[..., None])[..., 0]
        tried = _unit_norm(found + step.unflatten(-1, (3, 3)))
        new_cost, new_normal, new_slope = _linearise(tried, unit, pixels, share)
        better = new_cost < cost
        found = tried.where(better[..., None, None], found)
        normal, slope = new_normal.where(better[..., None, None], normal), new_slope.where(better[..., None], slope)
        # a frame has ended if its step is nothing, or no longer lowers a cost that rounding alone still changes
        ended = (step.abs().amax(-1) < STEP_TOLERANCE) | (~better & (new_cost - cost <= 1e-13 * cost))
        cost = new_cost.where(better, cost)
        damping = (damping / 30).where(better, damping * 10).clamp(1e-15, 1e6)
        if bool(ended.all()):
            break
    stiffness = torch.linalg.eigvalsh(normal)
    if bool((stiffness[..., 1] < MIN_STIFFNESS * stiffness[..., -1]).any()):  # [..., 0] is the scale's
        raise InputError(
            "The pixels of a frame must hold four of which no three are on one line, but do not and determine no camera; "
            "look at its weights or leave the frame out."
        )
    if bool((torch.linalg.det(found) <= 0).any()):
        raise InputError(
            "The ray directions of a frame must be those of a camera with +x right, +y down and +z forward, but are mirrored "
            "(their homography has a negative determinant); undo the flip of the map or of a direction axis."
        )
    return found


def _unit_norm(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    return matrix / torch.linalg.matrix_norm(matrix, keepdim=True)


def _linearise(
    found: Float[Tensor, "*b 3 3"], unit: Float[Tensor, "*b n 3"], pixels: Float[Tensor, "n 3"], share: Float[Tensor, "*b n"]
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b 9 9"], Float[Tensor, "*b 9"]]:
    """Half the cost at G, the Gauss-Newton normal matrix, and the slope, over the entries of G row by row."""
    ahead = pixels @ found.mT
    length = ahead.norm(dim=-1, keepdim=True)
    ahead = ahead / length
    gap = ahead - unit
    cost = (share * gap.square().sum(-1)).sum(-1) / 2
    across = gap - ahead * (ahead * gap).sum(-1, keepdim=True)
    slope = ((share[..., None] / length * across).mT @ pixels).flatten(-2, -1)
    # the derivative of normalize(g) is (I - a a^T) / |g| with a = g / |g|, so the matrix is sum w / |g|^2 (I - a a^T) (x) p p^T
    root = ahead * (share.sqrt()[..., None] / length)
    root = (root[..., :, None] * pixels[:, None, :]).flatten(-2, -1)  # (*b, n, 9)
    along = root.mT @ root
    whole = torch.einsum("...ikil->...kl", along.unflatten(-1, (3, 3)).unflatten(-3, (3, 3)))  # |a| = 1
    identity = torch.eye(3, dtype=unit.dtype, device=unit.device)
    normal = torch.einsum("ij,...kl->...ikjl", identity, whole).flatten(-4, -3).flatten(-2, -1) - along
    return cost, normal, slope


def _rq(matrix: Float[Tensor, "*b 3 3"]) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3 3"]]:
    """Upper triangular factor with a positive diagonal, and rotation: the QR decomposition of the matrix read backwards."""
    q, r = torch.linalg.qr(matrix.flip(-2).mT)
    upper, rotation = r.mT.flip(-1).flip(-2), q.mT.flip(-2)
    sign = torch.sign(upper.diagonal(dim1=-2, dim2=-1))
    return upper * sign[..., None, :], rotation * sign[..., :, None]
