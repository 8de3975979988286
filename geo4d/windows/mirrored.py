"""A window predicted from mirrored frames, brought back and averaged with the window itself.

A mirrored camera sees the world mirrored at the plane x = 0 of the window's first camera. With S = diag(-1, 1, 1) its
points are S p, its ray directions S d, its centres S o, its moments S o x S d = -S (o x d), and the pixel at u is seen
at w - u.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from geo4d._typing import Float, Tensor, UInt8
from geo4d.errors import ConfigError

SIGNS: dict[str, tuple[int, int, int] | None] = {
    "points": (-1, 1, 1),
    "weight": None,  # a number at every pixel
    "disparity": None,
    "disparity_weight": None,
    "ray_direction": (-1, 1, 1),
    "ray_moment": (1, -1, -1),
}
QUARTILES = (0.25, 0.5, 0.75)
FLAT = 1e-6  # a range of z that tells no scale
LEAST_COMMON = 16  # pixels that both must have, to compare their scales


def mirror_frames(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Flips left and right."""
    return np.ascontiguousarray(frames[:, :, ::-1])


def mirror_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields (v, h, w, ...) of one window as of mirrored frames; its own inverse.

    Raises ConfigError for a field of which it is not known how it is mirrored.
    """
    return {name: _mirror(name, value) if isinstance(value, Tensor) else value for name, value in fields.items()}


def _mirror(name: str, value: Tensor) -> Tensor:
    if name not in SIGNS:
        raise ConfigError(
            f"The model predicts {name}, and how that is mirrored is not known (expected one of {', '.join(SIGNS)}); "
            "predict without the mirrored pass."
        )
    signs = SIGNS[name]
    return value.flip(-1) if signs is None else value.flip(-2) * value.new_tensor(signs)


def average_fields(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The mean of two predictions of one window, in the scale of the first.

    A point that one of them calls invalid is that of the other. The Laplace scales are averaged, not lessened: both
    come of one network and one video, and err alike.
    """
    mean = {name: (value + second[name]) / 2 if isinstance(value, Tensor) else value for name, value in first.items()}
    scale = 1.0
    if "points" in first:
        scale, shift = _similarity(first, second)
        moved = scale * second["points"] + shift * second["points"].new_tensor([0.0, 0.0, 1.0])
        mean["points"], mean["weight"] = _average_points(
            (first["points"], first["weight"]), (moved, second["weight"] / scale)
        )
    if "ray_moment" in first:
        mean["ray_moment"] = (first["ray_moment"] + scale * second["ray_moment"]) / 2
    return mean


def _similarity(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[float, float]:
    """Scale and z shift that bring the second's points to the first's.

    The shift is 0 where both begin at the camera; scale 1, shift 0 where too little is valid in both.
    """
    common = (first["weight"] > 0) & (second["weight"] > 0)
    if int(common.sum()) < LEAST_COMMON:
        return 1.0, 0.0
    a, b = (fields["points"][common].double().numpy() for fields in (first, second))
    if first["points_origin"] == "camera":
        # the few far points, on which the two differ most, do not move a median
        lengths = (np.linalg.norm(points, axis=-1).clip(1e-9) for points in (a, b))
        return float(np.exp(np.median(np.subtract(*map(np.log, lengths))))), 0.0
    low_a, middle_a, high_a = np.quantile(a[:, 2], QUARTILES)
    low_b, middle_b, high_b = np.quantile(b[:, 2], QUARTILES)
    spread_a, spread_b = high_a - low_a, high_b - low_b
    scale = float(spread_a / spread_b) if min(spread_a, spread_b) > FLAT else 1.0
    return scale, float(middle_a - scale * middle_b)


def _average_points(
    first: tuple[Float[Tensor, "v h w 3"], Float[Tensor, "v h w"]],
    second: tuple[Float[Tensor, "v h w 3"], Float[Tensor, "v h w"]],
) -> tuple[Float[Tensor, "v h w 3"], Float[Tensor, "v h w"]]:
    """Points and weights, of those that are valid."""
    (points_a, weight_a), (points_b, weight_b) = first, second
    share = torch.where(weight_a > 0, torch.where(weight_b > 0, 0.5, 1.0), torch.where(weight_b > 0, 0.0, 0.5))
    sigma = share / weight_a.clamp_min(1e-12) + (1 - share) / weight_b.clamp_min(1e-12)
    points = torch.where(share[..., None] > 0, share[..., None] * points_a, 0.0)
    points = points + torch.where(share[..., None] < 1, (1 - share[..., None]) * points_b, 0.0)
    return points, torch.where((weight_a > 0) | (weight_b > 0), 1 / sigma, 0.0)
