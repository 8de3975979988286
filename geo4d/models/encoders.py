"""What a network that has seen many pictures says of each frame: features on the grid of the latents.

Frames are encoded one by one. The network is frozen: it is neither trained nor averaged, only stored with the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import interpolate

import geo4d.models._torchvision  # noqa: F401  (before transformers)
from geo4d._typing import Float, Tensor
from geo4d.errors import ConfigError
from geo4d.models.device import is_fast_in_bfloat16
from geo4d.models.eight_bit import rounded

PIXELS = 8  # of a frame, each way, that one latent stands for
COLOUR_MEAN, COLOUR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST_LAYERS = 100  # more are no description of a network but a mistake
SMALLEST_SPREAD = 1e-6  # of a component, beside the widest one's: what is narrower says nothing
# what of a Dinov2Config shapes the network or its numbers; the depth follows from the layers that are read
SHAPE = {
    "hidden_size",
    "num_attention_heads",
    "mlp_ratio",
    "image_size",
    "patch_size",
    "use_swiglu_ffn",
    "layer_norm_eps",
}
# names of recent versions of transformers -> those of the published files, which are ours too
RENAMED = {
    "attention.q_proj.": "attention.attention.query.",
    "attention.k_proj.": "attention.attention.key.",
    "attention.v_proj.": "attention.attention.value.",
    "attention.o_proj.": "attention.output.dense.",
}


class FrameEncoder(Protocol):
    """Frames in [-1, 1] to features on the grid of the latents."""

    channels: int

    def __call__(self, frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c y x"]:
        """Features (n, channels, h / 8, w / 8) in float32, without a gradient."""
        ...


class DinoEncoder(nn.Module):
    """DINOv2's hidden states of some layers, standardised and projected to `channels` components of unit variance.

    A frame is resized so that one patch of the network covers one latent. Weights of linear layers are such as 8 bits
    hold (`eight_bit`). Fresh, it has random weights and a random projection: see `load_encoder` and `fit`.
    """

    def __init__(self, layers: Sequence[int], channels: int, config: Mapping[str, Any]) -> None:
        """`config` holds fields of transformers' Dinov2Config. Raises ConfigError for channels that the layers lack."""
        super().__init__()
        from transformers import Dinov2Config, Dinov2Model

        self.layers, self.channels = tuple(layers), channels
        own = Dinov2Config(**config, num_hidden_layers=max(layers), use_mask_token=False)
        self.network = Dinov2Model(own)
        width = len(self.layers) * own.hidden_size
        if channels > width:
            raise ConfigError(f"The encoder's layers give {width} channels; got {channels} to project to.")
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.register_buffer("projection", torch.randn(width, channels) / width**0.5)
        self.round_weights()
        self.requires_grad_(requires_grad=False).eval()
        self.register_state_dict_post_hook(_to_published_names)
        self.register_load_state_dict_pre_hook(_from_published_names)

    def train(self, mode: bool = True) -> DinoEncoder:  # noqa: FBT001, FBT002  (torch's own signature)
        """Stays in evaluation mode, whatever the model around it is in."""
        del mode
        return super().train(mode=False)

    @torch.no_grad()
    def round_weights(self) -> None:
        """Moves linear layers' weights to the nearest that 8 bits hold, so that storing the model changes nothing."""
        for layer in self.network.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(rounded(layer.weight))

    @torch.no_grad()
    def forward(self, frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c y x"]:
        """Features (n, channels, h / 8, w / 8) in float32; h and w are multiples of 8."""
        y, x = frames.shape[-2] // PIXELS, frames.shape[-1] // PIXELS
        with torch.autocast(frames.device.type, enabled=False):
            standard = (
                self.hidden_states(frames).sub_(self.mean.float()).div_(self.std.float())
            )  # in place: they are large
            features = standard @ self.projection.float()
        return features.movedim(-1, 1).unflatten(-1, (y, x))

    @torch.no_grad()
    def hidden_states(self, frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k d"]:
        """The layers' hidden states of every latent, row by row and side by side, as they are; in float32."""
        patch = self.network.config.patch_size
        size = (frames.shape[-2] // PIXELS * patch, frames.shape[-1] // PIXELS * patch)
        dtype = self.computing_dtype()
        with torch.autocast(frames.device.type, enabled=False):
            pixels = interpolate(frames.float(), size=size, mode="bicubic", antialias=True)
            mean, std = (pixels.new_tensor(numbers)[:, None, None] for numbers in (COLOUR_MEAN, COLOUR_STD))
            pixels = ((pixels + 1) / 2 - mean) / std
            weights = {name: value.to(dtype) for name, value in self.network.named_parameters()}
            out = functional_call(self.network, weights, (pixels.to(dtype),), {"output_hidden_states": True})
        return torch.cat([out.hidden_states[layer][:, 1:].float() for layer in self.layers], dim=-1)

    def computing_dtype(self) -> torch.dtype:
        """That of the weights; bfloat16 on CPUs that compute in it: three times as fast, features move by 1 %."""
        own = self.network.dtype
        return torch.bfloat16 if own == torch.float32 and is_fast_in_bfloat16(self.mean.device) else own

    @torch.no_grad()
    def fit(self, states: Float[Tensor, "n d"]) -> None:
        """Standardisation and principal components of a sample of hidden states (n of them, d channels of all layers).

        Numbers are rounded to half precision, in which models are stored. Raises ConfigError for fewer than d.
        """
        if len(states) < states.shape[1]:
            raise ConfigError(
                f"A projection of {states.shape[1]} channels needs at least as many hidden states; got {len(states)}. "
                "Fit it on more frames."
            )
        mean = states.mean(dim=0, dtype=torch.float64).half()
        std = states.double().std(dim=0).clamp_min(SMALLEST_SPREAD).half().clamp_min(torch.finfo(torch.float16).tiny)
        standard = (states.double() - mean.double()) / std.double()
        values, vectors = torch.linalg.eigh(standard.mT @ standard / len(standard))  # ascending
        values, vectors = values.flip(0)[: self.channels], vectors.flip(1)[:, : self.channels]
        # a component's sign is arbitrary: its largest weight is positive
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()
        spread = values.clamp_min(SMALLEST_SPREAD * float(values[0])).sqrt()
        for buffer, value in ((self.mean, mean), (self.std, std), (self.projection, (vectors / spread).half())):
            buffer.copy_(value)


def build_encoder(spec: Mapping[str, Any]) -> DinoEncoder:
    """The encoder of a `ModelSpec`, with random weights. Raises ConfigError for a spec that describes none."""
    if set(spec) != {"kind", "layers", "channels", "config"} or spec["kind"] != "dinov2":
        raise ConfigError(f"A frame encoder is described by kind (dinov2), layers, channels and config; got {spec}.")
    layers, config = spec["layers"], spec["config"]
    counts = [*layers, spec["channels"]] if isinstance(layers, tuple) else []
    if len(counts) < 2 or any(type(count) is not int or count < 1 for count in counts) or max(layers) > MOST_LAYERS:
        raise ConfigError(
            f"An encoder's layers count from 1 to {MOST_LAYERS}, and its channels from 1; "
            f"got layers {layers}, channels {spec['channels']}."
        )
    unknown = sorted(set(config) - SHAPE)
    if unknown:
        raise ConfigError(f"An encoder has no setting {unknown[0]!r}; expected {', '.join(sorted(SHAPE))}.")
    return DinoEncoder(layers, spec["channels"], config)


def _published(name: str) -> str:
    for own, published in RENAMED.items():
        name = name.replace(own, published)
    return name


def _to_published_names(module: DinoEncoder, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}network.")]:
        state[_published(name)] = state.pop(name)


def _from_published_names(module: DinoEncoder, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name, _parameter in module.network.named_parameters(prefix=f"{prefix}network"):
        if name not in state and _published(name) in state:
            state[name] = state.pop(_published(name))
