"""Points that were lost and come into view again: found in distant keyframes, so that their tracks go on after a gap.

A keyframe is compared with the few earlier ones that look most like it, so the work grows with the length of the video and no
faster. Features (SIFT) must match one to one and clearly better than any second, obey one epipolar geometry, move as their
neighbours do, and lie in many parts of both images. What they say of how the one image is warped into the other then predicts
where the tracks' own points are now, and each is set there by its pixels (Lucas-Kanade on patches that are warped alike).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geo4d.errors import ConfigError

WORDS = 16  # of the vocabulary by which keyframes are compared
ENOUGH = 4 * WORDS  # features from which a vocabulary can be made
GRID = 4  # cells by which the spread of matches is judged
TILE = 40  # pixels a point in the pictures of patches
REACH = 40.0  # pixels within which matches share a warp
STIFFNESS = 3.0  # matches by which the common warp of all outweighs the local one's linear part
DOUBLE = 0.1  # squared distance of rooted descriptors, below which two features look the same
LEAST_NEAR = 2.5  # matches around a point, by their nearness, without which nothing is predicted


@dataclass(frozen=True)
class LoopConfig:
    """Lengths in pixels of the frame that is tracked."""

    spacing: int = 8  # frames between keyframes
    gap: int = 16  # least frames between two that are compared
    candidates: int = 3  # earlier keyframes that each is compared with
    features: int = 800
    side: int = 480  # longer side of the image in which features are sought
    ratio: float = 0.8  # of the distances to the best and the second best feature
    epipolar: float = 2.0
    coherent: float = 6.0  # how far a match may be from where its neighbours predict it
    least_matches: int = 20
    least_share: float = 0.4  # of the one-to-one matches, that must agree
    least_cells: int = 4  # of 4 x 4, in which they must lie
    most_shared: float = 0.5  # of a keyframe's points still being followed, from which there is nothing to find
    back_and_forth: float = 0.3  # largest distance after setting a point there and back
    correction: float = 4.0  # of the prediction by the pixels
    likeness: float = 0.8  # correlation of the patches

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.spacing < 1 or self.gap < self.spacing or self.candidates < 1 or self.least_matches < 8 or not 0 < self.ratio < 1:
            raise ConfigError("loops need spacing >= 1, gap >= spacing, candidates >= 1, least_matches >= 8 and a ratio within 0 and 1.")


@dataclass(frozen=True)
class Keyframe:
    """What is kept of one: the image, the points followed in it, and its features."""

    frame: int
    image: np.ndarray  # (h, w) uint8
    number: np.ndarray  # (n,) of the tracks
    position: np.ndarray  # (n, 2) float32, x and y, pixel centres at whole numbers
    place: np.ndarray  # (k, 2) float32, of the features
    descriptor: np.ndarray  # (k, 128) uint8


@dataclass(frozen=True)
class Matches:
    """Features of an earlier image (source) in a later one (target) that agree with each other."""

    source: np.ndarray  # (m, 2)
    target: np.ndarray  # (m, 2)
    fundamental: np.ndarray  # (3, 3): target^T F source = 0


class LoopFinder:
    """Keeps the keyframes; `find` looks for lost points in a frame, `remember` makes it the next keyframe."""

    def __init__(self, config: LoopConfig | None = None) -> None:
        self.config = config or LoopConfig()
        self._keyframes: list[Keyframe] = []
        self._looks: list[np.ndarray] = []
        self._words: np.ndarray | None = None
        self._features: tuple[np.ndarray, np.ndarray] = (np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8))
        self._found: set[int] = set()

    def is_due(self, frame: int) -> bool:
        """Whether this frame is a keyframe."""
        return frame % self.config.spacing == 0

    def find(self, frame: int, image: np.ndarray, number: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and positions of tracks that are not followed any more but are seen in this image (uint8, one channel).

        `number` and `position` are those being followed. No track is found twice, none that is followed, and none close
        to another that was found.
        """
        self._features = _features(image, self.config)
        alive = set(number.tolist())
        taken = position[[n in self._found for n in number.tolist()]]
        numbers, positions = [], []
        for keyframe in self._candidates(frame, alive):
            matches = match_features(keyframe, *self._features, image.shape, self.config)
            if matches is None:
                continue
            lost = np.array([n not in alive for n in keyframe.number.tolist()], bool)
            found, places = relocate(keyframe.image, image, keyframe.position[lost], matches, self.config)
            which, places = keyframe.number[lost][found], places[found]
            free = _apart(places, taken, self.config.coherent)
            which, places = which[free], places[free]
            alive.update(which.tolist())
            taken = np.concatenate([taken, places])
            numbers.append(which)
            positions.append(places)
        if not numbers:
            return np.zeros(0, np.int64), np.zeros((0, 2), np.float32)
        self._found.update(np.concatenate(numbers).tolist())
        return np.concatenate(numbers), np.concatenate(positions).astype(np.float32)

    def remember(self, frame: int, image: np.ndarray, number: np.ndarray, position: np.ndarray) -> None:
        """Keeps the frame that was last given to `find`, with all points that are followed in it now."""
        place, descriptor = self._features
        if self._words is None and len(descriptor) >= ENOUGH:
            from scipy.cluster.vq import kmeans2

            self._words = kmeans2(_rooted(descriptor), WORDS, minit="++", seed=np.random.default_rng(0))[0]
        self._keyframes.append(Keyframe(frame, image, number, position, place, descriptor))
        self._looks.append(_look(descriptor, self._words))

    def _candidates(self, frame: int, alive: set[int]) -> list[Keyframe]:
        """The distant keyframes that look most like the current features, none within `gap` of another."""
        old = [i for i, keyframe in enumerate(self._keyframes) if frame - keyframe.frame >= self.config.gap]
        if not old or self._words is None:
            return []
        likeness = np.stack([self._looks[i] for i in old]) @ _look(self._features[1], self._words)
        chosen: list[Keyframe] = []
        for i in np.argsort(-likeness, kind="stable"):
            keyframe = self._keyframes[old[i]]
            if any(abs(keyframe.frame - other.frame) < self.config.gap for other in chosen):
                continue
            shared = sum(n in alive for n in keyframe.number.tolist())
            if shared <= self.config.most_shared * len(keyframe.number):
                chosen.append(keyframe)
            if len(chosen) == self.config.candidates:
                break
        return chosen


