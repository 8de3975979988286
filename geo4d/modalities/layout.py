"""Which modalities a model predicts, in which order, and in which latent channels: the only place that knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from geo4d._typing import Float, Tensor
from geo4d.errors import ConfigError
from geo4d.modalities.base import Images, Modality
from geo4d.modalities.disparity import DisparityModality
from geo4d.modalities.holes import without_holes
from geo4d.modalities.points import Normalization, PointsModality
from geo4d.modalities.rays import RaysModality
from geo4d.scene import Clip

ORDER = ("points", "rays", "disparity")


@dataclass(frozen=True)
class Layout:
    """The modalities of a model, side by side in one latent video."""

    modalities: tuple[Modality, ...]
    image_channels: int = 4  # of the latent of one image

    @property
    def image_names(self) -> tuple[str, ...]:
        """One name per group of `image_channels` latent channels, in order."""
        return tuple(name for modality in self.modalities for name in modality.image_names)

    @property
    def latent_channels(self) -> int:
        """Channels of the whole latent video."""
        return self.image_channels * len(self.image_names)

    def split(self, latents: Float[Tensor, "b c v y x"]) -> dict[str, Tensor]:
        """The latent (b, image_channels, v, y, x) of each image."""
        return dict(zip(self.image_names, latents.split(self.image_channels, dim=1), strict=True))

    def join(self, latents: Mapping[str, Tensor]) -> Float[Tensor, "b c v y x"]:
        """The inverse of `split`."""
        return torch.cat([latents[name] for name in self.image_names], dim=1)

    def encode(self, clip: Clip) -> Images:
        """All images (b, v, 3, h, w) of a batch of windows.

        Holes are shown with the depth beside them (see `without_holes`).
        """
        whole = without_holes(clip)
        return {name: image for modality in self.modalities for name, image in modality.encode(whole).items()}

    def decode(self, images: Mapping[str, Tensor], sigma: Float[Tensor, "b v h w"] | None = None) -> dict[str, Any]:
        """Fields of `WindowPredictions` from all decoded images (b, v, 3, h, w) and the point image's Laplace scale."""
        return {key: value for modality in self.modalities for key, value in modality.decode(images, sigma).items()}


def make_layout(
    names: tuple[str, ...] = ORDER, *, normalization: Normalization = "minmax", image_channels: int = 4
) -> Layout:
    """The layout of the named modalities, in the order of the latent slots (method 2) whatever the order of `names`.

    Raises ConfigError for a name that is unknown, repeated or when there is none.
    """
    known: dict[str, Any] = {
        "points": PointsModality(normalization),
        "rays": RaysModality(normalization),
        "disparity": DisparityModality(),
    }
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) != len(names):
        raise ConfigError(f"modalities must be distinct names out of {', '.join(ORDER)}; got {list(names)}.")
    return Layout(tuple(known[name] for name in ORDER if name in names), image_channels)
