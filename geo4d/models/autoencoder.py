"""The image autoencoder: 8 pixels a latent, 4 channels or more, applied frame by frame.

Its decoder can also say how sure it is. Built from diffusers' encoder and decoder. What the small
model adds: working at half resolution (`patch_size` 2) and a linear PCA path beside both networks, which start at zero,
so that training begins at PCA quality (`pca_skip`).
"""

from __future__ import annotations

import inspect

import torch

import geo4d.models._torchvision  # noqa: F401  (before diffusers)

from diffusers import ConfigMixin, ModelMixin  # isort: skip
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from geo4d._typing import Float, Tensor
from geo4d.errors import ConfigError

PATCH = 8  # pixels a latent, each way
LOGVAR_RANGE = (-30.0, 20.0)


class Autoencoder(ModelMixin, ConfigMixin):
    """Images (n, 3, h, w) in [-1, 1] <-> latents (n, latent_channels, h / 8, w / 8), not scaled.

    With `uncertainty_blocks` the decoder has a branch for the Laplace scale of its result (method 2.2); without
    `has_encoder` it is a decoder alone, as the one that is fine-tuned for point maps.
    """

    @register_to_config
    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        norm_groups: int = 32,
        mid_attention: bool = True,
        patch_size: int = 1,
        pca_skip: bool = False,
        has_encoder: bool = True,
        uncertainty_blocks: int = 0,
        latent_channels: int = 4,
    ) -> None:
        super().__init__()
        width, colours = block_out_channels[0], 3 * patch_size**2
        shared = {
            "block_out_channels": block_out_channels,
            "layers_per_block": layers_per_block,
            "norm_num_groups": norm_groups,
            "mid_block_add_attention": mid_attention,
        }
        if has_encoder:
            blocks = ("DownEncoderBlock2D",) * len(block_out_channels)
            self.encoder = Encoder(in_channels=colours, out_channels=latent_channels, down_block_types=blocks, **shared)
            self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        blocks = ("UpDecoderBlock2D",) * len(block_out_channels)
        self.decoder = Decoder(in_channels=latent_channels, out_channels=colours, up_block_types=blocks, **shared)
        if pca_skip and has_encoder:
            self.pca_encode = nn.Conv2d(3, latent_channels, PATCH, stride=PATCH)
        if pca_skip:
            self.pca_decode = nn.ConvTranspose2d(latent_channels, 3, PATCH, stride=PATCH)
        if uncertainty_blocks:
            self.uncertainty = nn.ModuleDict(
                {
                    "blocks": nn.ModuleList(
                        ResnetBlock2D(
                            in_channels=width, out_channels=width, temb_channels=None, groups=norm_groups, eps=1e-6
                        )
                        for _ in range(uncertainty_blocks)
                    ),
                    "norm_out": nn.GroupNorm(norm_groups, width, eps=1e-6),
                    "conv_out": nn.Conv2d(width, patch_size**2, 3, padding=1),
                }
            )

    def make_decoder(self, *, uncertainty_blocks: int = 2) -> Autoencoder:
        """A decoder alone that starts at this one's; the uncertainty branch starts at random."""
        config = {**self.config, "has_encoder": False, "uncertainty_blocks": uncertainty_blocks}
        names = inspect.signature(type(self).__init__).parameters
        result = type(self)(**{name: value for name, value in config.items() if name in names})
        own = result.state_dict()
        result.load_state_dict({**own, **{name: value for name, value in self.state_dict().items() if name in own}})
        return result

    def encode(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n c y x"], Float[Tensor, "n c y x"]]:
        """Mean and log variance of the posterior. Raises ConfigError if this is a decoder alone."""
        if not self.config.has_encoder:
            raise ConfigError(
                "This autoencoder has no encoder: it is the decoder of point maps; encode with the image autoencoder."
            )
        hidden = pixel_unshuffle(images, self.config.patch_size)
        mean, logvar = self.quant_conv(self.encoder(hidden)).chunk(2, dim=1)
        if self.config.pca_skip:
            mean = mean + self.pca_encode(images)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, latents: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 3 h w"]:
        """Images, not clamped."""
        return self._images(self._features(latents), latents)

    def decode_with_uncertainty(self, latents: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 4 h w"]:
        """Image in the first three channels, the logit of sigma in the last: sigma = softplus(logit).

        Raises ConfigError if there is no such branch.
        """
        if not self.config.uncertainty_blocks:
            raise ConfigError(
                "This autoencoder has no uncertainty branch; use the point decoder (vae.ckpt of the release)."
            )
        hidden = self._features(latents)
        images = self._images(hidden, latents)
        for block in self.uncertainty["blocks"]:  # type: ignore[union-attr]
            hidden = block(hidden, None)
        logit = self.uncertainty["conv_out"](nn.functional.silu(self.uncertainty["norm_out"](hidden)))
        return torch.cat([images, pixel_shuffle(logit, self.config.patch_size)], dim=1)

    def _features(self, latents: Tensor) -> Tensor:
        """What the decoder's last norm is given."""
        hidden = self.decoder.mid_block(self.decoder.conv_in(self.post_quant_conv(latents)), None)
        for block in self.decoder.up_blocks:
            hidden = block(hidden, None)
        return hidden

    def _images(self, features: Tensor, latents: Tensor) -> Tensor:
        d = self.decoder
        images = pixel_shuffle(d.conv_out(d.conv_act(d.conv_norm_out(features))), self.config.patch_size)
        return images + self.pca_decode(latents) if self.config.pca_skip else images

    @torch.no_grad()
    def set_pca(self, mean: Float[Tensor, "192"], basis: Float[Tensor, "c 192"]) -> None:
        """Makes the linear path the PCA of 8x8x3 patches and the networks' part zero, with a small posterior variance.

        `basis` has one row a latent channel.
        """
        self.pca_encode.weight.copy_(basis.unflatten(1, (3, PATCH, PATCH)))
        self.pca_encode.bias.copy_(-basis @ mean)  # type: ignore[union-attr]
        self.pca_decode.weight.copy_(basis.unflatten(1, (3, PATCH, PATCH)))
        # one bias a colour: the mean patch is nearly flat; what is not, the network learns
        self.pca_decode.bias.copy_(mean.unflatten(0, (3, -1)).mean(1))  # type: ignore[union-attr]
        for layer in (self.quant_conv, self.decoder.conv_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.quant_conv.bias[len(basis) :] = -6.0  # type: ignore[index]
