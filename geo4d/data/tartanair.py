"""TartanAir v1: `<environment>/{Easy,Hard}/P000/{image_left,depth_left}` and pose_left.txt in north-east-down axes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.spatial.transform import Rotation

from geo4d.data.base import KILOMETRE, FrameFiles, folders_with
from geo4d.data.files import read_npy, read_numbers, read_size
from geo4d.data.frames import BadData, RecordedCameras

# 90 degrees wide; half sides, so pixel centres at +0.5
INTRINSICS = np.array([[320.0, 0, 320], [0, 320, 240], [0, 0, 1]])
SIZE = (480, 640)  # of the images that these intrinsics belong to
FROM_NED = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])  # x forward, y right, z down -> x right, y down, z forward


class TartanAir(FrameFiles):
    """The left camera. Depth is in metres; sky is about 10 km away, and nothing beyond a kilometre is told from it."""

    kind = "tartanair"
    hint = "<environment>/Easy/P000/image_left/000000_left.png"
    fps = 10.0  # nominal
    layout: ClassVar[dict[str, str]] = {
        "rgb": "{name}/image_left/{number:06d}_left.png",
        "depth": "{name}/depth_left/{number:06d}_left_depth.npy",
    }

    @classmethod
    def find(cls, root: Path) -> Iterator[str]:
        """Archives may nest the environment's folder twice; `root` may be one environment."""
        patterns = [f"{above}{level}/P*" for level in ("Easy", "Hard") for above in ("*/", "*/*/", "")]
        return folders_with(root, patterns, lambda path: (path / "image_left").is_dir())

    def camera_files(self, name: str) -> list[Path]:
        """One text file."""
        return [self.root / name / "pose_left.txt"]

    def load_cameras(self, name: str) -> RecordedCameras:
        """Lines tx ty tz qx qy qz qw, cam_to_world, world and camera both north-east-down."""
        rows = read_numbers(self.camera_files(name)[0], 7)
        poses = np.full((len(rows), 4, 4), np.nan)
        length = np.linalg.norm(rows[:, 3:], axis=1)
        usable = np.isfinite(rows).all(1) & (np.abs(length - 1) < 0.01)
        rotations = Rotation.from_quat(rows[usable, 3:]).as_matrix() if usable.any() else np.zeros((0, 3, 3))
        poses[usable] = np.eye(4)
        poses[usable, :3, :3] = FROM_NED @ rotations @ FROM_NED.T
        poses[usable, :3, 3] = rows[usable, :3] @ FROM_NED.T
        first = next(iter(sorted((self.root / name / "image_left").glob("*_left.png"))), None)
        height, width = SIZE if first is None else read_size(first)  # resized copies are about
        intrinsics = INTRINSICS * [[width / SIZE[1]], [height / SIZE[0]], [1]]
        return RecordedCameras(np.arange(len(rows)), np.tile(intrinsics, (len(rows), 1, 1)), poses)

    def load_depth(self, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Metres; the format knows no holes, so nan is an error."""
        file = self.file("depth", name, number)
        depth = read_npy(file)
        if depth.ndim != 2 or depth.dtype.kind != "f":
            raise BadData(
                file, f"holds {depth.dtype} of shape {list(depth.shape)}; expected floating-point numbers (h, w)"
            )
        if np.isnan(depth).any():
            raise BadData(file, f"holds {int(np.isnan(depth).sum())} depths that are not a number")
        depth = depth.astype(np.float32)
        return depth, depth >= KILOMETRE
