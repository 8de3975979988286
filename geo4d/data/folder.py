"""Clips as `geo4d synth` writes them: a folder with rgb.mp4 and one .npy for each kind of truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from geo4d.data.base import DiskSet, folders_with
from geo4d.data.files import map_npy, read_npy
from geo4d.data.frames import BadData, Frame, Problem, RecordedCameras, Recording, make_frame
from geo4d.errors import InputError
from geo4d.io.video import Selection, read_video

ARRAYS = ("depth", "sky", "intrinsics", "cam_to_world")


class ClipFolder(DiskSet):
    """Depth is in scene units and exact; conventions are our own already."""

    kind = "folder"
    hint = "<clip>/rgb.mp4 with depth.npy, sky.npy, intrinsics.npy and cam_to_world.npy, as geo4d synth writes them"
    fps = 24.0

    @classmethod
    def find(cls, root: Path) -> Iterator[str]:
        """Folders with a depth.npy or an rgb.mp4."""
        return folders_with(root, ("*",), lambda path: (path / "rgb.mp4").is_file() or (path / "depth.npy").is_file())

    def scan(self, name: str) -> tuple[list[Recording], list[Problem], list[Path]]:
        """One shot a folder."""
        folder = self.root / name
        files = [folder / "rgb.mp4", *(folder / f"{array}.npy" for array in ARRAYS)]
        missing = [Problem(str(file), "is missing") for file in files if not file.is_file()]
        if missing:
            return [], missing, files
        cameras, count = self.load_cameras(name), len(self._open(name, "depth"))
        bad = np.flatnonzero(~cameras.usable())
        problems = (
            [Problem(str(folder / "cam_to_world.npy"), f"holds no camera for frame {bad[0]}")] if len(bad) else []
        )
        if count == 0 or count != len(cameras.numbers):
            problems = [
                Problem(str(folder / "depth.npy"), f"holds {count} frames; there are {len(cameras.numbers)} cameras")
            ]
        return ([] if problems else [Recording(name, 0, 1, count, self.fps)]), problems, files

    def camera_files(self, name: str) -> list[Path]:
        """Poses first."""
        return [self.root / name / f"{array}.npy" for array in ("cam_to_world", "intrinsics")]

    def load_cameras(self, name: str) -> RecordedCameras:
        """As stored."""
        intrinsics, poses = (read_npy(self.root / name / f"{array}.npy").astype(np.float64) for array in ARRAYS[2:])
        if intrinsics.shape != (len(poses), 3, 3) or poses.shape[1:] != (4, 4):
            shapes = f"{list(intrinsics.shape)} and {list(poses.shape)}"
            raise BadData(
                self.root / name / "intrinsics.npy",
                f"and cam_to_world.npy have shapes {shapes}; expected (n, 3, 3), (n, 4, 4)",
            )
        return RecordedCameras(np.arange(len(poses)), intrinsics, poses)

    def frames(self, recording: Recording, indices: Sequence[int]) -> Iterator[Frame]:
        """Decodes the video once, up to the last frame that is wanted."""
        file = self.root / recording.name / "rgb.mp4"
        try:
            pictures = read_video(
                file, Selection(start=min(indices), max_frames=max(indices) - min(indices) + 1)
            ).frames
        except InputError as error:
            raise BadData(file, "is not a video that can be read") from error
        depth, sky = self._open(recording.name, "depth"), self._open(recording.name, "sky")
        for index in indices:
            if index - min(indices) >= len(pictures):
                raise BadData(file, f"ends after {min(indices) + len(pictures)} frames; expected {recording.count}")
            rgb = pictures[index - min(indices)]
            if depth.shape[1:] != rgb.shape[:2] or sky.shape != depth.shape:
                sizes = f"{list(depth.shape)}, sky.npy {list(sky.shape)}, a frame of the video {list(rgb.shape[:2])}"
                raise BadData(self.root / recording.name / "depth.npy", f"is {sizes}")
            values = np.array(depth[index], dtype=np.float32)
            if np.isnan(values).any():
                raise BadData(
                    self.root / recording.name / "depth.npy", f"holds depths that are not a number in frame {index}"
                )
            yield make_frame(rgb, values, np.array(sky[index]), self.camera(recording.name, index), far=self.far)

    def _open(self, name: str, array: str) -> np.ndarray:
        """A memory map."""
        file = self.root / name / f"{array}.npy"
        values = map_npy(file)
        if values.ndim != 3:
            raise BadData(file, f"has shape {list(values.shape)}; expected (frames, h, w)")
        return values
