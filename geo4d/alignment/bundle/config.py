"""Settings of the cameras by followed points."""

from __future__ import annotations

from dataclasses import dataclass

from geo4d.errors import ConfigError


@dataclass(frozen=True)
class BundleConfig:
    """How followed points and the network are weighed, and when the result is taken."""

    # the network as a prior
    depth_sigma: float = 0.7  # of its log depth at one point: its errors are shared by whole regions
    far: float = 15.0  # median depths, beyond which it is uninformative
    far_sigma: float = 1.0  # of its log depth there
    sky: float = 20.0  # median depths, where a pixel without depth is put
    log_focal_sigma: float = 0.2  # of its focal length
    focal_limit: float = 3.0  # of those sigmas, beyond which a focal length explains wrong tracks, not the camera
    turn_sigma_deg: float = 0.4  # of its cameras from frame to frame
    step_sigma: float = 1.0  # the same of their steps, relative, and
    least_step: float = 0.01  # median depths

    # residuals
    observation_width: float = 2.0  # of one observation by its typical size, at which it counts half
    track_width: float = 3.0  # the same of a whole track's root mean square
    prior_width: float = 1.4  # of a depth prior, in its sigmas
    motion_width: float = 2.0  # of the network's motion, in its sigmas
    typical: float = 1.2  # typical size of a residual, in medians
    pixel_floor: float = 0.05  # least typical residual, pixels of the source
    smoothness: float = 3e5  # of the centres and of the rotation: they matter only where the observations determine little
    rotation_smoothness: float = 3e5
    iterations: int = 40  # steps of the last solves
    start_iterations: int = 15  # of those that choose a start
    min_shared: int = 6  # points by which one frame is placed by others

    # whether it is worth it
    min_observations: int = 12  # of believed tracks in the typical frame
    most_residual: float = 0.55  # pixels: where most points are worse, they are not a static world's
    most_tracked: int = 640  # pixels of the longer side in which that is meant, at most: what the follower sees
    least_gain: float = 0.3  # of the misfit with the network's cameras, that others must save: small errors of good ones are not seen
    chances: float = 6.0  # and how many times what so many unknowns save by chance
    travel_gain: float = 0.2  # of the misfit, which a camera that travels must save
    believed: float = 0.5  # weight of a track from which it counts as static
    independent_frames: float = 2.0  # observations of a track that count as independent in covariances

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        sigmas = (self.depth_sigma, self.far_sigma, self.log_focal_sigma, self.turn_sigma_deg, self.step_sigma)
        widths = (self.observation_width, self.track_width, self.prior_width, self.motion_width, self.pixel_floor)
        if min(*sigmas, *widths) <= 0 or min(self.iterations, self.start_iterations) < 1:
            raise ConfigError("bundle needs sigmas, widths and a pixel floor above 0 and at least one iteration.")
