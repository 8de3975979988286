"""The linear algebra of the joint solve.

A symmetric positive system, banded in time, with a few unknowns that touch everything. Cameras and windows are coupled
to their neighbours alone, so in the order of reverse Cuthill-McKee the normal equations are banded and cost grows with
the video's length; the focal length and priors' similarities are the border. Windows that link distant frames widen the
band, nothing else changes. Small problems are solved densely.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cho_solve_banded, cholesky_banded
from scipy.sparse.csgraph import reverse_cuthill_mckee

from geo4d._typing import Float, Int, Tensor

DENSE_UP_TO = 700  # unknowns beside the border, up to which a dense factorisation is used: a band would save nothing
FIXED = 1e12  # by which the diagonal of an unknown that does not move is raised


@dataclass(frozen=True)
class Structure:
    """Where each unknown goes: main unknowns into the band, the last `border` ones beside it."""

    place: Int[Tensor, "n"]  # of every unknown; border unknowns keep the last places
    border: int
    bandwidth: int

    @property
    def size(self) -> int:
        """Unknowns in all."""
        return len(self.place)

    @property
    def is_dense(self) -> bool:
        """Whether a band would save nothing."""
        main = self.size - self.border
        return main <= DENSE_UP_TO or 3 * self.bandwidth > main

    def beyond(self, columns: Int[Tensor, "*n c"]) -> Int[Tensor, "m c"]:
        """Of groups of unknowns that meet, those for which the band is too narrow."""
        groups, main = columns.flatten(0, -2), self.size - self.border
        at = self.place[groups]
        first, last = at.amin(dim=-1), torch.where(at < main, at, -1).amax(dim=-1)
        return groups[(last - first > self.bandwidth) & (not self.is_dense)]


def arrange(sizes: np.ndarray, pairs: np.ndarray, border: int) -> Structure:
    """An order of blocks of unknowns in which coupled blocks are near one another.

    `sizes` (k,) are the blocks' sizes in the order of the unknowns, `pairs` (e, 2) the blocks that meet in one residual
    (or in the elimination of a depth); `border` unknowns follow the blocks.
    """
    count = len(sizes)
    graph = sparse.csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    order = reverse_cuthill_mckee(sparse.csr_matrix(graph + graph.T), symmetric_mode=True)
    first = np.zeros(count, dtype=np.int64)
    first[order] = np.concatenate([[0], np.cumsum(sizes[order])[:-1]])
    own = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    main = int(sizes.sum())
    place = np.repeat(first - own, sizes) + np.arange(main)
    low, high = np.minimum(first[pairs[:, 0]], first[pairs[:, 1]]), np.maximum(first[pairs[:, 0]], first[pairs[:, 1]])
    last = np.where(first[pairs[:, 0]] >= first[pairs[:, 1]], sizes[pairs[:, 0]], sizes[pairs[:, 1]])
    width = int((high + last - 1 - low).max()) if len(pairs) else int(sizes.max()) - 1
    return Structure(
        torch.from_numpy(np.append(place, main + np.arange(border))), border, max(width, int(sizes.max()) - 1)
    )


class NormalEquations:
    """J^T W J and J^T W r, gathered block by block."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        n, m = structure.size - structure.border, structure.border
        self._band = 0 if structure.is_dense else (structure.bandwidth + 1) * n
        total = structure.size**2 if structure.is_dense else self._band + n * m + m * m
        self._values = torch.zeros(total + 1, dtype=torch.float64)  # the last one takes what symmetry says twice
        self.gradient = torch.zeros(structure.size, dtype=torch.float64)

    def add(
        self, columns: Int[Tensor, "... c"], blocks: Float[Tensor, "... c c"], gradient: Float[Tensor, "... c"]
    ) -> None:
        """Adds blocks at the unknowns `columns`, and their gradients."""
        s = self.structure
        n, m = s.size - s.border, s.border
        at = s.place[columns]
        self.gradient.index_add_(0, at.flatten(), gradient.flatten())
        i, j = at[..., :, None], at[..., None, :]
        if s.is_dense:
            index = i * s.size + j
        else:
            dump = len(self._values) - 1
            index = torch.where(i >= j, (i - j) * n + j, dump)  # the lower band
            if m:
                beside = self._band + j * m + (i - n)
                corner = self._band + n * m + (i - n) * m + (j - n)
                index = torch.where(i >= n, torch.where(j >= n, corner, beside), torch.where(j >= n, dump, index))
        self._values.index_add_(0, index.flatten(), blocks.flatten())

    def step(self, damping: float, free: Tensor) -> Tensor | None:
        """The damped step of the free unknowns, in their own order; None if the system is not positive."""
        factor = self._factor(damping, free)
        if factor is None:
            return None
        right = np.where(self._placed(free), self.gradient.numpy(), 0.0)
        step = torch.from_numpy(-factor.solve(right))[self.structure.place]
        return torch.where(free, step, 0.0) if bool(step.isfinite().all()) else None

    def covariance(self, columns: Int[Tensor, "k c"], free: Tensor) -> Float[Tensor, "k c c"] | None:
        """Blocks of the inverse; unknowns that are not free have none. None if the system is singular or not finite."""
        factor = self._factor(1e-9, free)
        if factor is None:
            return None
        at = self.structure.place[columns].numpy()
        found = torch.from_numpy(factor.inverse_blocks(at))
        known = free[columns]
        blocks = torch.where(known[:, :, None] & known[:, None, :], found, 0.0)
        return blocks if bool(blocks.isfinite().all()) else None

    def _placed(self, values: Tensor) -> np.ndarray:
        """In the order of places."""
        result = torch.empty_like(values)
        result[self.structure.place] = values
        return result.numpy()

    def _factor(self, damping: float, free: Tensor) -> _Dense | _Banded | None:
        s, held = self.structure, ~self._placed(free)
        n, m = s.size - s.border, s.border
        values = self._values[:-1].numpy()
        try:
            if s.is_dense:
                matrix = values.reshape(s.size, s.size).copy()
                matrix[np.diag_indices(s.size)] += _ridge(matrix.diagonal(), damping, held)
                return _Dense(torch.linalg.cholesky(torch.from_numpy(matrix)))
            band = values[: self._band].reshape(s.bandwidth + 1, n).copy()
            beside = values[self._band : self._band + n * m].reshape(n, m)
            corner = values[self._band + n * m :].reshape(m, m).copy()
            diagonal = np.concatenate([band[0], corner.diagonal()])
            ridge = _ridge(diagonal, damping, held)
            band[0] += ridge[:n]
            corner[np.diag_indices(m)] += ridge[n:]
            return _Banded(band, beside, corner)
        except (LinAlgError, np.linalg.LinAlgError, torch.linalg.LinAlgError, ValueError):
            return None


