"""How far fused depth is to be believed: the expected error of each pixel's log depth."""

from __future__ import annotations

import torch

from geo4d._typing import Float, Tensor

FLOOR = 0.003  # error of depth on which all agree


def relative_error(precision: Float[Tensor, "t h w"], spread: Float[Tensor, "t h w"], log_depth: Tensor | None) -> Float[Tensor, "t h w"]:
    """Expected error of log depth."""
    return FLOOR + spread + 0.05 / precision.clamp_min(1e-6).sqrt()
