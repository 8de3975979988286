"""Cameras and focal length by what the pixels show (followed points): which of several solutions, and whether it is worth taking.

The network's depth makes a initial guess of every tracked point and holds what parallax does not determine (a camera that only rotates, or
stands still); bundle adjustment does the rest. Where there is too little to go by, the cameras stay as they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.bundle.adjust import Solution, State, camera_covariance, misfit, residuals, solve_bundle
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.bundle.starts import TrackedVideo
from geo4d.alignment.cameras import Cameras
from geo4d.alignment.priors import Priors
from geo4d.errors import InputError
from geo4d.geometry.resample import nearest_pixel
from geo4d.geometry.rigid import rigid
from geo4d.scene import Tracks

EXACT = 1e-5  # sigma of a focal length that was given


@dataclass(frozen=True)
class Adjusted:
    """What followed points made of the cameras; without a `solution` these are to stay as they were."""

    report: dict[str, Any]  # for `diagnostics["tracks"]`
    warning: str | None = None
    video: TrackedVideo | None = None
    solution: Solution | None = None
    gain: float = 0.0  # share of the misfit by which a camera that travels is better than one that only rotates

    @property
    def is_used(self) -> bool:
        """Whether the cameras are the tracks'."""
        return self.solution is not None

    def cameras(self, log_scale: float) -> Cameras:
        """In the alignment's unit, by which the solution's depth exceeds the network's."""
        assert self.video is not None and self.solution is not None
        return self.video.to_cameras(self.solution.state, log_scale)

    def covariance(self, log_scale: float) -> Float[Tensor, "t 6 6"]:
        """Of each camera's rotation (radians, about the world's axes) and centre in the alignment's unit; the first one is exact."""
        assert self.video is not None and self.solution is not None
        found = camera_covariance(self.video.evidence, self.solution)
        unit = torch.tensor([1.0] * 3 + [self.video.unit * math.exp(-log_scale)] * 3, dtype=torch.float64)
        return found * unit[:, None] * unit

    def residual_by_frame(self) -> Float[Tensor, "t"]:
        """Median reprojection residual of the believed tracks in each frame, by the longer side; 0 where there are none."""
        assert self.video is not None and self.solution is not None
        e = self.video.evidence
        length = residuals(e, self.solution.state).pixel.norm(dim=1)
        believed = self.solution.track_weight[e.point] > self.video.config.believed
        frames = range(self.video.tracks.num_frames)
        each = [length[believed & (e.frame == frame)] for frame in frames]
        return torch.stack([some.median() if len(some) else length.new_zeros(()) for some in each])


def adjust_cameras(
    cameras: Cameras,
    log_depth: Float[Tensor, "t h w"],
    tracks: Tracks,
    source_size: tuple[int, int],
    config: BundleConfig,
    priors: Priors,
) -> Adjusted:
    """Bundle adjustment from the network's cameras and log depth (nan where there is none).

    Of the `priors`, given intrinsics stay as they are (or as firm), given cameras stay altogether, and points on ignored pixels are
    not used. Focal lengths that differ between frames are moved by one common factor. Raises InputError if the tracks belong to
    another video.
    """
    frames = len(log_depth)
    if tracks.num_frames != frames or tracks.source_size != source_size:
        raise InputError(
            f"The tracks are of {tracks.num_frames} frames of {tracks.source_size[1]} x {tracks.source_size[0]} pixels, the video has "
            f"{frames} of {source_size[1]} x {source_size[0]}; give its own tracks."
        )
    report: dict[str, Any] = {"tracks": tracks.num_tracks, "observations": len(tracks.track)}
    if priors.cam_to_world is not None:
        return _unused(report, "the cameras were given")
    if priors.ignore is not None:
        tracks = _outside(tracks, np.asarray(priors.ignore).astype(bool))
    if frames < 2 or len(tracks.track) < config.min_observations * frames:
        return _unused(report, "too few points could be followed", warn=True)
    if not log_depth.isfinite().any():
        return _unused(report, "there is no depth to begin with", warn=True)
    sigma = config.log_focal_sigma if priors.intrinsics is None else max(priors.focal_sigma, EXACT)
    video = TrackedVideo(cameras, log_depth.exp(), tracks, config, sigma, intrinsics_given=priors.intrinsics is not None)
    choice = _Choice(video).solve()
    solution = choice.solution
    believed = solution.track_weight[video.evidence.point] > config.believed
    each = int(torch.bincount(video.evidence.frame[believed], minlength=frames).median())
    report |= {
        "believed": round(float((solution.track_weight > config.believed).double().mean()), 4),
        "observations_per_frame": each,
        "residual_px": round(solution.sigma * video.side, 4),
        **solution.summary.as_dict(),
        "travels": choice.travels,
        "gain": round(choice.gain, 3),
        "gain_over_network": round(choice.gain_over_network, 3),
    }
    if choice.gain_over_network < max(config.least_gain, config.chances * _chance(video)):
        return _unused(report, "the network's cameras explain the points about as well as any")
    if solution.sigma * video.tracked_side > config.most_residual:
        return _unused(report, "the points that were followed do not fit a static world", warn=True)
    if each < config.min_observations:
        return _unused(report, "too few of the points that were followed fit a static world", warn=True)
    focal = float(solution.state.log_focal.exp())
    report |= {"used": True, "focal_by_longer_side": round(focal, 5)}
    warning = None
    if choice.focal_put_back is not None:
        report["focal_put_back"] = round(choice.focal_put_back, 5)
        warning = (
            f"Followed points would have a focal length of {choice.focal_put_back:.2f} of the longer side, which is not believed; it was "
            f"left near the network's {focal:.2f}: give --intrinsics if you know it."
        )
    return Adjusted(report, warning, video, solution, choice.gain)


