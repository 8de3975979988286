"""The evidence of all windows on a sparse grid of pixels, ready for the solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from geo4d._typing import Bool, Float, Int, Tensor
from geo4d.alignment.cameras import FixedIntrinsics
from geo4d.alignment.joint.config import JointConfig
from geo4d.geometry.pixels import centred_pixels, pixel_grid, sample_grid
from geo4d.geometry.rays import camera_from_rays
from geo4d.scene import WindowPredictions

RAYS_PER_FRAME = 256  # blocks of rays that are averaged: six numbers are fitted to them


@dataclass(frozen=True)
class Observations:
    """Sampled point maps (g, v, p, ...) in float64; weights are relative precisions, 1 for a typical pixel."""

    windows: Int[Tensor, "g v"]
    pixels: Float[Tensor, "t p 2"]  # of every frame, from the principal point, divided by the longer side
    index: Int[Tensor, "p"]  # into the flattened map
    points: Float[Tensor, "g v p 3"]
    weight: Float[Tensor, "g v p"]

    @cached_property
    def num_frames(self) -> int:
        """Frames of the video."""
        return int(self.windows.max()) + 1

    @cached_property
    def extent(self) -> Float[Tensor, "g"]:
        """Size of each window's scene in the unit of its points: the median distance from the median point."""
        found = []
        for points, weight in zip(self.points, self.weight, strict=True):
            usable = points[weight > 0]
            distance = (
                (usable - usable.median(dim=0).values).norm(dim=-1).median() if len(usable) else torch.tensor(1.0)
            )
            found.append(float(distance.clamp_min(1e-9)))
        return torch.tensor(found, dtype=torch.float64)

    @cached_property
    def nearest_window(self) -> Int[Tensor, "t"]:
        """Of each frame, a window in whose middle it is."""
        g, v = self.windows.shape
        off = (torch.arange(v) - (v - 1) / 2).abs().expand(g, v).flatten()
        best = torch.full((self.num_frames,), torch.inf).scatter_reduce(0, self.windows.flatten(), off, "amin")
        chosen = torch.nonzero(off == best[self.windows.flatten()])[:, 0]
        return torch.zeros(self.num_frames, dtype=torch.int64).scatter(0, self.windows.flatten()[chosen], chosen // v)

    @cached_property
    def shared(self) -> Bool[Tensor, "g v p"]:
        """Pixels that more than one window sees, in each window that does."""
        seen = self.weight > 0
        frames = self.windows.flatten()
        count = torch.zeros(self.num_frames, seen.shape[-1], dtype=torch.int64).index_add_(
            0, frames, seen.flatten(0, 1).long()
        )
        return seen & (count > 1)[self.windows]

    def local_unit(self, scale: Float[Tensor, "g"]) -> Float[Tensor, "t"]:
        """Size of the scene around each frame in the world's unit, given the windows' scales."""
        return (scale * self.extent)[self.nearest_window]


def relative_weight(points: Float[Tensor, "... 3"], weight: Float[Tensor, ...], most: float) -> Float[Tensor, ...]:
    """Precision of the points relative to their distance.

    `log_precision` with the distance from the window's origin.
    """
    return log_precision(points.norm(dim=-1), weight, most)


def log_precision(depth: Float[Tensor, ...], weight: Float[Tensor, ...], most: float) -> Float[Tensor, ...]:
    """Precision of log depth: (weight z)^2 by its median, at most `most`.

    0 where the weight is 0 or anything is not finite.
    """
    usable = (weight > 0) & depth.isfinite() & weight.isfinite()
    relative = torch.where(usable, weight * depth, 0.0).square()
    if not usable.any():
        return relative
    return (relative / relative[usable].median().clamp_min(1e-30)).clamp_max(most)


def observe_points(
    predictions: WindowPredictions,
    config: JointConfig,
    fixed_intrinsics: FixedIntrinsics | None = None,
    ignore: Bool[Tensor, "t h w"] | None = None,
) -> Observations:
    """Samples the point maps. Zero-weight and ignored pixels are replaced by zeros, whatever they hold."""
    height, width = predictions.grid_size
    index = sample_grid(height, width, config.samples)
    assert predictions.points is not None
    points = sampled(predictions.points, index).double()
    weight = (
        torch.ones_like(points[..., 0]) if predictions.weight is None else sampled(predictions.weight, index).double()
    )
    if ignore is not None:
        weight = torch.where(ignore.flatten(1)[:, index][predictions.windows], 0.0, weight)
    weight = relative_weight(points, weight, config.most_precision)
    points = torch.where((weight > 0)[..., None], points, 0.0)
    pixels = (fixed_intrinsics or FixedIntrinsics.ideal(predictions.num_frames)).normalise(
        centred_pixels(height, width)[index]
    )
    return Observations(predictions.windows.long(), pixels, index, points, weight)


def sampled(maps: Float[Tensor, "g v h w *c"], index: Int[Tensor, "p"]) -> Float[Tensor, "g v p *c"]:
    """The chosen pixels of dense maps, which may be memory maps: a window at a time is read."""
    return torch.stack([window.flatten(1, 2)[:, index] for window in maps])


@dataclass(frozen=True)
class WindowRays:
    """Cameras in their windows, by ray maps or as given; those that are not usable mean nothing, but are finite."""

    cam_to_win: Float[Tensor, "g v 4 4"]
    usable: Bool[Tensor, "g v"]
    problems: tuple[str, ...] = ()  # which windows' frames are not, and why


def ray_cameras(predictions: WindowPredictions) -> WindowRays | None:
    """Cameras as given, or from the ray maps (method 6: centre by Eq. 6, rotation by Procrustes).

    None if there are none. A frame whose rays are not finite or do not spread is left out alone, a window all of whose
    frames are with it.
    """
    if predictions.ray_cam_to_win is not None:
        given = predictions.ray_cam_to_win.double()
        usable = given.isfinite().all(-1).all(-1)
        problems = {tuple(index): "its matrix is not finite" for index in torch.nonzero(~usable).tolist()}
        identity = torch.eye(4, dtype=torch.float64)
        return WindowRays(
            given.where(usable[..., None, None], identity), usable, _by_window(problems, predictions.windows)
        )
    if predictions.ray_direction is None or predictions.ray_moment is None:
        return None
    # a window at a time: the maps may be memory maps
    unit = torch.stack(
        [_pool(torch.nn.functional.normalize(direction.float(), dim=-1)) for direction in predictions.ray_direction]
    )
    moment = torch.stack([_pool(moment) for moment in predictions.ray_moment])
    height, width = predictions.ray_direction.shape[2:4]
    pixels = _pool(pixel_grid(height, width, dtype=torch.float32)[None].expand(1, height, width, 2))[0]
    found = camera_from_rays(unit, moment, pixels, shared_intrinsics=True)
    usable = torch.ones(unit.shape[:2], dtype=torch.bool)
    for index in found.problems:
        usable[index] = False
    return WindowRays(found.cam_to_win, usable, _by_window(found.problems, predictions.windows))


def _by_window(problems: Mapping[tuple[int, ...], str], windows: Int[Tensor, "g v"]) -> tuple[str, ...]:
    """One sentence for the frames of a window that have the same problem; frames are numbered as in the video."""
    frames: dict[tuple[int, str], list[int]] = {}
    for (window, frame), reason in problems.items():
        frames.setdefault((window, reason), []).append(int(windows[window, frame]))
    return tuple(
        f"Ray maps of window {window}, frame{'s' * (len(some) > 1)} {', '.join(map(str, some))}, were not used: "
        f"{reason}."
        for (window, reason), some in frames.items()
    )


def _pool(rays: Float[Tensor, "v y x c"]) -> Float[Tensor, "v n c"]:
    """Means over blocks, a few hundred a frame: m = o x d is linear in both, so means of rays are as exact as rays."""
    height, width = rays.shape[1:3]
    block = max(1, round((height * width / RAYS_PER_FRAME) ** 0.5))
    pooled = torch.nn.functional.avg_pool2d(rays.float().movedim(-1, 1), min(block, height, width))
    return pooled.movedim(1, -1).flatten(1, 2).double()


def coverage(windows: Int[Tensor, "g v"]) -> Bool[Tensor, "g t"]:
    """Which window holds which frame."""
    result = torch.zeros(len(windows), int(windows.max()) + 1, dtype=torch.bool)
    return result.scatter(1, windows.long(), value=True)
