"""PointOdyssey v1.2.

`train/<recording>/{rgbs,depths,masks}` and anno.npz with world-to-camera matrices in OpenCV axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from geo4d.data.base import KILOMETRE, FrameFiles, folders_with
from geo4d.data.files import read_grey, read_npz
from geo4d.data.frames import BadData, RecordedCameras, invert_all
from geo4d.errors import ConfigError

FULL_SCALE = 65535  # stands for a kilometre, and for everything beyond it: sky


class PointOdyssey(FrameFiles):
    """Depth is in 16 bits over a kilometre, in steps of 15 mm. Holes (mask 0) are what fog and smoke hide.

    The principal point of the files is taken for that of pixel centres at +0.5: it lies at half the width and height.
    """

    kind = "pointodyssey"
    hint = "train/<recording>/rgbs/rgb_00000.jpg"
    fps = 30.0  # nominal
    layout: ClassVar[dict[str, str]] = {
        "rgb": "{name}/rgbs/rgb_{number:05d}.jpg",
        "depth": "{name}/depths/depth_{number:05d}.png",
        "mask": "{name}/masks/mask_{number:05d}.png",
    }
    optional = ("mask",)

    def __init__(
        self, root: str | Path, *, include: str | None = None, far: float | None = None, fill: int = 0
    ) -> None:
        """As any data set; depth is spread up to `fill` pixels into holes by max pooling (method 4).

        Raises ConfigError for a negative `fill`.
        """
        if fill < 0:
            raise ConfigError(f"fill is a number of pixels from 0; got {fill}.")
        super().__init__(root, include=include, far=far)
        self.fill = fill

    @classmethod
    def find(cls, root: Path) -> Iterator[str]:
        """Recordings of all splits."""
        return folders_with(root, ("train/*", "val/*", "test/*", "*"), lambda path: (path / "rgbs").is_dir())

    def is_for_training(self, name: str) -> bool:
        """Not those of the splits val and test."""
        return not name.startswith(("val/", "test/"))

    def camera_files(self, name: str) -> list[Path]:
        """One archive."""
        return [self.root / name / "anno.npz"]

    def load_cameras(self, name: str) -> RecordedCameras:
        """Row k belongs to file number k."""
        file = self.camera_files(name)[0]
        intrinsics, world_to_cam = (array.astype(np.float64) for array in read_npz(file, ("intrinsics", "extrinsics")))
        if intrinsics.ndim != 3 or intrinsics.shape[1:] != (3, 3) or world_to_cam.shape != (len(intrinsics), 4, 4):
            shapes = f"{list(intrinsics.shape)} and {list(world_to_cam.shape)}"
            raise BadData(file, f"has cameras of shape {shapes}; expected (n, 3, 3) and (n, 4, 4)")
        return RecordedCameras(np.arange(len(intrinsics)), intrinsics, invert_all(world_to_cam))

    def load_depth(self, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """16 bits, a kilometre at full scale, which is sky; 0 is a hole like those of the mask."""
        stored = read_grey(self.file("depth", name, number), bits=16)
        depth, sky = stored.astype(np.float32) * np.float32(KILOMETRE / FULL_SCALE), stored == FULL_SCALE
        mask = self.file("mask", name, number)
        if mask.is_file():
            valid = read_grey(mask, bits=8) > 0
            if valid.shape != depth.shape:
                raise BadData(
                    mask, f"is {valid.shape[1]} x {valid.shape[0]}, its depth {depth.shape[1]} x {depth.shape[0]}"
                )
            depth = np.where(valid | sky, depth, 0)
        return (fill_holes(depth, sky, self.fill) if self.fill else depth), sky


def fill_holes(depth: np.ndarray, sky: np.ndarray, reach: int) -> np.ndarray:
    """Gives each hole within `reach` pixels of known depth the farthest depth around it.

    The sky gives none and gets none.
    """
    without_sky = np.where(sky, 0, depth)
    pooled = cv2.dilate(without_sky, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    return np.where((without_sky > 0) | sky, depth, pooled)
