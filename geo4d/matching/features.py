"""Features of two images that may differ much (SIFT): detected, described, matched, and verified against each other.

Images are (h, w) uint8; positions (n, 2), x and y in pixels, with pixel centres at whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geo4d.errors import ConfigError
from geo4d.geometry.consensus import consensus_fundamental

SIFT_SIZE = 128  # numbers of a descriptor


@dataclass(frozen=True)
class FeatureConfig:
    """How features are found, and when they are believed to show the same thing.

    Pixels are those of the given image.
    """

    max_features: int = 800  # an image: enough where a part of it is seen again; time grows with the square
    max_side: int = 480  # pixels, longer side to which an image is reduced: detecting takes most of the time
    ratio: float = 0.8  # ratio test: distance to the best by that to the second best; the usual value
    min_distance: float = 0.1  # squared, of unit descriptors, to the second best: nearer ones are of a repeated pattern
    max_epipolar: float = 2.0  # pixels from the epipolar line: a few times the error of a feature's position
    confidence: float = 0.999  # that RANSAC has drawn a sample without a wrong match: samples are cheap
    reach: float = 40.0  # pixels (sigma) within which matches share a warp: several of them, of nearly one surface
    stiffness: float = 3.0  # matches, as which the warp of all counts for the linear part of the local one
    max_deviation: float = 6.0  # pixels from where a match's neighbours predict it: for parallax within `reach`
    min_neighbours: float = 1.0  # matches by nearness to a match, without which nobody predicts it
    passes: int = 2  # of that test: wrong neighbours spoil the first
    min_matches: int = 20  # that agree: wrong ones agree by chance by the handful
    min_share: float = 0.4  # of the mutual matches, that must agree: of a place that only looks alike few do
    grid: int = 4  # cells a side, by which the spread of matches is judged
    min_cells: int = 4  # that hold matches: those in one corner show an object, which may have moved

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if not (0 < self.ratio < 1 and 0 < self.confidence < 1 and self.min_distance >= 0):
            raise ConfigError("features need a ratio and a confidence between 0 and 1, and min_distance >= 0.")
        if self.min_matches < 8 or self.max_features < self.min_matches or self.max_side < 32:
            raise ConfigError("features need min_matches >= 8, max_features >= min_matches and max_side >= 32.")
        if not (
            min(self.max_epipolar, self.reach, self.max_deviation, self.stiffness) > 0 and self.min_neighbours >= 0
        ):
            raise ConfigError(
                "features need max_epipolar, reach, max_deviation and stiffness above 0, and min_neighbours >= 0."
            )
        if (
            self.passes < 0
            or not 1 <= self.grid <= 1000
            or not 0 <= self.min_cells <= self.grid**2
            or not 0 <= self.min_share <= 1
        ):
            raise ConfigError(
                "features need passes >= 0, a grid from 1 to 1000, min_cells from 0 to grid^2 and min_share from 0 to "
                "1."
            )


@dataclass(frozen=True)
class Features:
    """Those of one image."""

    position: np.ndarray  # (k, 2) float32
    descriptor: np.ndarray  # (k, 128) uint8


@dataclass(frozen=True)
class Matches:
    """Features of one image (source) in another (target) that agree with each other."""

    source: np.ndarray  # (m, 2)
    target: np.ndarray  # (m, 2)
    fundamental: np.ndarray  # (3, 3): target^T F source = 0

    def epipolar_distance(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Pixels (n,) from target positions (n, 2) to the epipolar lines of the source positions (n, 2)."""
        line = np.column_stack([source, np.ones(len(source))]) @ self.fundamental.T
        off = (line * np.column_stack([target, np.ones(len(target))])).sum(axis=1)
        return np.abs(off) / np.maximum(np.linalg.norm(line[:, :2], axis=1), 1e-12)


def detect(image: np.ndarray, config: FeatureConfig) -> Features:
    """The strongest SIFT features of an image."""
    import cv2

    height, width = image.shape
    factor = min(1.0, config.max_side / max(height, width))
    size = (round(width * factor), round(height * factor))
    small = image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    keypoints, descriptor = cv2.SIFT_create(config.max_features).detectAndCompute(small, None)
    if descriptor is None:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, SIFT_SIZE), np.uint8))
    position = np.array([keypoint.pt for keypoint in keypoints], np.float64) + 0.5
    return Features(
        (position * (width / size[0], height / size[1]) - 0.5).astype(np.float32), descriptor.astype(np.uint8)
    )


def root_sift(descriptor: np.ndarray) -> np.ndarray:
    """Square roots of descriptors (k, 128) that sum to one: their inner product compares them as distributions."""
    values = descriptor.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))


