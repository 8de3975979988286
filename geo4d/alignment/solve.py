"""The joint problem: all cameras, window similarities and the focal length at once, by Levenberg-Marquardt.

Per sampled pixel three residuals: two across the viewing ray, f x / z - pixel (METHOD Eq. 4 seen from the camera: there depth
noise cannot move it, and a longer focal length cannot make them small), and one along it, log z against the pixel's own log depth,
which is eliminated in closed form (its scalar Schur complement). Further terms: ray cameras against the trajectory (Eq. 8) and
an acceleration prior on centres and rotations in place of Eq. 9, which would punish motion itself. Cauchy loss; scales from the
residuals' medians.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.initialise import focal_bounds
from geo4d.alignment.observations import Observations
from geo4d.geometry.rotation import skew, so3_exp, so3_log
from geo4d.geometry.similarity import Similarity

SCALE_FLOOR = 1e-7
CAUCHY = 4.0  # in units of the median residual
RAY_SHARE = 0.3  # weight of one ray camera, in sampled pixels
MIN_DEPTH = 1e-4


@dataclass(frozen=True)
class Unknowns:
    """What is solved for. World: the first camera."""

    rotation: Float[Tensor, "t 3 3"]  # cam_to_world
    centre: Float[Tensor, "t 3"]
    windows: Similarity  # (g,) win_to_world of the points
    log_focal: Float[Tensor, ""]  # of focal length by the longer side
    rays: Similarity | None = None  # (g,) win_to_world of the ray cameras

    @property
    def size(self) -> int:
        """Number of scalars."""
        g = len(self.windows.scale)
        return 6 * len(self.centre) + 7 * g + 1 + (7 * g if self.rays is not None else 0)

    def moved(self, step: Float[Tensor, "n"]) -> Unknowns:
        """The unknowns after a step: rotations from the left, scales by their logarithm."""
        t, g = len(self.centre), len(self.windows.scale)
        camera = step[: 6 * t].unflatten(0, (t, 6))
        window = step[6 * t : 6 * t + 7 * g].unflatten(0, (g, 7))
        rays = self.rays
        if rays is not None:
            rays = _move(rays, step[6 * t + 7 * g + 1 :].unflatten(0, (g, 7)))
        return Unknowns(
            so3_exp(camera[:, :3]) @ self.rotation,
            self.centre + camera[:, 3:],
            _move(self.windows, window),
            self.log_focal + step[6 * t + 7 * g],
            rays,
        )


def _move(similarity: Similarity, step: Float[Tensor, "g 7"]) -> Similarity:
    """Step = (log scale, rotation, translation), scale and rotation about the image of the origin."""
    return Similarity(
        similarity.scale * step[:, 0].exp(), so3_exp(step[:, 1:4]) @ similarity.rotation, similarity.translation + step[:, 4:]
    )


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


@dataclass(frozen=True)
class Scales:
    """Median absolute residual of each kind."""

    across: Tensor
    along: Tensor
    rotation: Tensor
    centre: Tensor
    acceleration: Tensor
    turning: Tensor


@dataclass(frozen=True)
class Problem:
    """Observations with everything else that stays fixed during a solve."""

    observations: Observations
    ray_cameras: Tensor | None
    config: AlignmentConfig
    log_focal: float  # where the windows' first frames put it: there depth noise cannot move it, so it is held there


def evaluate(problem: Problem, unknowns: Unknowns, along_weight: Tensor) -> Evaluation:
    """All residuals; `along_weight` (g, v, p) defines the eliminated depth as the weighted mean of log z."""
    o = problem.observations
    w = unknowns.windows
    world = w.scale[:, None, None, None] * o.points @ w.rotation.mT[:, None] + w.translation[:, None, None]
    rotation, centre = unknowns.rotation[o.windows], unknowns.centre[o.windows]
    local = (world - centre[:, :, None]) @ rotation
    local = torch.cat([local[..., :2], local[..., 2:].clamp_min(MIN_DEPTH)], dim=-1)
    log_z = local[..., 2].log()
    across = unknowns.log_focal.exp() * local[..., :2] / local[..., 2:] - o.pixels
    mean = pixel_mean(o, log_z, along_weight)
    errors: dict[str, Tensor] = {}
    if unknowns.rays is not None and problem.ray_cameras is not None:
        r = unknowns.rays
        cameras = problem.ray_cameras
        errors["rotation_error"] = so3_log(rotation.mT @ r.rotation[:, None] @ cameras[..., :3, :3])
        turned = (r.rotation[:, None] @ cameras[..., :3, 3:])[..., 0]
        errors["centre_error"] = r.scale[:, None, None] * turned + r.translation[:, None] - centre
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
    """Medians of the residuals as they are."""
    weight = problem.observations.weight
    one = torch.tensor(1.0, dtype=torch.float64)
    step = unknowns.centre.diff(dim=0).norm(dim=-1)
    floor = 0.02 * step.median() + 1e-6 if len(step) else one
    bend, turn = acceleration(unknowns.centre).norm(dim=-1), angular_acceleration(unknowns.rotation).norm(dim=-1)
    angle = so3_log(unknowns.rotation[1:] @ unknowns.rotation[:-1].mT).norm(dim=-1)
    turn_floor = 0.02 * angle.median() + 1e-6 if len(angle) else one
    return Scales(
        across=_median(e.across.norm(dim=-1), weight),
        along=_median(e.along.abs()[e.along != 0]) if (e.along != 0).any() else one,
        rotation=one if e.rotation_error is None else _median(e.rotation_error.norm(dim=-1)).clamp_min(1e-6),
        centre=one if e.centre_error is None else _median(e.centre_error.norm(dim=-1)).clamp_min(1e-6),
        acceleration=torch.maximum(bend.median(), floor) if len(bend) else one,
        turning=torch.maximum(turn.median(), turn_floor) if len(turn) else one,
    )


def acceleration(centre: Float[Tensor, "t 3"]) -> Float[Tensor, "s 3"]:
    """Second differences of the camera centres."""
    return centre[2:] - 2 * centre[1:-1] + centre[:-2]


def angular_acceleration(rotation: Float[Tensor, "t 3 3"]) -> Float[Tensor, "s 3"]:
    """Differences of the rotation from each frame to the next, as vectors in the world; radians."""
    return so3_log(rotation[1:] @ rotation[:-1].mT).diff(dim=0)


def _cauchy(square: Tensor) -> Tensor:
    return 1 / (1 + square / CAUCHY**2)


def _loss(square: Tensor) -> Tensor:
    return CAUCHY**2 * torch.log1p(square / CAUCHY**2)


def cost(problem: Problem, unknowns: Unknowns, e: Evaluation, s: Scales) -> float:
    """The robust objective."""
    c, weight = problem.config, problem.observations.weight
    total = (weight * _loss(e.across.square().sum(-1) / s.across**2)).sum()
    total = total + (weight * _loss((e.along / s.along).square())).sum()
    pixels = weight.shape[-1]
    if e.rotation_error is not None and e.centre_error is not None:
        rays = _loss(e.rotation_error.square().sum(-1) / s.rotation**2) + _loss(e.centre_error.square().sum(-1) / s.centre**2)
        total = total + RAY_SHARE * pixels * rays.sum()
    bend, turn = acceleration(unknowns.centre), angular_acceleration(unknowns.rotation)
    total = total + c.smoothness * pixels * _loss(bend.square().sum(-1) / s.acceleration**2).sum()
    total = total + c.turn_smoothness * pixels * _loss(turn.square().sum(-1) / s.turning**2).sum()
    return float(total + _focal_prior(problem) * (unknowns.log_focal - problem.log_focal) ** 2)


def _focal_prior(problem: Problem) -> float:
    """Weight of the focal length's first estimate: as if a tenth of all pixels said so."""
    return 0.1 * float(problem.observations.weight.sum()) / problem.config.focal_log_sigma**2


