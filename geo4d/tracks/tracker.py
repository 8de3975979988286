"""Pyramidal Lucas-Kanade on corners, frame by frame: only the last frame and the tracks' first frames are kept.

A step is kept if following it backwards leads to where it began; each point is then set anew against the frame in which it was
first seen, so that small errors do not add up; corners are sought again where the image has become empty. Points that were lost are
looked for again when the camera comes back (`geo4d.tracks.loops`): their tracks then have a gap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from geo4d.errors import ConfigError, InputError
from geo4d.scene import Tracks
from geo4d.tracks.loops import LoopConfig, LoopFinder


@dataclass(frozen=True)
class TrackerConfig:
    """Lengths in pixels of the frame that is tracked, whose longer side lies between `least_side` and `most_side`."""

    least_side: int = 384  # smaller frames are enlarged
    most_side: int = 640
    window: int = 15
    levels: int = 3
    blur: float = 0.7  # of the source frame, against noise and compression
    back_and_forth: float = 0.25  # largest distance after following forwards and backwards
    spacing: int = 16  # between corners
    quality: float = 0.01  # of a corner, relative to the best
    empty_share: float = 0.15  # of the image without any point, from which corners are sought again
    anchor_jump: float = 0.1  # by which a point may be set anew, in windows
    min_length: int = 6  # frames
    loops: LoopConfig | None = field(default_factory=LoopConfig)  # None: points that are lost stay lost

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.window < 5 or self.spacing < 2 or self.most_side < self.least_side or self.min_length < 2:
            raise ConfigError("the tracker needs window >= 5, spacing >= 2, most_side >= least_side and min_length >= 2.")


@dataclass
class _Points:
    """Those that are being followed."""

    position: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    number: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    first_frame: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    first_position: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))

    def take(self, keep: np.ndarray) -> _Points:
        return _Points(self.position[keep], self.number[keep], self.first_frame[keep], self.first_position[keep])

    def plus(self, position: np.ndarray, number: np.ndarray, frame: int) -> _Points:
        return _Points(
            np.concatenate([self.position, position]),
            np.concatenate([self.number, number]),
            np.concatenate([self.first_frame, np.full(len(number), frame)]),
            np.concatenate([self.first_position, position]),
        )


class PointTracker:
    """Give it the frames in order with `add`; `tracks` says what was seen."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self._points = _Points()
        self._last: np.ndarray | None = None
        self._anchors: dict[int, np.ndarray] = {}
        self._seen: list[tuple[np.ndarray, np.ndarray]] = []  # numbers and positions, frame by frame
        self._count = 0
        self._size = (0, 0)
        self._loops = None if self.config.loops is None else LoopFinder(self.config.loops)

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint8 (h, w, 3), all of one size. Raises InputError for another shape."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or self._size not in ((0, 0), frame.shape[:2]):
            raise InputError(f"The tracker takes uint8 frames (h, w, 3) of one size; got {frame.dtype} {frame.shape}.")
        self._size = (frame.shape[0], frame.shape[1])
        image = self._prepare(frame)
        if self._last is not None and len(self._points.number):
            self._points = self._follow(self._points, image)
        frame_number = len(self._seen)
        loops = self._loops if self._loops is not None and self._loops.is_due(frame_number) else None
        if loops is not None:
            found, places = loops.find(frame_number, image, self._points.number, self._points.position)
            self._points = self._points.plus(places, found, frame_number)
        if self._is_sparse(image.shape):
            corners = self._corners(image)
            self._points = self._points.plus(corners, np.arange(self._count, self._count + len(corners)), frame_number)
            self._count += len(corners)
        if loops is not None:
            loops.remember(frame_number, image, self._points.number, self._points.position)
        self._anchors[frame_number] = image
        alive = set(self._points.first_frame.tolist())
        self._anchors = {number: anchor for number, anchor in self._anchors.items() if number in alive}
        self._seen.append((self._points.number, self._points.position))
        self._last = image

    def tracks(self) -> Tracks:
        """All tracks of at least `min_length` frames, in pixels of the source (centres at +0.5)."""
        number = np.concatenate([n for n, _ in self._seen]) if self._seen else np.zeros(0, np.int64)
        frame = np.repeat(np.arange(len(self._seen)), [len(n) for n, _ in self._seen]) if self._seen else number
        position = np.concatenate([p for _, p in self._seen]) if self._seen else np.zeros((0, 2), np.float32)
        length = np.bincount(number, minlength=self._count)
        keep = length[number] >= self.config.min_length
        _, track = np.unique(number[keep], return_inverse=True)
        scale = self._scale()
        return Tracks(
            track.astype(np.int32),
            frame[keep].astype(np.int32),
            ((position[keep] + 0.5) / scale).astype(np.float32),
            self._size,
            len(self._seen),
        )

    def _scale(self) -> np.ndarray:
        """Tracked pixels by source pixels, (x, y)."""
        height, width = self._size
        longer, c = max(height, width, 1), self.config
        factor = min(max(longer, c.least_side), c.most_side) / longer
        return np.array([round(width * factor) / max(width, 1), round(height * factor) / max(height, 1)])

    def _prepare(self, frame: np.ndarray) -> np.ndarray:
        import cv2

        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if self.config.blur > 0:
            grey = cv2.GaussianBlur(grey, (0, 0), self.config.blur)
        sx, sy = self._scale()
        size = (round(frame.shape[1] * sx), round(frame.shape[0] * sy))
        if size == (frame.shape[1], frame.shape[0]):
            return grey
        return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if sx < 1 else cv2.INTER_CUBIC)

    def _flow(
        self, source: np.ndarray, target: np.ndarray, points: np.ndarray, guess: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where (n, 2) points of one image lie in another, and whether they were found."""
        import cv2

        c = self.config
        options = {"winSize": (c.window, c.window), "criteria": (3, 30, 0.01), "minEigThreshold": 1e-5}
        if guess is None:
            found, status, _ = cv2.calcOpticalFlowPyrLK(source, target, points[:, None], None, maxLevel=c.levels, **options)
        else:
            start = guess[:, None].copy()
            flags = cv2.OPTFLOW_USE_INITIAL_FLOW
            found, status, _ = cv2.calcOpticalFlowPyrLK(source, target, points[:, None], start, maxLevel=1, flags=flags, **options)
        return found[:, 0], status[:, 0] == 1

    def _follow(self, points: _Points, image: np.ndarray) -> _Points:
        assert self._last is not None
        ahead, found = self._flow(self._last, image, points.position)
        back, returned = self._flow(image, self._last, ahead)
        height, width = image.shape
        inside = ((ahead > 2) & (ahead < (width - 3, height - 3))).all(axis=1)
        keep = found & returned & inside & (np.linalg.norm(back - points.position, axis=1) < self.config.back_and_forth)
        for frame, anchor in self._anchors.items():
            chosen = np.flatnonzero(keep & (points.first_frame == frame))
            if len(chosen) == 0 or frame > len(self._seen) - 2:
                continue
            better, ok = self._flow(anchor, image, points.first_position[chosen], ahead[chosen])
            ok &= np.linalg.norm(better - ahead[chosen], axis=1) < self.config.anchor_jump * self.config.window
            ahead[chosen[ok]] = better[ok]
        points.position = ahead.astype(np.float32)
        return points.take(keep)

    def _is_sparse(self, shape: tuple[int, ...]) -> bool:
        """Whether too much of the image has no point."""
        if self._last is None:
            return True
        cells = [max(1, side // (2 * self.config.spacing)) for side in shape[:2]]
        index = [
            np.minimum((self._points.position[:, 1 - axis] * cells[axis] / shape[axis]).astype(int), cells[axis] - 1) for axis in (0, 1)
        ]
        occupied = np.unique(index[0] * cells[1] + index[1])
        return 1 - len(occupied) / (cells[0] * cells[1]) > self.config.empty_share

    def _corners(self, image: np.ndarray) -> np.ndarray:
        """New corners, away from the points that are followed already."""
        import cv2

        c = self.config
        free = np.full(image.shape, 255, np.uint8)
        for x, y in self._points.position:
            cv2.circle(free, (int(x), int(y)), c.spacing // 2, 0, -1)
        most = max(1, image.size // c.spacing**2)
        corners = cv2.goodFeaturesToTrack(image, most, c.quality, 0.6 * c.spacing, mask=free, blockSize=5)
        return np.zeros((0, 2), np.float32) if corners is None else corners[:, 0].astype(np.float32)


def track_points(frames: Iterable[np.ndarray], config: TrackerConfig | None = None) -> Tracks:
    """Tracks of a whole video, uint8 frames (h, w, 3)."""
    tracker = PointTracker(config)
    for frame in frames:
        tracker.add(frame)
    return tracker.tracks()
