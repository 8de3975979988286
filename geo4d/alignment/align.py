"""All windows -> one reconstruction (METHOD section 7)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.assemble import Dense, assemble, ray_similarities, scaled
from geo4d.alignment.confidence import DEFAULT_SIGMA
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.fuse import DisparitySource, Fusion, GivenDepth, PointSource, fit_disparities
from geo4d.alignment.initialise import FocalGuess, chain_windows, fit_focal, window_cameras, world_cameras
from geo4d.alignment.metric import metres_by_lengths
from geo4d.alignment.motion import find_motion
from geo4d.alignment.observations import Observations, observe_points, ray_cameras, sample_grid
from geo4d.alignment.own import measure_raw, own_cameras, solve_agreed
from geo4d.alignment.paper import solve_paper
from geo4d.alignment.priors import Priors, Resolved
from geo4d.alignment.report import (
    across_by_frame,
    camera_covariance,
    describe_windows,
    disagreement,
    fit_of_windows,
    suspect_frames,
    suspects,
)
from geo4d.alignment.single import align_disparity, align_rays
from geo4d.alignment.solve import Solved
from geo4d.alignment.terms import Problem, Raw
from geo4d.alignment.unknowns import Unknowns
from geo4d.errors import AlignmentError, ConfigError, InputError
from geo4d.geometry.rigid import rigid
from geo4d.geometry.similarity import Similarity, fit_similarity
from geo4d.scene import Reconstruction, WindowPredictions

MIN_PIXELS = 10
FIT_SAMPLES = 256  # pixels a frame that settle disparities' scales and the trust in each modality
LEAST_PATH = 0.005  # of metric cameras, by the typical depth, below which they do not make the result metric
GIVEN_DEPTH_VOICES = 8.0  # windows that depth known beforehand outweighs, where it is as precise as theirs
FIELDS = ("windows", "points", "weight", "disparity", "disparity_weight", "ray_direction", "ray_moment", "ray_cam_to_win")

Progress = Callable[[str, int, int], None]


def align(
    predictions: WindowPredictions,
    config: AlignmentConfig | None = None,
    *,
    priors: Priors | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """Fuses window predictions into one trajectory, one focal length and one depth sequence, in the first camera's frame.

    Works with any of points, disparity and rays: points give everything; disparity alone gives depth (with cameras as `priors`
    its scale and shift too), rays alone give cameras without depth; `diagnostics` says what was used, how well it fits and what
    is missing. Raises AlignmentError if fewer than ten pixels carry any weight, InputError for priors of another video.
    """
    config, priors = config or AlignmentConfig(), priors or Priors()
    started = time.perf_counter()
    predictions = select(predictions, config)
    if config.solver == "paper" and predictions.points is None:
        raise AlignmentError("The paper solver works on point maps, and there are none; take solver=fast.")
    if config.solver == "paper" and not priors.is_empty:
        raise ConfigError("The paper solver knows no priors; take solver=fast.")
    _refuse_unused(predictions, priors)
    if predictions.points is not None:
        result = _align_points(predictions, config, priors, progress)
    elif predictions.disparity is not None:
        result = align_disparity(predictions, config, priors)
    else:
        result = align_rays(predictions, config, priors)
    return result.with_diagnostics(alignment_seconds=round(time.perf_counter() - started, 3))


def _refuse_unused(predictions: WindowPredictions, priors: Priors) -> None:
    """Raises ConfigError for priors that these modalities cannot use, rather than dropping them."""
    if predictions.points is not None:
        return
    given = {"depth": priors.depth is not None, "distances": bool(priors.distances), "camera_height": priors.camera_height is not None}
    if predictions.disparity is None:
        given["cam_to_world"] = priors.cam_to_world is not None
    unused = [name for name, there in given.items() if there]
    if unused:
        raise ConfigError(f"Without point maps the priors {', '.join(unused)} cannot be used here; leave them out, or use_points.")


def select(predictions: WindowPredictions, config: AlignmentConfig) -> WindowPredictions:
    """Drops the modalities that are switched off, brings the others to the CPU, sorts the windows by their first frame.

    The solve is made of many small systems, which a CPU solves fastest. Windows that are in order on the CPU are not copied.
    """
    drop: dict[str, Any] = {}
    if not config.use_points:
        drop |= {"points": None, "weight": None}
    if not config.use_disparity:
        drop |= {"disparity": None, "disparity_weight": None}
    if not config.use_rays:
        drop |= {"ray_direction": None, "ray_moment": None, "ray_cam_to_win": None}
    chosen = {name: drop[name] if name in drop else getattr(predictions, name) for name in FIELDS}
    chosen = {name: None if value is None else value.cpu() for name, value in chosen.items()}
    order = torch.argsort(chosen["windows"][:, 0], stable=True)
    if not bool((order == torch.arange(len(order))).all()):
        chosen = {name: None if value is None else value[order] for name, value in chosen.items()}
    return replace(predictions, **chosen)


@dataclass(frozen=True)
class Prepared:
    """Everything that the joint solve starts from."""

    observations: Observations
    rays: Tensor | None  # (g, v, 4, 4)
    known: Resolved
    guess: FocalGuess
    start: Unknowns
    loose: list[int]
    raw: Raw

    def problem(self, config: AlignmentConfig) -> Problem:
        """The joint problem."""
        rays = self.start.rays
        return Problem(
            self.observations, self.rays, config, self.guess.log_focal, self.guess.sigma, self.known.known,
            config.focal == "per_frame", None if rays is None else rays.scale.log(), self.raw,
        )  # fmt: skip


def prepare(predictions: WindowPredictions, config: AlignmentConfig, priors: Priors) -> Prepared:
    """Samples the windows and makes the first guesses. Raises AlignmentError if there is nothing to go by."""
    height, width = predictions.grid_size
    known = priors.resolve(predictions, sample_grid(height, width, config.samples))
    observations = observe_points(predictions, config.samples, known.lens, known.ignore)
    usable = int((observations.weight > 0).sum())
    if usable < MIN_PIXELS:
        raise AlignmentError(
            f"The point maps hold {usable} usable sampled pixels, at least {MIN_PIXELS} are needed; look at the video and the weights."
        )
    guess = fit_focal(observations, predictions.points_origin, config, known.log_focal, priors.focal_sigma)
    cameras, residual = window_cameras(observations, guess.log_focal.exp(), guess.shift)
    windows, loose = chain_windows(observations, cameras)
    poses = world_cameras(observations, windows, cameras, residual)
    rays = ray_cameras(predictions)
    start = Unknowns(poses[:, :3, :3], poses[:, :3, 3], windows, guess.log_focal)
    start = _placed_by_known(start, observations, known)
    if rays is not None:
        start = replace(start, rays=ray_similarities(observations.windows, rigid(start.rotation, start.centre), rays))
    return Prepared(observations, rays, known, guess, start, loose, measure_raw(observations, cameras, start, rays))


def _placed_by_known(start: Unknowns, observations: Observations, known: Resolved) -> Unknowns:
    """The first guess brought to given cameras (if they are fixed), or they to it; and the scale of given depth."""
    given = known.known
    if given.poses is not None:
        to_world = _pose_similarity(given.poses, start)
        start = replace(start, poses=to_world)
        if given.fixes_cameras:
            back = Similarity(
                1 / to_world.scale,
                to_world.rotation.mT,
                -(to_world.rotation.mT @ to_world.translation[..., None])[..., 0] / to_world.scale[:, None],
            )
            windows = Similarity(*(torch.cat([part] * len(start.windows.scale)) for part in (back.scale, back.rotation, back.translation)))
            start = replace(
                start, rotation=given.poses[:, :3, :3], centre=given.poses[:, :3, 3], windows=windows.compose(start.windows), poses=None
            )
    if given.log_depth is not None:
        o, w = observations, start.windows
        world = w.scale[:, None, None, None] * o.points @ w.rotation.mT[:, None] + w.translation[:, None, None]
        z = ((world - start.centre[o.windows][:, :, None]) * start.rotation[o.windows][:, :, None, :, 2]).sum(-1)
        ratio = z.clamp_min(1e-4).log() - given.log_depth[o.windows]
        use = (o.weight > 0) & ratio.isfinite()
        if use.any():
            start = replace(start, log_depth_scale=float(ratio[use].median()))
        if given.one_scale and start.poses is not None:
            # they step together from here on; what the poses' scale changes, it changes about their middle
            p, scale = start.poses, torch.full_like(start.poses.scale, start.log_depth_scale).exp()
            middle = p.rotation @ given.poses[:, :3, 3].mean(0)
            start = replace(start, poses=Similarity(scale, p.rotation, p.translation + (p.scale - scale)[:, None] * middle))
    return start


def _pose_similarity(poses: Float[Tensor, "t 4 4"], start: Unknowns) -> Similarity:
    """From the world of given cameras to that of the first guess, as a batch of one."""
    frames = torch.arange(len(poses))[None]
    found = ray_similarities(frames, rigid(start.rotation, start.centre), poses[None])
    spread = (poses[:, :3, 3] - poses[:, :3, 3].mean(0)).norm(dim=-1)
    if float(spread.max()) > 0 and len(poses) > 2:
        better = fit_similarity(poses[None, :, :3, 3], start.centre[None], torch.ones(1, len(poses), dtype=torch.float64))
        found = Similarity(better.scale.clamp_min(1e-6), found.rotation, found.translation)
    return found


def _align_points(predictions: WindowPredictions, config: AlignmentConfig, priors: Priors, progress: Progress | None) -> Reconstruction:
    ready = prepare(predictions, config, priors)
    if config.solver == "paper":
        return _align_as_paper(predictions, ready, config)
    if progress is not None:
        progress("cameras", 0, 1)
    solved, own = solve_agreed(ready.problem(config), ready.start)
    if progress is not None:
        progress("cameras", 1, 1)
    result = finish(predictions, ready, solved, own, priors, progress)
    return replace(result, dynamic=find_motion(result)) if config.motion else result


def _align_as_paper(predictions: WindowPredictions, ready: Prepared, config: AlignmentConfig) -> Reconstruction:
    """The paper's optimisation from the same first guesses."""
    start = ready.start
    poses = rigid(start.rotation, start.centre)
    own = own_cameras(ready.observations, start)
    fusion = Fusion(ready.observations.windows, [_point_source(predictions, ready.observations, own, start)])
    log_depth, precision, spread = fusion.dense(*predictions.grid_size)
    log_focal = float(start.log_focal.mean())
    found = solve_paper(predictions, log_depth, poses, log_focal, (start.windows, start.rays), ready.rays, config)
    dense = Dense.of(torch.where(log_depth.isfinite(), found.log_depth, torch.nan), precision, spread)
    report = {"terms": terms_of(predictions, ready.rays), "solver": "paper", "first_loss": found.losses[0], "last_loss": found.losses[-1]}
    focal = torch.full_like(start.log_focal, math.exp(found.log_focal))
    return assemble(predictions, dense, rigid(found.rotation, found.centre), ready.known.lens, focal, report)


