"""Confidence of fused depth: the expected error of each pixel's log depth.

It follows from three things: how much the windows disagree there, how steep the depth is (at edges near and far are
mixed up), and how much evidence there is beside what is usual. What each is worth was fitted once, on simulated windows
of procedural scenes under many laws of noise (`benchmarks/alignment.py --reliability` shows how it holds elsewhere).
"""

from __future__ import annotations

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.depth.config import ConfidenceConfig

LEAST = 1e-5  # expected error: rounding of single precision


def relative_error(
    log_depth: Float[Tensor, "t h w"],
    precision: Float[Tensor, "t h w"],
    spread: Float[Tensor, "t h w"],
    own_sigma: float,
    config: ConfidenceConfig,
) -> Float[Tensor, "t h w"]:
    """Expected |error| of log depth, up to one scale of the whole scene; nan where there is no depth.

    `own_sigma`, what the network itself expects of a typical pixel, stands in where no two candidates can be compared.
    """
    valid = log_depth.isfinite() & (precision > 0)
    if not valid.any():
        return torch.full_like(log_depth, torch.nan)
    typical = float(spread[valid].median())
    if typical <= 0:
        typical = own_sigma
    scarce = (precision[valid].median() / precision.clamp_min(1e-12)).sqrt()
    error, c = torch.empty_like(log_depth), config
    for frame, depth in enumerate(log_depth):  # one after the other: long videos would need their size in memory
        error[frame] = (
            c.disagreement * spread[frame]
            + c.steepness * _steepness(depth, c.steepest)
            + c.evidence * typical * scarce[frame]
        )
    return torch.where(valid, error.clamp_min(LEAST), torch.nan)


def _steepness(log_depth: Float[Tensor, "h w"], most: float) -> Float[Tensor, "h w"]:
    """Greatest difference to the four neighbours."""
    steep = torch.zeros_like(log_depth)
    for axis in (0, 1):
        step = log_depth.diff(dim=axis).abs().nan_to_num(most)
        edge = torch.zeros_like(log_depth).narrow(axis, 0, 1)
        steep = torch.maximum(
            steep, torch.maximum(torch.cat([step, edge], dim=axis), torch.cat([edge, step], dim=axis))
        )
    return steep.clamp_max(most)
