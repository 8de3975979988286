"""Initial guesses: focal length, cameras within each window, windows chained through the frames that they share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from geo4d._typing import Float, Int, Tensor
from geo4d.alignment.joint.config import JointConfig
from geo4d.alignment.joint.observations import Observations
from geo4d.alignment.pnp import ray_residual, solve_pnp
from geo4d.geometry.rigid import invert_rigid
from geo4d.geometry.similarity import Similarity, fit_similarity
from geo4d.solver.robust import Loss, absolute_weight

LINK = Loss.cauchy(2.0)  # of a pixel between two windows, in median residuals
# times the usual misfit, from which others are tried: needed for windows of noise; half and double do the same
BAD_LINK = 3.0
MOST_LINKS = 6  # earlier windows that are tried, if the first of them fits badly: a cap on time
LINK_ROUNDS = 20  # by which a link moves no more


def focal_bounds(config: JointConfig) -> tuple[float, float]:
    """Least and greatest focal length, by the longer side."""
    wide, narrow = (torch.tensor(a).deg2rad() for a in (config.max_field_of_view_deg, config.min_field_of_view_deg))
    return float(0.5 / torch.tan(wide / 2)), float(0.5 / torch.tan(narrow / 2))


@dataclass(frozen=True)
class InitialFocal:
    """Initial guess of the focal length by the longer side, and each window's z shift."""

    log_focal: Float[Tensor, "t"]
    sigma: float  # how firmly the joint solve holds it; 0: exactly
    shift: Float[Tensor, "g"]
    by_window: list[float]  # focal length of each window alone
    zooms: bool  # whether the windows' focal lengths drift far more than they scatter


def fit_focal(
    observations: Observations,
    origin: str,
    config: JointConfig,
    given: tuple[Float[Tensor, "t"], float] | None = None,
    *,
    per_frame: bool = False,
) -> InitialFocal:
    """Focal length from the windows' first frames, and each window's z shift z0; what is `given` (log, sigma) is kept.

    Solves u (z + z0) = f x for f and, where the origin is unknown, z0: least absolute deviations by reweighting. The
    median over the windows counts (weighed against the prior where the windows disagree), or one for every frame if it
    may vary.
    """
    points, weight = observations.points[:, 0], observations.weight[:, 0]  # (g, p, 3)
    u = observations.pixels[observations.windows[:, 0]].flatten(1)  # (g, 2 p)
    x, z = points[..., :2].flatten(1), points[..., 2].repeat_interleave(2, dim=1)
    w = weight.repeat_interleave(2, dim=1)
    by_window = _focal_by_window((u, x, z, w), origin)
    low, high = focal_bounds(config)
    usable = by_window.isfinite() & (by_window > 0) & (w.sum(1) > 0)
    log_focals = by_window.clamp(low, high).log()
    zooms = _drifts(log_focals[usable], config.drift)
    frames = observations.num_frames
    if given is not None:
        log_focal, sigma = given
    elif per_frame and int(usable.sum()) > 1:
        log_focal, sigma = _followed(observations.windows[usable, 0], log_focals[usable], frames), config.zoom_log_sigma
    else:
        log_focal, sigma = (
            torch.full((frames,), _common_focal(log_focals[usable], config), dtype=torch.float64),
            config.focal_log_sigma,
        )
    shift = torch.zeros(len(points), dtype=torch.float64)
    if origin != "camera":
        # with the focal length that is kept, the shift alone: z0 = median of f x / u - z
        shift = _fit_shift(log_focal.exp()[observations.windows[:, 0]], x, z, u, w)
    return InitialFocal(log_focal, sigma, shift, by_window.tolist(), zooms)


def _focal_by_window(lines: tuple[Tensor, Tensor, Tensor, Tensor], origin: str) -> Float[Tensor, "g"]:
    """Every window's focal length by its first frame alone."""
    u, x, z, w = lines
    columns = torch.stack([x, -u], dim=-1)  # (g, 2 p, 2)
    if origin == "camera":
        columns = columns[..., :1]
    target = u * z
    irls = w.clone()
    solution = torch.zeros(len(u), columns.shape[-1], dtype=torch.float64)
    for _ in range(30):
        normal = (columns * irls[..., None]).mT @ columns
        normal = normal + 1e-12 * torch.eye(columns.shape[-1], dtype=torch.float64) * (
            1 + normal.diagonal(dim1=1, dim2=2).mean()
        )
        solution = torch.linalg.solve(normal, (columns * (irls * target)[..., None]).sum(1)[..., None])[..., 0]
        residual = ((columns @ solution[..., None])[..., 0] - target).abs()
        irls = w * absolute_weight(residual)
    return solution[:, 0]