def normal_equations(problem: Problem, unknowns: Unknowns, e: Evaluation, s: Scales) -> tuple[Tensor, Tensor]:
    """J^T W J and J^T W r of the reweighted problem, the pixels' depths eliminated."""
    o, n = problem.observations, unknowns.size
    g, v = o.windows.shape
    t = o.num_frames
    across, along = _point_jacobians(o, unknowns, e)
    columns = torch.cat(
        [
            o.windows[..., None] * 6 + torch.arange(6),
            (6 * t + 7 * torch.arange(g)[:, None, None] + torch.arange(7)).expand(g, v, 7),
            torch.full((g, v, 1), 6 * t + 7 * g),
        ],
        dim=-1,
    )  # (g, v, 14)
    w_across = o.weight * _cauchy(e.across.square().sum(-1) / s.across**2) / s.across**2
    w_along = o.weight * _cauchy((e.along / s.along).square()) / s.along**2
    hessian = torch.einsum("gvp,gvpij,gvpik->gvjk", w_across, across, across) + torch.einsum("gvp,gvpj,gvpk->gvjk", w_along, along, along)
    gradient = torch.einsum("gvp,gvpij,gvpi->gvj", w_across, across, e.across) + torch.einsum("gvp,gvpj,gvp->gvj", w_along, along, e.along)
    h = torch.zeros(n * n, dtype=torch.float64)
    pairs = columns[..., :, None] * n + columns[..., None, :]
    h.index_add_(0, pairs.flatten(), hessian.flatten())
    b = torch.zeros(n, dtype=torch.float64).index_add_(0, columns.flatten(), gradient.flatten())
    h = h.unflatten(0, (n, n))
    _eliminate_depth(o, (h, b), columns, along, w_along, e.along)
    if unknowns.rays is not None:
        _add_rays(problem, unknowns, (h, b), e, s)
    _add_priors(problem, unknowns, (h, b), s)
    return h, b


