"""Autoencoder and point decoder: released numbers, the PCA start, the uncertainty branch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import AUTOENCODER, keys, load, noise, weights

from geo4d.errors import ConfigError
from geo4d.models.autoencoder import Autoencoder
from geo4d.models.checkpoint import load_part
from geo4d.models.presets import PRESETS

TINY = PRESETS["tiny"].autoencoder
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def released() -> Autoencoder:
    """The released autoencoder at the reference vectors' widths and weights, with the uncertainty branch."""
    module = load_part("autoencoder", AUTOENCODER, weights(keys("vae")))
    assert isinstance(module, Autoencoder)
    return module


def test_encoder_is_the_released_one(released: Autoencoder) -> None:
    recorded = load("vae")
    images = np.tanh(noise("vae.x", (2, 3, 64, 96)))
    np.testing.assert_allclose(images, recorded["x"], atol=1e-6)
    with torch.no_grad():
        mean, logvar = released.encode(torch.from_numpy(images))
    np.testing.assert_allclose(mean.numpy(), recorded["mean"], atol=TOLERANCE)
    np.testing.assert_allclose(logvar.numpy(), recorded["logvar"], atol=TOLERANCE)
    np.testing.assert_allclose((0.5 * logvar).exp().numpy(), recorded["std"], atol=TOLERANCE)


def test_decoders_are_the_released_ones(released: Autoencoder) -> None:
    recorded = load("vae")
    latents = torch.from_numpy(noise("vae.z", (2, 4, 8, 12)))
    with torch.no_grad():
        images, points = released.decode(latents), released.decode_with_uncertainty(latents)
    np.testing.assert_allclose(images.numpy(), recorded["dec"], atol=TOLERANCE)
    np.testing.assert_allclose(points.numpy(), recorded["dec_conf"], atol=TOLERANCE)


def test_parts_that_are_not_there_are_named(released: Autoencoder) -> None:
    with pytest.raises(ConfigError, match="no encoder"):
        released.make_decoder().encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="no uncertainty branch"):
        Autoencoder(**TINY).decode_with_uncertainty(torch.zeros(1, 4, 2, 2))


def pca(seed: int, components: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(192, components, generator=generator))[0].T
    colour = torch.rand(3, generator=generator).repeat_interleave(64)
    return colour, basis


@pytest.mark.parametrize("channels", [4, 7])
def test_pca_start_is_exact_on_the_subspace(channels: int) -> None:
    mean, basis = pca(0, channels)
    autoencoder = Autoencoder(**TINY, latent_channels=channels).eval()
    autoencoder.set_pca(mean, basis)
    coefficients = torch.randn(2, channels, 3, 5, generator=torch.Generator().manual_seed(2))
    patches = torch.einsum("nkyx,kp->npyx", coefficients, basis) + mean[:, None, None]
    images = torch.nn.functional.pixel_shuffle(patches, 8)
    with torch.no_grad():
        latents, logvar = autoencoder.encode(images)
        decoded = autoencoder.decode(latents)
    torch.testing.assert_close(latents, coefficients, atol=1e-4, rtol=0)
    assert torch.equal(logvar, torch.full_like(logvar, -6.0))
    # the mean lies outside the subspace's span, so what comes back is the image itself
    torch.testing.assert_close(decoded, images, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (16, 8)])
def test_shapes_and_batch_rows(height: int, width: int) -> None:
    autoencoder = Autoencoder(**TINY).eval()
    images = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean, logvar = autoencoder.encode(images)
        assert mean.shape == logvar.shape == (3, 4, height // 8, width // 8)
        alone = autoencoder.encode(images[1:2])[0]
        assert autoencoder.decode(mean).shape == images.shape
    torch.testing.assert_close(mean[1:2], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [TINY, {"block_out_channels": (32, 32), "layers_per_block": 1}])
def test_point_decoder_starts_at_the_autoencoder(config: dict) -> None:
    autoencoder = Autoencoder(**config).eval()
    decoder = autoencoder.make_decoder().eval()
    latents = torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoded = decoder.decode_with_uncertainty(latents)
        assert torch.equal(decoded[:, :3], autoencoder.decode(latents))
    assert decoded.shape[1] == 4
    assert decoded.isfinite().all()
