"""What is said of a result is of the cameras and the depth that are returned, though tracks have moved them last."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import FOCAL, H, W, camera_path, exact_windows, render

from geo4d.alignment import AlignmentConfig, Distance, Priors, align
from geo4d.alignment.finish.moving import find_motion
from geo4d.errors import InputError
from geo4d.geometry.camera import intrinsics_from_focal
from geo4d.geometry.rotation import so3_log
from geo4d.metrics.pose import pose_metrics
from geo4d.scene import Tracks

FRAMES, SCALE = 24, 10  # the source is so many times larger than the working frames
SIZE = (SCALE * H, SCALE * W)


def tracks_of(poses: torch.Tensor, *, noise: float = 0.1, seed: int = 0) -> Tracks:
    """Points of the room's walls, followed wherever they are seen."""
    generator = np.random.default_rng(seed)
    k = intrinsics_from_focal(torch.full((len(poses),), SCALE * FOCAL, dtype=torch.float64), *SIZE)
    depth, rays = render(poses, k, SIZE)
    rows, number = [], 0
    for first in range(0, len(poses), 6):
        v, u = generator.integers(4, SIZE[0] - 4, 60), generator.integers(4, SIZE[1] - 4, 60)
        world = (depth[first, v, u, None] * rays[first, v, u]) @ poses[first, :3, :3].T + poses[first, :3, 3]
        for frame in range(first, len(poses)):
            local = (world - poses[frame, :3, 3]) @ poses[frame, :3, :3]
            pixel = (local @ k[frame].T)[:, :2] / local[:, 2:]
            inside = (
                (local[:, 2] > 0.1) & (pixel > 2).all(1) & (pixel[:, 0] < SIZE[1] - 2) & (pixel[:, 1] < SIZE[0] - 2)
            )
            at = pixel.long().clamp_min(0)
            there = depth[frame, at[:, 1].clamp_max(SIZE[0] - 1), at[:, 0].clamp_max(SIZE[1] - 1)]
            seen = torch.nonzero(inside & ((local[:, 2] / there - 1).abs() < 0.02))[:, 0]
            rows += [(number + int(i), frame, *(pixel[i].numpy() + noise * generator.normal(size=2))) for i in seen]
        number += 60
    table = np.array(rows)
    table = table[np.argsort(table[:, 1], kind="stable")]
    _, track = np.unique(table[:, 0], return_inverse=True)
    return Tracks(
        track.astype(np.int32), table[:, 1].astype(np.int32), table[:, 2:].astype(np.float32), SIZE, len(poses)
    )


@pytest.fixture(scope="module")
def case():
    """A network that is wrong about the path, and tracks that are right.

    The truth; results without and with the tracks.
    """
    true = camera_path(FRAMES)
    bent = true.clone()
    bent[:, :3, 3] += (
        0.25 * torch.sin(torch.linspace(0, 9, FRAMES, dtype=torch.float64))[:, None] * torch.tensor([0.3, 1.0, 0.2])
    )
    windows, _ = exact_windows(FRAMES, poses=torch.linalg.inv(bent[:1]) @ bent, stride=2)
    windows = replace(windows, source_size=SIZE)
    tracks = tracks_of(true)
    return windows, tracks, true.numpy(), align(windows), align(windows, tracks=tracks)


def test_the_tracks_move_the_cameras(case) -> None:
    _, _, true, before, after = case
    assert after.diagnostics["tracks"]["used"]
    assert pose_metrics(after.cam_to_world, true).ate_sim3 < 0.2 * pose_metrics(before.cam_to_world, true).ate_sim3


def test_a_known_length_is_that_length(case) -> None:
    windows, tracks, _, _, _ = case
    one = Distance(0, (60.0, 150.0), 20, (250.0, 60.0), 2.0)
    for options in ({}, {"tracks": tracks}):
        result = align(windows, priors=Priors(distances=(one,)), **options)
        ends = [
            result.points_world(frame)[int(v / SCALE), int(u / SCALE)]
            for frame, (u, v) in ((one.frame_a, one.pixel_a), (one.frame_b, one.pixel_b))
        ]
        assert result.is_metric
        assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(2.0, rel=1e-5)


