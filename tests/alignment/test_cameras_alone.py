"""Cameras from the tracks alone.

A network that is wrong altogether, planes, moving groups, sizes, zooms, and what is said of little.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_bundle import FOCAL, HEIGHT, WIDTH, guess, path, relative_ate, scene

from geo4d.alignment import Priors
from geo4d.alignment.bundle import choose
from geo4d.alignment.bundle.choose import Adjusted, adjust_cameras
from geo4d.alignment.bundle.config import BundleConfig, MappingConfig, ViewsConfig
from geo4d.alignment.bundle.evidence import State, residuals
from geo4d.alignment.bundle.mapping import triangulate
from geo4d.alignment.bundle.starts import TrackedVideo
from geo4d.alignment.bundle.views import Views, choose_keyframes, chosen, thinned, tracking_noise
from geo4d.alignment.draft import Draft
from geo4d.errors import ConfigError
from geo4d.metrics.pose import pose_metrics
from geo4d.scene import Tracks


def adjusted(draft: Draft, tracks: Tracks, priors: Priors | None = None) -> Adjusted:
    return adjust_cameras(
        draft.cameras, draft.dense.log_depth, tracks, tracks.source_size, BundleConfig(), priors or Priors()
    )


def ate(found: Adjusted, poses: np.ndarray) -> float:
    class Result:
        cam_to_world = found.cameras(0.0).cam_to_world.numpy()

    return relative_ate(Result, poses)  # type: ignore[arg-type]


def of_size(tracks: Tracks, factor: float) -> Tracks:
    height, width = tracks.source_size
    return replace(
        tracks,
        position=tracks.position * np.float32(factor),
        source_size=(round(factor * height), round(factor * width)),
    )


def test_a_network_that_is_wrong_altogether_does_no_harm() -> None:
    """Fast turns, a depth that is one plane, cameras that go the other way, a focal length off by a quarter."""
    poses = path(32, shift=1.2, turn_deg=60.0)
    tracks, _, _ = scene(poses, points=900, noise=0.2)
    other = path(32, shift=-0.5, turn_deg=-30.0)
    found = adjusted(guess(32, poses=other, focal=1.25 * FOCAL), tracks)
    assert found.is_used and found.report["camera"] == "travels"
    assert ate(found, poses) < 0.05
    assert float(found.cameras(0.0).focal[0]) * WIDTH == pytest.approx(FOCAL, rel=0.05)
    assert found.report["focal_from"] == "tracks" and found.report["focal_log_sigma"] < 0.1


def test_the_same_video_at_another_size_has_the_same_cameras() -> None:
    poses = path(24)
    tracks, _, _ = scene(poses, noise=0.3, moving=0.2)
    own = adjusted(guess(24), tracks)
    for factor in (0.5, 2.0, 20.0):
        other = adjusted(guess(24), of_size(tracks, factor))
        np.testing.assert_allclose(other.cameras(0.0).cam_to_world, own.cameras(0.0).cam_to_world, atol=1e-3)
        assert other.report["noise_px"] == pytest.approx(factor * own.report["noise_px"], rel=0.02)


def test_a_group_that_moves_together_does_not_win() -> None:
    """A third of the points are one body that drives past."""
    poses = path(24)
    tracks, _, _ = scene(poses, points=400, noise=0.2)
    body, _, _ = scene(path(24, shift=-1.5, turn_deg=2.0), points=200, noise=0.2, seed=9)
    both = replace(
        tracks,
        track=np.concatenate([tracks.track, body.track + tracks.num_tracks]),
        frame=np.concatenate([tracks.frame, body.frame]),
        position=np.concatenate([tracks.position, body.position]),
    )
    order = np.argsort(both.frame, kind="stable")
    both = replace(both, track=both.track[order], frame=both.frame[order], position=both.position[order])
    found = adjusted(guess(24), both)
    assert found.is_used and ate(found, poses) < 0.1
    weight = found.solution.track_weight.numpy()
    assert np.median(weight[: tracks.num_tracks]) > 0.6 and np.median(weight[tracks.num_tracks :]) < 0.3


def test_a_zoom_is_found_where_there_is_one() -> None:
    poses = path(24, shift=1.0)
    tracks, _, _ = scene(poses, noise=0.1)
    factor = np.linspace(1.0, 1.4, 24, dtype=np.float32)[tracks.frame][:, None]
    zoomed = replace(tracks, position=(tracks.position - [WIDTH / 2, HEIGHT / 2]) * factor + [WIDTH / 2, HEIGHT / 2])
    zoomed = replace(zoomed, position=zoomed.position.astype(np.float32))
    found, plain = adjusted(guess(24), zoomed), adjusted(guess(24), tracks)
    focal = found.cameras(0.0).focal.numpy()
    assert found.report["zooms"] and focal[-1] / focal[0] == pytest.approx(1.4, rel=0.05)
    assert not plain.report["zooms"] and len(set(plain.cameras(0.0).focal.tolist())) == 1


@pytest.mark.parametrize("travels", [True, False])
def test_frames_between_keyframes_of_a_zoom_begin_with_their_own_focal_length(travels: bool) -> None:
    """Keyframes are exact, and far apart: what lies between follows exactly, in log focal length."""
    shift, log_zoom = 1.0 if travels else 0.0, torch.linspace(0.0, 0.7, 25, dtype=torch.float64)
    poses = path(25, shift=shift, turn_deg=12.0)
    tracks, _, _ = scene(poses, points=200)
    factor = log_zoom.exp().numpy()[tracks.frame][:, None]
    centre = np.array([WIDTH / 2, HEIGHT / 2])
    zoomed = replace(tracks, position=((tracks.position - centre) * factor + centre).astype(np.float32))
    far_apart = replace(ViewsConfig(), keyframe_motion=10.0, keyframe_shared=0.0)
    video = video_of(zoomed, BundleConfig(views=far_apart))
    assert np.diff(video.keyframes).min() == 8
    key, log_focal = torch.from_numpy(video.keyframes), video.evidence.log_focal + log_zoom
    true = torch.from_numpy(poses)
    true[:, :3, 3] /= video.unit
    rotation, centres = true[:, :3, :3], true[:, :3, 3]
    order = np.argsort(tracks.track, kind="stable")
    track, frame, pixel = tracks.track[order], tracks.frame[order], ((tracks.position - centre) / WIDTH)[order]
    if travels:
        points = triangulate(track, frame, pixel, true.numpy(), FOCAL / WIDTH, count=tracks.num_tracks)[0]
    else:  # in some depth
        first = np.searchsorted(track, np.arange(tracks.num_tracks))
        rays = np.column_stack([pixel[first] / (FOCAL / WIDTH), np.ones(len(first))])
        points = np.einsum("nij,nj->ni", rotation.numpy()[frame[first]], rays)
    solved = State(rotation[key], centres[key], log_focal[key], torch.from_numpy(points))
    found = video.extended(solved, travels=travels)
    torch.testing.assert_close(found.log_focal, log_focal, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.rotation, rotation, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.centre, centres, rtol=0, atol=1e-4)
    assert float(residuals(video.evidence, found).pixel.norm(dim=1).quantile(0.9)) * WIDTH < 0.01


def test_given_intrinsics_are_kept_and_said_to_be_given() -> None:
    poses = path(16)
    tracks, _, _ = scene(poses, noise=0.2)
    k = np.tile(np.array([[70.0, 0, 40], [0, 70, 30], [0, 0, 1]]), (16, 1, 1))
    found = adjusted(guess(16), tracks, Priors(intrinsics=k))
    assert (
        float(found.cameras(0.0).focal[0]) * WIDTH == pytest.approx(FOCAL, rel=1e-3)
        and found.report["focal_from"] == "given"
    )


@pytest.mark.parametrize(
    ("shift", "turn_deg", "says"), [(0.0, 0.0, "stands still"), (0.0, 20.0, "turns only"), (0.6, 8.0, "travels")]
)
def test_what_the_camera_does_is_said(shift: float, turn_deg: float, says: str) -> None:
    poses = path(20, shift=shift, turn_deg=turn_deg)
    tracks, _, _ = scene(poses, noise=0.05)
    wrong = path(20, shift=0.8, turn_deg=-12.0)
    assert adjusted(guess(20, poses=wrong), tracks).report["camera"] == says


def test_what_a_solution_is_worth_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a camera that turns only, to choose between solutions, and to say whether the chosen one shows a world."""
    asked, real = [], choose.worth_of
    monkeypatch.setattr(choose, "worth_of", lambda e, state, **how: asked.append(state) or real(e, state, **how))
    tracks, _, _ = scene(path(20, shift=0.0, turn_deg=20.0), noise=0.05)
    found = adjusted(guess(20), tracks)
    assert found.report["camera"] == "turns only" and found.report["explained"] > 0.9
    assert len(asked) == len({id(state) for state in asked}) > 0