def _unused(report: dict[str, Any], reason: str, *, warn: bool = False) -> Adjusted:
    warning = f"Cameras are the network's alone: {reason}." if warn else None
    return Adjusted({**report, "used": False, "unused_because": reason}, warning)


def _outside(tracks: Tracks, ignore: np.ndarray) -> Tracks:
    """Without observations on ignored pixels, and without the tracks of which less than two are left."""
    row, column = nearest_pixel(tracks.position, tracks.source_size, ignore.shape[1:])
    keep = ~ignore[tracks.frame, row, column]
    keep &= np.bincount(tracks.track[keep], minlength=tracks.num_tracks)[tracks.track] > 1
    _, track = np.unique(tracks.track[keep], return_inverse=True)
    return replace(tracks, track=track.astype(np.int32), frame=tracks.frame[keep], position=tracks.position[keep])


def _chance(video: TrackedVideo) -> float:
    """Share of the misfit that free cameras save even of pure noise: unknowns by what is left of the observations."""
    left = 2 * len(video.evidence.point) - 3 * video.tracks.num_tracks
    return (6 * video.tracks.num_frames + 1) / max(left, 1)


@dataclass
class _Choice:
    """Several starts, the best camera that travels, the best that only rotates, and which of both."""

    video: TrackedVideo
    solution: Solution = field(init=False)
    travels: bool = True
    focal_put_back: float | None = None  # by the longer side: where the tracks would have had it
    gain: float = 0.0
    gain_over_network: float = 0.0
    runaway: dict[int, float] = field(default_factory=dict)  # focal lengths that were put back, by the solution they were put back for

    def solve(self) -> _Choice:
        """The best camera that travels or that only rotates.

        Three starts: the network's cameras with points lifted by its depth; the same with points that were first fitted to the
        cameras (good cameras are not torn off by depth that errs); cameras chained frame by frame. Those that fit best go on.
        A camera that travels fits always a little better than one that only rotates; what it must explain beyond that is
        `travel_gain` of the misfit.
        """
        evidence, config = self.video.evidence, self.video.config
        lifted = self.video.start(chained=False)
        fitted = solve_bundle(evidence, lifted, iterations=config.start_iterations, focal_is_free=False, cameras_are_free=False).state
        starts = [lifted, fitted, self.video.start(chained=True)]
        fixed = [solve_bundle(evidence, start, iterations=config.start_iterations, focal_is_free=False) for start in starts]
        promising = {id(solution): solution for solution in (self._better(fixed), min(fixed, key=lambda solution: solution.sigma))}
        best = self._better([self._freed(solution) for solution in promising.values()])
        rotation_only = self._rotation_only(best)
        self.gain = self._saved(rotation_only.state, best.state, best.sigma)
        self.focal_put_back = self.runaway.get(id(best))
        self.solution, self.travels = (best, True) if self.gain > config.travel_gain else (rotation_only, False)
        self.gain_over_network = self._saved(fitted, self.solution.state, self.solution.sigma)
        return self

    def _saved(self, before: State, after: State, sigma: float) -> float:
        """By how much the misfit before exceeds that after, relative to the latter."""
        first, second = (misfit(self.video.evidence, state, sigma) for state in (before, after))
        return first / max(second, 1e-12) - 1

    def _freed(self, fixed: Solution) -> Solution:
        """With the focal length too, unless it runs away: then it explains wrong tracks, not the camera."""
        evidence, iterations = self.video.evidence, self.video.config.iterations
        free = solve_bundle(evidence, fixed.state, iterations=iterations)
        moved = abs(float(free.state.log_focal) - evidence.log_focal) / evidence.log_focal_sigma
        if moved <= self.video.config.focal_limit:
            return free
        held = solve_bundle(evidence, fixed.state, iterations=iterations, focal_is_free=False)
        self.runaway[id(held)] = float(free.state.log_focal.exp())
        return held

    def _better(self, solutions: list[Solution]) -> Solution:
        """The one that fits best by one scale for all: costs at different scales cannot be compared."""
        sigma = min(solution.sigma for solution in solutions)
        return min(solutions, key=lambda solution: misfit(self.video.evidence, solution.state, sigma))

    def _rotation_only(self, solution: Solution) -> Solution:
        """The best camera that stays in its place: from the rotations of the best one that travels, and from rotations alone."""
        still = torch.zeros_like(solution.state.centre)
        rotations = solution.state.rotation, self.video.rotations_alone()
        starts = [self.video.start(chained=False, poses=rigid(rotation, still)) for rotation in rotations]
        found = [solve_bundle(self.video.evidence, start, iterations=self.video.config.iterations, travels=False) for start in starts]
        return min(found, key=lambda solution: solution.sigma)
