"""Point tracks on disk: one .npz, ours or any tracker's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from geo4d.errors import InputError
from geo4d.scene.arrays import Unreadable, picture_size, read_archive
from geo4d.scene.atomic import whole_file
from geo4d.scene.tracks import Tracks

KEYS = ("track", "frame", "position", "source_size", "num_frames")
DENSE = ("points", "visible")


def save_tracks(path: str | Path, tracks: Tracks) -> None:
    """Writes track (m,), frame (m,), position (m, 2), source_size (2,) and num_frames.

    Raises InputError if it cannot be written.
    """
    with whole_file(Path(path), alone=True) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{key: np.asarray(getattr(tracks, key)) for key in KEYS})


def load_tracks(path: str | Path) -> Tracks:
    """Reads what `save_tracks` wrote, or the usual dense form of other trackers.

    That is: points (n, t, 2) in pixels of the source (centres at +0.5), visible (n, t) bool, source_size (height,
    width). Raises InputError for anything else.
    """
    try:
        content = read_archive(path, (*KEYS, *DENSE))
    except Unreadable as error:
        raise InputError(
            f"The tracks {path} cannot be read ({error}); expected an .npz file with {', '.join(KEYS)}."
        ) from error
    if "source_size" not in content:
        raise InputError(f"The tracks {path} do not say of which source_size (height, width) they are; add it.")
    source_size = picture_size(content["source_size"], f"The source_size of the tracks {path}")
    if all(key in content for key in KEYS):
        count = content["num_frames"]
        if count.size != 1 or count.dtype.kind not in "iu":
            raise InputError(
                f"The num_frames of the tracks {path} must be one whole number; got {count.dtype.name} "
                f"{list(count.shape)}."
            )
        tracks = Tracks(content["track"], content["frame"], content["position"], source_size, int(count.item()))
    else:
        tracks = _from_dense(path, content, source_size)
    # only now: numbers too large for these types have been refused instead of becoming others
    rows = {
        "track": tracks.track.astype(np.int32),
        "frame": tracks.frame.astype(np.int32),
        "position": tracks.position.astype(np.float32),
    }
    return replace(tracks, **rows)


def _from_dense(path: str | Path, content: dict[str, np.ndarray], source_size: tuple[int, int]) -> Tracks:
    points, visible = content.get("points"), content.get("visible")
    if (
        points is None
        or visible is None
        or points.ndim != 3
        or points.shape[2] != 2
        or visible.shape != points.shape[:2]
    ):
        raise InputError(
            f"The tracks {path} hold {sorted(content)}; expected {', '.join(KEYS)}, or points (n, t, 2) and visible "
            "(n, t)."
        )
    if visible.dtype.kind not in "biu":
        raise InputError(f"The visible of the tracks {path} must be bool; got {visible.dtype.name}.")
    frame, track = np.nonzero(visible.astype(bool).T)
    return Tracks(track, frame, points[track, frame], source_size, points.shape[1])
