"""Depth of static points through moving cameras: exact on a plane, known flicker, known drift."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geo4d.errors import InputError
from geo4d.metrics import depth_stability
from geo4d.scene import Tracks

T, H, W = 5, 24, 32
K = np.tile([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]], (T, 1, 1))
NORMAL, OFFSET = np.array([0.1, 0.2, 1.0]), 6.0  # the plane normal . X = offset


def cameras():
    result = np.tile(np.eye(4), (T, 1, 1))
    result[:, :3, :3] = Rotation.from_rotvec(np.outer(np.arange(T), [0.01, 0.02, -0.03])).as_matrix()
    result[:, :3, 3] = np.outer(np.arange(T), [0.1, -0.05, 0.2])
    return result


def depth_of(cam_to_world, pixels):
    """Depth of the plane at (..., 2) pixels of every camera."""
    rays = np.concatenate([pixels, np.ones((*pixels.shape[:-1], 1))], -1) @ np.linalg.inv(K[0]).T
    ahead = np.einsum("tij,t...j->t...i", cam_to_world[:, :3, :3], rays) @ NORMAL
    reach = OFFSET - cam_to_world[:, :3, 3] @ NORMAL
    return reach.reshape(-1, *(1,) * (ahead.ndim - 1)) / ahead


def plane(cam_to_world):
    """Depth (t, h, w) and tracks of points of the plane, in an image twice as large."""
    v, u = np.mgrid[:H, :W] + 0.5
    depth = depth_of(cam_to_world, np.broadcast_to(np.stack([u, v], -1), (T, H, W, 2)))
    rng = np.random.default_rng(0)
    xy = rng.uniform(-2, 2, (40, 2))
    points = np.c_[xy, OFFSET - xy @ NORMAL[:2]]
    cam = np.einsum("tji,tnj->tni", cam_to_world[:, :3, :3], points[None] - cam_to_world[:, None, :3, 3])
    pixels = cam[..., :2] / cam[..., 2:] * 30 + [16, 12]
    frame, track = np.nonzero(((pixels > 0.5) & (pixels < [W - 0.5, H - 0.5])).all(-1))
    order = rng.permutation(len(frame))
    frame, track = frame[order].astype(np.int32), track[order].astype(np.int32)
    return depth, Tracks(track, frame, (2 * pixels[frame, track]).astype(np.float32), (2 * H, 2 * W), T)


def test_a_plane_stands_still():
    depth, tracks = plane(cameras())
    for gap in (1, 3):
        result = depth_stability(depth, K, cameras(), tracks, gap=gap)
        assert result.mean < 1e-6 and result.coverage == 1  # tracks are in float32
        pairs = {(int(t), int(f)) for t, f in zip(tracks.track, tracks.frame, strict=True)}
        assert result.pairs == sum((t, f + gap) in pairs for t, f in pairs)
    scaled = cameras()
    scaled[:, :3, 3] *= 7
    assert depth_stability(7 * depth, K, scaled, tracks).mean < 1e-6


def test_known_flicker_and_drift():
    still = np.tile(np.eye(4), (T, 1, 1))
    depth, tracks = plane(still)
    factor = np.where(np.arange(T) % 2, 1.1, 1.0)[:, None, None]
    flicker = depth_stability(factor * depth, K, still, tracks)
    share = np.bincount(tracks.frame, minlength=T)[:-1]
    expected = np.average([1 - 1 / 1.1, 0.1, 1 - 1 / 1.1, 0.1], weights=share)
    assert flicker.mean == pytest.approx(expected, rel=1e-6)
    assert depth_stability(factor * depth, K, still, tracks, gap=2).mean < 1e-6
    drift = 1.01 ** np.arange(T)[:, None, None]
    for gap in (1, 4):
        assert depth_stability(drift * depth, K, still, tracks, gap=gap).median == pytest.approx(
            1 - 1.01**-gap, rel=1e-5
        )
    assert depth_stability(2 * depth, K, still, tracks).mean < 1e-6  # steady: for other metrics


def test_a_wrong_scale_shows_once_the_camera_moves():
    depth, tracks = plane(cameras())
    assert depth_stability(1.2 * depth, K, cameras(), tracks).mean > 1e-3


def test_points_that_move_are_left_out_and_holes_are_counted():
    depth, tracks = plane(cameras())
    wrong = tracks.position.copy()
    wrong[tracks.track == 3] += 5 * (tracks.frame[tracks.track == 3, None] % 2)
    jumping = dataclasses.replace(tracks, position=wrong)
    static = np.arange(40) != 3
    assert (
        depth_stability(depth, K, cameras(), jumping, static=static).mean
        < 1e-6
        < depth_stability(depth, K, cameras(), jumping).mean
    )
    holes = depth.copy()
    holes[2] = np.nan
    result = depth_stability(holes, K, cameras(), tracks)
    assert result.mean < 1e-6 and result.coverage == pytest.approx((tracks.frame != 2).mean())


def test_stability_that_cannot_be_measured():
    depth, tracks = plane(cameras())
    none = np.zeros(40, bool)
    empty = Tracks(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 2), np.float32), (H, W), T)
    for arguments, options, message in (
        ((depth[:4], K, cameras(), tracks), {}, "same frames"),
        ((depth, K[:4], cameras(), tracks), {}, "same frames"),
        ((depth, K, cameras()[:4], tracks), {}, "same frames"),
        ((depth, K, cameras(), tracks), {"gap": 5}, "gap"),
        ((depth, K, cameras(), tracks), {"static": none[:5]}, "static"),
        ((depth, K, cameras(), tracks), {"static": none}, "no static point"),
        ((0 * depth, K, cameras(), tracks), {}, "no static point"),
        ((depth, K, cameras(), empty), {}, "no static point"),
        ((depth[:1], K[:1], cameras()[:1], tracks), {}, "at least 2 poses"),
    ):
        with pytest.raises(InputError, match=message):
            depth_stability(*arguments, **options)
