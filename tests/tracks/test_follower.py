"""Points followed against the true motion of what slides, the tracker's settings, and the files of tracks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geo4d.errors import ConfigError, InputError
from geo4d.matching import xfeat
from geo4d.matching.features import FeatureConfig, detect
from geo4d.scene import Tracks
from geo4d.scene.files.tracks import load_tracks, save_tracks
from geo4d.tracks import LoopClosureConfig, PointFollower, TrackerConfig, follower, track_points
from geo4d.tracks.config import FindConfig, LeapConfig


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours."""
    import cv2

    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2).astype(np.float64)
    return ((blurred - blurred.min()) / (blurred.max() - blurred.min()) * 255).astype(np.uint8)


def sliding(
    frames: int = 12, height: int = 120, width: int = 160, step: tuple[float, float] = (1.25, -0.5)
) -> np.ndarray:
    """A texture that slides by a fraction of a pixel each frame."""
    import cv2

    image = texture(height + 60, width + 60)
    moves = [np.float64([[1, 0, k * step[0] - 30], [0, 1, k * step[1] - 30]]) for k in range(frames)]
    return np.stack([cv2.warpAffine(image, move, (width, height), flags=cv2.INTER_CUBIC) for move in moves])


@pytest.mark.parametrize("size", [(120, 160), (240, 426)])
def test_points_follow_what_slides(size: tuple[int, int]) -> None:
    tracks = track_points(sliding(height=size[0], width=size[1]))
    assert tracks.num_frames == 12
    assert tracks.source_size == size
    assert tracks.num_tracks > 40
    assert np.bincount(tracks.frame, minlength=12).min() > 25
    order = np.lexsort((tracks.frame, tracks.track))
    track, frame, position = tracks.track[order], tracks.frame[order], tracks.position[order]
    first = np.r_[True, np.diff(track) > 0]
    start = np.maximum.accumulate(np.where(first, np.arange(len(track)), 0))
    moved = position - position[start]
    expected = (frame - frame[start])[:, None] * np.array([1.25, -0.5])
    error = np.linalg.norm(moved - expected, axis=1)
    assert np.median(error) < 0.05
    assert np.quantile(error, 0.95) < 0.3
    assert error[frame - frame[start] > 8].mean() < 0.2  # errors do not add up


def leaping(frames: int = 5, shift: float = 55.0, turn_deg: float = 14.0) -> np.ndarray:
    """A texture that jumps and turns by far more than a follower's window from frame to frame."""
    import cv2

    image = texture(600, 700, seed=3)
    moves = [
        cv2.getRotationMatrix2D((350, 300), turn_deg * k, 1.0) + [[0, 0, shift * k - 230], [0, 0, -180]]
        for k in range(frames)
    ]
    return np.stack([cv2.warpAffine(image, move, (240, 240), flags=cv2.INTER_LINEAR) for move in moves])


def test_points_are_found_again_after_leaps() -> None:
    """Where most are lost from one frame to the next, features find many, and they are where the picture shows them."""
    frames = leaping()
    lost = track_points(frames, TrackerConfig(leaps=None, min_length=2))
    tracks = track_points(frames, TrackerConfig(min_length=2))
    assert len(tracks.track) > 3 * len(lost.track) and np.bincount(tracks.frame).min() > 20
    centre, turn = np.array([350.0, 300.0]), np.radians(14.0)
    offset = tracks.position - 0.5 - centre - np.outer(tracks.frame, [55.0, 0.0]) + [230.0, 180.0]
    cosine, sine = np.cos(turn * tracks.frame), np.sin(turn * tracks.frame)
    place = np.stack([cosine * offset[:, 0] - sine * offset[:, 1], sine * offset[:, 0] + cosine * offset[:, 1]], axis=1)
    mean = np.zeros((tracks.num_tracks, 2))
    np.add.at(mean, tracks.track, place)
    mean /= np.bincount(tracks.track)[:, None]
    error = np.linalg.norm(place - mean[tracks.track], axis=1)
    assert np.median(error) < 0.3 and np.quantile(error, 0.9) < 1.0


