"""Settings of the alignment, as one tree: a branch for each of its rooms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.depth.config import DepthConfig
from geo4d.alignment.fallback.config import FallbackConfig
from geo4d.alignment.finish.config import FinishConfig
from geo4d.alignment.joint.config import JointConfig
from geo4d.errors import ConfigError


@dataclass(frozen=True)
class PaperConfig:
    """The paper's own first-order optimisation, for reference."""

    steps: int = 500
    learning_rate: float = 0.03

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.steps < 1 or self.learning_rate <= 0:
            raise ConfigError(
                f"paper needs at least 1 step and a learning rate above 0; got {self.steps} and {self.learning_rate}."
            )


@dataclass(frozen=True)
class AlignmentConfig:
    """Which evidence is used, how the solver works, and every number of each step."""

    solver: Literal["fast", "paper"] = "fast"  # paper: Eq. 4 to 10 by first-order optimisation, for reference
    use_points: bool = True
    use_disparity: bool = True
    use_rays: bool = True
    focal: Literal["shared", "per_frame"] = "shared"  # per_frame: the camera zooms
    motion: bool = True  # whether to say which pixels move
    # depth at the resolution of the pictures, by views from near cameras, where followed points settle these: by a
    # search over depths (full), by optical flow (flow: a third of the time), or not at all
    detail: Literal["off", "flow", "full"] = "full"
    joint: JointConfig = field(default_factory=JointConfig)
    bundle: BundleConfig = field(default_factory=BundleConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    finish: FinishConfig = field(default_factory=FinishConfig)
    fallback: FallbackConfig = field(default_factory=FallbackConfig)
    paper: PaperConfig = field(default_factory=PaperConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError for settings that contradict one another."""
        if self.focal not in ("shared", "per_frame"):
            raise ConfigError(f"focal must be shared or per_frame; got {self.focal!r}.")
        if self.detail not in ("off", "flow", "full"):
            raise ConfigError(f"detail must be off, flow or full; got {self.detail!r}.")
        if self.solver not in ("fast", "paper"):
            raise ConfigError(f"solver must be fast or paper; got {self.solver!r}.")
        if self.solver == "paper" and not self.use_points:
            raise ConfigError("The paper solver works on points; leave use_points on, or take solver=fast.")
        if not (self.use_points or self.use_disparity or self.use_rays):
            raise ConfigError("alignment needs at least one of use_points, use_disparity and use_rays.")
