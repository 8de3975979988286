"""Known answers, and evo as an oracle for poses."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geo4d.errors import InputError
from geo4d.metrics.depth import depth_metrics
from geo4d.metrics.pose import absolute_trajectory_error, focal_error, pose_metrics

RNG = np.random.default_rng(0)
DEPTH = RNG.uniform(1, 9, (3, 8, 10))
MASK = RNG.random(DEPTH.shape) < 0.8


def path(n=12, seed=0):
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (n, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(np.cumsum(rng.normal(size=(n, 3)) * 0.1, axis=0)).as_matrix()
    poses[:, :3, 3] = np.cumsum(rng.normal(size=(n, 3)), axis=0)
    return poses


def test_perfect_depth_and_known_affine_maps():
    for method in ("none", "median_scale", "scale_l1", "scale_shift_l1"):
        result = depth_metrics(DEPTH, DEPTH, MASK, alignment=method)
        assert result.abs_rel == pytest.approx(0, abs=1e-9) and result.delta1 == 1
    result = depth_metrics(0.5 * DEPTH - 3, DEPTH, MASK)
    assert result.abs_rel < 1e-9 and result.scale == pytest.approx(2) and result.shift == pytest.approx(6)
    assert depth_metrics(4 * DEPTH, DEPTH, MASK, alignment="scale_l1").scale == pytest.approx(0.25)


def test_known_errors():
    result = depth_metrics(1.3 * DEPTH, DEPTH, MASK, alignment="none")
    assert result.abs_rel == pytest.approx(0.3) and result.delta1 == 0 and result.delta2 == 1
    assert result.log_rmse == pytest.approx(np.log(1.3))
    assert result.rmse == pytest.approx(0.3 * np.sqrt((DEPTH[MASK] ** 2).mean()))


def test_a_hole_is_an_error():
    holes = DEPTH.copy()
    holes[0] = np.nan
    assert depth_metrics(holes, DEPTH, MASK, alignment="none").abs_rel > 0.1


def test_depth_that_cannot_be_scored():
    for predicted, mask, message in ((DEPTH, MASK & False, "empty"), (DEPTH * np.nan, MASK, "finite")):
        with pytest.raises(InputError, match=message):
            depth_metrics(predicted, DEPTH, mask)
    with pytest.raises(InputError, match="must be none"):
        depth_metrics(DEPTH, DEPTH, MASK, alignment="other")


def test_poses_up_to_a_similarity():
    true = path()
    moved = true.copy()
    turn = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
    moved[:, :3, :3] = turn @ true[:, :3, :3]
    moved[:, :3, 3] = 2.5 * true[:, :3, 3] @ turn.T + [1, 2, 3]
    result = pose_metrics(moved, true)
    for value in (result.ate_sim3, result.ate_scale, result.rpe_translation, result.rpe_rotation_deg, result.rotation_deg):
        assert value == pytest.approx(0, abs=1e-6)


def test_static_prediction():
    true = path()
    result = pose_metrics(np.tile(np.eye(4), (12, 1, 1)), true)
    first = np.linalg.inv(true[0]) @ true
    assert result.ate_scale == pytest.approx(np.sqrt((first[:, :3, 3] ** 2).sum(1).mean()))
    assert result.direction_deg == 90 and np.isfinite(result.ate_sim3)


def test_equal_to_evo():
    pytest.importorskip("evo")
    from evo.core import metrics, sync, trajectory

    true, predicted = path(seed=1), path(seed=1)
    predicted[:, :3, 3] += np.random.default_rng(3).normal(size=(12, 3)) * 0.2
    predicted[:, :3, :3] = predicted[:, :3, :3] @ Rotation.from_rotvec(np.random.default_rng(4).normal(size=(12, 3)) * 0.05).as_matrix()
    stamps = np.arange(12.0)
    reference = trajectory.PoseTrajectory3D(poses_se3=list(true), timestamps=stamps)
    estimate = trajectory.PoseTrajectory3D(poses_se3=list(predicted), timestamps=stamps)
    reference, estimate = sync.associate_trajectories(reference, estimate)
    estimate.align(reference, correct_scale=True)
    ours = pose_metrics(predicted, true)
    oracle = metrics.APE(metrics.PoseRelation.translation_part)
    oracle.process_data((reference, estimate))
    assert ours.ate_sim3 == pytest.approx(oracle.get_statistic(metrics.StatisticsType.rmse), abs=1e-9)
    for relation, value in (
        (metrics.PoseRelation.translation_part, ours.rpe_translation),
        (metrics.PoseRelation.rotation_angle_deg, ours.rpe_rotation_deg),
    ):
        oracle = metrics.RPE(relation, delta=1, delta_unit=metrics.Unit.frames, all_pairs=True)
        oracle.process_data((reference, estimate))
        assert value == pytest.approx(oracle.get_statistic(metrics.StatisticsType.rmse), abs=1e-8)


def test_focal_and_shapes():
    k = np.tile(np.diag([10.0, 10.0, 1]), (3, 1, 1))
    assert focal_error(2 * k, k) == pytest.approx(np.log(2))
    with pytest.raises(InputError, match=r"\(t, 4, 4\)"):
        absolute_trajectory_error(path(3), path(4), alignment="sim3")
