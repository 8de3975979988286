"""Points followed through a video, frame by frame: only the last frame and the tracks' first frames are kept.

A step is kept if its forward-backward error is small; each point is then set anew against the frame in which it was
first seen (its anchor), so that small errors do not add up; new corners are sought once much of the image is empty.
Points that were lost are looked for again when the camera comes back (`geo4d.tracks.closures`): their tracks then have
a gap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from geo4d.errors import InputError
from geo4d.matching.features import Features, detect, match_features, uses_xfeat
from geo4d.matching.points import FlowConfig, find_corners, flow_both_ways, inside, set_anew
from geo4d.scene import Tracks
from geo4d.tracks.closures import LoopClosures, find_again
from geo4d.tracks.config import TrackerConfig


@dataclass(frozen=True)
class _Points:
    """Those that are being followed."""

    position: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    number: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    anchor_frame: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    anchor_position: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))

    def take(self, position: np.ndarray, keep: np.ndarray) -> _Points:
        return _Points(position[keep], self.number[keep], self.anchor_frame[keep], self.anchor_position[keep])

    def plus(self, position: np.ndarray, number: np.ndarray, frame: int) -> _Points:
        return _Points(
            np.concatenate([self.position, position]),
            np.concatenate([self.number, number]),
            np.concatenate([self.anchor_frame, np.full(len(number), frame)]),
            np.concatenate([self.anchor_position, position]),
        )


class PointFollower:
    """Give it the frames in order with `add`; `tracks` says what was seen."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self._points = _Points()
        self._last: np.ndarray | None = None
        self._leapt_to: tuple[int, Features] | None = None  # the frame that was last looked at for a leap
        self._anchors: dict[int, np.ndarray] = {}
        self._seen: list[tuple[np.ndarray, np.ndarray]] = []  # numbers and positions, frame by frame
        self._count = 0
        self._size = (0, 0)
        self._closures = None if self.config.closures is None else LoopClosures(self.config.closures)

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint8 (h, w, 3), all of one size. Raises InputError for another shape."""
        if (
            frame.ndim != 3
            or frame.shape[2] != 3
            or frame.dtype != np.uint8
            or self._size not in ((0, 0), frame.shape[:2])
        ):
            raise InputError(f"The tracker takes uint8 frames (h, w, 3) of one size; got {frame.dtype} {frame.shape}.")
        self._size = (frame.shape[0], frame.shape[1])
        image = self._prepare(frame)
        if self._last is not None and len(self._points.number):
            self._points = self._follow(self._points, self._last, image)
        number = len(self._seen)
        closures = self._closures if self._closures is not None and self._closures.is_keyframe(number) else None
        if closures is not None:
            found, positions = closures.find(number, image, self._points.number, self._points.position)
            self._points = self._points.plus(positions, found, number)
        if self._is_sparse(image.shape):
            corners = self._corners(image)
            self._points = self._points.plus(corners, np.arange(self._count, self._count + len(corners)), number)
            self._count += len(corners)
        if closures is not None:
            closures.remember(number, image, self._points.number, self._points.position)
        self._anchors[number] = image
        alive = set(self._points.anchor_frame.tolist())
        self._anchors = {number: anchor for number, anchor in self._anchors.items() if number in alive}
        self._seen.append((self._points.number, self._points.position))
        self._last = image

    def tracks(self) -> Tracks:
        """All tracks of at least `min_length` frames, in pixels of the source (centres at +0.5)."""
        number = np.concatenate([np.zeros(0, np.int64), *(n for n, _ in self._seen)])
        frame = np.repeat(np.arange(len(self._seen)), [len(n) for n, _ in self._seen])
        position = np.concatenate([np.zeros((0, 2), np.float32), *(p for _, p in self._seen)])
        length = np.bincount(number, minlength=self._count)
        keep = length[number] >= self.config.min_length
        _, track = np.unique(number[keep], return_inverse=True)
        return Tracks(
            track.astype(np.int32),
            frame[keep].astype(np.int32),
            ((position[keep] + 0.5) / self._scale()).astype(np.float32),
            self._size,
            len(self._seen),
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to be careful with: lost points are looked for by SIFT, since the weights of XFeat are not installed."""
        searches = (self.config.leaps, self.config.closures)
        kinds = [each.again.features for each in searches if each is not None]
        if all(kind.kind != "auto" or uses_xfeat(kind) for kind in kinds):
            return ()
        return (
            "XFeat's weights are not installed: points that are lost are looked for by SIFT, which finds fewer where "
            "the camera turns fast; install geo4d again, or say `kind=sift` of the features.",
        )

    def _scale(self) -> np.ndarray:
        """Tracked pixels by source pixels, (x, y)."""
        height, width = self._size
        longer, c = max(height, width, 1), self.config
        factor = min(max(longer, c.min_side), c.max_side) / longer
        return np.array([round(width * factor) / max(width, 1), round(height * factor) / max(height, 1)])

    def _prepare(self, frame: np.ndarray) -> np.ndarray:
        """The frame as it is tracked: grey, against noise a little blurred, enlarged or reduced."""
        import cv2

        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if self.config.blur > 0:
            grey = cv2.GaussianBlur(grey, (0, 0), self.config.blur)
        sx, sy = self._scale()
        size = (round(frame.shape[1] * sx), round(frame.shape[0] * sy))
        if size == (frame.shape[1], frame.shape[0]):
            return grey
        return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if sx < 1 else cv2.INTER_CUBIC)

    def _follow(self, points: _Points, last: np.ndarray, image: np.ndarray) -> _Points:
        """Those of the last frame that are seen in this image, where they are now."""
        c = self.config
        step = FlowConfig(c.window, c.levels)
        ahead, keep = flow_both_ways(last, image, points.position, step, c.max_cycle_error)
        keep &= inside(ahead, image.shape, c.border)
        if c.leaps is not None and keep.sum() < c.leaps.kept * len(keep):
            self._leap(points, last, image, ahead, keep)
        again = FlowConfig(c.window, c.anchor_levels)
        for frame, anchor in self._anchors.items():
            if frame == len(self._seen) - 1:  # the last frame, from which they have just come
                continue
            chosen = np.flatnonzero(keep & (points.anchor_frame == frame))
            if len(chosen):
                shift = c.max_anchor_shift * c.window
                ahead[chosen] = set_anew(anchor, image, points.anchor_position[chosen], ahead[chosen], again, shift)
        return points.take(ahead, keep)

    def _leap(self, points: _Points, last: np.ndarray, image: np.ndarray, ahead: np.ndarray, keep: np.ndarray) -> None:
        """Finds points that a step has lost by features of both images; enters them in `ahead` and `keep`."""
        config = self.config.leaps.again
        number, known = len(self._seen), self._leapt_to
        is_known = known is not None and known[0] == number - 1
        before = known[1] if is_known else detect(last, config.features)
        here = detect(image, config.features)
        self._leapt_to = number, here
        matches = match_features(before, here, last.shape, image.shape, config.features)
        if matches is not None:
            lost = np.flatnonzero(~keep)
            found, places = find_again(last, image, points.position[lost], matches, config)
            ahead[lost[found]], keep[lost[found]] = places[found], True

    def _is_sparse(self, shape: tuple[int, ...]) -> bool:
        """Whether too much of the image has no point; the first image has none."""
        if self._last is None:
            return True
        side = self.config.cell * self.config.spacing
        rows, columns = (max(1, int(length // side)) for length in shape[:2])
        row = np.minimum((self._points.position[:, 1] * rows / shape[0]).astype(int), rows - 1)
        column = np.minimum((self._points.position[:, 0] * columns / shape[1]).astype(int), columns - 1)
        occupied = np.unique(row * columns + column)
        return 1 - len(occupied) / (rows * columns) > self.config.empty_share

    def _corners(self, image: np.ndarray) -> np.ndarray:
        """New corners, away from the points that are followed already."""
        c = self.config
        return find_corners(
            image,
            self._points.position,
            most=max(1, image.size // c.spacing**2),
            quality=c.quality,
            min_distance=c.corner_distance * c.spacing,
            clearance=c.clearance * c.spacing,
            block=c.corner_block,
        )


def track_points(frames: Iterable[np.ndarray], config: TrackerConfig | None = None) -> Tracks:
    """Tracks of a whole video, uint8 frames (h, w, 3)."""
    follower = PointFollower(config)
    for frame in frames:
        follower.add(frame)
    return follower.tracks()
