"""Camera trajectories against the truth: ATE, RPE, relative poses of pairs. Equal to evo where evo has the number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from geo4d.errors import InputError
from geo4d.geometry.similarity import fit_similarity
from geo4d.metrics.checks import require_choice, require_trajectories

TrajectoryAlignment = Literal["none", "first", "scale", "se3", "sim3"]
ALIGNMENTS = ("none", "first", "scale", "se3", "sim3")
MOVED = 0.01  # of the longest way from the first camera: below, its direction is not asked for
MIN_BASELINE = 1e-9  # of the longest baseline: below, a pair of cameras has no direction


@dataclass(frozen=True)
class PoseMetrics:
    """Lengths in units of the truth, angles in degrees, AUC as shares from 0 to 1.

    Where the true camera stands still its motion is known only to be 0 times an unknown scale: `ate_static` is 0 then,
    every prediction has ATE 0, and directions count as right; only rotations tell.
    """

    ate_sim3: float  # RMSE of the camera centres after the best similarity
    ate_scale: float  # with scale only, first cameras made to coincide
    ate_static: float  # what a camera that never moves has as `ate_scale`
    rpe_translation: float  # RMSE of the relative translation of consecutive frames, at the Sim3 scale
    rpe_rotation_deg: float  # RMSE of the relative rotation of consecutive frames
    rotation_deg: float  # mean rotation error against the truth, first cameras made to coincide
    direction_deg: float  # mean angle between true and predicted displacement from the first frame
    auc_5: float  # of all pairs, the greater of rotation and direction error, up to 5 degrees
    auc_30: float


def pose_metrics(predicted: np.ndarray, true: np.ndarray) -> PoseMetrics:
    """Scores one trajectory of (t, 4, 4) cam_to_world.

    Raises InputError for other shapes or lengths, fewer than two poses, values that are not finite, and matrices that
    do not rotate.
    """
    predicted, true = require_trajectories(predicted, true)
    step_translation, step_rotation = relative_pose_errors(predicted, true)
    p, t = align_trajectory(predicted, true, "first"), true
    pairs = np.maximum(*relative_pose_angles(predicted, true))
    return PoseMetrics(
        ate_sim3=absolute_trajectory_error(predicted, true, alignment="sim3"),
        ate_scale=absolute_trajectory_error(predicted, true, alignment="scale"),
        ate_static=_rms(np.linalg.norm(true[:, :3, 3] - true[0, :3, 3], axis=1)),
        rpe_translation=_rms(step_translation),
        rpe_rotation_deg=_rms(step_rotation),
        rotation_deg=float(_angles_deg(_transposed(t[:, :3, :3]) @ p[:, :3, :3]).mean()),
        direction_deg=_direction_from_first(p[:, :3, 3] - p[0, :3, 3], t[:, :3, 3] - t[0, :3, 3]),
        auc_5=pose_auc(pairs, 5),
        auc_30=pose_auc(pairs, 30),
    )


def align_trajectory(predicted: np.ndarray, true: np.ndarray, alignment: TrajectoryAlignment) -> np.ndarray:
    """The predicted (t, 4, 4) cam_to_world moved into the world of the truth, in float64.

    `first` makes the first cameras coincide; `scale` then takes the scale about that camera that fits the other centres
    best (least squares, not negative); `se3` and `sim3` are the best rigid motion and similarity of the centres
    (Umeyama 1991). Motion along a line leaves the turn about it open, and a camera that stands still all of it; centres
    do not depend on it.
    """
    require_choice("The alignment of trajectories", alignment, ALIGNMENTS)
    predicted, true = require_trajectories(predicted, true)
    if alignment == "none":
        return predicted
    aligned = predicted.copy()
    if alignment in ("first", "scale"):
        aligned = true[:1] @ (_inverse(predicted[:1]) @ predicted)
        if alignment == "scale":
            origin = true[0, :3, 3]
            p, t = aligned[:, :3, 3] - origin, true[:, :3, 3] - origin
            square = float((p * p).sum())
            scale = max(float((p * t).sum()) / square, 0.0) if square > 0 else 0.0
            aligned[:, :3, 3] = origin + scale * p
        return aligned
    p, t = torch.from_numpy(predicted[:, :3, 3].copy()), torch.from_numpy(true[:, :3, 3].copy())
    best = fit_similarity(p, t, torch.ones(len(p), dtype=torch.float64))
    rotation, scale = best.rotation.numpy(), float(best.scale) if alignment == "sim3" else 1.0
    aligned[:, :3, :3] = rotation @ predicted[:, :3, :3]
    aligned[:, :3, 3] = scale * (predicted[:, :3, 3] - p.numpy().mean(0)) @ rotation.T + t.numpy().mean(0)
    return aligned


def absolute_trajectory_error(
    predicted: np.ndarray, true: np.ndarray, *, alignment: TrajectoryAlignment = "sim3"
) -> float:
    """RMSE of the centres of (t, 4, 4) cam_to_world after `align_trajectory`, in units of the truth."""
    aligned = align_trajectory(predicted, true, alignment)
    return _rms(np.linalg.norm(aligned[:, :3, 3] - true[:, :3, 3], axis=1))


def relative_pose_errors(
    predicted: np.ndarray,
    true: np.ndarray,
    *,
    alignment: TrajectoryAlignment = "sim3",
    delta: int = 1,
    all_pairs: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the motion over `delta` frames: lengths (n,) in units of the truth, and angles (n,) in degrees.

    With E = (inverse of the true motion) @ (predicted motion), they are the length of its translation and the angle of
    its rotation. `all_pairs` takes (0, d), (1, 1 + d), ...; without it (0, d), (d, 2d), ... Only the scale of the
    alignment matters.
    """
    aligned = align_trajectory(predicted, true, alignment)
    if not 1 <= delta < len(aligned):
        raise InputError(
            f"The delta of relative poses must be from 1 to {len(aligned) - 1} for {len(aligned)} poses; got {delta}."
        )
    first = np.arange(0, len(aligned) - delta, 1 if all_pairs else delta)
    p, t = _motion(aligned, first, first + delta), _motion(true.astype(np.float64), first, first + delta)
    error = _inverse(t) @ p
    return np.linalg.norm(error[:, :3, 3], axis=1), _angles_deg(error[:, :3, :3])


