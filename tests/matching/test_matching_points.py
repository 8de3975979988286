"""Points of one image found in another: shifts that are known, ways back, anchors, corners."""

import cv2
import numpy as np
import pytest

from geo4d.matching.points import FlowConfig, find_corners, flow, flow_both_ways, inside, set_anew

CONFIG = FlowConfig(window=15, levels=2)
SHIFT = np.array([2.5, -1.25])


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(0).integers(0, 256, (120, 160), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture(scope="module")
def moved(image):
    return cv2.warpAffine(image, np.float64([[1, 0, SHIFT[0]], [0, 1, SHIFT[1]]]), (160, 120), flags=cv2.INTER_CUBIC)


def grid():
    return (
        np.stack(np.meshgrid(np.arange(30, 130, 20), np.arange(30, 90, 20)), axis=-1).reshape(-1, 2).astype(np.float32)
    )


def test_a_shift_is_found_to_a_fraction_of_a_pixel(image, moved):
    ahead, good = flow_both_ways(image, moved, grid(), CONFIG, 0.25)
    assert good.all()
    np.testing.assert_allclose(ahead - grid(), np.broadcast_to(SHIFT, grid().shape), atol=0.1)


def test_what_is_not_there_has_no_way_back(image, moved):
    other = moved.copy()
    other[:60] = np.random.default_rng(1).integers(0, 256, (60, 160), dtype=np.uint8)
    _, good = flow_both_ways(image, other, grid(), CONFIG, 0.25)
    assert not good[grid()[:, 1] == 30].any() and good[grid()[:, 1] == 70].all()


def test_the_search_begins_at_the_guess(image):
    far = cv2.warpAffine(image, np.float64([[1, 0, 30], [0, 1, 0]]), (160, 120))
    points = grid()[grid()[:, 0] < 100]
    blind, _ = flow(image, far, points, FlowConfig(15, 0))
    told, _ = flow(image, far, points, FlowConfig(15, 0), guess=points + np.float32([29, 1]))
    assert np.abs(told - points - [30, 0]).max() < 0.1 < np.abs(blind - points - [30, 0]).max()


def test_points_are_set_anew_by_small_shifts_alone(image, moved):
    drifted = (grid() + SHIFT + [0.5, 0.5]).astype(np.float32)
    np.testing.assert_allclose(set_anew(image, moved, grid(), drifted, CONFIG, 1.5), grid() + SHIFT, atol=0.1)
    np.testing.assert_array_equal(set_anew(image, moved, grid(), drifted, CONFIG, 0.3), drifted)


def test_the_border_is_the_same_on_all_sides():
    points = np.float32([[2, 5], [3, 5], [7, 5], [6, 5], [5, 2], [5, 3], [5, 17], [5, 16]])
    assert inside(points, (20, 10), 2).tolist() == [False, True, False, True, False, True, False, True]


def test_corners_keep_away_from_each_other_and_from_what_is_taken(image):
    settings = {"most": 50, "quality": 0.01, "min_distance": 9.6, "clearance": 8.0, "block": 5}
    first = find_corners(image, np.zeros((0, 2), np.float32), **settings)
    assert 20 < len(first) <= 50
    distance = np.linalg.norm(first[:, None] - first[None], axis=2) + 100 * np.eye(len(first))
    assert distance.min() >= 9.6
    second = find_corners(image, first, **settings)
    assert len(second) and np.linalg.norm(second[:, None] - first[None], axis=2).min() > 6.5  # whole pixels are masked
    assert find_corners(np.full((60, 80), 90, np.uint8), first, **settings).shape == (0, 2)
