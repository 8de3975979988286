"""BEDLAM: `<scene>/{png,depth}/<recording>` and a camera file for each recording in Unreal's left-handed axes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from geo4d.data.base import KILOMETRE, FrameFiles, folders_with
from geo4d.data.files import naming, read_csv, read_exr, read_size
from geo4d.data.frames import BadData, RecordedCameras

COLUMNS = ("name", "x", "y", "z", "yaw", "pitch", "roll", "focal_length")
SENSOR = {"sensor_width": 36.0, "sensor_height": 20.25}  # millimetres, where the file does not say
FROM_UNREAL = np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]])  # x forward, y right, z up (left-handed) -> OpenCV
NO_BACKGROUND = (
    "20221010_3_1000_batch01hand",
    "20221017_3_1000_batch01hand",
    "20221018_3-8_250_batch01hand",
    "20221019_3_250_highbmihand",
)


class Bedlam(FrameFiles):
    """Everything is in centimetres and degrees. Some frames may lack depth: those that have it count, in even steps.

    Not for training: scenes before a panorama, which have no geometry behind the people, and portraits on their side.
    """

    kind = "bedlam"
    hint = "<scene>/png/seq_000000/seq_000000_0000.png with depth and ground_truth/camera beside png"
    fps = 30.0
    layout: ClassVar[dict[str, str]] = {
        "rgb": "{scene}/png/{leaf}/{leaf}_{number:04d}.png",
        "depth": "{scene}/depth/{leaf}/{leaf}_{number:04d}_depth.exr",
    }

    @classmethod
    def find(cls, root: Path) -> Iterator[str]:
        """Names such as 20221024_10_100_batch01handhair_zoom_suburb_d/seq_000000."""
        for name in folders_with(root, ("*/png/*",), lambda path: path.parents[1].joinpath("ground_truth").is_dir()):
            scene, _, leaf = name.split("/")
            yield f"{scene}/{leaf}"

    def is_for_training(self, name: str) -> bool:
        """Scenes with geometry all around, upright."""
        scene = name.partition("/")[0]
        return "closeup" not in scene and scene not in NO_BACKGROUND

    def file(self, part: str, name: str, number: int) -> Path:
        """Scene and recording stand in different places of the path."""
        scene, _, leaf = name.partition("/")
        return self.root / self.layout[part].format(scene=scene, leaf=leaf, number=number)

    def camera_files(self, name: str) -> list[Path]:
        """One CSV file."""
        scene, _, leaf = name.partition("/")
        return [self.root / scene / "ground_truth" / "camera" / f"{leaf}_camera.csv"]

    def load_cameras(self, name: str) -> RecordedCameras:
        """Rows are matched to frames by the number in their name. The focal length is in millimetres and may zoom."""
        file = self.camera_files(name)[0]
        rows = read_csv(file, COLUMNS)
        numbers = [re.search(r"(\d+)(\.\w+)?$", row["name"] or "") for row in rows]
        if not rows or None in numbers:
            raise BadData(file, "has no rows" if not rows else "has a row whose name holds no frame number")
        with naming(file, "a CSV file of camera numbers"):
            values = np.array([[float(row[column]) for column in COLUMNS[1:]] for row in rows])
            sensors = [[float(row.get(side) or usual) for side, usual in SENSOR.items()] for row in rows]
        height, width = self._size(name, [int(match[1]) for match in numbers if match])
        intrinsics = np.tile(np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]]), (len(rows), 1, 1))
        intrinsics[:, [0, 1], [0, 1]] = values[:, 6:] / np.array(sensors) * [width, height]
        poses = np.tile(np.eye(4), (len(rows), 1, 1))
        poses[:, :3, :3] = FROM_UNREAL @ unreal_rotation(*np.deg2rad(values[:, 3:6]).T) @ FROM_UNREAL.T
        poses[:, :3, 3] = values[:, :3] @ FROM_UNREAL.T / 100
        return RecordedCameras(np.array([int(match[1]) for match in numbers if match]), intrinsics, poses)

    def load_depth(self, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Centimetres, the sky beyond all measure; the format knows no holes, so nan is an error."""
        file = self.file("depth", name, number)
        depth = read_exr(file, "Depth") / 100
        if depth.ndim != 2 or np.isnan(depth).any():
            what = (
                f"shape {list(depth.shape)}"
                if depth.ndim != 2
                else f"{int(np.isnan(depth).sum())} depths that are not a number"
            )
            raise BadData(file, f"holds {what}; expected finite depths (h, w)")
        return depth, depth >= KILOMETRE

    def _size(self, name: str, numbers: list[int]) -> tuple[int, int]:
        """(height, width) of the recording's images, from the first that is there.

        Those of the publication if none is.
        """
        files = (self.file("rgb", name, number) for number in numbers)
        first = next((file for file in files if file.is_file()), None)
        return (720, 1280) if first is None else read_size(first)


def unreal_rotation(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """(n, 3, 3) camera-to-world in Unreal's axes, from radians (n,).

    Positive yaw turns right, positive pitch looks up, positive roll is clockwise; applied in that order, each about the
    camera's own axis.
    """
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, pitch, roll))
    yaw_matrix = np.array([[cy, -sy, zero], [sy, cy, zero], [zero, zero, one]])
    pitch_matrix = np.array([[cp, zero, -sp], [zero, one, zero], [sp, zero, cp]])
    roll_matrix = np.array([[one, zero, zero], [zero, cr, sr], [zero, -sr, cr]])
    yaw_matrix, pitch_matrix, roll_matrix = (
        np.moveaxis(matrix, -1, 0) for matrix in (yaw_matrix, pitch_matrix, roll_matrix)
    )
    return yaw_matrix @ pitch_matrix @ roll_matrix
