"""CLIP towers and query transformer against vectors recorded from the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import keys, load, noise, weights

from geo4d.errors import ConfigError
from geo4d.models.checkpoint import image_tower_state, text_tower_state
from geo4d.models.conditioner import PROMPT, Conditioner, ImageTower, TextTower, TowerConfig, preprocess, tokenize
from geo4d.models.resampler import Resampler

RESAMPLER = {"dim": 64, "depth": 2, "dim_head": 32, "heads": 3, "embedding_dim": 64, "output_dim": 64}
TEXT = TowerConfig(width=64, layers=3, heads=4)
IMAGE = TowerConfig(width=64, layers=3, heads=4)


def test_resampler_is_the_released_one() -> None:
    recorded = load("resampler")
    resampler = Resampler(**RESAMPLER)
    shapes = {key: list(value.shape) for key, value in resampler.state_dict().items()}
    assert shapes == keys("resampler")
    resampler.load_state_dict(weights(shapes))
    with torch.no_grad():
        frames = resampler(torch.from_numpy(noise("resampler.x4", (1, 16, 257, 64))))
        image = resampler(torch.from_numpy(noise("resampler.x3", (1, 257, 64))))
    np.testing.assert_allclose(frames.numpy(), recorded["y4"], atol=2e-5)
    np.testing.assert_allclose(image.numpy(), recorded["y3"], atol=2e-5)


def test_resampler_refuses_another_number_of_frames() -> None:
    with pytest.raises(ConfigError, match="reads 16 frames; got 3"):
        Resampler(**RESAMPLER)(torch.zeros(1, 3, 5, 64))


def test_tokens_are_the_released_ones() -> None:
    recorded = load("clip")
    assert torch.equal(tokenize(PROMPT, "", "a photo of a cat"), torch.from_numpy(recorded["token_ids"]))


def test_text_tower_is_the_released_one() -> None:
    recorded = load("clip")
    tower = TextTower(TEXT).eval()
    tower.load_state_dict(text_tower_state(weights(keys("clip_text")), layers=3))
    with torch.no_grad():
        out = tower(torch.from_numpy(recorded["token_ids"]))
    np.testing.assert_allclose(out.numpy(), recorded["text_penultimate"], atol=2e-5)


def smooth_image() -> torch.Tensor:
    """The pattern of the vectors' recipe, 320x512."""
    y, x = torch.meshgrid(torch.arange(320.0), torch.arange(512.0), indexing="ij")
    return torch.stack([torch.sin(y / 7 + x / 11), torch.cos(y / 13 - x / 5), torch.sin(x / 3) * torch.cos(y / 4)])[None]


def test_preprocessing_is_the_released_one() -> None:
    recorded = load("clip")
    square = preprocess(smooth_image())
    np.testing.assert_allclose(square[..., ::8, ::8].numpy(), recorded["preprocess_smooth_rows"], atol=1e-4)
    grey = preprocess(torch.zeros(1, 3, 40, 60))
    np.testing.assert_allclose(grey[0].amax(dim=(1, 2)).numpy(), recorded["preprocess_zero"], atol=1e-5)


def test_image_tower_is_the_released_one() -> None:
    recorded = load("clip")
    tower = ImageTower(IMAGE).eval()
    tower.load_state_dict(image_tower_state(weights(keys("clip_image")), layers=3))
    with torch.no_grad():
        out = tower(smooth_image())
    np.testing.assert_allclose(out.numpy(), recorded["img_smooth"], atol=2e-4)


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
