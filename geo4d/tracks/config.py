"""Every number by which points are followed. Pixels are those of the tracked frame (`min_side`, `max_side`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from geo4d.errors import ConfigError
from geo4d.matching.features import FeatureConfig
from geo4d.matching.patches import PatchConfig


@dataclass(frozen=True)
class FindConfig:
    """How points are found in an image that differs much from the one in which they were seen.

    By features around them.
    """

    min_support: float = 2.5  # matches by nearness to a point, to predict where it is: about what an affine map needs
    features: FeatureConfig = field(default_factory=FeatureConfig)
    patches: PatchConfig = field(default_factory=PatchConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.min_support < 0:
            raise ConfigError("finding points again needs min_support >= 0.")


@dataclass(frozen=True)
class LoopClosureConfig:
    """Which keyframes are compared, and how points are found again in them."""

    interval: int = 8  # frames between keyframes: a third of a second, in which little goes out of view
    min_gap: int = 16  # frames between keyframes that are compared: nearer ones share the points that are followed
    candidates: int = 3  # earlier keyframes that each is compared with: time then grows with the video's length alone
    max_shared: float = 0.5  # of a keyframe's points still followed: where more are, little can be found for the time
    words: int = 16  # of the vocabulary by which keyframes are compared: a video has few places to tell apart
    min_distance: float = 6.0  # pixels between points that were found again: nearer ones may be one, twice lost
    again: FindConfig = field(default_factory=FindConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.interval < 1 or self.min_gap < self.interval or self.candidates < 1 or self.words < 1:
            raise ConfigError("loop closures need interval >= 1, min_gap >= interval, candidates >= 1 and words >= 1.")
        if not (0 <= self.max_shared <= 1 and self.min_distance >= 0):
            raise ConfigError("loop closures need max_shared from 0 to 1 and min_distance >= 0.")


@dataclass(frozen=True)
class LeapConfig:
    """Frames so far apart that most points are lost from one to the next: there they are looked for by features."""

    kept: float = 0.7  # of the last frame's points, below which the others are looked for: an ordinary step loses fewer
    again: FindConfig = field(default_factory=lambda: FindConfig(features=FeatureConfig(1500, 640)))  # they are few

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if not 0 <= self.kept <= 1:
            raise ConfigError("leaps need kept from 0 to 1.")


@dataclass(frozen=True)
class TrackerConfig:
    """How points are followed from frame to frame."""

    min_side: int = 384  # pixels, longer side: smaller frames are enlarged, for a window to hold less
    max_side: int = 640  # pixels, longer side: larger frames are reduced to it, for time
    blur: float = 0.7  # pixels of the source frame (sigma), against noise and compression
    window: int = 15  # pixels, side of the patch that is compared: smaller is less certain, larger spans surfaces
    # of the pyramid above the image: steps up to about 2^levels half windows are found, as of a head that turns
    levels: int = 5
    anchor_levels: int = 1  # the same where a point is set anew: it is nearly there already
    border: int = 2  # pixels from the edge of the image, within which too little of a patch is seen
    max_cycle_error: float = 0.25  # pixels, forward-backward error: right steps come back nearer, lost ones seldom
    max_anchor_shift: float = 0.1  # windows, by which a point is set anew: errors of the steps add up to less
    spacing: int = 20  # pixels by which points are spread, a corner a square of this side at most; smaller takes longer
    corner_distance: float = 0.6  # spacings between new corners: nearer ones hardly add to what is known
    clearance: float = 0.5  # spacings from followed points to new corners: crowds leave gaps elsewhere
    corner_block: int = 5  # pixels, side of the patch whose gradients make a corner: large ones find weak corners
    # of a corner, relative to the best: dark and hazy parts have some too, and the best may be far better
    quality: float = 0.002
    cell: float = 2.0  # spacings, side of the cells in which points are counted: each should hold a few
    # of the cells, without any point, from which corners are sought: a still camera needs none
    empty_share: float = 0.15
    min_length: int = 3  # frames in which a track is seen: where the camera turns fast, few are seen in more
    leaps: LeapConfig | None = field(default_factory=LeapConfig)  # None: what cannot be followed is lost
    # None: points that are lost stay lost
    closures: LoopClosureConfig | None = field(default_factory=LoopClosureConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if (
            self.window < 5
            or self.spacing < 2
            or self.max_side < self.min_side
            or self.min_side < 16
            or self.min_length < 2
        ):
            raise ConfigError(
                "tracks need window >= 5, spacing >= 2, min_side >= 16, max_side >= min_side and min_length >= 2."
            )
        if not (0 <= self.levels <= 8 and 0 <= self.anchor_levels <= 8 and self.border >= 0 and self.corner_block >= 2):
            raise ConfigError("tracks need levels and anchor_levels from 0 to 8, border >= 0 and corner_block >= 2.")
        if not (
            self.max_cycle_error > 0 and self.max_anchor_shift >= 0 and 0 <= self.blur <= 100 and 0 < self.quality < 1
        ):
            raise ConfigError(
                "tracks need max_cycle_error above 0, max_anchor_shift >= 0, blur from 0 to 100 and quality between 0 "
                "and 1."
            )
        if not (0 <= self.corner_distance <= 100 and 0 <= self.clearance <= 100 and 0 < self.cell <= 100):
            raise ConfigError(
                "tracks need corner_distance, clearance and cell from 0 to 100 spacings, and a cell above 0."
            )
