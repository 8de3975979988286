"""A whole model: U-Net, autoencoder, point decoder, frame encoder, latent statistics, context of the cross attention.

It maps names of images to latents and back, and knows nothing of what the images mean. The networks compute in the
dtype of their weights; what goes in and comes out is float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import softplus

from geo4d._typing import Float, Tensor
from geo4d.errors import ConfigError
from geo4d.models.attention import IMAGE_TOKENS, TEXT_TOKENS
from geo4d.models.autoencoder import Autoencoder
from geo4d.models.conditioner import Conditioner
from geo4d.models.encoders import build_encoder
from geo4d.models.latents import LatentNormalizer
from geo4d.models.presets import ModelSpec
from geo4d.models.unet import VideoUNet

SIGMA_FLOOR = 1e-4


class GeometryModel(nn.Module):
    """The parts of a model and how they work together."""

    def __init__(self, spec: ModelSpec) -> None:
        """Raises ConfigError if the spec's parts do not fit one another."""
        super().__init__()
        self.spec = spec
        self.unet = VideoUNet(**spec.unet)
        written = spec.latent_channels * len(spec.image_names)
        expected = (written + spec.latent_channels + spec.feature_channels, written)
        if (self.unet.config.in_channels, self.unet.config.out_channels) != expected:
            raise ConfigError(
                f"The U-Net of {spec.name!r} reads {self.unet.config.in_channels} channels and writes "
                f"{self.unet.config.out_channels}; its latents and features are {expected[0]} and {expected[1]}."
            )
        self.autoencoder = Autoencoder(**spec.autoencoder)
        if spec.uncertainty_blocks:
            self.point_decoder = Autoencoder(
                **spec.autoencoder, has_encoder=False, uncertainty_blocks=spec.uncertainty_blocks
            )
        if spec.context_tokens:  # the prompt and a zero image are constants of a checkpoint (compat 3)
            self.register_buffer("context", torch.zeros(1, spec.context_tokens, self.unet.config.context_dim))
        if spec.per_frame:
            conditioner = Conditioner.from_spec(spec.towers)
            self.image_tower, self.resampler = conditioner.image_tower, conditioner.resampler
        if spec.encoder:
            self.frame_encoder = build_encoder(spec.encoder)
        grid = (spec.base_size[0] // 8, spec.base_size[1] // 8)
        self.normalizer = LatentNormalizer(("rgb", *spec.image_names), grid, spec.latent_channels)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """In which the networks compute."""
        return next(self.unet.parameters()).dtype

    def encode_rgb(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c y x"]:
        """Condition latents of frames in [-1, 1]."""
        return self.encode_images("rgb", images)

    def encode_images(self, name: str, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c y x"]:
        """Latents as the denoiser knows them (mean of the posterior)."""
        return self.normalizer.normalize(name, self.autoencoder.encode(images.to(self.dtype))[0].float())

    def encode_posterior(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n c y x"], Float[Tensor, "n c y x"]]:
        """Mean and standard deviation of the condition latents, of which the released script draws samples."""
        mean, logvar = self.autoencoder.encode(images.to(self.dtype))
        return self.normalizer.normalize("rgb", mean.float()), (0.5 * logvar.float()).exp() / self.normalizer.std(
            "rgb"
        )[:, None, None]

    def encode_features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c y x"]:
        """What the frame encoder says of frames in [-1, 1]. Raises ConfigError if the model has none."""
        if not self.spec.encoder:
            raise ConfigError(f"The model {self.spec.name!r} has no frame encoder: it reads the frames' latents alone.")
        return self.frame_encoder(images)

    def encode_windows(
        self, frames: Float[Tensor, "b v 3 h w"]
    ) -> tuple[Float[Tensor, "b k v y x"], Float[Tensor, "b c v y x"] | None]:
        """Condition latents, and features if the model has an encoder, of windows of frames in [-1, 1]."""
        flat, shape = frames.flatten(0, 1), frames.shape[:2]
        condition = self.encode_rgb(flat).unflatten(0, shape).movedim(1, 2)
        if not self.spec.encoder:
            return condition, None
        return condition, self.encode_features(flat).unflatten(0, shape).movedim(1, 2)

    def decode_images(self, name: str, latents: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 3 h w"]:
        """Images of the denoiser's latents."""
        return self.autoencoder.decode(self.normalizer.denormalize(name, latents.float()).to(self.dtype)).float()

    def decode_points(
        self, latents: Float[Tensor, "n c y x"]
    ) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n h w"]]:
        """Point images and the Laplace scale sigma of every pixel, in units of the channels.

        1 without a point decoder.
        """
        if not self.spec.uncertainty_blocks:
            images = self.decode_images("points", latents)
            return images, torch.ones_like(images[:, 0])
        own = self.normalizer.denormalize("points", latents.float()).to(self.dtype)
        decoded = self.point_decoder.decode_with_uncertainty(own).float()
        return decoded[:, :3], softplus(decoded[:, 3]) + SIGMA_FLOOR

    def image_tokens(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k c"]:
        """What the image tower says of frames in [-1, 1]. Raises ConfigError if the model has no tower."""
        if not self.spec.per_frame:
            raise ConfigError(
                "This model was stored without its image tower; convert it again with --per-frame-images."
            )
        return self.image_tower(images.to(self.dtype))

    def frame_context(self, tokens: Float[Tensor, "b v k c"]) -> Float[Tensor, "b m c"]:
        """The context of windows whose frames have these image tokens.

        A short window counts as one that ends in a still.
        """
        frames = tokens.shape[1]
        still = tokens[:, -1:].expand(-1, self.resampler.video_length - frames, -1, -1)
        image = self.resampler(torch.cat([tokens, still], dim=1))[:, : IMAGE_TOKENS * frames]
        text = self.get_buffer("context")[:, :TEXT_TOKENS].expand(len(image), -1, -1)
        return torch.cat([text.to(image), image], dim=1)

    def constant_context(self, windows: int, frames: int) -> Float[Tensor, "b m c"]:
        """The context that is stored with the weights; a short window's frames get the tokens of their places."""
        return self.get_buffer("context")[:, : TEXT_TOKENS + IMAGE_TOKENS * frames].expand(windows, -1, -1)

    def unet_forward(
        self,
        x_t: Float[Tensor, "b c v y x"],
        condition: Float[Tensor, "b k v y x"],
        timesteps: Tensor,
        fps: Tensor | None,
        frame_index: Tensor | None,
        context: Float[Tensor, "b m d"] | None = None,
        features: Float[Tensor, "b f v y x"] | None = None,
    ) -> Float[Tensor, "b c v y x"]:
        """v, given noisy latents, the frames' own and their features; `context` defaults to the constant one.

        Raises ConfigError if features are missing where the model has a frame encoder, or given where it has none.
        """
        if (features is None) == bool(self.spec.encoder):
            wants = "needs the features of the frames (encode_features)" if self.spec.encoder else "reads no features"
            raise ConfigError(f"The model {self.spec.name!r} {wants}; got {'none' if features is None else 'some'}.")
        if context is None and self.spec.context_tokens:
            context = self.constant_context(len(x_t), x_t.shape[2])
        parts = [x_t, condition] if features is None else [x_t, condition, features]
        inputs = torch.cat([part.to(x_t.dtype) for part in parts], dim=1).to(self.dtype)
        context = None if context is None else context.to(self.dtype)
        return self.unet(inputs, timesteps, context, fps, frame_index)

    def denoiser(
        self,
        condition: Float[Tensor, "b k v y x"],
        fps: Tensor | None,
        frame_index: Tensor | None = None,
        context: Float[Tensor, "b m d"] | None = None,
        features: Float[Tensor, "b f v y x"] | None = None,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The function (x_t, timesteps) -> v of a batch of windows, for a sampler; in float32."""
        return lambda x_t, timesteps: self.unet_forward(
            x_t, condition, timesteps, fps, frame_index, context, features
        ).float()


def build_model(spec: ModelSpec, *, seed: int = 0) -> GeometryModel:
    """A model with random weights, the same for the same seed; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GeometryModel(spec)
