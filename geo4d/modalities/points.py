"""Point maps in the frame of the window's first camera, as images (method 2.1), in three normalisations.

`minmax` is the released model's: z of the valid points to [0, 1], x and y by the same scale, sky a constant. `asinh` is
ours: units of the median depth, compressed so that near and far keep their relative precision, sky far along its ray;
its origin is the first camera, so no shift is left to find. `mean` is linear in units of the mean distance, for an
autoencoder that is tuned to it as a whole; its origin is the first camera too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from geo4d._typing import Float, Tensor
from geo4d.geometry.camera import pixel_rays_cam, unproject
from geo4d.geometry.rigid import relative_to_first, transform_points
from geo4d.modalities.base import Images, channels_first, channels_last
from geo4d.scene import Clip

Normalization = Literal["minmax", "asinh", "mean"]

SKY_VALUE = 1.05  # released: every channel of a sky pixel
SKY_TOLERANCE = 0.1  # of the released benchmark script; its script for single videos has 0.35
FAR_VALUE = 1.99  # released: beyond this |channel| a point is too far to trust

ASINH_GAIN = 3.0  # c = asinh(GAIN x / s) / asinh(GAIN RANGE)
ASINH_NORM = math.asinh(ASINH_GAIN * 12.0)
SKY_DISTANCE = 20.0  # where the sky is put, in median depths
FAR_DISTANCE = 14.0  # beyond this a decoded point is sky
CHANNEL_LIMIT = 1.5  # of the encoded image

MEAN_RANGE = 4.0  # c = x / (RANGE s)
MEAN_FARTHEST = 4.0  # in mean distances: farther points are drawn in along their rays
MEAN_SKY = 5.0  # where the sky is put


def points_in_first_camera(clip: Clip) -> Float[Tensor, "b v h w 3"]:
    """Every pixel's point in the frame of its window's first camera; what has no depth holds the camera centre."""
    points_cam = unproject(clip.depth, clip.intrinsics).flatten(-3, -2)  # (b, v, hw, 3)
    points_win = transform_points(relative_to_first(clip.cam_to_world), points_cam)
    return points_win.unflatten(-2, clip.depth.shape[-2:])


def window_scale(clip: Clip, normalization: Normalization) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Scale and z shift by which a window's geometry is divided and reduced; the rays share the scale.

    A window without any valid pixel has scale 1 and shift 0.
    """
    z = points_in_first_camera(clip)[..., 2].flatten(1)
    valid = clip.valid.flatten(1)
    empty = ~valid.any(dim=1)
    if normalization == "asinh":
        depth = torch.where(valid, clip.depth.flatten(1), torch.nan)
        scale = torch.where(empty, 1.0, depth.nanmedian(dim=1).values)
        return scale, torch.zeros_like(scale)
    if normalization == "mean":
        distance = torch.where(valid, points_in_first_camera(clip).norm(dim=-1).flatten(1), 0.0)
        scale = torch.where(empty, 1.0, distance.sum(dim=1) / valid.sum(dim=1).clamp_min(1))
        return scale, torch.zeros_like(scale)
    low = torch.where(valid, z, torch.inf).amin(dim=1)
    high = torch.where(valid, z, -torch.inf).amax(dim=1)
    scale = torch.where(empty, 1.0, (high - low).clamp_min(1e-6))
    return scale, torch.where(empty, 0.0, low)


@dataclass(frozen=True)
class PointsModality:
    """One image: x, y, z of every pixel's point."""

    normalization: Normalization = "minmax"
    sky_tolerance: float = SKY_TOLERANCE
    name: str = "points"
    image_names: tuple[str, ...] = ("points",)

    def encode(self, clip: Clip) -> Images:
        """Point images of windows (b, v, h, w); `minmax` shows whatever is not valid as sky, as released."""
        scale, shift = (s[:, None, None, None] for s in window_scale(clip, self.normalization))
        points = points_in_first_camera(clip)
        if self.normalization == "minmax":
            x, y, z = points.unbind(-1)
            image = torch.stack([2 * x / scale, 2 * y / scale, 2 * (z - shift) / scale - 1], dim=-1)
            image = torch.where(clip.valid[..., None], image, SKY_VALUE)
        elif self.normalization == "mean":
            own = points / scale[..., None]
            own = own * (MEAN_FARTHEST / own.norm(dim=-1, keepdim=True).clamp_min(MEAN_FARTHEST))
            c = torch.where(clip.sky[..., None], MEAN_SKY * self._sky_rays(clip), own) / MEAN_RANGE
            image = torch.cat([c[..., :2], 2 * c[..., 2:] - 1], dim=-1)
        else:
            normalized = torch.where(
                clip.sky[..., None], SKY_DISTANCE * self._sky_rays(clip), points / scale[..., None]
            )
            c = torch.asinh(ASINH_GAIN * normalized) / ASINH_NORM
            image = torch.cat([c[..., :2], 2 * c[..., 2:] - 1], dim=-1)
            image = image.clamp(-CHANNEL_LIMIT, CHANNEL_LIMIT)
        return {"points": channels_first(image)}

    def decode(self, images: Mapping[str, Tensor], sigma: Float[Tensor, "b v h w"] | None) -> dict[str, Any]:
        """`points`, `weight` (1 / sigma in units of the points; 0 for sky and far) and `points_origin`."""
        image = channels_last(images["points"]).float()
        sigma = torch.ones_like(image[..., 0]) if sigma is None else sigma.float()
        if self.normalization == "minmax":
            points = torch.cat([image[..., :2] / 2, (image[..., 2:] + 1) / 2], dim=-1)
            sky = ((image - SKY_VALUE).abs() < self.sky_tolerance).all(dim=-1)
            invalid = sky | (image.abs() > FAR_VALUE).any(dim=-1)
            unit = torch.full_like(sigma, 0.5)
        elif self.normalization == "mean":
            points = MEAN_RANGE * torch.cat([image[..., :2], (image[..., 2:] + 1) / 2], dim=-1)
            invalid = points.norm(dim=-1) > (MEAN_FARTHEST + MEAN_SKY) / 2
            unit = torch.full_like(sigma, MEAN_RANGE / 2)
        else:
            c = torch.cat([image[..., :2], (image[..., 2:] + 1) / 2], dim=-1).clamp(-2, 2)
            points = torch.sinh(c * ASINH_NORM) / ASINH_GAIN
            distance = points.norm(dim=-1)
            invalid = distance > FAR_DISTANCE
            # d points / d channel at that distance; z counts half, since its channel is 2 c - 1
            unit = (ASINH_NORM / ASINH_GAIN) * (1 + (ASINH_GAIN * distance).square()).sqrt() / 2
        weight = torch.where(invalid | ~image.isfinite().all(dim=-1), 0.0, 1 / (sigma * unit).clamp_min(1e-6))
        origin = "unknown" if self.normalization == "minmax" else "camera"
        return {"points": points, "weight": weight, "points_origin": origin}

    def _sky_rays(self, clip: Clip) -> Float[Tensor, "b v h w 3"]:
        """Each pixel's unit ray, in the frame of the first camera."""
        rays = pixel_rays_cam(clip.intrinsics, *clip.depth.shape[-2:])
        rotation = relative_to_first(clip.cam_to_world)[..., :3, :3]
        return torch.nn.functional.normalize(torch.einsum("bvij,bvhwj->bvhwi", rotation, rays), dim=-1)
