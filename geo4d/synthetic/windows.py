"""Window predictions as a network might give them for a clip whose truth is known.

Exact geometry, spoilt by a law of noise. For developing and measuring the alignment without a network; errors are what
networks make: smooth in space, shared by a window and by single objects, bleeding over edges, with heavy tails, and
jittering cameras.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate, normalize

from geo4d._typing import Float, Int, Tensor
from geo4d.geometry.camera import pixel_rays_cam
from geo4d.geometry.rigid import invert_rigid, rigid
from geo4d.geometry.rotation import so3_exp
from geo4d.scene import Clip, WindowPredictions

TAIL = 3.0  # degrees of freedom of the pixels' noise
RAY_GRID = (16, 32)  # (height, width) of ray maps
WILD = 0.7  # log depth by which outliers err, at most
BLEEDING = 0.5  # share of edges' pixels that mix near and far


@dataclass(frozen=True)
class NoiseLaw:
    """Sizes of errors: of log depth, unless said otherwise."""

    smooth: float = 0.03
    objects: float = 0.015  # of each object as a whole
    pixels: float = 0.01
    outliers: float = 0.03  # share of the pixels
    flagged: float = 0.8  # share of the outliers that the weight gives away
    turn_deg: float = 0.4
    shift: float = 0.003  # median depths
    ray_deg: float = 0.3
    ray_scale: float = 0.03
    constant_disparity: bool = False  # disparity errs alike near and far, instead of in proportion

    def scaled(self, factor: float) -> NoiseLaw:
        """Every error by so much larger, at most a third of the pixels being outliers."""
        sizes = {
            f.name: getattr(self, f.name) * factor
            for f in fields(self)
            if f.name not in ("flagged", "constant_disparity")
        }
        return replace(self, **{**sizes, "outliers": min(sizes["outliers"], 0.33)})


def simulate_windows(clip: Clip, windows: Int[Tensor, "g v"], law: NoiseLaw, seed: int) -> WindowPredictions:
    """All windows of a clip (t, h, w) in memory; sky has no weight."""
    made = list(iterate_windows(clip, windows, law, seed))
    images = (clip.rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return WindowPredictions(
        windows=windows, **{name: torch.stack([one[name] for one in made]) for name in made[0]}, images=images
    )


def iterate_windows(clip: Clip, windows: Int[Tensor, "g v"], law: NoiseLaw, seed: int) -> Iterator[dict[str, Tensor]]:
    """Fields of `WindowPredictions` one window after the other, each a function of (seed, its number) alone."""
    for g, window in enumerate(windows):
        yield _one_window(clip, window, law, torch.Generator().manual_seed(1_000_003 * seed + g))


def _one_window(clip: Clip, window: Tensor, law: NoiseLaw, generator: torch.Generator) -> dict[str, Tensor]:
    depth, valid = clip.depth[window].double(), clip.valid[window]
    poses = clip.cam_to_world[window].double()
    relative = invert_rigid(poses[:1]) @ poses
    middle = float(depth[valid].median()) if valid.any() else 1.0
    safe = torch.where(valid, depth, 3 * middle)
    instance = (
        torch.zeros_like(valid, dtype=torch.int64)
        if clip.instance is None
        else clip.instance[window].long().clamp_min(0)
    )

    seen, wild = _spoil(safe, instance, law, generator)
    rays = pixel_rays_cam(clip.intrinsics[window].double(), *depth.shape[1:])
    points = _lift(_jitter(relative, law, middle, generator), seen[..., None] * rays)
    z = points[..., 2][valid] if valid.any() else points[..., 2].flatten()
    low, high = (
        float(torch.quantile(z[:: max(1, len(z) // 10_000)], 0.02)),
        float(torch.quantile(z[:: max(1, len(z) // 10_000)], 0.98)),
    )
    scale = max(high - low, 1e-3) * (0.85 + 0.35 * float(torch.rand((), generator=generator)))
    points = (points - torch.tensor([0.0, 0.0, low], dtype=torch.float64)) / scale
    sigma = (law.smooth**2 + law.objects**2 + law.pixels**2 + 1e-6) ** 0.5 * safe / scale
    weight = torch.exp(0.3 * torch.randn(sigma.shape, generator=generator, dtype=torch.float64)) / sigma
    told = wild & (torch.rand(wild.shape, generator=generator) < law.flagged)
    weight = torch.where(told, 0.1 * weight, weight) * valid

    disparity = _disparity(safe, valid, instance, law, generator)
    direction, moment = _rays(clip, window, relative, (law, middle, scale), generator)
    return {
        name: value.float()
        for name, value in zip(
            ("points", "weight", "disparity", "ray_direction", "ray_moment"),
            (points, weight, disparity, direction, moment),
            strict=True,
        )
    }


def _spoil(depth: Tensor, instance: Tensor, law: NoiseLaw, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Depth with all its errors, and where it is wildly wrong."""
    shared = _field(1, depth.shape[1:], generator)
    error = law.smooth * (0.6 * shared + 0.8 * _field(len(depth), depth.shape[1:], generator))
    offsets = torch.randn(int(instance.max()) + 1, generator=generator, dtype=torch.float64)
    error = error + law.objects * offsets[instance]
    tail = torch.from_numpy(
        np.random.default_rng(int(torch.randint(2**31, (), generator=generator))).standard_t(TAIL, depth.shape)
    )
    error = error + law.pixels / TAIL**0.5 * tail
    mixed = avg_pool2d(depth[:, None].log(), 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    bleeds = (
        (torch.rand(depth.shape, generator=generator) < BLEEDING) & ((mixed - depth.log()).abs() > 0.05)
        if law.pixels > 0
        else None
    )
    log_depth = depth.log() if bleeds is None else torch.where(bleeds, mixed, depth.log())
    wild = torch.rand(depth.shape, generator=generator) < law.outliers
    leap = WILD * (2 * torch.rand(depth.shape, generator=generator, dtype=torch.float64) - 1)
    return (log_depth + torch.where(wild, leap, error)).exp(), wild


def _field(count: int, size: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "n h w"]:
    """Smooth fields of unit size in two octaves."""
    total = torch.zeros(count, *size, dtype=torch.float64)
    for cells, share in (((3, 5), 0.8), ((7, 12), 0.6)):
        coarse = torch.randn(count, 1, *cells, generator=generator, dtype=torch.float64)
        total = total + share * interpolate(coarse, size, mode="bicubic", align_corners=True)[:, 0]
    return total / 0.8


def _jitter(
    relative: Float[Tensor, "v 4 4"], law: NoiseLaw, unit: float, generator: torch.Generator
) -> Float[Tensor, "v 4 4"]:
    """Cameras with correlated errors that grow from the window's first one, which is exact."""
    steps = torch.randn(len(relative), 6, generator=generator, dtype=torch.float64)
    walk = steps.clone()
    for k in range(1, len(walk)):
        walk[k] = 0.8 * walk[k - 1] + 0.6 * steps[k]
    walk = (walk - walk[:1]) / 3**0.5
    turn = so3_exp(np.deg2rad(law.turn_deg) * walk[:, :3])
    return rigid(relative[:, :3, :3] @ turn, relative[:, :3, 3] + law.shift * unit * walk[:, 3:])


def _lift(cameras: Tensor, local: Tensor) -> Tensor:
    return torch.einsum("vij,vhwj->vhwi", cameras[:, :3, :3], local) + cameras[:, None, None, :3, 3]


def _disparity(depth: Tensor, valid: Tensor, instance: Tensor, law: NoiseLaw, generator: torch.Generator) -> Tensor:
    seen, wild = _spoil(depth, instance, law, generator)
    inverse = 1 / seen
    if law.constant_disparity:
        span = float((1 / depth).max() - (1 / depth).min())
        inverse = torch.where(wild, inverse, 1 / depth + span * (seen / depth).log())
    inverse = torch.where(valid, inverse, 0.0)
    low = float(inverse[valid].min()) * float(torch.rand((), generator=generator)) if valid.any() else 0.0
    high = float(torch.quantile(inverse.flatten()[:: max(1, inverse.numel() // 10_000)], 0.99)) * 1.05
    return ((inverse - low) / max(high - low, 1e-9)).clamp(-0.05, 1.2)


def _rays(
    clip: Clip, window: Tensor, relative: Tensor, sizes: tuple[NoiseLaw, float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Ray maps on a coarse grid: directions and moments in the window, moments in its unit."""
    law, middle, scale = sizes
    size = clip.depth.shape[1:3]
    grid = min(RAY_GRID[0], size[0]), min(RAY_GRID[1], size[1])
    intrinsics = (
        clip.intrinsics[window].double()
        * torch.tensor([grid[1] / size[1], grid[0] / size[0], 1.0], dtype=torch.float64)[:, None]
    )
    cameras = _jitter(relative, law, middle, generator)
    direction = torch.einsum("vij,vhwj->vhwi", cameras[:, :3, :3], pixel_rays_cam(intrinsics, *grid))
    noise = torch.randn(direction.shape, generator=generator, dtype=torch.float64)
    direction = normalize(normalize(direction, dim=-1) + np.deg2rad(law.ray_deg) * noise, dim=-1)
    unit = np.exp(law.ray_scale * float(torch.randn((), generator=generator))) / scale
    centre = (cameras[:, None, None, :3, 3] * unit).expand_as(direction)
    return direction, torch.linalg.cross(centre, direction)
