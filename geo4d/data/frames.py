"""What a data set hands out: frames with their truth, recordings, and a name for whatever is wrong with a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geo4d.errors import InputError
from geo4d.geometry.rigid import relative_to_first
from geo4d.scene import Clip

ROTATION_TOLERANCE = 0.02  # of |R^T R - 1|; cameras that are stored in half precision reach a few thousandths
ChangeColours = Callable[[np.ndarray], np.ndarray]  # uint8 frames (t, h, w, 3) -> the same frames in other colours


class BadData(InputError):
    """A file of a data set cannot be used; `file` names it."""

    def __init__(self, file: Path | str, reason: str = "cannot be used") -> None:
        super().__init__(f"{file}: {reason}.")
        self.file, self.reason = str(file), reason

    def __reduce__(self) -> tuple[type[BadData], tuple[str, str]]:
        """Survives the way out of a worker process."""
        return type(self), (self.file, self.reason)

    @property
    def problem(self) -> Problem:
        """The same as a record for a report."""
        return Problem(self.file, self.reason)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an installation."""

    file: str
    reason: str


@dataclass(frozen=True)
class Recording:
    """Frames `first`, `first + step`, ... of one unbroken shot, evenly spaced in time.

    The numbers are those of the file names.
    """

    name: str
    first: int
    step: int
    count: int
    fps: float  # of these frames; nominal where the data set does not say

    def number(self, index: int) -> int:
        """The number in the file names of frame `index`."""
        return self.first + self.step * index


@dataclass(frozen=True)
class RecordedCameras:
    """Cameras of one recording, in our convention (OpenCV axes, metres, pixel centres at +0.5), row by row."""

    numbers: np.ndarray  # (n,) int64, frame numbers
    intrinsics: np.ndarray  # (n, 3, 3) float64
    cam_to_world: np.ndarray  # (n, 4, 4) float64, in the data set's own world

    def usable(self) -> np.ndarray:
        """(n,) bool: finite, with a positive focal length and a rotation that is one."""
        finite = np.isfinite(self.intrinsics).all((1, 2)) & np.isfinite(self.cam_to_world).all((1, 2))
        rotation = np.where(finite[:, None, None], self.cam_to_world[:, :3, :3], 0.0)
        gram = rotation.swapaxes(1, 2) @ rotation
        rigid = (np.abs(gram - np.eye(3)).max((1, 2)) < ROTATION_TOLERANCE) & (np.linalg.det(rotation) > 0)
        return finite & rigid & (self.intrinsics[:, 0, 0] > 0) & (self.intrinsics[:, 1, 1] > 0)

    def rigid(self) -> RecordedCameras:
        """The usable rows by rising number, with rotations rounded to the nearest true ones."""
        usable = np.flatnonzero(self.usable())
        keep = usable[np.argsort(self.numbers[usable], kind="stable")]
        poses = self.cam_to_world[keep].copy()
        u, _, vt = np.linalg.svd(poses[:, :3, :3])
        poses[:, :3, :3] = u @ vt
        return RecordedCameras(self.numbers[keep], self.intrinsics[keep], poses)


def invert_all(world_to_cam: np.ndarray) -> np.ndarray:
    """Inverses of (n, 4, 4) matrices; those that have none become nan."""
    usable = np.isfinite(world_to_cam).all((1, 2))
    usable[usable] = np.abs(np.linalg.det(world_to_cam[usable])) > 1e-6
    result = np.full(world_to_cam.shape, np.nan)
    result[usable] = np.linalg.inv(world_to_cam[usable])
    return result


@dataclass(frozen=True)
class Frame:
    """One frame with its truth. Pixels that are neither `valid` nor `sky` are holes: nothing is known of them."""

    rgb: np.ndarray  # (h, w, 3) uint8
    depth: np.ndarray  # (h, w) float32, metres along the optical axis; 0 where not valid
    valid: np.ndarray  # (h, w) bool
    sky: np.ndarray  # (h, w) bool
    intrinsics: np.ndarray  # (3, 3) float64
    cam_to_world: np.ndarray  # (4, 4) float64

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return int(self.depth.shape[0]), int(self.depth.shape[1])


def make_frame(
    rgb: np.ndarray, depth: np.ndarray, sky: np.ndarray, camera: tuple[np.ndarray, np.ndarray], *, far: float | None
) -> Frame:
    """A frame from raw depth.

    Whatever is not finite and positive is a hole, and what lies beyond `far` counts as sky.
    """
    if far is not None:
        sky = sky | (depth > far)
    valid = np.isfinite(depth) & (depth > 0) & ~sky
    return Frame(rgb, np.where(valid, depth, 0).astype(np.float32), valid, sky, *camera)


def to_clip(frames: Iterable[Frame], photometric: ChangeColours | None = None) -> Clip:
    """Stacks frames of one size into a clip (t, h, w) whose world is the first camera.

    `photometric` changes the colours alone.
    """
    rows = list(frames)
    rgb = np.stack([frame.rgb for frame in rows])
    rgb = rgb if photometric is None else photometric(rgb)
    poses = torch.from_numpy(np.stack([frame.cam_to_world for frame in rows]))
    return Clip(
        rgb=torch.from_numpy(rgb).float() / 255,
        depth=torch.from_numpy(np.stack([frame.depth for frame in rows])),
        valid=torch.from_numpy(np.stack([frame.valid for frame in rows])),
        sky=torch.from_numpy(np.stack([frame.sky for frame in rows])),
        intrinsics=torch.from_numpy(np.stack([frame.intrinsics for frame in rows])).float(),
        cam_to_world=relative_to_first(poses).float(),
    )