def relative_pose_angles(
    predicted: np.ndarray, true: np.ndarray, *, pairs: np.ndarray | None = None, up_to_sign: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Errors in degrees of the relative pose of pairs of cameras: of rotation (n,), and of direction (n,).

    `pairs` (n, 2) are frames i, j; all i < j if not given. The direction is that of camera j's centre seen from camera
    i; no alignment is needed. It counts as right where the true centres coincide, and as 90 degrees off where only the
    predicted ones do. `up_to_sign` folds it at 90 degrees, as evaluations of two-view geometry do.
    """
    predicted, true = require_trajectories(predicted, true)
    if pairs is not None and (
        pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs) or pairs.min() < 0 or pairs.max() >= len(true)
    ):
        raise InputError(
            f"Pairs must be (n, 2) frames from 0 to {len(true) - 1}, at least one; got an array of shape {pairs.shape}."
        )
    extent = np.linalg.norm(np.ptp(true[:, :3, 3], axis=0))
    rotations, directions = [], []
    for i, j in _chunks(len(true)) if pairs is None else [(pairs[:, 0], pairs[:, 1])]:
        p, t = _motion(predicted, i, j), _motion(true, i, j)
        rotations.append(_angles_deg(_transposed(t[:, :3, :3]) @ p[:, :3, :3]))
        directions.append(_directions_deg(p[:, :3, 3], t[:, :3, 3], MIN_BASELINE * extent))
    direction = np.concatenate(directions)
    return np.concatenate(rotations), np.minimum(direction, 180 - direction) if up_to_sign else direction


def pose_auc(error_deg: np.ndarray, limit_deg: float | int, *, binned: bool = False) -> float:
    """Area under the curve of the share of errors (n,) below a threshold, for thresholds from 0 to `limit_deg`.

    Perfect is 1.

    Exact: the mean of max(0, 1 - error / limit). `binned` counts at whole degrees (limits must be whole), as the usual
    evaluations of relative pose do: an error counts as its next lower whole degree, so the area is greater.
    """
    if not len(error_deg) or not (np.isfinite(error_deg) & (error_deg >= 0)).all() or limit_deg <= 0:
        raise InputError(
            f"AUC needs errors that are finite and not negative, and a positive limit; got {len(error_deg)} and "
            f"{limit_deg}."
        )
    if binned and limit_deg != int(limit_deg):
        raise InputError(f"A binned AUC counts at whole degrees; got a limit of {limit_deg}; pass a whole number.")
    error = np.floor(error_deg) if binned else error_deg
    return float(np.maximum(0.0, 1 - error / limit_deg).mean())


def _chunks(frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs i < j, in portions that keep memory small for long videos."""
    rows = max(1, 200_000 // frames)
    for start in range(0, frames - 1, rows):
        i, j = np.triu_indices(min(rows, frames - start), k=1, m=frames - start)
        yield i + start, j + start


def _inverse(cam_to_world: np.ndarray) -> np.ndarray:
    inverse = np.zeros_like(cam_to_world)
    inverse[:, :3, :3] = _transposed(cam_to_world[:, :3, :3])
    inverse[:, :3, 3] = -(inverse[:, :3, :3] @ cam_to_world[:, :3, 3:])[..., 0]
    inverse[:, 3, 3] = 1
    return inverse


def _motion(cam_to_world: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Camera j in the frame of camera i, (n, 4, 4)."""
    return _inverse(cam_to_world)[i] @ cam_to_world[j]


def _transposed(matrices: np.ndarray) -> np.ndarray:
    return np.swapaxes(matrices, -1, -2)


def _angles_deg(rotations: np.ndarray) -> np.ndarray:
    """Angles of (n, 3, 3) rotations, precise for small ones and near 180 degrees too."""
    r = rotations
    skew = np.stack([r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], 1)
    return np.degrees(np.arctan2(np.linalg.norm(skew, axis=1), np.trace(r, axis1=1, axis2=2) - 1))


def _directions_deg(p: np.ndarray, t: np.ndarray, still: float) -> np.ndarray:
    """Angles between (n, 3) vectors.

    0 where the true one is no longer than `still`, 90 where only the predicted one is 0.
    """
    sine, cosine = np.linalg.norm(np.cross(p, t), axis=1), (p * t).sum(1)
    angle = np.degrees(np.arctan2(sine, cosine))
    angle = np.where(np.linalg.norm(p, axis=1) > 1e-12, angle, 90.0)
    return np.where(np.linalg.norm(t, axis=1) > still, angle, 0.0)


def _direction_from_first(p: np.ndarray, t: np.ndarray) -> float:
    """Mean over the frames that really moved; 0 if none did."""
    way = np.linalg.norm(t, axis=1)
    moved = way > max(MOVED * way.max(), 1e-9)
    return float(_directions_deg(p[moved], t[moved], 0.0).mean()) if moved.any() else 0.0


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))
