"""Point tracks on disk: one .npz, ours or any tracker's."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from geo4d.errors import InputError
from geo4d.io.atomic import temporary_path
from geo4d.scene import Tracks

KEYS = ("track", "frame", "position", "source_size", "num_frames")


def save_tracks(path: str | Path, tracks: Tracks) -> None:
    """Writes track (m,), frame (m,), position (m, 2), source_size (2,) and num_frames, in one move."""
    path = Path(path)
    temporary = temporary_path(path)
    with temporary.open("wb") as file:
        np.savez_compressed(file, **{key: np.asarray(getattr(tracks, key)) for key in KEYS})
    os.replace(temporary, path)


def load_tracks(path: str | Path) -> Tracks:
    """Reads what `save_tracks` wrote, or the usual dense form of other trackers.

    That is: points (n, t, 2) in pixels of the source (centres at +0.5), visible (n, t) bool, source_size (height, width).
    Raises InputError for anything else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"The tracks {path} cannot be read; expected an .npz file with {', '.join(KEYS)}.") from error
    size = content.get("source_size")
    if size is None or size.shape != (2,):
        raise InputError(f"The tracks {path} do not say of which source_size (height, width) they are; add it.")
    source_size = (int(size[0]), int(size[1]))
    if all(key in content for key in KEYS):
        return Tracks(
            content["track"].astype(np.int32),
            content["frame"].astype(np.int32),
            content["position"].astype(np.float32),
            source_size,
            int(content["num_frames"]),
        )
    points, visible = content.get("points"), content.get("visible")
    if points is None or visible is None or points.ndim != 3 or points.shape[2] != 2 or visible.shape != points.shape[:2]:
        raise InputError(f"The tracks {path} hold {sorted(content)}; expected {', '.join(KEYS)}, or points (n, t, 2) and visible (n, t).")
    frame, track = np.nonzero(visible.astype(bool).T)
    return Tracks(track.astype(np.int32), frame.astype(np.int32), points[track, frame].astype(np.float32), source_size, points.shape[1])
