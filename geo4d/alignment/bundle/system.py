"""The normal equations of bundle adjustment at one state: camera blocks, point blocks, and what couples them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.linalg import LinAlgError

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.bundle.evidence import Evidence, State, depth_error, frame_to_frame_rotations, reprojection
from geo4d.alignment.joint.terms.base import acceleration
from geo4d.solver.banded import BorderedSystem
from geo4d.solver.robust import Loss

CAMERA = 7  # unknowns of one: rotation, centre, log focal length
ROWS = 8192  # observations whose products are taken at once: these take several times the memory of what they are of


@dataclass(frozen=True)
class Free:
    """What moves; points always do, the first camera never."""

    focal: Literal["held", "shared", "each"] = "shared"
    travels: bool = True  # otherwise the centres stay where they are: the camera only rotates
    cameras: bool = True
    held: Bool[Tensor, "t"] | None = None  # cameras that stay, beside the first

    def is_free(self, frames: int) -> Bool[np.ndarray, "t 7"]:
        """Which unknowns of each camera move by themselves: all but a focal length that is shared."""
        moves = np.ones(frames, bool) if self.held is None else ~self.held.numpy()
        moves[0] = False
        pattern = np.array([True] * 3 + [self.travels] * 3 + [False])
        free = moves[:, None] & pattern & self.cameras
        free[:, -1] = self.focal == "each"
        return free


Step = tuple[Float[Tensor, "t 7"], Float[Tensor, "n 3"]]


@dataclass(frozen=True)
class _Moments:
    """Products of the derivatives at each pair of a camera and a point that it sees.

    Of the residuals' derivatives Q by the point all others follow: by the camera's rotation Q [d]x, by its centre -Q;
    `focal` is Q^T times those by the log focal length.
    """

    away: Float[Tensor, "e 3"]  # d: from the camera to the point
    square: Float[Tensor, "e 3 3"]  # Q^T Q
    focal: Float[Tensor, "e 3"]
    pull: Float[Tensor, "e 3"]  # Q^T times the residuals
    of_focal: Float[Tensor, "e 2"]  # of the log focal length: its own square, and its pull

    def coupling(self, some: slice) -> Float[Tensor, "k 7 3"]:
        """Of the camera's unknowns (rotation, centre, log focal length) with the point."""
        square = self.square[some]
        by_rotation = torch.linalg.cross(square, self.away[some, None]).mT
        return torch.cat([by_rotation, -square, self.focal[some, None]], dim=1)

    def of_camera(self, some: slice, coupling: Float[Tensor, "k 7 3"]) -> Float[Tensor, "k 7 8"]:
        """Normal equations of the camera, and its gradient in the last column."""
        by_rotation = torch.linalg.cross(coupling, self.away[some, None])
        by_focal = torch.cat([by_rotation[:, 6], -coupling[:, 6], self.of_focal[some, :1]], dim=1)
        pull = self.pull[some]
        gradient = torch.cat([torch.linalg.cross(pull, self.away[some]), -pull, self.of_focal[some, 1:]], dim=1)
        return torch.cat([by_rotation, -coupling, by_focal[..., None], gradient[..., None]], dim=2)


