"""Settings of the joint alignment of all windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geo4d.errors import ConfigError


@dataclass(frozen=True)
class JointConfig:
    """What is sampled, how the initial guess is made, and how the terms are weighed.

    A weight says how much a term counts by one frame's sampled pixels.
    """

    terms: tuple[str, ...] = ("points", "rays", "poses", "depth", "smoothness", "focal")
    # adaptive: the general robust loss, its shape learnt from the residuals
    loss: Literal["cauchy", "adaptive"] = "cauchy"
    samples: int = 144  # pixels a frame that determine the cameras; more is slower in proportion, and hardly better
    most_precision: float = 9.0  # of one pixel, by the typical one: what the network is surest of may still be wrong
    iterations: int = 25  # steps of the solve, which ends long before
    worth_repeating: float = 0.5  # of the disagreement that a solve assumed, below which it is repeated

    # initial guess
    # focal length by the longer side, where the evidence is weak: of a usual camera, 64 degrees
    focal_prior: float = 0.8
    focal_prior_log_sigma: float = 0.5
    min_field_of_view_deg: float = 20.0
    max_field_of_view_deg: float = 120.0
    drift: float = 0.05  # of log focal lengths between the video's ends, from which the camera may be zooming
    min_shared_pixels: int = 10  # that link two windows

    # terms
    across_width: float = 1.0  # of the robust loss across rays, in median residuals: wider, outliers move cameras
    along_width: float = 2.0  # the same of log depth
    # of the windows' disagreement about cameras, below which residuals do not count as smaller
    least_residual: float = 0.25
    ray_weight: float = 0.3  # of one ray camera; the paper's ray term is its weakest too
    smoothness: float = 0.1  # acceleration prior of the centres, relative to the typical residual
    rotation_smoothness: float = 0.7  # the same of the rotations
    smoothest: float = 0.05  # of the windows' own accelerations, below which a smooth path does not count as smoother
    focal_weight: float = 0.1  # of the first estimate of the focal length
    focal_log_sigma: float = 0.01  # how far the joint solve may move the focal length
    zoom_log_sigma: float = 0.05  # the same of a focal length that varies
    zoom_acceleration_sigma: float = 0.002  # of its second differences, log a frame squared
    prior_pixels: float = 14.0  # sampled pixels that err together: given poses count for as many

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.samples < 16 or self.iterations < 1:
            raise ConfigError(
                f"joint needs at least 16 samples and 1 iteration; got {self.samples} and {self.iterations}."
            )
        if self.loss not in ("cauchy", "adaptive"):
            raise ConfigError(f"joint.loss must be cauchy or adaptive; got {self.loss!r}.")
        sigmas = (self.focal_log_sigma, self.zoom_log_sigma, self.zoom_acceleration_sigma, self.focal_prior_log_sigma)
        if min(*sigmas, self.across_width, self.along_width, self.focal_prior) <= 0:
            raise ConfigError("Sigmas, widths and the focal prior of joint must be above 0.")
        if not 0 < self.min_field_of_view_deg < self.max_field_of_view_deg < 180:
            found = f"{self.min_field_of_view_deg} to {self.max_field_of_view_deg}"
            raise ConfigError(f"Fields of view must rise from above 0 to below 180 degrees; got {found}.")
