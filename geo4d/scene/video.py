"""Frames of a video with their times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geo4d.scene.tracks import Tracks


@dataclass(frozen=True)
class Video:
    """Frames of a video, perhaps resized on the way in."""

    frames: np.ndarray  # (t, h, w, 3) uint8
    timestamps: np.ndarray  # (t,) float64, seconds
    fps: float  # mean rate of the frames that were kept
    source_size: tuple[int, int]  # (height, width) as seen by a viewer, before resizing
    warnings: tuple[str, ...] = ()
    tracks: Tracks | None = None  # points followed through the source frames
    pictures: np.ndarray | None = None  # (t, h, w, 3) uint8, the same frames at the resolution of the result