def terms_of(predictions: WindowPredictions, rays: Tensor | None) -> list[str]:
    """The modalities that take part."""
    return [
        name for name, value in (("points", predictions.points), ("disparity", predictions.disparity), ("rays", rays)) if value is not None
    ]


def finish(
    predictions: WindowPredictions,
    ready: Prepared,
    solved: Solved,
    own: Float[Tensor, "g v 4 4"],
    priors: Priors,
    progress: Progress | None = None,
) -> Reconstruction:
    """Depth of every pixel from all windows, given the solved cameras and scales; and what is to be said of the whole."""
    observations, unknowns = ready.observations, solved.unknowns
    height, width = predictions.grid_size
    index = sample_grid(height, width, FIT_SAMPLES)
    points = _point_source(predictions, observations, own, unknowns)
    fusion = Fusion(observations.windows, [points]).balanced(index)
    fits = None
    if predictions.disparity is not None:
        reference = fusion.at(index)[0]
        if ready.known.ignore is not None:  # what may be wrong in the points must not spoil the disparity elsewhere
            reference = reference.masked_fill(ready.known.ignore.flatten(1)[:, index], torch.nan)
        fits = fit_disparities(predictions, reference, index)
        fusion = fusion.plus(DisparitySource(predictions, fits)).balanced(index)
    if ready.known.log_depth is not None:
        solved = _with_scale_of_given(ready, solved, fusion)
        unknowns = solved.unknowns
        sigma = 1.48 * float(solved.scales.along)
        # windows that agree may all be wrong in the same way
        sigma = max(sigma, _own_sigma(predictions, points))
        precision = GIVEN_DEPTH_VOICES * (sigma / priors.depth_sigma) ** 2
        given = GivenDepth(observations.windows, (ready.known.log_depth + unknowns.log_depth_scale).float(), precision)
        fusion = fusion.plus(given)
    dense = Dense.of(*fusion.dense(height, width, progress), own_sigma=_own_sigma(predictions, points))
    fit = fit_of_windows(observations, solved, own, max(height, width), fits)
    report = {
        "terms": terms_of(predictions, ready.rays),
        "solver": "fast",
        "solver_steps": solved.steps,
        "focal_by_longer_side": float(unknowns.log_focal.exp().mean()),
        "disagreement": disagreement(fusion, index),
        "windows": describe_windows(observations.windows, fit, ready.guess.own, unknowns.windows.scale),
        "suspect_windows": suspects(fit),
        "warnings": _warnings(predictions, ready),
    }
    poses = rigid(unknowns.rotation, unknowns.centre)
    covariance = camera_covariance(observations, solved, own)
    result = assemble(predictions, dense, poses, ready.known.lens, unknowns.log_focal.exp(), report, covariance)
    result = _in_metres(result, ready, solved, priors)
    return result.with_diagnostics(suspect_frames=suspect_frames(result, across_by_frame(observations, solved)))


