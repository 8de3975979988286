"""Bundle adjustment of tracked points: cameras, one focal length and static points by what the pixels themselves show.

Residuals: reprojection (a Cauchy loss on every observation, and one on every track as a whole, so that what moves is left out),
the network's depth as a soft prior on log z of each point, a prior on the focal length, an acceleration prior on the centres.
Levenberg-Marquardt with an acceptance test; points are eliminated by their 3x3 Schur complement, which leaves a sparse system in
the cameras whose cost grows with the number of observations, not with the square of the video's length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.linalg import LinAlgError
from scipy.sparse.linalg import splu

from geo4d._typing import Bool, Float, Int, Tensor
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.joint.terms.base import acceleration
from geo4d.geometry.rotation import skew, so3_exp, so3_log
from geo4d.solver.lm import Damping, Summary, minimise
from geo4d.solver.robust import Loss

DAMPING = Damping(start=1e-3, raise_by=8.0, lower_by=6.0, least=1e-9, most=1e7, enough=1e-5, failures=7)
NEAREST = 1e-3  # median depths: a point behind its camera counts as one as near as this
DENSE_UNKNOWNS = 2000  # of the cameras, up to which a dense system may be the faster one
DENSE_SHARE = 0.02  # of the dense product's work, from which the sparse product is slower


@dataclass(frozen=True)
class Motion:
    """What is expected of the camera from each frame to the next, and how far it may be off."""

    rotation: Float[Tensor, "s 3 3"]  # cam_to_world of the next frame by that of this one
    step: Float[Tensor, "s 3"]  # in this frame's camera
    rotation_sigma: float  # radians
    step_sigma: Float[Tensor, "s"]
    loss: Loss

    def residuals(self, state: State) -> tuple[Float[Tensor, "s 3"], Float[Tensor, "s 3"]]:
        """Rotation vectors (in the world) and steps (in this frame's camera) by their sigmas."""
        rotation_error = so3_log(state.rotation[1:] @ state.rotation[:-1].mT @ self.rotation.mT) / self.rotation_sigma
        step = torch.einsum("sji,sj->si", state.rotation[:-1], state.centre.diff(dim=0)) - self.step
        return rotation_error, step / self.step_sigma[:, None]

    def cost(self, state: State) -> Tensor:
        """Robust, so that a few wrong expectations do not count."""
        rotation_error, step = self.residuals(state)
        return self.loss.value(rotation_error.square().sum(-1)).sum() + self.loss.value(step.square().sum(-1)).sum()

    def system(self, state: State) -> tuple[sparse.csr_array, np.ndarray]:
        """Normal equations and gradient of all cameras; how a step rotates with its camera is left to the acceptance test."""
        frames = len(state.centre)
        rotation_error, step = self.residuals(state)
        by_rotation, by_step = (self.loss.weight(r.square().sum(-1)) for r in (rotation_error, step))
        first = sparse.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(frames - 1, frames))
        weights = np.stack([(by_rotation / self.rotation_sigma**2).numpy(), (by_step / self.step_sigma.square()).numpy()])
        matrix = sum(
            sparse.kron(first.T @ sparse.diags_array(w) @ first, sparse.diags_array(np.repeat(pick, 3)))
            for w, pick in zip(weights, ([1.0, 0.0], [0.0, 1.0]), strict=True)
        )
        world = torch.einsum("sij,sj->si", state.rotation[:-1], step)
        pull = [by_rotation[:, None] * rotation_error / self.rotation_sigma, (by_step / self.step_sigma)[:, None] * world]
        return matrix.tocsr(), (first.T @ torch.cat(pull, dim=1).numpy()).ravel()


@dataclass(frozen=True)
class Evidence:
    """What is known; pixels are centred and divided by the longer side, lengths in units of the video's median depth."""

    point: Int[Tensor, "m"]
    frame: Int[Tensor, "m"]
    pixel: Float[Tensor, "m 2"]
    prior_point: Int[Tensor, "q"]
    prior_frame: Int[Tensor, "q"]
    prior_log_depth: Float[Tensor, "q"]
    prior_sigma: Float[Tensor, "q"]
    log_focal: float
    log_focal_sigma: float
    pixel_floor: float  # least size of a typical residual
    config: BundleConfig
    motion: Motion | None = None

    @cached_property
    def length(self) -> Float[Tensor, "n"]:
        """Observations of each point."""
        return torch.bincount(self.point).double()


