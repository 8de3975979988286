"""Spring.

`train/0001/{frame_left,disp1_left,cam_data}`, numbered from 1; disparity is on a grid twice as fine as the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from geo4d.data.base import KILOMETRE, FrameFiles, folders_with
from geo4d.data.files import read_hdf5, read_numbers
from geo4d.data.frames import BadData, RecordedCameras, invert_all

BASELINE = 0.065  # metres between the two cameras
SAME_SURFACE = 0.95  # smallest ratio of disparities within an image pixel that is no edge


class Spring(FrameFiles):
    """The left camera. Scale is nominal, as in any film asset.

    The four samples of a pixel lie around its centre, so their mean is the disparity there; at edges the nearest
    surface wins. The principal point of the files is taken for that of pixel centres at +0.5.
    """

    kind = "spring"
    hint = "train/0001/frame_left/frame_left_0001.png with disp1_left beside it"
    fps = 24.0
    layout: ClassVar[dict[str, str]] = {
        "rgb": "{name}/frame_left/frame_left_{number:04d}.png",
        "depth": "{name}/disp1_left/disp1_left_{number:04d}.dsp5",
    }

    @classmethod
    def find(cls, root: Path) -> Iterator[str]:
        """The test split has no disparity and is passed over."""
        return folders_with(
            root, ("train/*", "*"), lambda path: (path / "frame_left").is_dir() and (path / "cam_data").is_dir()
        )

    def camera_files(self, name: str) -> list[Path]:
        """Two text files; focaldistance.txt beside them is where the lens is focused and of no use here."""
        return [self.root / name / "cam_data" / file for file in ("extrinsics.txt", "intrinsics.txt")]

    def load_cameras(self, name: str) -> RecordedCameras:
        """Row k - 1 belongs to frame k.

        World-to-camera in OpenCV axes; the focal length changes where the film zooms.
        """
        files = self.camera_files(name)
        world_to_cam, numbers = read_numbers(files[0], 16).reshape(-1, 4, 4), read_numbers(files[1], 4)
        count = min(len(world_to_cam), len(numbers))
        intrinsics = np.tile(np.eye(3), (count, 1, 1))
        intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]] = numbers[:count]
        return RecordedCameras(np.arange(1, count + 1), intrinsics, invert_all(world_to_cam[:count]))

    def load_depth(self, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """From disparity in pixels of the image: no disparity at all is sky, nan a hole."""
        file = self.file("depth", name, number)
        disparity = read_hdf5(file, "disparity")
        if disparity.ndim != 2 or disparity.shape[0] % 2 or disparity.shape[1] % 2:
            raise BadData(
                file, f"holds disparity of shape {list(disparity.shape)}; expected twice the image's height and width"
            )
        disparity = at_pixel_centres(disparity)
        focal = self.camera(name, number)[0][0, 0]
        depth = np.divide(
            focal * BASELINE, disparity, out=np.full(disparity.shape, np.nan), where=disparity > 0
        ).astype(np.float32)
        return depth, (disparity == 0) | (depth >= KILOMETRE)


def at_pixel_centres(disparity: np.ndarray) -> np.ndarray:
    """Disparity (h, w) of image pixels from four samples each (2h, 2w).

    Their mean on one surface, else the nearest of them. A pixel with a sample that is not finite, or is negative, is
    nan.
    """
    samples = np.stack([disparity[i::2, j::2] for i in (0, 1) for j in (0, 1)]).astype(np.float64)
    low, high = samples.min(0), samples.max(0)
    valid = np.isfinite(samples).all(0) & (low >= 0)
    return np.where(valid, np.where(low >= SAME_SURFACE * high, samples.mean(0), high), np.nan)