def _point_jacobians(o: Observations, unknowns: Unknowns, e: Evaluation) -> tuple[Tensor, Tensor]:
    """Derivatives of the residuals across (g, v, p, 2, 14) and of log z (g, v, p, 14): camera 6, window 7, log focal."""
    rotation, centre = unknowns.rotation[o.windows], unknowns.centre[o.windows]
    arm = e.world - unknowns.windows.translation[:, None, None]
    identity = torch.eye(3, dtype=torch.float64).expand(*arm.shape, 3)
    by_world = torch.cat([arm[..., None], -skew(arm), identity], dim=-1)  # (g, v, p, 3, 7)
    by_camera = torch.cat([skew(e.world - centre[:, :, None]), -identity], dim=-1)
    local = rotation.mT[:, :, None] @ torch.cat([by_camera, by_world], dim=-1)  # (g, v, p, 3, 13)
    z = e.local[..., 2, None, None]
    slope = (e.local[..., :2] / e.local[..., 2:])[..., None]
    focal = unknowns.log_focal.exp()
    across = focal * (local[..., :2, :] - slope * local[..., 2:, :]) / z
    across = torch.cat([across, focal * slope], dim=-1)
    along = local[..., 2, :] / z[..., 0]
    return across, torch.cat([along, torch.zeros_like(along[..., :1])], dim=-1)


def _eliminate_depth(
    o: Observations, system: tuple[Tensor, Tensor], columns: Tensor, along: Tensor, weight: Tensor, residual: Tensor
) -> None:
    """Subtracts the Schur complement of every pixel's log depth, frame by frame, in place."""
    h, b = system
    flat_columns, flat_along = columns.flatten(0, 1), along.flatten(0, 1)
    flat_weight, flat_residual = weight.flatten(0, 1), residual.flatten(0, 1)
    order = o.windows.flatten()
    for frame in range(o.num_frames):
        rows = torch.nonzero(order == frame)[:, 0]
        if len(rows) == 0:
            continue
        active, position = flat_columns[rows].unique(return_inverse=True)
        weighted = flat_weight[rows][..., None] * flat_along[rows]  # (r, p, 14)
        cross = torch.zeros(weighted.shape[1], len(active), dtype=torch.float64)
        for row in range(len(rows)):
            cross.index_add_(1, position[row], weighted[row])
        total = flat_weight[rows].sum(0).clamp_min(1e-30)
        scaled = cross / total[:, None]
        h[active[:, None], active] -= cross.T @ scaled
        b[active] -= scaled.T @ (flat_weight[rows] * flat_residual[rows]).sum(0)


def _add_rays(problem: Problem, unknowns: Unknowns, system: tuple[Tensor, Tensor], e: Evaluation, s: Scales) -> None:
    """Eq. 8: rotations and centres of the ray cameras against the trajectory."""
    o, r = problem.observations, unknowns.rays
    assert r is not None and problem.ray_cameras is not None and e.rotation_error is not None and e.centre_error is not None
    g, v = o.windows.shape
    t, share = o.num_frames, RAY_SHARE * o.weight.shape[-1]
    start = 6 * t + 7 * g + 1
    back = unknowns.rotation[o.windows].mT  # (g, v, 3, 3)
    zero = torch.zeros_like(back)
    identity = torch.eye(3, dtype=torch.float64).expand_as(back)
    arm = r.scale[:, None, None] * (r.rotation[:, None] @ problem.ray_cameras[..., :3, 3:])[..., 0]
    rotation = torch.cat([-back, zero, torch.zeros_like(back[..., :1]), back, zero], dim=-1)  # camera 6, similarity 7
    centre = torch.cat([zero, -identity, arm[..., None], -skew(arm), identity], dim=-1)
    columns = torch.cat(
        [o.windows[..., None] * 6 + torch.arange(6), (start + 7 * torch.arange(g)[:, None, None] + torch.arange(7)).expand(g, v, 7)], dim=-1
    )
    for jacobian, residual, scale in ((rotation, e.rotation_error, s.rotation), (centre, e.centre_error, s.centre)):
        w = share * _cauchy(residual.square().sum(-1) / scale**2) / scale**2
        _scatter(
            system,
            columns,
            torch.einsum("gv,gvij,gvik->gvjk", w, jacobian, jacobian),
            torch.einsum("gv,gvij,gvi->gvj", w, jacobian, residual),
        )