def vocabulary(features: Features, words: int) -> np.ndarray | None:
    """The (words, 128) descriptors around which those of an image gather (k-means); None if fewer are different."""
    from scipy.cluster.vq import kmeans2

    if len(np.unique(features.descriptor, axis=0)) < words:
        return None
    return kmeans2(root_sift(features.descriptor), words, minit="++", seed=np.random.default_rng(0))[0]


def image_descriptor(features: Features, words: np.ndarray) -> np.ndarray:
    """An image as a whole (VLAD): how its features differ from the nearest words; of length one, or zero."""
    total = np.zeros(words.shape, np.float32)
    if len(features.descriptor):
        values = root_sift(features.descriptor)
        nearest = (values @ words.T - 0.5 * (words**2).sum(axis=1)).argmax(axis=1)
        np.add.at(total, nearest, values - words[nearest])
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-6)
    return total.ravel() / max(float(np.linalg.norm(total)), 1e-6)


def match_features(
    source: Features,
    target: Features,
    source_shape: tuple[int, ...],
    target_shape: tuple[int, ...],
    config: FeatureConfig,
) -> Matches | None:
    """Verified matches of two images of these shapes (h, w).

    None if they are too few, disagree, or lie in one corner.
    """
    if min(len(source.position), len(target.position)) < config.min_matches:
        return None
    first, second = _nearest_both_ways(root_sift(source.descriptor), root_sift(target.descriptor), config)
    if len(first) < config.min_matches:
        return None
    source_pixels, target_pixels = source.position[first], target.position[second]
    found = consensus_fundamental(
        source_pixels, target_pixels, threshold=config.max_epipolar, scale=1.0, confidence=config.confidence
    )
    if found is None:
        return None
    fundamental, keep = found
    least = max(config.min_matches, config.min_share * len(keep))
    for _ in range(config.passes):
        if keep.sum() < least:
            return None
        keep[keep] = _coherent(source_pixels[keep], target_pixels[keep], config)
    spread = min(
        _cells(source_pixels[keep], source_shape, config.grid), _cells(target_pixels[keep], target_shape, config.grid)
    )
    if keep.sum() < least or spread < config.min_cells:
        return None
    return Matches(source_pixels[keep], target_pixels[keep], fundamental)


def local_warps(
    position: np.ndarray, source: np.ndarray, target: np.ndarray, config: FeatureConfig, *, without_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Affine maps (n, 2, 3) of offsets from source points (n, 2) to the target, and how many matches are near."""
    away = source[None].astype(np.float64) - position[:, None]
    weight = np.exp(-0.5 * (away**2).sum(axis=2) / config.reach**2)
    if without_self:
        np.fill_diagonal(weight, 0)
    whole = np.linalg.lstsq(np.column_stack([source, np.ones(len(source))]), target.astype(np.float64), rcond=None)[
        0
    ]  # (3, 2)
    x = np.concatenate([away / config.reach, np.ones_like(away[..., :1])], axis=2)
    rest = target - away @ whole[:2]  # what the common linear part leaves
    prior = np.diag([config.stiffness, config.stiffness, 1e-6])  # the last keeps it solvable where no match is near
    system = np.einsum("nm,nmi,nmj->nij", weight, x, x) + prior
    local = np.linalg.solve(system, np.einsum("nm,nmi,nmj->nij", weight, x, rest))  # (n, 3, 2)
    linear = local[:, :2] / config.reach + whole[:2]
    return np.concatenate([linear, local[:, 2:]], axis=1).swapaxes(1, 2), weight.sum(axis=1)


def _nearest_both_ways(first: np.ndarray, second: np.ndarray, config: FeatureConfig) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both that are each other's nearest (mutual test), and far nearer than any second (ratio test, both ways).

    What has a near double in the other image is left out, however exact a match it has: it belongs to a repeated
    pattern.
    """
    square = np.maximum(2 - 2 * first @ second.T, 0)  # all are of length one
    forward, backward = square.argmin(axis=1), square.argmin(axis=0)
    rows = np.arange(len(first))
    best = square[rows, forward]
    second_best = np.minimum(np.partition(square, 1, axis=1)[:, 1], np.partition(square, 1, axis=0)[1][forward])
    keep = (backward[forward] == rows) & (best < config.ratio**2 * second_best) & (second_best > config.min_distance)
    return rows[keep], forward[keep]


def _coherent(source: np.ndarray, target: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Which matches (m,) lie where those around them predict."""
    warp, near = local_warps(source, source, target, config, without_self=True)
    return (np.linalg.norm(warp[:, :, 2] - target, axis=1) < config.max_deviation) & (near > config.min_neighbours)


def _cells(position: np.ndarray, shape: tuple[int, ...], grid: int) -> int:
    """In how many of the grid's cells positions lie."""
    index = np.clip((position * grid / (shape[1], shape[0])).astype(int), 0, grid - 1)
    return len(np.unique(index[:, 0] * grid + index[:, 1]))
