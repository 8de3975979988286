"""A quick look at a denoiser in training.

A figure for every modality, on fixed clips of a split of its own, one window each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from geo4d._typing import Bool, Float, Tensor
from geo4d.diffusion.sampler import ddim, one_step
from geo4d.diffusion.schedule import Schedule
from geo4d.geometry.fitting import fit_scale_shift_l1, weighted_median
from geo4d.modalities import Layout
from geo4d.models.geometry_model import GeometryModel
from geo4d.training.config import Length
from geo4d.training.sources import ClipBatch, Place, ProceduralSource, Size, rgb_images

VALIDATION_SPLIT = 800001
FRAMES = 8
FARTHEST = 80.0  # of a depth from disparity, in units of the fit
EVERY = 7  # pixels that a fit is made on
AT_ONCE = 24 * 8 * 64 * 96  # pixels of the frames that go through the networks together


def make_validator(
    model: GeometryModel, layout: Layout, schedule: Schedule, *, clips: int = 24, ddim_steps: int = 0
) -> Callable[[], dict[str, float]]:
    """Renders the validation clips once; each call scores the model as it is then, as it is meant to be sampled.

    That is medians over the clips of `abs_rel_points` and `abs_rel_disparity` (depth after one L1 scale and shift a
    clip), `ray_direction_deg`, and `ray_moment` (error by the true moments' mean). Without clips there is nothing to
    score.
    """
    if clips < 1:
        return dict
    height, width = model.spec.base_size
    batch = ProceduralSource([Size(height, width)], VALIDATION_SPLIT).batch(Place(0), Length(FRAMES, clips))
    truth = layout.decode(layout.encode(batch.clip))
    steps = ddim_steps or (model.spec.steps if model.spec.sampler == "ddim" else 0)

    def sample(denoise: Callable[[Tensor, Tensor], Tensor], like: Tensor) -> Tensor:
        if not steps:
            return one_step(denoise, like, schedule)
        noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
        return ddim(denoise, noise, schedule, steps=steps)

    @torch.no_grad()
    def validate() -> dict[str, float]:
        return _score(_predict(model, layout, batch, sample), truth, batch)

    return validate


def _predict(model: GeometryModel, layout: Layout, batch: ClipBatch, sample: Callable[..., Tensor]) -> dict[str, Any]:
    """Decoded fields of all clips."""
    frames = rgb_images(batch.clip)
    clips = max(1, AT_ONCE // frames[0, :, 0].numel())
    inputs = zip(*(each.split(clips) for each in (frames, batch.fps, batch.frame_index)), strict=True)
    parts = [_predict_images(model, layout, sample, *(each.to(model.device) for each in some)) for some in inputs]
    return layout.decode({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _predict_images(
    model: GeometryModel, layout: Layout, sample: Callable[..., Tensor], rgb: Tensor, fps: Tensor, frame_index: Tensor
) -> dict[str, Tensor]:
    """Decoded images of some clips."""
    with torch.autocast(model.device.type, torch.bfloat16):
        condition, features = model.encode_windows(rgb)
        like = torch.zeros(len(rgb), layout.latent_channels, *condition.shape[2:], device=model.device)
        images = {}
        denoise = model.denoiser(condition, fps, frame_index, features=features)
        for name, latent in layout.split(sample(denoise, like).float()).items():
            flat = latent.movedim(2, 1).flatten(0, 1)
            decoded = model.decode_points(flat)[0] if name == "points" else model.decode_images(name, flat)
            images[name] = decoded.float().unflatten(0, rgb.shape[:2]).cpu()
    return images


def _score(fields: dict[str, Any], truth: dict[str, Any], batch: ClipBatch) -> dict[str, float]:
    valid, scores = batch.clip.valid, {}
    if "points" in fields:
        scores["abs_rel_points"] = _median_abs_rel(fields["points"][..., 2], truth["points"][..., 2], valid)
    if "disparity" in fields:
        scores["abs_rel_disparity"] = _median_abs_rel(
            fields["disparity"], 1 / batch.clip.depth.clamp_min(1e-3), valid, inverse=True
        )
    if "ray_direction" in fields:
        cosine = torch.nn.functional.cosine_similarity(fields["ray_direction"], truth["ray_direction"], dim=-1)
        degrees = cosine.clamp(-1, 1).arccos().rad2deg().flatten(1).mean(dim=1)
        error = (fields["ray_moment"] - truth["ray_moment"]).norm(dim=-1).flatten(1).mean(dim=1)
        moment = truth["ray_moment"].norm(dim=-1).flatten(1).mean(dim=1)
        scores |= {
            "ray_direction_deg": float(degrees.median()),
            "ray_moment": float((error / moment.clamp_min(1e-6)).median()),
        }
    return scores


def _median_abs_rel(
    predicted: Float[Tensor, "b v h w"],
    target: Float[Tensor, "b v h w"],
    valid: Bool[Tensor, "b v h w"],
    *,
    inverse: bool = False,
) -> float:
    """Fits one L1 scale (not negative) and shift a clip in the map's own space, scores in depth.

    `inverse` where the maps are of 1 / depth.
    """
    errors = []
    for i in range(len(predicted)):
        mask = valid[i].numpy()
        x, y = predicted[i].numpy()[mask].astype(np.float64), target[i].numpy()[mask].astype(np.float64)
        scale, shift = fit_scale_shift_l1(x[::EVERY], y[::EVERY])
        if scale < 0:  # upside down: the best that is left is a constant
            scale, shift = 0.0, weighted_median(y[::EVERY])
        fitted = scale * x + shift
        depth, true = (1 / np.maximum(fitted, 1 / FARTHEST), 1 / y) if inverse else (fitted, y)
        positive = true > 1e-3  # of points: what lies before the first camera
        errors.append(np.mean(np.abs(np.maximum(depth, 1e-3) - true)[positive] / true[positive]))
    return float(np.median(errors))
