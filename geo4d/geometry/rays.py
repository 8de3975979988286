"""The camera that rays tell of.

Centre (paper Eq. 6), rotation and intrinsics (Eq. 7), and which frames tell nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kornia.geometry.epipolar import KRt_from_projection
from torch.nn.functional import normalize, pad

from geo4d._typing import Bool, Float, Tensor
from geo4d.geometry.plucker import fit_centre
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import fit_rotation

MIN_RAYS = 4  # two equations each for the eight free numbers of a homography
MIN_SPREAD = 1e-6  # second moment across the common direction, below which rays determine no camera
MIN_GAP = 1e-11  # between the best homography's share of the rays and the next one's
ROUNDS, OUTLYING = 3, 3.0  # of reweighting; typical deviations from which a ray counts less (Cauchy)
REASONS = (
    f"fewer than {MIN_RAYS} of its rays are finite and not zero",
    "its rays are parallel or in one plane",
    "its pixels hold no four of which no three are on one line",
    "its rays are mirrored: they must be those of a camera with x right, y down and z forward",
    "the first frame of its window, to which it belongs, tells no camera",
)


@dataclass(frozen=True)
class RayCameras:
    """Cameras of frames (*b), float64; those that `problems` names mean nothing, but are finite."""

    cam_to_win: Float[Tensor, "*b 4 4"]
    intrinsics: Float[Tensor, "*b 3 3"]  # in the unit of the pixels; upper triangular, its skew is what the rays say
    problems: dict[tuple[int, ...], str]  # by the frame's index: why its rays tell no camera

    def describe(self) -> str:
        """The frames whose rays tell no camera, and why: "frame 0, 3: its rays are parallel or in one plane; ..."."""
        return "; ".join(f"frame {', '.join(map(str, index))}: {reason}" for index, reason in self.problems.items())


def camera_from_rays(
    direction: Float[Tensor, "*b n 3"],
    moment: Float[Tensor, "*b n 3"],
    pixels: Float[Tensor, "n 2"],
    *,
    shared_intrinsics: bool = False,
) -> RayCameras:
    """The camera of every frame.

    Directions and moments m = o x d are those of unit rays, or means of them over blocks: a ray counts by its squared
    length, and not at all if it is not finite. Intrinsics are fitted robustly, centre and shared rotation by least
    squares.

    Args:
        direction: in the frame of the window.
        moment: in that frame.
        pixels: (u, v) at which the rays leave the image, the same in all frames.
        shared_intrinsics: the axis before n is of the frames of a window, which share their intrinsics and the first of
            which is the frame of reference, as in the released script. A rotation is then the one that best turns the
            first frame's directions into the frame's own; it errs up to seven times less than one found with the
            frame's own intrinsics.
    """
    direction, moment = direction.double(), moment.double()
    finite = direction.isfinite().all(-1) & moment.isfinite().all(-1)
    # replaced, not multiplied by zero: 0 * nan is nan
    direction, moment = (value.where(finite[..., None], 0.0) for value in (direction, moment))
    few = (direction != 0).any(-1).sum(-1) < MIN_RAYS
    second = direction.mT @ direction / direction.square().sum((-1, -2)).clamp_min(1e-300)[..., None, None]
    flat = torch.linalg.eigvalsh(second)[..., 0] < MIN_SPREAD
    to_canonical = _canonical(pixels)
    canonical = pad(pixels.double(), (0, 1), value=1.0) @ to_canonical.T
    # what tells nothing is replaced by some camera, so that no matrix is singular
    direction = direction.where(~(few | flat)[..., None, None], normalize(canonical, dim=-1))
    if shared_intrinsics:
        first_to_frame = fit_rotation(direction[..., :1, :, :].expand_as(direction), direction)
        seen = (direction @ first_to_frame).mean(-3, keepdim=True)  # all frames' rays from the first camera
        homography, undetermined, mirrored = (
            value.expand(*few.shape, *value.shape[few.ndim :]) for value in _homography(seen, canonical)
        )
        orphan = (few | flat)[..., :1].expand(few.shape)
    else:
        homography, undetermined, mirrored = _homography(direction, canonical)
        orphan = torch.zeros_like(few)
    intrinsics, decomposed, _ = KRt_from_projection(pad(homography, (0, 1)).reshape(-1, 3, 4))
    intrinsics = torch.linalg.inv(to_canonical) @ intrinsics.view(homography.shape)
    rotation = first_to_frame if shared_intrinsics else decomposed.view(homography.shape).mT
    if shared_intrinsics:  # then a camera's rotation and centre do not follow from its intrinsics
        undetermined, mirrored = torch.zeros_like(undetermined), torch.zeros_like(mirrored)
    problems = _named((few, flat, undetermined, mirrored, orphan))
    return RayCameras(rigid(rotation, fit_centre(direction, moment)), intrinsics / intrinsics[..., 2:, 2:], problems)


def _named(masks: tuple[Bool[Tensor, "*b"], ...]) -> dict[tuple[int, ...], str]:
    """By the frame's index, the first of the reasons that hold."""
    number = sum(mask.long().mul(1 << k) for k, mask in enumerate(masks))
    found = {}
    for index in torch.nonzero(number).tolist():
        bits = int(number[tuple(index)])
        found[tuple(index)] = REASONS[(bits & -bits).bit_length() - 1]
    return found


