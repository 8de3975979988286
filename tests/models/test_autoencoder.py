"""Autoencoder and point decoder: released numbers, the PCA start, the uncertainty branch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import full_manifest, keys, load, noise, weights

from geo4d.models.autoencoder import Autoencoder, PointDecoder
from geo4d.models.checkpoint import autoencoder_state, point_decoder_state
from geo4d.models.presets import PRESETS

WIDTHS = (32, 64, 128, 128)  # of the reference vectors
TINY = PRESETS["tiny"].autoencoder


def test_encoder_is_the_released_one() -> None:
    recorded = load("vae")
    autoencoder = Autoencoder(block_out_channels=WIDTHS).eval()
    autoencoder.load_state_dict(autoencoder_state(weights(keys("vae"))))
    with torch.no_grad():
        mean, logvar = autoencoder.encode(torch.from_numpy(np.tanh(noise("vae.x", (2, 3, 64, 96)))))
    np.testing.assert_allclose(mean.numpy(), recorded["mean"], atol=1e-4 * np.abs(recorded["mean"]).max())
    np.testing.assert_allclose(logvar.numpy(), recorded["logvar"], atol=1e-4 * np.abs(recorded["logvar"]).max())


def test_decoders_are_the_released_ones() -> None:
    expected = load("vae")["dec_conf"]
    released = weights(keys("vae"))
    autoencoder = Autoencoder(block_out_channels=WIDTHS).eval()
    autoencoder.load_state_dict(autoencoder_state(released))
    point_decoder = PointDecoder(block_out_channels=WIDTHS).eval()
    point_decoder.load_state_dict(point_decoder_state(released))
    latents = torch.from_numpy(noise("vae.z", (2, 4, 8, 12)))
    with torch.no_grad():
        images, points = autoencoder.decode(latents), point_decoder.decode_with_uncertainty(latents)
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(images.numpy(), expected[:, :3], atol=tolerance)
    np.testing.assert_allclose(points.numpy(), expected, atol=tolerance)


def test_every_tensor_of_the_full_release_has_its_place() -> None:
    entries = full_manifest()["pointmap_vae"]
    released = {key: torch.empty(entry[0], device="meta") for key, entry in entries.items()}
    with torch.device("meta"):
        parts = [(Autoencoder(), autoencoder_state(released)), (PointDecoder(), point_decoder_state(released))]
    for module, state in parts:
        own = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        assert own == {key: tuple(value.shape) for key, value in state.items()}


def pca(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(192, 4, generator=generator))[0].T
    colour = torch.rand(3, generator=generator).repeat_interleave(64)
    return colour, basis


def test_pca_start_is_exact_on_the_subspace() -> None:
    mean, basis = pca(0)
    autoencoder = Autoencoder(**TINY).eval()
    autoencoder.set_pca(mean, basis)
    coefficients = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(2))
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
    decoder = PointDecoder.from_autoencoder(autoencoder).eval()
    latents = torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoded = decoder.decode_with_uncertainty(latents)
        assert torch.equal(decoded[:, :3], autoencoder.decode(latents))
    assert decoded.shape[1] == 4
    assert decoded.isfinite().all()
