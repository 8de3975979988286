"""The result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from geo4d.errors import InputError
from geo4d.geometry.camera import unproject
from geo4d.geometry.pixels import resize_intrinsics
from geo4d.geometry.resample import resize_by_picture
from geo4d.scene.extra import check_extra


@dataclass(frozen=True)
class Reconstruction:
    """A video in 4D: depth, confidence and camera of each of T frames, in one world (the first camera).

    Arrays are numpy and may be memory maps. `depth` is z-depth at a resolution (h, w) between the network's and the
    video's, nan where not `valid`; `images` and `intrinsics` belong to it. `at_source_resolution` gives depth and
    intrinsics at the size of the video.
    """

    depth: np.ndarray  # (t, h, w) float32
    confidence: np.ndarray  # (t, h, w) float32, >= 0
    valid: np.ndarray  # (t, h, w) bool
    images: np.ndarray  # (t, h, w, 3) uint8
    intrinsics: np.ndarray  # (t, 3, 3) float64
    cam_to_world: np.ndarray  # (t, 4, 4) float64
    timestamps: np.ndarray  # (t,) float64, seconds
    source_size: tuple[int, int]  # (height, width) of the video
    is_metric: bool = False
    diagnostics: dict[str, Any] = field(default_factory=dict)
    dynamic: np.ndarray | None = None  # (t, h, w) float32, probability that what a pixel shows moves
    # (t, 6, 6) of rotation (radians, world axes) and centre; the first camera is exact
    pose_covariance: np.ndarray | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)  # (t, ...) each, which only some rooms know

    def __post_init__(self) -> None:
        """Raises InputError if an extra field is not of this video."""
        check_extra(self.extra, (len(self.depth),), "a reconstruction")

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.depth)

    def points_cam(self, frame: int) -> np.ndarray:
        """(h, w, 3) points of `frame` in its own camera; nan where invalid."""
        depth = np.where(self.valid[frame], self.depth[frame], np.nan).astype(np.float64)
        return unproject(torch.from_numpy(depth), torch.tensor(self.intrinsics[frame], dtype=torch.float64)).numpy()

    def points_world(self, frame: int) -> np.ndarray:
        """(h, w, 3) points of `frame` in the world (the first camera's frame); nan where invalid."""
        pose = self.cam_to_world[frame]
        return self.points_cam(frame) @ pose[:3, :3].T + pose[:3, 3]

    def at_source_resolution(self, frame: int, picture: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Depth (H, W) at the size of the video, and the intrinsics (3, 3) that go with it.

        Edges follow the video's own `picture` (H, W, 3) uint8 if it is given, else the result's, enlarged. Raises
        InputError for a picture of another size.
        """
        height, width = self.source_size
        own = np.ascontiguousarray(self.images[frame])
        if picture is None:
            picture = np.asarray(Image.fromarray(own).resize((width, height), Image.Resampling.BICUBIC))
        if picture.shape != (height, width, 3) or picture.dtype != np.uint8:
            raise InputError(
                f"The picture of a frame must be uint8 ({height}, {width}, 3), as the video is; got {picture.dtype} "
                f"{picture.shape}."
            )
        depth = resize_by_picture(np.where(self.valid[frame], self.depth[frame], np.nan), own, picture)
        intrinsics = torch.tensor(self.intrinsics[frame], dtype=torch.float64)
        return depth, resize_intrinsics(intrinsics, self.depth.shape[1:], (height, width)).numpy()

    def with_diagnostics(self, **entries: Any) -> Reconstruction:
        """A copy with more entries in `diagnostics`."""
        return replace(self, diagnostics={**self.diagnostics, **entries})

    def save(self, directory: str | Path) -> None:
        """Writes a folder, made if need be, that is whole when it has its reconstruction.json.

        Raises InputError if it cannot be written.
        """
        from geo4d.scene.files.reconstruction import save_reconstruction

        save_reconstruction(self, directory)

    @staticmethod
    def load(directory: str | Path) -> Reconstruction:
        """Opens a folder that `save` wrote; arrays are memory maps.

        Raises InputError if it does not hold a whole result.
        """
        from geo4d.scene.files.reconstruction import load_reconstruction

        return load_reconstruction(directory)
