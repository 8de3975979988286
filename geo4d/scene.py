"""The dataclasses that cross rooms: ground truth (`Clip`), network output (`WindowPredictions`), result.

Conventions (method 1): OpenCV camera axes, `cam_to_world` poses with the world at the first camera, pixel
centres at +0.5, z-depth. Torch inside the package (`Clip`, `WindowPredictions`), numpy at its edge (`Reconstruction`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch

from geo4d._typing import Bool, Float, Int, Tensor
from geo4d.errors import InputError
from geo4d.geometry.camera import unproject
from geo4d.geometry.pixels import resize_intrinsics
from geo4d.geometry.resample import resize_nearest

MOST_SIDE = 2**15  # pixels of a picture's side, twice that of 16K video: more is a damaged number
FARTHEST = 1e6  # pixels from the corner at which a tracked point may be
SPARSEST, FEWEST = 16, 4096  # numbers of tracks by row, and in any case: what is kept for each track then fits beside the rows


def picture_size(size: Any, what: str) -> tuple[int, int]:
    """(height, width) as ints. Raises InputError, which begins with `what`, unless they are two whole numbers of pixels."""
    pair = np.asarray(size) if isinstance(size, (tuple, list, np.ndarray)) else np.empty(0)
    if pair.shape != (2,) or pair.dtype.kind not in "iu" or not 1 <= pair.min() <= pair.max() <= MOST_SIDE:
        said = str(size).replace("\n", " ")[:80]
        raise InputError(f"{what} must be (height, width) in whole pixels from 1 to {MOST_SIDE}; got {said}.")
    return int(pair[0]), int(pair[1])


@dataclass(frozen=True)
class Clip:
    """Ground truth of one clip, or of a batch of clips (leading axes `...`).

    `depth` is z-depth in scene units and is 0 where `sky`; `valid` says where it is known (never in the sky).
    `instance` numbers the objects (0: background, -1: sky); `dynamic` is true where the surface itself moves.
    """

    rgb: Float[Tensor, "... t h w 3"]  # in [0, 1]
    depth: Float[Tensor, "... t h w"]
    valid: Bool[Tensor, "... t h w"]
    sky: Bool[Tensor, "... t h w"]
    intrinsics: Float[Tensor, "... t 3 3"]
    cam_to_world: Float[Tensor, "... t 4 4"]
    instance: Int[Tensor, "... t h w"] | None = None
    dynamic: Bool[Tensor, "... t h w"] | None = None

    def map(self, function: Any) -> Clip:
        """Returns the clip with `function` applied to every tensor (indexing, moving to a device, ...)."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return Clip(**{name: None if value is None else function(value) for name, value in tensors.items()})

    def to(self, device: torch.device | str) -> Clip:
        """Moves every tensor to `device`."""
        return self.map(lambda tensor: tensor.to(device))


@dataclass(frozen=True)
class WindowPredictions:
    """What the network says of G overlapping windows of V frames; the only input of the alignment.

    Everything is in the frame of each window's first camera and up to that window's scale; `disparity` also up to a
    shift, `points` also up to a shift along z unless `points_origin` is "camera". Zero-weight pixels may hold anything.
    """

    windows: Int[Tensor, "g v"]  # frame numbers
    points: Float[Tensor, "g v h w 3"] | None = None
    weight: Float[Tensor, "g v h w"] | None = None  # 1 / sigma in units of `points`, 0 = invalid
    disparity: Float[Tensor, "g v h w"] | None = None
    disparity_weight: Float[Tensor, "g v h w"] | None = None  # None: 1 where disparity > 0.05
    ray_direction: Float[Tensor, "g v y x 3"] | None = None  # may be coarser than the points
    ray_moment: Float[Tensor, "g v y x 3"] | None = None
    ray_cam_to_win: Float[Tensor, "g v 4 4"] | None = None
    points_origin: Literal["unknown", "camera"] = "unknown"
    images: Any = None  # uint8 numpy (t, h, w, 3), for the result
    timestamps: Any = None  # float64 numpy (t,), seconds
    source_size: tuple[int, int] | None = None  # (height, width) of the video

    def __post_init__(self) -> None:
        """Raises InputError if no modality is present."""
        if self.points is None and self.disparity is None and self.ray_direction is None and self.ray_cam_to_win is None:
            raise InputError("Window predictions need at least one of points, disparity or rays; got none of them.")

    @property
    def num_frames(self) -> int:
        """Number of frames of the video."""
        return int(self.windows.max()) + 1

    @property
    def grid_size(self) -> tuple[int, int]:
        """(height, width) of the dense maps; of the ray maps when there is nothing else."""
        for dense in (self.points, self.disparity, self.ray_direction):
            if dense is not None:
                return int(dense.shape[2]), int(dense.shape[3])
        raise InputError("These window predictions hold cameras alone, so they have no pixel grid.")


