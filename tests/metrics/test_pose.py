"""Trajectories: evo as the oracle, known similarities and noise, pairs of cameras, and what cannot be scored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from trajectories import moved, noisy, path

from geo4d.errors import InputError
from geo4d.metrics import (
    absolute_trajectory_error,
    align_trajectory,
    pose_auc,
    pose_metrics,
    relative_pose_angles,
    relative_pose_errors,
)

PERFECT = {"auc_5": 1.0, "auc_30": 1.0}
ZERO = ("ate_sim3", "ate_scale", "rpe_translation", "rpe_rotation_deg", "rotation_deg", "direction_deg")


@pytest.mark.parametrize(("num", "seed"), [(3, 0), (12, 1), (12, 2), (90, 3)])
def test_equal_to_evo(num, seed):
    pytest.importorskip("evo")
    from evo.core import metrics, trajectory

    true = path(num, seed)
    predicted = moved(noisy(true, seed=seed), scale=0.3, turn=(0.4, -2.0, 1.0), shift=(5, -1, 2))
    made = [
        trajectory.PoseTrajectory3D(poses_se3=list(cameras), timestamps=np.arange(float(num)))
        for cameras in (true, predicted)
    ]
    for alignment in ("none", "first", "se3", "sim3"):
        reference, estimate = (
            trajectory.PoseTrajectory3D(poses_se3=list(t.poses_se3), timestamps=t.timestamps) for t in made
        )
        if alignment == "first":
            estimate.align_origin(reference)
        elif alignment != "none":
            estimate.align(reference, correct_scale=alignment == "sim3")
        np.testing.assert_allclose(align_trajectory(predicted, true, alignment), estimate.poses_se3, atol=1e-9)
        oracle = metrics.APE(metrics.PoseRelation.translation_part)
        oracle.process_data((reference, estimate))
        ours = absolute_trajectory_error(predicted, true, alignment=alignment)
        assert ours == pytest.approx(oracle.get_statistic(metrics.StatisticsType.rmse), abs=1e-9)
        for delta, all_pairs in ((1, True), (2, True), (2, False)):
            translation, rotation = relative_pose_errors(
                predicted, true, alignment=alignment, delta=delta, all_pairs=all_pairs
            )
            for relation, errors in (
                (metrics.PoseRelation.translation_part, translation),
                (metrics.PoseRelation.rotation_angle_deg, rotation),
            ):
                oracle = metrics.RPE(relation, delta=delta, delta_unit=metrics.Unit.frames, all_pairs=all_pairs)
                oracle.process_data((reference, estimate))
                np.testing.assert_allclose(errors, oracle.error, atol=1e-9)
                rmse = oracle.get_statistic(metrics.StatisticsType.rmse)
                assert np.sqrt((errors**2).mean()) == pytest.approx(rmse, abs=1e-9)
    result = pose_metrics(predicted, true)
    assert result.ate_sim3 == absolute_trajectory_error(predicted, true)
    translation, rotation = relative_pose_errors(predicted, true)
    assert (result.rpe_translation, result.rpe_rotation_deg) == tuple(
        float(np.sqrt((e**2).mean())) for e in (translation, rotation)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.tuples(*[st.floats(-3, 3)] * 6))
def test_a_similarity_of_the_prediction_changes_nothing(seed, scale, numbers):
    true = path(8, seed)
    predicted = noisy(true, seed=seed)
    other = moved(predicted, scale=scale, turn=numbers[:3], shift=numbers[3:])
    one, two = pose_metrics(predicted, true), pose_metrics(other, true)
    for name in vars(one):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=1e-6, abs=1e-6)
    exact = pose_metrics(moved(true, scale=scale, turn=numbers[:3], shift=numbers[3:]), true)
    assert all(getattr(exact, name) == pytest.approx(0, abs=1e-5) for name in ZERO)
    assert exact.auc_5 == pytest.approx(1, abs=1e-6) and exact.auc_30 == pytest.approx(1, abs=1e-6)


def test_known_errors():
    true = path(30)
    assert absolute_trajectory_error(moved(true, shift=(3, 4, 0)), true, alignment="none") == pytest.approx(5)
    first = true[:, :3, 3] - true[0, :3, 3]
    static = pose_metrics(np.tile(true[4], (30, 1, 1)), true)
    assert static.ate_scale == static.ate_static == pytest.approx(np.sqrt((first**2).sum(1).mean()))
    assert static.ate_sim3 == pytest.approx(np.sqrt(((first - first.mean(0)) ** 2).sum(1).mean()))
    assert static.direction_deg == 90
    double = moved(true, scale=2)
    assert absolute_trajectory_error(double, true, alignment="scale") == pytest.approx(0, abs=1e-9)
    assert absolute_trajectory_error(double, true, alignment="first") == pytest.approx(static.ate_static)
    steps, angles = relative_pose_errors(double, true, alignment="none")
    np.testing.assert_allclose(steps, np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1))
    np.testing.assert_allclose(angles, 0, atol=1e-6)
    turned = true.copy()
    turned[::2, :3, :3] = true[::2, :3, :3] @ Rotation.from_rotvec([0, 0, np.radians(2)]).as_matrix()
    assert pose_metrics(turned, true).rpe_rotation_deg == pytest.approx(2)


def test_noise_gives_its_own_size():
    true = path(2000, 7)
    result = pose_metrics(noisy(true, centre=0.1, angle=0.0, seed=1), true)
    assert result.ate_sim3 == pytest.approx(0.1 * np.sqrt(3 - 7 / 2000), rel=0.03)
    assert result.rpe_translation == pytest.approx(0.1 * np.sqrt(6), rel=0.03)


def test_cameras_on_a_line_and_cameras_that_stand_still():
    true = np.tile(np.eye(4), (6, 1, 1))
    true[:, 0, 3] = np.arange(6)
    line = pose_metrics(moved(true, scale=3, turn=(0.2, 0.1, 0.3)), true)
    assert line.ate_sim3 == pytest.approx(0, abs=1e-9) and line.direction_deg == pytest.approx(0, abs=1e-6)
    still = np.tile(np.eye(4), (6, 1, 1))
    result = pose_metrics(path(6), still)
    assert result.ate_static == result.ate_sim3 == result.direction_deg == 0 and result.rpe_rotation_deg > 1
    assert result.auc_30 < 1  # rotations still tell
    assert all(np.isfinite(list(vars(pose_metrics(still, path(6))).values())))


def test_angles_of_pairs_against_a_plain_loop():
    true, predicted = path(7), noisy(path(7), seed=2)
    rotation, direction = relative_pose_angles(predicted, true)
    k = 0
    for i in range(7):
        for j in range(i + 1, 7):
            p, t = (np.linalg.inv(c[i]) @ c[j] for c in (predicted, true))
            angle = np.degrees(Rotation.from_matrix(t[:3, :3].T @ p[:3, :3]).magnitude())
            cosine = p[:3, 3] @ t[:3, 3] / np.linalg.norm(p[:3, 3]) / np.linalg.norm(t[:3, 3])
            assert rotation[k] == pytest.approx(angle, abs=1e-9) and direction[k] == pytest.approx(
                np.degrees(np.arccos(cosine)), abs=1e-6
            )
            k += 1
    assert k == len(rotation) == len(direction)
    chosen = relative_pose_angles(predicted, true, pairs=np.array([[0, 1], [5, 6]]))
    assert chosen[0] == pytest.approx(rotation[[0, -1]], abs=1e-12) and chosen[1] == pytest.approx(
        direction[[0, -1]], abs=1e-12
    )
    mirrored = true.copy()
    mirrored[:, :3, 3] *= -1
    assert (
        relative_pose_angles(mirrored, true)[1] == pytest.approx(180)
        and relative_pose_angles(mirrored, true, up_to_sign=True)[1].max() < 1e-6
    )


def test_all_pairs_of_a_long_video_are_taken_in_portions():
    true = path(700)
    rotation, _ = relative_pose_angles(noisy(true), true)
    assert (
        len(rotation) == 700 * 699 // 2
        and rotation[-1] == relative_pose_angles(noisy(true), true, pairs=np.array([[698, 699]]))[0][0]
    )


def test_area_under_the_curve():
    assert pose_auc(np.zeros(4), 5) == 1 and pose_auc(np.full(4, 7.0), 5) == 0
    assert pose_auc(np.array([0.0, 2.5]), 5) == pytest.approx(0.75) and pose_auc(
        np.array([0.0, 2.5]), 5, binned=True
    ) == pytest.approx(0.8)
    errors = np.random.default_rng(0).uniform(0, 40, 500)
    grid = np.linspace(0, 30, 300_001)
    shares = np.searchsorted(np.sort(errors), grid) / 500
    assert pose_auc(errors, 30) == pytest.approx(shares.mean(), abs=1e-5)
    counts, _ = np.histogram(errors, bins=np.arange(31))
    assert pose_auc(errors, 30, binned=True) == pytest.approx(np.cumsum(counts / 500).mean(), abs=1e-12)


def test_trajectories_that_cannot_be_scored():
    good, holed, squeezed = path(4), path(4), path(4)
    holed[2, 0, 3] = np.nan
    squeezed[1, :3, :3] *= 2
    for predicted, true, message in (
        (path(3), good, "one length; got 3 predicted and 4"),
        (path(1), path(1), "at least 2 poses.*got 1"),
        (good[:, :3], good, r"\(t, 4, 4\)"),
        (holed, good, "frame 2"),
        (good, squeezed, "true.*frame 1"),
        (good @ np.diag([1, 1, -1, 1.0]), good, "rotations"),
    ):
        for score in (pose_metrics, absolute_trajectory_error, relative_pose_errors, relative_pose_angles):
            with pytest.raises(InputError, match=message):
                score(predicted, true)
    with pytest.raises(InputError, match="delta"):
        relative_pose_errors(good, good, delta=4)
    with pytest.raises(InputError, match="Pairs"):
        relative_pose_angles(good, good, pairs=np.array([[0, 4]]))
    with pytest.raises(InputError, match="AUC"):
        pose_auc(np.array([np.nan]), 5)
    with pytest.raises(InputError, match="whole"):
        pose_auc(np.zeros(1), 2.5, binned=True)
    with pytest.raises(InputError, match="positive limit"):
        pose_auc(np.zeros(1), 0)
