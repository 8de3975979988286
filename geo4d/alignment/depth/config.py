"""Settings of depth: how windows are fused, its confidence, how triangulated points correct it."""

from __future__ import annotations

from dataclasses import dataclass, field

from geo4d.errors import ConfigError
from geo4d.matching.sweep import SweepConfig


@dataclass(frozen=True)
class ConfidenceConfig:
    """What predicts the expected error of a pixel's log depth.

    Shares fitted once, on simulated windows under many laws of noise.
    """

    disagreement: float = 0.206  # by the windows' spread
    steepness: float = 0.084  # by the difference to neighbours: at edges near and far are mixed up
    evidence: float = 0.368  # by how little evidence there is beside what is usual
    steepest: float = 0.5  # difference of log depth between neighbours, beyond which an edge is an edge
    default_sigma: float = 0.05  # of log depth, of a network that predicts no precision


@dataclass(frozen=True)
class CorrectionConfig:
    """A smooth field of log depth by triangulated points: sizes in cells, errors in log depth."""

    columns: int = 15
    rows: int = 10
    network_sigma: float = 0.15  # of the network's depth, shared by whole regions
    frame_sigma: float = 0.2  # of the scale of a frame, by which a network that sees it in few windows errs
    space: float = 1.0  # weight of differences between neighbouring cells
    time: float = 0.3  # of one cell from frame to frame
    ridge: float = 0.3  # of the field itself
    # times the follower's noise, as which its error counts at least: it is not independent from frame to frame
    least_noise: float = 2.0
    independent_frames: float = 2.0  # observations of a track that count
    worst_sigma: float = 0.15  # beyond which a point is left out
    point_floor: float = 0.1  # of a point's error
    robust: float = 0.25  # residual at which a point counts half
    least_points: float = 10.0  # a frame
    least_belief: float = 0.4  # in a track
    # of the misfit, that a camera that travels saves beyond chance, from which parallax is trusted with the depth too:
    # on development clips depth got worse below .30 (two of two), and mostly better above .33 (six of seven)
    least_gain: float = 0.31


@dataclass(frozen=True)
class StereoConfig:
    """Depth at the resolution of the pictures, by views from near cameras: parallax in pixels for 10 % of depth."""

    least_parallax: float = 0.5  # below it another view tells nothing
    most_parallax: float = 3.5  # beyond it surfaces look too different
    views: int = 3  # on each side, that are compared
    reach: int = 24  # frames, within which they are sought
    least_overlap: float = 0.3  # of a frame, that another view must see
    # half of the range of log depth, and hypotheses in it: first at half the size, then around what that found
    ranges: tuple[float, ...] = (0.45, 0.14)
    hypotheses: tuple[int, ...] = (40, 16)
    prior: float = 0.2  # cost of a hypothesis at the end of the range, beside costs of views from 0 to 1
    neighbours: tuple[int, ...] = (2, 4, 8)  # frames before and after, whose depth should be the same
    agreement: float = 0.04  # of log depth, by which it may differ
    region: float = 0.04  # of the longer side: in squares of this side a view that was held out judges
    smoothness: float = 30.0  # of the completion, by the weight of a pixel whose depth is certain
    edge: float = 0.05  # difference of colours from 0 to 1, at which depth may change
    least_weight: float = 0.01  # of a pixel whose depth no other frame confirms
    odd_change: float = 0.15  # of log depth beside what is usual around a pixel, from which it rather moves
    wide_smoothness: float = 3000.0  # of what is usual
    certainty: float = 0.65  # share of the expected error that is gone where all frames agree
    # of the way a camera has gone, its standard deviation: on development clips depth got worse from .17 on (three of
    # three) and better up to .15 (twelve of twelve)
    most_travel_sigma: float = 0.15
    most_cycle_error: float = 1.0  # pixels, by which flow there and back may miss, and
    most_off_line: float = 2.0  # pixels, by which it may miss the line on which the cameras say that a point is seen
    flow_noise: float = 0.5  # pixels, of flow
    sweep: SweepConfig = field(default_factory=SweepConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if len(self.ranges) != len(self.hypotheses) or not self.ranges or min(self.hypotheses) < 4:
            raise ConfigError(
                "depth.stereo needs as many hypotheses as ranges, each at least 4; got "
                f"{len(self.ranges)} ranges and hypotheses {self.hypotheses}."
            )
        if not 0 < self.least_parallax < self.most_parallax or min(self.views, self.reach) < 1:
            raise ConfigError(
                "depth.stereo needs 0 < least_parallax < most_parallax, and at least one view within reach."
            )


@dataclass(frozen=True)
class DepthConfig:
    """How the candidates for a pixel are fused into one depth."""

    sources: tuple[str, ...] = ("points", "disparity", "given")
    samples: int = 256  # pixels a frame that settle disparities' scales and the trust in each modality
    outlier_width: float = 2.5  # of a candidate by the size of ordinary errors, at which it counts half
    spread_floor: float = 0.01  # relative depth below which candidates agree
    most_trust: float = 9.0  # of one modality by another
    odd_window: float = 3.0  # times the usual disagreement, from which a window is trusted less
    neighbours: int = 2  # earlier windows that each is compared with
    # of a pixel off the line of a window's disparity, by the size of ordinary errors, at which it counts half
    line_width: float = 2.0
    given_weight: float = 8.0  # windows that depth given beforehand outweighs, where it is as precise as theirs
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    stereo: StereoConfig = field(default_factory=StereoConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.samples < 16 or self.neighbours < 1:
            raise ConfigError(
                f"depth needs at least 16 samples and 1 neighbour; got {self.samples} and {self.neighbours}."
            )
        if (
            min(
                self.outlier_width,
                self.spread_floor,
                self.most_trust,
                self.odd_window,
                self.line_width,
                self.given_weight,
            )
            <= 0
        ):
            raise ConfigError("Widths, floors and weights of depth must be above 0.")
        if min(self.correction.columns, self.correction.rows) < 1:
            raise ConfigError("The field of depth.correction needs at least one column and one row.")
