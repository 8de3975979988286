"""Features: matched where the same is seen, and refused where it only looks so."""

import warnings

import cv2
import numpy as np
import pytest

from geo4d.errors import ConfigError
from geo4d.matching.features import (
    FeatureConfig,
    Features,
    detect,
    image_descriptor,
    local_warps,
    match_features,
    vocabulary,
)
from geo4d.matching.patches import PatchConfig, relocate

CONFIG = FeatureConfig(kind="sift")
WARP = np.float64([[1.1, -0.15, 12], [0.12, 1.05, -9]])


def texture(seed=0, size=(240, 320)):
    noise = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture(scope="module")
def pair():
    """An image, itself warped, and the verified matches."""
    source = texture()
    target = cv2.warpAffine(source, WARP, (320, 240), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return (
        source,
        target,
        match_features(detect(source, CONFIG), detect(target, CONFIG), source.shape, target.shape, CONFIG),
    )


def warped(points):
    return points @ WARP[:, :2].T + WARP[:, 2]


def test_matches_obey_the_warp(pair):
    _, _, matches = pair
    assert len(matches.source) > 50
    assert np.quantile(np.linalg.norm(warped(matches.source) - matches.target, axis=1), 0.95) < 1.0
    assert np.quantile(matches.epipolar_distance(matches.source, matches.target), 0.95) < CONFIG.max_epipolar


def test_points_are_predicted_and_set_by_their_pixels(pair):
    source, target, matches = pair
    points = (
        np.stack(np.meshgrid(np.arange(80, 240, 20), np.arange(80, 180, 20)), axis=-1).reshape(-1, 2).astype(np.float32)
    )
    warp, support = local_warps(points, matches.source, matches.target, CONFIG)
    assert support.min() > 2.5
    np.testing.assert_allclose(warp[:, :, :2], np.broadcast_to(WARP[:, :2], (len(points), 2, 2)), atol=0.1)
    found, places = relocate(source, target, points, warp, PatchConfig())
    assert found.mean() > 0.9
    assert np.quantile(np.linalg.norm(places - warped(points), axis=1)[found], 0.95) < 0.2
    off = warp.copy()
    off[:, :, 2] += 30
    assert relocate(source, target, points, off, PatchConfig())[0].mean() < 0.1
    outside = warp.copy()
    outside[:, :, 2] = -5
    assert not relocate(source, target, points, outside, PatchConfig())[0].any()


@pytest.mark.parametrize("other", [texture(seed=5), np.full((240, 320), 90, np.uint8)], ids=["another", "empty"])
def test_other_images_do_not_match(pair, other):
    source = pair[0]
    assert match_features(detect(source, CONFIG), detect(other, CONFIG), source.shape, other.shape, CONFIG) is None


def test_matches_in_one_corner_show_an_object_and_not_the_place():
    """A picture that hangs in another room."""
    first, second = texture(1), texture(2)
    second[:100, :140] = first[:100, :140]
    one, other = detect(first, CONFIG), detect(second, CONFIG)
    assert match_features(one, other, first.shape, second.shape, FeatureConfig(min_cells=9)) is None
    assert match_features(one, other, first.shape, second.shape, FeatureConfig(min_cells=1)) is not None


def test_whole_images_are_most_like_themselves():
    images = [detect(texture(seed), CONFIG) for seed in range(4)]
    words = vocabulary(images[0], 16)
    vectors = np.stack([image_descriptor(features, words) for features in images])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors @ vectors.T).argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert not image_descriptor(detect(np.zeros((60, 80), np.uint8), CONFIG), words).any()


def test_a_pattern_that_repeats_gives_no_vocabulary_and_no_warning():
    """k-means wants as many different descriptors as words."""
    descriptor = np.random.default_rng(0).integers(0, 255, (3, 128), dtype=np.uint8).repeat(30, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert vocabulary(Features(np.zeros((90, 2), np.float32), descriptor), 16) is None


@pytest.mark.parametrize(
    "settings",
    [{"ratio": 1.0}, {"min_matches": 3}, {"reach": 0.0}, {"min_cells": 17}, {"max_side": 8}, {"confidence": 1.0}],
)
def test_feature_settings_that_cannot_work(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        FeatureConfig(**settings)


@pytest.mark.parametrize(
    "settings", [{"window": 3}, {"levels": -1}, {"border": -1}, {"max_cycle_error": 0.0}, {"max_correction": 0.0}]
)
def test_patch_settings_that_cannot_work(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PatchConfig(**settings)
