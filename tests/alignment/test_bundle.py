"""Cameras by tracked points: exact on exact tracks, robust, and harmless where pixels say little."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geo4d.alignment import AlignmentConfig, Priors
from geo4d.alignment.align import complete
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.cameras import Cameras, FixedIntrinsics
from geo4d.alignment.depth.dense import Dense
from geo4d.alignment.draft import Draft
from geo4d.errors import InputError
from geo4d.geometry.rotation import so3_exp
from geo4d.metrics.pose import pose_metrics
from geo4d.scene import Reconstruction, Tracks, WindowPredictions

HEIGHT, WIDTH, FOCAL = 120, 160, 140.0


def path(frames: int, *, shift: float = 0.6, turn_deg: float = 8.0) -> np.ndarray:
    """A smooth cam_to_world that starts at the identity; scene at depths 2 to 6."""
    t = np.linspace(0, 1, frames)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    angles = np.deg2rad(turn_deg) * np.stack([0.3 * np.sin(3 * t), np.sin(2 * t), 0.2 * t], axis=1)
    poses[:, :3, :3] = so3_exp(torch.from_numpy(angles)).numpy()
    poses[:, :3, 3] = shift * np.stack([np.sin(2 * t), 0.3 * t**2, 0.4 * t], axis=1)
    return np.linalg.inv(poses[:1]) @ poses


def scene(
    poses: np.ndarray, *, points: int = 300, noise: float = 0.0, moving: float = 0.0, seed: int = 0
) -> tuple[Tracks, np.ndarray, np.ndarray]:
    """Tracks of random points, each point's true depth where it was first seen, and which of them move."""
    rng = np.random.default_rng(seed)
    world = np.stack([rng.uniform(-3, 3, points), rng.uniform(-2, 2, points), rng.uniform(2, 6, points)], axis=1)
    moves = rng.random(points) < moving
    velocity = np.where(moves[:, None], rng.normal(size=(points, 3)) * 0.06, 0.0)
    rows = []
    for frame, pose in enumerate(poses):
        local = (world + velocity * frame - pose[:3, 3]) @ pose[:3, :3]
        pixel = FOCAL * local[:, :2] / local[:, 2:] + [WIDTH / 2, HEIGHT / 2]
        seen = (local[:, 2] > 0.3) & (pixel > 1).all(1) & (pixel < [WIDTH - 1, HEIGHT - 1]).all(1)
        rows += [(track, frame, *(pixel[track] + noise * rng.normal(size=2))) for track in np.flatnonzero(seen)]
    table = np.array(rows)
    _, track = np.unique(table[:, 0], return_inverse=True)
    tracks = Tracks(
        track.astype(np.int32),
        table[:, 1].astype(np.int32),
        table[:, 2:].astype(np.float32),
        (HEIGHT, WIDTH),
        len(poses),
    )
    return tracks, world, moves[np.unique(table[:, 0].astype(int))]


