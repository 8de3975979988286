"""Cameras and focal length by what the pixels show (followed points).

Which of several solutions, and whether it is worth taking. The network's depth makes an initial guess of every tracked
point and holds what parallax does not determine (a camera that only rotates, or stands still); bundle adjustment does
the rest. Where there is too little to go by, the cameras stay as they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.bundle.adjust import QUICK, Solution, solve_bundle
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.bundle.evidence import State, jitter_square, misfit, residuals, track_square
from geo4d.alignment.bundle.groups import Groups, find_groups
from geo4d.alignment.bundle.starts import TrackedVideo, Uncertainty
from geo4d.alignment.bundle.system import Free
from geo4d.alignment.bundle.views import breaks, chosen, thinned, tracks_across
from geo4d.alignment.bundle.worth import Worth, shows_world, worth_of
from geo4d.alignment.cameras import Cameras
from geo4d.alignment.priors import Priors
from geo4d.errors import InputError
from geo4d.geometry.resample import nearest_pixel
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import so3_log
from geo4d.scene import Tracks
from geo4d.solver.robust import Loss

EXACT = 1e-5  # sigma of a focal length that was given
UNKNOWN_FOCAL = 0.8  # of what was known of the focal length beforehand, from which tracks have added nothing to it
START_ITERATIONS = 15  # at most, of solves that choose a start: they mostly end earlier
NAMED = 5  # frames that a warning names
STILL_DEG = 0.05  # and
STILL = 1e-3  # median depths, by which a camera that stands still seems to turn and move


@dataclass(frozen=True)
class FollowedPoints:
    """Where tracks were seen, and how far the cameras explain them."""

    frame: np.ndarray  # (m,)
    position: np.ndarray  # (m, 2), x and y from 0 to 1
    is_static: np.ndarray  # (m,) weight of the track: near 1 it stands still, near 0 it moves


@dataclass(frozen=True)
class Adjusted:
    """What followed points made of the cameras; without a `solution` these are to stay as they were."""

    report: dict[str, Any]  # for `diagnostics["tracks"]`
    warning: str | None = None
    video: TrackedVideo | None = None
    solution: Solution | None = None
    uncertainty: Uncertainty | None = None
    gain: float = 0.0  # share of the misfit by which a camera that travels is better than one that only rotates
    groups: Groups | None = None  # what moves as rigid bodies

    @property
    def is_used(self) -> bool:
        """Whether the cameras are the tracks'."""
        return self.solution is not None

    def cameras(self, log_scale: float) -> Cameras:
        """In the alignment's unit, by which the solution's depth exceeds the network's."""
        assert self.video is not None and self.solution is not None
        return self.video.to_cameras(self.solution.state, log_scale)

    def covariance(self, log_scale: float) -> Float[Tensor, "t 6 6"]:
        """Of each camera's rotation (radians, about the world's axes) and centre in the alignment's unit.

        The first one is exact.
        """
        assert self.video is not None and self.uncertainty is not None
        found = self.uncertainty.cameras
        unit = torch.tensor([1.0] * 3 + [self.video.unit * math.exp(-log_scale)] * 3, dtype=torch.float64)
        return found * unit[:, None] * unit

    def followed(self) -> FollowedPoints:
        """Which tracks stand still, and where they were seen."""
        assert self.video is not None and self.solution is not None and self.groups is not None
        e, c = self.video.evidence, self.video.config
        off = residuals(e, self.solution.state).pixel
        mean = track_square(e, off.square().sum(1))
        noise = jitter_square(e, off).clamp_min(self.solution.sigma**2)
        static = Loss.cauchy(c.moving_width).weight(mean / noise).numpy() * ~self.groups.members
        return FollowedPoints(self.video.tracks.frame, self.video.places, static[e.point])

    def residual_by_frame(self) -> Float[Tensor, "t"]:
        """Median reprojection residual of the believed tracks in each frame, by the longer side.

        0 where there are none.
        """
        assert self.video is not None and self.solution is not None
        e = self.video.evidence
        length = residuals(e, self.solution.state).pixel.norm(dim=1)
        believed = self.solution.track_weight[e.point] > self.video.config.believed
        each = [length[rows][believed[rows]] for rows in self.video.views.rows]
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

    Of the `priors`, given intrinsics stay as they are (or as firm), given cameras stay altogether, and points on
    ignored pixels are not used. Focal lengths that differ between frames are moved by one common factor. Raises
    InputError if the tracks belong to another video.
    """
    frames = len(log_depth)
    if tracks.num_frames != frames or tracks.source_size != source_size:
        raise InputError(
            f"The tracks are of {tracks.num_frames} frames of {tracks.source_size[1]} x {tracks.source_size[0]} "
            f"pixels, the video has {frames} of {source_size[1]} x {source_size[0]}; give its own tracks."
        )
    report: dict[str, Any] = {"tracks": tracks.num_tracks, "observations": len(tracks.track)}
    if priors.cam_to_world is not None:
        return _unused(report, "the cameras were given")
    keep = (
        np.ones(len(tracks.track), bool)
        if priors.ignore is None
        else _outside(tracks, np.asarray(priors.ignore).astype(bool))
    )
    tracks = chosen(tracks, keep)
    if frames < 2 or len(tracks.track) < config.min_observations * frames:
        return _unused(report, "too few points could be followed", warn=True)
    if not log_depth.isfinite().any():
        return _unused(report, "there is no depth to begin with", warn=True)
    if len(tracks.track) > config.views.crowded * frames:
        tracks = thinned(tracks, config.views)
    sigma = config.log_focal_sigma if priors.intrinsics is None else max(priors.focal_sigma, EXACT)
    video = TrackedVideo(
        cameras, log_depth.exp(), tracks, config, sigma, intrinsics_given=priors.intrinsics is not None
    )
    cuts = breaks(video.views, config.views)
    choice = _Choice(video).solve()
    solution, worth = choice.solution, choice.taken.worth
    believed = solution.track_weight[video.evidence.point] > config.believed
    unheld = np.flatnonzero(tracks_across(video.views, believed.numpy()) < config.views.held)
    unheld = np.setdiff1d(unheld, cuts)
    each = int(torch.bincount(video.evidence.frame[believed], minlength=frames).median())
    report |= {
        "keyframes": len(video.keyframes),
        "cut_after_frames": cuts.tolist(),
        "unheld_after_frames": unheld.tolist(),
        "noise_px": round(video.noise * video.side, 4),
        "misfit_by_start": choice.misfits,
        "explained": round(worth.explained, 3),
        "beyond_chance": round(worth.beyond_chance, 2),
        "groups": choice.groups.report(),
        "believed": round(float((solution.track_weight > config.believed).double().mean()), 4),
        "observations_per_frame": each,
        "residual_px": round(solution.sigma * video.side, 4),
        **solution.summary.as_dict(),
        "camera": choice.says(),
        "gain": round(choice.gain, 3),
        "gain_over_network": round(choice.gain_over_network, 3),
    }
    if not shows_world(worth, config):
        return _unused(report, "what was followed shows no static world, no more than chance would", warn=True)
    if choice.gain_over_network < max(config.least_gain, config.chances * _chance(video)):
        return _unused(report, "the network's cameras explain the points about as well as any")
    if each < config.min_observations:
        return _unused(report, "too few of the points that were followed fit a static world", warn=True)
    uncertainty = video.uncertainty(solution, Free("each" if choice.taken.zooms else "shared"))
    known = uncertainty.log_focal_sigma < UNKNOWN_FOCAL * video.log_focal_sigma
    report |= {
        "used": True,
        "focal_by_longer_side": round(float(solution.state.log_focal.mean().exp()), 5),
        "focal_log_sigma": round(uncertainty.log_focal_sigma, 4),
        "focal_from": "tracks" if known else "network" if priors.intrinsics is None else "given",
        "zooms": choice.taken.zooms,
    }
    warning = " ".join(filter(None, (_cut_warning(cuts), _unheld_warning(unheld)))) or None
    return Adjusted(report, warning, video, solution, uncertainty, choice.gain, choice.groups)


def _unused(report: dict[str, Any], reason: str, *, warn: bool = False) -> Adjusted:
    warning = f"Cameras are the network's alone: {reason}." if warn else None
    return Adjusted({**report, "used": False, "unused_because": reason}, warning)


def _cut_warning(cuts: np.ndarray) -> str | None:
    if not len(cuts):
        return None
    return (
        f"Nothing could be followed from frame {_named(cuts)} to the next, as where a video is cut: how the cameras "
        "before and after lie to each other is a guess. Reconstruct each part by itself."
    )


def _unheld_warning(unheld: np.ndarray) -> str | None:
    if not len(unheld):
        return None
    return (
        f"Hardly any point that fits a static world is seen both up to frame {_named(unheld)} and after it: how the "
        "camera moved there is a guess, and the cameras before and after may be wrong. Give frames that are less far "
        "apart, or reconstruct each part by itself."
    )


def _named(frames: np.ndarray) -> str:
    return ", ".join(str(frame) for frame in frames[:NAMED]) + (" and others" if len(frames) > NAMED else "")


def _outside(tracks: Tracks, ignore: np.ndarray) -> np.ndarray:
    """Which observations are not on ignored pixels."""
    row, column = nearest_pixel(tracks.position, tracks.source_size, ignore.shape[1:])
    return ~ignore[tracks.frame, row, column]


def _chance(video: TrackedVideo) -> float:
    """Share of the misfit that free cameras save even of pure noise: unknowns by what is left of the observations."""
    left = 2 * len(video.evidence.point) - 3 * int((video.evidence.length > 0).sum())
    return (6 * video.tracks.num_frames + 1) / max(left, 1)


def _by_chance(video: TrackedVideo) -> float:
    """How many times the misfit of a camera that only turns is that of one that travels, where it does not travel.

    By the squares that are left when directions and rotations are solved for, and when points and cameras are: a point
    that few frames see is placed in depth so that its noise fits.
    """
    observed, frames = 2 * len(video.evidence.point), video.tracks.num_frames - 1
    points = int((video.evidence.length > 0).sum())
    return (observed - 2 * points - 3 * frames) / max(observed - 3 * points - 6 * frames + 1, 1)


@dataclass(frozen=True)
class _Candidate:
    """A solution of all frames, from which one is chosen."""

    video: TrackedVideo
    solution: Solution
    travels: bool
    zooms: bool  # each frame has a focal length of its own

    @cached_property
    def worth(self) -> Worth:
        """What it explains of the tracks."""
        return worth_of(self.video.evidence, self.solution.state, travels=self.travels)


@dataclass
class _Choice:
    """The best camera that travels, the best that only rotates, and which of both."""

    video: TrackedVideo
    key: TrackedVideo = field(init=False)  # its keyframes
    taken: _Candidate = field(init=False)
    solution: Solution = field(init=False)  # the one that is taken, where members of groups are not believed
    groups: Groups = field(init=False)
    gain: float = 0.0
    gain_over_network: float = 0.0
    misfits: dict[str, float] = field(default_factory=dict)  # of the keyframes by each start, from 0 to 1

    def __post_init__(self) -> None:
        self.key = self.video.at(self.video.keyframes)

    def solve(self) -> _Choice:
        """On the keyframes, from several starts; the best then for all frames.

        The starts: maps of the tracks alone, from several pairs of frames; the network's cameras, with points fitted to
        them.
        """
        key, config = self.key, self.video.config
        fitted = self._solved(key, key.lifted(), Free(focal="held", cameras=False))
        solved = [self._solved(key, fitted.state, Free())]
        for number, state in enumerate(key.maps()):
            solved.append(self._solved(key, state, Free()))
            fits = sorted(self._misfits(key, solved[1:]))
            agreed = len(fits) > 1 and fits[1] < (1 + config.mapping.same) * fits[0]
            if agreed or number + 1 == config.mapping.most_starts:
                break
        fits = self._misfits(key, solved)
        self.misfits = {"network": round(fits[0], 3)} | {
            f"map {n}": round(fit, 3) for n, fit in enumerate(fits[1:], start=1)
        }
        best = solved[int(np.argmin(fits))]
        still = self._rotation_only(key, best)
        self.gain = self._saved_by_travel(key, still, best)
        self.taken = self._of_all(best, travels=True)
        if self.gain < config.travel_gain:
            self._stay(self._of_all(still, travels=False))
        self._set_groups_aside()
        network = self._solved(self.video, self.video.lifted(), Free(focal="held", cameras=False))
        self.gain_over_network = self._saved_of_explained(network)
        return self

    def _set_groups_aside(self) -> None:
        """What moves as rigid bodies is no evidence of the cameras, which are solved for again if some was believed.

        The solution without it is taken if it fits the rest no worse. By a camera that does not travel no groups are
        told: if it travels a little after all, what is near moves as one.
        """
        video, taken, solution = self.video, self.taken, self.taken.solution
        self.groups = Groups.none(video.num_points)
        if taken.travels:
            self.groups = find_groups(video.views, video.evidence, solution)
        moves = torch.from_numpy(self.groups.members)
        if bool((solution.track_weight[moves] > video.config.believed).any()):
            rest = video.evidence.without(moves).smooth_like(solution.state)
            free = Free("each" if taken.zooms else "shared", travels=taken.travels)
            # the last solve, so to its end: without what drove it, the camera may have far to go in small steps
            again = solve_bundle(rest, solution.state, iterations=video.config.iterations, free=free)
            sigma = min(solution.sigma, again.sigma)
            if misfit(rest, again.state, sigma) <= misfit(rest, solution.state, sigma):
                solution = again
                self.taken = replace(taken, solution=again)
        self.solution = replace(solution, track_weight=torch.where(moves, 0.0, solution.track_weight))

    def _stay(self, still: _Candidate) -> None:
        """The camera doesn't travel, unless that explains more in all frames.

        Of a few keyframes it does in any case.
        """
        travelling, config = self.taken, self.video.config
        self.gain = self._saved_by_travel(self.video, still.solution, travelling.solution)
        if self.gain > (0 if still.zooms else config.travel_gain):
            return
        if shows_world(still.worth, config) or not shows_world(travelling.worth, config):
            self.taken = still

    def _of_all(self, found: Solution, *, travels: bool) -> _Candidate:
        """For all frames, from the keyframes.

        With a focal length of each if that explains what one for all does not.
        """
        plain = self._extended(found, Free("shared", travels=travels))
        shared = _Candidate(self.video, plain, travels, zooms=False)
        if self.key.intrinsics_given:  # given ones stay in their ratio
            return shared
        zooming = self._solved(self.key, found.state, Free("each", travels=travels))
        asked = self.video.config.zoom_gain
        if self._saved(self.key, found, zooming) > asked:
            zooming = self._extended(zooming, Free("each", travels=travels))
            if self._saved(self.video, plain, zooming) > asked:
                return _Candidate(self.video, zooming, travels, zooms=True)
        return shared

    def _extended(self, found: Solution, free: Free) -> Solution:
        """A solution of the keyframes, for all frames."""
        start = self.video.extended(found.state, travels=free.travels)
        evidence = self.video.evidence.smooth_like(start)
        return solve_bundle(evidence, start, iterations=self.video.config.iterations, free=free)

    def says(self) -> str:
        """What the camera does, in words."""
        state = self.solution.state
        turned = float(so3_log(state.rotation[0].mT @ state.rotation).norm(dim=1).max())
        if self.taken.travels:
            return "travels" if float((state.centre - state.centre[0]).norm(dim=1).max()) > STILL else "stands still"
        return "turns only" if math.degrees(turned) > STILL_DEG else "stands still"

    def _misfits(self, key: TrackedVideo, solutions: list[Solution]) -> list[float]:
        """By one scale for all: misfits at different scales cannot be compared."""
        sigma = min(solution.sigma for solution in solutions)
        return [misfit(key.evidence, solution.state, sigma) for solution in solutions]

    def _saved(self, key: TrackedVideo, before: Solution, after: Solution) -> float:
        """By how much the misfit before exceeds that after, relative to the latter."""
        sigma = min(before.sigma, after.sigma)
        first, second = (misfit(key.evidence, solution.state, sigma) for solution in (before, after))
        return first / max(second, 1e-12) - 1

    def _saved_by_travel(self, video: TrackedVideo, still: Solution, travelling: Solution) -> float:
        """The same beyond what it is by chance."""
        return (1 + self._saved(video, still, travelling)) / _by_chance(video) - 1

    def _saved_of_explained(self, before: Solution) -> float:
        """The same of the tracks that either of it and the result explains.

        What moves neither explains, and it must not hide the difference.
        """
        after, e = self.solution, self.video.evidence
        reach = (e.config.track_width * min(before.sigma, after.sigma)) ** 2
        square = torch.stack(
            [track_square(e, residuals(e, s.state).pixel.square().sum(1)) / reach for s in (before, after)]
        )
        weight = e.length * (square.min(dim=0).values < 1) * ~torch.from_numpy(self.groups.members)
        first, second = ((weight * each / (1 + each)).sum() for each in square)
        return float(first / second.clamp_min(1e-12)) - 1

    def _solved(self, video: TrackedVideo, state: State, free: Free) -> Solution:
        """A solve that need only be good enough to choose."""
        return solve_bundle(video.evidence, state, iterations=START_ITERATIONS, free=free, damping=QUICK)

    def _rotation_only(self, key: TrackedVideo, solution: Solution) -> Solution:
        """The best camera that stays in its place.

        From rotations alone, and from those of the best one that travels where it is close.
        """
        still = torch.zeros_like(solution.state.centre)
        found: list[Solution] = []
        for rotation in (key.rotations_alone(), solution.state.rotation):
            found.append(self._solved(key, key.lifted(rigid(rotation, still)), Free(travels=False)))
            if self._saved_by_travel(key, found[0], solution) > self.video.config.travel_gain:
                break
        return found[int(np.argmin(self._misfits(key, found)))]
