"""The denoiser's objective: v-diffusion, and in a share of the clips regression from zero input at the last step.

With zero input at t = 999 (zero terminal SNR) the network's -v is the posterior mean of x0: one step at inference. The
other clips keep it a diffusion model that DDIM can sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from geo4d._typing import Float, Tensor
from geo4d.diffusion.parameterization import add_noise, v_from, x0_from_v
from geo4d.diffusion.schedule import Schedule
from geo4d.errors import ConfigError
from geo4d.modalities import Layout, make_layout
from geo4d.models.attention import TEXT_TOKENS
from geo4d.models.geometry_model import GeometryModel
from geo4d.training.config import ObjectiveConfig
from geo4d.training.latents import FEATURES
from geo4d.training.loop_config import Draw

Numbers = dict[str, float]
ALL_IMAGES = make_layout().image_names


def diffusion_loss(
    model: GeometryModel,
    layout: Layout,
    schedule: Schedule,
    config: ObjectiveConfig,
    draw: Callable[[Draw], dict[str, Tensor]],
) -> Callable[[Draw], tuple[Tensor, Numbers]]:
    """Loss of one micro-batch; `draw(number)` gives raw latents of clips, with `frame_index`, `fps`, `features`.

    Logged beside it: the mean abs error of the predicted x0 of every image (`x0_points`, ...), in units of the latents'
    spread. Raises ConfigError for images or conditions that the model does not have.
    """
    objective = _Objective(model, layout, schedule, config)

    def loss(number: Draw) -> tuple[Tensor, Numbers]:
        generator = torch.Generator().manual_seed(int(number))
        batch = {key: value.to(objective.weights.device) for key, value in draw(number).items()}
        return objective(batch, generator)

    return loss


@dataclass(frozen=True)
class _Noisy:
    """A batch on its way: clean latents, what was made of them, and which clips regress from zero."""

    x0: Tensor
    x_t: Tensor
    noise: Tensor
    alpha: Tensor  # (b,) cumulated
    t: Tensor
    zero: Tensor  # (b,) bool


class _Objective:
    """What stays the same from batch to batch."""

    def __init__(self, model: GeometryModel, layout: Layout, schedule: Schedule, config: ObjectiveConfig) -> None:
        unknown = sorted({*config.image_weights, *config.squared_images} - set(ALL_IMAGES))
        if unknown:
            raise ConfigError(
                f"There is no image {unknown[0]!r} to weigh; expected names out of {', '.join(ALL_IMAGES)}."
            )
        if (config.drop_text or config.drop_both) and not model.spec.context_tokens:
            raise ConfigError("This model has no text tokens that could be dropped; set drop_text and drop_both to 0.")
        self.model, self.layout, self.schedule, self.config = model, layout, schedule, config
        device = model.device
        self.alphas = schedule.alphas_cumprod.to(device)
        self.weights = channel_weights(model, layout, config).to(device)[None, :, None, None, None]
        squared = torch.tensor([name in config.squared_images for name in layout.image_names], device=device)
        self.squared = squared.repeat_interleave(layout.image_channels)[None, :, None, None, None]
        if config.pixel_weight:
            for part in (model.autoencoder, getattr(model, "point_decoder", None)):
                if part is not None:
                    part.requires_grad_(requires_grad=False)

    def __call__(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Numbers]:
        model, layout = self.model, self.layout
        condition = model.normalizer.normalize("rgb", batch["rgb"].float())
        x0 = layout.join({name: model.normalizer.normalize(name, batch[name].float()) for name in layout.image_names})
        state = self._noisy(x0, generator)
        features = batch[FEATURES].float() if model.spec.encoder else None
        condition, features, context = self._dropped(condition, features, generator)
        if self.config.condition_noise:
            condition = self._noised(condition, generator)
            features = None if features is None else self._noised(features, generator)
        rest = batch["fps"].float(), batch["frame_index"], context, features
        v = model.unet_forward(state.x_t, condition, state.t, *rest).float()
        predicted = x0_from_v(state.x_t, v, state.alpha)
        value, numbers = self._latent_loss(state, v, predicted)
        with torch.no_grad():
            for name, error in layout.split((predicted - x0).abs()).items():
                numbers[f"x0_{name}"] = float(error.mean())
        if self.config.pixel_weight:
            pixels = self._pixel_loss(state, predicted, generator)
            numbers["pixels"] = float(pixels.detach())
            value = value + self.config.pixel_weight * pixels
        return value, numbers

    def _noisy(self, x0: Tensor, generator: torch.Generator) -> _Noisy:
        """Draws which clips regress, and time and noise of the others."""
        last = len(self.alphas) - 1
        zero = (torch.rand(len(x0), generator=generator) < self.config.zero_share).to(x0.device)
        u = torch.rand(len(x0), generator=generator)
        t = ((1 - u.square() if self.config.timesteps == "noisy" else u) * last).round().long().to(x0.device)
        t = torch.where(zero, last, t)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device)
        noise = torch.where(zero[:, None, None, None, None], 0.0, noise)
        alpha = self.alphas[t]
        return _Noisy(x0, add_noise(x0, noise, alpha), noise, alpha, t, zero)

    def _latent_loss(self, state: _Noisy, v: Tensor, predicted: Tensor) -> tuple[Tensor, Numbers]:
        """L1 (or L2) on x0 where the input was zero, L2 on v elsewhere; channels weighted."""
        error = predicted - state.x0
        regression = torch.where(self.squared, error.square(), error.abs()).mul(self.weights).mean(dim=(1, 2, 3, 4))
        denoising = (v - v_from(state.x0, state.noise, state.alpha)).square().mul(self.weights).mean(dim=(1, 2, 3, 4))
        numbers = {"samples": float(len(v))}
        if state.zero.any():
            numbers["regression"] = float(regression[state.zero].detach().mean())
        if (~state.zero).any():
            numbers["denoising"] = float(denoising[~state.zero].detach().mean())
        return torch.where(state.zero, regression, denoising).mean(), numbers

    def _pixel_loss(self, state: _Noisy, predicted: Tensor, generator: torch.Generator) -> Tensor:
        """L1 between what the decoders make of predicted and of true latents, on a few frames.

        Clips count by how much of x0 their input still tells; those that regress from zero count whole.
        """
        b, v = len(predicted), predicted.shape[2]
        frames = torch.randperm(b * v, generator=generator)[: self.config.pixel_frames].to(predicted.device)
        weight = torch.where(state.zero, 1.0, state.alpha)[frames // v]
        total = predicted.new_zeros(())
        pairs = zip(self.layout.split(predicted).items(), self.layout.split(state.x0).values(), strict=True)
        for (name, own), true in pairs:
            decoded = self._decode(name, own.movedim(2, 1).flatten(0, 1)[frames])
            with torch.no_grad():
                target = self._decode(name, true.movedim(2, 1).flatten(0, 1)[frames])
            error = (decoded - target).abs().mean(dim=(1, 2, 3))
            total = total + self.config.image_weights.get(name, 1.0) * (weight * error).mean()
        return total

    def _decode(self, name: str, latents: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 3 h w"]:
        return self.model.decode_points(latents)[0] if name == "points" else self.model.decode_images(name, latents)

    def _noised(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """With noise of its own in every place and channel; latents and features have unit spread."""
        noise = torch.randn(values.shape, generator=generator).to(values)
        return values + self.config.condition_noise * noise

    def _dropped(
        self, condition: Tensor, features: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Condition, features and context: some clips lose the first two, the last, or all."""
        c = self.config
        if not (c.drop_text or c.drop_image or c.drop_both):
            return condition, features, None
        u = torch.rand(len(condition), generator=generator).to(condition.device)
        text = (u < c.drop_text) | (u >= 1 - c.drop_both)
        image = ((u >= c.drop_text) & (u < c.drop_text + c.drop_image)) | (u >= 1 - c.drop_both)
        image = image[:, None, None, None, None]
        condition = torch.where(image, 0.0, condition)
        features = None if features is None else torch.where(image, 0.0, features)
        if not self.model.spec.context_tokens:
            return condition, features, None
        context = self.model.constant_context(len(condition), condition.shape[2]).clone()
        context[:, :TEXT_TOKENS] *= (~text)[:, None, None]
        return condition, features, context


def channel_weights(model: GeometryModel, layout: Layout, config: ObjectiveConfig) -> Float[Tensor, "c"]:
    """Weight of each latent channel: its share of the image's spread, with a floor, times the image's weight."""
    weights = []
    for name in layout.image_names:
        std = model.normalizer.std(name).float()
        weights.append(config.image_weights.get(name, 1.0) * (std / std.max()).clamp_min(config.channel_floor))
    return torch.cat(weights)