def match_features(
    keyframe: Keyframe, place: np.ndarray, descriptor: np.ndarray, shape: tuple[int, ...], config: LoopConfig
) -> Matches | None:
    """Features of a keyframe in an image of this shape, or None if they are too few, disagree, or lie in one corner."""
    import cv2

    if min(len(place), len(keyframe.place)) < config.least_matches:
        return None
    first, second = _one_to_one(_rooted(keyframe.descriptor), _rooted(descriptor), config.ratio)
    if len(first) < config.least_matches:
        return None
    source, target = keyframe.place[first], place[second]
    try:
        fundamental, inlier = cv2.findFundamentalMat(source, target, cv2.USAC_MAGSAC, config.epipolar, 0.999, 2000)
    except cv2.error:  # raised where no sample of the matches has a geometry at all
        return None
    if fundamental is None or fundamental.shape != (3, 3):
        return None
    keep = inlier[:, 0] == 1
    for _ in range(2):
        keep[keep] = _coherent(source[keep], target[keep], config.coherent)
    spread = min(_cells(source[keep], keyframe.image.shape), _cells(target[keep], shape))
    if keep.sum() < max(config.least_matches, config.least_share * len(keep)) or spread < config.least_cells:
        return None
    return Matches(source[keep], target[keep], fundamental)


