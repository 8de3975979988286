"""Plücker ray maps (method 2.3): unit direction and moment of every pixel's ray in the window's first camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geo4d._typing import Float, Tensor
from geo4d.geometry.plucker import plucker_rays
from geo4d.geometry.rigid import relative_to_first
from geo4d.modalities.base import Images, channels_first, channels_last
from geo4d.modalities.points import Normalization, window_scale
from geo4d.scene import Clip


@dataclass(frozen=True)
class RaysModality:
    """Two images; camera centres are divided by the scale of the window's points, so that both agree."""

    normalization: Normalization = "minmax"
    name: str = "rays"
    image_names: tuple[str, ...] = ("ray_direction", "ray_moment")

    def encode(self, clip: Clip) -> Images:
        """Direction and moment images of windows (b, v, h, w); defined on every pixel, sky included."""
        scale, _ = window_scale(clip, self.normalization)
        cam_to_win = relative_to_first(clip.cam_to_world).clone()
        cam_to_win[..., :3, 3] = cam_to_win[..., :3, 3] / scale[:, None, None]
        direction, moment = plucker_rays(clip.intrinsics, cam_to_win, *clip.depth.shape[-2:])
        return {"ray_direction": channels_first(direction), "ray_moment": channels_first(moment)}

    def decode(self, images: Mapping[str, Tensor], sigma: Float[Tensor, "b v h w"] | None) -> dict[str, Any]:
        """`ray_direction` and `ray_moment`, raw: directions are not made unit length here."""
        return {name: channels_last(images[name]).float() for name in self.image_names}
