"""The cameras that the steps of an alignment hand on to one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.geometry.rigid import relative_to_first


@dataclass(frozen=True)
class FixedIntrinsics:
    """The intrinsics that are not solved for: principal point and aspect ratio."""

    principal_point: Float[Tensor, "t 2"]  # from the image centre, divided by the longer side
    aspect: Float[Tensor, "t"]  # fy / fx

    @classmethod
    def ideal(cls, frames: int) -> FixedIntrinsics:
        """Square pixels, principal point at the image centre."""
        return cls(torch.zeros(frames, 2, dtype=torch.float64), torch.ones(frames, dtype=torch.float64))

    def normalise(self, pixels: Float[Tensor, "p 2"]) -> Float[Tensor, "t p 2"]:
        """Centred pixels as a camera with square pixels and a central principal point would see them."""
        moved = pixels - self.principal_point[:, None]
        return torch.stack([moved[..., 0], moved[..., 1] / self.aspect[:, None]], dim=-1)

    def intrinsics(self, focal: Float[Tensor, "t"], height: int, width: int) -> Float[Tensor, "t 3 3"]:
        """In pixels; `focal` is by the longer side."""
        side = max(height, width)
        k = torch.zeros(len(focal), 3, 3, dtype=torch.float64)
        k[:, 0, 0], k[:, 1, 1], k[:, 2, 2] = focal * side, focal * self.aspect * side, 1.0
        k[:, 0, 2], k[:, 1, 2] = (
            width / 2 + side * self.principal_point[:, 0],
            height / 2 + side * self.principal_point[:, 1],
        )
        return k


@dataclass(frozen=True)
class Cameras:
    """One camera a frame, float64; the first one is the world."""

    cam_to_world: Float[Tensor, "t 4 4"]
    focal: Float[Tensor, "t"]  # fx by the longer side of the working frames
    fixed_intrinsics: FixedIntrinsics

    @classmethod
    def of(
        cls, cam_to_any: Float[Tensor, "t 4 4"], focal: Float[Tensor, "t"], fixed_intrinsics: FixedIntrinsics
    ) -> Cameras:
        """From poses in any common frame."""
        return cls(relative_to_first(cam_to_any.double()), focal, fixed_intrinsics)

    def at(self, frames: np.ndarray) -> Cameras:
        """Those of some frames, in the first of their cameras."""
        fixed = FixedIntrinsics(self.fixed_intrinsics.principal_point[frames], self.fixed_intrinsics.aspect[frames])
        return Cameras.of(self.cam_to_world[frames], self.focal[frames], fixed)

    def intrinsics(self, height: int, width: int) -> Float[Tensor, "t 3 3"]:
        """In pixels of frames of that size."""
        return self.fixed_intrinsics.intrinsics(self.focal, height, width)