def _scatter(system: tuple[Tensor, Tensor], columns: Tensor, hessian: Tensor, gradient: Tensor) -> None:
    h, b = system
    n = len(b)
    h.view(-1).index_add_(0, (columns[..., :, None] * n + columns[..., None, :]).flatten(), hessian.flatten())
    b.index_add_(0, columns.flatten(), gradient.flatten())


def _add_priors(problem: Problem, unknowns: Unknowns, system: tuple[Tensor, Tensor], s: Scales) -> None:
    """Accelerations and focal length. The turns' derivatives are those of small turns; the acceptance test answers for the rest."""
    o, c = problem.observations, problem.config
    identity = torch.eye(3, dtype=torch.float64)
    jacobian = torch.cat([identity, -2 * identity, identity], dim=-1)
    turns = (angular_acceleration(unknowns.rotation), s.turning, 0, c.turn_smoothness)
    bends = (acceleration(unknowns.centre), s.acceleration, 3, c.smoothness)
    for bend, scale, offset, smoothness in (turns, bends):
        if len(bend) == 0 or smoothness <= 0:
            continue
        w = smoothness * o.weight.shape[-1] * _cauchy(bend.square().sum(-1) / scale**2) / scale**2
        first = 6 * torch.arange(len(bend))[:, None] + torch.arange(offset, offset + 3)
        columns = torch.cat([first, first + 6, first + 12], dim=-1)
        _scatter(system, columns, w[:, None, None] * (jacobian.T @ jacobian), w[:, None] * (bend @ jacobian))
    h, b = system
    f = 6 * o.num_frames + 7 * len(o.windows)
    h[f, f] += _focal_prior(problem)
    b[f] += _focal_prior(problem) * (unknowns.log_focal - problem.log_focal)


def solve(problem: Problem, unknowns: Unknowns) -> tuple[Unknowns, Scales, int]:
    """Levenberg-Marquardt with an acceptance test on the robust cost; scales are measured anew after accepted steps."""
    o = problem.observations
    n, t = unknowns.size, o.num_frames
    free = torch.ones(n, dtype=torch.bool)
    free[:6] = False  # the first camera is the world
    free[6 * t] = False  # the first window's scale is the scale
    low, high = focal_bounds(problem.config)
    along_weight = o.weight
    e = evaluate(problem, unknowns, along_weight)
    s = measure_scales(problem, unknowns, e)
    damping, accepted = 1e-4, 0
    for _ in range(problem.config.iterations):
        along_weight = o.weight * _cauchy((e.along / s.along).square())
        e = evaluate(problem, unknowns, along_weight)
        before = cost(problem, unknowns, e, s)
        h, b = normal_equations(problem, unknowns, e, s)
        h, b = h[free][:, free], b[free]
        improved = False
        for _ in range(8):
            diagonal = h.diagonal().clamp_min(1e-9 * h.diagonal().max())
            step = torch.zeros(n, dtype=torch.float64)
            step[free] = -torch.linalg.solve(h + torch.diag(damping * diagonal), b)
            candidate = unknowns.moved(step)
            if step.isfinite().all():
                candidate = replace(candidate, log_focal=candidate.log_focal.clamp(torch.tensor(low).log(), torch.tensor(high).log()))
                trial = evaluate(problem, candidate, along_weight)
                if cost(problem, candidate, trial, s) < before * (1 - 1e-9):
                    improved = True
                    break
            damping = min(damping * 10, 1e8)
        if not improved:
            break
        gain = 1 - cost(problem, candidate, trial, s) / max(before, 1e-300)
        unknowns, e, accepted = candidate, trial, accepted + 1
        damping = max(damping / 10, 1e-9)
        s = measure_scales(problem, unknowns, e)
        if gain < 1e-5:
            break
    return unknowns, s, accepted