def _canonical(pixels: Float[Tensor, "n 2"]) -> Float[Tensor, "3 3"]:
    """Pixels to a centred frame in units of the longer side, so that the least-squares problem is well conditioned."""
    low, high = pixels.double().amin(0), pixels.double().amax(0)
    side = (high - low).amax().clamp_min(1e-300)
    middle = (low + high) / 2
    return torch.cat(
        [torch.cat([torch.eye(2).to(middle), -middle[:, None]], dim=1) / side, middle.new_tensor([[0.0, 0.0, 1.0]])]
    )


def _homography(
    direction: Float[Tensor, "*b n 3"], canonical: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "*b 3 3"], Bool[Tensor, "*b"], Bool[Tensor, "*b"]]:
    """H = K R as in Eq. 7, whether the rays leave it undetermined, and whether it mirrors.

    Rays that do not fit count less.
    """
    forward, undetermined = _pixels_to_rays(direction, canonical)
    length = direction.norm(dim=-1)
    for _ in range(ROUNDS):
        along = (direction * normalize(canonical @ forward.mT, dim=-1)).sum(
            -1
        ) / length  # cosines; nan where there is no ray
        off = torch.where(along < 0, 1.0, (1 - along.square()).clamp_min(0.0).sqrt())
        scale = OUTLYING * off.nanmedian(dim=-1, keepdim=True).values.clamp_min(1e-9)
        share = 1 / (1 + (off / scale).nan_to_num().square())
        forward = _pixels_to_rays(direction * share.sqrt()[..., None], canonical)[0]
    mirrored = ~undetermined & (torch.linalg.det(forward) <= 0)
    usable = ~(undetermined | mirrored)[..., None, None]
    return torch.linalg.inv(forward.where(usable, torch.eye(3).to(forward))), undetermined, mirrored


def _pixels_to_rays(
    direction: Float[Tensor, "*b n 3"], canonical: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "*b 3 3"], Bool[Tensor, "*b"]]:
    """G = (K R)^-1, and whether the rays leave it undetermined; an identity where the pixels alone do.

    Eq. 7's cost, and that of kornia's find_homography_dlt, are algebraic under |H| = 1: noise in the rays then shifts K
    by pixels. Here G minimises sum w |d x G p|^2 under sum w |d|^2 |G p|^2 = 1, where noise adds the same to every G; w
    = 1 / |p|^2 makes the cost one of angles. With the square root of the constraint's matrix, G is the greatest
    eigenvector of a matrix of 9 x 9.
    """
    unit = normalize(canonical, dim=-1)
    weighted = unit * direction.norm(dim=-1, keepdim=True)
    constraint = weighted.mT @ weighted
    spread = torch.linalg.eigvalsh(constraint)
    thin = spread[..., 0] < MIN_GAP * spread[..., 2]
    identity = torch.eye(3).to(constraint)
    root = torch.linalg.cholesky(constraint.where(~thin[..., None, None], identity))
    white = torch.linalg.solve_triangular(root, unit.mT.expand(*root.shape[:-2], -1, -1), upper=False)
    products = (direction[..., :, None] * white.mT[..., None, :]).flatten(-2, -1)  # (*b, n, 9)
    values, vectors = torch.linalg.eigh(products.mT @ products)
    forward = vectors[..., -1].unflatten(-1, (3, 3)) @ torch.linalg.inv(root)
    along = (direction * (canonical @ forward.mT)).sum((-1, -2))
    forward = forward * torch.where(along < 0, -1.0, 1.0)[..., None, None]
    return forward.where(~thin[..., None, None], identity), thin | (values[..., -1] - values[..., -2] < MIN_GAP)