def _with_scale_of_given(ready: Prepared, solved: Solved, fusion: Fusion) -> Solved:
    """Where given depth is known at hardly any sampled pixel, its scale follows from the fused depth at those where it is."""
    o, given = ready.observations, ready.known.log_depth
    assert given is not None
    at_samples = given.flatten(1)[:, o.index].isfinite()[o.windows] & (o.weight > 0)
    if int(at_samples.sum()) >= MIN_PIXELS:
        return solved
    index = torch.nonzero(given.flatten(1).isfinite().any(dim=0))[:, 0]
    index = index[:: max(1, len(index) // FIT_SAMPLES)]
    ratio = fusion.at(index)[0] - given.flatten(1)[:, index]
    ratio = ratio[ratio.isfinite()]
    if len(ratio) == 0:
        raise InputError("The prior depth is known only where the predictions say nothing, so it cannot be used; leave it out.")
    return replace(solved, unknowns=replace(solved.unknowns, log_depth_scale=float(ratio.median())))


def _own_sigma(predictions: WindowPredictions, points: PointSource) -> float:
    """What the network expects of a typical pixel's log depth."""
    return DEFAULT_SIGMA if predictions.weight is None else points.unit**-0.5


def _warnings(predictions: WindowPredictions, ready: Prepared) -> list[str]:
    """What the user should know before trusting the result."""
    found = [f"Window {g} shares no usable frame with an earlier one; its scale and pose are guesses." for g in ready.loose]
    given = predictions.ray_cam_to_win is not None or (predictions.ray_direction is not None and predictions.ray_moment is not None)
    if ready.rays is None and given:
        found.append("The ray maps are not finite or do not spread; they were not used.")
    if ready.guess.zooms and len(set(ready.guess.log_focal.tolist())) == 1 and ready.known.log_focal is None:
        found.append("The focal length seems to change along the video, and one was used for all frames: try focal=per_frame.")
    return found


def _point_source(predictions: WindowPredictions, observations: Observations, own: Tensor, unknowns: Unknowns) -> PointSource:
    windows = observations.windows
    rows = torch.stack(torch.meshgrid(torch.arange(len(windows)), torch.arange(windows.shape[1]), indexing="ij"), dim=-1).flatten(0, 1)
    z = ((observations.points - own[..., None, :3, 3]) * own[..., None, :3, 2]).sum(-1).flatten(0, 1)
    weight = torch.ones_like(z)
    if predictions.weight is not None:
        weight = torch.stack([window.flatten(1, 2)[:, observations.index] for window in predictions.weight]).flatten(0, 1).double()
    usable = (observations.weight.flatten(0, 1) > 0) & (z * unknowns.windows.scale[rows[:, 0]][:, None] > 1e-4)
    unit = float((weight * z).square()[usable].median()) if usable.any() else 1.0
    return PointSource(predictions, own, unknowns.windows.scale, unit=max(unit, 1e-30))


def _in_metres(result: Reconstruction, ready: Prepared, solved: Solved, priors: Priors) -> Reconstruction:
    """The reconstruction in metres if any prior says how large the scene is; all that say it are reported."""
    u = solved.unknowns
    found: dict[str, float] = {}
    given = ready.known.known.poses
    if given is not None and priors.poses_are_metric:
        metres = 1.0 if u.poses is None else 1 / float(u.poses.scale)
        path = float((given[:, :3, 3] - given[0, :3, 3]).norm(dim=-1).max())
        if path > LEAST_PATH * metres * float(np.nanmedian(result.depth)):
            found["poses"] = metres
        else:
            warning = "The given cameras hardly move, so they do not say how large the scene is."
            result = result.with_diagnostics(warnings=[*result.diagnostics["warnings"], warning])
    if priors.depth is not None:
        found["depth"] = math.exp(-u.log_depth_scale)
    found |= metres_by_lengths(result, priors)
    if not found:
        return result
    factor = next(iter(found.values()))
    return scaled(result, factor).with_diagnostics(metres_per_unit=found)
