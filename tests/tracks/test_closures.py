"""Points that come back into view: found again where they are, and never where something only looks alike."""

import numpy as np
import pytest

from geo4d.errors import ConfigError
from geo4d.matching.features import FeatureConfig
from geo4d.synthetic import SceneConfig, render_clips, scene_seed
from geo4d.synthetic.staging import Staging
from geo4d.tracks import LoopClosureConfig, TrackerConfig, track_points
from geo4d.tracks.config import FindConfig, LeapConfig

OUT = 40  # frames until the camera turns back


@pytest.fixture(scope="module")
def there_and_back():
    """A camera that looks about in a room, and back the same way: frame i is frame 2 (OUT - 1) - i."""
    config = SceneConfig(1.0, 0.0, (45.0, 70.0), compression=False, staging=Staging(camera="pan", is_still=True))
    clip = render_clips([scene_seed(66, 0)], num_frames=OUT, size=(144, 192), frame_step=3, config=config)
    frames = clip.rgb[0].mul(255).round().byte().numpy()
    return np.concatenate([frames, frames[-2::-1]])


def with_gaps(tracks):
    """Frames and positions of the tracks that were lost and found again."""
    found = []
    for number in np.unique(tracks.track):
        rows = tracks.track == number
        if (np.diff(tracks.frame[rows]) > 1).any():
            found.append((tracks.frame[rows], tracks.position[rows]))
    return found


def test_lost_points_are_found_where_they_were(there_and_back):
    tracks = track_points(there_and_back)
    found = with_gaps(tracks)
    assert len(found) > 50
    errors = []
    for frame, position in found:
        gap = int(np.flatnonzero(np.diff(frame) > 1)[0])
        first = dict(zip(frame[: gap + 1].tolist(), position[: gap + 1], strict=True))
        for later, place in zip(frame[gap + 1 :].tolist(), position[gap + 1 :], strict=True):
            if 2 * (OUT - 1) - later in first:
                errors.append(np.linalg.norm(place - first[2 * (OUT - 1) - later]))
    assert len(errors) > 200 and np.mean(np.array(errors) < 2) > 0.95 and np.median(errors) < 0.3
    pairs = np.stack([tracks.track, tracks.frame])
    assert np.unique(pairs, axis=1).shape == pairs.shape  # no track is twice in a frame


def test_the_same_video_gives_the_same_tracks(there_and_back):
    first, second = (track_points(there_and_back[::3]) for _ in range(2))
    assert np.array_equal(first.track, second.track) and np.array_equal(first.position, second.position)


def test_without_loop_closures_what_is_lost_stays_lost(there_and_back):
    assert not with_gaps(track_points(there_and_back, TrackerConfig(closures=None)))


def checkers(offset):
    """Squares of 12 pixels with a colour gradient that moves along, seen `offset` pixels to the right."""
    v, u = np.mgrid[0:96, 0:160]
    board = ((u + offset) // 12 + v // 12) % 2
    return np.repeat((60 + 120 * board).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.mark.parametrize(
    "frame",
    [
        lambda i: checkers(3 * i),
        lambda i: np.full((96, 160, 3), 90, np.uint8),
        lambda i: np.random.default_rng(i).integers(0, 255, (96, 160, 3), dtype=np.uint8),
    ],
    ids=["squares that repeat", "nothing to see", "noise"],
)
def test_what_only_looks_alike_closes_no_loop(frame):
    assert not with_gaps(track_points(frame(i) for i in range(50)))


def test_a_camera_that_stands_still_finds_points_where_they_were(there_and_back):
    """Noise loses some, and what is found again of them has not moved."""
    still = (
        np.random.default_rng(0)
        .normal(there_and_back[0], 2.0, (40, *there_and_back[0].shape))
        .clip(0, 255)
        .astype(np.uint8)
    )
    tracks = track_points(still)
    away = [np.linalg.norm(position - position[0], axis=1) for _, position in with_gaps(tracks)]
    assert not away or np.quantile(np.concatenate(away), 0.95) < 1.0
    by_sift = [FindConfig(features=FeatureConfig(*sizes, kind="sift")) for sizes in ((), (1500, 640))]
    config = TrackerConfig(closures=LoopClosureConfig(again=by_sift[0]), leaps=LeapConfig(again=by_sift[1]))
    assert not with_gaps(track_points(still, config))


def test_another_scene_closes_no_loop(there_and_back):
    """After a cut to another room nothing is found again."""
    config = SceneConfig(1.0, 0.0, (45.0, 70.0), compression=False, staging=Staging(camera="pan", is_still=True))
    other = (
        render_clips([scene_seed(66, 9)], num_frames=24, size=(144, 192), config=config)
        .rgb[0]
        .mul(255)
        .round()
        .byte()
        .numpy()
    )
    found = with_gaps(track_points(np.concatenate([there_and_back[:24], other])))
    assert not [frames for frames, _ in found if frames[0] < 24 <= frames[-1]]


@pytest.mark.parametrize(
    "settings", [{"interval": 0}, {"min_gap": 4}, {"candidates": 0}, {"words": 0}, {"max_shared": 1.5}]
)
def test_settings_that_cannot_work(settings):
    with pytest.raises(ConfigError, match="loop closures need"):
        LoopClosureConfig(**settings)
