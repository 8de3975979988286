"""What every metric asks of its arrays, checked once, in one sentence each."""

from __future__ import annotations

import numpy as np

from geo4d.errors import ConfigError, InputError


def require_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{what} must be one of {', '.join(choices)}; got {value!r}.")


def require_maps(what: str, predicted: np.ndarray, true: np.ndarray, mask: np.ndarray, *, channels: int = 0) -> None:
    """Raises InputError unless (t, ...) maps fit each other, and the truth is known somewhere and finite where it is.

    `channels` is the length of a last axis that the mask does not have; 0 where there is none.
    """
    shape = mask.shape + ((channels,) if channels else ())
    if predicted.shape != shape or true.shape != shape or mask.ndim < 2:
        raise InputError(
            f"{what} and truth must be frames first and fit the mask {mask.shape}; got {predicted.shape} and "
            f"{true.shape}; resize the prediction to the truth."
        )
    if mask.dtype != bool:
        raise InputError(f"The mask must be of bool; got {mask.dtype}; pass mask > 0.")
    if not mask.any():
        raise InputError(f"{what} cannot be scored: the mask of the truth is empty; check the ground truth.")
    if not np.isfinite(true[mask]).all():
        raise InputError(
            f"{what} cannot be scored: the truth is not finite somewhere inside its mask; take those pixels out of the "
            "mask."
        )


def require_true_depth(true: np.ndarray, mask: np.ndarray) -> None:
    """Raises InputError where the true depth is not positive inside its mask."""
    if true[mask].min() <= 0:
        raise InputError(
            f"True depth must be positive inside its mask; got {true[mask].min():g}; pass mask & (true > 0)."
        )


def require_predicted_depth(usable: np.ndarray) -> None:
    """Raises InputError if the values left to fit or score (n,) are none, or all zero."""
    if usable.size == 0:
        raise InputError(
            "Depth cannot be scored: no predicted depth is finite where the truth is known; check the reconstruction."
        )
    if not usable.any():
        raise InputError(
            "Depth cannot be scored: every predicted depth is zero where the truth is known; check the reconstruction."
        )


def require_trajectory(what: str, cam_to_world: np.ndarray) -> np.ndarray:
    """The same in float64. Raises InputError unless it is (t, 4, 4) of at least two finite rigid cameras."""
    if cam_to_world.ndim != 3 or cam_to_world.shape[1:] != (4, 4):
        raise InputError(
            f"{what} must be cam_to_world of shape (t, 4, 4); got {cam_to_world.shape}; make 4x4 matrices of it."
        )
    if len(cam_to_world) < 2:
        raise InputError(
            f"{what} must have at least 2 poses to be scored; got {len(cam_to_world)}; pass a longer video."
        )
    cameras = cam_to_world.astype(np.float64)
    if not np.isfinite(cameras).all():
        frame = int(np.argmin(np.isfinite(cameras).all((1, 2))))
        raise InputError(
            f"{what} must be finite; got nan or infinity in frame {frame}; leave such frames out of both trajectories."
        )
    rotation = cameras[:, :3, :3]
    off = np.abs(rotation @ np.swapaxes(rotation, 1, 2) - np.eye(3)).max((1, 2))
    if off.max() > 1e-3 or np.linalg.det(rotation).min() < 0:
        raise InputError(
            f"{what} must hold rotations; that of frame {int(off.argmax())} is off by {off.max():.2g}; make it "
            "orthonormal."
        )
    return cameras


def require_trajectories(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64. Raises InputError unless each is a trajectory and they are of one length."""
    p, t = require_trajectory("The predicted trajectory", predicted), require_trajectory("The true trajectory", true)
    if len(p) != len(t):
        raise InputError(
            f"Trajectories must be of one length; got {len(p)} predicted and {len(t)} true poses; pair them by time "
            "first."
        )
    return p, t
