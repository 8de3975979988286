"""CLIP towers and query transformer against vectors recorded from the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import PARTS, RESAMPLER, keys, load, noise, weights

from geo4d.errors import ConfigError
from geo4d.models.checkpoint import load_part
from geo4d.models.conditioner import PROMPT, Conditioner, TowerConfig, preprocess, tokenize
from geo4d.models.resampler import Resampler

TEXT = TowerConfig(width=64, layers=3, heads=4)
IMAGE = TowerConfig(width=64, layers=3, heads=4)
TOLERANCE = 1e-4


def part(name: str) -> torch.nn.Module:
    config, listed = PARTS[name]
    return load_part(name, config, weights(keys(listed)))


def test_resampler_is_the_released_one() -> None:
    recorded, resampler = load("resampler"), part("resampler")
    with torch.no_grad():
        frames = resampler(torch.from_numpy(noise("resampler.x4", (1, 16, 257, 64))))
        image = resampler(torch.from_numpy(noise("resampler.x3", (1, 257, 64))))
    np.testing.assert_allclose(frames.numpy(), recorded["y4"], atol=TOLERANCE)
    np.testing.assert_allclose(image.numpy(), recorded["y3"], atol=TOLERANCE)


def test_resampler_refuses_another_number_of_frames() -> None:
    with pytest.raises(ConfigError, match="reads 16 frames; got 3"):
        Resampler(**RESAMPLER)(torch.zeros(1, 3, 5, 64))


def test_tokens_are_the_released_ones() -> None:
    recorded = load("clip")
    assert torch.equal(tokenize(PROMPT, "", "a photo of a cat"), torch.from_numpy(recorded["token_ids"]))


def test_text_tower_is_the_released_one() -> None:
    recorded = load("clip")
    with torch.no_grad():
        out = part("text_tower")(torch.from_numpy(recorded["token_ids"]))
    np.testing.assert_allclose(out.numpy(), recorded["text_penultimate"], atol=TOLERANCE)


def smooth_image() -> torch.Tensor:
    """The pattern of the vectors' recipe, 320x512."""
    y, x = torch.meshgrid(torch.arange(320.0), torch.arange(512.0), indexing="ij")
    return torch.stack([torch.sin(y / 7 + x / 11), torch.cos(y / 13 - x / 5), torch.sin(x / 3) * torch.cos(y / 4)])[
        None
    ]


def test_preprocessing_is_the_released_one() -> None:
    recorded, image = load("clip"), smooth_image()
    np.testing.assert_allclose(
        preprocess(image)[..., ::8, ::8].numpy(), recorded["preprocess_smooth_rows"], atol=TOLERANCE
    )
    corner = preprocess(image[..., :160, :192])  # grows one way, shrinks in none
    np.testing.assert_allclose(corner[..., ::8, ::8].numpy(), recorded["preprocess_upscale_rows"], atol=TOLERANCE)
    grey = preprocess(torch.zeros(1, 3, 40, 60))
    np.testing.assert_allclose(grey[0].amax(dim=(1, 2)).numpy(), recorded["preprocess_zero"], atol=1e-5)


def test_image_tower_is_the_released_one() -> None:
    recorded, tower = load("clip"), part("image_tower")
    with torch.no_grad():
        smooth, zero = tower(smooth_image()), tower(torch.zeros(1, 3, 320, 512))
    np.testing.assert_allclose(smooth.numpy(), recorded["img_smooth"], atol=TOLERANCE)
    np.testing.assert_allclose(zero.numpy(), recorded["img_zero"], atol=TOLERANCE)


def test_context_is_text_then_image_tokens() -> None:
    conditioner = Conditioner(TEXT, IMAGE, **RESAMPLER).eval()
    constant = conditioner.constant_context()
    assert constant.shape == (1, 77 + 256, 64)
    with torch.no_grad():
        zero = conditioner(tokenize(PROMPT), torch.zeros(1, 3, 64, 96))
        frames = conditioner(tokenize(PROMPT), torch.zeros(1, 16, 3, 64, 96))
    torch.testing.assert_close(zero, constant, atol=1e-5, rtol=1e-5)
    assert frames.shape == constant.shape
    torch.testing.assert_close(frames[:, :77], constant[:, :77], atol=1e-5, rtol=1e-5)
