"""One more modality for a trained model: wider latents, nothing of what is learnt disturbed (method 4).

The U-Net reads [noisy latents, frames' latents]; a new image's latents take their place among the noisy ones. Weights
that read them start at zero, so every old output stays as it was; weights that write them start at zero too, so that
training begins at v = 0 and its first gradients reach the last layer alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from geo4d._typing import Tensor
from geo4d.errors import ConfigError
from geo4d.models.geometry_model import GeometryModel
from geo4d.models.unet import VideoUNet

FIRST = "input_blocks.0.0.weight"
LAST = ("out.2.weight", "out.2.bias", "frame_head.leave.2.weight", "frame_head.leave.2.bias")


def grow_unet(unet: VideoUNet, slots: Sequence[int | None], *, channels: int = 4) -> VideoUNet:
    """A U-Net whose image `i` (of so many latent channels) is the old one's image `slots[i]`, or a new one (None).

    Old weights are kept bit for bit. Raises ConfigError if an old image is left out or named twice.
    """
    old = unet.config.out_channels // channels
    kept = [slot for slot in slots if slot is not None]
    if sorted(kept) != list(range(old)):
        raise ConfigError(f"Growing keeps each of the {old} old images once; got {list(slots)}.")
    added = channels * (len(slots) - old)
    names = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    names |= {"in_channels": unet.config.in_channels + added, "out_channels": unet.config.out_channels + added}
    with torch.device("meta"):
        grown = VideoUNet(**names)
    state = {name: value.detach().clone() for name, value in unet.state_dict().items()}
    places = [None if slot is None else channels * slot + channel for slot in slots for channel in range(channels)]
    rest = list(
        range(unet.config.out_channels, state[FIRST].shape[1])
    )  # the frames' latents and features, and coordinates
    state[FIRST] = _take(state[FIRST].transpose(0, 1), [*places, *rest]).transpose(0, 1).contiguous()
    for name in (name for name in LAST if name in state):
        state[name] = _take(state[name], places)
    grown.load_state_dict(state, assign=True)
    return grown.train(unet.training)


def grow_model(
    model: GeometryModel, modalities: tuple[str, ...], image_names: tuple[str, ...], *, name: str | None = None
) -> GeometryModel:
    """The model with further modalities.

    `image_names` are those of all its images, old and new, in the order of the layout. From a model that predicts
    frames (DynamiCrafter's "video") the first geometry image takes the frames' place. The parts that do not grow are
    shared with the old model. New latents have the released statistics until they are fitted.
    """
    spec = model.spec
    old = {image: i for i, image in enumerate(spec.image_names)}
    if spec.image_names == ("video",):
        old = {image_names[0]: 0}
    grown_spec = replace(
        spec, name=name or spec.name, modalities=modalities, image_names=image_names, unet={**spec.unet}
    )
    unet = grow_unet(model.unet, [old.get(image) for image in image_names], channels=spec.latent_channels)
    grown_spec.unet.update(in_channels=unet.config.in_channels, out_channels=unet.config.out_channels)
    with torch.device("meta"):
        grown = GeometryModel(grown_spec)
    grown.unet = unet
    for part in ("autoencoder", "point_decoder", "image_tower", "resampler", "frame_encoder"):
        if hasattr(model, part):
            setattr(grown, part, getattr(model, part))
    if spec.context_tokens:
        grown.register_buffer("context", model.get_buffer("context").clone())
    grown.normalizer = model.normalizer.with_names(("rgb", *image_names))
    return grown.train(model.training)


def with_point_decoder(model: GeometryModel, blocks: int) -> GeometryModel:
    """The model with a new point decoder, which starts at the image decoder; its uncertainty branch starts at random.

    Without `blocks` it has none afterwards. The other parts are shared with the old model.
    """
    with torch.device("meta"):
        result = GeometryModel(replace(model.spec, uncertainty_blocks=blocks))
    for name, part in model.named_children():
        if name != "point_decoder":
            setattr(result, name, part)
    if blocks:
        result.point_decoder = model.autoencoder.make_decoder(uncertainty_blocks=blocks).to(model.device)
    for name, buffer in model.named_buffers(recurse=False):
        result.register_buffer(name, buffer)
    return result.train(model.training)


def _take(rows: Tensor, places: Sequence[int | None]) -> Tensor:
    """Rows of a tensor in a new order, zeros where there is none."""
    return torch.stack([torch.zeros_like(rows[0]) if place is None else rows[place] for place in places])
