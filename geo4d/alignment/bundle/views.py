"""Which tracks are seen where: keyframes, how well points are followed, and what two frames share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from geo4d.alignment.bundle.config import ViewsConfig
from geo4d.geometry.consensus import consensus_fundamental
from geo4d.geometry.epipolar import sampson_distance
from geo4d.scene import Tracks

GAUSSIAN = 0.6745  # median of the absolute value of a normal variable, in sigmas


@dataclass(frozen=True)
class Views:
    """Observations of tracks, in the order of the frames.

    Pixels are centred and divided by the longer side.
    """

    point: np.ndarray  # (m,)
    frame: np.ndarray  # (m,)
    pixel: np.ndarray  # (m, 2)
    num_points: int
    num_frames: int

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Numbers of the observations in each frame."""
        ends = np.searchsorted(self.frame, np.arange(self.num_frames + 1))
        return [np.arange(a, b) for a, b in pairwise(ends)]

    def sorted_rows(self, frame: int) -> np.ndarray:
        """Numbers of the observations in a frame, in the order of their tracks."""
        rows = self.rows[frame]
        return rows[np.argsort(self.point[rows], kind="stable")]

    def shared(self, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
        """Observations (k,) and (k,) of the tracks that two frames share."""
        before, here = self.sorted_rows(first), self.rows[second]
        place = np.searchsorted(self.point[before], self.point[here]).clip(max=max(len(before) - 1, 0))
        both = self.point[before[place]] == self.point[here] if len(before) else np.zeros(len(here), bool)
        return before[place[both]], here[both]


def breaks(views: Views, config: ViewsConfig) -> np.ndarray:
    """Frames from which next to nothing is followed to the next one, though both show enough.

    As where a video is cut.
    """
    seen = np.bincount(views.frame, minlength=views.num_frames)
    enough = np.minimum(seen[:-1], seen[1:])
    across = tracks_across(views, np.ones(len(views.frame), bool))
    return np.flatnonzero((enough >= config.least_shared) & (across < config.unbroken * enough))


def tracks_across(views: Views, keep: np.ndarray) -> np.ndarray:
    """How many tracks (t - 1,) are seen up to each frame and after it too, of the observations kept (m,)."""
    point, frame = views.point[keep], views.frame[keep]
    first, last = np.full(views.num_points, views.num_frames), np.full(views.num_points, -1)
    np.minimum.at(first, point, frame)
    np.maximum.at(last, point, frame)
    starts, ends = (np.bincount(frames[last >= 0], minlength=views.num_frames) for frames in (first, last))
    return (np.cumsum(starts) - np.cumsum(ends))[:-1]


def choose_keyframes(views: Views, config: ViewsConfig) -> np.ndarray:
    """Frames between which points move enough to say something, and most of them can still be followed.

    First and last are among them.
    """
    chosen = [0]
    for frame in range(1, views.num_frames):
        before, here = views.shared(chosen[-1], frame)
        kept = len(here) / max(len(views.rows[chosen[-1]]), 1)
        moved = np.median(np.linalg.norm(views.pixel[here] - views.pixel[before], axis=1)) if len(here) else np.inf
        if moved > config.keyframe_motion or kept < config.keyframe_shared or frame - chosen[-1] >= config.keyframe_gap:
            chosen.append(frame)
    if chosen[-1] != views.num_frames - 1:
        chosen.append(views.num_frames - 1)
    return np.array(chosen)


def tracking_noise(views: Views, frames: np.ndarray, config: ViewsConfig) -> float:
    """Sigma of one followed position, by the longer side.

    How far points are from the epipolar lines of the best fundamental matrix. That holds whatever the camera is, as
    long as most of what is followed stands still; where it does not, or where there is too little to go by, more noise
    is found than there is, and nothing is told from chance that should not be.
    """
    distances = []
    for first, second in pairwise(frames.tolist()):
        before, here = views.shared(first, second)
        if len(here) < config.least_shared:
            continue
        found = consensus_fundamental(views.pixel[before], views.pixel[here], threshold=config.widest_noise)
        if found is not None:
            arguments = found[0], views.pixel[before], views.pixel[here]
            distances.append(float(sampson_distance(*(torch.from_numpy(x)[None] for x in arguments)).nanmedian()))
    if not distances:
        return config.usual_noise
    return float(np.clip(np.median(distances) / GAUSSIAN, config.least_noise, config.widest_noise))


def thinned(tracks: Tracks, config: ViewsConfig) -> Tracks:
    """Without tracks where there are more than cameras gain from: of those that crowd, the longest stay."""
    height, width = tracks.source_size
    side = max(height, width) / config.cells
    columns, rows = math.ceil(width / side), math.ceil(height / side)
    column, row = (tracks.position / side).astype(np.int64).T
    cell = (tracks.frame * rows + row.clip(0, rows - 1)) * columns + column.clip(0, columns - 1)
    order = np.argsort(tracks.track, kind="stable")
    ends = np.searchsorted(tracks.track[order], np.arange(tracks.num_tracks + 1))
    taken = np.zeros(tracks.num_frames * rows * columns, np.int32)
    kept = np.zeros(tracks.num_tracks, bool)
    for track in np.argsort(-np.diff(ends), kind="stable"):
        cells = cell[order[ends[track] : ends[track + 1]]]
        if len(cells) and 2 * (taken[cells] < config.most_in_cell).sum() > len(cells):
            kept[track] = True
            taken[cells] += 1
    return chosen(tracks, kept[tracks.track])


def chosen(tracks: Tracks, keep: np.ndarray) -> Tracks:
    """Some observations in the order of the frames, without the tracks of which less than two are left.

    The rest are numbered anew.
    """
    keep = keep & (np.bincount(tracks.track[keep], minlength=tracks.num_tracks)[tracks.track] > 1)
    rows = np.flatnonzero(keep)[np.argsort(tracks.frame[keep], kind="stable")]
    _, track = np.unique(tracks.track[rows], return_inverse=True)
    return replace(tracks, track=track.astype(np.int32), frame=tracks.frame[rows], position=tracks.position[rows])