class BundleSystem:
    """Built at a state, for given scales."""

    def __init__(self, evidence: Evidence, state: State, sigma: float, tracks: Float[Tensor, "n"], free: Free) -> None:
        """`sigma` is the size of a typical residual, `tracks` (n,) the weight of each track."""
        self.evidence, self.state, self.free = evidence, state, free
        self.elimination = evidence.elimination(state)
        frames, points, e = len(state.centre), len(state.points), self.elimination
        self.moments = self._moments(sigma, tracks)
        cameras = _zeros(frames, CAMERA, CAMERA + 1)
        of_points, point = _zeros(points, 12), torch.from_numpy(e.point)
        for some in _chunks(len(e.point)):
            blocks = self.moments.of_camera(some, self.moments.coupling(some))
            cameras.index_add_(0, torch.from_numpy(e.camera[some]), blocks)
            products = torch.cat([self.moments.square[some].flatten(1), self.moments.pull[some]], dim=1)
            of_points.index_add_(0, point[some], products)
        self.cameras, self.camera_gradient = cameras[..., :CAMERA].contiguous(), cameras[..., CAMERA]
        self.points, self.point_gradient = of_points[:, :9].unflatten(1, (3, 3)), of_points[:, 9:]
        self.matrix, self.gradient = self._of_cameras()

    def _moments(self, sigma: float, tracks: Tensor) -> _Moments:
        """Of weighted derivatives and residuals, summed over all observations and depth priors of a pair."""
        e, c, state = self.evidence, self.evidence.config, self.state
        pairs = self.elimination
        count, rows = len(pairs.point), torch.from_numpy(pairs.entry)
        entry, prior_entry = rows[: len(e.point)], rows[len(e.point) :]
        away = state.points[torch.from_numpy(pairs.point)] - state.centre[torch.from_numpy(pairs.camera)]
        sums = _zeros(count, 17)
        for some in _chunks(len(e.point)):
            point, frame = e.point[some], e.frame[some]
            pixel, local = reprojection(e, state, some)
            rotation, z = state.rotation[frame], local[:, 2:]
            slope = state.log_focal.exp()[frame, None] * local[:, :2] / z  # also the derivative by the log focal length
            square = pixel.square().sum(1) / sigma**2
            weight = (tracks[point] * Loss.cauchy(c.observation_width).weight(square)).sqrt()[:, None] / sigma
            by_focal = weight * slope
            scale = weight * state.log_focal.exp()[frame, None] / z
            by_point = scale[..., None] * rotation[:, :, :2].mT - (by_focal / z)[..., None] * rotation[:, None, :, 2]
            sums.index_add_(0, entry[some], _products(by_point, by_focal, weight * pixel))

        error, local = depth_error(e, state)
        root = Loss.cauchy(c.prior_width).weight(error.square()).sqrt()
        by_z = (root / (local[:, 2] * e.prior_sigma))[:, None]
        by_point = (by_z * state.rotation[e.prior_frame, :, 2])[:, None]
        products = _products(by_point, torch.zeros_like(by_z), (root * error)[:, None])
        sums.index_add_(0, prior_entry, products)
        of_point = sums[:, :15].unflatten(1, (3, 5))
        return _Moments(away, of_point[..., :3], of_point[..., 3], of_point[..., 4], sums[:, 15:])

    def _of_cameras(self) -> tuple[sparse.csr_array, np.ndarray]:
        """What observations and priors say of the cameras, the points being held."""
        e, state, frames = self.evidence, self.state, len(self.state.centre)
        gradient = self.camera_gradient.numpy().copy()
        matrix = sparse.bsr_array((self.cameras.numpy(), np.arange(frames), np.arange(frames + 1))).tocsr()
        if frames > 2 and max(e.centre_smoothness, e.rotation_smoothness) > 0:
            # of small angles; the acceptance test answers for the rest
            turns = frame_to_frame_rotations(state.rotation).diff(dim=0)
            both = torch.cat(
                [turns, acceleration(state.centre), torch.zeros(frames - 2, 1, dtype=torch.float64)], dim=1
            )
            smooth, second, weights = self._smoothness(frames)
            matrix = matrix + smooth
            gradient += weights * (second.T @ both.numpy())
        if e.motion is not None and frames > 1:
            motion, pull = e.motion.system(state.rotation, state.centre)
            matrix, gradient = matrix + motion, gradient + pull
        focal, pull = self._of_focal()
        gradient[:, 6] += pull
        return (matrix + focal).tocsr(), gradient.ravel()

    def _smoothness(self, frames: int) -> tuple[sparse.csr_array, sparse.dia_array, np.ndarray]:
        """Normal equations of squared accelerations.

        Also the differences that make these of positions, and the weights (7,).
        """
        second = sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(frames - 2, frames))
        weights = np.array([self.evidence.rotation_smoothness] * 3 + [self.evidence.centre_smoothness] * 3 + [0.0])
        return sparse.kron(second.T @ second, sparse.diags_array(weights)).tocsr(), second, weights

    def _of_focal(self) -> tuple[sparse.csr_array, np.ndarray]:
        """What is expected of the focal lengths, that is of every seventh unknown.

        Their mean (without what couples all of them, where each moves: that is of rank one, see `_system`), and that
        they change slowly.
        """
        e, frames, log_focal = self.evidence, len(self.state.centre), self.state.log_focal.numpy()
        last, weight = CAMERA * np.arange(frames) + CAMERA - 1, e.focal_weight
        if self.free.focal != "each":  # they do not change
            shape = (CAMERA * frames, CAMERA * frames)
            matrix = sparse.csr_array((np.full(frames, weight / frames), (last, last)), shape=shape)
            return matrix, np.full(frames, weight / frames * (log_focal.mean() - e.log_focal))
        steps = max(frames - 1, 0)
        weights = sparse.diags_array(np.broadcast_to(1 / e.zoom_sigma.numpy(), (steps,)))
        change = weights @ sparse.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(steps, frames))
        here = np.zeros((CAMERA, CAMERA))
        here[-1, -1] = 1.0
        pull = change.T @ (change @ log_focal) + weight / frames * (log_focal.mean() - e.log_focal)
        return sparse.kron(change.T @ change, here).tocsr(), pull

    def step(self, damping: Float[Tensor, "b"]) -> Step | None:
        """The damped step of cameras and points; None if the system cannot be solved."""
        factor = float(damping)
        try:
            root = self._point_root(factor * torch.eye(3, dtype=torch.float64), 1e-12)
            camera = self._camera_step(factor, root)
        except (np.linalg.LinAlgError, LinAlgError, torch.linalg.LinAlgError):
            return None
        if not np.isfinite(camera).all():
            return None
        of_camera, e = torch.from_numpy(camera).unflatten(0, (-1, CAMERA)), self.elimination
        rest = self.point_gradient.clone()
        for some in _chunks(len(e.point)):
            pulled = of_camera[torch.from_numpy(e.camera[some]), None] @ self.moments.coupling(some)
            rest.index_add_(0, torch.from_numpy(e.point[some]), pulled[:, 0])
        return of_camera, -(root @ (root.mT @ rest[..., None]))[..., 0]

    def size(self, step: Step) -> float:
        """The largest entry."""
        return max(float(part.abs().max()) if part.numel() else 0.0 for part in step)

    def _point_root(self, damping: Float[Tensor, "3 3"], ridge: float) -> Float[Tensor, "n 3 3"]:
        """R of the inverse R R^T of each point's damped block. Raises LinAlgError where one is not positive."""
        identity = torch.eye(3, dtype=torch.float64)
        trace = self.points.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        block = self.points * (identity.new_ones(3, 3) + damping) + (ridge * trace + 1e-30) * identity
        return torch.linalg.solve_triangular(torch.linalg.cholesky(block), identity, upper=False).mT

    def _camera_step(self, damping: float, root: Float[Tensor, "n 3 3"]) -> np.ndarray:
        """(7 t,) of the free unknowns, the points being eliminated by the roots of their inverse blocks."""
        unknowns = self._unknowns()
        free = unknowns.ravel() >= 0
        if not free.any():
            return np.zeros(len(self.gradient))
        system = self._system(unknowns, root)
        diagonal = self._diagonal()
        ridge = np.bincount(unknowns.ravel()[free], damping * diagonal[free], minlength=len(system.right))
        ridge[: unknowns.max() + 1] += 1e-12 * diagonal.max()
        step = -system.factored(ridge, sign=self._sign).solve(system.right)
        return np.where(free, step[unknowns.ravel()], 0.0)

    @property
    def _sign(self) -> float:
        """Of the border: a shared focal length is one, the mean of free ones stands for a term of rank one."""
        return -1.0 if self.free.focal == "each" else 1.0

    def _unknowns(self) -> np.ndarray:
        """(t, 7) number of each camera's unknowns in the system; -1: fixed. A shared focal length is its border."""
        is_free = self.free.is_free(len(self.state.centre))
        unknowns = self.elimination.unknowns(is_free)
        if self.free.focal == "shared":
            unknowns[:, -1] = is_free.sum()
        return unknowns

    def _diagonal(self) -> np.ndarray:
        """(7 t,) of the cameras' own system."""
        diagonal, frames = self.matrix.diagonal(), len(self.state.centre)
        if self.free.focal == "each":
            diagonal[CAMERA - 1 :: CAMERA] += self.evidence.focal_weight / frames**2
        return diagonal

    def _system(self, unknowns: np.ndarray, root: Float[Tensor, "n 3 3"]) -> BorderedSystem:
        """The system of the cameras' free unknowns without the points."""
        rows, frames = np.flatnonzero(unknowns.ravel() >= 0), len(self.state.centre)
        columns, size = unknowns.ravel()[rows], int(self.free.is_free(frames).sum())
        system = BorderedSystem(size, self.elimination.bandwidth(unknowns), int(self.free.focal != "held"))
        shape = (CAMERA * frames, size + system.border)
        selection = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
        system.add((selection.T @ self.matrix @ selection).tocsr())
        system.right += selection.T @ self.gradient
        if self.free.focal == "each":  # what is expected of their mean, w u u^T, couples all: [B u; u^T -1/w] instead
            system.beside[unknowns[:, -1], 0] = 1 / frames
            system.corner[0, 0] = -1 / self.evidence.focal_weight
        point = torch.from_numpy(self.elimination.point)

        def coupling(some: slice) -> np.ndarray:
            return (self.moments.coupling(some) @ root[point[some]]).numpy()

        pull = (root.mT @ self.point_gradient[..., None])[..., 0].numpy()
        self.elimination.eliminate(system, unknowns, coupling, pull)
        return system

    def covariance(self) -> tuple[np.ndarray, float] | None:
        """Blocks (t - 1, 6, 6) of the inverse for the cameras but the first, and the sigma of the log focal length.

        All cameras but the first are free. None if the system is singular.
        """
        unknowns = self._unknowns()
        try:
            system = self._system(unknowns, self._point_root(torch.zeros(3, 3, dtype=torch.float64), 1e-9))
            most = max(system.band[:, 0].max(initial=0.0), system.corner.max(initial=0.0))
            ridge = np.full(len(system.right), 1e-12 * most)
            if self.free.focal == "each":
                ridge[-1] = 0.0
            factor = system.factored(ridge, sign=self._sign, overwrite=False)
            blocks = factor.inverse_blocks(unknowns[1:, :-1])
            unit = np.zeros(len(ridge))
            unit[unknowns[0, -1]] = 1.0
            variance = float(factor.solve(unit)[unknowns[0, -1]])
        except (np.linalg.LinAlgError, LinAlgError, torch.linalg.LinAlgError):
            return None
        if not (np.isfinite(blocks).all() and variance > 0):
            return None
        return 0.5 * (blocks + blocks.transpose(0, 2, 1)), math.sqrt(variance)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def _chunks(count: int) -> Iterator[slice]:
    return (slice(k, k + ROWS) for k in range(0, count, ROWS))


def _products(
    by_point: Float[Tensor, "k d 3"], by_focal: Float[Tensor, "k d"], residual: Float[Tensor, "k d"]
) -> Float[Tensor, "k 17"]:
    """Derivatives by the point times (themselves, those by the log focal length, the residuals), 3 x 5 numbers.

    Then those by the log focal length times themselves and times the residuals.
    """
    rest = torch.stack([by_focal, residual], dim=2)
    of_point = by_point.mT @ torch.cat([by_point, rest], dim=2)
    return torch.cat([of_point.flatten(1), (by_focal[:, None] @ rest)[:, 0]], dim=1)