def _ridge(diagonal: np.ndarray, damping: float, held: np.ndarray) -> np.ndarray:
    most = max(float(diagonal.max(initial=0.0)), 1e-300)
    return damping * np.maximum(diagonal, 1e-9 * most) + np.where(held, FIXED * most, 0.0)


@dataclass(frozen=True)
class _Dense:
    lower: Float[Tensor, "n n"]

    def solve(self, right: np.ndarray) -> np.ndarray:
        return torch.cholesky_solve(torch.from_numpy(right)[:, None], self.lower)[:, 0].numpy()

    def inverse_blocks(self, at: np.ndarray) -> np.ndarray:
        return torch.cholesky_inverse(self.lower).numpy()[at[:, :, None], at[:, None, :]]


class _Banded:
    """Cholesky of the band, and the border by its Schur complement.

    `sign` is that of the border's Schur complement: -1 for a border that stands for a term of low rank.
    """

    def __init__(
        self, band: np.ndarray, beside: np.ndarray, corner: np.ndarray, *, sign: float = 1.0, overwrite: bool = False
    ) -> None:
        self.band, self.main, self.sign = band, band.shape[1], sign  # overwritten, it has no blocks of the inverse
        self.factor = cholesky_banded(band, overwrite_ab=overwrite, lower=True, check_finite=False), True
        self.beside = beside
        self.reach = cho_solve_banded(self.factor, beside, check_finite=False) if beside.shape[1] else beside
        self.border = (
            cho_factor(sign * (corner - beside.T @ self.reach), lower=True, check_finite=False)
            if beside.shape[1]
            else None
        )

    def solve(self, right: np.ndarray) -> np.ndarray:
        inner = cho_solve_banded(self.factor, right[: self.main], check_finite=False)
        if self.border is None:
            return np.asarray(inner)
        outer = self.sign * cho_solve(self.border, right[self.main :] - self.beside.T @ inner, check_finite=False)
        return np.concatenate([inner - self.reach @ outer, outer])

    def inverse_blocks(self, at: np.ndarray) -> np.ndarray:
        """By the recursion of block tridiagonal inverses, whose cost is that of the band's factor a few times over."""
        result = _tridiagonal_inverse(self.band, at)
        if self.border is not None:
            reach = self.reach[at]  # (k, c, m)
            spread = cho_solve(self.border, reach.reshape(-1, reach.shape[-1]).T, check_finite=False).T.reshape(
                reach.shape
            )
            result += self.sign * reach @ spread.transpose(0, 2, 1)
        return result