def _common_focal(log_focals: Float[Tensor, "n"], config: JointConfig) -> float:
    """Log focal length by the windows' median and the prior."""
    log_prior = math.log(config.focal_prior)
    if len(log_focals) == 0:
        return log_prior
    spread = float((log_focals - log_focals.median()).abs().median()) * 1.5 / len(log_focals) ** 0.5 + 1e-6
    share = 1 / (1 + (spread / config.focal_prior_log_sigma) ** 2)
    return share * float(log_focals.median()) + (1 - share) * log_prior


def _drifts(log_focals: Float[Tensor, "n"], least: float) -> bool:
    """Whether log focal lengths in order change by more than `least`, and by far more than from one to the next."""
    if len(log_focals) < 4:
        return False
    third = max(1, len(log_focals) // 3)
    change = abs(float(log_focals[-third:].median() - log_focals[:third].median()))
    scatter = float((log_focals - _smooth(log_focals)).abs().median())
    return change > max(least, 6 * scatter)


def _smooth(log_focals: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Running medians of five."""
    padded = torch.cat([log_focals[:1].expand(2), log_focals, log_focals[-1:].expand(2)])
    return padded.unfold(0, 5, 1).median(dim=1).values


def _followed(frames: Int[Tensor, "n"], log_focals: Float[Tensor, "n"], count: int) -> Float[Tensor, "t"]:
    """The windows' log focal lengths between their first frames; beyond the last one as it was there."""
    smooth = _smooth(log_focals) if len(log_focals) > 4 else log_focals
    return torch.from_numpy(np.interp(np.arange(count), frames.numpy(), smooth.numpy()))


def _fit_shift(focal: Float[Tensor, "g"], x: Tensor, z: Tensor, u: Tensor, w: Tensor) -> Float[Tensor, "g"]:
    """Robust z0 of u (z + z0) = f x for each window."""
    focal = focal[:, None]
    irls = w.clone()
    shift = torch.zeros(len(x), dtype=torch.float64)
    for _ in range(20):
        shift = (irls * u * (focal * x - u * z)).sum(1) / (irls * u * u).sum(1).clamp_min(1e-30)
        residual = (u * (z + shift[:, None]) - focal * x).abs()
        irls = w * absolute_weight(residual)
    return shift


def window_cameras(
    observations: Observations, focal: Float[Tensor, "t"], shift: Float[Tensor, "g"]
) -> tuple[Float[Tensor, "g v 4 4"], Float[Tensor, "g v"]]:
    """Camera-to-window poses by robust perspective-n-point, each frame from the one before; and the median residual.

    The first camera is at (0, 0, -shift) with the window's axes.
    """
    g, v = observations.windows.shape
    pose = torch.eye(4, dtype=torch.float64).repeat(g, 1, 1)
    pose[:, 2, 3] = -shift
    poses, residuals = [], []
    slopes = observations.pixels / focal[:, None, None]
    for k in range(v):
        rays = slopes[observations.windows[:, k]]
        if k > 0:
            pose, residual = solve_pnp(pose, observations.points[:, k], observations.weight[:, k], rays)
        else:
            residual = ray_residual(pose, observations.points[:, 0], rays)[0].norm(dim=-1).median(dim=1).values
        poses.append(pose)
        residuals.append(residual)
    return torch.stack(poses, dim=1), torch.stack(residuals, dim=1)


def chain_windows(
    observations: Observations, cameras: Float[Tensor, "g v 4 4"], config: JointConfig
) -> tuple[Similarity, list[int]]:
    """Similarity window -> world for every window (world: the first window's first camera).

    Each window is fitted to an earlier one through the points of the frames that both hold. A window that shares none
    is attached to the previous one's last camera with the same scale, and its number is returned.
    """
    windows = observations.windows
    start = invert_rigid(cameras[0, 0])
    scale, rotation, translation = [torch.ones((), dtype=torch.float64)], [start[:3, :3]], [start[:3, 3]]
    disconnected: list[int] = []
    usual: list[float] = []
    for g in range(1, len(windows)):
        found = _best_link(observations, g, float(np.median(usual)) if usual else math.inf, config)
        if found is None:
            disconnected.append(g)
            other = g - 1
            across = cameras[other, -1] @ invert_rigid(cameras[g, 0])
            link = Similarity(torch.ones((), dtype=torch.float64), across[:3, :3], across[:3, 3])
        else:
            other, link, misfit = found
            usual.append(misfit)
        total = Similarity(scale[other], rotation[other], translation[other]).compose(link)
        scale.append(total.scale)
        rotation.append(total.rotation)
        translation.append(total.translation)
    return Similarity(torch.stack(scale), torch.stack(rotation), torch.stack(translation)), disconnected


def _best_link(
    observations: Observations, g: int, usual: float, config: JointConfig
) -> tuple[int, Similarity, float] | None:
    """Link to the earlier window with the most usable pixels in common frames (the latest of several), and its misfit.

    If it fits much worse than is usual, one of the two windows is bad: then the other earlier windows are tried too.
    """
    earlier = torch.isin(observations.windows[:g], observations.windows[g]).any(dim=1)
    counts = [(_shared_pixels(observations, g, int(other)), int(other)) for other in torch.nonzero(earlier)[:, 0]]
    best: tuple[int, Similarity, float] | None = None
    for count, other in sorted(counts, reverse=True)[:MOST_LINKS]:
        found = _link(observations, g, other, config.min_shared_pixels) if count >= config.min_shared_pixels else None
        if found is not None and (best is None or found[1] < best[2]):
            best = other, *found
        if best is not None and best[2] < BAD_LINK * usual:
            break
    return best


def _shared_pixels(observations: Observations, g: int, other: int) -> int:
    """Pixels with a weight in both windows."""
    mine, theirs = torch.nonzero(observations.windows[g][:, None] == observations.windows[other]).unbind(1)
    return int(((observations.weight[g, mine] > 0) & (observations.weight[other, theirs] > 0)).sum())


def _link(observations: Observations, g: int, other: int, least: int) -> tuple[Similarity, float] | None:
    """Similarity from window g to window `other` through their common frames, and its misfit.

    None without enough pixels.
    """
    mine, theirs = torch.nonzero(observations.windows[g][:, None] == observations.windows[other]).unbind(1)
    source, target = observations.points[g, mine].flatten(0, 1), observations.points[other, theirs].flatten(0, 1)
    weight = (observations.weight[g, mine] * observations.weight[other, theirs]).sqrt().flatten()
    use = weight > 0
    if int(use.sum()) < least:
        return None
    # relative precision: near points count as much as far ones
    source, target = source[use], target[use]
    distance = target.norm(dim=-1) + 0.1 * target.norm(dim=-1).median()
    link = fit_similarity_robust(source, target, weight[use] / distance.square(), symmetric=True)
    misfit = float(((link.apply(source) - target).norm(dim=-1) / distance).median())
    return (link, misfit) if float(link.scale) > 1e-6 else None


def fit_similarity_robust(
    source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], weight: Float[Tensor, "n"], *, symmetric: bool = False
) -> Similarity:
    """`fit_similarity` by iteratively reweighted least squares with a Cauchy loss, in units of the median residual."""
    result = fit_similarity(source, target, weight, symmetric=symmetric)
    for _ in range(LINK_ROUNDS):
        residual = (result.apply(source) - target).norm(dim=-1) * weight.sqrt()
        spread = residual[weight > 0].median().clamp_min(1e-12)
        reweighted = weight * LINK.weight((residual / spread).square())
        result = fit_similarity(source, target, reweighted, symmetric=symmetric)
    return result


def world_cameras(
    observations: Observations,
    to_world: Similarity,
    cameras: Float[Tensor, "g v 4 4"],
    residual: Float[Tensor, "g v"],
) -> Float[Tensor, "t 4 4"]:
    """Each frame's camera from the window in which it fits best."""
    t = observations.num_frames
    poses = torch.eye(4, dtype=torch.float64).repeat(t, 1, 1)
    best = torch.full((t,), torch.inf, dtype=torch.float64)
    for g, window in enumerate(observations.windows.tolist()):
        for k, frame in enumerate(window):
            if residual[g, k] < best[frame]:
                best[frame] = residual[g, k]
                poses[frame, :3, :3] = to_world.rotation[g] @ cameras[g, k, :3, :3]
                centre = to_world.apply_to(g, cameras[g, k, :3, 3])
                poses[frame, :3, 3] = centre
    return poses
