"""The terms of the joint problem: residuals, their robust cost, and their normal equations.

Per sampled pixel three residuals: two across the viewing ray, f x / z - pixel (paper Eq. 4 seen from the camera: there depth
noise cannot move it, and a longer focal length cannot make them small), and one along it, log z against the pixel's own log depth,
which is eliminated in closed form (its scalar Schur complement). Further terms: ray cameras against the trajectory (Eq. 8), an
acceleration prior on centres and rotations in place of Eq. 9, which would punish motion itself, and what is known beforehand.
Losses are robust; scales come from the residuals' medians.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.joint.observations import Observations
from geo4d.alignment.joint.unknowns import Columns, Unknowns
from geo4d.geometry.rotation import skew, so3_log
from geo4d.solver.banded import NormalEquations
from geo4d.solver.robust import Loss, learn_loss

SCALE_FLOOR = 1e-7
RAY_SHARE = 0.3  # weight of one ray camera, in sampled pixels
SHARED_ERROR = 14.0  # sampled pixels that err together: what is known beforehand counts for as many
MIN_DEPTH = 1e-4
APART_SHARE = 0.25  # of the windows' disagreement about cameras, below which residuals do not count as smaller
SMOOTHEST = 0.05  # of the windows' own accelerations, below which a smooth path does not count as smoother
ROWS_AT_ONCE = 2**17  # residuals whose derivatives are held at a time
CAUCHY = Loss()
ACROSS, ALONG = Loss(size=1.0), Loss(size=2.0)  # narrow: with wider ones, a large minority of wild points moves cameras


@dataclass(frozen=True)
class Known:
    """What is given beforehand; see `geo4d.alignment.priors`."""

    poses: Tensor | None = None  # (t, 4, 4) cam_to_world in their own world
    turn_sigma: float = 0.0  # radians; 0 with centre_sigma 0: the cameras are fixed
    centre_sigma: float = 0.0  # in the poses' unit
    log_depth: Tensor | None = None  # (t, p) at the sampled pixels, nan where unknown
    log_depth_sigma: float = 0.05
    one_scale: bool = False  # poses and depth share their unit

    @property
    def fixes_cameras(self) -> bool:
        """Whether the poses are not to be moved."""
        return self.poses is not None and self.turn_sigma == 0 and self.centre_sigma == 0


@dataclass(frozen=True)
class Raw:
    """What the windows' own cameras are like before they are fitted to one another; medians."""

    bend: float = 0.0  # acceleration of the centres, in units of the depth around them
    turn: float = 0.0  # angular acceleration, radians
    apart: float = 0.0  # angle between a window's camera and the mean of all windows', radians


@dataclass(frozen=True)
class Problem:
    """Observations with everything else that stays fixed during a solve."""

    observations: Observations
    ray_cameras: Tensor | None
    config: AlignmentConfig
    log_focal: Float[Tensor, "t"]  # where the windows' first frames put it: there depth noise cannot move it, so it is held there
    log_focal_sigma: float  # how firmly; 0: exactly
    known: Known = field(default_factory=Known)
    zooms: bool = False
    ray_log_scale: Tensor | None = None  # (g,) first guess, around which the scale of ray cameras that show no path is kept
    raw: Raw = field(default_factory=lambda: Raw())

    def columns(self) -> Columns:
        """Places of the unknowns."""
        o, k = self.observations, self.known
        softly = k.poses is not None and not k.fixes_cameras
        return Columns(
            o.num_frames, len(o.windows), self.ray_cameras is not None, self.zooms, softly, k.log_depth is not None,
            k.one_scale and softly,
        )  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """Residuals and what is needed for their derivatives."""

    across: Float[Tensor, "g v p 2"]
    along: Float[Tensor, "g v p"]
    log_z: Float[Tensor, "g v p"]
    local: Float[Tensor, "g v p 3"]
    world: Float[Tensor, "g v p 3"]
    rotation_error: Tensor | None = None  # (g, v, 3)
    centre_error: Tensor | None = None
    turn_from_given: Tensor | None = None  # (t, 3)
    centre_from_given: Tensor | None = None  # (t, 3) in the poses' unit
    depth_from_given: Tensor | None = None  # (g, v, p), 0 where unknown


