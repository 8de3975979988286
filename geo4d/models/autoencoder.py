"""The image autoencoder: 8 pixels a latent, 4 channels, applied frame by frame; and the decoder that also says how sure.

Built from diffusers' encoder and decoder. What the small model adds: working at half resolution (`patch_size` 2) and a
linear PCA path beside both networks, which start at zero, so that training begins at PCA quality (`pca_skip`).
"""

from __future__ import annotations

import torch

import geo4d.models._torchvision  # noqa: F401  (before diffusers)

from diffusers import ConfigMixin, ModelMixin  # isort: skip
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from geo4d._typing import Float, Tensor

LATENT_CHANNELS = 4
PATCH = 8  # pixels a latent, each way
LOGVAR_RANGE = (-30.0, 20.0)


def _decoder(channels: tuple[int, ...], layers: int, groups: int, out_channels: int, *, attention: bool) -> Decoder:
    return Decoder(
        in_channels=LATENT_CHANNELS,
        out_channels=out_channels,
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=groups,
        mid_block_add_attention=attention,
    )


class Autoencoder(ModelMixin, ConfigMixin):
    """Images (n, 3, h, w) in [-1, 1] <-> latents (n, 4, h / 8, w / 8), not scaled."""

    @register_to_config
    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        norm_groups: int = 32,
        mid_attention: bool = True,
        patch_size: int = 1,
        pca_skip: bool = False,
    ) -> None:
        super().__init__()
        colours = 3 * patch_size**2
        self.encoder = Encoder(
            in_channels=colours,
            out_channels=LATENT_CHANNELS,
            down_block_types=("DownEncoderBlock2D",) * len(block_out_channels),
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_groups,
            mid_block_add_attention=mid_attention,
        )
        self.quant_conv = nn.Conv2d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.post_quant_conv = nn.Conv2d(LATENT_CHANNELS, LATENT_CHANNELS, 1)
        self.decoder = _decoder(block_out_channels, layers_per_block, norm_groups, colours, attention=mid_attention)
        if pca_skip:
            self.pca_encode = nn.Conv2d(3, LATENT_CHANNELS, PATCH, stride=PATCH)
            self.pca_decode = nn.ConvTranspose2d(LATENT_CHANNELS, 3, PATCH, stride=PATCH)

    def encode(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n 4 y x"], Float[Tensor, "n 4 y x"]]:
        """Mean and log variance of the posterior."""
        hidden = pixel_unshuffle(images, self.config.patch_size)
        mean, logvar = self.quant_conv(self.encoder(hidden)).chunk(2, dim=1)
        if self.config.pca_skip:
            mean = mean + self.pca_encode(images)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, latents: Float[Tensor, "n 4 y x"]) -> Float[Tensor, "n 3 h w"]:
        """Images, not clamped."""
        images = pixel_shuffle(self.decoder(self.post_quant_conv(latents)), self.config.patch_size)
        return images + self.pca_decode(latents) if self.config.pca_skip else images

    @torch.no_grad()
    def set_pca(self, mean: Float[Tensor, "192"], basis: Float[Tensor, "4 192"]) -> None:
        """Makes the linear path the PCA of 8x8x3 patches and the networks' part zero, with a small posterior variance."""
        self.pca_encode.weight.copy_(basis.unflatten(1, (3, PATCH, PATCH)))
        self.pca_encode.bias.copy_(-basis @ mean)  # type: ignore[union-attr]
        self.pca_decode.weight.copy_(basis.unflatten(1, (3, PATCH, PATCH)))
        # one bias a colour: the mean patch is nearly flat; what is not, the network learns
        self.pca_decode.bias.copy_(mean.unflatten(0, (3, -1)).mean(1))  # type: ignore[union-attr]
        for layer in (self.quant_conv, self.decoder.conv_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.quant_conv.bias[LATENT_CHANNELS:] = -6.0  # type: ignore[index]


class PointDecoder(ModelMixin, ConfigMixin):
    """The decoder fine-tuned for point maps, with a branch for the Laplace scale (METHOD 2.2)."""

    @register_to_config
    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        norm_groups: int = 32,
        mid_attention: bool = True,
        patch_size: int = 1,
        pca_skip: bool = False,
        uncertainty_blocks: int = 2,
    ) -> None:
        super().__init__()
        width = block_out_channels[0]
        self.post_quant_conv = nn.Conv2d(LATENT_CHANNELS, LATENT_CHANNELS, 1)
        self.decoder = _decoder(block_out_channels, layers_per_block, norm_groups, 3 * patch_size**2, attention=mid_attention)
        if pca_skip:
            self.pca_decode = nn.ConvTranspose2d(LATENT_CHANNELS, 3, PATCH, stride=PATCH)
        self.uncertainty = nn.ModuleDict(
            {
                "blocks": nn.ModuleList(
                    ResnetBlock2D(in_channels=width, out_channels=width, temb_channels=None, groups=norm_groups, eps=1e-6)
                    for _ in range(uncertainty_blocks)
                ),
                "norm_out": nn.GroupNorm(norm_groups, width, eps=1e-6),
                "conv_out": nn.Conv2d(width, patch_size**2, 3, padding=1),
            }
        )

    @classmethod
    def from_autoencoder(cls, autoencoder: Autoencoder, *, uncertainty_blocks: int = 2) -> PointDecoder:
        """Starts at the autoencoder's own decoder; the uncertainty branch starts at random."""
        names = ("block_out_channels", "layers_per_block", "norm_groups", "mid_attention", "patch_size", "pca_skip")
        decoder = cls(**{name: autoencoder.config[name] for name in names}, uncertainty_blocks=uncertainty_blocks)
        own = decoder.state_dict()
        decoder.load_state_dict({**own, **{k: v for k, v in autoencoder.state_dict().items() if k in own}})
        return decoder

    def decode_with_uncertainty(self, latents: Float[Tensor, "n 4 y x"]) -> Float[Tensor, "n 4 h w"]:
        """Point image in the first three channels, the logit of sigma in the last: sigma = softplus(logit)."""
        d, patch = self.decoder, self.config.patch_size
        hidden = d.mid_block(d.conv_in(self.post_quant_conv(latents)), None)
        for block in d.up_blocks:
            hidden = block(hidden, None)
        images = pixel_shuffle(d.conv_out(d.conv_act(d.conv_norm_out(hidden))), patch)
        if self.config.pca_skip:
            images = images + self.pca_decode(latents)
        for block in self.uncertainty["blocks"]:  # type: ignore[union-attr]
            hidden = block(hidden, None)
        logit = self.uncertainty["conv_out"](nn.functional.silu(self.uncertainty["norm_out"](hidden)))
        return torch.cat([images, pixel_shuffle(logit, patch)], dim=1)
