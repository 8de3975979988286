"""Settings of the global alignment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.depth.correction_config import CorrectionConfig
from geo4d.errors import ConfigError


@dataclass(frozen=True)
class AlignmentConfig:
    """Which evidence is used, and how hard the solver works."""

    solver: Literal["fast", "paper"] = "fast"  # paper: Eq. 4 to 10 by first-order optimisation, for reference
    use_points: bool = True
    use_disparity: bool = True
    use_rays: bool = True
    focal: Literal["shared", "per_frame"] = "shared"  # per_frame: the camera zooms
    loss: Literal["cauchy", "adaptive"] = "cauchy"  # adaptive: the general robust loss, its shape learnt from the residuals
    motion: bool = True  # whether to say which pixels move
    smoothness: float = 0.1  # acceleration prior of the centres, relative to the typical residual
    turn_smoothness: float = 0.7  # the same of the rotations
    terms: tuple[str, ...] = ("points", "rays", "poses", "depth", "smoothness", "focal")  # of the joint solve
    samples: int = 144  # pixels a frame that determine the cameras
    iterations: int = 25
    focal_prior: float = 0.8  # focal length by the longer side, where the evidence is weak
    focal_prior_log_sigma: float = 0.5
    focal_log_sigma: float = 0.01  # how far the joint solve may move the focal length
    zoom_log_sigma: float = 0.05  # the same of a focal length that varies
    zoom_bend_sigma: float = 0.002  # its second differences
    paper_steps: int = 500
    paper_learning_rate: float = 0.03
    min_field_of_view_deg: float = 20.0
    max_field_of_view_deg: float = 120.0
    bundle: BundleConfig = field(default_factory=BundleConfig)  # cameras by followed points
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)  # depth by triangulated points

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.samples < 16 or self.iterations < 1:
            raise ConfigError(f"alignment needs at least 16 samples and 1 iteration; got {self.samples} and {self.iterations}.")
        if self.focal not in ("shared", "per_frame") or self.loss not in ("cauchy", "adaptive"):
            raise ConfigError(f"focal must be shared or per_frame, loss cauchy or adaptive; got {self.focal!r} and {self.loss!r}.")
        if min(self.focal_log_sigma, self.zoom_log_sigma, self.zoom_bend_sigma) <= 0:
            raise ConfigError("focal_log_sigma, zoom_log_sigma and zoom_bend_sigma must be above 0.")
        if self.solver not in ("fast", "paper") or self.paper_steps < 1 or self.paper_learning_rate <= 0:
            raise ConfigError("alignment needs solver fast or paper, paper_steps of at least 1 and a paper_learning_rate above 0.")
        if self.solver == "paper" and not self.use_points:
            raise ConfigError("The paper solver works on points; leave use_points on, or take solver=fast.")
        if not (self.use_points or self.use_disparity or self.use_rays):
            raise ConfigError("alignment needs at least one of use_points, use_disparity and use_rays.")