@dataclass(frozen=True)
class Scales:
    """Median absolute residual of each kind, and the losses."""

    across: Tensor
    along: Tensor
    rotation: Tensor
    centre: Tensor
    acceleration: Tensor
    turning: Tensor
    ray_unit: Tensor | None = None  # (g,) by which each window's ray cameras are brought to the unit of its points
    across_loss: Loss = ACROSS
    along_loss: Loss = ALONG


def evaluate(problem: Problem, unknowns: Unknowns, along_weight: Float[Tensor, "g v p"]) -> Evaluation:
    """All residuals; `along_weight` defines the eliminated depth as the weighted mean of log z."""
    o, w = problem.observations, unknowns.windows
    world = w.scale[:, None, None, None] * o.points @ w.rotation.mT[:, None] + w.translation[:, None, None]
    rotation, centre = unknowns.rotation[o.windows], unknowns.centre[o.windows]
    local = (world - centre[:, :, None]) @ rotation
    local = torch.cat([local[..., :2], local[..., 2:].clamp_min(MIN_DEPTH)], dim=-1)
    log_z = local[..., 2].log()
    focal = unknowns.log_focal.exp()[o.windows][..., None, None]
    across = focal * local[..., :2] / local[..., 2:] - o.pixels[o.windows]
    mean = pixel_mean(o, log_z, along_weight)
    errors: dict[str, Tensor] = {}
    if unknowns.rays is not None and problem.ray_cameras is not None:
        r, cameras = unknowns.rays, problem.ray_cameras
        errors["rotation_error"] = so3_log(rotation.mT @ r.rotation[:, None] @ cameras[..., :3, :3])
        errors["centre_error"] = (centre - r.translation[:, None]) @ r.rotation / r.scale[:, None, None] - cameras[..., :3, 3]
    known = problem.known
    if known.poses is not None and unknowns.poses is not None:
        s = unknowns.poses
        errors["turn_from_given"] = so3_log(unknowns.rotation.mT @ s.rotation @ known.poses[:, :3, :3])
        errors["centre_from_given"] = (s.apply(known.poses[None, :, :3, 3])[0] - unknowns.centre) / s.scale
    if known.log_depth is not None:
        given = known.log_depth[o.windows]
        errors["depth_from_given"] = torch.where(given.isfinite(), log_z - given - unknowns.log_depth_scale, 0.0)
    return Evaluation(across, log_z - mean[o.windows], log_z, local, world, **errors)


def pixel_mean(observations: Observations, values: Float[Tensor, "g v p"], weight: Float[Tensor, "g v p"]) -> Float[Tensor, "t p"]:
    """Weighted mean over all windows that see a pixel of a frame."""
    t, p = observations.num_frames, values.shape[-1]
    frames = observations.windows.flatten()
    total = torch.zeros(t, p, dtype=values.dtype).index_add_(0, frames, (weight * values).flatten(0, 1))
    return total / torch.zeros(t, p, dtype=values.dtype).index_add_(0, frames, weight.flatten(0, 1)).clamp_min(1e-30)


def _median(values: Tensor, weight: Tensor | None = None) -> Tensor:
    chosen = values if weight is None else values[weight > 0]
    return chosen.median().clamp_min(SCALE_FLOOR) if chosen.numel() else torch.tensor(1.0, dtype=torch.float64)


def measure_scales(problem: Problem, unknowns: Unknowns, e: Evaluation) -> Scales:
    """Medians of the residuals as they are, and with an adaptive loss its shapes."""
    weight = problem.observations.weight
    one = torch.tensor(1.0, dtype=torch.float64)
    unit = problem.observations.local_unit(unknowns.windows.scale)
    bend = (acceleration(unknowns.centre) / unit[1:-1, None]).norm(dim=-1)
    turn = angular_acceleration(unknowns.rotation).norm(dim=-1)
    # a camera can fit one of few windows exactly: residuals that vanish must not raise that window's weight above all others
    across, along = _median(e.across.norm(dim=-1), weight).clamp_min(APART_SHARE * problem.raw.apart), one
    # against the plain mean: the robust one may choose one of two windows at every pixel, and half of all residuals would be 0
    apart = torch.where(e.along != 0, e.log_z - pixel_mean(problem.observations, e.log_z, weight)[problem.observations.windows], 0.0)
    if (apart != 0).any():
        along = _median(apart.abs()[apart != 0])
    losses = {}
    if problem.config.loss == "adaptive":
        losses["across_loss"] = learn_loss((e.across.square().sum(-1) / across**2).flatten(), weight.flatten(), 2)
        losses["along_loss"] = learn_loss((apart / along).square().flatten(), (weight * (e.along != 0)).flatten(), 1)
    ray_unit = None if unknowns.rays is None else unknowns.rays.scale / (unknowns.windows.scale * problem.observations.extent)
    centre_error = None if e.centre_error is None or ray_unit is None else e.centre_error * ray_unit[:, None, None]
    return Scales(
        across=across,
        along=along,
        rotation=one if e.rotation_error is None else _median(e.rotation_error.norm(dim=-1)).clamp_min(1e-6),
        centre=one if centre_error is None else _median(centre_error.norm(dim=-1)).clamp_min(1e-6),
        # smoothing lowers what it is scaled by; without a floor it would end in a camera that does not move
        acceleration=bend.median().clamp_min(SMOOTHEST * problem.raw.bend + 1e-6) if len(bend) else one,
        turning=turn.median().clamp_min(SMOOTHEST * problem.raw.turn + 1e-6) if len(turn) else one,
        ray_unit=ray_unit,
        **losses,
    )