@pytest.mark.parametrize("turn_deg", [4.0, 12.0])
def test_noise_of_short_tracks_is_no_travel(turn_deg: float) -> None:
    """Points that few keyframes see fit a camera that travels; one that only turns must not be said to travel."""
    poses = path(24, shift=0.0, turn_deg=turn_deg)
    tracks, _, _ = scene(poses, points=500, noise=0.5)
    part = 4 + np.random.default_rng(5).integers(0, 20, tracks.num_tracks)  # each is seen in seven frames at most
    keep = np.abs(tracks.frame - part[tracks.track]) <= 3
    short = replace(tracks, track=tracks.track[keep], frame=tracks.frame[keep], position=tracks.position[keep])
    found = adjusted(guess(24), short)
    assert found.report["camera"] == "turns only" and found.report["gain"] < 0.1


def test_a_cut_is_told() -> None:
    poses = path(24)
    tracks, _, _ = scene(poses, points=400, noise=0.2)
    after = tracks.frame >= 10
    cut = replace(tracks, track=np.where(after, tracks.track + tracks.num_tracks, tracks.track).astype(np.int32))
    found = adjusted(guess(24), cut)
    assert found.report["cut_after_frames"] == [9]
    assert (
        found.warning is not None
        and "from frame 9 to the next" in found.warning
        and "Reconstruct each part" in found.warning
    )
    assert adjusted(guess(24), tracks).report["cut_after_frames"] == []


