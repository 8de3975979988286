"""Settings of the global alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geo4d.errors import ConfigError


@dataclass(frozen=True)
class AlignmentConfig:
    """Which evidence is used, and how hard the solver works."""

    use_points: bool = True
    use_disparity: bool = True
    use_rays: bool = True
    focal: Literal["shared"] = "shared"
    smoothness: float = 0.1  # acceleration prior of the centres, relative to the typical residual
    turn_smoothness: float = 1.0  # the same of the rotations
    samples: int = 144  # pixels a frame that determine the cameras
    iterations: int = 25
    focal_prior: float = 0.8  # focal length by the longer side, where the evidence is weak
    focal_prior_log_sigma: float = 0.5
    focal_log_sigma: float = 0.01  # how far the joint solve may move the focal length
    min_field_of_view_deg: float = 20.0
    max_field_of_view_deg: float = 120.0

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.samples < 16 or self.iterations < 1:
            raise ConfigError(f"alignment needs at least 16 samples and 1 iteration; got {self.samples} and {self.iterations}.")
        if not (self.use_points or self.use_disparity or self.use_rays):
            raise ConfigError("alignment needs at least one of use_points, use_disparity and use_rays.")
