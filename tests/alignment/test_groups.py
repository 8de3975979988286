"""What moves as rigid bodies is found among what a static world does not explain, and costs no cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_bundle import FOCAL, HEIGHT, WIDTH, guess, path, scene
from test_cameras_alone import adjusted, ate

from geo4d.alignment.bundle.adjust import solve_bundle
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.bundle.groups import Groups, find_groups
from geo4d.alignment.bundle.starts import TrackedVideo
from geo4d.alignment.bundle.system import Free
from geo4d.scene import Tracks

FRAMES = 24


def body(
    poses: np.ndarray, centre: np.ndarray, *, points: int = 150, half: float = 0.8, noise: float = 0.2, length: int = 99
) -> Tracks:
    """Tracks on a box whose centre is at (t, 3) in the world, each of at most `length` frames."""
    rng = np.random.default_rng(4)
    inside = rng.uniform(-half, half, (points, 3))
    start = rng.integers(1 - min(length, len(poses)), len(poses), points) if length < len(poses) else np.zeros(points)
    rows = []
    for frame, pose in enumerate(poses):
        local = (inside + centre[frame] - pose[:3, 3]) @ pose[:3, :3]
        pixel = FOCAL * local[:, :2] / local[:, 2:] + [WIDTH / 2, HEIGHT / 2] + noise * rng.normal(size=(points, 2))
        seen = (local[:, 2] > 0.3) & (pixel > 1).all(1) & (pixel < [WIDTH - 1, HEIGHT - 1]).all(1)
        seen &= (frame >= start) & (frame < start + length)
        rows.append(np.column_stack([np.flatnonzero(seen), np.full(seen.sum(), frame), pixel[seen]]))
    table = np.concatenate(rows)
    _, track = np.unique(table[:, 0], return_inverse=True)
    frames = table[:, 1].astype(np.int32), table[:, 2:].astype(np.float32)
    return Tracks(track.astype(np.int32), *frames, (HEIGHT, WIDTH), len(poses))


def together(*parts: Tracks) -> tuple[Tracks, np.ndarray]:
    """All tracks in the order of the frames, and which part each is of. What a later part hides is not cut out."""
    first = np.cumsum([0, *[part.num_tracks for part in parts]])
    track, frame, position = (
        np.concatenate([part.track + k for part, k in zip(parts, first, strict=False)]),
        np.concatenate([part.frame for part in parts]),
        np.concatenate([part.position for part in parts]),
    )
    order = np.argsort(frame, kind="stable")
    rows = track[order].astype(np.int32), frame[order], position[order]
    return Tracks(*rows, (HEIGHT, WIDTH), parts[0].num_frames), np.repeat(np.arange(len(parts)), np.diff(first))


def in_front(world: Tracks, thing: Tracks) -> Tracks:
    """What of a world is not behind a thing: outside the box around it in each frame."""
    low, high = np.full((world.num_frames, 2), np.inf), np.full((world.num_frames, 2), -np.inf)
    np.minimum.at(low, thing.frame, thing.position)
    np.maximum.at(high, thing.frame, thing.position)
    hidden = ((world.position > low[world.frame]) & (world.position < high[world.frame])).all(1)
    rows = world.track[~hidden], world.frame[~hidden], world.position[~hidden]
    _, track = np.unique(rows[0], return_inverse=True)
    return replace(world, track=track.astype(np.int32), frame=rows[1], position=rows[2])


def groups_of(tracks: Tracks, poses: np.ndarray) -> tuple[Groups, np.ndarray]:
    """Beside the static world that true cameras see, and which tracks it explains."""
    draft = guess(len(poses), poses=poses)
    video = TrackedVideo(draft.cameras, draft.dense.log_depth.exp(), tracks, BundleConfig(), 0.2)
    free = Free(focal="held", cameras=False)
    solution = solve_bundle(video.evidence, video.lifted(), iterations=15, free=free)
    believed = (solution.track_weight > 0.5).numpy()
    return find_groups(video.views, video.evidence, solution), believed


def across(centre: tuple[float, float, float], velocity: tuple[float, float, float]) -> np.ndarray:
    """(t, 3) of a thing that goes straight on, seen at its centre in the middle of the video."""
    return np.array(centre) + (np.arange(FRAMES)[:, None] - FRAMES / 2) * np.array(velocity)


def test_two_bodies_are_two_groups() -> None:
    """One holds a third of the points, the other few."""
    poses = path(FRAMES)
    large = body(poses, across((-0.5, 0.2, 3.0), (0.03, 0.0, 0.02)), points=150, half=0.6)
    few = body(poses, across((1.2, -0.6, 3.5), (0.0, 0.03, -0.03)), points=30, half=0.3, noise=0.1)
    world = scene(poses, points=300, noise=0.2)[0]
    tracks, part = together(in_front(in_front(world, large), few), large, few)
    found, _ = groups_of(tracks, poses)
    assert len(found.frames) == 2 and found.frames[0] == (0, FRAMES - 1)
    assert [row["tracks"] for row in found.report()] == [(found.number == k).sum() for k in range(2)]
    for group, own in enumerate((1, 2)):
        members = found.number == group
        assert (part[members] == own).mean() > 0.9 and members[part == own].mean() > 0.8
    assert found.members[part == 0].mean() < 0.1  # at the edges of the boxes


@pytest.mark.parametrize("moving", [0.0, 0.3])
@pytest.mark.parametrize(("shift", "turn_deg"), [(0.6, 8.0), (0.0, 20.0), (0.0, 0.0)])
def test_a_static_scene_and_points_that_go_their_own_ways_are_no_groups(
    moving: float, shift: float, turn_deg: float
) -> None:
    poses = path(FRAMES, shift=shift, turn_deg=turn_deg)
    tracks, _, _ = scene(poses, noise=0.2, moving=moving)
    found, believed = groups_of(tracks, poses)
    assert not found.frames and not found.members.any()
    assert (~believed).mean() >= 0.6 * moving


def test_noise_is_no_group() -> None:
    """Tracks that drift by random steps, beside others that stand still."""
    poses, rng = path(FRAMES), np.random.default_rng(3)
    tracks, _, _ = scene(poses, noise=0.2)
    drift = rng.normal(0, 1.0, (tracks.num_tracks, FRAMES, 2)).cumsum(1)
    drift[::2] = 0.0
    noisy = replace(tracks, position=(tracks.position + drift[tracks.track, tracks.frame]).astype(np.float32))
    found, believed = groups_of(noisy, poses)
    assert not found.frames and (~believed).mean() > 0.3


def test_a_body_before_a_camera_that_only_turns() -> None:
    poses = path(FRAMES, shift=0.0, turn_deg=12.0)
    thing = body(poses, across((0.0, 0.2, 3.0), (0.03, 0.0, 0.0)), points=100, half=0.6)
    tracks, part = together(in_front(scene(poses, noise=0.2)[0], thing), thing)
    found, _ = groups_of(tracks, poses)
    assert len(found.frames) == 1
    assert found.members[part == 1].mean() > 0.7 and found.members[part == 0].mean() < 0.1


def test_a_group_rescues_the_cameras() -> None:
    """A vehicle ahead goes to and fro in the camera's direction while all else is far, then aside past what is near.

    At first nothing says that it moves, and it would drive the camera: the error of the path would be .042.
    """
    frames = np.arange(32)
    poses = np.tile(np.eye(4), (32, 1, 1))
    poses[:, 0, 3], poses[:, 2, 3] = 0.05 * np.sin(0.3 * frames), 0.05 * frames
    near = scene(poses, points=160, noise=0.05)[0]
    later = near.frame >= 12
    near = replace(near, track=near.track[later], frame=near.frame[later], position=near.position[later])
    far = body(poses, np.tile([0.0, 0.0, 60.0], (32, 1)), points=120, half=25.0, noise=0.05)
    velocity = np.zeros((32, 3))
    velocity[:, 2], velocity[14:, 0] = 0.05 * (1 + 2.0 * np.sin(0.5 * frames)), 0.12
    centre = np.array([-0.4, 0.0, 3.0]) + velocity.cumsum(0)
    vehicle = body(poses, centre, points=350, half=0.6, length=14)
    found = adjusted(guess(32), together(in_front(near, vehicle), in_front(far, vehicle), vehicle)[0])
    assert found.is_used and len(found.report["groups"]) == 1
    assert ate(found, poses) < 0.025
    assert (found.followed().is_static == 0).sum() > 1000
