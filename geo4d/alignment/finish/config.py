"""Settings of diagnostics, metric scale and moving pixels."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MovingConfig:
    """Which pixels move: evidence is in expected errors of log depth, sharing among neighbours in pixels."""

    gaps: tuple[int, ...] = (3, 6, 10, 15)  # frames, before and after, that are looked at
    slack: float = 1.5  # expected errors that a surface may lie behind without meaning anything
    most: float = 4.0  # that count, of one frame
    hidden: float = 2.0  # expected errors by which a surface in front hides a point
    rounds: int = 3  # of sharing among neighbours
    radius: int = 3
    like_depth: float = 0.15  # difference of log depth, and
    like_colour: float = 0.2  # of colour from 0 to 1, at which neighbours share a third as much
    even: float = 0.15  # evidence at which a pixel moves as likely as not
    steepness: float = 1.5  # of the probability over log evidence
    reach: float = 0.1  # of the longer side: sigma of the distance at which a followed point speaks for a pixel
    most_voices: float = 2.5  # of followed points around a pixel, that count: neighbours err together
    doubt: float = 0.1  # of what they say
    depth_trust: float = 3.0  # independent voices, as which the evidence by depth counts, which is of whole regions
    truly_moving: float = 0.25  # of the points which the cameras do not explain: the others were followed badly


@dataclass(frozen=True)
class MetricConfig:
    """How large the scene is, by lengths that are known."""

    least_path: float = 0.005  # of metric cameras, by the typical depth, below which they do not make the result metric
    lower: float = 0.55  # of the image's height, below which the ground is sought
    steepest_deg: float = 35.0  # between the ground's normal and the camera's upward axis
    thickness: float = 0.02  # of the ground, by its distance
    least_share: float = 0.3  # of the lower image that must be ground
    least_frames: float = 0.3  # of the video in which it must be seen


@dataclass(frozen=True)
class FinishConfig:
    """All of it."""

    moving: MovingConfig = field(default_factory=MovingConfig)
    metric: MetricConfig = field(default_factory=MetricConfig)
    suspect: float = 5.0  # robust sigmas above what is usual, from which a window or frame is named
    least_excess: float = 2.0  # and times the usual
    most_suspects: int = 8  # that are named
    # by which errors shared by neighbouring frames of a window count less; from simulated windows
    correlated_frames: float = 5.0
