"""Where each of our tensors lies in a released checkpoint, by explicit rules, and what such a checkpoint holds besides.

U-Net and query transformer have the released names. Autoencoder and towers are built from diffusers and transformers,
whose names differ; attention projections are 1x1 convolutions there, and the towers keep q, k and v in one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from geo4d._typing import Tensor

PREFIXES = {  # of the parts in a whole checkpoint
    "unet": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "text_tower": "cond_stage_model.",
    "image_tower": "embedder.",
    "resampler": "image_proj_model.",
}
BUFFERS = frozenset(  # the noise schedule, which is made anew from its constants
    """betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod
    log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance
    posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2 scale_arr""".split()
)
NOT_STORED = frozenset(  # made by the constructors; older libraries stored some of them
    "lvlb_weights logvar embedder.mean embedder.std cond_stage_model.model.attn_mask embedder.model.attn_mask".split()
)
QKV = ("q", "k", "v")


@dataclass(frozen=True)
class Source:
    """The released tensor that one of ours comes from: the whole of it, or one of three equal parts of its rows."""

    key: str
    part: int | None = None
    is_convolution: bool = False  # 1x1, a linear layer here

    def shape(self, ours: torch.Size) -> tuple[int, ...]:
        """The shape of the released tensor, given our tensor's."""
        rows = ours[0] * 3 if self.part is not None else None
        return (*(ours if rows is None else (rows, *ours[1:])), *((1, 1) if self.is_convolution else ()))

    def take(self, released: Tensor) -> Tensor:
        """Our tensor, as a view of the released one."""
        if self.part is not None:
            return released.chunk(3)[self.part]
        return released.flatten(1) if self.is_convolution else released


Table = dict[str, Source]


def sources(part: str, own: Iterable[str], *, levels: int = 4) -> Table:
    """For each of a part's own names where it lies, without the part's prefix; `levels` are the autoencoder's."""
    rules = {
        "autoencoder": lambda key: _autoencoder(key, levels),
        "text_tower": _text_tower,
        "image_tower": _image_tower,
    }
    rule = rules.get(part, Source)
    return {key: rule(key) for key in own}


def unused(part: str, *, text_layers: int = 24) -> str:
    """A pattern of the names that a released part holds and no computation reads (compat 1)."""
    return {
        "unet": r"(?!)",
        "resampler": r"(?!)",
        "autoencoder": r"encoder_adaptor\..+|decoder_adaptor\..+|loss\..+",
        "text_tower": rf"model\.(text_projection|logit_scale|attn_mask|transformer\.resblocks\.{text_layers - 1}\..+)",
        "image_tower": (
            r"model\.(token_embedding\.weight|positional_embedding|text_projection|ln_final\..+|logit_scale|attn_mask)"
            r"|model\.visual\.proj"
        ),
    }[part]


def gather(table: Mapping[str, Source], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released tensors that a part's own make up: the inverse of reading by `table`."""
    result: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for ours, source in table.items():
        value = state[ours]
        if source.part is not None:
            thirds.setdefault(source.key, {})[source.part] = value
        else:
            result[source.key] = value[..., None, None] if source.is_convolution else value
    return {**result, **{key: torch.cat([parts[i] for i in range(3)]) for key, parts in thirds.items()}}


_AUTOENCODER = (  # ours -> released, applied in turn
    (r"\bmid_block\.resnets\.0\.", "mid.block_1."),
    (r"\bmid_block\.resnets\.1\.", "mid.block_2."),
    (r"\bmid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
    (r"\bmid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
    (r"\bmid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"\bdown_blocks\.(\d+)\.resnets\.(\d+)\.", r"down.\1.block.\2."),
    (r"\bdown_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"\bup_blocks\.(\d+)\.resnets\.(\d+)\.", r"up.\1.block.\2."),
    (r"\bup_blocks\.(\d+)\.upsamplers\.0\.", r"up.\1.upsample."),
    (r"\bconv_shortcut\.", "nin_shortcut."),
    (r"coder\.conv_norm_out\.", "coder.norm_out."),
    (r"^uncertainty\.blocks\.", "decoder_adaptor.up.0.block."),
    (r"^uncertainty\.", "decoder_adaptor."),
)
_BLOCK = {  # of a tower's transformer, ours -> released
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TEXT = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
}
_IMAGE = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm": "ln_pre",  # transformers' spelling
    "post_layernorm": "ln_post",
}


def _autoencoder(key: str, levels: int) -> Source:
    # the released decoder numbers its levels from the finest, diffusers' from the coarsest
    released = re.sub(r"^(decoder\.up_blocks\.)(\d+)", lambda m: f"{m[1]}{levels - 1 - int(m[2])}", key)
    for pattern, replacement in _AUTOENCODER:
        released = re.sub(pattern, replacement, released)
    return Source(released, is_convolution=bool(re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", released)))


def _text_tower(key: str) -> Source:
    return _tower(key, _TEXT, "model.")


def _image_tower(key: str) -> Source:
    return _tower(key, _IMAGE, "model.visual.")


def _tower(key: str, outside: Mapping[str, Any], prefix: str) -> Source:
    name = key.removeprefix("model.")
    if block := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        number, layer, kind = block.groups()
        start = f"{prefix}transformer.resblocks.{number}."
        if projection := re.fullmatch(r"self_attn\.([qkv])_proj", layer):
            return Source(f"{start}attn.in_proj_{kind}", part=QKV.index(projection[1]))
        return Source(f"{start}{_BLOCK[layer]}.{kind}")
    for ours, released in outside.items():
        if name == ours or name.startswith(ours + "."):
            return Source(prefix + released + name.removeprefix(ours))
    raise KeyError(key)
