"""A quick look at a model in training: depth error on fixed clips of a split of its own, one window each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from geo4d._typing import Tensor
from geo4d.diffusion.sampler import ddim, one_step
from geo4d.diffusion.schedule import Schedule
from geo4d.geometry.fitting import fit_scale_shift_l1
from geo4d.modalities import Layout
from geo4d.models.geometry_model import GeometryModel
from geo4d.training.clips import Bucket, ClipBatch, render_shard, rgb_images

VALIDATION_SPLIT = 800001


def make_validator(
    model: GeometryModel, layout: Layout, schedule: Schedule, *, clips: int = 24, frames: int = 8, ddim_steps: int = 0
) -> Callable[[], dict[str, float]]:
    """Renders the validation clips once; each call scores the model as it is then."""
    height, width = model.spec.base_size
    batch = render_shard(Bucket(height, width, frames, clips, 1.0), VALIDATION_SPLIT, 0)

    @torch.no_grad()
    def validate() -> dict[str, float]:
        scores = _score(model, layout, batch, lambda denoise, like: one_step(denoise, like, schedule))
        if ddim_steps:
            noise = torch.Generator().manual_seed(0)

            def sample(denoise: Callable[[Tensor, Tensor], Tensor], like: Tensor) -> Tensor:
                start = torch.randn(like.shape, generator=noise).to(like)
                return ddim(denoise, start, schedule, steps=ddim_steps)

            scores |= {f"ddim{ddim_steps}_{k}": v for k, v in _score(model, layout, batch, sample).items()}
        return scores

    return validate


def _score(model: GeometryModel, layout: Layout, batch: ClipBatch, sample: Callable[..., Tensor]) -> dict[str, float]:
    """Median Abs Rel after one L1 scale and shift per clip, of depth from points (first camera's z) and disparity."""
    device = next(model.unet.parameters()).device
    with torch.autocast(device.type, torch.bfloat16):
        rgb = rgb_images(batch.clip).to(device)
        condition = model.encode_rgb(rgb.flatten(0, 1)).unflatten(0, rgb.shape[:2]).movedim(1, 2)
        denoise = model.denoiser(condition, batch.fps.to(device), batch.frame_index.to(device))
        like = torch.zeros(len(rgb), layout.latent_channels, *condition.shape[2:], device=device)
        latents = layout.split(sample(denoise, like).float())
        images = {}
        for name, latent in latents.items():
            flat = latent.movedim(2, 1).flatten(0, 1)
            images[name] = model.decode_images(name, flat).float().unflatten(0, rgb.shape[:2]).cpu()
    fields = layout.decode(images)
    depth = {}
    if "points" in fields:
        depth["points"] = fields["points"][..., 2]
    if "disparity" in fields:
        depth["disparity"] = fields["disparity"]
    truth = {"points": batch.clip.depth, "disparity": 1 / batch.clip.depth.clamp_min(1e-3)}
    return {f"abs_rel_{name}": _median_abs_rel(d, truth[name], batch.clip, name) for name, d in depth.items()}


def _median_abs_rel(predicted: Tensor, target: Tensor, clip: object, name: str) -> float:
    """Fits in the map's own space, scores in depth."""
    errors = []
    for i in range(len(predicted)):
        mask = clip.valid[i].numpy()  # type: ignore[attr-defined]
        x, y = predicted[i].numpy()[mask].astype(np.float64), target[i].numpy()[mask].astype(np.float64)
        scale, shift = fit_scale_shift_l1(x[::7], y[::7])
        fitted = scale * x + shift
        depth, true = (fitted, y) if name == "points" else (1 / np.maximum(fitted, 1 / 80), 1 / y)
        errors.append(np.mean(np.abs(np.maximum(depth, 1e-3) - true) / true))
    return float(np.median(errors))
