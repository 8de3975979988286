"""Reference vectors recorded from the released code at small widths, and the recipe of their weights and inputs.

Every tensor is PCG64 noise seeded by the crc32 of its name: x 0.05 for weights, 1 + that for the gains of norms.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geo4d.models.presets import PRESETS

DATA = Path(__file__).parent / "data" / "parity"

UNET = {  # the released configuration's names, the vectors' widths
    "in_channels": 20,
    "out_channels": 16,
    "model_channels": 64,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "dropout": 0.1,
    "num_head_channels": 32,
    "transformer_depth": 1,
    "context_dim": 64,
    "use_linear": True,
    "use_checkpoint": True,
    "temporal_conv": True,
    "temporal_attention": True,
    "temporal_selfatt_only": True,
    "use_relative_position": False,
    "use_causal_attention": False,
    "temporal_length": 16,
    "addition_attention": True,
    "image_cross_attention": True,
    "default_fs": 24,
    "fs_condition": True,
}
_DD = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "ch": 32,
    "num_res_blocks": 2,
    "attn_resolutions": [],
}
AUTOENCODER = {
    "embed_dim": 4,
    "ddconfig": {**_DD, "out_ch": 3, "ch_mult": [1, 2, 4, 4], "dropout": 0.0},
    "adaptorconfig": {**_DD, "out_ch": 1, "ch_mult": [1], "num_res_blocks": 1, "dropout": 0.0},
}
RESAMPLER = {
    "dim": 64,
    "depth": 2,
    "dim_head": 32,
    "heads": 3,
    "num_queries": 16,
    "embedding_dim": 64,
    "output_dim": 64,
    "ff_mult": 4,
    "video_length": 16,
}
CLIP = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 3, "width": 64, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3},
}
PARTS: dict[str, tuple[dict[str, Any], str]] = {  # configuration, name in keys_small.json
    "unet": (UNET, "unet"),
    "autoencoder": (AUTOENCODER, "vae"),
    "resampler": (RESAMPLER, "resampler"),
    "text_tower": (CLIP, "clip_text"),
    "image_tower": (CLIP, "clip_image"),
}
SPEC = replace(  # of the whole model
    PRESETS["geo4d"],
    unet={"model_channels": 64, "num_head_channels": 32, "context_dim": 64},
    autoencoder={"block_out_channels": (32, 64, 128, 128)},
    towers={
        "text": {"width": 64, "layers": 3, "heads": 4},
        "image": {"width": 64, "layers": 3, "heads": 4},
        "resampler": RESAMPLER,
    },
    base_size=(64, 128),
    sizes=((64, 128), (128, 192)),
)


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of one reference file."""
    with np.load(DATA / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def keys(part: str) -> dict[str, list[int]]:
    """Names and shapes of the released part's tensors at the vectors' small widths."""
    return json.loads((DATA / "keys_small.json").read_text())[part]


def manifest(section: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published "model" or "pointmap_vae"."""
    return {
        key: tuple(entry[0]) for key, entry in json.loads((DATA / "manifest_full.json").read_text())[section].items()
    }


def noise(tag: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal input of a tag, float32."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(tag.encode())))
    return np.asarray(generator.standard_normal(shape)).astype(np.float32)


def weights(shapes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The vectors' weights for keys and shapes."""
    result = {}
    for key, shape in shapes.items():
        generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
        value = (np.asarray(generator.standard_normal(tuple(shape))) * 0.05).astype(np.float32)
        if len(shape) == 1 and key.endswith("weight"):
            value = (value + np.float32(1)).astype(np.float32)
        result[key] = torch.from_numpy(np.ascontiguousarray(value)).reshape(tuple(shape))
    return result


@lru_cache(maxsize=1)
def whole_model() -> dict[str, torch.Tensor]:
    """What `state_dict` of a released model.ckpt would hold at the vectors' widths."""
    buffers = {key: torch.from_numpy(value) for key, value in load("schedule_buffers").items()}
    return {**weights(keys("latent_visual_diffusion")), **buffers}


@lru_cache(maxsize=1)
def whole_vae() -> dict[str, torch.Tensor]:
    """What `state_dict` of the vae.ckpt that belongs to it would hold."""
    named = weights({f"pointmap_vae.{key}": shape for key, shape in keys("vae").items()})
    return {key.replace("pointmap_vae.", "model.", 1): value for key, value in named.items()}
