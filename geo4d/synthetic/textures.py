"""A bank of small periodic volumes of grey values: fractal noise, checkers, stripes, bricks, Voronoi cells, ..."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from geo4d._typing import Float, Int, Tensor

SIZE = 32  # voxels a side
BANK_SEED = 7
NUM_TEXTURES = 24


@cache
def texture_bank() -> Tensor:
    """All textures flattened, (NUM_TEXTURES * SIZE^3,), values in [0, 1]."""
    generator = np.random.default_rng(BANK_SEED)
    grid = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), axis=-1)
    volumes = [_noise(generator, power) for power in (0.8, 1.2, 1.6, 2.0, 2.4, 1.0)]
    volumes += [((grid // side).sum(-1) % 2).astype(float) for side in (16, 8, 4)]
    volumes += [_stripes(grid, axis, count) for axis, count in ((0, 2), (1, 2), (2, 4), (1, 4))]
    volumes += [_bricks(grid, rows) for rows in (4, 8)]
    volumes += [
        _voronoi(generator, grid, cells, edges=edges)
        for cells, edges in ((12, False), (40, False), (20, True), (60, True))
    ]
    volumes += [grid[..., axis] / (SIZE - 1) for axis in (1, 0)]
    volumes += [np.full((SIZE,) * 3, 0.5), _dots(grid), 0.5 * _noise(generator, 1.5) + 0.5 * ((grid // 8).sum(-1) % 2)]
    return torch.from_numpy(np.stack(volumes).astype(np.float32)).flatten()


def look_up(texture: Int[Tensor, "*s"], position: Float[Tensor, "*s 3"]) -> Float[Tensor, "*s"]:
    """Trilinear value of each texture at a position in periods."""
    bank = texture_bank().to(position.device)
    scaled = (position - position.floor()) * SIZE
    low = scaled.floor()
    fraction = scaled - low
    low = low.long()
    value = torch.zeros_like(position[..., 0])
    base = texture * SIZE**3
    index = [[(low[..., axis] + step) % SIZE for step in (0, 1)] for axis in range(3)]
    share = [[1 - fraction[..., axis], fraction[..., axis]] for axis in range(3)]
    for i in (0, 1):
        for j in (0, 1):
            row = base + (index[0][i] * SIZE + index[1][j]) * SIZE
            weight = share[0][i] * share[1][j]
            for k in (0, 1):
                value = value + weight * share[2][k] * bank[row + index[2][k]]
    return value


def _noise(generator: np.random.Generator, power: float) -> np.ndarray:
    """Periodic Gaussian noise with a power-law spectrum, stretched to [0, 1]."""
    frequency = np.fft.fftfreq(SIZE) * SIZE
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(frequency, frequency, frequency, indexing="ij")))
    spectrum = np.fft.fftn(generator.normal(size=(SIZE,) * 3)) / np.maximum(radius, 1) ** (power + 0.5)
    spectrum[0, 0, 0] = 0
    volume = np.fft.ifftn(spectrum).real
    return np.clip(0.5 + volume / (4 * volume.std()), 0, 1)


def _stripes(grid: np.ndarray, axis: int, count: int) -> np.ndarray:
    return 0.5 + 0.5 * np.clip(3 * np.sin(2 * np.pi * count * grid[..., axis] / SIZE), -1, 1)


def _bricks(grid: np.ndarray, rows: int) -> np.ndarray:
    height = SIZE // rows
    shifted = (grid[..., 0] + (grid[..., 1] // height % 2) * height) % (2 * height)
    shifted_z = (grid[..., 2] + (grid[..., 1] // height % 2) * height) % (2 * height)
    joint = (grid[..., 1] % height == 0) | (shifted == 0) | (shifted_z == 0)
    tone = np.sin(12.9 * (grid[..., 1] // height) + 78.2 * ((grid[..., 0] + shifted) // (2 * height))) * 0.15
    return np.where(joint, 0.0, 0.8 + tone)


def _voronoi(generator: np.random.Generator, grid: np.ndarray, cells: int, *, edges: bool) -> np.ndarray:
    seeds = generator.uniform(0, SIZE, size=(cells, 3))
    difference = np.abs(grid[..., None, :] - seeds)
    distance = np.linalg.norm(np.minimum(difference, SIZE - difference), axis=-1)
    if edges:
        nearest = np.sort(distance, axis=-1)
        return np.clip((nearest[..., 1] - nearest[..., 0]) / 3, 0, 1)
    return generator.uniform(0, 1, cells)[distance.argmin(-1)]


def _dots(grid: np.ndarray) -> np.ndarray:
    local = (grid % 8) - 3.5
    return (np.linalg.norm(local, axis=-1) < 3).astype(float)
