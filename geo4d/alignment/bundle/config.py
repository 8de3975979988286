"""Settings of the cameras by followed points."""

from __future__ import annotations

from dataclasses import dataclass

from geo4d.errors import ConfigError


@dataclass(frozen=True)
class BundleConfig:
    """How followed points and the network are weighed, and when the points are believed."""

    depth_sigma: float = 0.7  # of the network's log depth at one point: its errors are shared by whole regions
    far_sigma: float = 1.0  # the same beyond fifteen median depths
    log_focal_sigma: float = 0.2  # of the network's focal length
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
    iterations: int = 40

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if min(self.depth_sigma, self.far_sigma, self.log_focal_sigma, self.pixel_floor) <= 0 or self.iterations < 1:
            raise ConfigError("bundle needs sigmas and a pixel floor above 0 and at least one iteration.")
