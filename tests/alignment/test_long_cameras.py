"""Cameras of long videos: memory that grows with the tracks alone, and maps that are those of looking at everything."""

import math
import tracemalloc

import numpy as np
import pytest
import torch

from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.bundle.evidence import Evidence, State
from geo4d.alignment.bundle.mapping import Map, Pair, ranges, triangulate
from geo4d.alignment.bundle.system import BundleSystem, Free
from geo4d.alignment.bundle.views import Views

FOCAL = 0.9


def walk(frames: int, *, noise: float = 0.0, per_frame: int = 4) -> tuple[Views, np.ndarray, np.ndarray]:
    """Points along a corridor that a camera walks through: what is seen, centres (t, 3) and points (n, 3)."""
    rng = np.random.default_rng(0)
    count = per_frame * (frames + 40)
    points = np.stack(
        [rng.uniform(-2, 2, count), rng.uniform(-1.5, 1.5, count), rng.uniform(1, 0.1 * frames + 5, count)], axis=1
    )
    centre = np.stack([0.2 * np.sin(0.1 * np.arange(frames)), np.zeros(frames), 0.1 * np.arange(frames)], axis=1)
    frame, point, pixel = [], [], []
    for number, here in enumerate(centre):
        local = points - here
        slope = local[:, :2] / local[:, 2:]
        seen = np.flatnonzero((local[:, 2] > 0.4) & (local[:, 2] < 5) & (np.abs(slope) < 0.5).all(1))
        frame.append(np.full(len(seen), number))
        point.append(seen)
        pixel.append(FOCAL * slope[seen] + noise * rng.normal(size=(len(seen), 2)))
    views = Views(np.concatenate(point), np.concatenate(frame), np.concatenate(pixel), count, frames)
    return views, centre, points


def test_a_step_of_600_frames_holds_its_band_and_little_else() -> None:
    """Of numpy, in which the cameras' system is held: once, and with one group of points beside it."""
    views, centre, points = walk(600)
    none, nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
    observed = torch.from_numpy(views.point), torch.from_numpy(views.frame), torch.from_numpy(views.pixel)
    evidence = Evidence(
        *observed, none, none, nothing, nothing, math.log(FOCAL), 0.2, 1e-3, BundleConfig(), num_points=len(points)
    )
    rotation = torch.eye(3, dtype=torch.float64).repeat(600, 1, 1)
    log_focal = torch.full((600,), math.log(FOCAL), dtype=torch.float64)
    state = State(rotation, torch.from_numpy(centre), log_focal, torch.from_numpy(points) + 0.01)
    system = BundleSystem(evidence, state, 1e-3, torch.ones(len(points), dtype=torch.float64), Free("shared"))
    unknowns = system.elimination.unknowns(system.free.is_free(600))
    band = 8 * 6 * 599 * (system.elimination.bandwidth(unknowns) + 1)
    tracemalloc.start()
    try:
        assert system.step(torch.tensor([1e-3], dtype=torch.float64)) is not None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert band < 8 * (6 * 600) ** 2 / 5  # a whole matrix is more
    assert peak < 1.3 * band + 8e6, (peak, band)


class PlainMap(Map):
    """Looks through all points and all keyframes each time."""

    def _table(self) -> np.ndarray:
        table = np.full((len(self.frames), self.views.num_points), -1)
        for k, rows in enumerate(self.seen):
            table[k, self.views.point[rows]] = rows
        return table

    def _next(self, failed: dict[int, int]) -> int | None:
        table, known, placed = self._table(), np.isfinite(self.points[:, 0]), np.array(list(self.cam_to_world))
        best, chosen = -math.inf, None
        for k in range(len(self.frames)):
            if k in self.cam_to_world or failed.get(k, 0) > len(self.cam_to_world):
                continue
            seen = int(((table[k] >= 0) & known).sum())
            away = self.settings.away * np.abs(placed - k).min()
            score = min(seen, self.settings.plenty) - away + seen / self.views.num_points
            if score > best:
                best, chosen = score, k
        return chosen

    def _triangulate(self) -> None:
        table, placed = self._table(), np.array(sorted(self.cam_to_world))
        seen = table[placed] >= 0
        new = np.flatnonzero(np.isnan(self.points[:, 0]) & (seen.sum(0) >= 2))
        if not len(new):
            return
        poses = np.stack([self.cam_to_world[k] for k in placed])
        point, camera = np.nonzero(seen[:, new].T)
        pixel = self.views.pixel[table[placed[camera], new[point]]]
        points, angle, worst = triangulate(point, camera, pixel, poses, math.exp(self.log_focal), count=len(new))
        good = (angle > math.radians(self.settings.least_angle_deg)) & (worst < 2 * self.tolerance)
        self.points[new[good]] = points[good]


def test_a_map_is_that_of_looking_at_all_points_and_keyframes() -> None:
    views, centre, _ = walk(120, noise=5e-4, per_frame=20)
    wrong = np.random.default_rng(1).random(len(views.point)) < 0.02
    views.pixel[wrong] += 0.05  # so that points are forgotten, and found again
    frames = np.arange(0, 120, 5)
    first_to_second = np.eye(4)
    step = centre[frames[5]] - centre[frames[7]]
    first_to_second[:3, 3] = step / np.linalg.norm(step)
    found, plain = (
        kind(views, frames, math.log(FOCAL), 0.1, 5e-4, BundleConfig()).grow(Pair(5, 7, first_to_second, 1.0))
        for kind in (Map, PlainMap)
    )
    assert list(found.cam_to_world) == list(plain.cam_to_world) and len(found.cam_to_world) == len(frames)
    for k, pose in plain.cam_to_world.items():
        np.testing.assert_allclose(found.cam_to_world[k], pose, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(np.isfinite(found.points), np.isfinite(plain.points))
    np.testing.assert_allclose(found.points, plain.points, rtol=1e-9, atol=1e-9)
    assert 0.3 < np.isfinite(found.points[:, 0]).mean()


def test_what_two_frames_share_is_by_the_number_of_the_track() -> None:
    point, frame = np.array([4, 2, 9, 9, 1, 4, 3]), np.array([0, 0, 0, 1, 1, 1, 2])
    views = Views(point, frame, np.zeros((7, 2)), 10, 4)
    before, here = views.shared(0, 1)
    assert before.tolist() == [2, 0] and here.tolist() == [3, 5]
    assert [len(each) for each in views.shared(0, 2)] == [0, 0] == [len(each) for each in views.shared(3, 1)]


@pytest.mark.parametrize("ends", [[], [3], [2, 5, 5, 7]])
def test_ranges_are_laid_one_after_another(ends: list[int]) -> None:
    starts = np.array([0, *ends])[: len(ends)]
    number, which = ranges(starts, np.array(ends, int))
    assert number.tolist() == list(range(ends[-1] if ends else 0))
    assert which.tolist() == [k for k, (a, b) in enumerate(zip(starts, ends, strict=True)) for _ in range(a, b)]
