"""From linear colour to the frames of an everyday video: exposure, blur, noise, compression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch

from geo4d._typing import Float, Tensor

BLOCK = 8


@dataclass(frozen=True)
class FilmStyle:
    """How one clip was shot; numbers a clip."""

    exposure: Float[Tensor, "b"]
    gamma: Float[Tensor, "b"]
    tint: Float[Tensor, "b 3"]
    blur: Float[Tensor, "b"]  # share of a 3x3 binomial blur
    noise: Float[Tensor, "b"]
    quantization: Float[Tensor, "b"]  # step of the coarsest cosine coefficients, 0: none


@cache
def _cosines() -> Tensor:
    n = torch.arange(BLOCK, dtype=torch.float64)
    basis = torch.cos(math.pi / BLOCK * (n + 0.5)[None] * n[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis.float()


def develop(colour: Float[Tensor, "b t h w 3"], style: FilmStyle, seeds: list[int]) -> Float[Tensor, "b t h w 3"]:
    """Frames in [0, 1]; noise comes from each clip's own seed."""

    def per_clip(values: Tensor) -> Tensor:
        return values.reshape(len(values), 1, 1, 1, -1)

    image = (colour * per_clip(style.exposure) * per_clip(style.tint)).clamp(1e-4, 1).pow(per_clip(style.gamma))
    blurred = _binomial(image)
    image = image + (blurred - image) * per_clip(style.blur)
    noise = torch.stack(
        [torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(seed % 2**63)) for seed in seeds]
    )
    image = image + noise.to(image) * per_clip(style.noise)
    return _compress(image, style.quantization).clamp(0, 1)


def _binomial(image: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(image.flatten(0, 1).movedim(-1, 1), (1, 1, 1, 1), mode="replicate")
    rows = (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / 4
    both = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    return both.movedim(1, -1).unflatten(0, image.shape[:2])


def _compress(image: Tensor, step: Float[Tensor, "b"]) -> Tensor:
    """Rounds the cosine coefficients of 8x8 blocks, high frequencies more coarsely; sides not divisible by 8 stay."""
    b, t, h, w, _ = image.shape
    if h % BLOCK or w % BLOCK:
        return image
    cosines = _cosines().to(image)
    blocks = image.reshape(b, t, h // BLOCK, BLOCK, w // BLOCK, BLOCK, 3).permute(0, 1, 2, 4, 6, 3, 5)
    spectrum = cosines @ blocks @ cosines.T
    order = torch.arange(BLOCK, device=image.device)
    steps = step.reshape(b, 1, 1, 1, 1, 1, 1).clamp_min(1e-6) * (1 + order[:, None] + order)
    coarse = torch.where(step.reshape(b, 1, 1, 1, 1, 1, 1) > 0, (spectrum / steps).round() * steps, spectrum)
    return (cosines.T @ coarse @ cosines).permute(0, 1, 2, 5, 3, 6, 4).reshape(b, t, h, w, 3)
