"""Maps that are known here and there, made whole: smooth where the picture is, free to jump at its edges."""

from __future__ import annotations

import torch

from geo4d._typing import Float, Tensor

ROUNDS = 3  # of passes across and down: what one leaves of streaks the next takes away


def complete(
    values: Float[Tensor, "h w"],
    weight: Float[Tensor, "h w"],
    picture: Float[Tensor, "c h w"],
    *,
    smoothness: float,
    edge: float,
) -> Float[Tensor, "h w"]:
    """The map that is near `values` as far as `weight` says, and changes where the picture does.

    Weighted least squares with differences of neighbours weighted by exp(-difference of the picture / `edge`), solved
    line by line in turns across and down (fast global smoother, Min et al. 2014).
    """
    across = torch.exp(-picture.diff(dim=2).norm(dim=0) / edge)
    down = torch.exp(-picture.diff(dim=1).norm(dim=0) / edge)
    both = torch.stack([values * weight, weight], dim=-1)  # the ratio of both, smoothed alike, is the weighted mean
    for k in range(ROUNDS):
        strength = 1.5 * smoothness * 4 ** (ROUNDS - 1 - k) / (4**ROUNDS - 1)
        both = _smooth_lines(both, down, strength)
        both = _smooth_lines(both.transpose(0, 1), across.T, strength).transpose(0, 1)
    return both[..., 0] / both[..., 1].clamp_min(1e-12)


def _smooth_lines(values: Float[Tensor, "n m 2"], likeness: Float[Tensor, "k m"], strength: float) -> Tensor:
    """Solves (1 + strength x differences) u = values along the first axis, all lines at once (Thomas' algorithm)."""
    link = torch.zeros(len(values) + 1, values.shape[1], dtype=values.dtype, device=values.device)
    link[1:-1] = strength * likeness
    diagonal = 1 + link[:-1] + link[1:]
    link = link[..., None]
    result = values.contiguous().clone()
    ratio = torch.empty_like(result[..., :1])
    result[0] /= diagonal[0, :, None]
    ratio[0] = link[1] / diagonal[0, :, None]
    for k in range(1, len(values)):
        pivot = (diagonal[k, :, None] - link[k] * ratio[k - 1]).reciprocal()
        ratio[k] = link[k + 1] * pivot
        result[k] = (result[k] + link[k] * result[k - 1]) * pivot
    for k in range(len(values) - 2, -1, -1):
        result[k] += ratio[k] * result[k + 1]
    return result
