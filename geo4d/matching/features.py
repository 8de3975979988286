"""Features of two images that may differ much: detected, described, matched, and verified against each other.

By XFeat (a small network) where its weights are there, else by SIFT.

Images are (h, w) uint8; positions (n, 2), x and y in pixels, with pixel centres at whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from geo4d.errors import ConfigError
from geo4d.geometry.consensus import consensus_fundamental
from geo4d.matching import xfeat

SIFT_SIZE = 128  # numbers of a descriptor
KINDS = ("auto", "xfeat", "sift")


@dataclass(frozen=True)
class FeatureConfig:
    """How features are found, and when they are believed to show the same thing.

    Pixels are those of the given image.
    """

    max_features: int = 800  # an image: enough where a part of it is seen again; time grows with the square
    max_side: int = 480  # pixels, longer side to which an image is reduced: detecting takes most of the time
    ratio: float = 0.8  # ratio test of SIFT: distance to the best by that to the second best; the usual value
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
    kind: Literal["auto", "xfeat", "sift"] = "auto"  # auto: XFeat, or SIFT where XFeat's weights are not installed
    min_cosine: float = 0.82  # of the angle between XFeat's descriptors of a match: the published value
    xfeat_ratio: float = 0.95  # its ratio test: its second best are nearer than SIFT's; less loses wide pairs

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.kind not in KINDS:
            raise ConfigError(f"features need a kind out of {', '.join(KINDS)}; got {self.kind!r}.")
        if not (0 < self.ratio < 1 and 0 < self.confidence < 1 and self.min_distance >= 0):
            raise ConfigError("features need a ratio and a confidence between 0 and 1, and min_distance >= 0.")
        if not (0 < self.xfeat_ratio <= 1 and -1 <= self.min_cosine < 1):
            raise ConfigError("features need xfeat_ratio above 0 and up to 1, and min_cosine from -1 to below 1.")
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
    descriptor: np.ndarray  # (k, 128) uint8 of SIFT; (k, 64) float16 of length one of XFeat

    @property
    def is_sift(self) -> bool:
        """Whether they are SIFT's; else they are XFeat's."""
        return self.descriptor.dtype == np.uint8


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


def uses_xfeat(config: FeatureConfig) -> bool:
    """Whether features are XFeat's; of "auto", whether its weights are installed."""
    return config.kind == "xfeat" or (config.kind == "auto" and xfeat.WEIGHTS.is_file())


def detect(image: np.ndarray, config: FeatureConfig) -> Features:
    """The strongest features of an image. Raises CheckpointError if XFeat's weights cannot be read."""
    import cv2

    height, width = image.shape
    factor = min(1.0, config.max_side / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    by_xfeat = uses_xfeat(config)
    position, descriptor = (xfeat.detect_xfeat if by_xfeat else _detect_sift)(small, config.max_features)
    return Features(((position + 0.5) * (width / size[0], height / size[1]) - 0.5).astype(np.float32), descriptor)


def _detect_sift(image: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 2) float64 and descriptors (n, 128) uint8."""
    import cv2

    keypoints, descriptor = cv2.SIFT_create(most).detectAndCompute(image, None)
    if descriptor is None:
        return np.zeros((0, 2)), np.zeros((0, SIFT_SIZE), np.uint8)
    return np.array([keypoint.pt for keypoint in keypoints], np.float64), descriptor.astype(np.uint8)


def unit_descriptors(features: Features) -> np.ndarray:
    """Descriptors (k, c) float32 of length one, whose inner products say how alike they are.

    Of SIFT, square roots of histograms that sum to one, which compares them as distributions.
    """
    values = features.descriptor.astype(np.float32)
    if not features.is_sift:
        return values
    return np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))


def vocabulary(features: Features, words: int) -> np.ndarray | None:
    """The (words, c) descriptors around which those of an image gather (k-means); None if fewer are different."""
    from scipy.cluster.vq import kmeans2

    if len(np.unique(features.descriptor, axis=0)) < words:
        return None
    return kmeans2(unit_descriptors(features), words, minit="++", seed=np.random.default_rng(0))[0]


def image_descriptor(features: Features, words: np.ndarray) -> np.ndarray:
    """An image as a whole (VLAD): how its features differ from the nearest words; of length one, or zero."""
    total = np.zeros(words.shape, np.float32)
    if len(features.descriptor):
        values = unit_descriptors(features)
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
    first, second = _nearest_both_ways(source, target, config)
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
    weighted = (weight[..., None] * x).swapaxes(1, 2)
    local = np.linalg.solve(weighted @ x + prior, weighted @ rest)  # (n, 3, 2)
    linear = local[:, :2] / config.reach + whole[:2]
    return np.concatenate([linear, local[:, 2:]], axis=1).swapaxes(1, 2), weight.sum(axis=1)


def _nearest_both_ways(source: Features, target: Features, config: FeatureConfig) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both that are each other's nearest (mutual test), and nearer than any second (ratio test, both ways).

    What has a near double in the other image is left out, however exact a match it has: it belongs to a repeated
    pattern.
    """
    ratio, farthest = (config.ratio, np.inf) if source.is_sift else (config.xfeat_ratio, 2 - 2 * config.min_cosine)
    square = np.maximum(2 - 2 * unit_descriptors(source) @ unit_descriptors(target).T, 0)  # all are of length one
    forward, backward = square.argmin(axis=1), square.argmin(axis=0)
    rows = np.arange(len(square))
    best = square[rows, forward]
    second_best = np.minimum(np.partition(square, 1, axis=1)[:, 1], np.partition(square, 1, axis=0)[1][forward])
    keep = (backward[forward] == rows) & (best < farthest)
    keep &= (best < ratio**2 * second_best) & (second_best > config.min_distance)
    return rows[keep], forward[keep]


def _coherent(source: np.ndarray, target: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Which matches (m,) lie where those around them predict."""
    warp, near = local_warps(source, source, target, config, without_self=True)
    return (np.linalg.norm(warp[:, :, 2] - target, axis=1) < config.max_deviation) & (near > config.min_neighbours)


def _cells(position: np.ndarray, shape: tuple[int, ...], grid: int) -> int:
    """In how many of the grid's cells positions lie."""
    index = np.clip((position * grid / (shape[1], shape[0])).astype(int), 0, grid - 1)
    return len(np.unique(index[:, 0] * grid + index[:, 1]))
