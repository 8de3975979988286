"""The denoiser's objective: part regression from zero input at the last step, part ordinary v-diffusion.

With zero input at t = 999 (zero terminal SNR) the network's -v is the posterior mean of x0: one step at inference. The
rest of the batch, with t drawn towards high noise, keeps it a diffusion model that DDIM can sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from geo4d._typing import Float, Tensor
from geo4d.diffusion.parameterization import add_noise, v_from, x0_from_v
from geo4d.diffusion.schedule import Schedule
from geo4d.modalities import Layout
from geo4d.models.geometry_model import GeometryModel
from geo4d.training.loop_config import Draw

CHANNEL_WEIGHT_FLOOR = 0.15


@dataclass(frozen=True)
class ObjectiveConfig:
    """Shares and weights of the hybrid objective."""

    zero_share: float = 0.6  # of the clips: zero input at the last step
    image_weights: tuple[float, ...] = (1.0, 0.4, 0.2, 1.0)  # in the order of the layout's images
    squared_images: tuple[str, ...] = ("ray_direction",)  # L2; L1 elsewhere (moments of fast cameras would drown the rest)


def channel_weights(model: GeometryModel, layout: Layout, config: ObjectiveConfig) -> Float[Tensor, "c"]:
    """Weight of each latent channel: its share of the image's spread, with a floor, times the image's weight."""
    weights = []
    for name, image_weight in zip(layout.image_names, config.image_weights, strict=True):
        std = model.normalizer.std(name).float()
        weights.append(image_weight * (std / std.max()).clamp_min(CHANNEL_WEIGHT_FLOOR))
    return torch.cat(weights)


def diffusion_loss(
    model: GeometryModel,
    layout: Layout,
    schedule: Schedule,
    config: ObjectiveConfig,
    draw: Callable[[Draw], dict[str, Tensor]],
) -> Callable[[Draw], tuple[Tensor, dict[str, float]]]:
    """Loss of one batch; `draw(number)` gives raw latents of a batch of clips, with `frame_index` and `fps`."""
    device = next(model.unet.parameters()).device
    weights = channel_weights(model, layout, config).to(device)[None, :, None, None, None]
    squared = torch.cat([torch.full((4,), float(name in config.squared_images)) for name in layout.image_names])
    squared = squared.to(device)[None, :, None, None, None]
    last = len(schedule.alphas_cumprod) - 1

    def loss(number: Draw) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(number)
        batch = {key: value.to(device) for key, value in draw(number).items()}
        condition = model.normalizer.normalize("rgb", batch["rgb"].float())
        x0 = layout.join({name: model.normalizer.normalize(name, batch[name].float()) for name in layout.image_names})
        zero = (torch.rand(len(x0), generator=generator) < config.zero_share).to(device)
        skewed = 1 - torch.rand(len(x0), generator=generator).square()
        t = torch.where(zero, last, (skewed * last).round().long().to(device))
        noise = torch.randn(x0.shape, generator=generator).to(device)
        noise = torch.where(zero[:, None, None, None, None], 0.0, noise)
        alpha = schedule.alphas_cumprod.to(device)[t]
        x_t = add_noise(x0, noise, alpha)
        v = model.unet_forward(x_t, condition, t, batch["fps"].float(), batch["frame_index"]).float()
        return _hybrid(v, x0, noise, (x_t, alpha), (zero, weights, squared))

    return loss


def _hybrid(
    v: Tensor, x0: Tensor, noise: Tensor, state: tuple[Tensor, Tensor], parts: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """L1 (L2 for cameras) on x0 where the input was zero, weighted L2 on v elsewhere."""
    (x_t, alpha), (zero, weights, squared) = state, parts
    error = x0_from_v(x_t, v, alpha) - x0
    regression = torch.where(squared > 0, error.square(), error.abs()).mul(weights).mean(dim=(1, 2, 3, 4))
    denoising = (v - v_from(x0, noise, alpha)).square().mul(weights).mean(dim=(1, 2, 3, 4))
    numbers = {"samples": float(len(zero))}
    if zero.any():
        numbers["regression"] = float(regression[zero].detach().mean())
    if (~zero).any():
        numbers["denoising"] = float(denoising[~zero].detach().mean())
    return torch.where(zero, regression, denoising).mean(), numbers
