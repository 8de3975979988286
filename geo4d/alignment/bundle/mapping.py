"""Cameras and points of keyframes from the tracks alone, in an arbitrary unit: incremental mapping from two views.

Two keyframes with parallax give the first cameras (essential matrix) and points; the others are placed one by one by
the points that they see (perspective-n-point), new points are triangulated, and bundle adjustment follows the growth.
Which pair was lucky shows only at the end (a plane has two readings, few points have many), so that several are tried
by whoever asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from geo4d.alignment.bundle.adjust import QUICK, solve_bundle
from geo4d.alignment.bundle.config import BundleConfig, MappingConfig
from geo4d.alignment.bundle.evidence import Evidence, State, residuals, track_square
from geo4d.alignment.bundle.system import Free
from geo4d.alignment.bundle.views import Views
from geo4d.geometry.consensus import consensus_camera, consensus_homography, consensus_pose


@dataclass(frozen=True)
class Pair:
    """Two keyframes as the start of a map."""

    first: int
    second: int
    first_to_second: np.ndarray  # (4, 4), a translation of length 1
    score: float


@dataclass
class Map:
    """Cameras and points as they grow."""

    views: Views
    frames: np.ndarray  # (k,) the keyframes
    log_focal: float
    log_focal_sigma: float  # of what is known of it beforehand
    noise: float
    config: BundleConfig
    cam_to_world: dict[int, np.ndarray] = field(default_factory=dict)  # by number of the keyframe
    points: np.ndarray = field(init=False)  # (n, 3), nan where there is none

    def __post_init__(self) -> None:
        self.points = np.full((self.views.num_points, 3), np.nan)
        self.seen = [self.views.sorted_rows(frame) for frame in self.frames.tolist()]  # observations by keyframe
        rows = np.concatenate([*self.seen, np.zeros(0, int)])
        keyframe = np.repeat(np.arange(len(self.frames)), [len(rows) for rows in self.seen])
        order = np.argsort(self.views.point[rows], kind="stable")  # by point, and the keyframes of each in their order
        self.by_point = rows[order], keyframe[order]
        self.starts = np.searchsorted(self.views.point[rows[order]], np.arange(self.views.num_points + 1))
        self.prior_log_focal = self.log_focal
        self.is_placed = np.zeros(len(self.frames), bool)
        self.changed: set[int] = set()  # cameras that were placed or moved since points were triangulated
        self.forgotten = np.zeros(0, int)  # points that an adjustment has taken since

    @property
    def settings(self) -> MappingConfig:
        """Those of mapping alone."""
        return self.config.mapping

    @property
    def tolerance(self) -> float:
        """Residual up to which an observation agrees with a camera."""
        return self.settings.agreement * self.noise

    def grow(self, pair: Pair) -> Map:
        """From two views to as many as can be placed."""
        self._put(pair.first, np.eye(4))
        self._put(pair.second, np.linalg.inv(pair.first_to_second))
        self._triangulate()
        self._adjust(iterations=6, focal="held")
        adjusted_at, failed = 2, dict[int, int]()
        while (k := self._next(failed)) is not None:
            if not self._place(k):
                failed[k] = len(self.cam_to_world) + self.settings.patience
                continue
            self._triangulate()
            if len(self.cam_to_world) < self.settings.growth * adjusted_at:
                near = sorted(self.cam_to_world, key=lambda other, k=k: abs(other - k))
                moving, around = near[: self.settings.local], near[self.settings.local : self.settings.local + 2]
                self._adjust(iterations=3, focal="held", moving=moving, around=around)
            else:
                adjusted_at = len(self.cam_to_world)
                self._adjust(iterations=5, focal="shared" if adjusted_at >= self.settings.free_focal_from else "held")
            self._triangulate()
        self._adjust(iterations=25)
        self._triangulate()
        return self

    def _next(self, failed: dict[int, int]) -> int | None:
        """The keyframe that sees most points, rather a near one; None if none is left that may be placed.

        Near ones are looked at first, until those farther off could not be chosen whatever they see.
        """
        c, count = self.settings, len(self.cam_to_world)
        candidates = np.flatnonzero(~self.is_placed)
        candidates = candidates[[failed.get(k, 0) <= count for k in candidates.tolist()]]
        placed = np.flatnonzero(self.is_placed)
        after = np.searchsorted(placed, candidates).clip(1, len(placed) - 1)
        away = np.minimum(np.abs(candidates - placed[after - 1]), np.abs(candidates - placed[after]))
        best, chosen = -math.inf, None
        for index in np.lexsort((candidates, away)):
            if c.plenty + 1 - c.away * away[index] < best:
                break
            k = int(candidates[index])
            seen = int(np.isfinite(self.points[self.views.point[self.seen[k]], 0]).sum())
            score = min(seen, c.plenty) - c.away * away[index] + seen / self.views.num_points
            if score > best or (score == best and chosen is not None and k < chosen):
                best, chosen = score, k
        return chosen

    def _place(self, k: int) -> bool:
        """A camera by the points that it sees; whether enough of them agree."""
        rows = self.seen[k][np.isfinite(self.points[self.views.point[self.seen[k]], 0])]
        points = self.points[self.views.point[rows]]
        rays = self.views.pixel[rows] / math.exp(self.log_focal)
        found = consensus_pose(points, rays, threshold=1.5 * self.tolerance / math.exp(self.log_focal))
        if found is None or found[1].sum() < max(self.settings.least_seen, self.settings.least_agreeing * len(rows)):
            return False
        self._put(k, found[0])
        return True

    def _put(self, k: int, pose: np.ndarray) -> None:
        self.cam_to_world[k] = pose
        self.is_placed[k] = True
        self.changed.add(k)

    def _triangulate(self) -> None:
        """New points, where rays from several cameras meet before all of them at an angle that tells how far.

        Points of which no camera has changed since are left out: they would be what they were.
        """
        near = [self.views.point[self.seen[k]] for k in self.changed]
        new = np.unique(np.concatenate([*near, self.forgotten]))
        self.changed, self.forgotten = set(), np.zeros(0, int)
        new = new[np.isnan(self.points[new, 0])]
        index, point = ranges(self.starts[new], self.starts[new + 1])
        rows, camera = self.by_point[0][index], self.by_point[1][index]
        inside = self.is_placed[camera]
        inside &= (np.bincount(point[inside], minlength=len(new)) >= 2)[point]
        if not inside.any():
            return
        present, point = np.unique(point[inside], return_inverse=True)
        new, pixel = new[present], self.views.pixel[rows[inside]]
        placed, camera = np.unique(camera[inside], return_inverse=True)
        poses = np.stack([self.cam_to_world[k] for k in placed])
        points, angle, worst = triangulate(point, camera, pixel, poses, math.exp(self.log_focal), count=len(new))
        good = (angle > math.radians(self.settings.least_angle_deg)) & (worst < 2 * self.tolerance)
        self.points[new[good]] = points[good]

    def _adjust(
        self,
        *,
        iterations: int,
        focal: str = "shared",
        moving: list[int] | None = None,
        around: list[int] | None = None,
    ) -> None:
        """Bundle adjustment of all, or of some cameras with those around them held.

        Points that fit nowhere are forgotten.
        """
        placed = np.array(sorted(self.cam_to_world if moving is None else [*moving, *(around or [])]))
        rows = np.concatenate([self.seen[k] for k in placed])
        camera = np.repeat(np.arange(len(placed)), [len(self.seen[k]) for k in placed])
        present, point, count = np.unique(self.views.point[rows], return_inverse=True, return_counts=True)
        adjusted = (count >= 2) & np.isfinite(self.points[present, 0])
        if not adjusted.any():
            return
        rows, camera, point = (each[adjusted[point]] for each in (rows, camera, point))
        known, point = present[adjusted], (np.cumsum(adjusted) - 1)[point]
        poses = torch.from_numpy(np.stack([self.cam_to_world[k] for k in placed]))
        log_focal = torch.full((len(placed),), self.log_focal, dtype=torch.float64)
        state = State(
            poses[:, :3, :3].clone(), poses[:, :3, 3].clone(), log_focal, torch.from_numpy(self.points[known])
        )
        evidence = self._evidence(point, camera, self.views.pixel[rows])
        held = None if moving is None else torch.tensor([k not in moving for k in placed])
        found = solve_bundle(evidence, state, iterations=iterations, free=Free(focal=focal, held=held), damping=QUICK)
        for k, rotation, centre in zip(placed, found.state.rotation, found.state.centre, strict=True):
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = rotation.numpy(), centre.numpy()
            self._put(int(k), pose)
        self.log_focal = float(found.state.log_focal[0])
        size = track_square(evidence, residuals(evidence, found.state).pixel.square().sum(1)).sqrt().numpy()
        points = found.state.points.numpy().copy()
        points[size > 2 * self.tolerance] = np.nan
        self.points[known] = points
        self.forgotten = np.append(self.forgotten, known[size > 2 * self.tolerance])

    def _evidence(self, point: np.ndarray, camera: np.ndarray, pixel: np.ndarray) -> Evidence:
        """Observations, and next to nothing else; lengths are in an arbitrary unit."""
        none, nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        observed = torch.from_numpy(point), torch.from_numpy(camera), torch.from_numpy(pixel)
        return Evidence(
            *observed, none, none, nothing, nothing, self.prior_log_focal, self.log_focal_sigma, self.noise, self.config
        )


def ranges(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All numbers from each start up to its end, one after another, and of which of them (k,) each is."""
    count = ends - starts
    number = np.repeat(np.arange(len(starts)), count)
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + starts[number], number