@dataclass(frozen=True)
class State:
    """What is solved for; the first camera stays."""

    rotation: Float[Tensor, "t 3 3"]  # cam_to_world
    centre: Float[Tensor, "t 3"]
    log_focal: Float[Tensor, ""]
    points: Float[Tensor, "n 3"]  # in the world

    def moved(self, camera: Float[Tensor, "t 6"], focal: Tensor, points: Float[Tensor, "n 3"]) -> State:
        """After a step; rotations from the left."""
        return State(
            so3_exp(camera[:, :3]) @ self.rotation,
            self.centre + camera[:, 3:],
            self.log_focal + focal.clamp(-0.3, 0.3),
            self.points + points,
        )


@dataclass(frozen=True)
class Residuals:
    """Of the observations and of the depth priors, with the points in the cameras that see them."""

    pixel: Float[Tensor, "m 2"]
    local: Float[Tensor, "m 3"]
    prior: Float[Tensor, "q"]
    prior_local: Float[Tensor, "q 3"]


@dataclass(frozen=True)
class Solution:
    """A finished solve."""

    state: State
    sigma: float  # typical residual, in units of the longer side
    track_weight: Float[Tensor, "n"]  # near 1: static; near 0: moves, or was followed wrongly
    summary: Summary


def residuals(evidence: Evidence, state: State) -> Residuals:
    """All residuals; a point behind its camera counts as one just before it."""
    local = _local(state, evidence.point, evidence.frame)
    prior_local = _local(state, evidence.prior_point, evidence.prior_frame)
    pixel = state.log_focal.exp() * local[:, :2] / local[:, 2:] - evidence.pixel
    return Residuals(pixel, local, (prior_local[:, 2].log() - evidence.prior_log_depth) / evidence.prior_sigma, prior_local)


def _local(state: State, point: Tensor, frame: Tensor) -> Float[Tensor, "k 3"]:
    local = torch.einsum("kji,kj->ki", state.rotation[frame], state.points[point] - state.centre[frame])
    return torch.cat([local[:, :2], local[:, 2:].clamp_min(NEAREST)], dim=1)


def typical_size(evidence: Evidence, r: Residuals) -> float:
    """Scale of the reprojection residuals."""
    return max(evidence.config.typical * float(r.pixel.norm(dim=1).median()), evidence.pixel_floor)


def track_weights(evidence: Evidence, r: Residuals, sigma: float) -> Float[Tensor, "n"]:
    """Weight of each track as a whole: its mean square residual through a Cauchy weight."""
    square = r.pixel.square().sum(1) / sigma**2
    mean = torch.zeros_like(evidence.length).index_add_(0, evidence.point, square) / evidence.length
    return Loss.cauchy(evidence.config.track_width).weight(mean)


def misfit(evidence: Evidence, state: State, sigma: float) -> float:
    """How badly all tracks as wholes fit a state, whichever of them it believes: comparable between states."""
    square = residuals(evidence, state).pixel.square().sum(1) / sigma**2
    mean = torch.zeros_like(evidence.length).index_add_(0, evidence.point, square) / evidence.length
    return float((evidence.length * Loss.cauchy(evidence.config.track_width).value(mean)).sum())


def cost(evidence: Evidence, state: State, sigma: float, tracks: Float[Tensor, "n"]) -> float:
    """The robust objective at given scale and track weights."""
    r = residuals(evidence, state)
    square = r.pixel.square().sum(1) / sigma**2
    observation, prior = Loss.cauchy(evidence.config.observation_width), Loss.cauchy(evidence.config.prior_width)
    total = (tracks[evidence.point] * observation.value(square)).sum() + prior.value(r.prior.square()).sum()
    total = total + ((state.log_focal - evidence.log_focal) / evidence.log_focal_sigma) ** 2
    total = total + evidence.config.smoothness * acceleration(state.centre).square().sum()
    if evidence.motion is not None:
        total = total + evidence.motion.cost(state)
    return float(total + evidence.config.rotation_smoothness * _frame_to_frame_rotations(state.rotation).diff(dim=0).square().sum())


def _frame_to_frame_rotations(rotation: Float[Tensor, "t 3 3"]) -> Float[Tensor, "s 3"]:
    """Rotation from each frame to the next, as vectors in the world."""
    return so3_log(rotation[1:] @ rotation[:-1].mT)