def relocate(
    source: np.ndarray, target: np.ndarray, position: np.ndarray, matches: Matches, config: LoopConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Which (n,) of the points (n, 2) of one image are seen in another, and where (n, 2)."""
    import cv2

    warp, near = _warps(position, matches.source, matches.target)
    guess = warp[:, :, 2]
    height, width = target.shape
    keep = (near > LEAST_NEAR) & ((guess > 4) & (guess < (width - 5, height - 5))).all(axis=1)
    index = np.flatnonzero(keep)
    places = guess.astype(np.float32)
    if len(index) == 0:
        return keep, places
    # both pictures in the axes of the target, so that patches look alike
    seen = _patches(target, guess[index], np.broadcast_to(np.eye(2), (len(index), 2, 2)))
    known = _patches(source, position[index], np.linalg.inv(warp[index, :, :2]))
    middle = _middles(len(index))
    options = {"winSize": (15, 15), "maxLevel": 1, "criteria": (3, 30, 0.01), "minEigThreshold": 1e-4}
    ahead, found, _ = cv2.calcOpticalFlowPyrLK(known, seen, middle[:, None], None, **options)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(seen, known, ahead, None, **options)
    moved = ahead[:, 0] - middle
    places[index] = guess[index] + moved
    good = (found[:, 0] == 1) & (returned[:, 0] == 1)
    good &= np.linalg.norm(back[:, 0] - middle, axis=1) < config.back_and_forth
    good &= np.linalg.norm(moved, axis=1) < config.correction
    good &= _epipolar(position[index], places[index], matches.fundamental) < config.epipolar
    good[good] = _likeness(known, seen, middle[good], ahead[good, 0]) > config.likeness
    keep[index] = good
    return keep, places


def _features(image: np.ndarray, config: LoopConfig) -> tuple[np.ndarray, np.ndarray]:
    """Places (k, 2) in the image and descriptors (k, 128) of its strongest features."""
    import cv2

    height, width = image.shape
    factor = min(1.0, config.side / max(height, width))
    size = (round(width * factor), round(height * factor))
    small = image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    keypoints, descriptor = cv2.SIFT_create(config.features).detectAndCompute(small, None)
    if descriptor is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)
    place = np.array([keypoint.pt for keypoint in keypoints], np.float64) + 0.5
    return (place * (width / size[0], height / size[1]) - 0.5).astype(np.float32), descriptor.astype(np.uint8)


def _rooted(descriptor: np.ndarray) -> np.ndarray:
    """Square roots of descriptors that sum to one: their inner product compares them as distributions."""
    values = descriptor.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))


def _look(descriptor: np.ndarray, words: np.ndarray | None) -> np.ndarray:
    """What an image looks like as a whole: how its features differ from the words they are nearest to, of length one."""
    total = np.zeros((WORDS, 128), np.float32)
    if words is not None and len(descriptor):
        values = _rooted(descriptor)
        nearest = (values @ words.T - 0.5 * (words**2).sum(axis=1)).argmax(axis=1)
        np.add.at(total, nearest, values - words[nearest])
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-6)
    return total.ravel() / max(float(np.linalg.norm(total)), 1e-6)


def _one_to_one(first: np.ndarray, second: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both that are each other's nearest, and far nearer than the second nearest from either side.

    What has a near double in the other image is left out, however exact a match it has: it belongs to a pattern that repeats.
    """
    square = np.maximum(2 - 2 * first @ second.T, 0)  # all are of length one
    forward, backward = square.argmin(axis=1), square.argmin(axis=0)
    rows = np.arange(len(first))
    best = square[rows, forward]
    second_best = np.minimum(np.partition(square, 1, axis=1)[:, 1], np.partition(square, 1, axis=0)[1][forward])
    keep = (backward[forward] == rows) & (best < ratio**2 * second_best) & (second_best > DOUBLE)
    return rows[keep], forward[keep]


def _warps(position: np.ndarray, source: np.ndarray, target: np.ndarray, *, without_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Around each point (n, 2) the affine map (n, 2, 3) that takes offsets from it to places, and how many matches are near."""
    away = source[None].astype(np.float64) - position[:, None]
    weight = np.exp(-0.5 * (away**2).sum(axis=2) / REACH**2)
    if without_self:
        np.fill_diagonal(weight, 0)
    whole = np.linalg.lstsq(np.column_stack([source, np.ones(len(source))]), target.astype(np.float64), rcond=None)[0]  # (3, 2)
    x = np.concatenate([away / REACH, np.ones_like(away[..., :1])], axis=2)
    rest = target - away @ whole[:2]  # what the common linear part leaves
    system = np.einsum("nm,nmi,nmj->nij", weight, x, x) + np.diag([STIFFNESS, STIFFNESS, 1e-6])
    local = np.linalg.solve(system, np.einsum("nm,nmi,nmj->nij", weight, x, rest))  # (n, 3, 2)
    linear = local[:, :2] / REACH + whole[:2]
    return np.concatenate([linear, local[:, 2:]], axis=1).swapaxes(1, 2), weight.sum(axis=1)


def _coherent(source: np.ndarray, target: np.ndarray, limit: float) -> np.ndarray:
    """Which matches lie where those around them predict."""
    if len(source) < 4:
        return np.zeros(len(source), bool)
    warp, near = _warps(source, source, target, without_self=True)
    return (np.linalg.norm(warp[:, :, 2] - target, axis=1) < limit) & (near > 1)


def _cells(place: np.ndarray, shape: tuple[int, ...]) -> int:
    """In how many of the cells of an image places lie."""
    index = np.clip((place * GRID / (shape[1], shape[0])).astype(int), 0, GRID - 1)
    return len(np.unique(index[:, 0] * GRID + index[:, 1]))


def _tiles(count: int) -> tuple[int, int]:
    """Columns and rows of a picture of so many patches."""
    columns = max(1, int(np.ceil(np.sqrt(count))))
    return columns, -(-count // columns)


def _middles(count: int) -> np.ndarray:
    """(n, 2) float32 centres of the patches in their picture."""
    index = np.arange(count)
    columns = _tiles(count)[0]
    return (np.stack([index % columns, index // columns], axis=1) * TILE + TILE // 2).astype(np.float32)


def _patches(image: np.ndarray, centre: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """A picture of patches around (n, 2) places; an offset d from a patch's centre shows the image at centre + linear d."""
    import cv2

    columns, rows = _tiles(len(centre))
    grid = np.stack(np.meshgrid(*[np.arange(TILE) - TILE // 2] * 2), axis=-1).reshape(-1, 2)
    where = np.full((columns * rows, TILE * TILE, 2), -1.0)
    where[: len(centre)] = centre[:, None] + grid @ linear.swapaxes(1, 2)
    maps = where.reshape(rows, columns, TILE, TILE, 2).swapaxes(1, 2).reshape(rows * TILE, columns * TILE, 2).astype(np.float32)
    return cv2.remap(image, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _epipolar(source: np.ndarray, target: np.ndarray, fundamental: np.ndarray) -> np.ndarray:
    """Distances of the target places from the epipolar lines of the source places."""
    line = np.column_stack([source, np.ones(len(source))]) @ fundamental.T
    off = (line * np.column_stack([target, np.ones(len(target))])).sum(axis=1)
    return np.abs(off) / np.maximum(np.linalg.norm(line[:, :2], axis=1), 1e-12)


def _likeness(first: np.ndarray, second: np.ndarray, at_first: np.ndarray, at_second: np.ndarray) -> np.ndarray:
    """Correlation of the 15 x 15 pixels around places of two pictures."""
    import cv2

    grid = np.stack(np.meshgrid(*[np.arange(15) - 7] * 2), axis=-1).reshape(1, -1, 2)
    values = []
    for image, at in ((first, at_first), (second, at_second)):
        if len(at) == 0:
            return np.zeros(0)
        patch = cv2.remap(image, (at[:, None] + grid).astype(np.float32), None, cv2.INTER_LINEAR).astype(np.float64)
        patch -= patch.mean(axis=1, keepdims=True)
        values.append(patch / np.maximum(np.linalg.norm(patch, axis=1, keepdims=True), 1e-6))
    return (values[0] * values[1]).sum(axis=1)


def _apart(places: np.ndarray, taken: np.ndarray, least: float) -> np.ndarray:
    """Which of the places are at least so far from those that are taken."""
    if len(taken) == 0 or len(places) == 0:
        return np.ones(len(places), bool)
    return np.linalg.norm(places[:, None] - taken[None], axis=2).min(axis=1) >= least