def test_features_are_detected_once_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pairs a frame is in."""
    seen = []
    monkeypatch.setattr(follower, "detect", lambda image, config: seen.append(image) or detect(image, config))
    track_points(leaping(), TrackerConfig(closures=None))
    assert len(seen) == 5 and len({id(image) for image in seen}) == 5


def test_without_weights_the_follower_says_that_it_takes_sift(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert PointFollower().warnings == ()
    monkeypatch.setattr(xfeat, "WEIGHTS", tmp_path / "none.safetensors")
    assert "SIFT" in PointFollower().warnings[0]
    assert PointFollower(TrackerConfig(leaps=None, closures=None)).warnings == ()
    sift = FindConfig(features=FeatureConfig(kind="sift"))
    by_sift = TrackerConfig(leaps=LeapConfig(again=sift), closures=LoopClosureConfig(again=sift))
    assert PointFollower(by_sift).warnings == ()


def test_nothing_leaps_over_a_cut() -> None:
    frames = np.concatenate([sliding(6), sliding(6)[:, ::-1, ::-1]])
    frames[6:] = 255 - texture(120, 160, seed=8)
    tracks = track_points(frames)
    first, last = np.full(tracks.num_tracks, 99), np.zeros(tracks.num_tracks, int)
    np.minimum.at(first, tracks.track, tracks.frame)
    np.maximum.at(last, tracks.track, tracks.frame)
    assert tracks.num_tracks > 40 and not ((first < 6) & (last >= 6)).any()


def test_positions_count_from_the_corner_of_the_pixel() -> None:
    """A white dot in the middle of a pixel has .5 in its coordinates, at whatever size it is tracked."""
    frame = np.full((60, 80, 3), 40, np.uint8)
    frame[29:32, 39:42] = 250
    tracks = track_points([frame] * 6, TrackerConfig(blur=0.0))
    near = tracks.position[np.linalg.norm(tracks.position - [40.5, 30.5], axis=1) < 6]
    assert len(near)
    np.testing.assert_allclose(near.mean(axis=0), [40.5, 30.5], atol=0.4)


def test_empty_regions_are_filled_again() -> None:
    """A hundred pixels further on nothing of the first frame is left."""
    tracks = track_points(sliding(frames=30, step=(6.0, 0.0)))
    assert set(tracks.frame.tolist()) == set(range(30))
    assert tracks.frame[np.unique(tracks.track, return_index=True)[1]].max() > 10


def test_nothing_to_follow() -> None:
    grey = np.full((8, 60, 80, 3), 128, np.uint8)
    assert track_points(grey).num_tracks == 0
    flicker = np.random.default_rng(0).integers(0, 256, (8, 60, 80, 3), dtype=np.uint8)
    assert track_points(flicker).num_tracks < 10
    assert PointFollower().tracks().num_frames == 0


def test_bad_input_is_refused() -> None:
    tracker = PointFollower()
    with pytest.raises(InputError, match="uint8 frames"):
        tracker.add(np.zeros((4, 4, 3)))
    tracker.add(np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(InputError, match="of one size"):
        tracker.add(np.zeros((40, 44, 3), np.uint8))
    with pytest.raises(InputError, match="frames from 0 to 1"):
        Tracks(np.zeros(1, np.int32), np.full(1, 2, np.int32), np.zeros((1, 2), np.float32), (4, 4), 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 3}, "window >= 5"),
        ({"spacing": 1}, "spacing >= 2"),
        ({"min_side": 700}, "max_side >= min_side"),
        ({"min_side": 0}, "min_side >= 16"),
        ({"levels": -1}, "levels"),
        ({"max_cycle_error": 0.0}, "max_cycle_error"),
        ({"quality": 0.0}, "quality"),
        ({"corner_block": 0}, "corner_block"),
        ({"blur": -1.0}, "blur"),
        ({"blur": float("nan")}, "blur"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrackerConfig(**settings)


def test_files_of_ours_and_of_others(tmp_path: Path) -> None:
    tracks = track_points(sliding())
    save_tracks(tmp_path / "t.npz", tracks)
    again = load_tracks(tmp_path / "t.npz")
    for name in ("track", "frame", "position"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tracks, name))
    assert (again.source_size, again.num_frames) == (tracks.source_size, tracks.num_frames)
    points = np.full((tracks.num_tracks, 12, 2), np.nan)
    points[tracks.track, tracks.frame] = tracks.position
    np.savez(tmp_path / "dense.npz", points=points, visible=np.isfinite(points[..., 0]), source_size=tracks.source_size)
    dense = load_tracks(tmp_path / "dense.npz")
    assert (dense.num_tracks, dense.num_frames, len(dense.track)) == (tracks.num_tracks, 12, len(tracks.track))
    np.savez(tmp_path / "bad.npz", points=points)
    with pytest.raises(InputError, match="source_size"):
        load_tracks(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", points=points, source_size=tracks.source_size)
    with pytest.raises(InputError, match="or points"):
        load_tracks(tmp_path / "bad.npz")
    (tmp_path / "bad.npz").write_text("no")
    with pytest.raises(InputError, match="cannot be read"):
        load_tracks(tmp_path / "bad.npz")
