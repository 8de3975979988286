"""Points eliminated from the normal equations of cameras and points, by their Schur complement.

Points are taken by the hundred, those that the same cameras see together: each such group is one dense product, so that
the cost grows with the number of observations and the length of tracks, not with the square of the video's length.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sparse

DENSE_UNKNOWNS = 2000  # of the cameras, up to which a dense matrix is the faster one
TOGETHER = 4  # groups whose entries are summed at once, where the matrix is sparse
GROUP = 192  # points that are eliminated together: products are large enough to run fast, and few cameras see them all


@dataclass(frozen=True)
class _Group:
    """Points that are eliminated together, and the cameras that see any of them."""

    entries: slice  # of the couplings
    points: int
    camera: np.ndarray  # (u,) numbers of the cameras
    at_point: np.ndarray  # (e,) of each coupling: its point within the group
    at_camera: np.ndarray  # (e,) and its camera


class PointElimination:
    """Who sees whom, worked out once for all solves of a problem."""

    def __init__(self, point: np.ndarray, camera: np.ndarray, num_points: int, num_cameras: int) -> None:
        """Rows (m,) of who sees whom; the same pair may come several times."""
        self.num_cameras = num_cameras
        first, last, count = (
            np.full(num_points, num_cameras),
            np.zeros(num_points, int),
            np.bincount(point, minlength=num_points),
        )
        np.minimum.at(first, point, camera)
        np.maximum.at(last, point, camera)
        # points with a gap come last: their cameras are few and far apart
        rank = np.empty(num_points, int)
        order = np.lexsort((first, last - first + 1 > 2 * count))
        rank[order] = np.arange(num_points)
        pair, self.entry = np.unique(rank[point].astype(np.int64) * num_cameras + camera, return_inverse=True)
        ranks, self.camera = np.divmod(pair, num_cameras)
        self.point = order[ranks]  # of each coupling, as is its camera
        ends = np.searchsorted(ranks, np.arange(0, num_points + GROUP, GROUP).clip(max=num_points))
        self._groups = [self._group(slice(a, b), ranks) for a, b in pairwise(ends) if b > a]

    def _group(self, entries: slice, ranks: np.ndarray) -> _Group:
        camera, at_camera = np.unique(self.camera[entries], return_inverse=True)
        first = int(ranks[entries.start])
        at_point = ranks[entries] - first
        return _Group(entries, int(at_point[-1]) + 1, camera, at_point, at_camera)

    def reduced(self, coupling: np.ndarray, by_inverse: np.ndarray) -> np.ndarray | sparse.csr_array:
        """Sum over points of coupling V^-1 coupling^T, which the cameras' own system loses.

        Both arguments are (e, c, 3), by entry: the coupling of a camera's c unknowns with a point's three, and the same
        times the inverse of the point's own block. Dense where there are few unknowns.
        """
        size = coupling.shape[1]
        unknowns = size * self.num_cameras
        if unknowns <= DENSE_UNKNOWNS:
            total = np.zeros((unknowns, unknowns))
            for group in self._groups:
                index = self._indices(group.camera, size)
                total[np.ix_(index, index)] += self._product(group, coupling, by_inverse)
            return total
        shape, sums = (unknowns, unknowns), []
        for first in range(0, len(self._groups), TOGETHER):  # neighbours overlap: summed soon, they take little memory
            parts = []
            for group in self._groups[first : first + TOGETHER]:
                index = self._indices(group.camera, size).astype(np.int32)
                where = np.repeat(index, len(index)), np.tile(index, len(index))
                parts.append((self._product(group, coupling, by_inverse).ravel(), *where))
            values, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
            sums.append(sparse.csr_array((values, (rows, columns)), shape=shape))
        while len(sums) > 1:  # in pairs: the whole is not copied for each part
            sums = [sum(sums[k + 1 : k + 2], start=sums[k]) for k in range(0, len(sums), 2)]
        return sums[0] if sums else sparse.csr_array(shape)

    @staticmethod
    def _indices(camera: np.ndarray, size: int) -> np.ndarray:
        return (size * camera[:, None] + np.arange(size)).ravel()

    @staticmethod
    def _product(group: _Group, coupling: np.ndarray, by_inverse: np.ndarray) -> np.ndarray:
        def laid_out(blocks: np.ndarray) -> np.ndarray:
            out = np.zeros((group.points, 3, len(group.camera), blocks.shape[1]))
            out[group.at_point, :, group.at_camera] = blocks[group.entries].transpose(0, 2, 1)
            return out.reshape(3 * group.points, -1)

        return laid_out(by_inverse).T @ laid_out(coupling)
