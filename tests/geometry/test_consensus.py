"""Geometry of matches of which a third is wrong: exact ones are found, what has none gives None."""

import numpy as np
import pytest
import torch

from geo4d.geometry.consensus import consensus_camera, consensus_fundamental, consensus_homography, consensus_pose
from geo4d.geometry.epipolar import sampson_distance
from geo4d.geometry.rotation import so3_exp

FOCAL = 0.9
ROTATION = so3_exp(torch.tensor([0.05, -0.12, 0.03], dtype=torch.float64)).numpy()
TRANSLATION = np.array([0.5, 0.1, -0.2]) / np.linalg.norm([0.5, 0.1, -0.2])


def views(*, plane: bool = False, wrong: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, and their pixels in two views by the longer side around the principal point.

    The first `wrong` ones anywhere.
    """
    rng = np.random.default_rng(0)
    points = rng.uniform([-2, -1.5, 3], [2, 1.5, 7], size=(120, 3))
    if plane:
        points[:, 2] = 5 + 0.2 * points[:, 0]
    seen = points @ ROTATION.T + TRANSLATION
    source, target = (FOCAL * p[:, :2] / p[:, 2:] for p in (points, seen))
    target[:wrong] = rng.uniform(-0.5, 0.5, size=(wrong, 2))
    return points, source, target


def test_the_camera_between_two_views() -> None:
    _, source, target = views()
    rotation, translation, agree, ahead = consensus_camera(source, target, FOCAL, threshold=1e-3)
    np.testing.assert_allclose(rotation, ROTATION, atol=1e-4)
    np.testing.assert_allclose(translation, TRANSLATION, atol=1e-3)
    assert agree[40:].all() and ahead[40:].all() and agree[:40].sum() < 8


def test_the_fundamental_matrix_and_how_far_matches_are_from_it() -> None:
    _, source, target = views()
    fundamental, agree = consensus_fundamental(source, target, threshold=1e-3)
    distance = sampson_distance(*(torch.from_numpy(x)[None] for x in (fundamental, source, target)))[0]
    assert agree[40:].all() and float(distance[40:].max()) < 1e-3 and float(distance[:40].median()) > 0.02


def test_a_plane_is_a_homography_and_a_scene_is_not() -> None:
    _, source, target = views(plane=True)
    homography, agree = consensus_homography(source, target, threshold=1e-3)
    mapped = np.column_stack([source, np.ones(len(source))]) @ homography.T
    np.testing.assert_allclose(mapped[40:, :2] / mapped[40:, 2:], target[40:], atol=1e-6)
    assert agree[40:].all()
    assert consensus_homography(*views()[1:], threshold=1e-3)[1].sum() < 40


def test_a_camera_by_known_points() -> None:
    points, _, target = views()
    pose, agree = consensus_pose(points, target / FOCAL, threshold=1e-3)
    np.testing.assert_allclose(pose[:3, :3], ROTATION.T, atol=1e-6)
    np.testing.assert_allclose(pose[:3, 3], -ROTATION.T @ TRANSLATION, atol=1e-5)
    assert agree[40:].all() and agree[:40].sum() < 5


@pytest.mark.parametrize("count", [0, 3, 7])
def test_too_little_gives_nothing(count: int) -> None:
    points, source, target = (x[40 : 40 + count] for x in views())
    assert consensus_camera(source, target, FOCAL, threshold=1e-3) is None
    assert consensus_fundamental(source, target, threshold=1e-3) is None
    assert count > 3 or consensus_homography(source, target, threshold=1e-3) is None
    assert count > 5 or consensus_pose(points, target / FOCAL, threshold=1e-3) is None


def test_matches_without_any_geometry_raise_nothing() -> None:
    same = np.zeros((20, 2))
    for found in (
        consensus_camera(same, same, FOCAL, threshold=1e-3),
        consensus_fundamental(same, same, threshold=1e-3),
    ):
        assert found is None or np.isfinite(found[0]).all()