def triangulate(
    point: np.ndarray, camera: np.ndarray, pixel: np.ndarray, cam_to_world: np.ndarray, focal: float, *, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, 3) nearest to all their rays, the widest angle (n,) between two of these, and the worst residual (n,).

    Observations (m,) are in the order of the points, of which each has one at least. The residual is infinite for what
    would lie behind a camera that sees it.
    """
    rotation, centre = cam_to_world[camera, :3, :3], cam_to_world[camera, :3, 3]
    rays = np.einsum("mij,mj->mi", rotation, np.column_stack([pixel / focal, np.ones(len(pixel))]))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    first = np.searchsorted(point, np.arange(count))
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    system, right = np.add.reduceat(across, first), np.add.reduceat(np.einsum("mij,mj->mi", across, centre), first)
    points = np.linalg.solve(system + 1e-9 * np.eye(3), right[..., None])[..., 0]
    local = np.einsum("mji,mj->mi", rotation, points[point] - centre)
    ahead = local[:, 2] > 0
    off = np.linalg.norm(focal * local[:, :2] / np.where(ahead, local[:, 2], 1.0)[:, None] - pixel, axis=1)
    return points, _widest_angle(rays, point, first), np.maximum.reduceat(np.where(ahead, off, np.inf), first)


def _widest_angle(rays: np.ndarray, point: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(n,) about the largest angle in radians between two rays of a point.

    From the first one to any, and from the farthest of those.
    """
    start = rays[first]
    for _ in range(2):
        cosine = (rays * start[point]).sum(axis=1)
        farthest = np.lexsort((cosine, point))[first]
        start = rays[farthest]
    return np.arccos(np.clip(cosine[farthest], -1, 1))


