"""What lies between the autoencoder's latents and the denoiser's: a mean per position and a spread per channel."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate

from geo4d._typing import Float, Tensor

SD_SCALE_FACTOR = 0.18215  # of the Stable Diffusion autoencoder


class LatentNormalizer(nn.Module):
    """Per kind of image: (latent - mean map) / std, the map resampled to the latent's grid.

    Fresh, it is the released model's: mean 0, std 1 / 0.18215.
    """

    def __init__(self, names: tuple[str, ...], grid: tuple[int, int], channels: int = 4) -> None:
        super().__init__()
        for name in names:
            self.register_buffer(f"{name}_mean", torch.zeros(channels, *grid))
            self.register_buffer(f"{name}_std", torch.full((channels,), 1 / SD_SCALE_FACTOR))

    @property
    def channels(self) -> int:
        """Of the latent of one image."""
        return len(next(self.buffers()))

    @property
    def grid(self) -> tuple[int, int]:
        """(y, x) of the mean maps."""
        some = next(self.buffers())
        return some.shape[1], some.shape[2]

    def with_names(self, names: tuple[str, ...]) -> LatentNormalizer:
        """The same statistics for the names that are known, the released model's for others."""
        result = LatentNormalizer(names, self.grid, self.channels).to(next(self.buffers()).device)
        own = self.state_dict()
        result.load_state_dict({name: own.get(name, value) for name, value in result.state_dict().items()})
        return result

    def std(self, name: str) -> Float[Tensor, "c"]:
        """Spread of each channel."""
        return self.get_buffer(f"{name}_std")

    def is_fitted(self, name: str) -> bool:
        """Whether the statistics are others than the released model's."""
        return bool(self.get_buffer(f"{name}_mean").any() or (self.std(name) != 1 / SD_SCALE_FACTOR).any())

    def normalize(self, name: str, latents: Tensor) -> Tensor:
        """(n, c, y, x) or (b, c, v, y, x) from the autoencoder to the denoiser."""
        mean, std = self._statistics(name, latents)
        return (latents - mean) / std

    def denormalize(self, name: str, latents: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        mean, std = self._statistics(name, latents)
        return latents * std + mean

    @torch.no_grad()
    def fit(self, name: str, latents: Float[Tensor, "n c y x"]) -> None:
        """Mean per position and residual spread per channel of a sample on the normalizer's own grid."""
        mean = latents.mean(dim=0)
        self.get_buffer(f"{name}_mean").copy_(mean)
        self.std(name).copy_((latents - mean).square().mean(dim=(0, 2, 3)).sqrt().clamp_min(1e-4))

    def _statistics(self, name: str, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.get_buffer(f"{name}_mean")
        if mean.shape[1:] != latents.shape[-2:]:
            mean = interpolate(mean[None], size=latents.shape[-2:], mode="bilinear", align_corners=False)[0]
        middle = [1] * (latents.ndim - 4)
        std = self.std(name).reshape(-1, *middle, 1, 1)
        return mean.reshape(len(mean), *middle, *mean.shape[1:]).to(latents), std.to(latents)