def acceleration(centre: Float[Tensor, "t c"]) -> Float[Tensor, "s c"]:
    """Second differences of the camera centres."""
    return centre[2:] - 2 * centre[1:-1] + centre[:-2]


def angular_acceleration(rotation: Float[Tensor, "t 3 3"]) -> Float[Tensor, "s 3"]:
    """Differences of the rotation from each frame to the next, as vectors in the world; radians."""
    return so3_log(rotation[1:] @ rotation[:-1].mT).diff(dim=0)


def cost(problem: Problem, unknowns: Unknowns, e: Evaluation, s: Scales) -> float:
    """The robust objective."""
    c, o, known = problem.config, problem.observations, problem.known
    weight, pixels = o.weight, o.weight.shape[-1]
    total = (weight * s.across_loss.value(e.across.square().sum(-1) / s.across**2)).sum()
    total = total + (weight * s.along_loss.value((e.along / s.along).square())).sum()
    if e.rotation_error is not None and e.centre_error is not None and s.ray_unit is not None:
        shift = e.centre_error * s.ray_unit[:, None, None]
        total = total + RAY_SHARE * pixels * CAUCHY.value(e.rotation_error.square().sum(-1) / s.rotation**2).sum()
        total = total + RAY_SHARE * pixels * CAUCHY.value(shift.square().sum(-1) / s.centre**2).sum()
    if unknowns.rays is not None and problem.ray_log_scale is not None:
        total = total + RAY_SHARE * pixels * (unknowns.rays.scale.log() - problem.ray_log_scale).square().sum()
    unit = o.local_unit(unknowns.windows.scale)
    bend, turn = acceleration(unknowns.centre) / unit[1:-1, None], angular_acceleration(unknowns.rotation)
    total = total + c.smoothness * pixels * CAUCHY.value(bend.square().sum(-1) / s.acceleration**2).sum()
    total = total + c.turn_smoothness * pixels * CAUCHY.value(turn.square().sum(-1) / s.turning**2).sum()
    if e.turn_from_given is not None and e.centre_from_given is not None:
        apart = e.turn_from_given.square().sum() / known.turn_sigma**2 + e.centre_from_given.square().sum() / known.centre_sigma**2
        total = total + SHARED_ERROR * apart
    if e.depth_from_given is not None:
        total = total + (_given_depth_weight(problem) * CAUCHY.value((e.depth_from_given / known.log_depth_sigma).square())).sum()
    total = total + _focal_stiffness(problem) * (unknowns.log_focal - problem.log_focal).square().sum()
    if problem.zooms:
        total = total + _zoom_stiffness(problem) * acceleration(unknowns.log_focal[:, None]).square().sum()
    return float(total)


def _focal_stiffness(problem: Problem) -> float:
    """Of each frame: the first estimate counts as if a tenth of all pixels said so."""
    o = problem.observations
    return 0.1 * float(o.weight.sum()) / o.num_frames / max(problem.log_focal_sigma, 1e-9) ** 2


def _zoom_stiffness(problem: Problem) -> float:
    """Of the bends of a focal length that varies."""
    o = problem.observations
    return float(o.weight.sum()) / o.num_frames / problem.config.zoom_bend_sigma**2


def _given_depth_weight(problem: Problem) -> Tensor:
    """Weight of each residual against the given depth, (g, v, p)."""
    o, known = problem.observations, problem.known
    assert known.log_depth is not None
    return torch.where(known.log_depth[o.windows].isfinite(), (o.weight > 0).double(), 0.0)


