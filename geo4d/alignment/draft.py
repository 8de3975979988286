"""What the windows alone lead to: the state that followed points correct, and that is described at the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from geo4d.alignment.bundle.choose import Adjusted
from geo4d.alignment.cameras import Cameras
from geo4d.alignment.depth.config import CorrectionConfig
from geo4d.alignment.depth.dense import Corrected, Dense, Fused, correct_depth
from geo4d.alignment.joint.steps import Joint


@dataclass(frozen=True)
class Draft:
    """Cameras and depth in the unit of the windows, with all that is needed to say how good they are."""

    cameras: Cameras
    dense: Dense
    report: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    joint: Joint | None = None  # None: the windows were not solved together
    fused: Fused | None = None
    adjusted: Adjusted | None = None  # by followed points
    corrected: Corrected | None = None
    is_metric: bool = False  # whether the unit is a metre already

    @property
    def has_moved(self) -> bool:
        """Whether the cameras are no longer those of the windows."""
        return self.corrected is not None

    def adjusted_by(self, adjusted: Adjusted, config: CorrectionConfig) -> Draft:
        """With the cameras by followed points, and the depth corrected by them, where they are worth it."""
        warnings = self.warnings if adjusted.warning is None else (*self.warnings, adjusted.warning)
        if not adjusted.is_used:
            return replace(self, adjusted=adjusted, warnings=warnings)
        corrected = correct_depth(self.dense, adjusted, config)
        cameras = adjusted.cameras(corrected.log_scale)
        return replace(
            self, cameras=cameras, dense=corrected.dense, adjusted=adjusted, corrected=corrected, warnings=warnings
        )