def solve_bundle(
    evidence: Evidence,
    state: State,
    *,
    iterations: int = 40,
    focal_is_free: bool = True,
    travels: bool = True,
    cameras_are_free: bool = True,
) -> Solution:
    """The state of least robust cost that is found from a start; scales are measured anew after each step that is taken.

    Without `travels` the centres stay where they are: the camera only rotates. If cameras are not free, points alone are moved.
    """
    free = _free(len(state.centre), focal_is_free=focal_is_free, travels=travels, cameras_are_free=cameras_are_free)
    found = minimise(_Bundle(evidence, free), state, iterations=iterations, damping=DAMPING)
    sigma, tracks = found.fixed
    return Solution(found.state, sigma, tracks, found.summary)


@dataclass(frozen=True)
class _Bundle:
    """Bundle adjustment as a problem for `geo4d.solver.lm`; fixed are the size of a typical residual and each track's weight."""

    evidence: Evidence
    free: np.ndarray

    def fix(self, state: State) -> tuple[float, Float[Tensor, "n"]]:
        """Measured at a state."""
        r = residuals(self.evidence, state)
        sigma = typical_size(self.evidence, r)
        return sigma, track_weights(self.evidence, r, sigma)

    def cost(self, state: State, fixed: tuple[float, Tensor]) -> Float[Tensor, "1"]:
        """The robust objective."""
        return torch.tensor([cost(self.evidence, state, *fixed)], dtype=torch.float64)

    def linearise(self, state: State, fixed: tuple[float, Tensor]) -> _System:
        """Blocks of cameras and of points."""
        return _System(self.evidence, state, residuals(self.evidence, state), *fixed, self.free)

    def move(self, state: State, fixed: tuple[float, Tensor], step: tuple[Tensor, Tensor, Tensor]) -> State:
        """After a step."""
        return state.moved(*step)

    def choose(self, better: Bool[Tensor, "b"], new: State, old: State) -> State:
        """A single problem is never mixed."""
        return new if bool(better.all()) else old


def _free(frames: int, *, focal_is_free: bool, travels: bool, cameras_are_free: bool) -> np.ndarray:
    """Numbers of the unknowns (six a frame, then the focal length) that move; the first camera never does."""
    cameras = np.arange(6, 6 * frames) if cameras_are_free else np.arange(0)
    if not travels:
        cameras = cameras[cameras % 6 < 3]
    return np.append(cameras, 6 * frames) if focal_is_free else cameras


