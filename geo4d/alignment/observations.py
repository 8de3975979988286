"""The evidence of all windows on a sparse grid of pixels, ready for the solver."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from geo4d._typing import Bool, Float, Int, Tensor
from geo4d.geometry.plucker import fit_centre
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import fit_rotation
from geo4d.scene import WindowPredictions

RAYS_PER_FRAME = 256
MIN_RAY_SPREAD = 1e-6  # mean square across their common direction, below which rays do not fix a camera


@dataclass(frozen=True)
class Observations:
    """Sampled point maps (g, v, p, ...) in float64; weights are relative precisions, 1 for a typical pixel."""

    windows: Int[Tensor, "g v"]
    pixels: Float[Tensor, "p 2"]  # from the image centre, divided by the longer side
    index: Int[Tensor, "p"]  # into the flattened map
    points: Float[Tensor, "g v p 3"]
    weight: Float[Tensor, "g v p"]

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return int(self.windows.max()) + 1


def sample_grid(height: int, width: int, samples: int) -> Int[Tensor, "p"]:
    """About `samples` pixels on a regular grid, as indices into the flattened map."""
    rows = max(2, min(height, round((samples * height / width) ** 0.5)))
    columns = max(2, min(width, round(samples / rows)))
    v = ((torch.arange(rows) + 0.5) * height / rows).long()
    u = ((torch.arange(columns) + 0.5) * width / columns).long()
    return (v[:, None] * width + u).flatten()


def centred_pixels(height: int, width: int) -> Float[Tensor, "n 2"]:
    """Pixel centres from the image centre, divided by the longer side."""
    v = (torch.arange(height, dtype=torch.float64) + 0.5 - height / 2) / max(height, width)
    u = (torch.arange(width, dtype=torch.float64) + 0.5 - width / 2) / max(height, width)
    return torch.stack([u.expand(height, width), v[:, None].expand(height, width)], dim=-1).flatten(0, 1)


def relative_weight(points: Float[Tensor, "... 3"], weight: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Precision of the points relative to their distance: `log_precision` with the distance from the window's origin."""
    return log_precision(points.norm(dim=-1), weight)


def log_precision(depth: Float[Tensor, ...], weight: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Precision of log depth: (weight z)^2 by its median, at most 9; 0 where the weight is 0 or anything is not finite."""
    usable = (weight > 0) & depth.isfinite() & weight.isfinite()
    relative = torch.where(usable, weight * depth, 0.0).square()
    if not usable.any():
        return relative
    return (relative / relative[usable].median().clamp_min(1e-30)).clamp_max(9.0)


def observe_points(predictions: WindowPredictions, samples: int) -> Observations:
    """Samples the point maps. Zero-weight pixels are replaced by zeros, whatever they hold."""
    height, width = predictions.grid_size
    index = sample_grid(height, width, samples)
    assert predictions.points is not None
    points = predictions.points.flatten(2, 3)[:, :, index].double()
    weight = torch.ones_like(points[..., 0]) if predictions.weight is None else predictions.weight.flatten(2, 3)[:, :, index].double()
    weight = relative_weight(points, weight)
    points = torch.where((weight > 0)[..., None], points, 0.0)
    return Observations(predictions.windows.long(), centred_pixels(height, width)[index], index, points, weight)


def ray_cameras(predictions: WindowPredictions) -> Float[Tensor, "g v 4 4"] | None:
    """Cameras in their window: as given, or from the ray maps (METHOD section 6: centre by Eq. 6, rotation by Procrustes).

    None if there are none, or if they cannot be used: values that are not finite, or rays that are all parallel or zero.
    """
    if predictions.ray_cam_to_win is not None:
        given = predictions.ray_cam_to_win.double()
        return given if given.isfinite().all() else None
    if predictions.ray_direction is None or predictions.ray_moment is None:
        return None
    if not (predictions.ray_direction.isfinite().all() and predictions.ray_moment.isfinite().all()):
        return None
    unit = _pool(torch.nn.functional.normalize(predictions.ray_direction, dim=-1))
    moment = _pool(predictions.ray_moment)
    # of unit rays' second moments, the greatest is 1 where all are parallel (Eq. 6 is singular) and 0 where all are zero
    spread = torch.linalg.eigvalsh(unit.mT @ unit / unit.shape[-2])
    if bool((spread[..., -2] < MIN_RAY_SPREAD).any()):
        return None
    # the first frame's directions turned into frame i's: the camera-to-window rotation
    rotation = fit_rotation(unit[:, :1].expand_as(unit), unit)
    return rigid(rotation, fit_centre(unit, moment))


def _pool(rays: Float[Tensor, "g v y x 3"]) -> Float[Tensor, "g v n 3"]:
    """Means over blocks, a few hundred a frame: m = o x d is linear in both, so means of rays are as exact as rays."""
    g, v, height, width, _ = rays.shape
    block = max(1, round((height * width / RAYS_PER_FRAME) ** 0.5))
    pooled = torch.nn.functional.avg_pool2d(rays.flatten(0, 1).movedim(-1, 1), min(block, height, width))
    return pooled.movedim(1, -1).flatten(1, 2).unflatten(0, (g, v)).double()


def coverage(windows: Int[Tensor, "g v"]) -> Bool[Tensor, "g t"]:
    """Which window holds which frame."""
    result = torch.zeros(len(windows), int(windows.max()) + 1, dtype=torch.bool)
    return result.scatter(1, windows.long(), value=True)
