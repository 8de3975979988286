"""The same cut, size and mirror for all frames of a window, with cameras that stay true to the pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from geo4d.data.frames import Frame

SAME_SURFACE = 0.95  # smallest ratio of neighbouring depths between which there is no edge
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class ViewConfig:
    """From which cuts a view is drawn."""

    least_zoom: float = 0.7  # of the largest cut with the wanted aspect
    flip_share: float = 0.5


@dataclass(frozen=True)
class View:
    """Which part of a frame to keep, at which size; the numbers hold for frames of any size.

    The cut has the aspect of `size` and is `zoom` times the largest that fits, but never so small that it would be
    enlarged where a larger one is to be had. `across` and `down`, 0 to 1, say where it lies.
    """

    size: tuple[int, int]  # (height, width)
    zoom: float = 1.0
    across: float = 0.5
    down: float = 0.5
    flip: bool = False

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the cut in a frame, in whole pixels."""
        largest = min(height / self.size[0], width / self.size[1])  # frame pixels a pixel of the result
        scale = min(largest, max(self.zoom * largest, 1.0))
        tall, wide = (
            max(1, min(full, round(scale * side))) for full, side in zip((height, width), self.size, strict=True)
        )
        return round(self.down * (height - tall)), round(self.across * (width - wide)), tall, wide

    def __call__(self, frame: Frame) -> Frame:
        """The frame as seen through the view."""
        cut = _cut(frame, self.box(*frame.size), self.size)
        return mirrored(cut) if self.flip else cut


def draw_view(generator: np.random.Generator, size: tuple[int, int], config: ViewConfig) -> View:
    """A random view of (height, width) pixels."""
    zoom, across, down, flip = generator.random(4).tolist()
    return View(size, config.least_zoom + (1 - config.least_zoom) * zoom, across, down, flip < config.flip_share)


def mirrored(frame: Frame) -> Frame:
    """The world in a mirror: columns reversed, and the x axis of camera and world turned round.

    Both turn, so poses keep determinant 1 and what was consistent stays so: with M = diag(-1, 1, 1), cam_to_world
    becomes M cam_to_world M, and the principal point cx becomes width - cx.
    """
    k = frame.intrinsics.copy()
    k[0, 1], k[0, 2] = -k[0, 1], frame.size[1] - k[0, 2]
    images = {name: np.ascontiguousarray(getattr(frame, name)[:, ::-1]) for name in ("rgb", "depth", "valid", "sky")}
    return replace(frame, **images, intrinsics=k, cam_to_world=MIRROR @ frame.cam_to_world @ MIRROR)


def _cut(frame: Frame, box: tuple[int, int, int, int], size: tuple[int, int]) -> Frame:
    top, left, tall, wide = box
    rgb = frame.rgb[top : top + tall, left : left + wide]
    if (tall, wide) != size:
        shrinks = tall >= size[0] and wide >= size[1]
        rgb = cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    scale = np.array([size[1] / wide, size[0] / tall])
    k = frame.intrinsics.copy()
    k[:2, 2] -= [left, top]
    k[:2] *= scale[:, None]
    # where the centres of the result lie in the frame
    rows = top + (np.arange(size[0]) + 0.5) / scale[1]
    columns = left + (np.arange(size[1]) + 0.5) / scale[0]
    depth, valid, sky = resample_depth(frame, rows, columns)
    return replace(frame, rgb=np.ascontiguousarray(rgb), depth=depth, valid=valid, sky=sky, intrinsics=k)


def resample_depth(frame: Frame, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, valid and sky at all crossings of rows and columns, in continuous pixels of the frame (centres at +0.5).

    On one surface disparity is interpolated, which is exact for planes; across an edge, a hole or the sky's border the
    nearest pixel stands alone: no depth between two surfaces is ever made up.
    """
    height, width = frame.size
    near_row, near_column = (
        np.clip(np.floor(x).astype(np.int64), 0, n - 1) for x, n in ((rows, height), (columns, width))
    )
    nearest = np.ix_(near_row, near_column)
    depth, valid, sky = frame.depth[nearest], frame.valid[nearest], frame.sky[nearest]
    disparity = np.divide(1, frame.depth, out=np.zeros_like(frame.depth), where=frame.valid)
    row, column = (
        np.clip(np.floor(x - 0.5).astype(np.int64), 0, n - 2)
        for x, n in ((rows, max(height, 2)), (columns, max(width, 2)))
    )
    if min(height, width) < 2:
        return depth, valid, sky
    corners = [disparity[np.ix_(row + i, column + j)] for i in (0, 1) for j in (0, 1)]
    low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
    down = np.clip(rows - 0.5 - row, 0, 1).astype(np.float32)[:, None]
    across = np.clip(columns - 0.5 - column, 0, 1).astype(np.float32)
    upper = corners[0] + (corners[1] - corners[0]) * across
    lower = corners[2] + (corners[3] - corners[2]) * across
    blend = upper + (lower - upper) * down
    one_surface = (low > 0) & (low >= SAME_SURFACE * high)
    return np.where(one_surface, 1 / np.where(one_surface, blend, 1), depth).astype(np.float32), valid, sky
