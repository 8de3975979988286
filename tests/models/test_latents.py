"""Latent statistics: an exact inverse, on any grid, and unit spread after a fit."""

from __future__ import annotations

import pytest
import torch

from geo4d.models.latents import SD_SCALE_FACTOR, LatentNormalizer


def fitted() -> tuple[LatentNormalizer, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(-2, 2, 6).expand(4, 4, 6)
    spread = torch.tensor([0.5, 1.0, 2.0, 4.0])[:, None, None]
    latents = ramp + spread * torch.randn(400, 4, 4, 6, generator=generator)
    normalizer = LatentNormalizer(("rgb", "points"), (4, 6))
    normalizer.fit("points", latents)
    return normalizer, latents


def test_fresh_is_the_released_scale() -> None:
    latents = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    normalizer = LatentNormalizer(("rgb",), (3, 3))
    torch.testing.assert_close(normalizer.normalize("rgb", latents), latents * SD_SCALE_FACTOR)


def test_fit_centres_positions_and_scales_channels() -> None:
    normalizer, latents = fitted()
    normal = normalizer.normalize("points", latents)
    torch.testing.assert_close(normal.mean(dim=0), torch.zeros(4, 4, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.square().mean(dim=(0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(2, 4, 4, 6), (2, 4, 3, 4, 6), (1, 4, 2, 8, 5)])
def test_denormalize_is_the_inverse(shape: tuple[int, ...]) -> None:
    normalizer, _ = fitted()
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(normalizer.denormalize("points", normalizer.normalize("points", latents)), latents)


def test_another_grid_sees_the_same_map() -> None:
    """A ramp stays a ramp: bilinear, sampled at the centres of the finer cells."""
    normalizer = LatentNormalizer(("points",), (4, 6))
    ramp = ((torch.arange(6) + 0.5) / 6).expand(4, 4, 6)
    normalizer.fit("points", ramp[None].repeat(2, 1, 1, 1))
    fine = normalizer.denormalize("points", torch.zeros(1, 4, 8, 12))[0]
    expected = ((torch.arange(12) + 0.5) / 12).expand(4, 8, 12)
    torch.testing.assert_close(fine[..., 1:-1], expected[..., 1:-1], atol=1e-6, rtol=0)


def test_window_axis_changes_nothing() -> None:
    normalizer, latents = fitted()
    video = latents[:6].unflatten(0, (2, 3)).transpose(1, 2)
    frames = normalizer.normalize("points", video).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(frames, normalizer.normalize("points", latents[:6]))
