"""What the windows alone lead to: the state that followed points correct, and that is described at the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.functional import interpolate

from geo4d._typing import Float, Tensor
from geo4d.alignment.bundle.choose import Adjusted
from geo4d.alignment.cameras import Cameras
from geo4d.alignment.depth.config import CorrectionConfig, DepthConfig, StereoConfig
from geo4d.alignment.depth.dense import Corrected, Dense, Fused, correct_depth
from geo4d.alignment.depth.stereo import Detail
from geo4d.alignment.joint.steps import Joint
from geo4d.geometry.resample import resize_nearest


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
    detail: Detail | None = None  # depth at the resolution of the pictures
    is_metric: bool = False  # whether the unit is a metre already

    @property
    def has_moved(self) -> bool:
        """Whether the cameras are no longer those of the windows."""
        return self.corrected is not None

    def final_depth(self, config: DepthConfig) -> tuple[Float[Tensor, "t h w"], Float[Tensor, "t h w"]]:
        """Log depth and its expected error at the final resolution, nan where there is none."""
        error = self.dense.error(config.confidence)
        if self.detail is None:
            return self.dense.log_depth, error
        log_depth, certainty = self.detail.log_depth, self.detail.certainty
        known = error.isfinite()
        usual = error[known].median() if known.any() else error.new_ones(())
        fine = interpolate(torch.where(known, error, usual)[:, None], log_depth.shape[1:], mode="bilinear")[:, 0]
        fine = fine * (1 - config.stereo.certainty * certainty)
        return log_depth, torch.where(log_depth.isfinite(), fine, torch.nan)

    @property
    def working_depth(self) -> Float[Tensor, "t y x"]:
        """The final log depth on the grid of the windows."""
        if self.detail is None:
            return self.dense.log_depth
        return torch.from_numpy(resize_nearest(self.detail.log_depth.numpy(), *self.dense.log_depth.shape[1:]))

    def lacks_detail(self, config: StereoConfig) -> str:
        """Why near views cannot sharpen depth by these cameras; empty if they can."""
        if self.adjusted is None or self.corrected is None:
            return "the cameras are not by followed points"
        if self.adjusted.report["camera"] != "travels":
            return "the camera does not travel"
        centre = self.cameras.cam_to_world[1:, :3, 3]
        covariance = self.adjusted.covariance(self.corrected.log_scale)[1:, 3:, 3:]
        sigma = covariance.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0).sqrt()
        share = float((sigma / centre.norm(dim=-1).clamp_min(1e-12)).nanmedian())
        if share < config.most_travel_sigma:  # nan is none either
            return ""
        return f"how far the camera travels is known to {100 * share:.0f} % alone"

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
