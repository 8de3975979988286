"""Virtual KITTI 2.

`Scene01/<variation>/frames/{rgb,depth}/Camera_0` and two text files for both cameras of a variation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from geo4d.data.base import FrameFiles, folders_with
from geo4d.data.files import read_grey, read_numbers
from geo4d.data.frames import BadData, RecordedCameras, invert_all

SKY = 65535  # stored centimetres


class VirtualKitti2(FrameFiles):
    """Both cameras, each a recording of its own. All archives in one folder, or a folder for each archive."""

    kind = "vkitti2"
    hint = "Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg, or the same below vkitti_2.0.3_rgb"
    fps = 10.0
    layout: ClassVar[dict[str, str]] = {
        "rgb": "{variation}/frames/rgb/{leaf}/rgb_{number:05d}.jpg",
        "depth": "{variation}/frames/depth/{leaf}/depth_{number:05d}.png",
    }

    @classmethod
    def find(cls, root: Path) -> Iterator[str]:
        """Names such as Scene01/clone/Camera_0."""
        for name in folders_with(_base(root, "rgb"), ("Scene*/*/frames/rgb/Camera_*",), lambda path: True):
            scene, variation, *_, camera = name.split("/")
            yield f"{scene}/{variation}/{camera}"

    def file(self, part: str, name: str, number: int) -> Path:
        """Below the folder of the part's archive."""
        variation, _, leaf = name.rpartition("/")
        return _base(self.root, part) / self.layout[part].format(variation=variation, leaf=leaf, number=number)

    def camera_files(self, name: str) -> list[Path]:
        """Not pose.txt: that one tells of the cars."""
        folder = _base(self.root, "textgt") / name.rpartition("/")[0]
        return [folder / "extrinsic.txt", folder / "intrinsic.txt"]

    def load_cameras(self, name: str) -> RecordedCameras:
        """Rows `frame camera numbers...`, both cameras by turns; world-to-camera in OpenCV axes.

        The principal point counts from the centre of the first pixel (620.5 of 1242), so half a pixel is added.
        """
        files, camera = self.camera_files(name), int(name.rpartition("_")[2])
        extrinsic, intrinsic = (
            read_numbers(file, columns, header=1) for file, columns in zip(files, (18, 6), strict=True)
        )
        extrinsic, intrinsic = (rows[rows[:, 1] == camera] for rows in (extrinsic, intrinsic))
        numbers, i, j = np.intersect1d(extrinsic[:, 0], intrinsic[:, 0], return_indices=True)
        matrices = np.tile(np.eye(3), (len(numbers), 1, 1))
        matrices[:, [0, 1, 0, 1], [0, 1, 2, 2]] = intrinsic[j, 2:] + [0, 0, 0.5, 0.5]
        if not np.isfinite(numbers).all():
            raise BadData(files[0], "has frame numbers that are not numbers")
        return RecordedCameras(numbers.astype(np.int64), matrices, invert_all(extrinsic[i, 2:].reshape(-1, 4, 4)))

    def load_depth(self, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Centimetres in 16 bits; full scale is sky, not 655 m."""
        stored = read_grey(self.file("depth", name, number), bits=16)
        return stored.astype(np.float32) / 100, stored == SKY


def _base(root: Path, part: str) -> Path:
    """Where an archive was unpacked: a folder of its own, or `root`."""
    return next((path for path in sorted(root.glob(f"vkitti_*_{part}")) if path.is_dir()), root)
