"""Names of the released checkpoint's tensors for the parts that are built from diffusers and transformers.

U-Net and query transformer need none of this: their state-dict keys are the released ones. The keys here are a part's own,
without the prefix it has in the whole checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from geo4d._typing import Tensor
from geo4d.errors import CheckpointError, ConfigError
from geo4d.models.autoencoder import Autoencoder, PointDecoder
from geo4d.models.conditioner import ImageTower, TextTower, TowerConfig
from geo4d.models.resampler import Resampler
from geo4d.models.unet import VideoUNet

Part = tuple[nn.Module, dict[str, Tensor]]  # a module and the state that belongs into it

_AUTOENCODER = (  # applied in turn
    (r"\bmid\.block_1\.", "mid_block.resnets.0."),
    (r"\bmid\.block_2\.", "mid_block.resnets.1."),
    (r"\bmid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
    (r"\bmid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
    (r"\bmid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"\bdown\.(\d+)\.block\.(\d+)\.", r"down_blocks.\1.resnets.\2."),
    (r"\bdown\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
    (r"\bup\.(\d+)\.block\.(\d+)\.", r"up_blocks.\1.resnets.\2."),
    (r"\bup\.(\d+)\.upsample\.", r"up_blocks.\1.upsamplers.0."),
    (r"\bnin_shortcut\.", "conv_shortcut."),
    (r"coder\.norm_out\.", "coder.conv_norm_out."),
)
_BLOCK = (
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)


def load_part(part: str, config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """One part of the released model, in evaluation mode, from its released configuration and tensors.

    `part` is "unet", "autoencoder", "point_decoder" (same configuration and keys as the autoencoder), "resampler",
    "text_tower" or "image_tower" (open_clip's model configuration). Raises ConfigError for another part or an option that is
    not built, CheckpointError if the tensors are not exactly those the configuration asks for.
    """
    if part not in _PARTS:
        raise ConfigError(f"There is no part {part!r} in the released model; give one of {', '.join(_PARTS)}.")
    try:
        module, state = _PARTS[part](config, state_dict)
    except KeyError as error:
        raise CheckpointError(f"The {part}'s configuration or tensors lack {error}; give those of the same release.") from error
    except TypeError as error:
        raise ConfigError(f"The {part}'s configuration does not have the released names ({error}).") from error
    own = module.state_dict()
    wrong = sorted(set(own) ^ set(state)) or [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        raise CheckpointError(f"The {part}'s tensors do not fit: {len(wrong)} missing, left over or of another shape: {wrong[:10]}.")
    module.load_state_dict(state)
    return module.eval()


def _unet(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Part:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return VideoUNet(**options), dict(state)


def _resampler(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Part:
    return Resampler(**config), dict(state)


def _autoencoder(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Part:
    shape = _autoencoder_shape(config)
    return Autoencoder(**shape), autoencoder_state(state, levels=len(shape["block_out_channels"]))


def _point_decoder(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Part:
    shape = _autoencoder_shape(config)
    blocks = config["adaptorconfig"]["num_res_blocks"] + 1
    return PointDecoder(**shape, uncertainty_blocks=blocks), point_decoder_state(state, levels=len(shape["block_out_channels"]))


def _text_tower(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Part:
    text = config["text_cfg"]
    tower = TowerConfig(
        width=text["width"],
        layers=text["layers"],
        heads=text["heads"],
        context_length=text.get("context_length", 77),
        vocab_size=text.get("vocab_size", 49408),
    )
    return TextTower(tower), text_tower_state(state, layers=tower.layers)


def _image_tower(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Part:
    vision = config["vision_cfg"]
    width = vision["width"]
    tower = TowerConfig(
        width=width,
        layers=vision["layers"],
        heads=width // vision.get("head_width", 64),
        image_size=vision.get("image_size", 224),
        patch_size=vision["patch_size"],
        mlp_ratio=vision.get("mlp_ratio", 4.0),
    )
    return ImageTower(tower), image_tower_state(state, layers=tower.layers)


def _autoencoder_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    dd = config["ddconfig"]
    if list(dd.get("attn_resolutions", [])) or dd["z_channels"] != 4:
        raise ConfigError("The autoencoder has 4 latent channels and attention in its middle only; got another ddconfig.")
    return {
        "block_out_channels": tuple(dd["ch"] * multiple for multiple in dd["ch_mult"]),
        "layers_per_block": dd["num_res_blocks"],
    }


_PARTS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], Part]] = {
    "unet": _unet,
    "autoencoder": _autoencoder,
    "point_decoder": _point_decoder,
    "resampler": _resampler,
    "text_tower": _text_tower,
    "image_tower": _image_tower,
}


def autoencoder_state(released: Mapping[str, Tensor], *, levels: int = 4) -> dict[str, Tensor]:
    """State of an `Autoencoder` from the released keys; adaptors (of point maps only) are left out."""
    kept = {key: value for key, value in released.items() if "_adaptor." not in key}
    return {_autoencoder_key(key, levels): _linear(key, value) for key, value in kept.items()}


def point_decoder_state(released: Mapping[str, Tensor], *, levels: int = 4) -> dict[str, Tensor]:
    """State of a `PointDecoder` from the released keys: the decoder, and the uncertainty branch from `decoder_adaptor`."""
    result = {}
    for key, value in released.items():
        if key.startswith(("decoder.", "post_quant_conv.")):
            result[_autoencoder_key(key, levels)] = _linear(key, value)
        elif key.startswith("decoder_adaptor."):
            name = re.sub(r"^decoder_adaptor\.(up\.0\.block\.(?=\d))?", lambda m: "uncertainty." + ("blocks." if m[1] else ""), key)
            result[name] = value
    return result


def text_tower_state(released: Mapping[str, Tensor], *, layers: int) -> dict[str, Tensor]:
    """State of a `TextTower` from open_clip's keys (`model.*`); the last of `layers` blocks is not used."""
    result = {
        "model.embeddings.token_embedding.weight": released["model.token_embedding.weight"],
        "model.embeddings.position_embedding.weight": released["model.positional_embedding"],
        "model.final_layer_norm.weight": released["model.ln_final.weight"],
        "model.final_layer_norm.bias": released["model.ln_final.bias"],
    }
    return {**result, **_blocks(released, "model.transformer.resblocks.", layers - 1)}


def image_tower_state(released: Mapping[str, Tensor], *, layers: int) -> dict[str, Tensor]:
    """State of an `ImageTower` from open_clip's keys (`model.visual.*`)."""
    visual = "model.visual."
    result = {
        "model.embeddings.class_embedding": released[visual + "class_embedding"],
        "model.embeddings.patch_embedding.weight": released[visual + "conv1.weight"],
        "model.embeddings.position_embedding.weight": released[visual + "positional_embedding"],
        "model.pre_layrnorm.weight": released[visual + "ln_pre.weight"],  # transformers' spelling
        "model.pre_layrnorm.bias": released[visual + "ln_pre.bias"],
        "model.post_layernorm.weight": released[visual + "ln_post.weight"],
        "model.post_layernorm.bias": released[visual + "ln_post.bias"],
    }
    return {**result, **_blocks(released, visual + "transformer.resblocks.", layers)}


def _blocks(released: Mapping[str, Tensor], prefix: str, layers: int) -> dict[str, Tensor]:
    result = {}
    for i in range(layers):
        source, target = f"{prefix}{i}.", f"model.encoder.layers.{i}."
        for kind in ("weight", "bias"):
            for theirs, ours in _BLOCK:
                result[f"{target}{ours}{kind}"] = released[f"{source}{theirs}{kind}"]
            parts = released[f"{source}attn.in_proj_{kind}"].chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                result[f"{target}self_attn.{name}_proj.{kind}"] = part
    return result


def _autoencoder_key(key: str, levels: int) -> str:
    # the released decoder numbers its levels from the finest, diffusers' from the coarsest
    key = re.sub(r"^(decoder\.up\.)(\d+)", lambda m: f"{m[1]}{levels - 1 - int(m[2])}", key)
    for pattern, replacement in _AUTOENCODER:
        key = re.sub(pattern, replacement, key)
    return key


def _linear(key: str, value: Tensor) -> Tensor:
    """Attention projections are 1x1 convolutions in the checkpoint and linear layers here."""
    return value.flatten(1) if ".attn_1." in key and value.ndim == 4 else value
