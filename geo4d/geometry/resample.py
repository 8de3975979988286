"""Maps on another grid over the same extent. Of depth no value between two surfaces is ever made up."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate


def nearest_index(target: int, source: int) -> np.ndarray:
    """For each pixel of a line of `target` pixels the nearest of `source` over the same extent, (target,) int64."""
    return np.minimum(((np.arange(target) + 0.5) * source / target).astype(np.int64), source - 1)


def resize_nearest(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Maps (t, h, w, ...) on another grid over the same extent, by the nearest values.

    The maps themselves if it is their own grid.
    """
    if maps.shape[1:3] == (height, width):
        return maps
    return np.ascontiguousarray(
        maps[:, nearest_index(height, maps.shape[1])][:, :, nearest_index(width, maps.shape[2])]
    )


def resize_smoothly(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Maps (t, h, w) float32 on another grid over the same extent, bilinear; the maps themselves if it is their own."""
    if maps.shape[1:3] == (height, width):
        return maps
    found = interpolate(torch.from_numpy(maps)[:, None], (height, width), mode="bilinear", align_corners=False)
    return found[:, 0].numpy()


def nearest_pixel(
    position: np.ndarray, from_size: tuple[int, int], to_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (m,) of the pixel in which positions (m, 2) lie in an image of another size.

    Positions are (u, v) in the image as it was, sizes (height, width).
    """
    row = np.clip((position[:, 1] * to_size[0] / from_size[0]).astype(int), 0, to_size[0] - 1)
    return row, np.clip((position[:, 0] * to_size[1] / from_size[1]).astype(int), 0, to_size[1] - 1)
