"""Settings of the cameras by followed points."""

from __future__ import annotations

from dataclasses import dataclass, field

from geo4d.errors import ConfigError


@dataclass(frozen=True)
class ViewsConfig:
    """Keyframes, and how well points are followed. Lengths in the image are by its longer side."""

    crowded: int = 400  # points in the mean frame, from which they are thinned out: more only cost time
    cells: int = 12  # along the longer side, by which points are thinned out, and
    most_in_cell: int = 4  # points in each of a frame
    keyframe_motion: float = (
        0.05  # of the typical point since the last keyframe: enough parallax to say something, where there is any
    )
    keyframe_shared: float = 0.5  # of the last keyframe's points still followed: fewer hold the next one badly
    keyframe_gap: int = 8  # frames at most: cameras between keyframes are found from near ones
    least_shared: int = (
        24  # points that two frames share, from which they say something of each other: three times what is needed
    )
    held: int = 8  # believed points seen before and after a step, below which it is a guess: as many hold two views
    unbroken: float = 0.1  # of a frame's points seen in the next one too: fast cameras keep half, a cut next to none
    least_noise: float = 3e-5  # of a followed position: no follower is better
    usual_noise: float = 5e-4  # where nothing can be measured: a third of a pixel of what is followed
    widest_noise: float = 5e-3  # beyond that nothing is followed

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if min(self.cells, self.most_in_cell, self.keyframe_gap) < 1 or self.least_shared < 8 or self.held < 0:
            raise ConfigError(
                "bundle.views needs cells, most_in_cell and keyframe_gap of 1 or more, least_shared >= 8 and held >= 0."
            )
        if not (
            0 < self.least_noise <= self.usual_noise <= self.widest_noise
            and self.keyframe_motion > 0
            and 0 <= self.keyframe_shared <= 1
        ):
            raise ConfigError(
                "bundle.views needs 0 < least_noise <= usual_noise <= widest_noise, keyframe_motion above 0, "
                "keyframe_shared from 0 to 1."
            )


@dataclass(frozen=True)
class MappingConfig:
    """Keyframes' cameras from the tracks alone."""

    gaps: tuple[int, ...] = (1, 2, 3, 4, 6, 9)  # keyframes between two that may start a map
    least_shared: int = 24  # points by which two keyframes may start one
    least_ahead: int = 15  # of them before both cameras: fewer agree by chance
    enough_angle_deg: float = 6.0  # between their rays: beyond, more does not help
    agreement: float = 4.0  # sigmas of the follower's noise within which an observation agrees with a camera
    least_angle_deg: float = 0.5  # between two rays of a point, below which they do not say how far it is
    least_seen: int = 8  # points that place a camera, and
    least_agreeing: float = 0.25  # of those it sees
    plenty: int = 60  # points by which a camera is placed well: more are no reason to begin farther off
    away: float = 5.0  # points that a keyframe must see more for being one keyframe farther away
    patience: int = 3  # cameras to wait for, before one that could not be placed is tried again
    growth: float = 1.35  # since the last adjustment of all, from which all are adjusted again
    local: int = 4  # cameras that are adjusted in between
    free_focal_from: int = 5  # cameras, from which the focal length is adjusted with them
    most_starts: int = 4  # maps that are tried
    same: float = 0.05  # of the misfit, within which two maps are the same, and no other is tried

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if min(self.gaps, default=0) < 1 or min(self.most_starts, self.local) < 1 or self.growth <= 1:
            raise ConfigError("bundle.mapping needs gaps, most_starts and local of 1 or more, and growth above 1.")
        if (
            min(self.agreement, self.enough_angle_deg) <= 0
            or min(self.least_shared, self.least_ahead, self.least_seen) < 6
        ):
            raise ConfigError(
                "bundle.mapping needs agreement and enough_angle_deg above 0, and at least 6 points that agree."
            )


@dataclass(frozen=True)
class BundleConfig:
    """How followed points and the network are weighed, and when the result is taken."""

    # the network as a prior
    depth_sigma: float = 0.7  # of its log depth at one point: its errors are shared by whole regions
    log_focal_sigma: float = 0.2  # of its focal length
    turn_sigma_deg: float = 0.4  # of its cameras from frame to frame
    step_sigma: float = 1.0  # the same of their steps, relative, and
    least_step: float = 0.01  # median depths

    # residuals
    observation_width: float = 2.0  # of one observation by its typical size, at which it counts half
    track_width: float = 3.0  # the same of a whole track's root mean square
    prior_width: float = 1.4  # of a depth prior, in its sigmas
    motion_width: float = 2.0  # of the network's motion, in its sigmas
    typical: float = 1.2  # typical size of a residual, in medians
    smoothness: float = (
        3e5  # largest weight of squared accelerations of centres and rotations: they matter where points say little
    )
    roughness: float = 2.0  # typical accelerations of the keyframes' solution, that are expected
    focal_evidence: float = 300.0  # observations, as which all together count against what is known of the focal length
    zoom_sigma: float = 0.01  # of the log focal length from frame to frame, where it may change
    iterations: int = 20  # steps of the last solve

    views: ViewsConfig = field(default_factory=ViewsConfig)
    mapping: MappingConfig = field(default_factory=MappingConfig)

    # whether it is worth it
    min_observations: int = 12  # of believed tracks in the typical frame
    least_explained: float = (
        0.15  # of the observations, by tracks that fit the solution: less is no world, whatever chance says
    )
    surely_explained: float = (
        0.4  # the same, from which it is one even where tracks are too short to tell it from chance
    )
    least_gain: float = (
        0.3  # of the misfit with the network's cameras, that others must save: small errors of good ones are not seen
    )
    chances: float = 6.0  # and how many times what so many unknowns save by chance
    zoom_gain: float = 0.15  # of the misfit, which a focal length that changes must save
    travel_gain: float = 0.23  # of the misfit, which a camera that travels must save beyond what it saves by chance
    believed: float = 0.5  # weight of a track from which it counts as static
    moving_width: float = 6.0  # typical residuals, from which a track rather moves than is followed badly
    all_covariances: int = 250  # frames up to which the covariances of all cameras are worked out together
    independent_frames: float = 1.2  # observations of a track that count as independent in covariances: errors go on

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        sigmas = (self.depth_sigma, self.log_focal_sigma, self.turn_sigma_deg, self.step_sigma)
        widths = (self.observation_width, self.track_width, self.prior_width, self.motion_width)
        if min(*sigmas, *widths) <= 0 or self.iterations < 1:
            raise ConfigError("bundle needs sigmas, and widths above 0 and at least one iteration.")