def starting_pairs(
    views: Views, frames: np.ndarray, focal: float, noise: float, config: MappingConfig
) -> Iterator[Pair]:
    """Pairs of keyframes to begin with, the most promising first, none beside another.

    Many points must agree with an essential matrix, at a large angle, and few of them with a homography: a plane, or a
    camera that only turns, leaves it undetermined.
    """
    pairs = []
    for gap in config.gaps:
        for k in range(len(frames) - gap):
            found = _pair(views, frames, (k, k + gap), focal, noise, config)
            if found is not None:
                pairs.append(found)
    taken: list[Pair] = []
    for pair in sorted(pairs, key=lambda pair: -pair.score):
        if all(max(abs(pair.first - other.first), abs(pair.second - other.second)) > 1 for other in taken):
            taken.append(pair)
            yield pair


def _pair(
    views: Views, frames: np.ndarray, which: tuple[int, int], focal: float, noise: float, config: MappingConfig
) -> Pair | None:
    before, here = views.shared(*(int(frames[k]) for k in which))
    if len(here) < config.least_shared:
        return None
    source, target, threshold = views.pixel[before], views.pixel[here], config.agreement * noise
    found = consensus_camera(source, target, focal, threshold=threshold)
    if found is None or found[3].sum() < config.least_ahead:
        return None
    rotation, translation, agree, ahead = found
    plane = consensus_homography(source, target, threshold=threshold)
    first_to_second = np.eye(4)
    first_to_second[:3, :3], first_to_second[:3, 3] = rotation, translation
    poses = np.stack([np.eye(4), np.linalg.inv(first_to_second)])
    count = int(ahead.sum())
    pixel = np.stack([source[ahead], target[ahead]], axis=1).reshape(-1, 2)
    angle = triangulate(np.repeat(np.arange(count), 2), np.tile([0, 1], count), pixel, poses, focal, count=count)[1]
    in_plane = 0.0 if plane is None else plane[1].sum() / max(agree.sum(), 1)
    wide = min(math.degrees(float(np.median(angle))), config.enough_angle_deg) / config.enough_angle_deg
    return Pair(*which, first_to_second, count * wide * max(0.02, 1 - in_plane))