class BorderedSystem:
    """A symmetric system of a band and a border, that is gathered, damped and solved in place.

    The band is kept column by column from the diagonal downwards, as LAPACK takes it: nothing of its size is copied.
    """

    def __init__(self, size: int, bandwidth: int, border: int) -> None:
        """`size` unknowns of the band, of which those meet that are up to `bandwidth` apart; `border` follow them."""
        self.size, self.border, self.bandwidth = size, border, bandwidth
        self.band = np.zeros((size, bandwidth + 1))
        self.beside, self.corner = np.zeros((size, border)), np.zeros((border, border))
        self.right = np.zeros(size + border)

    def add(self, matrix: sparse.csr_array) -> None:
        """A whole (size + border) square matrix; what it holds beyond the band must be zero."""
        lower = sparse.coo_array(matrix[: self.size, : self.size])
        row, column = lower.coords
        near = row >= column
        np.add.at(self.band, (column[near], (row - column)[near]), lower.data[near])
        self.beside += matrix[: self.size, self.size :].toarray()
        self.corner += matrix[self.size :, self.size :].toarray()

    def subtract(self, index: np.ndarray, product: np.ndarray) -> None:
        """A (k + border + 1) square product: of unknowns `index` (k,) in rising order, the border, and the right."""
        count, end = len(index), len(index) + self.border
        flat, lead = self.band.reshape(-1), self.bandwidth  # column j holds row i at j * lead + i
        last = np.searchsorted(index, index + lead, side="right")
        contiguous = bool(count) and int(index[-1] - index[0]) + 1 == count
        for k, (unknown, stop) in enumerate(zip(index.tolist(), last.tolist(), strict=True)):
            at: slice | np.ndarray = index[k:stop] + unknown * lead
            if contiguous:
                start = unknown * (lead + 1)
                at = slice(start, start + stop - k)
            flat[at] -= product[k, k:stop]
        self.beside[index] -= product[:count, count:end]
        self.corner -= product[count:end, count:end]
        self.right[index] -= product[:count, end]
        self.right[self.size :] -= product[count:end, end]

    def factored(self, ridge: np.ndarray, *, sign: float = 1.0, overwrite: bool = True) -> _Banded:
        """Its factor, with `ridge` (size + border,) on the diagonal. The band is gone then, if it is overwritten.

        Raises LinAlgError if it is not positive.
        """
        self.band[:, 0] += ridge[: self.size]
        self.corner[np.diag_indices(self.border)] += ridge[self.size :]
        return _Banded(self.band.T, self.beside, self.corner, sign=sign, overwrite=overwrite)


def _tridiagonal_inverse(band: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Blocks of the inverse at groups `at` (k, c) of unknowns, each group within one bandwidth."""
    width, n = band.shape
    edges = [*range(0, n, width), n]
    pieces = [_piece(band, a, b) for a, b in pairwise(edges)]
    lower = [_coupling(band, *edges[k : k + 3]) for k in range(len(pieces) - 1)]
    forward = [np.linalg.inv(pieces[0])]
    for k in range(1, len(pieces)):
        forward.append(np.linalg.inv(pieces[k] - lower[k - 1] @ forward[-1] @ lower[k - 1].T))
    result = np.zeros((*at.shape, at.shape[1]))
    piece_of = at.min(axis=1) // width
    following = np.zeros((0, 0))
    for k in range(len(pieces) - 1, -1, -1):
        if k == len(pieces) - 1:
            own, across = forward[k], np.zeros((len(forward[k]), 0))
        else:
            gain = forward[k] @ lower[k].T
            across = -gain @ following
            own = forward[k] - across @ gain.T
        wide = np.block([[own, across], [across.T, following]]) if across.size else own
        for group in np.flatnonzero(piece_of == k):
            near = at[group] - edges[k]
            result[group] = wide[np.ix_(near, near)]
        following = own
    return result


def _piece(band: np.ndarray, a: int, b: int) -> np.ndarray:
    """The symmetric block from a to b of a lower band."""
    size = b - a
    i, j = np.tril_indices(size)
    result = np.zeros((size, size))
    near = i - j < len(band)
    result[i[near], j[near]] = band[(i - j)[near], a + j[near]]
    return result + np.tril(result, -1).T


def _coupling(band: np.ndarray, a: int, b: int, c: int) -> np.ndarray:
    """Rows b to c by columns a to b of a lower band."""
    i, j = np.mgrid[b:c, a:b]
    near = i - j < len(band)
    return np.where(near, band[np.where(near, i - j, 0), j], 0.0)
