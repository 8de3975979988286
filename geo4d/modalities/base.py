"""What a modality is: geometry of a window <-> images in [-1, 1] that the autoencoder can carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from geo4d._typing import Float, Tensor
from geo4d.scene import Clip

Images = dict[str, Tensor]  # name of the image -> (b, v, 3, h, w)


@runtime_checkable
class Modality(Protocol):
    """Turns the geometry of windows into images and back; owns one latent per image."""

    name: str
    image_names: tuple[str, ...]

    def encode(self, clip: Clip) -> Images:
        """Images (b, v, 3, h, w) of a batch of windows, whose first frame is the frame of reference.

        Every pixel is sky or has a depth, be it that of its neighbour; `clip.valid` says where it is its own.
        """
        ...

    def decode(self, images: Mapping[str, Tensor], sigma: Float[Tensor, "b v h w"] | None) -> dict[str, Any]:
        """Fields of `WindowPredictions` from decoded images; `sigma` is the Laplace scale of the point image."""
        ...


def channels_first(image: Float[Tensor, "b v h w c"]) -> Float[Tensor, "b v c h w"]:
    """Geometry order to network order."""
    return image.movedim(-1, -3)


def channels_last(image: Float[Tensor, "b v c h w"]) -> Float[Tensor, "b v h w c"]:
    """Network order to geometry order."""
    return image.movedim(-3, -1)