@dataclass(frozen=True)
class Tracks:
    """Points followed through a video: one row for each time that a track was seen."""

    track: np.ndarray  # (m,) int32, number of the track
    frame: np.ndarray  # (m,) int32
    position: np.ndarray  # (m, 2) float32, (u, v) in pixels of the source, centres at +0.5
    source_size: tuple[int, int]  # (height, width) of the frames that were tracked
    num_frames: int

    def __post_init__(self) -> None:
        """Raises InputError if the rows do not fit together, or hold numbers that cannot be."""
        rows = len(self.track) if self.track.ndim else 0
        if self.track.shape != (rows,) or self.frame.shape != (rows,) or self.position.shape != (rows, 2):
            shapes = [list(array.shape) for array in (self.track, self.frame, self.position)]
            raise InputError(f"Tracks need track (m,), frame (m,) and position (m, 2); got {shapes}.")
        kinds = [array.dtype.name for array in (self.track, self.frame, self.position)]
        if self.track.dtype.kind not in "iu" or self.frame.dtype.kind not in "iu" or self.position.dtype.kind not in "fiu":
            raise InputError(f"Tracks need whole numbers of tracks and frames, and positions in pixels; got {', '.join(kinds)}.")
        if self.num_frames:  # a tracker that was given nothing yet knows no size
            picture_size(self.source_size, "The source_size of tracks")
        if not 0 <= self.num_frames < 2**31:
            raise InputError(f"The num_frames of tracks must be that of a video; got {self.num_frames}.")
        if rows and (self.track.min() < 0 or self.frame.min() < 0 or self.frame.max() >= self.num_frames):
            raise InputError(f"Tracks must have numbers from 0 and frames from 0 to {self.num_frames - 1}.")
        if self.num_tracks > min(max(SPARSEST * rows, FEWEST), 2**31):
            raise InputError(f"The {rows} rows of tracks hold the number {self.track.max()}; number tracks from 0 without large gaps.")
        if not (np.abs(self.position) <= FARTHEST).all():  # nan fails too
            raise InputError(
                f"Tracks hold positions that are not finite or beyond {FARTHEST:.0f} pixels; leave out rows in which a point was not seen."
            )

    @property
    def num_tracks(self) -> int:
        """Number of tracks."""
        return int(self.track.max()) + 1 if len(self.track) else 0


@dataclass(frozen=True)
class Reconstruction:
    """A video in 4D: depth, confidence and camera of each of T frames, in one world (the first camera).

    Arrays are numpy and may be memory maps. `depth` is z-depth at the working resolution (h, w), nan where not `valid`;
    `intrinsics` belongs to that resolution. `at_source_resolution` gives both at the size of the video. `save(directory)` and
    `Reconstruction.load(directory)` are added by `geo4d.io.reconstruction`.
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
    pose_covariance: np.ndarray | None = None  # (t, 6, 6) of rotation (radians, world axes) and centre; the first camera is exact

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

    def at_source_resolution(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Depth (H, W) resampled to the size of the video, and the intrinsics (3, 3) that go with it."""
        height, width = self.source_size
        depth = resize_nearest(np.where(self.valid[frame], self.depth[frame], np.nan)[None], height, width)[0]
        intrinsics = torch.tensor(self.intrinsics[frame], dtype=torch.float64)
        return depth, resize_intrinsics(intrinsics, self.depth.shape[1:], (height, width)).numpy()

    def with_diagnostics(self, **entries: Any) -> Reconstruction:
        """A copy with more entries in `diagnostics`."""
        return replace(self, diagnostics={**self.diagnostics, **entries})
