"""The normal equations of bundle adjustment at one state: camera blocks, point blocks, and what couples them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse.linalg import splu

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.bundle.evidence import Evidence, State, frame_to_frame_rotations, residuals
from geo4d.alignment.joint.terms.base import acceleration
from geo4d.geometry.rotation import skew
from geo4d.solver.robust import Loss

CAMERA = 7  # unknowns of one: rotation, centre, log focal length
ROWS = 32_768  # observations whose products are taken at once
AT_ONCE = 64  # cameras whose covariances are solved for together


@dataclass(frozen=True)
class Free:
    """What moves; points always do, the first camera never."""

    focal: Literal["held", "shared", "each"] = "shared"
    travels: bool = True  # otherwise the centres stay where they are: the camera only rotates
    cameras: bool = True
    held: Bool[Tensor, "t"] | None = None  # cameras that stay, beside the first

    def selection(self, frames: int) -> sparse.csc_array:
        """(7 t, k) of zeros and ones: which unknowns of the cameras each of the k free ones moves."""
        moves = np.ones(frames, bool) if self.held is None else ~self.held.numpy()
        moves[0] = False
        pattern = np.array([True] * 3 + [self.travels] * 3 + [False])
        rows = np.flatnonzero(moves[:, None] & pattern) if self.cameras else np.zeros(0, int)
        columns = np.arange(len(rows))
        focal = CAMERA * np.arange(frames) + CAMERA - 1
        if self.focal == "shared":
            rows, columns = np.append(rows, focal), np.append(columns, np.full(frames, len(columns)))
        elif self.focal == "each":
            rows, columns = np.append(rows, focal), np.append(columns, len(columns) + np.arange(frames))
        size = int(columns.max()) + 1 if len(columns) else 0
        return sparse.csc_array((np.ones(len(rows)), (rows, columns)), shape=(CAMERA * frames, size))


Step = tuple[Float[Tensor, "t 7"], Float[Tensor, "n 3"]]


class BundleSystem:
    """Built at a state, for given scales."""

    def __init__(self, evidence: Evidence, state: State, sigma: float, tracks: Float[Tensor, "n"], free: Free) -> None:
        """`sigma` is the size of a typical residual, `tracks` (n,) the weight of each track."""
        self.evidence, self.state, self.free = evidence, state, free
        self.elimination = evidence.elimination(state)
        frames, points, couplings = len(state.centre), len(state.points), len(self.elimination.point)
        self.cameras, self.camera_gradient = _zeros(frames, CAMERA, CAMERA), _zeros(frames, CAMERA)
        self.points, self.point_gradient = _zeros(points, 3, 3), _zeros(points, 3)
        coupling, entry = _zeros(couplings, CAMERA, 3), torch.from_numpy(self.elimination.entry)
        rows, right, frame, point = self._rows(sigma, tracks)
        for some in torch.arange(len(frame)).split(ROWS):  # products take several times the memory of what they are of
            blocks, pull = (
                rows[some].mT @ rows[some],
                (rows[some].mT @ right[some, :, None])[..., 0],
            )  # (k, 10, 10), (k, 10)
            self.cameras.index_add_(0, frame[some], blocks[:, :CAMERA, :CAMERA])
            self.camera_gradient.index_add_(0, frame[some], pull[:, :CAMERA])
            self.points.index_add_(0, point[some], blocks[:, CAMERA:, CAMERA:])
            self.point_gradient.index_add_(0, point[some], pull[:, CAMERA:])
            coupling.index_add_(0, entry[some], blocks[:, :CAMERA, CAMERA:])
        self.coupling = coupling.numpy()
        self.matrix, self.gradient = self._of_cameras()

    def _rows(
        self, sigma: float, tracks: Tensor
    ) -> tuple[Float[Tensor, "k 2 10"], Float[Tensor, "k 2"], Tensor, Tensor]:
        """Weighted derivatives by (rotation, centre, log focal length, point) and residuals.

        Observations come first, then depth priors.
        """
        e, c, state, r = self.evidence, self.evidence.config, self.state, residuals(self.evidence, self.state)
        by_camera, by_point = _jacobians(state, e.point, e.frame)
        focal, z = state.log_focal.exp()[e.frame, None], r.local[:, 2:]
        slope = focal * r.local[:, :2] / z  # also the derivative by the log focal length
        projection = torch.cat([torch.eye(2, dtype=z.dtype) * (focal / z)[..., None], -(slope / z)[..., None]], dim=2)
        rows = torch.cat([projection @ by_camera, slope[..., None], projection @ by_point], dim=2)
        square = r.pixel.square().sum(1) / sigma**2
        weight = (tracks[e.point] * Loss.cauchy(c.observation_width).weight(square)).sqrt() / sigma
        rows, right = weight[:, None, None] * rows, weight[:, None] * r.pixel

        by_camera, by_point = _jacobians(state, e.prior_point, e.prior_frame)
        root = Loss.cauchy(c.prior_width).weight(r.prior.square()).sqrt()
        by_z = (root / (r.prior_local[:, 2] * e.prior_sigma))[:, None]
        nothing = torch.zeros_like(by_z)
        of_priors = torch.cat([by_z * by_camera[:, 2], nothing, by_z * by_point[:, 2]], dim=1)[:, None]
        of_priors = torch.cat([of_priors, torch.zeros_like(of_priors)], dim=1)
        priors = torch.stack([root * r.prior, torch.zeros_like(root)], dim=1)
        return (
            torch.cat([rows, of_priors]),
            torch.cat([right, priors]),
            torch.cat([e.frame, e.prior_frame]),
            torch.cat([e.point, e.prior_point]),
        )

    def _of_cameras(self) -> tuple[sparse.csr_array, np.ndarray]:
        """What observations and priors say of the cameras, the points being held."""
        e, state, frames = self.evidence, self.state, len(self.state.centre)
        gradient = self.camera_gradient.numpy().copy()
        matrix = sparse.bsr_array((self.cameras.numpy(), np.arange(frames), np.arange(frames + 1))).tocsr()
        if frames > 2:
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

        Their mean, and that they change slowly.
        """
        e, frames, log_focal = self.evidence, len(self.state.centre), self.state.log_focal.numpy()
        last, weight = CAMERA * np.arange(frames) + CAMERA - 1, e.focal_weight
        if self.free.focal != "each":  # they do not change: a full matrix would be built for nothing
            shape = (CAMERA * frames, CAMERA * frames)
            matrix = sparse.csr_array((np.full(frames, weight / frames), (last, last)), shape=shape)
            return matrix, np.full(frames, weight / frames * (log_focal.mean() - e.log_focal))
        change = (
            sparse.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(max(frames - 1, 0), frames)) / e.config.zoom_sigma
        )
        of_focal = change.T @ change + sparse.csr_array(np.full((frames, frames), weight / frames**2))
        here = np.zeros((CAMERA, CAMERA))
        here[-1, -1] = 1.0
        pull = change.T @ (change @ log_focal) + weight / frames * (log_focal.mean() - e.log_focal)
        return sparse.kron(of_focal, here).tocsr(), pull

    def step(self, damping: Float[Tensor, "b"]) -> Step | None:
        """The damped step of cameras and points; None if the system cannot be solved."""
        factor = float(damping)
        inverse = self._point_inverse(factor * torch.eye(3, dtype=torch.float64), 1e-12)
        camera = np.zeros(len(self.gradient))
        selection = self.free.selection(len(self.state.centre))
        if selection.shape[1]:
            try:
                camera = selection @ self._camera_step(factor, inverse, selection)
            except (np.linalg.LinAlgError, LinAlgError, RuntimeError):
                return None
            if not np.isfinite(camera).all():
                return None
        of_camera = torch.from_numpy(camera).unflatten(0, (-1, CAMERA))
        moved = (torch.from_numpy(self.coupling).mT @ of_camera[self.elimination.camera][..., None])[..., 0]
        rest = self.point_gradient.index_add(0, torch.from_numpy(self.elimination.point), moved)
        return of_camera, -(inverse @ rest[..., None])[..., 0]

    def size(self, step: Step) -> float:
        """The largest entry."""
        return max(float(part.abs().max()) if part.numel() else 0.0 for part in step)

    def _point_inverse(self, damping: Float[Tensor, "3 3"], ridge: float) -> Float[Tensor, "n 3 3"]:
        identity = torch.eye(3, dtype=torch.float64)
        trace = self.points.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        return torch.linalg.inv(self.points * (identity.new_ones(3, 3) + damping) + (ridge * trace + 1e-30) * identity)

    def _camera_step(self, damping: float, inverse: Float[Tensor, "n 3 3"], selection: sparse.csc_array) -> np.ndarray:
        """The step of the free unknowns, the points being eliminated by the inverses of their blocks."""
        e = self.elimination
        by_inverse = (torch.from_numpy(self.coupling) @ inverse[e.point]).numpy()
        lost = (by_inverse @ self.point_gradient.numpy()[e.point][..., None])[..., 0]
        right = selection.T @ (
            self.gradient - _sums(torch.from_numpy(e.camera), torch.from_numpy(lost), e.num_cameras).numpy().ravel()
        )
        reduced = self._reduced(by_inverse, selection)
        ridge = selection.T @ (self.matrix.diagonal() * damping) + 1e-12 * self.matrix.diagonal().max()
        if isinstance(reduced, np.ndarray):
            return -cho_solve(
                cho_factor(reduced + np.diag(ridge), lower=True, overwrite_a=True, check_finite=False), right
            )
        return -splu((reduced + sparse.diags_array(ridge)).tocsc()).solve(right)

    def _reduced(self, by_inverse: np.ndarray, selection: sparse.csc_array) -> np.ndarray | sparse.csr_array:
        """The system of the free unknowns of the cameras without the points."""
        lost = self.elimination.reduced(self.coupling, by_inverse)
        if isinstance(lost, np.ndarray):
            return np.asarray(selection.T @ (selection.T @ (self.matrix.toarray() - lost)).T)
        return sparse.csr_array(selection.T @ (self.matrix - lost) @ selection)

    def covariance(self) -> tuple[np.ndarray, float] | None:
        """Blocks (t - 1, 6, 6) of the inverse for the cameras but the first, and the sigma of the log focal length.

        All cameras but the first are free. None if the system is singular.
        """
        e, frames = self.elimination, len(self.state.centre)
        by_inverse = (
            torch.from_numpy(self.coupling) @ self._point_inverse(torch.zeros(3, 3, dtype=torch.float64), 1e-9)[e.point]
        ).numpy()
        selection = self.free.selection(frames)
        matrix = sparse.csc_array(self._reduced(by_inverse, selection))
        size = matrix.shape[0]
        blocks = np.zeros((frames - 1, 6, 6))
        try:
            factor = splu(sparse.csc_array(matrix + 1e-12 * matrix.diagonal().max() * sparse.eye_array(size)))
            for some in np.array_split(np.arange(frames - 1), max(1, (frames - 1) // AT_ONCE)):
                if not len(some):
                    continue
                unit = np.zeros((size, 6 * len(some)))
                unit[np.arange(6 * some[0], 6 * some[-1] + 6), np.arange(6 * len(some))] = 1.0
                columns = factor.solve(unit).reshape(size, len(some), 6)
                for k, frame in enumerate(some):
                    blocks[frame] = columns[6 * frame : 6 * frame + 6, k]
            last = np.zeros(size)
            last[6 * (frames - 1)] = 1.0
            variance = float(factor.solve(last)[6 * (frames - 1)])
        except (LinAlgError, RuntimeError):
            return None
        if not (np.isfinite(blocks).all() and variance > 0):
            return None
        return 0.5 * (blocks + blocks.transpose(0, 2, 1)), math.sqrt(variance)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def _sums(index: Tensor, values: Float[Tensor, "k *s"], count: int) -> Float[Tensor, "n *s"]:
    """Of all rows with the same index."""
    return values.new_zeros(count, *values.shape[1:]).index_add_(0, index, values)


def _jacobians(state: State, point: Tensor, frame: Tensor) -> tuple[Float[Tensor, "k 3 6"], Float[Tensor, "k 3 3"]]:
    """Derivatives of points in their cameras by (rotation, centre) and by the point."""
    back = state.rotation[frame].mT
    by_rotation = back @ skew(state.points[point] - state.centre[frame])
    return torch.cat([by_rotation, -back], dim=2), back
