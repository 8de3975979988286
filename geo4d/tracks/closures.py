"""Loop closures: points that were lost and come into view again are found, so that their tracks go on after a gap.

A keyframe is compared with the few earlier ones that look most like it, so the work grows with the length of the video
and no faster. Where verified features say how the one image is warped into the other, the warp predicts where the
tracks' own points are now, and each is set there by its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geo4d.matching.features import Features, Matches, detect, image_descriptor, local_warps, match_features, vocabulary
from geo4d.matching.patches import relocate
from geo4d.tracks.config import FindConfig, LoopClosureConfig


@dataclass(frozen=True)
class Keyframe:
    """What is kept of one: the image, the points followed in it, and its features."""

    frame: int
    image: np.ndarray  # (h, w) uint8
    number: np.ndarray  # (n,) of the tracks
    position: np.ndarray  # (n, 2) float32, x and y, pixel centres at whole numbers
    features: Features


class LoopClosures:
    """Keeps the keyframes; `find` looks for lost points in a frame, `remember` makes it the next keyframe."""

    def __init__(self, config: LoopClosureConfig) -> None:
        self.config = config
        self._keyframes: list[Keyframe] = []
        self._descriptors: list[
            np.ndarray | None
        ] = []  # of the keyframes as wholes; None: before there was a vocabulary
        self._words: np.ndarray | None = None
        self._features: Features | None = None  # of the frame last given to `find`
        self._found: set[int] = set()

    def is_keyframe(self, frame: int) -> bool:
        """Whether the frame of this number is one."""
        return frame % self.config.interval == 0

    def find(
        self, frame: int, image: np.ndarray, number: np.ndarray, position: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (k,) and positions (k, 2) of tracks that are not followed any more but are seen in this image.

        `image` is (h, w) uint8; `number` (n,) and `position` (n, 2) are those being followed. No track is found twice,
        none that is followed, and none close to another that was found.
        """
        self._features = detect(image, self.config.again.features)
        alive = set(number.tolist())
        taken = position[[n in self._found for n in number.tolist()]]
        numbers, positions = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.float32)]
        for keyframe in self._candidates(frame, self._features, alive):
            matches = match_features(
                keyframe.features, self._features, keyframe.image.shape, image.shape, self.config.again.features
            )
            if matches is None:
                continue
            which, places = self._relocate(keyframe, image, matches, alive)
            free = _away_from(places, taken, self.config.min_distance)
            which, places = which[free], places[free]
            alive.update(which.tolist())
            taken = np.concatenate([taken, places])
            numbers.append(which)
            positions.append(places)
        self._found.update(np.concatenate(numbers).tolist())
        return np.concatenate(numbers), np.concatenate(positions)

    def remember(self, frame: int, image: np.ndarray, number: np.ndarray, position: np.ndarray) -> None:
        """Keeps the frame that was last given to `find`, with all points that are followed in it now."""
        assert self._features is not None
        if self._words is None:
            self._words = vocabulary(self._features, self.config.words)
        self._keyframes.append(Keyframe(frame, image, number, position, self._features))
        self._descriptors.append(None if self._words is None else image_descriptor(self._features, self._words))

    def _candidates(self, frame: int, features: Features, alive: set[int]) -> list[Keyframe]:
        """The distant keyframes that look most like these features, none within `min_gap` of another."""
        old = [i for i, keyframe in enumerate(self._keyframes) if frame - keyframe.frame >= self.config.min_gap]
        if not old or self._words is None:
            return []
        current = image_descriptor(features, self._words)
        unknown = np.zeros_like(current)
        likeness = np.stack([unknown if self._descriptors[i] is None else self._descriptors[i] for i in old]) @ current
        chosen: list[Keyframe] = []
        for i in np.argsort(-likeness, kind="stable"):
            keyframe = self._keyframes[old[i]]
            if any(abs(keyframe.frame - other.frame) < self.config.min_gap for other in chosen):
                continue
            shared = sum(n in alive for n in keyframe.number.tolist())
            if shared <= self.config.max_shared * len(keyframe.number):
                chosen.append(keyframe)
            if len(chosen) == self.config.candidates:
                break
        return chosen

    def _relocate(
        self, keyframe: Keyframe, image: np.ndarray, matches: Matches, alive: set[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (k,) and positions (k, 2) in the image, of a keyframe's points that are not followed any more."""
        lost = np.array([n not in alive for n in keyframe.number.tolist()], bool)
        number, position = keyframe.number[lost], keyframe.position[lost]
        found, places = find_again(keyframe.image, image, position, matches, self.config.again)
        return number[found], places[found]


def find_again(
    source: np.ndarray, target: np.ndarray, position: np.ndarray, matches: Matches, config: FindConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Which (n,) points (n, 2) of one image are seen in another, and where (n, 2).

    By the warp of verified matches around them.
    """
    warp, support = local_warps(position, matches.source, matches.target, config.features)
    supported = np.flatnonzero(support > config.min_support)
    found, places = np.zeros(len(position), bool), position.astype(np.float32)
    seen, places[supported] = relocate(source, target, position[supported], warp[supported], config.patches)
    seen &= matches.epipolar_distance(position[supported], places[supported]) < config.features.max_epipolar
    found[supported] = seen
    return found, places


def _away_from(positions: np.ndarray, taken: np.ndarray, least: float) -> np.ndarray:
    """Which (n,) of the positions (n, 2) are at least so far from all that are taken (m, 2)."""
    if len(taken) == 0 or len(positions) == 0:
        return np.ones(len(positions), bool)
    return np.linalg.norm(positions[:, None] - taken[None], axis=2).min(axis=1) >= least
