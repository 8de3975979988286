"""The noise schedule: sqrt-linear betas rescaled to zero terminal SNR, and the released model's dynamic rescale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.errors import ConfigError

STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012
RESCALE_STEPS, RESCALE_BASE = 400, 0.7


@dataclass(frozen=True)
class Schedule:
    """`alphas_cumprod[t]` is the signal's share of the variance at step t.

    `scale[t]` multiplies x0 (dynamic rescale).
    """

    alphas_cumprod: Float[Tensor, "t"]
    scale: Float[Tensor, "t"] | None = None

    def to(self, device: torch.device | str) -> Schedule:
        """Moves the tables."""
        return Schedule(self.alphas_cumprod.to(device), None if self.scale is None else self.scale.to(device))


def make_schedule(*, dynamic_rescale: bool) -> Schedule:
    """The noise schedule (method 3); computed in float64, kept in float32."""
    betas = np.linspace(BETA_START**0.5, BETA_END**0.5, STEPS) ** 2
    signal = np.sqrt(np.cumprod(1 - betas))
    # shift and stretch sqrt(alpha_bar) so that it ends at exactly 0 and starts where it did
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    scale = None
    if dynamic_rescale:
        ramp = np.linspace(1, RESCALE_BASE, RESCALE_STEPS)
        scale = torch.from_numpy(
            np.concatenate([ramp, np.full(STEPS - RESCALE_STEPS, RESCALE_BASE)]).astype(np.float32)
        )
    return Schedule(torch.from_numpy((signal**2).astype(np.float32)), scale)


def trailing_timesteps(steps: int) -> list[int]:
    """`steps` time steps from 999 down, evenly spaced from the end."""
    if not 1 <= steps <= STEPS:
        raise ConfigError(f"The sampler takes 1 to {STEPS} steps; got {steps}.")
    return (np.round(np.arange(STEPS, 0, -STEPS / steps)).astype(int) - 1).tolist()
