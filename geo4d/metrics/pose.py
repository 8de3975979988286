"""Camera trajectories against the truth: ATE, RPE, direction of motion, focal length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from geo4d.errors import InputError


@dataclass(frozen=True)
class PoseMetrics:
    """Lengths in units of the truth, angles in degrees."""

    ate_sim3: float  # RMSE of the camera centres after the best similarity
    ate_scale: float  # with scale only, first cameras made to coincide
    rpe_translation: float  # RMSE of the relative translation of consecutive frames, at the Sim3 scale
    rpe_rotation_deg: float  # RMSE of the relative rotation of consecutive frames
    rotation_deg: float  # mean rotation error against the truth, first cameras made to coincide
    direction_deg: float  # mean angle between true and predicted displacement from the first frame


def fit_umeyama(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation, translation that take (n, 3) `source` to `target` with the least squared error.

    Points that do not spread have scale 0 (or the scale that is left undetermined is 0).
    """
    mu_s, mu_t = source.mean(0), target.mean(0)
    s, t = source - mu_s, target - mu_t
    u, d, vt = np.linalg.svd(t.T @ s / len(s))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = u @ np.diag(sign) @ vt
    variance = (s**2).sum() / len(s)
    scale = float((d * sign).sum() / variance) if variance > 1e-18 else 0.0
    return scale, rotation, mu_t - scale * rotation @ mu_s


def absolute_trajectory_error(predicted: np.ndarray, true: np.ndarray, *, alignment: Literal["sim3", "scale"]) -> float:
    """RMSE of the centres of (t, 4, 4) cam_to_world after a similarity, or after a scale with the first cameras together."""
    _check(predicted, true)
    if alignment == "sim3":
        p, t = predicted[:, :3, 3], true[:, :3, 3]
        scale, rotation, translation = fit_umeyama(p, t)
        aligned = scale * p @ rotation.T + translation
    else:
        p, t = _from_first(predicted)[:, :3, 3], _from_first(true)[:, :3, 3]
        aligned = _scale(p, t) * p
    return float(np.sqrt(((aligned - t) ** 2).sum(1).mean()))


def pose_metrics(predicted: np.ndarray, true: np.ndarray) -> PoseMetrics:
    """Scores one trajectory of (t, 4, 4) cam_to_world; a single frame has zero errors. Raises InputError on other shapes."""
    _check(predicted, true)
    scale, _, _ = fit_umeyama(predicted[:, :3, 3], true[:, :3, 3])
    scaled = predicted.astype(np.float64).copy()
    scaled[:, :3, 3] *= scale
    error = np.linalg.inv(_steps(true)) @ _steps(scaled)
    p, t = _from_first(predicted), _from_first(true)
    rotation = _angles(np.swapaxes(t[:, :3, :3], 1, 2) @ p[:, :3, :3])
    return PoseMetrics(
        ate_sim3=absolute_trajectory_error(predicted, true, alignment="sim3"),
        ate_scale=absolute_trajectory_error(predicted, true, alignment="scale"),
        rpe_translation=_rms(np.linalg.norm(error[:, :3, 3], axis=1)),
        rpe_rotation_deg=_rms(_angles(error[:, :3, :3])),
        rotation_deg=float(rotation.mean()),
        direction_deg=_direction_error(p[:, :3, 3], t[:, :3, 3]),
    )


def focal_error(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean |log f / f*| over the frames, of (t, 3, 3) intrinsics at one resolution; focal = geometric mean of fx, fy."""
    f = np.log(predicted[:, 0, 0] * predicted[:, 1, 1]) / 2
    g = np.log(true[:, 0, 0] * true[:, 1, 1]) / 2
    return float(np.abs(f - g).mean())


def _check(predicted: np.ndarray, true: np.ndarray) -> None:
    if predicted.shape != true.shape or true.ndim != 3 or true.shape[1:] != (4, 4):
        raise InputError(f"Trajectories must both be (t, 4, 4); got {predicted.shape} and {true.shape}.")


def _from_first(cam_to_world: np.ndarray) -> np.ndarray:
    return np.linalg.inv(cam_to_world[:1].astype(np.float64)) @ cam_to_world


def _steps(cam_to_world: np.ndarray) -> np.ndarray:
    return np.linalg.inv(cam_to_world[:-1].astype(np.float64)) @ cam_to_world[1:]


def _scale(p: np.ndarray, t: np.ndarray) -> float:
    return max(float((p * t).sum() / max((p * p).sum(), 1e-18)), 0.0)


def _angles(rotations: np.ndarray) -> np.ndarray:
    """Degrees, precise for small angles too."""
    trace = np.trace(rotations, axis1=1, axis2=2)
    skew = np.stack(
        [rotations[:, 2, 1] - rotations[:, 1, 2], rotations[:, 0, 2] - rotations[:, 2, 0], rotations[:, 1, 0] - rotations[:, 0, 1]], 1
    )
    return np.degrees(np.arctan2(np.linalg.norm(skew, axis=1), trace - 1))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean())) if len(values) else 0.0


def _direction_error(p: np.ndarray, t: np.ndarray) -> float:
    """Mean degrees over the frames that really moved (more than 1% of the longest way); 90 where nothing is predicted."""
    way = np.linalg.norm(t, axis=1)
    moved = way > max(0.01 * way.max(), 1e-9)
    if not moved.any():
        return 0.0
    length = np.linalg.norm(p, axis=1)
    cosine = (p * t).sum(1) / np.maximum(length * way, 1e-18)
    angle = np.where(length > 1e-9, np.degrees(np.arccos(np.clip(cosine, -1, 1))), 90.0)
    return float(angle[moved].mean())
