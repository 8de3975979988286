"""Disparity maps (method 2.4): 1 / depth, min-max over the window, sky at 0, one channel shown three times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from geo4d._typing import Float, Tensor
from geo4d.modalities.base import Images
from geo4d.scene import Clip

FAR_DISPARITY = 0.05  # decoded values below say "far away" and get no weight


@dataclass(frozen=True)
class DisparityModality:
    """One image; scale and shift of every window are left to the alignment."""

    name: str = "disparity"
    image_names: tuple[str, ...] = ("disparity",)

    def encode(self, clip: Clip) -> Images:
        """Disparity images of windows (b, v, h, w), whose range is that of the valid pixels and the sky."""
        known = clip.valid | clip.sky
        disparity = torch.where(clip.sky, 0.0, 1 / clip.depth.clamp_min(1e-6))
        low = torch.where(known, disparity, torch.inf).flatten(1).amin(dim=1)
        high = torch.where(known, disparity, -torch.inf).flatten(1).amax(dim=1)
        low, high = low[:, None, None, None], high[:, None, None, None]
        spread = (high - low).clamp_min(1e-6)
        image = 2 * (disparity - low) / spread - 1
        return {"disparity": image.unsqueeze(2).expand(-1, -1, 3, -1, -1)}

    def decode(self, images: Mapping[str, Tensor], sigma: Float[Tensor, "b v h w"] | None) -> dict[str, Any]:
        """`disparity` in about [0, 1] and `disparity_weight`: 1, or 0 for what is far away."""
        disparity = (images["disparity"].float().mean(dim=2) + 1) / 2
        return {"disparity": disparity, "disparity_weight": (disparity > FAR_DISPARITY).to(disparity.dtype)}
