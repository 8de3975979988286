"""Second rigid motions: tracks that the static world does not explain, and that move together.

A point of a vehicle that happens to move along its epipolar lines fits a static world, at a wrong depth; judged by
itself it is believed. Its neighbours on the vehicle are not, and they move as one rigid body: so does it, then.

A group is found between frames some way apart, by the essential matrix on which most unexplained tracks agree, and held
against chance a contrario (Moisan and Stival, A Probabilistic Criterion to Detect Rigid Point Matches Between Two
Images, 2004): as many tracks that left the static world by as much, but in random directions, would agree so well on
the best of all essential matrices less than once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.special import gammaln

from geo4d.alignment.bundle.adjust import Solution
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.bundle.evidence import Evidence, residuals
from geo4d.alignment.bundle.mapping import triangulate
from geo4d.alignment.bundle.views import Views
from geo4d.geometry.consensus import LEAST_EPIPOLAR, consensus_camera

SAMPLE = 5  # pairs of pixels that any essential matrix fits
SEVERAL = 2  # pairs of frames in which a group must be beyond chance: what agrees once may do so for many reasons
ROUNDS = 3  # in which a group and its motions are found by one another: the third hardly changes it
NEIGHBOURS = 6  # tracks around one in the picture, as many as surround it in a plane
MOST = 0.5  # of what is asked: of neighbours, of the pairs of frames


@dataclass(frozen=True)
class Groups:
    """What moves as rigid bodies, beside the static world."""

    number: np.ndarray  # (n,) of the group that each track belongs to, -1 of none
    frames: tuple[tuple[int, int], ...]  # first and last in which each group was seen, by number

    @classmethod
    def none(cls, tracks: int) -> Groups:
        """Nothing moves."""
        return cls(np.full(tracks, -1), ())

    @property
    def members(self) -> np.ndarray:
        """(n,) which tracks belong to a group."""
        return self.number >= 0

    def report(self) -> list[dict[str, int]]:
        """Tracks and frames of each, for the diagnostics."""
        return [
            {"tracks": int((self.number == k).sum()), "first_frame": first, "last_frame": last}
            for k, (first, last) in enumerate(self.frames)
        ]


@dataclass(frozen=True)
class _Between:
    """The tracks that two frames share."""

    track: np.ndarray  # (k,)
    pixel: np.ndarray  # (k, 2, 2) in both, around the principal point, as one camera of the same focal length sees them
    drift: np.ndarray  # (k,) how far each has left the static world from the one to the other
    static: np.ndarray  # (2, 4, 4) cam_to_world of both, by the static world
    focal: float
    reach: float  # residual within which a motion explains an observation

    @cached_property
    def near(self) -> np.ndarray:
        """(k, NEIGHBOURS) which of the tracks are around each in the first picture; of few tracks, itself."""
        return neighbours(self.pixel[:, 0])

    def regions(self, free: np.ndarray) -> Iterator[np.ndarray]:
        """Which of the tracks (k,) are in each region of the picture that holds free ones (n,).

        A body is in one region, and what else moves mostly in others.
        """
        here = free[self.track]
        if here.sum() < LEAST_EPIPOLAR:
            return
        one, other = np.repeat(np.arange(len(here)), NEIGHBOURS), self.near.ravel()
        both = here[one] & here[other]
        links = sparse.coo_array((np.ones(both.sum()), (one[both], other[both])), shape=(len(here), len(here)))
        number = connected_components(links, directed=False)[1]
        for region in np.flatnonzero(np.bincount(number[here]) >= LEAST_EPIPOLAR):
            yield here & (number == region)

    def motion(self, some: np.ndarray) -> np.ndarray | None:
        """(2, 4, 4) of the cameras as most of some tracks (k,) see them; None where nothing can be said."""
        source, target = self.pixel[some, 0], self.pixel[some, 1]
        found = consensus_camera(source, target, self.focal, threshold=self.reach)
        if found is None:
            return None
        first_to_second = np.eye(4)
        first_to_second[:3, :3], first_to_second[:3, 3] = found[:2]
        return np.stack([np.eye(4), np.linalg.inv(first_to_second)])

    def explained(self, cam_to_world: np.ndarray) -> np.ndarray:
        """Which of the tracks (k,) can be seen so from both cameras, before both."""
        count = len(self.track)
        rows = np.repeat(np.arange(count), 2), np.tile([0, 1], count), self.pixel.reshape(-1, 2)
        return triangulate(*rows, cam_to_world, self.focal, count=count)[2] <= self.reach

    def beyond_chance(self, asked: np.ndarray, agree: np.ndarray) -> float:
        """Nats by which a motion is surer than the best of as many tracks that drift in random directions.

        Of the tracks `asked` (k,), those agree (k,) with it. What drifts no farther than the reach would agree with
        any.
        """
        chance = 2 / math.pi * np.arcsin(np.minimum(self.reach / np.maximum(self.drift, 1e-12), 1.0))
        tells = asked & (chance < 1)
        n, k = int(tells.sum()), int((tells & agree).sum())
        if k <= SAMPLE:
            return -math.inf
        surprise = np.sort(-np.log(chance[tells & agree]))[: k - SAMPLE]
        return float(surprise.sum() - _log_choices(n, k) - _log_choices(k, SAMPLE))


def find_groups(views: Views, evidence: Evidence, solution: Solution) -> Groups:
    """The rigid bodies that move, with the tracks on them that are believed by themselves.

    Args:
        views: the tracks.
        evidence: the same tracks.
        solution: by the static world.
    """
    return _Search(views, evidence, solution).run()


@dataclass
class _Search:
    views: Views
    evidence: Evidence
    solution: Solution
    number: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.number = np.full(self.views.num_points, -1)

    @property
    def config(self) -> BundleConfig:
        return self.evidence.config

    @cached_property
    def believed(self) -> np.ndarray:
        """(n,) tracks that the static world explains."""
        return (self.solution.track_weight > self.config.believed).numpy()

    @cached_property
    def frames(self) -> list[int]:
        """Between which motions are looked for.

        As far apart as tracks that nothing explains are mostly seen in both of two, and some in three.
        """
        length = self.evidence.length.numpy()
        length = length[~self.believed & (length > 0)]
        step = int(np.clip(np.median(length) / 2, 1, self.config.views.keyframe_gap)) if len(length) else 1
        return [*range(0, self.views.num_frames - 1, step), self.views.num_frames - 1]

    @cached_property
    def pairs(self) -> list[_Between]:
        return list(self._between())

    def _between(self) -> Iterator[_Between]:
        """Frames next to one another, with the tracks that both see."""
        e, state = self.evidence, self.solution.state
        reach = self.config.mapping.agreement * max(e.noise, self.solution.sigma / self.config.typical)
        off = residuals(e, state).pixel.numpy()
        focal = float(state.log_focal.mean().exp())
        pixel = (focal * e.pixel / state.log_focal.exp()[e.frame, None]).numpy()
        poses = np.tile(np.eye(4), (len(state.centre), 1, 1))
        poses[:, :3, :3], poses[:, :3, 3] = state.rotation.numpy(), state.centre.numpy()
        for first, second in pairwise(self.frames):
            before, here = self.views.shared(first, second)
            drift = np.linalg.norm(off[here] - off[before], axis=1)
            both = np.stack([pixel[before], pixel[here]], axis=1)
            yield _Between(self.views.point[here], both, drift, poses[[first, second]], focal, reach)

    def run(self) -> Groups:
        """Groups one after the other, begun with the frames between which most beyond chance agrees."""
        count, changes = 0, [0] * len(self.pairs)  # of the tracks that are free between two frames
        queue = [seed for k in range(len(self.pairs)) for seed in self._seeds(k, 0)]
        heapify(queue)
        while queue:
            _, k, change, seed = heappop(queue)
            members = self._grown(np.array(seed)) if change == changes[k] else None
            if members is None:
                continue
            self.number[members] = count
            self._join(count)
            count += 1
            for other, pair in enumerate(self.pairs):
                if members[pair.track].any():
                    changes[other] += 1
                    for begin in self._seeds(other, changes[other]):
                        heappush(queue, begin)
        frame, point = self.views.frame, self.views.point
        seen = [frame[self.number[point] == k] for k in range(count)]
        return Groups(self.number, tuple((int(some[0]), int(some[-1])) for some in seen))

    @property
    def free(self) -> np.ndarray:
        """(n,) tracks that nothing explains yet."""
        return ~self.believed & (self.number < 0)

    def _seeds(self, k: int, change: int) -> Iterator[tuple[float, int, int, tuple[int, ...]]]:
        """Tracks that agree beyond chance between two frames, the surest with the least number."""
        pair = self.pairs[k]
        for asked in pair.regions(self.free):
            motion = pair.motion(asked)
            if motion is not None:
                agree = asked & pair.explained(motion)
                sure = pair.beyond_chance(asked, agree)
                if sure > 0:
                    yield -sure, k, change, tuple(pair.track[agree].tolist())

    def _grown(self, seed: np.ndarray) -> np.ndarray | None:
        """Members (n,) by all frames; None unless they agree beyond chance between several of them."""
        free = self.free
        members = np.zeros(len(free), bool)
        members[seed] = True
        sure = 0
        for _ in range(ROUNDS):
            asked, agreed, sure = np.zeros(len(free)), np.zeros(len(free)), 0
            for pair, motion in self._motions(members):
                here, agree = free[pair.track], pair.explained(motion)
                asked[pair.track] += 1
                agreed[pair.track[agree]] += 1
                sure += pair.beyond_chance(here, agree & members[pair.track]) > 0
            members = free & (agreed > MOST * asked)
        return members if sure >= SEVERAL and members.sum() >= LEAST_EPIPOLAR else None

    def _motions(self, members: np.ndarray) -> Iterator[tuple[_Between, np.ndarray]]:
        """How the members move, wherever enough of them are seen."""
        for pair in self.pairs:
            some = members[pair.track]
            motion = pair.motion(some) if some.sum() >= LEAST_EPIPOLAR else None
            if motion is not None:
                yield pair, motion

    def _join(self, group: int) -> None:
        """Believed tracks within the group join it.

        Most of their neighbours belong to it, and its motion explains them as often as the static world does. What has
        joined is a neighbour to others; as most of the neighbours are asked, a group fills up and does not spread.
        """
        fits = np.zeros(len(self.number))
        for pair, motion in self._motions(self.number == group):
            fits[pair.track] += pair.explained(motion).astype(float) - pair.explained(pair.static)
        candidates = self.believed & (self.number < 0) & (fits >= 0)
        near, owner = self._neighbours
        while True:
            inside = np.bincount(owner, (self.number[near] == group).mean(axis=1), minlength=len(self.number))
            new = candidates & (self.number < 0) & (inside > MOST * np.bincount(owner, minlength=len(self.number)))
            if not new.any():
                return
            self.number[new] = group

    @cached_property
    def _neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """(m, k) the tracks around each observation in these frames, and (m,) whose observation it is."""
        rows = [self.views.rows[frame] for frame in self.frames]
        points = [self.views.point[some] for some in rows]
        near = [point[neighbours(self.views.pixel[some])] for some, point in zip(rows, points, strict=True)]
        return np.concatenate(near), np.concatenate(points)


def neighbours(pixel: np.ndarray) -> np.ndarray:
    """(k, NEIGHBOURS) which of the pixels (k, 2) are nearest to each; where there are too few, itself."""
    if len(pixel) <= NEIGHBOURS:
        return np.tile(np.arange(len(pixel))[:, None], NEIGHBOURS)
    return cKDTree(pixel).query(pixel, k=NEIGHBOURS + 1)[1][:, 1:]


def _log_choices(n: int, k: int) -> float:
    return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