def normal_equations(problem: Problem, unknowns: Unknowns, e: Evaluation, s: Scales, columns: Columns, system: NormalEquations) -> None:
    """Fills J^T W J and J^T W r of the reweighted problem, the pixels' depths eliminated."""
    _add_points(problem, unknowns, e, s, columns, system)
    if e.rotation_error is not None:
        _add_rays(problem, unknowns, e, s, columns, system)
    _add_smoothness(problem, unknowns, s, columns, system)
    _add_focal(problem, unknowns, columns, system)
    if e.turn_from_given is not None and columns.has_poses:
        _add_poses(problem, unknowns, e, columns, system)


def _add_points(problem: Problem, unknowns: Unknowns, e: Evaluation, s: Scales, columns: Columns, system: NormalEquations) -> None:
    """The residuals of the points, frame by frame: frames seen by equally many windows go together, in pieces."""
    o = problem.observations
    flat = o.windows.flatten()
    order = torch.argsort(flat, stable=True)
    counts = torch.bincount(flat, minlength=o.num_frames)
    first = counts.cumsum(0) - counts
    for count in counts.unique().tolist():
        if count == 0:
            continue
        frames = torch.nonzero(counts == count)[:, 0]
        size = max(1, ROWS_AT_ONCE // (3 * count * o.points.shape[2]))
        for some in frames.split(size):
            rows = order[first[some][:, None] + torch.arange(count)]  # (f, r): which window and place, flattened
            _add_frames(problem, unknowns, e, s, (some, rows), columns, system)


def _add_frames(
    problem: Problem, unknowns: Unknowns, e: Evaluation, s: Scales, where: tuple[Tensor, Tensor], columns: Columns, system: NormalEquations
) -> None:
    o, known = problem.observations, problem.known
    frames, rows = where
    window = rows // o.windows.shape[1]

    def take(values: Tensor) -> Tensor:
        return values.flatten(0, 1)[rows]

    across, along, weight = take(e.across), take(e.along), take(o.weight)
    w_across = weight * s.across_loss.weight(across.square().sum(-1) / s.across**2) / s.across**2
    w_along = weight * s.along_loss.weight((along / s.along).square()) / s.along**2
    jacobian = point_jacobian(unknowns, take(e.local), take(e.world), frames, window)  # (f, r, p, 3, 14)
    residual = torch.cat([across, along[..., None]], dim=-1)
    by_along = jacobian[..., 2, :]  # before what is known is added: the elimination concerns the free depth alone
    w_rows, g_rows = w_along, w_along * along
    if e.depth_from_given is not None:
        given = take(e.depth_from_given)
        w_given = take(_given_depth_weight(problem)) * CAUCHY.weight((given / known.log_depth_sigma).square()) / known.log_depth_sigma**2
        w_rows, g_rows = w_along + w_given, w_along * along + w_given * given
        _add_given_depth(columns, system, (frames, window), by_along, w_given, given)
    weights = torch.stack([w_across, w_across, w_rows], dim=-1)
    weighted = jacobian * weights[..., None]
    pulls = torch.cat([w_across[..., None] * residual[..., :2], g_rows[..., None]], dim=-1)
    flat, flat_weighted = jacobian.flatten(2, 3), weighted.flatten(2, 3)
    index = torch.cat(
        [
            columns.camera(frames)[:, None].expand(-1, rows.shape[1], -1),
            columns.focal(frames)[:, None, None].expand(-1, rows.shape[1], 1),
            columns.window(window),
        ],
        dim=-1,
    )
    system.add(index, flat.mT @ flat_weighted, (flat.mT @ pulls.flatten(2, 3)[..., None])[..., 0])
    # log depth of each pixel: its coupling to the camera and to every window that sees it
    pull = w_along[..., None] * by_along
    cross = torch.cat([pull[..., :6].sum(1), pull[..., 7:].movedim(1, 2).flatten(2)], dim=-1)  # (f, p, 6 + 7 r)
    total = w_along.sum(1).clamp_min(1e-30)
    scaled = cross / total[..., None]
    both = torch.cat([columns.camera(frames), columns.window(window).flatten(1)], dim=-1)
    system.add(both, -cross.mT @ scaled, -(scaled.mT @ (w_along * along).sum(1)[..., None])[..., 0])


def point_jacobian(unknowns: Unknowns, local: Tensor, world: Tensor, frames: Tensor, window: Tensor) -> Float[Tensor, "f r p 3 14"]:
    """Derivatives of the residuals across (2) and of log z by camera (6), log focal (1) and window (7).

    Each residual changes with the world point by some vector a; by a turn about a centre at arm d, by a x d.
    """
    rotation, focal = unknowns.rotation[frames], unknowns.log_focal.exp()[frames]
    z = local[..., 2:]
    slope = local[..., :2] / z
    axes = rotation.mT[:, None, None]  # rows: the camera's axes in the world
    image = focal[:, None, None, None, None] * (axes[..., :2, :] - slope[..., None] * axes[..., 2:, :]) / z[..., None]
    a = torch.cat([image, axes[..., 2:, :] / z[..., None]], dim=-2)  # (f, r, p, 3, 3)
    from_camera = (world - unknowns.centre[frames][:, None, None])[..., None, :].expand_as(a)
    arm = (world - unknowns.windows.translation[window][:, :, None])[..., None, :].expand_as(a)
    by_focal = torch.cat([focal[:, None, None, None] * slope, torch.zeros_like(z)], dim=-1)[..., None]
    by_scale = (a * arm).sum(-1, keepdim=True)
    return torch.cat([torch.linalg.cross(a, from_camera), -a, by_focal, by_scale, -torch.linalg.cross(a, arm), a], dim=-1)


def _add_given_depth(
    columns: Columns, system: NormalEquations, where: tuple[Tensor, Tensor], by_along: Tensor, weight: Tensor, residual: Tensor
) -> None:
    """What couples the scale of the given depth to the rest; the rest's own blocks are added with those of the points."""
    frames, window = where
    scale = torch.full((*window.shape, 1), columns.depth)
    index = torch.cat([columns.camera(frames)[:, None].expand(-1, window.shape[1], -1), columns.window(window), scale], dim=-1)
    own = torch.cat([by_along[..., :6], by_along[..., 7:]], dim=-1)
    beside = -(weight[..., None] * own).sum(2)  # (f, r, 13)
    block = torch.zeros(*window.shape, 14, 14, dtype=torch.float64)
    block[..., :13, 13] = block[..., 13, :13] = beside
    block[..., 13, 13] = weight.sum(-1)
    gradient = torch.zeros(*window.shape, 14, dtype=torch.float64)
    gradient[..., 13] = -(weight * residual).sum(-1)
    system.add(index, block, gradient)


def _add_rays(problem: Problem, unknowns: Unknowns, e: Evaluation, s: Scales, columns: Columns, system: NormalEquations) -> None:
    """Eq. 8: rotations and centres of the ray cameras against the trajectory."""
    o, r = problem.observations, unknowns.rays
    assert r is not None and problem.ray_cameras is not None and e.rotation_error is not None and e.centre_error is not None
    assert s.ray_unit is not None
    share = RAY_SHARE * o.weight.shape[-1]
    back = unknowns.rotation[o.windows].mT  # (g, v, 3, 3)
    own = columns.ray(torch.arange(len(o.windows)))[:, None].expand(*o.windows.shape, 7)
    index = torch.cat([columns.camera(o.windows), own], dim=-1)
    zero = torch.zeros_like(back)
    turn = torch.cat([-back, zero, zero[..., :1], back, zero], dim=-1)  # by camera (6) and similarity (7)
    # the trajectory in the unit of the ray cameras: in the world's, a smaller world would always fit better
    into = (r.rotation.mT / r.scale[:, None, None])[:, None].expand_as(back)
    arm = unknowns.centre[o.windows] - r.translation[:, None]
    shift = torch.cat([zero, into, -(into @ arm[..., None]), into @ skew(arm), -into], dim=-1) * s.ray_unit[:, None, None, None]
    for jacobian, residual, scale in ((turn, e.rotation_error, s.rotation), (shift, e.centre_error * s.ray_unit[:, None, None], s.centre)):
        w = share * CAUCHY.weight(residual.square().sum(-1) / scale**2) / scale**2
        weighted = w[..., None, None] * jacobian
        system.add(index, jacobian.mT @ weighted, (weighted.mT @ residual[..., None])[..., 0])
    if problem.ray_log_scale is not None:
        own = columns.ray(torch.arange(len(o.windows)))[:, :1]
        off = (r.scale.log() - problem.ray_log_scale)[:, None]
        system.add(own, torch.full((len(own), 1, 1), share, dtype=torch.float64), share * off)


def _similarity_jacobians(back: Float[Tensor, "*b 3 3"], arm: Float[Tensor, "*b 3"]) -> tuple[Tensor, Tensor]:
    """Of the turn and of the shift between a camera and one placed by a similarity: by camera (6) and similarity (7)."""
    zero, identity = torch.zeros_like(back), torch.eye(3, dtype=back.dtype).expand_as(back)
    turn = torch.cat([-back, zero, torch.zeros_like(back[..., :1]), back, zero], dim=-1)
    return turn, torch.cat([zero, -identity, arm[..., None], -skew(arm), identity], dim=-1)


def _add_poses(problem: Problem, unknowns: Unknowns, e: Evaluation, columns: Columns, system: NormalEquations) -> None:
    """Cameras against the given ones, which one similarity brings to the world."""
    known, s = problem.known, unknowns.poses
    assert known.poses is not None and s is not None and e.turn_from_given is not None and e.centre_from_given is not None
    arm = s.scale * (s.rotation @ known.poses[:, :3, 3:])[..., 0]
    frames = torch.arange(len(arm))
    index = torch.cat([columns.camera(frames), columns.poses.expand(len(arm), 7)], dim=-1)
    turn, shift = _similarity_jacobians(unknowns.rotation.mT, arm)
    shift = shift / s.scale
    shift[..., 6] -= e.centre_from_given  # the unit that the errors are counted in
    for jacobian, residual, sigma in ((turn, e.turn_from_given, known.turn_sigma), (shift, e.centre_from_given, known.centre_sigma)):
        w = SHARED_ERROR / sigma**2
        system.add(index, w * jacobian.mT @ jacobian, w * (jacobian.mT @ residual[..., None])[..., 0])


def _add_smoothness(problem: Problem, unknowns: Unknowns, s: Scales, columns: Columns, system: NormalEquations) -> None:
    """Accelerations. The turns' derivatives are those of small turns; the acceptance test answers for the rest.

    Centres count in the unit of the depth around them, which is solved for too: in the world's unit, a scene that shrinks
    along the video would move more smoothly.
    """
    o, c = problem.observations, problem.config
    turn = angular_acceleration(unknowns.rotation)
    if len(turn) == 0:
        return
    frames = torch.arange(len(turn))
    cameras = torch.stack([columns.camera(frames + k) for k in range(3)], dim=1)  # (s, 3, 6)
    identity = torch.eye(3, dtype=torch.float64)
    second = torch.cat([identity, -2 * identity, identity], dim=-1)
    w = c.turn_smoothness * o.weight.shape[-1] * CAUCHY.weight(turn.square().sum(-1) / s.turning**2) / s.turning**2
    system.add(cameras[..., :3].flatten(1), w[:, None, None] * (second.T @ second), w[:, None] * (turn @ second))
    unit = o.local_unit(unknowns.windows.scale)[1:-1, None]
    bend = acceleration(unknowns.centre) / unit
    w = c.smoothness * o.weight.shape[-1] * CAUCHY.weight(bend.square().sum(-1) / s.acceleration**2) / s.acceleration**2
    jacobian = torch.cat([second / unit[..., None], -bend[..., None]], dim=-1)  # (s, 3, 10)
    index = torch.cat([cameras[..., 3:].flatten(1), columns.window(o.nearest_window[1:-1])[:, :1]], dim=-1)
    system.add(index, w[:, None, None] * (jacobian.mT @ jacobian), w[:, None] * (jacobian.mT @ bend[..., None])[..., 0])


def _add_focal(problem: Problem, unknowns: Unknowns, columns: Columns, system: NormalEquations) -> None:
    """The first estimate of the focal length, and the smoothness of one that varies."""
    frames = torch.arange(problem.observations.num_frames)
    index = columns.focal(frames)[:, None]
    stiffness = _focal_stiffness(problem)
    system.add(
        index,
        torch.full((len(frames), 1, 1), stiffness, dtype=torch.float64),
        stiffness * (unknowns.log_focal - problem.log_focal)[:, None],
    )
    if problem.zooms and len(frames) > 2:
        second = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)
        bend = acceleration(unknowns.log_focal[:, None])
        w = _zoom_stiffness(problem)
        index = columns.focal(frames[:-2, None] + torch.arange(3))
        system.add(index, (w * second[:, None] * second).expand(len(bend), 3, 3), w * bend * second)
