"""Cameras and focal length of a reconstruction, corrected by what the pixels show (sparse tracks), and depth by both.

The network's depth makes a first guess of every tracked point and holds what parallax does not tell (a camera that only turns, or
stands still); bundle adjustment does the rest. Where there is too little to go by, the reconstruction stays as it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.bundle import Evidence, Motion, Solution, State, misfit, solve_bundle
from geo4d.alignment.correction import CorrectionConfig, depth_field, sample_field
from geo4d.alignment.initialise import solve_pnp
from geo4d.alignment.priors import Priors
from geo4d.errors import ConfigError, InputError
from geo4d.geometry.rigid import invert_rigid, rigid
from geo4d.geometry.rotation import fit_rotation
from geo4d.scene import Reconstruction, Tracks

FAR = 15.0  # median depths, beyond which the network says little
LEAST_SHARED = 6  # points by which one frame is placed by others
FOCAL_LIMIT = 3.0  # sigmas by which tracks may move the focal length
MOST_TRACKED = 640  # pixels of the longer side
SKY = 20.0  # median depths, where a pixel without depth is put
EXACT = 1e-5  # sigma of a focal length that was given


@dataclass(frozen=True)
class RefineConfig:
    """How tracks and network are weighed."""

    depth_sigma: float = 0.7  # of the network's log depth at one point: its errors are shared by whole regions
    far_sigma: float = 1.0
    log_focal_sigma: float = 0.2
    smoothness: float = 3e5  # of the centres and of the rotation: they matter only where the observations say little
    turn_smoothness: float = 3e5
    pixel_floor: float = 0.05  # pixels of the source
    min_observations: int = 12  # of believed tracks in the typical frame
    most_residual: float = 0.55  # pixels: where most points are worse, they are not a static world's
    turn_sigma_deg: float = 0.4  # of the network's cameras from frame to frame
    step_sigma: float = 1.0  # the same of their steps, relative, and
    least_step: float = 0.01  # median depths
    least_gain: float = 0.3  # of the misfit with the network's cameras, that others must save: small errors of good ones are not seen
    chances: float = 6.0  # and how many times what so many unknowns save by chance
    travel_gain: float = 0.2  # of the misfit, which a camera that travels must save
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    correction_gain: float = 0.9  # from which parallax is trusted with the depth too
    iterations: int = 40

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if min(self.depth_sigma, self.far_sigma, self.log_focal_sigma, self.pixel_floor) <= 0 or self.iterations < 1:
            raise ConfigError("refinement needs sigmas and a pixel floor above 0 and at least one iteration.")


def refine_with_tracks(
    reconstruction: Reconstruction, tracks: Tracks, config: RefineConfig | None = None, *, priors: Priors | None = None
) -> Reconstruction:
    """The reconstruction with cameras and focal length by bundle adjustment; `diagnostics["tracks"]` says what was done.

    Of the `priors` that it was made with, given intrinsics stay as they are (or as firm), given cameras stay altogether, and
    points on ignored pixels are not used. Focal lengths that differ between frames are moved by one common factor. Raises
    InputError if the tracks belong to another video.
    """
    config, priors = config or RefineConfig(), priors or Priors()
    if tracks.num_frames != reconstruction.num_frames or tracks.source_size != reconstruction.source_size:
        raise InputError(
            f"The tracks are of {tracks.num_frames} frames of {tracks.source_size[1]} x {tracks.source_size[0]} pixels, the video has "
            f"{reconstruction.num_frames} of {reconstruction.source_size[1]} x {reconstruction.source_size[0]}; give its own tracks."
        )
    report: dict[str, Any] = {"tracks": tracks.num_tracks, "observations": len(tracks.track)}
    if priors.cam_to_world is not None:
        return reconstruction.with_diagnostics(tracks={**report, "used": False, "reason": "the cameras were given"})
    if priors.ignore is not None:
        tracks = _outside(tracks, np.asarray(priors.ignore).astype(bool))
    if priors.intrinsics is not None:
        config = replace(config, log_focal_sigma=max(priors.focal_sigma, EXACT))
    if reconstruction.num_frames < 2 or len(tracks.track) < config.min_observations * reconstruction.num_frames:
        return _unchanged(reconstruction, report, "too few points could be followed")
    if not reconstruction.valid.any():
        return _unchanged(reconstruction, report, "there is no depth to begin with")
    problem = _Problem(reconstruction, tracks, config, intrinsics_given=priors.intrinsics is not None)
    solution, travels = problem.solve()
    believed = solution.track_weight[problem.evidence.point] > 0.5
    each = torch.bincount(problem.evidence.frame[believed], minlength=reconstruction.num_frames)
    report |= {
        "believed": round(float((solution.track_weight > 0.5).double().mean()), 4),
        "observations_per_frame": int(each.median()),
        "residual_px": round(solution.sigma * max(tracks.source_size), 4),
        "steps": solution.steps,
        "travels": travels,
        "gain": round(problem.gain, 3),
        "gain_over_network": round(problem.gain_over_network, 3),
    }
    if problem.gain_over_network < max(config.least_gain, config.chances * problem.chance):
        reason = "the network's cameras explain the points about as well as any"
        return reconstruction.with_diagnostics(tracks={**report, "used": False, "reason": reason})
    if solution.sigma * problem.tracked_side > config.most_residual:
        return _unchanged(reconstruction, report, "the points that were followed do not fit a static world")
    if int(each.median()) < config.min_observations:
        return _unchanged(reconstruction, report, "too few of the points that were followed fit a static world")
    return problem.apply(solution, report)


def _outside(tracks: Tracks, ignore: np.ndarray) -> Tracks:
    """Without observations on ignored pixels, and without the tracks of which less than two are left."""
    height, width = tracks.source_size
    row = np.clip((tracks.position[:, 1] * ignore.shape[1] / height).astype(int), 0, ignore.shape[1] - 1)
    column = np.clip((tracks.position[:, 0] * ignore.shape[2] / width).astype(int), 0, ignore.shape[2] - 1)
    keep = ~ignore[tracks.frame, row, column]
    keep &= np.bincount(tracks.track[keep], minlength=tracks.num_tracks)[tracks.track] > 1
    _, track = np.unique(tracks.track[keep], return_inverse=True)
    return replace(tracks, track=track.astype(np.int32), frame=tracks.frame[keep], position=tracks.position[keep])


def _unchanged(reconstruction: Reconstruction, report: dict[str, Any], reason: str) -> Reconstruction:
    warning = f"Cameras are the network's alone: {reason}."
    warnings = [*reconstruction.diagnostics.get("warnings", []), warning]
    return reconstruction.with_diagnostics(tracks={**report, "used": False, "reason": reason}, warnings=warnings)


class _Problem:
    """Evidence and first guesses of one video, in units of its median depth."""

    def __init__(self, reconstruction: Reconstruction, tracks: Tracks, config: RefineConfig, *, intrinsics_given: bool) -> None:
        self.reconstruction, self.tracks, self.config = reconstruction, tracks, config
        self.side = max(tracks.source_size)
        self.unit = float(np.median(reconstruction.depth[reconstruction.valid])) if reconstruction.valid.any() else 1.0
        frame, point = torch.from_numpy(tracks.frame).long(), torch.from_numpy(tracks.track).long()
        self.intrinsics = self._source_intrinsics(square=not intrinsics_given)
        pixel = self._normalised(frame, torch.from_numpy(tracks.position).double())
        self.depth, self.known = self._network_depth()
        self.gain = self.gain_over_network = 0.0
        first, last = _ends(point, tracks.num_tracks)
        rows = torch.cat([first, last])
        log_depth = self.depth[rows].log()
        self.evidence = Evidence(
            point,
            frame,
            pixel,
            prior_point=point[rows],
            prior_frame=frame[rows],
            prior_log_depth=log_depth,
            prior_sigma=torch.where(log_depth > math.log(FAR), config.far_sigma, config.depth_sigma),
            log_focal=math.log(self.focal),
            log_focal_sigma=config.log_focal_sigma,
            smoothness=config.smoothness,
            turn_smoothness=config.turn_smoothness,
            pixel_floor=config.pixel_floor / self.side,
            motion=self._network_motion(),
        )
        self.first = first

    def solve(self) -> tuple[Solution, bool]:
        """The best camera that travels or that only turns, and whether it travels.

        Three starts: the network's cameras with points lifted by its depth; the same with points that were first fitted to the
        cameras (good cameras are not torn off by depth that errs); cameras chained frame by frame. Those that fit best go on.
        A camera that travels fits always a little better than one that only turns; what it must explain beyond that is
        `travel_gain` of the misfit.
        """
        lifted = self._start(chained=False)
        fitted = solve_bundle(self.evidence, lifted, iterations=15, focal_is_free=False, cameras_are_free=False).state
        starts = [lifted, fitted, self._start(chained=True)]
        fixed = [solve_bundle(self.evidence, start, iterations=15, focal_is_free=False) for start in starts]
        promising = {id(solution): solution for solution in (self._better(fixed), min(fixed, key=lambda solution: solution.sigma))}
        best = self._better([self._freed(solution) for solution in promising.values()])
        turning = self._turning(best)
        fits = [misfit(self.evidence, solution.state, best.sigma) for solution in (turning, best)]
        self.gain = fits[0] / max(fits[1], 1e-12) - 1
        solution, travels = (best, True) if self.gain > self.config.travel_gain else (turning, False)
        fits = [misfit(self.evidence, state, solution.sigma) for state in (fitted, solution.state)]
        self.gain_over_network = fits[0] / max(fits[1], 1e-12) - 1
        return solution, travels

    @property
    def chance(self) -> float:
        """Share of the misfit that free cameras save even of pure noise: unknowns by what is left of the observations."""
        left = 2 * len(self.evidence.point) - 3 * self.tracks.num_tracks
        return (6 * self.tracks.num_frames + 1) / max(left, 1)

    def _freed(self, fixed: Solution) -> Solution:
        """With the focal length too, unless it runs away: then it explains wrong tracks, not the camera."""
        free = solve_bundle(self.evidence, fixed.state, iterations=self.config.iterations)
        moved = abs(float(free.state.log_focal) - self.evidence.log_focal) / self.config.log_focal_sigma
        if moved > FOCAL_LIMIT:
            return solve_bundle(self.evidence, fixed.state, iterations=self.config.iterations, focal_is_free=False)
        return free

    def _better(self, solutions: list[Solution]) -> Solution:
        """The one that fits best by one scale for all: costs at different scales cannot be compared."""
        sigma = min(solution.sigma for solution in solutions)
        return min(solutions, key=lambda solution: misfit(self.evidence, solution.state, sigma))

    def _turning(self, solution: Solution) -> Solution:
        """The best camera that stays in its place: from the turns of the best one that travels, and from turns alone."""
        still = torch.zeros_like(solution.state.centre)
        starts = [self._start(chained=False, poses=rigid(r, still)) for r in (solution.state.rotation, self._turns())]
        found = [solve_bundle(self.evidence, start, iterations=self.config.iterations, travels=False) for start in starts]
        return min(found, key=lambda solution: solution.sigma)

    def _turns(self) -> Float[Tensor, "t 3 3"]:
        """Rotations chained from frame to frame as if the camera stood still, by the rays of the points that both see."""
        e = self.evidence
        rays = normalize(torch.cat([e.pixel / math.exp(e.log_focal), torch.ones_like(e.pixel[:, :1])], dim=1), dim=1)
        world = torch.zeros(self.tracks.num_tracks, 3, dtype=torch.float64)
        seen = torch.full((self.tracks.num_tracks,), -2)
        rotation = [torch.eye(3, dtype=torch.float64)]
        for frame in range(self.tracks.num_frames):
            rows = torch.nonzero(e.frame == frame)[:, 0]
            both = rows[seen[e.point[rows]] == frame - 1]
            if frame > 0:
                enough = len(both) >= LEAST_SHARED
                rotation.append(_turn(rays[both], world[e.point[both]], rotation[-1]) if enough else rotation[-1])
            world[e.point[rows]] = rays[rows] @ rotation[-1].T
            seen[e.point[rows]] = frame
        return torch.stack(rotation)

    def apply(self, solution: Solution, report: dict[str, Any]) -> Reconstruction:
        """The reconstruction with the solved cameras, brought to the scale of its depth, and with its depth corrected."""
        state, old = solution.state, self.reconstruction
        height, width = old.depth.shape[1:]
        network = np.where(self.known.numpy(), self.depth.numpy(), np.nan)
        change, log_scale, points = depth_field(self.evidence, solution, network, self._places(), self.side, self.config.correction)
        corrects = change is not None and self.gain > self.config.correction_gain
        depth = old.depth
        if corrects and change is not None:
            depth = old.depth * np.exp(sample_field(change, height, width, self.config.correction)).astype(np.float32)
        pose = rigid(state.rotation, state.centre * self.unit * math.exp(-log_scale)).numpy()
        focal = float(state.log_focal.exp())
        height, width = old.depth.shape[1:]
        k = self.intrinsics.clone()
        k[:, [0, 1], [0, 1]] *= focal / self.focal
        k = np.array([width / old.source_size[1], height / old.source_size[0], 1.0])[:, None] * k.numpy()
        report |= {
            "used": True,
            "focal_by_longer_side": round(focal, 5),
            "corrects_depth": bool(corrects),
            "triangulated_per_frame": round(float(points), 1),
        }
        moved = replace(old, depth=depth, cam_to_world=pose, intrinsics=k)
        return moved.with_diagnostics(tracks=report)

    def _source_intrinsics(self, *, square: bool) -> Float[Tensor, "t 3 3"]:
        """Of the network, in pixels of the source, which are taken for square where nobody has said otherwise."""
        height, width = self.reconstruction.depth.shape[1:]
        scale = torch.tensor([self.tracks.source_size[1] / width, self.tracks.source_size[0] / height, 1.0], dtype=torch.float64)
        k = scale[:, None] * torch.from_numpy(np.asarray(self.reconstruction.intrinsics)).double()
        if square:
            k[:, 0, 0] = k[:, 1, 1] = (k[:, 0, 0] * k[:, 1, 1]).sqrt()
        return k

    @property
    def tracked_side(self) -> float:
        """The longer side in the pixels that tell places apart: those of the source, or of the frame that is tracked if it is smaller."""
        return float(min(self.side, MOST_TRACKED))

    @property
    def focal(self) -> float:
        """Of the first frame by the longer side of the source: the one that is solved for; others keep their ratio to it."""
        k = self.intrinsics[0]
        return float((k[0, 0] * k[1, 1]).sqrt()) / self.side

    def _normalised(self, frame: Tensor, position: Float[Tensor, "m 2"]) -> Float[Tensor, "m 2"]:
        """Pixels as the first frame's camera would see them, had it square pixels and its principal point in the middle."""
        k = self.intrinsics[frame]
        slope = (position - k[:, :2, 2]) / torch.stack([k[:, 0, 0], k[:, 1, 1]], dim=-1)
        return self.focal * slope

    def _places(self) -> np.ndarray:
        """(m, 2) in the frame, x and y from 0 to 1."""
        return self.tracks.position / np.array(self.tracks.source_size[::-1], dtype=np.float64)

    def _network_depth(self) -> tuple[Float[Tensor, "m"], Bool[Tensor, "m"]]:
        """Depth by the median at every observation, and whether there is one; what has none counts as far."""
        t, old = self.tracks, self.reconstruction
        height, width = old.depth.shape[1:]
        x = np.clip((t.position[:, 0] * width / t.source_size[1]).astype(int), 0, width - 1)
        y = np.clip((t.position[:, 1] * height / t.source_size[0]).astype(int), 0, height - 1)
        known = old.valid[t.frame, y, x]
        depth = np.where(known, old.depth[t.frame, y, x] / self.unit, SKY).astype(np.float64)
        return torch.from_numpy(depth).clamp(1e-3, SKY), torch.from_numpy(known)

    def _network_motion(self) -> Motion:
        """The network's cameras from frame to frame: a weak voice, heard where little could be followed."""
        c, poses = self.config, torch.from_numpy(self.reconstruction.cam_to_world).double()
        relative = invert_rigid(poses[:-1]) @ poses[1:]
        step = relative[:, :3, 3] / self.unit
        return Motion(
            poses[1:, :3, :3] @ poses[:-1, :3, :3].mT, step, math.radians(c.turn_sigma_deg), c.step_sigma * step.norm(dim=-1) + c.least_step
        )

    def _start(self, *, chained: bool, poses: Tensor | None = None) -> State:
        """Points lifted by the network's depth where they were first seen; cameras the network's, or chained from frame to frame."""
        e, focal = self.evidence, math.exp(self.evidence.log_focal)
        if poses is None:
            poses = torch.from_numpy(self.reconstruction.cam_to_world).double().clone()
            poses[:, :3, 3] /= self.unit
        rays = torch.cat([e.pixel / focal, torch.ones_like(e.pixel[:, :1])], dim=1)
        points = torch.zeros(self.tracks.num_tracks, 3, dtype=torch.float64)
        known = torch.zeros(len(points), dtype=torch.bool)
        is_first = torch.zeros(len(e.point), dtype=torch.bool)
        is_first[self.first] = True
        for frame in range(len(poses)):
            rows = torch.nonzero(e.frame == frame)[:, 0]
            seen = rows[known[e.point[rows]]]
            if chained and frame > 0:
                poses[frame] = poses[frame - 1]
                if len(seen) >= LEAST_SHARED:
                    poses[frame] = _locate(poses[frame], points[e.point[seen]], rays[seen, :2])
            new = rows[is_first[rows]]
            points[e.point[new]] = (self.depth[new, None] * rays[new]) @ poses[frame, :3, :3].T + poses[frame, :3, 3]
            known[e.point[new]] = True
        return State(poses[:, :3, :3].clone(), poses[:, :3, 3].clone(), torch.tensor(e.log_focal, dtype=torch.float64), points)


def _locate(pose: Float[Tensor, "4 4"], points: Float[Tensor, "k 3"], rays: Float[Tensor, "k 2"]) -> Float[Tensor, "4 4"]:
    """A camera from points whose places are known, robustly."""
    return solve_pnp(pose[None], points[None], torch.ones(1, len(points), dtype=torch.float64), rays[None], rounds=20)[0][0]


def _turn(rays: Float[Tensor, "k 3"], world: Float[Tensor, "k 3"], start: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation that takes most rays to where they point in the world."""
    rotation = start
    for _ in range(10):
        apart = (rays @ rotation.T - world).norm(dim=1)
        rotation = fit_rotation(rays, world, 1 / (1 + (apart / apart.median().clamp_min(1e-6)).square()))
    return rotation


def _ends(point: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows in which each track is seen first and last; rows are in the order of the frames."""
    rows = torch.arange(len(point))
    first = torch.full((count,), len(point)).scatter_reduce_(0, point, rows, "amin")
    return first, torch.zeros(count, dtype=torch.int64).scatter_reduce_(0, point, rows, "amax")
