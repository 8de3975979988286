"""The joint alignment from its evidence to its solution: observe, guess, solve."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.cameras import Cameras
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.joint.agreement import describe_window_motion, solve_agreed, window_poses
from geo4d.alignment.joint.guess import InitialFocal, chain_windows, fit_focal, window_cameras, world_cameras
from geo4d.alignment.joint.observations import Observations, WindowRays, observe_points, ray_cameras
from geo4d.alignment.joint.problem import Given, JointProblem, WindowMotion
from geo4d.alignment.joint.solve import Solved, solve
from geo4d.alignment.joint.unknowns import Unknowns, ray_similarities
from geo4d.alignment.priors import Priors, ResolvedPriors
from geo4d.errors import AlignmentError
from geo4d.geometry.pixels import sample_grid
from geo4d.geometry.rigid import rigid
from geo4d.geometry.similarity import Similarity, fit_similarity
from geo4d.scene import WindowPredictions

MIN_PIXELS = 10  # sampled ones of all windows, below which there is nothing to go by
MOST_NAMED = 3  # faults of ray maps that are told one by one


@dataclass(frozen=True)
class Prepared:
    """Everything that the joint solve starts from."""

    observations: Observations
    rays: WindowRays | None  # None: no frame has any that can be used
    priors: ResolvedPriors
    guess: InitialFocal
    start: Unknowns
    disconnected: list[int]  # windows that share no usable frame with an earlier one
    window_motion: WindowMotion
    config: AlignmentConfig
    ray_problems: tuple[str, ...] = ()  # which frames' rays were left out, and why

    def warnings(self) -> tuple[str, ...]:
        """What of the windows is lacking."""
        found = [
            f"Window {g} shares no usable frame with an earlier one; its scale and pose are guesses."
            for g in self.disconnected
        ]
        found += self.ray_problems[:MOST_NAMED]
        if len(self.ray_problems) > MOST_NAMED:
            found.append(f"There are {len(self.ray_problems) - MOST_NAMED} more such faults of ray maps.")
        return tuple(found)

    def problem(self) -> JointProblem:
        """The joint problem."""
        rays, config = self.start.rays, self.config
        return JointProblem(
            self.observations, self.rays, config.joint, self.guess.log_focal, self.guess.sigma, self.priors.given,
            config.focal == "per_frame", None if rays is None else rays.scale.log(), self.window_motion,
        )  # fmt: skip


@dataclass(frozen=True)
class Joint:
    """All windows solved together."""

    ready: Prepared
    solved: Solved
    window_poses: Float[Tensor, "g v 4 4"]  # per-window PnP poses, cam_to_win

    @property
    def observations(self) -> Observations:
        """What was sampled."""
        return self.ready.observations

    @property
    def priors(self) -> ResolvedPriors:
        """What was given beforehand."""
        return self.ready.priors

    @property
    def unknowns(self) -> Unknowns:
        """What was found."""
        return self.solved.unknowns

    def cameras(self) -> Cameras:
        """In the first one's frame."""
        u = self.unknowns
        return Cameras.of(rigid(u.rotation, u.centre), u.log_focal.exp(), self.priors.fixed_intrinsics)

    def with_cameras(self, cameras: Cameras) -> Joint:
        """The windows fitted anew to cameras that are settled, to measure how well each of them fits those."""
        u = self.unknowns
        first = rigid(u.rotation[0], u.centre[0])
        poses = first @ cameras.cam_to_world
        start = replace(u, rotation=poses[:, :3, :3], centre=poses[:, :3, 3], log_focal=cameras.focal.log(), poses=None)
        given = Given(poses, log_depth=None)
        problem = replace(
            self.ready.problem(), given=given, log_focal=start.log_focal, log_focal_sigma=0.0, zooms=False
        )
        solved = solve(problem, start)
        return Joint(self.ready, solved, window_poses(self.observations, solved.unknowns))


def prepare(predictions: WindowPredictions, config: AlignmentConfig, priors: Priors) -> Prepared:
    """Samples the windows and makes the initial guesses. Raises AlignmentError if there is nothing to go by."""
    height, width = predictions.grid_size
    c = config.joint
    resolved = priors.resolve(predictions, sample_grid(height, width, c.samples))
    observations = observe_points(predictions, c, resolved.fixed_intrinsics, resolved.ignore)
    usable = int((observations.weight > 0).sum())
    if usable < MIN_PIXELS:
        raise AlignmentError(
            f"The point maps hold {usable} usable sampled pixels, at least {MIN_PIXELS} are needed; look at the video "
            "and the weights."
        )
    given_focal = None if resolved.log_focal is None else (resolved.log_focal, priors.focal_sigma)
    guess = fit_focal(observations, predictions.points_origin, c, given_focal, per_frame=config.focal == "per_frame")
    cameras, residual = window_cameras(observations, guess.log_focal.exp(), guess.shift)
    windows, disconnected = chain_windows(observations, cameras, c)
    poses = world_cameras(observations, windows, cameras, residual)
    start = _placed_by_given(
        Unknowns(poses[:, :3, :3], poses[:, :3, 3], windows, guess.log_focal), observations, resolved.given
    )
    rays = ray_cameras(predictions)
    problems = () if rays is None else rays.problems
    rays = None if rays is None or not rays.usable.any() else rays
    if rays is not None:
        common = rigid(start.rotation, start.centre)
        start = replace(start, rays=ray_similarities(observations.windows, common, rays.cam_to_win, rays.usable))
    motion = describe_window_motion(observations, cameras, start, rays)
    return Prepared(observations, rays, resolved, guess, start, disconnected, motion, config, problems)


def solve_joint(ready: Prepared) -> Joint:
    """All cameras, window similarities and focal lengths at once."""
    return Joint(ready, *solve_agreed(ready.problem(), ready.start))


def _placed_by_given(start: Unknowns, observations: Observations, given: Given) -> Unknowns:
    """The initial guess brought to given cameras (if they are fixed), or they to it; and the scale of given depth."""
    if given.poses is not None:
        to_world = _pose_similarity(given.poses, start)
        start = replace(start, poses=to_world)
        if given.fixes_cameras:
            windows = to_world.inverse().expand(len(start.windows.scale))
            rotation, centre = given.poses[:, :3, :3], given.poses[:, :3, 3]
            start = replace(start, rotation=rotation, centre=centre, windows=windows.compose(start.windows), poses=None)
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
            start = replace(
                start, poses=Similarity(scale, p.rotation, p.translation + (p.scale - scale)[:, None] * middle)
            )
    return start


def _pose_similarity(poses: Float[Tensor, "t 4 4"], start: Unknowns) -> Similarity:
    """From the world of given cameras to that of the initial guess, as a batch of one."""
    frames = torch.arange(len(poses))[None]
    found = ray_similarities(frames, rigid(start.rotation, start.centre), poses[None])
    spread = (poses[:, :3, 3] - poses[:, :3, 3].mean(0)).norm(dim=-1)
    if float(spread.max()) > 0 and len(poses) > 2:
        better = fit_similarity(
            poses[None, :, :3, 3], start.centre[None], torch.ones(1, len(poses), dtype=torch.float64)
        )
        found = Similarity(better.scale.clamp_min(1e-6), found.rotation, found.translation)
    return found