def guess(frames: int, *, depth: float = 4.0, focal: float = FOCAL, poses: np.ndarray | None = None) -> Draft:
    """A network that knows one depth and no motion."""
    log_depth = torch.full((frames, HEIGHT // 2, WIDTH // 2), float(np.log(depth)))
    poses = np.tile(np.eye(4), (frames, 1, 1)) if poses is None else poses
    cameras = Cameras.of(
        torch.from_numpy(poses),
        torch.full((frames,), focal / WIDTH, dtype=torch.float64),
        FixedIntrinsics.ideal(frames),
    )
    return Draft(cameras, Dense(log_depth, torch.ones_like(log_depth), torch.ones_like(log_depth)))


def by_tracks(draft: Draft, tracks: Tracks, config: BundleConfig | None = None) -> Reconstruction:
    frames = len(draft.dense.log_depth)
    windows = WindowPredictions(
        torch.arange(frames)[None], disparity=torch.ones(1, *draft.dense.log_depth.shape), source_size=(HEIGHT, WIDTH)
    )
    return complete(windows, draft, tracks, Priors(), AlignmentConfig(bundle=config or BundleConfig()))


def focal_of(result: Reconstruction) -> float:
    return float(result.at_source_resolution(0)[1][0, 0])


def relative_ate(result: Reconstruction, poses: np.ndarray) -> float:
    """ATE, scale only, by that of a static camera."""
    static = pose_metrics(np.tile(np.eye(4), (len(poses), 1, 1)), poses).ate_scale
    return pose_metrics(result.cam_to_world, poses).ate_scale / static


def test_exact_tracks_give_the_exact_cameras() -> None:
    poses = path(24)
    tracks, _, _ = scene(poses)
    result = by_tracks(guess(24, focal=120.0), tracks, BundleConfig(smoothness=0.0))
    assert result.diagnostics["tracks"]["used"]
    assert relative_ate(result, poses) < 2e-3
    assert pose_metrics(result.cam_to_world, poses).rpe_rotation_deg < 5e-3
    assert focal_of(result) == pytest.approx(FOCAL, rel=5e-3)
    np.testing.assert_allclose(result.cam_to_world[0], np.eye(4), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_noise_and_moving_things(seed: int) -> None:
    poses = path(24)
    tracks, _, moves = scene(poses, noise=0.3, moving=0.3, seed=seed)
    assert moves.mean() > 0.2
    result = by_tracks(guess(24), tracks)
    assert relative_ate(result, poses) < 0.1
    assert pose_metrics(result.cam_to_world, poses).rpe_rotation_deg < 0.15
    assert 0.5 < result.diagnostics["tracks"]["believed"] < 0.95


def test_a_good_network_is_not_harmed() -> None:
    """Its cameras and focal length are exact, the tracks are not."""
    poses = path(16)
    tracks, _, _ = scene(poses, noise=0.3, moving=0.1)
    result = by_tracks(guess(16, poses=poses), tracks)
    assert relative_ate(result, poses) < 0.1
    assert focal_of(result) == pytest.approx(FOCAL, rel=0.1)


@pytest.mark.parametrize("turn_deg", [0.0, 20.0])
def test_a_camera_that_does_not_travel(turn_deg: float) -> None:
    """Static, or turning alone: no path is invented (beyond a hundredth of the scene's depth), turns are found."""
    poses = path(20, shift=0.0, turn_deg=turn_deg)
    tracks, _, _ = scene(poses, noise=0.2)
    result = by_tracks(guess(20), tracks)
    assert np.linalg.norm(result.cam_to_world[:, :3, 3], axis=1).max() < 0.04
    assert pose_metrics(result.cam_to_world, poses).rpe_rotation_deg < 0.1
    assert np.isfinite(result.cam_to_world).all() and np.isfinite(result.intrinsics).all()


def test_a_scene_that_moves_almost_entirely_is_survived() -> None:
    poses = path(16)
    tracks, _, _ = scene(poses, noise=0.2, moving=0.9)
    result = by_tracks(guess(16), tracks)
    assert np.isfinite(result.cam_to_world).all()
    assert 0.2 < focal_of(result) / WIDTH < 5


def test_too_little_to_go_by_leaves_everything() -> None:
    poses = path(16)
    tracks, _, _ = scene(poses, points=8)
    before = guess(16)
    result = by_tracks(before, tracks)
    np.testing.assert_array_equal(result.cam_to_world, before.cameras.cam_to_world.numpy())
    assert not result.diagnostics["tracks"]["used"]
    assert "network's alone" in result.diagnostics["warnings"][-1]
    empty = Tracks(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 2), np.float32), (HEIGHT, WIDTH), 16)
    assert not by_tracks(before, empty).diagnostics["tracks"]["used"]


def test_tracks_of_another_video_are_refused() -> None:
    tracks, _, _ = scene(path(16))
    with pytest.raises(InputError, match="are of 16 frames of 160 x 120 pixels, the video has 17"):
        by_tracks(guess(17), tracks)


def test_long_videos_use_the_sparse_solver() -> None:
    poses = path(130, shift=2.0, turn_deg=30.0)
    tracks, _, _ = scene(poses, points=200, noise=0.2)
    result = by_tracks(guess(130), tracks)
    assert relative_ate(result, poses) < 0.05