def test_metric_depth_is_kept(case) -> None:
    windows, tracks, true, _, _ = case
    depth = render(
        torch.from_numpy(true), intrinsics_from_focal(torch.full((FRAMES,), FOCAL, dtype=torch.float64), H, W)
    )[0].numpy()
    result = align(windows, priors=Priors(depth=3.0 * depth), tracks=tracks)
    assert result.is_metric and result.diagnostics["tracks"]["used"]
    assert np.median(result.depth / depth) == pytest.approx(3.0, rel=0.03)


def test_covariances_are_of_the_final_cameras(case) -> None:
    """Errors of the returned cameras are of the size that is said.

    The windows' own covariance would be far too small for theirs.
    """
    _, _, true, before, after = case
    assert not np.allclose(after.pose_covariance, before.pose_covariance)
    rotation_error = so3_log(
        torch.from_numpy(true[:, :3, :3] @ after.cam_to_world[:, :3, :3].transpose(0, 2, 1))
    ).numpy()
    unit = np.linalg.norm(after.cam_to_world[:, :3, 3]) / np.linalg.norm(true[:, :3, 3])
    shift = unit * true[:, :3, 3] - after.cam_to_world[:, :3, 3]
    for error, block in ((rotation_error, slice(0, 3)), (shift, slice(3, 6))):
        covariance = after.pose_covariance[1:, block, block]
        assert (np.linalg.eigvalsh(covariance) > 0).all()
        square = np.einsum("ti,tij,tj->t", error[1:], np.linalg.inv(covariance), error[1:]) / 3
        assert 0.01 < np.median(square) < 10.0
    np.testing.assert_array_equal(after.pose_covariance[0], 0)


def test_what_moves_is_found_on_the_final_scene(case) -> None:
    """Nothing moves: the depth alone has much move; points that the final cameras explain know better."""
    _, _, _, before, after = case
    by_depth = find_motion(replace(after, dynamic=None))
    said = [float((dynamic > 0.5).mean()) for dynamic in (before.dynamic, by_depth, after.dynamic)]
    assert said[1] > 0.1 and said[2] < 0.01, said


def test_windows_are_judged_by_the_final_cameras(case) -> None:
    """All windows agree about the same wrong path: they fit one another, but not the cameras that are returned."""
    _, _, _, before, after = case
    shift = [np.median([window["shift"] for window in result.diagnostics["windows"]]) for result in (before, after)]
    assert shift[1] > 10 * max(shift[0], 1e-6)


def test_metres_scale_the_covariance_too(case) -> None:
    windows, tracks, _, _, after = case
    metric = align(
        windows, priors=Priors(distances=(Distance(0, (60.0, 150.0), 20, (250.0, 60.0), 2.0),)), tracks=tracks
    )
    factor = np.linalg.norm(metric.cam_to_world[-1, :3, 3]) / np.linalg.norm(after.cam_to_world[-1, :3, 3])
    np.testing.assert_allclose(
        metric.pose_covariance[:, 3:, 3:], factor**2 * after.pose_covariance[:, 3:, 3:], rtol=1e-6
    )


def test_a_zoom_that_the_tracks_settle_is_no_warning(case) -> None:
    """The network's focal length drifts.

    With tracks one focal length is solved for, and there is nothing to be tried.
    """
    windows, tracks, _, _, _ = case
    drifting = replace(windows, points=windows.points.clone())
    for g in range(len(windows.windows)):
        drifting.points[g, ..., :2] *= 1 + 0.15 * g
    alone, by_tracks = align(drifting, config=AlignmentConfig(motion=False)), align(drifting, tracks=tracks)
    assert any("focal=per_frame" in warning for warning in alone.diagnostics["warnings"])
    assert by_tracks.diagnostics["tracks"]["used"]
    assert not any("focal=per_frame" in warning for warning in by_tracks.diagnostics["warnings"])


def test_pictures_may_come_from_elsewhere(case) -> None:
    windows, _, _, before, _ = case
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 3 * H, 3 * W, 3), dtype=np.uint8)
    result = align(windows, frames=frames)
    np.testing.assert_array_equal(result.images, frames[:, 1::3, 1::3])
    np.testing.assert_array_equal(result.depth, before.depth)
    for wrong in (frames[1:], frames.astype(float), frames[..., :1]):
        with pytest.raises(InputError, match=r"Frames must be uint8 \(t, h, w, 3\)"):
            align(windows, frames=wrong)
