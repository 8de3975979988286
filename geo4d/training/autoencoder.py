"""Stages that make pictures into latents: PCA start, autoencoder, point decoder (paper Eq. 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import softplus, unfold

from geo4d._typing import Float, Tensor
from geo4d.models.autoencoder import Autoencoder
from geo4d.models.encoders import DinoEncoder

Step = tuple[Tensor, dict[str, float]]
PATCH = 8
FITTED_FRAMES, FITTED_STATES = 512, 32  # frames for the encoder's projection, and hidden states of each
ENCODED_AT_ONCE = 16  # frames


@torch.no_grad()
def fit_pca(images: Float[Tensor, "n 3 h w"], components: int = 4) -> tuple[Tensor, Tensor]:
    """Mean (192,) and orthonormal basis (components, 192) of the 8x8 patches (channel, row, column) of all images."""
    patches = unfold(images.double(), PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)  # (n * patches, 192)
    mean = patches.mean(dim=0)
    centred = patches - mean
    _, vectors = torch.linalg.eigh(centred.mT @ centred / len(patches))  # ascending
    return mean.float(), vectors[:, -components:].flip(1).T.contiguous().float()


@torch.no_grad()
def fit_encoder(encoder: DinoEncoder, frames: Float[Tensor, "n 3 h w"], *, seed: int) -> None:
    """Fits a frame encoder's standardisation and projection to frames in [-1, 1]; ConfigError for too few."""
    generator = torch.Generator().manual_seed(seed)
    chosen = frames[torch.randperm(len(frames), generator=generator)[:FITTED_FRAMES]]
    samples = []
    for part in chosen.split(ENCODED_AT_ONCE):
        states = encoder.hidden_states(part.float().to(encoder.mean.device)).flatten(0, 1)
        picks = torch.randperm(len(states), generator=generator)[: FITTED_STATES * len(part)]
        samples.append(states[picks.to(states.device)])
    encoder.fit(torch.cat(samples))


def autoencoder_loss(
    autoencoder: Autoencoder, draw_images: Callable[[int], Float[Tensor, "n 3 h w"]], *, kl_weight: float = 1e-4
) -> Callable[[int], Step]:
    """L1 and the gradient's L1 on reconstructed images, and a weak pull of the posterior towards the unit normal."""

    def loss(step: int) -> Step:
        images = draw_images(step)
        mean, logvar = autoencoder.encode(images)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(step)).to(mean)
        decoded = autoencoder.decode(mean + (0.5 * logvar).exp() * noise).float()
        error = decoded - images
        l1 = error.abs().mean()
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).float().mean()
        return l1 + 0.5 * edges + kl_weight * kl, {"l1": float(l1.detach()), "kl": float(kl.detach())}

    return loss


def laplace_nll(
    decoded: Float[Tensor, "n 4 h w"], target: Float[Tensor, "n 3 h w"]
) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Paper Eq. 3 per pixel, and sigma: ln(sqrt(2) sigma) + sqrt(2) |D(E(X)) - X|_1 / sigma."""
    sigma = softplus(decoded[:, 3].float()) + 1e-4
    error = (decoded[:, :3].float() - target).abs().sum(dim=1)
    return (2**0.5 * sigma).log() + 2**0.5 * error / sigma, sigma


def point_decoder_loss(
    decoder: Autoencoder, draw: Callable[[int], tuple[Float[Tensor, "n c y x"], Float[Tensor, "n 3 h w"]]]
) -> Callable[[int], Step]:
    """`draw(step)` gives latents (what the decoder will be fed) and the point images they should decode to."""

    def loss(step: int) -> Step:
        latents, images = draw(step)
        decoded = decoder.decode_with_uncertainty(latents)
        nll, sigma = laplace_nll(decoded, images)
        l1 = (decoded[:, :3].float() - images).abs().mean()
        return nll.mean(), {"l1": float(l1.detach()), "sigma": float(sigma.detach().mean())}

    return loss
