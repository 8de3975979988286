"""Per-window PnP poses beside the common cameras; and a solve scaled by how far the windows disagree."""

from __future__ import annotations

from dataclasses import replace

import torch

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.joint.observations import Observations, WindowRays
from geo4d.alignment.joint.problem import JointProblem, WindowMotion
from geo4d.alignment.joint.solve import Solved, solve
from geo4d.alignment.joint.terms.base import acceleration
from geo4d.alignment.joint.terms.smoothness import angular_acceleration
from geo4d.alignment.joint.unknowns import Unknowns
from geo4d.alignment.pnp import solve_pnp
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import fit_rotation, rotation_angle

WINDOWS_AT_ONCE = 32  # memory, not accuracy
MOST_SOLVES = 4  # a cap: what is assumed of the disagreement falls by half or more each time
SMALLEST = 1e-6  # radians: rounding


def describe_window_motion(
    observations: Observations, cameras: Float[Tensor, "g v 4 4"], start: Unknowns, rays: WindowRays | None
) -> WindowMotion:
    """How the per-window PnP poses accelerate, and how far they disagree.

    Of a single window: how far they disagree with its rays' cameras.
    """
    centre = rotation = 0.0
    if cameras.shape[1] >= 3:
        centres = cameras[..., :3, 3] / observations.extent[:, None, None]
        centre = float(torch.cat([acceleration(window) for window in centres]).norm(dim=-1).median())
        rotation = float(
            torch.cat([angular_acceleration(window) for window in cameras[..., :3, :3]]).norm(dim=-1).median()
        )
    return WindowMotion(centre, rotation, _disagreement(observations, start, cameras, rays))


def solve_agreed(
    problem: JointProblem, start: Unknowns, held: Bool[Tensor, "n"] | None = None
) -> tuple[Solved, Float[Tensor, "g v 4 4"]]:
    """`solve`, again while the windows agree far better than was assumed; and the per-window PnP poses there.

    How far the windows disagree bounds residual scales from below. At the start, outliers and badly linked windows make
    it look larger than it is.
    """
    o = problem.observations
    for _ in range(MOST_SOLVES):
        solved = solve(problem, start, held)
        poses = window_poses(o, solved.unknowns)
        disagreement = _disagreement(o, solved.unknowns, poses, problem.rays)
        assumed = problem.window_motion.disagreement
        if disagreement >= problem.config.worth_repeating * assumed or assumed < SMALLEST:
            break
        problem, start = (
            replace(problem, window_motion=replace(problem.window_motion, disagreement=disagreement)),
            solved.unknowns,
        )
    return solved, poses


def window_poses(observations: Observations, unknowns: Unknowns) -> Float[Tensor, "g v 4 4"]:
    """Per-window PnP poses, cam_to_win, started at the common cameras.

    Where the two differ, depth follows the window.
    """
    found = []
    slopes = observations.pixels / unknowns.log_focal.exp()[:, None, None]
    poses = rigid(unknowns.rotation, unknowns.centre)
    for some in torch.arange(len(observations.windows)).split(WINDOWS_AT_ONCE):
        frames, w = observations.windows[some], unknowns.windows
        pose = poses[frames]
        scale, rotation, translation = w.scale[some], w.rotation[some], w.translation[some]
        centre = ((pose[..., :3, 3] - translation[:, None]) @ rotation) / scale[:, None, None]
        cam_to_win = rigid(rotation.mT[:, None] @ pose[..., :3, :3], centre).flatten(0, 1)
        points, weight = observations.points[some].flatten(0, 1), observations.weight[some].flatten(0, 1)
        cam_to_win, _ = solve_pnp(cam_to_win, points, weight, slopes[frames.flatten()], rounds=6)
        found.append(cam_to_win.unflatten(0, frames.shape))
    return torch.cat(found)


def _disagreement(
    observations: Observations, unknowns: Unknowns, cameras: Float[Tensor, "g v 4 4"], rays: WindowRays | None
) -> float:
    """Median angle between a frame's rotations by several windows and their mean; radians."""
    seen = (observations.weight > 0).any(dim=-1).flatten()
    frames = observations.windows.flatten()[seen]
    rotations = (unknowns.windows.rotation[:, None] @ cameras[..., :3, :3]).flatten(0, 1)[seen]
    if len(cameras) == 1 and rays is not None and unknowns.rays is not None:
        frames = torch.cat([frames, observations.windows[rays.usable]])
        rotations = torch.cat(
            [rotations, (unknowns.rays.rotation[:, None] @ rays.cam_to_win[..., :3, :3])[rays.usable]]
        )
    total = rotations.new_zeros(observations.num_frames, 3, 3).index_add_(0, frames, rotations)
    mean = fit_rotation(torch.eye(3, dtype=rotations.dtype).expand_as(total), total.mT)
    several = torch.bincount(frames, minlength=observations.num_frames)[frames] > 1
    angle = rotation_angle(rotations @ mean[frames].mT)[several]
    return float(angle.median()) if len(angle) else 0.0
