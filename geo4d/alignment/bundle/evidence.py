"""What is known of cameras and points, what is solved for, and how badly the one fits the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from geo4d._typing import Bool, Float, Int, Tensor
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.bundle.motion import Motion
from geo4d.alignment.joint.terms.base import acceleration
from geo4d.geometry.rotation import so3_exp, so3_log
from geo4d.solver.robust import Loss
from geo4d.solver.schur import PointElimination

NEAREST = 1e-3  # median depths: a point behind its camera counts as one as near as this
LONGEST = 0.3  # log focal length: a step beyond is cut
ROWS = 8192  # observations whose points are placed in their cameras at once


@dataclass(frozen=True)
class Evidence:
    """What is known beside the tracks.

    Pixels are centred and divided by the longer side, lengths in units of the video's median depth.
    """

    point: Int[Tensor, "m"]
    frame: Int[Tensor, "m"]
    pixel: Float[Tensor, "m 2"]
    prior_point: Int[Tensor, "q"]
    prior_frame: Int[Tensor, "q"]
    prior_log_depth: Float[Tensor, "q"]
    prior_sigma: Float[Tensor, "q"]
    log_focal: float
    log_focal_sigma: float
    noise: float  # of one followed position; least size of a typical residual
    config: BundleConfig
    motion: Motion | None = None
    gap: Float[Tensor, "s"] | None = None  # frames from each camera to the next one; one, if none are given
    num_points: int = 0  # at least: some may be seen nowhere here
    centre_smoothness: float = 0.0  # weight of squared accelerations of the centres, and of the rotations
    rotation_smoothness: float = 0.0

    @cached_property
    def length(self) -> Float[Tensor, "n"]:
        """Observations of each point."""
        return torch.bincount(self.point, minlength=self.num_points).double()

    @cached_property
    def focal_weight(self) -> float:
        """Of a squared error of the log focal length.

        As if not more than `focal_evidence` observations spoke against what is known of it. All observations share what
        makes them wrong together (things that move a little, a rolling shutter): a valley along which the cost falls by
        a hundredth says nothing, however many observations have made it.
        """
        return max(1.0, len(self.point) / self.config.focal_evidence) / self.log_focal_sigma**2

    @cached_property
    def zoom_sigma(self) -> Float[Tensor, "*s"]:
        """Of the log focal length from each camera to the next: a random walk by frames, sqrt(g) over g of them."""
        walk = torch.ones((), dtype=torch.float64) if self.gap is None else self.gap.sqrt()
        return self.config.zoom_sigma * walk

    def smooth_like(self, state: State) -> Evidence:
        """With cameras expected to move as smoothly as in a state, and no more smoothly than the settings have it."""
        if len(state.centre) <= 2:
            return self
        found = []
        for acceleration_ in (acceleration(state.centre), frame_to_frame_rotations(state.rotation).diff(dim=0)):
            typical = float(acceleration_.square().sum(1).median()) / 3 * self.config.roughness**2
            found.append(min(self.config.smoothness, 1 / max(typical, 1e-12)))
        return replace(self, centre_smoothness=found[0], rotation_smoothness=found[1])

    def without(self, tracks: Bool[Tensor, "n"]) -> Evidence:
        """Without some of the tracks, which keep their numbers."""
        seen, prior = ~tracks[self.point], ~tracks[self.prior_point]
        names = ("prior_point", "prior_frame", "prior_log_depth", "prior_sigma")
        priors = {name: getattr(self, name)[prior] for name in names}
        return replace(self, point=self.point[seen], frame=self.frame[seen], pixel=self.pixel[seen], **priors)

    def elimination(self, state: State) -> PointElimination:
        """Who sees whom; worked out at the first call."""
        if not hasattr(self, "_elimination"):
            point, frame = (
                torch.cat(both).numpy() for both in ((self.point, self.prior_point), (self.frame, self.prior_frame))
            )
            found = PointElimination(point, frame, len(state.points), len(state.centre))
            object.__setattr__(self, "_elimination", found)
        return self.__dict__["_elimination"]


@dataclass(frozen=True)
class State:
    """What is solved for; the first camera stays."""

    rotation: Float[Tensor, "t 3 3"]  # cam_to_world
    centre: Float[Tensor, "t 3"]
    log_focal: Float[Tensor, "t"]
    points: Float[Tensor, "n 3"]  # in the world

    def moved(self, camera: Float[Tensor, "t 7"], points: Float[Tensor, "n 3"]) -> State:
        """After a step of rotations (from the left), centres and log focal lengths, and of the points."""
        return State(
            so3_exp(camera[:, :3]) @ self.rotation,
            self.centre + camera[:, 3:6],
            self.log_focal + camera[:, 6].clamp(-LONGEST, LONGEST),
            self.points + points,
        )


@dataclass(frozen=True)
class Residuals:
    """Of the observations and of the depth priors, with the points in the cameras that see them."""

    pixel: Float[Tensor, "m 2"]
    local: Float[Tensor, "m 3"]
    prior: Float[Tensor, "q"]
    prior_local: Float[Tensor, "q 3"]


def residuals(evidence: Evidence, state: State) -> Residuals:
    """All residuals; a point behind its camera counts as one just before it."""
    pixel, count = torch.empty_like(evidence.pixel), len(evidence.pixel)
    local = pixel.new_empty(count, 3)
    for begin in range(0, count, ROWS):
        some = slice(begin, begin + ROWS)
        pixel[some], local[some] = reprojection(evidence, state, some)
    return Residuals(pixel, local, *depth_error(evidence, state))


def reprojection(evidence: Evidence, state: State, some: slice) -> tuple[Float[Tensor, "k 2"], Float[Tensor, "k 3"]]:
    """Residuals of some observations, and their points in the cameras that see them."""
    frame = evidence.frame[some]
    local = _local(state, evidence.point[some], frame)
    return state.log_focal.exp()[frame, None] * local[:, :2] / local[:, 2:] - evidence.pixel[some], local


def depth_error(evidence: Evidence, state: State) -> tuple[Float[Tensor, "q"], Float[Tensor, "q 3"]]:
    """Residuals of the depth priors, and their points in the cameras."""
    local = _local(state, evidence.prior_point, evidence.prior_frame)
    return (local[:, 2].log() - evidence.prior_log_depth) / evidence.prior_sigma, local


def _local(state: State, point: Tensor, frame: Tensor) -> Float[Tensor, "k 3"]:
    local = ((state.points[point] - state.centre[frame])[:, None] @ state.rotation[frame])[:, 0]
    return torch.cat([local[:, :2], local[:, 2:].clamp_min(NEAREST)], dim=1)


def jitter_square(evidence: Evidence, off: Float[Tensor, "m 2"]) -> Float[Tensor, "n"]:
    """Mean squared noise of each track, both axes together, by how much it shakes from frame to frame; 0 of short ones.

    From second differences, of which the square is six times that of independent noise. A corner of mere image noise
    drifts by such steps, and seems to move by a few times as much; what moves does so smoothly.
    """
    order = evidence.point.argsort(stable=True)  # observations are in the order of the frames
    point, sorted_off = evidence.point[order], off[order]
    second = (sorted_off[2:] - 2 * sorted_off[1:-1] + sorted_off[:-2]).square().sum(1) / 6
    inside = (point[2:] == point[:-2]).to(off.dtype)
    size = len(evidence.length)
    total, count = (torch.zeros(size, dtype=off.dtype).index_add_(0, point[1:-1], x) for x in (second * inside, inside))
    return total / count.clamp_min(1)


def track_square(evidence: Evidence, square: Float[Tensor, "m"]) -> Float[Tensor, "n"]:
    """Mean of what is given for each observation, by track."""
    return torch.zeros_like(evidence.length).index_add_(0, evidence.point, square) / evidence.length.clamp_min(1)


def scales(evidence: Evidence, r: Residuals) -> tuple[float, Float[Tensor, "n"]]:
    """Size of a typical reprojection residual of the tracks that are believed, and the weight of each track as a whole.

    A track counts by its mean square residual through a Cauchy weight: near 1 it is static, near 0 it moves or was
    followed wrongly. Things that move must not widen the scale by which they are judged, so it is measured a second
    time without them.
    """
    c, square = evidence.config, r.pixel.square().sum(1)
    sigma = max(c.typical * float(square.median().sqrt()), evidence.noise)
    weight = Loss.cauchy(c.track_width).weight(track_square(evidence, square) / sigma**2)
    believed = weight[evidence.point] > c.believed
    if bool(believed.any()):
        sigma = max(c.typical * float(square[believed].median().sqrt()), evidence.noise)
        weight = Loss.cauchy(c.track_width).weight(track_square(evidence, square) / sigma**2)
    return sigma, weight


def misfit(evidence: Evidence, state: State, sigma: float) -> float:
    """How badly all tracks as wholes fit a state, from 0 to 1, on average of the observations.

    Comparable between states.

    What is far off counts 1, however far: of two states the one that explains more wins, not the one that is less wrong
    about what moves.
    """
    mean = (
        track_square(evidence, residuals(evidence, state).pixel.square().sum(1))
        / (evidence.config.track_width * sigma) ** 2
    )
    return float((evidence.length * mean / (1 + mean)).sum()) / max(len(evidence.point), 1)


def cost(
    evidence: Evidence, state: State, sigma: float, tracks: Float[Tensor, "n"], r: Residuals | None = None
) -> float:
    """The robust objective at given scale and track weights; `r` are the residuals, where they are there already."""
    c, r = evidence.config, residuals(evidence, state) if r is None else r
    square = r.pixel.square().sum(1) / sigma**2
    total = (tracks[evidence.point] * Loss.cauchy(c.observation_width).value(square)).sum()
    total = total + Loss.cauchy(c.prior_width).value(r.prior.square()).sum()
    total = total + evidence.focal_weight * (state.log_focal.mean() - evidence.log_focal) ** 2
    total = total + (state.log_focal.diff() / evidence.zoom_sigma).square().sum()
    total = total + evidence.centre_smoothness * acceleration(state.centre).square().sum()
    if evidence.motion is not None:
        total = total + evidence.motion.cost(state.rotation, state.centre)
    return float(
        total + evidence.rotation_smoothness * frame_to_frame_rotations(state.rotation).diff(dim=0).square().sum()
    )


def frame_to_frame_rotations(rotation: Float[Tensor, "t 3 3"]) -> Float[Tensor, "s 3"]:
    """Rotation from each frame to the next, as vectors in the world."""
    return so3_log(rotation[1:] @ rotation[:-1].mT)
