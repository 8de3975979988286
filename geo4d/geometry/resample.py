"""Maps on another grid over the same extent. Of depth no value between two surfaces is ever made up."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

LIKE_COLOUR = 30.0  # distance of colours from 0 to 255, at which a pixel counts a third
ONE_SURFACE = 0.05  # difference of log depth between neighbours, beyond which there is an edge between them


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


def resize_by_picture(depth: np.ndarray, small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Depth (h, w), nan where unknown, at the size of a larger picture of the same view (H, W, 3) uint8.

    `small` (h, w, 3) uint8 is the picture at the size of the depth. Of the nine pixels around, each takes the one that
    is near and alike in colour, and the mean of those that lie on one surface with it (joint bilateral upsampling, Kopf
    et al. 2007): edges follow the picture, and no depth between two surfaces is made up.
    """
    height, width = large.shape[:2]
    if depth.shape == (height, width):
        return depth
    v, u = ((np.arange(n) + 0.5) * m / n - 0.5 for n, m in ((height, depth.shape[0]), (width, depth.shape[1])))
    row, column = (np.clip(np.rint(at), 0, n - 1).astype(int) for at, n in zip((v, u), depth.shape, strict=True))
    colours = large.astype(np.float32)
    around = []
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            i, j = np.clip(row + down, 0, depth.shape[0] - 1), np.clip(column + across, 0, depth.shape[1] - 1)
            off = ((v - i) ** 2)[:, None] + ((u - j) ** 2)[None]
            unlike = np.square(small[i][:, j].astype(np.float32) - colours).sum(-1) / LIKE_COLOUR**2
            around.append((np.exp(-off - unlike).astype(np.float32) + 1e-30 * np.exp(-off), depth[i][:, j]))
    weight, values = np.stack([w for w, _ in around]), np.stack([d for _, d in around])
    best = np.take_along_axis(values, weight.argmax(0)[None], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.where(np.abs(np.log(values / best)) < ONE_SURFACE, weight, 0.0)
    total = weight.sum(0)
    mean = np.where(weight > 0, weight * values, 0.0).sum(0) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, np.nan).astype(depth.dtype)


def nearest_pixel(
    position: np.ndarray, from_size: tuple[int, int], to_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (m,) of the pixel in which positions (m, 2) lie in an image of another size.

    Positions are (u, v) in the image as it was, sizes (height, width).
    """
    row = np.clip((position[:, 1] * to_size[0] / from_size[0]).astype(int), 0, to_size[0] - 1)
    return row, np.clip((position[:, 0] * to_size[1] / from_size[1]).astype(int), 0, to_size[1] - 1)