class _System:
    """The normal equations at one state: camera blocks, point blocks, and what couples them."""

    def __init__(self, evidence: Evidence, state: State, r: Residuals, sigma: float, tracks: Tensor, free: np.ndarray) -> None:
        self.evidence, self.state, self.free = evidence, state, free
        frames, points = len(state.centre), len(state.points)
        camera, point = _jacobians(state, evidence.point, evidence.frame)  # of the local points
        focal, z = state.log_focal.exp(), r.local[:, 2]
        projection = torch.zeros(len(z), 2, 3, dtype=z.dtype)
        projection[:, 0, 0] = projection[:, 1, 1] = focal / z
        projection[:, :, 2] = -focal * r.local[:, :2] / z[:, None].square()
        slope = focal * r.local[:, :2] / z[:, None]
        by_camera, by_point = torch.cat([projection @ camera, slope[:, :, None]], dim=2), projection @ point  # (m, 2, 7), (m, 2, 3)
        square = r.pixel.square().sum(1) / sigma**2
        weight = tracks[evidence.point] * Loss.cauchy(evidence.config.observation_width).weight(square) / sigma**2

        prior_camera, prior_point = _jacobians(state, evidence.prior_point, evidence.prior_frame)
        by_z = (1 / (r.prior_local[:, 2] * evidence.prior_sigma))[:, None]
        prior_camera, prior_point = prior_camera[:, 2] * by_z, prior_point[:, 2] * by_z  # (q, 6), (q, 3)
        prior_camera = torch.cat([prior_camera, torch.zeros_like(prior_camera[:, :1])], dim=1)
        prior_weight = Loss.cauchy(evidence.config.prior_width).weight(r.prior.square())

        def add(shape: tuple[int, ...], index: Tensor, values: Tensor, prior_index: Tensor, prior_values: Tensor) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64).index_add_(0, index, values).index_add_(0, prior_index, prior_values)

        e, w, q = evidence, weight, prior_weight
        self.cameras = add(
            (frames, 7, 7),
            e.frame,
            torch.einsum("m,mij,mik->mjk", w, by_camera, by_camera),
            e.prior_frame,
            torch.einsum("q,qj,qk->qjk", q, prior_camera, prior_camera),
        )
        self.camera_gradient = add(
            (frames, 7),
            e.frame,
            torch.einsum("m,mij,mi->mj", w, by_camera, r.pixel),
            e.prior_frame,
            (q * r.prior)[:, None] * prior_camera,
        )
        self.points = add(
            (points, 3, 3),
            e.point,
            torch.einsum("m,mij,mik->mjk", w, by_point, by_point),
            e.prior_point,
            torch.einsum("q,qj,qk->qjk", q, prior_point, prior_point),
        )
        self.point_gradient = add(
            (points, 3),
            e.point,
            torch.einsum("m,mij,mi->mj", w, by_point, r.pixel),
            e.prior_point,
            (q * r.prior)[:, None] * prior_point,
        )
        self.coupling = self._couple(
            torch.cat([torch.einsum("m,mij,mik->mjk", w, by_camera, by_point), torch.einsum("q,qj,qk->qjk", q, prior_camera, prior_point)])
        )
        self._matrix, self._gradient = self._camera_system()

    def _couple(self, blocks: Float[Tensor, "k 7 3"]) -> sparse.csr_array:
        """Unknowns of the cameras (six a frame, then the focal length) by those of the points."""
        e, frames = self.evidence, len(self.state.centre)
        frame, point = torch.cat([e.frame, e.prior_frame]), torch.cat([e.point, e.prior_point])
        rows = torch.cat([6 * frame[:, None] + torch.arange(6), torch.full((len(frame), 1), 6 * frames)], dim=1)
        columns = 3 * point[:, None] + torch.arange(3)
        index = rows[:, :, None].expand(-1, 7, 3).flatten(), columns[:, None, :].expand(-1, 7, 3).flatten()
        shape = (6 * frames + 1, 3 * len(self.state.points))
        return sparse.csr_array((blocks.flatten().numpy(), (index[0].numpy(), index[1].numpy())), shape=shape)

    def _camera_system(self) -> tuple[sparse.csr_array, np.ndarray]:
        e, frames = self.evidence, len(self.state.centre)
        blocks = sparse.block_diag([sparse.coo_array(block) for block in self.cameras[:, :6, :6].numpy()])
        arrow = self.cameras[:, :6, 6].flatten().numpy()[:, None]
        corner = float(self.cameras[:, 6, 6].sum()) + 1 / e.log_focal_sigma**2
        gradient = np.append(self.camera_gradient[:, :6].flatten().numpy(), float(self.camera_gradient[:, 6].sum()))
        gradient[-1] += (float(self.state.log_focal) - e.log_focal) / e.log_focal_sigma**2
        if frames > 2:
            second = sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(frames - 2, frames))
            weights = np.repeat([e.config.rotation_smoothness, e.config.smoothness], 3)
            blocks = blocks + sparse.kron(second.T @ second, sparse.diags_array(weights))
            # of small angles; the acceptance test answers for the rest
            turns = _frame_to_frame_rotations(self.state.rotation).diff(dim=0)
            both = torch.cat([turns, acceleration(self.state.centre)], dim=1).numpy()
            gradient[:-1] += (weights * (second.T @ both)).ravel()
        if e.motion is not None:
            matrix, pull = e.motion.system(self.state)
            blocks = blocks + matrix
            gradient[:-1] += pull
        return sparse.block_array([[blocks, arrow], [arrow.T, np.array([[corner]])]], format="csr"), gradient

    def step(self, damping: Float[Tensor, "b"]) -> tuple[Tensor, Tensor, Tensor] | None:
        """The damped step of cameras (t, 6), log focal length and points (n, 3); None if the system cannot be solved."""
        factor, identity = float(damping), torch.eye(3, dtype=torch.float64)
        trace = self.points.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        inverse = torch.linalg.inv(self.points * (1 + factor * identity) + (1e-12 * trace + 1e-30) * identity)
        delta = np.zeros(len(self._gradient))
        if len(self.free) > 0:
            try:
                delta[self.free] = self._camera_step(factor, self.free, inverse)
            except (np.linalg.LinAlgError, LinAlgError, RuntimeError):
                return None
            if not np.isfinite(delta).all():
                return None
        rest = self.point_gradient + torch.from_numpy(self.coupling.T @ delta).unflatten(0, (-1, 3))
        points = -(inverse @ rest[..., None])[..., 0]
        return torch.from_numpy(delta[:-1]).unflatten(0, (-1, 6)), torch.tensor(delta[-1]), points

    def size(self, step: tuple[Tensor, Tensor, Tensor]) -> float:
        """The largest entry."""
        return max(float(part.abs().max()) for part in step)

    def _camera_step(self, damping: float, free: np.ndarray, inverse: Float[Tensor, "n 3 3"]) -> np.ndarray:
        """The free unknowns' part, the points being eliminated by the inverses of their blocks."""
        spread = sparse.bsr_array((inverse.numpy(), np.arange(len(inverse)), np.arange(len(inverse) + 1))).tocsr()
        reduced = self.coupling @ spread
        matrix = self._reduce(reduced)
        right = self._gradient - reduced @ self.point_gradient.flatten().numpy()
        diagonal = self._matrix.diagonal()
        ridge = damping * diagonal + 1e-12 * diagonal.max()
        if isinstance(matrix, np.ndarray):
            return -np.linalg.solve((matrix + np.diag(ridge))[np.ix_(free, free)], right[free])
        return -splu((matrix + sparse.diags_array(ridge)).tocsc()[free][:, free]).solve(right[free])

    def covariance(self) -> np.ndarray | None:
        """Blocks (t - 1, 6, 6) of the inverse for the cameras but the first, all being free; None if the system is singular."""
        free = self.free
        trace = self.points.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        inverse = torch.linalg.inv(self.points + (1e-9 * trace + 1e-30) * torch.eye(3, dtype=torch.float64))
        spread = sparse.bsr_array((inverse.numpy(), np.arange(len(inverse)), np.arange(len(inverse) + 1))).tocsr()
        matrix = self._reduce(self.coupling @ spread)
        matrix = sparse.csc_array(matrix)[free][:, free]
        frames = len(free) // 6
        blocks = np.zeros((frames, 6, 6))
        try:
            factor = splu(sparse.csc_array(matrix + 1e-12 * matrix.diagonal().max() * sparse.identity(len(free))))
            for some in np.array_split(np.arange(frames), max(1, frames // 64)):
                unit = np.zeros((len(free), 6 * len(some)))
                unit[np.arange(6 * some[0], 6 * some[-1] + 6), np.arange(6 * len(some))] = 1.0
                columns = factor.solve(unit).reshape(-1, len(some), 6)
                for place, frame in enumerate(some):
                    blocks[frame] = columns[6 * frame : 6 * frame + 6, place]
        except (LinAlgError, RuntimeError):
            return None
        return 0.5 * (blocks + blocks.transpose(0, 2, 1)) if np.isfinite(blocks).all() else None

    def _reduce(self, reduced: sparse.csr_array) -> np.ndarray | sparse.csr_array:
        """The cameras' own system without the points, dense where most pairs of frames share points anyway."""
        unknowns, columns = self.coupling.shape
        work = 3 * float((6 * self.evidence.length + 1).square().sum())
        if unknowns <= DENSE_UNKNOWNS and work > DENSE_SHARE * unknowns**2 * columns:
            return self._matrix.toarray() - reduced.toarray() @ self.coupling.toarray().T
        return (self._matrix - reduced @ self.coupling.T).tocsr()


def _jacobians(state: State, point: Tensor, frame: Tensor) -> tuple[Float[Tensor, "k 3 6"], Float[Tensor, "k 3 3"]]:
    """Derivatives of points in their cameras by (rotation, centre) and by the point."""
    back = state.rotation[frame].mT
    by_rotation = back @ skew(state.points[point] - state.centre[frame])
    return torch.cat([by_rotation, -back], dim=2), back


def camera_covariance(evidence: Evidence, solution: Solution) -> Float[Tensor, "t 6 6"]:
    """Of each camera's rotation (radians, about the world's axes) and centre in the state's unit, points and focal length being free.

    A track's observations share its error, so that `config.independent_frames` of them count. Directions of which nothing is known have
    the little that depth and motion priors hold; nan where the system cannot be inverted.
    """
    frames = len(solution.state.centre)
    share = (evidence.config.independent_frames / evidence.length).clamp_max(1.0)
    free = _free(frames, focal_is_free=True, travels=True, cameras_are_free=True)
    weight = solution.track_weight * share
    system = _System(evidence, solution.state, residuals(evidence, solution.state), solution.sigma, weight, free)
    found = system.covariance()
    if found is None:
        return torch.full((frames, 6, 6), torch.nan, dtype=torch.float64)
    return torch.cat([torch.zeros(1, 6, 6, dtype=torch.float64), torch.from_numpy(found)])
