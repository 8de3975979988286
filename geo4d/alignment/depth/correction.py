"""Depth of every frame, corrected where tracked points have been triangulated: a smooth field of log depth per frame.

The network's depth errs by whole regions and by whole frames; triangulated static points say by how much. Between them
the field is interpolated (bilinear cells, smooth in space and time, beside a scale of each frame), and it falls back to
nothing where there are none; how far each point is believed follows from its parallax.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import splu

from geo4d.alignment.bundle.adjust import Solution
from geo4d.alignment.bundle.evidence import Evidence, residuals
from geo4d.alignment.depth.config import CorrectionConfig
from geo4d.solver.information import bounded_covariance
from geo4d.solver.robust import Loss

FARTHEST = 1e6  # median depths: a point beyond is as good as at infinity
LEAST_INFORMATION = 1e-6  # of a log distance: off by a thousandfold, which is unknown


def point_sigma(evidence: Evidence, solution: Solution, config: CorrectionConfig) -> np.ndarray:
    """Standard deviation of each point's log distance from where it was first seen, the cameras taken for exact."""
    state = solution.state
    r = residuals(evidence, state)
    focal, z = state.log_focal.exp()[evidence.frame].numpy(), r.local[:, 2].numpy()
    projection = np.zeros((len(z), 2, 3))
    projection[:, 0, 0] = projection[:, 1, 1] = focal / z
    projection[:, :, 2] = -focal[:, None] * r.local[:, :2].numpy() / z[:, None] ** 2
    jacobian = projection @ state.rotation[evidence.frame].mT.numpy()
    point, length = evidence.point.numpy(), evidence.length.numpy()
    sigma = max(solution.sigma, config.least_noise * evidence.noise)
    weight = np.minimum(1, config.independent_frames / np.maximum(length, 1))[point] / sigma**2
    information = np.zeros((len(length), 3, 3))
    np.add.at(information, point, np.einsum("m,mij,mik->mjk", weight, jacobian, jacobian))
    first = evidence.prior_frame[: len(length)]
    ray = (state.points - state.centre[first]).numpy()
    distance = np.linalg.norm(ray, axis=1).clip(1e-6, FARTHEST)
    covariance = bounded_covariance(information * distance[:, None, None] ** 2, LEAST_INFORMATION)  # by the distance
    ray = np.nan_to_num(ray / distance[:, None])
    return np.sqrt(np.einsum("ni,nij,nj->n", ray, covariance, ray))


def depth_field(
    evidence: Evidence, solution: Solution, network_depth: np.ndarray, places: np.ndarray, config: CorrectionConfig
) -> tuple[np.ndarray | None, float, float]:
    """The field of log depth to be added, or None where there are too few points; log scale; and points a frame.

    `network_depth` (m,) is that of every observation in units of the solution, nan where there is none; `places` (m, 2)
    are theirs in the frame, x and y from 0 to 1. The scale is by how much the solution's depths exceed the network's as
    a whole.
    """
    frames = len(solution.state.centre)
    point, frame = evidence.point.numpy(), evidence.frame.numpy()
    sigma = point_sigma(evidence, solution, config)[point]
    ratio = residuals(evidence, solution.state).local[:, 2].log().numpy() - np.log(network_depth)
    valid = np.isfinite(ratio) & (solution.track_weight.numpy()[point] > config.least_belief)
    if not valid.any():
        return None, 0.0, 0.0
    use = valid & (sigma < config.worst_sigma)
    if use.sum() < config.least_points * frames:
        return None, float(np.median(ratio[valid])), use.sum() / frames
    scale = float(np.median(ratio[use]))
    # a track's frames share its error: together they count as one point
    weight = (
        1 / (sigma**2 + config.point_floor**2) / np.bincount(point[use], minlength=len(evidence.length))[point].clip(1)
    )
    x, y = places[use].T
    field = fit_field(ratio[use] - scale, weight[use], (frame[use], x, y), frames, config)
    return field, scale, use.sum() / frames


