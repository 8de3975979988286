"""Points followed through a video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geo4d.errors import InputError
from geo4d.scene.arrays import picture_size

FARTHEST = 1e6  # pixels from the corner at which a tracked point may be
SPARSEST, FEWEST = (
    16,
    4096,
)  # numbers of tracks by row, and in any case: what is kept for each track then fits beside the rows


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
        if (
            self.track.dtype.kind not in "iu"
            or self.frame.dtype.kind not in "iu"
            or self.position.dtype.kind not in "fiu"
        ):
            raise InputError(
                f"Tracks need whole numbers of tracks and frames, and positions in pixels; got {', '.join(kinds)}."
            )
        if self.num_frames:  # a tracker that was given nothing yet knows no size
            picture_size(self.source_size, "The source_size of tracks")
        if not 0 <= self.num_frames < 2**31:
            raise InputError(f"The num_frames of tracks must be that of a video; got {self.num_frames}.")
        if rows and (self.track.min() < 0 or self.frame.min() < 0 or self.frame.max() >= self.num_frames):
            raise InputError(f"Tracks must have numbers from 0 and frames from 0 to {self.num_frames - 1}.")
        if self.num_tracks > min(max(SPARSEST * rows, FEWEST), 2**31):
            raise InputError(
                f"The {rows} rows of tracks hold the number {self.track.max()}; number tracks from 0 without large "
                "gaps."
            )
        if not (np.abs(self.position) <= FARTHEST).all():  # nan fails too
            raise InputError(
                f"Tracks hold positions that are not finite or beyond {FARTHEST:.0f} pixels; leave out rows in which a "
                "point was not seen."
            )

    @property
    def num_tracks(self) -> int:
        """Number of tracks."""
        return int(self.track.max()) + 1 if len(self.track) else 0

    def save(self, path: str | Path) -> None:
        """Writes an .npz. Raises InputError if it cannot be written."""
        from geo4d.scene.files.tracks import save_tracks

        save_tracks(path, self)

    @staticmethod
    def load(path: str | Path) -> Tracks:
        """Reads an .npz of ours, or the dense form of other trackers. Raises InputError if it holds something else."""
        from geo4d.scene.files.tracks import load_tracks

        return load_tracks(path)
