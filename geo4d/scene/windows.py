"""What the network says of a video's windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from geo4d._typing import Float, Int, Tensor
from geo4d.errors import InputError
from geo4d.scene.extra import check_extra

OF_WINDOWS = (
    "windows",
    "points",
    "weight",
    "disparity",
    "disparity_weight",
    "ray_direction",
    "ray_moment",
    "ray_cam_to_win",
)


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
    extra: dict[str, Tensor] = field(default_factory=dict)  # (g, v, ...) each, which only some rooms know

    def __post_init__(self) -> None:
        """Raises InputError if no modality is present, or an extra field is not of these windows."""
        check_extra(self.extra, tuple(self.windows.shape), "window predictions")
        if (
            self.points is None
            and self.disparity is None
            and self.ray_direction is None
            and self.ray_cam_to_win is None
        ):
            raise InputError("Window predictions need at least one of points, disparity or rays; got none of them.")

    def map_windows(self, function: Callable[[Tensor], Tensor]) -> WindowPredictions:
        """A copy with `function` applied to everything that is of the windows (indexing, moving to a device, ...)."""
        changed = {name: getattr(self, name) for name in OF_WINDOWS}
        changed = {name: None if value is None else function(value) for name, value in changed.items()}
        return replace(self, **changed, extra={name: function(value) for name, value in self.extra.items()})

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

    def save(self, path: str | Path) -> None:
        """Writes an .npz if the path says so, else a folder with one .npy a key.

        Raises InputError if it cannot be written.
        """
        from geo4d.scene.files.windows import save_windows

        save_windows(path, self)

    @staticmethod
    def load(path: str | Path) -> WindowPredictions:
        """Reads an .npz, or a folder of .npy files, which stay memory maps.

        Raises InputError if it holds something else.
        """
        from geo4d.scene.files.windows import load_windows

        return load_windows(path)