def fit_field(
    target: np.ndarray,
    weight: np.ndarray,
    where: tuple[np.ndarray, np.ndarray, np.ndarray],
    frames: int,
    config: CorrectionConfig,
) -> np.ndarray:
    """The field (frames, rows, columns) of log depth from samples at `where` = (frame, x, y), x and y from 0 to 1."""
    c = config
    cells = c.rows * c.columns
    frame, x, y = where
    index, share = _corners(x, y, c)
    size = frames * cells
    rows = np.tile(np.arange(len(target)), 4)
    rows = np.concatenate([rows, np.arange(len(target))])
    columns = np.concatenate([(frame * cells + index).ravel(), size + frame])  # the last are scales of whole frames
    shares = np.concatenate([share.ravel(), np.ones(len(target))])
    sample = sparse.csr_array((shares, (rows, columns)), shape=(len(target), size + frames))
    prior = sparse.block_diag([_prior(frames, c), _frame_prior(frames, c)]).tocsr()
    field, robust = np.zeros(size + frames), Loss.cauchy(c.robust)
    for _ in range(6):
        w = weight * robust.weight((target - sample @ field) ** 2)
        system = (sample.T @ sparse.diags_array(w) @ sample + prior).tocsc()
        field = splu(system).solve(sample.T @ (w * target))
    return field[:size].reshape(frames, c.rows, c.columns) + field[size:, None, None]


def _prior(frames: int, c: CorrectionConfig) -> sparse.csr_array:
    """Smoothness in space and time, and a pull to zero."""
    t, y, x = (sparse.identity(n) for n in (frames, c.rows, c.columns))
    across = sparse.kron(t, sparse.kron(y, _differences(c.columns)))
    down = sparse.kron(t, sparse.kron(_differences(c.rows), x))
    onward = sparse.kron(_differences(frames), sparse.kron(y, x))
    space = c.space * (across.T @ across + down.T @ down)
    total = space + c.time * frames * (onward.T @ onward) + c.ridge * sparse.identity(frames * c.rows * c.columns)
    return (total / (c.network_sigma**2 * frames)).tocsr()


def _frame_prior(frames: int, c: CorrectionConfig) -> sparse.csr_array:
    """That scales of frames are small, and neighbours' twice as near: one without points follows them."""
    onward = 2 * _differences(frames)
    return ((sparse.eye_array(frames) + onward.T @ onward) / c.frame_sigma**2).tocsr()


def _differences(n: int) -> sparse.dia_array:
    return sparse.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(max(n - 1, 0), n))


def _corners(x: np.ndarray, y: np.ndarray, c: CorrectionConfig) -> tuple[np.ndarray, np.ndarray]:
    """The four cells around each place (4, n), and the share of each."""
    u, v = np.clip(x * c.columns - 0.5, 0, c.columns - 1), np.clip(y * c.rows - 0.5, 0, c.rows - 1)
    u0, v0 = np.minimum(u.astype(int), max(c.columns - 2, 0)), np.minimum(v.astype(int), max(c.rows - 2, 0))
    fu, fv = u - u0, v - v0
    u1, v1 = np.minimum(u0 + 1, c.columns - 1), np.minimum(v0 + 1, c.rows - 1)
    index = np.stack([v0 * c.columns + u0, v0 * c.columns + u1, v1 * c.columns + u0, v1 * c.columns + u1])
    return index, np.stack([(1 - fv) * (1 - fu), (1 - fv) * fu, fv * (1 - fu), fv * fu])


def sample_field(field: np.ndarray, height: int, width: int, config: CorrectionConfig) -> np.ndarray:
    """The field (t, rows, columns) at every pixel (t, height, width)."""
    v, u = np.mgrid[0:height, 0:width]
    index, share = _corners((u.ravel() + 0.5) / width, (v.ravel() + 0.5) / height, config)
    flat = field.reshape(len(field), -1)
    return sum(flat[:, index[i]] * share[i] for i in range(4)).reshape(len(field), height, width)
