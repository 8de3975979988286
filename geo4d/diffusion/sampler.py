"""DDIM (eta 0 or more), with the released model's arithmetic or with the exact one; and the single step from zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from geo4d._typing import Tensor
from geo4d.diffusion.parameterization import noise_from_v, x0_from_v
from geo4d.diffusion.schedule import Schedule, trailing_timesteps

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t, timesteps (b,)) -> v


def ddim(
    denoise: Denoise,
    noise: Tensor,
    schedule: Schedule,
    *,
    steps: int,
    compat: Literal["exact", "released"] = "exact",
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    on_x0: Callable[[Tensor], object] | None = None,
) -> Tensor:
    """Samples x0 (b, ...) from unit noise of the same shape, at `steps` trailing time steps.

    `released` repeats the published sampler (compat 4): it stops at alphas_cumprod[0] instead of 1 and, with a
    dynamic rescale, never undoes the last factor. `exact` undoes both: the last step gives x0 itself. `on_x0` is shown
    each step's estimate of x0.
    """
    schedule = schedule.to(noise.device)
    times = trailing_timesteps(steps)
    x = noise
    for i, t in enumerate(times):
        previous = times[i + 1] if i + 1 < len(times) else None
        batch_t = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        alpha = schedule.alphas_cumprod[t].expand(len(x))
        v = denoise(x, batch_t)
        x0, eps = x0_from_v(x, v, alpha), noise_from_v(x, v, alpha)
        if schedule.scale is not None:
            after = (
                schedule.scale[previous] if previous is not None else schedule.scale[t] if compat == "released" else 1.0
            )
            x0 = x0 * (after / schedule.scale[t])
        if on_x0 is not None:
            on_x0(x0)
        if previous is None and compat == "exact":
            return x0
        alpha_previous = schedule.alphas_cumprod[previous or 0]
        sigma = eta * ((1 - alpha_previous) / (1 - alpha[0]) * (1 - alpha[0] / alpha_previous)).sqrt()
        x = alpha_previous.sqrt() * x0 + (1 - alpha_previous - sigma**2).clamp_min(0).sqrt() * eps
        if eta:
            x = x + sigma * torch.randn(x.shape, generator=generator).to(x)
    return x


def guided(conditional: Denoise, unconditional: Denoise, *, scale: float, rescale: float = 0.0) -> Denoise:
    """Classifier-free guidance.

    `rescale` pulls the spread of the answer back to the conditional one's (Lin et al., 2024).
    """
    if scale == 1:
        return conditional

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        wanted, other = conditional(x_t, timesteps), unconditional(x_t, timesteps)
        v = other + scale * (wanted - other)
        axes = tuple(range(1, v.ndim))
        return (
            v * (rescale * wanted.std(axes, keepdim=True) / v.std(axes, keepdim=True) + 1 - rescale) if rescale else v
        )

    return denoise


def one_step(denoise: Denoise, like: Tensor, schedule: Schedule) -> Tensor:
    """The posterior mean: one step at the last time from zero input, where x0 = -v (`like` gives shape and device)."""
    last = len(schedule.alphas_cumprod) - 1
    return -denoise(torch.zeros_like(like), torch.full((len(like),), last, dtype=torch.int64, device=like.device))
