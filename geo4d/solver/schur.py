"""Points eliminated from the normal equations of cameras and points, by their Schur complement.

Points are taken by the hundred, those that the same cameras see together: each such group is one dense product, which
goes into a band. So cost and memory grow with the number of observations and the length of tracks, not with the square
of the video's length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from geo4d.solver.banded import BorderedSystem

GROUP = 96  # points that are eliminated together: products are large enough to run fast, and few cameras see them all
SHORT = 100  # cameras, up to which no order is looked for in which the band is narrower


@dataclass(frozen=True)
class _Group:
    """Points that are eliminated together, and the cameras that see any of them."""

    entries: slice  # of the couplings
    point: np.ndarray  # (p,) numbers of the points
    camera: np.ndarray  # (u,) numbers of the cameras, in the order of the band
    at_point: np.ndarray  # (e,) of each coupling: its point within the group
    at_camera: np.ndarray  # (e,) and its camera


class PointElimination:
    """Who sees whom, worked out once for all solves of a problem.

    Cameras have an order (their own, or reverse Cuthill-McKee where distant ones see the same points), in which all
    that meet are at most `width` apart.
    """

    def __init__(
        self, point: np.ndarray, camera: np.ndarray, num_points: int, num_cameras: int, *, chained: int = 2
    ) -> None:
        """Rows (m,) of who sees whom; the same pair may come several times.

        Cameras up to `chained` apart meet though they see no common point.
        """
        self.num_cameras = num_cameras
        self.place, first, last = self._arranged(point, camera, num_points, chained)
        # points with a gap come last: their cameras are few and far apart
        order = np.lexsort((first, last - first + 1 > 2 * np.bincount(point, minlength=num_points)))
        rank = np.empty(num_points, int)
        rank[order] = np.arange(num_points)
        pair, self.entry = np.unique(rank[point].astype(np.int64) * num_cameras + camera, return_inverse=True)
        ranks, self.camera = np.divmod(pair, num_cameras)
        self.point = order[ranks]  # of each coupling, as is its camera
        ends = np.searchsorted(ranks, np.arange(0, num_points + GROUP, GROUP).clip(max=num_points))
        self._groups = [self._group(slice(a, b)) for a, b in pairwise(ends) if b > a]

    def _arranged(
        self, point: np.ndarray, camera: np.ndarray, num_points: int, chained: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The place of each camera; the first and the last place of each point."""
        natural = np.arange(self.num_cameras)
        found = [self._spans(natural, point, camera, num_points, chained)]
        if self.num_cameras > SHORT and 3 * found[0][0] > self.num_cameras:
            shape = (num_points, self.num_cameras)
            seen = sparse.csr_array((np.ones(len(point)), (point, camera)), shape=shape)
            chain = sparse.eye_array(self.num_cameras, k=1)
            order = reverse_cuthill_mckee(sparse.csr_matrix(seen.T @ seen + chain + chain.T), symmetric_mode=True)
            found.append(self._spans(np.argsort(order), point, camera, num_points, chained))
        self.width, *rest = min(found, key=lambda each: each[0])
        return rest[0], rest[1], rest[2]

    @staticmethod
    def _spans(
        place: np.ndarray, point: np.ndarray, camera: np.ndarray, num_points: int, chained: int
    ) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        first, last = np.full(num_points, len(place)), np.zeros(num_points, int)
        np.minimum.at(first, point, place[camera])
        np.maximum.at(last, point, place[camera])
        chains = [int(np.abs(place[k:] - place[:-k]).max(initial=0)) for k in range(1, chained + 1)]
        return max(int((last - first).max(initial=0)), *chains), place, first, last

    def _group(self, entries: slice) -> _Group:
        place, at_camera = np.unique(self.place[self.camera[entries]], return_inverse=True)
        point = self.point[entries]
        starts = np.flatnonzero(np.diff(point, prepend=-1))
        at_point = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(point)))
        return _Group(entries, point[starts], np.argsort(self.place)[place], at_point, at_camera)

    def unknowns(self, is_free: np.ndarray) -> np.ndarray:
        """(t, c) numbers of the free ones of each camera's unknowns in the order of the band; -1 of the others."""
        numbers = np.full(is_free.shape, -1)
        order = np.argsort(self.place)
        found = numbers[order]
        found[is_free[order]] = np.arange(is_free.sum())
        numbers[order] = found
        return numbers

    def bandwidth(self, unknowns: np.ndarray) -> int:
        """How far apart two unknowns are at most that meet."""
        return min((self.width + 1) * unknowns.shape[1], int((unknowns >= 0).sum())) - 1

    def eliminate(
        self,
        system: BorderedSystem,
        unknowns: np.ndarray,
        coupling: Callable[[slice], np.ndarray],
        pull: np.ndarray,
    ) -> None:
        """Takes off the cameras' system what it loses by the points: the sum of C V^-1 C^T, and of C V^-1 g.

        `unknowns` (t, c) numbers those of the cameras (those of the border come after those of the band, and several
        cameras may share one; -1: fixed). `coupling` gives the (k, c, 3) couplings of some entries times the root R of
        the inverse V^-1 = R R^T of the point's own block, `pull` (n, 3) is R^T times the point's gradient g.
        """
        size, border = system.size, system.border
        for group in self._groups:
            count = len(group.camera) * unknowns.shape[1]
            laid = np.zeros((len(group.point), 3, count + border + 1))
            by_camera = laid[:, :, :count].reshape(len(group.point), 3, len(group.camera), -1)
            by_camera[group.at_point, :, group.at_camera] = coupling(group.entries).transpose(0, 2, 1)
            index = unknowns[group.camera].ravel()
            for number in range(border):
                laid[:, :, count + number] = laid[:, :, :count][:, :, index == size + number].sum(axis=2)
            laid[:, :, -1] = pull[group.point]
            main = np.append((index >= 0) & (index < size), np.ones(border + 1, bool))
            flat = laid.reshape(-1, laid.shape[2])
            flat = flat if main.all() else flat[:, main]
            system.subtract(index[main[:count]], flat.T @ flat)