def test_a_step_that_nothing_believed_holds_is_told() -> None:
    """A seventh of the tracks goes on after frame 9, each of them somewhere else: enough for no cut, of no use."""
    tracks, _, _ = scene(path(24), points=400, noise=0.2)
    after, goes_on = tracks.frame >= 10, tracks.track % 7 == 0
    renamed = np.where(after & ~goes_on, tracks.track + tracks.num_tracks, tracks.track).astype(np.int32)
    jump = np.random.default_rng(0).uniform(-40, 40, (tracks.num_tracks, 2)).astype(np.float32)
    position = np.where((after & goes_on)[:, None], tracks.position + jump[tracks.track], tracks.position)
    found = adjusted(guess(24), replace(tracks, track=renamed, position=position))
    assert found.report["cut_after_frames"] == [] and found.report["unheld_after_frames"] == [9]
    assert found.warning is not None and "up to frame 9 and after it" in found.warning
    assert adjusted(guess(24), tracks).report["unheld_after_frames"] == []


def test_corners_of_mere_noise_do_not_move() -> None:
    """A point that drifts by random steps is followed badly; one that leaves as far, but smoothly, moves."""
    poses, rng = path(24), np.random.default_rng(3)
    tracks, _, _ = scene(poses, points=300, noise=0.05)
    tracks = chosen(tracks, np.ones(len(tracks.track), bool))
    position = tracks.position.copy()
    drift = rng.normal(0, 0.35, (40, 24, 2)).cumsum(1)
    for number in range(40):
        rows = tracks.track == number
        position[rows] += drift[number, tracks.frame[rows]]
        rows = tracks.track == 40 + number
        position[rows] += np.outer(tracks.frame[rows] - 12, rng.choice([-1, 1], 2) * 0.35)
    found = adjusted(guess(24), replace(tracks, position=position.astype(np.float32)))
    static = np.zeros(tracks.num_tracks)
    static[tracks.track] = found.followed().is_static
    assert np.median(static[:40]) > 0.4 and np.median(static[40:80]) < 0.1 and np.median(static[80:]) > 0.95


def test_a_focal_length_that_nothing_shows_stays_the_networks() -> None:
    """Straight ahead without any turn: what is near the middle or far says nothing of it."""
    poses = np.tile(np.eye(4), (16, 1, 1))
    poses[:, 2, 3] = np.linspace(0, 1.0, 16)
    tracks, _, _ = scene(poses, noise=0.3)
    found = adjusted(guess(16, focal=1.1 * FOCAL), tracks)
    assert float(found.cameras(0.0).focal[0]) * WIDTH == pytest.approx(1.1 * FOCAL, rel=0.15)
    assert found.report["focal_log_sigma"] > 0.02


def test_points_that_go_their_own_ways_are_no_world() -> None:
    """Chance explains as much as any camera would."""
    rng = np.random.default_rng(0)
    frames, count = 20, 200
    steps = rng.normal(size=(frames, count, 2)).cumsum(axis=0) * 3
    position = np.clip(rng.uniform(0, [WIDTH, HEIGHT], size=(1, count, 2)) + steps, 0, 1000).astype(np.float32)
    track, frame = (
        np.tile(np.arange(count, dtype=np.int32), frames),
        np.repeat(np.arange(frames, dtype=np.int32), count),
    )
    found = adjusted(guess(frames), Tracks(track, frame, position.reshape(-1, 2), (HEIGHT, WIDTH), frames))
    assert not found.is_used and found.report["explained"] < 0.15
    assert "no static world" in found.warning


def test_numbers_of_tracks_may_have_gaps() -> None:
    poses = path(16)
    tracks, _, _ = scene(poses, noise=0.2)
    gaps = replace(tracks, track=(3 * tracks.track + 1).astype(np.int32))
    found = adjusted(guess(16), gaps)
    assert found.is_used and ate(found, poses) < 0.1


def video_of(tracks: Tracks, config: BundleConfig | None = None, poses: np.ndarray | None = None) -> TrackedVideo:
    draft = guess(tracks.num_frames, poses=poses)
    return TrackedVideo(draft.cameras, draft.dense.log_depth.exp(), tracks, config or BundleConfig(), 0.2)


def views_of(tracks: Tracks) -> Views:
    return video_of(tracks).views


def test_what_is_expected_of_motion_is_less_sure_between_frames_far_apart() -> None:
    """As a random walk: sqrt(g) over g frames, and not more of a step for being long."""
    poses = path(12)
    every = video_of(scene(poses)[0], poses=poses)
    some = every.at(np.array([0, 1, 4, 11]))
    by_frame, by_keyframe = every.evidence.motion, some.evidence.motion
    walk = np.sqrt([1.0, 3.0, 7.0])
    assert by_frame is not None and by_keyframe is not None
    np.testing.assert_allclose(by_frame.rotation_sigma, np.deg2rad(0.4))
    np.testing.assert_allclose(by_keyframe.rotation_sigma, np.deg2rad(0.4) * walk)
    length = by_keyframe.step.norm(dim=1).numpy()
    np.testing.assert_allclose(by_keyframe.step_sigma, length + 0.01 * walk)
    np.testing.assert_allclose(some.evidence.zoom_sigma, 0.01 * walk)


def test_keyframes_are_near_where_much_moves_and_never_far_apart() -> None:
    slow, fast = (
        views_of(scene(path(40, shift=shift, turn_deg=turn))[0]) for shift, turn in ((0.05, 1.0), (2.0, 80.0))
    )
    config = ViewsConfig()
    few, many = choose_keyframes(slow, config), choose_keyframes(fast, config)
    assert len(few) < len(many)
    for frames in (few, many):
        assert frames[0] == 0 and frames[-1] == 39 and np.diff(frames).max() <= config.keyframe_gap


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.6])
def test_the_noise_of_following_is_measured(noise: float) -> None:
    """Within a third, also where a fifth of the points move."""
    views = views_of(scene(path(24, shift=1.0), noise=noise, moving=0.2)[0])
    found = tracking_noise(views, choose_keyframes(views, ViewsConfig()), ViewsConfig())
    assert found * WIDTH == pytest.approx(noise, rel=0.35)


def test_crowds_are_thinned_out_and_the_longest_tracks_stay() -> None:
    tracks, _, _ = scene(path(12), points=3000)
    config = replace(ViewsConfig(), most_in_cell=2)
    found = thinned(tracks, config)
    length = [np.bincount(t.track) for t in (tracks, found)]
    assert len(found.track) < 0.5 * len(tracks.track) and np.median(length[1]) >= np.median(length[0])
    side = WIDTH / config.cells
    cells = np.floor(found.position / side).astype(int)
    _, count = np.unique(np.column_stack([found.frame, cells]), axis=0, return_counts=True)
    assert np.quantile(count, 0.9) <= 3 * config.most_in_cell


def test_what_is_explained_beyond_chance_falls_with_what_moves() -> None:
    still, half = (adjusted(guess(16), scene(path(16), noise=0.2, moving=moving)[0]).report for moving in (0.0, 0.5))
    assert still["explained"] > 0.9 > half["explained"] > 0.3 and still["beyond_chance"] > half["beyond_chance"] > 0


def test_rotations_are_as_good_as_before_where_the_network_is_right() -> None:
    poses = path(24)
    tracks, _, _ = scene(poses, noise=0.3, moving=0.3)
    found = adjusted(guess(24, poses=poses), tracks)
    result = found.cameras(0.0).cam_to_world.numpy() if found.is_used else poses
    assert pose_metrics(result, poses).rpe_rotation_deg < 0.15


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        (ViewsConfig, "cells"),
        (ViewsConfig, "keyframe_gap"),
        (ViewsConfig, "least_noise"),
        (MappingConfig, "most_starts"),
        (MappingConfig, "growth"),
    ],
)
def test_numbers_that_cannot_work_are_refused(settings: type, number: str) -> None:
    with pytest.raises(ConfigError, match=number):
        settings(**{number: type(getattr(settings(), number))(0)})
