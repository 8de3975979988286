"""Parts of the released model by their released names, and the whole chain of them against a recorded run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from parity import keys, load, noise, weights

from geo4d.diffusion.sampler import ddim
from geo4d.diffusion.schedule import make_schedule
from geo4d.errors import CheckpointError, ConfigError
from geo4d.models.checkpoint import load_part
from geo4d.models.conditioner import PROMPT, tokenize
from geo4d.models.latents import SD_SCALE_FACTOR

UNET = {
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
AUTOENCODER = {
    "embed_dim": 4,
    "ddconfig": {"double_z": True, "z_channels": 4, "ch": 32, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": []},
    "adaptorconfig": {"ch": 32, "ch_mult": [1], "num_res_blocks": 1, "out_ch": 1},
}
RESAMPLER = {"dim": 64, "depth": 2, "dim_head": 32, "heads": 3, "num_queries": 16, "embedding_dim": 64, "output_dim": 64, "ff_mult": 4}
CLIP = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 3, "width": 64, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3},
}
PARTS: dict[str, tuple[dict[str, Any], str, str]] = {  # configuration, name in keys_small.json, prefix in the whole model
    "unet": (UNET, "unet", "model.diffusion_model."),
    "autoencoder": (AUTOENCODER, "vae", "first_stage_model."),
    "point_decoder": (AUTOENCODER, "vae", "pointmap_vae."),
    "resampler": (RESAMPLER, "resampler", "image_proj_model."),
    "text_tower": (CLIP, "clip_text", "cond_stage_model."),
    "image_tower": (CLIP, "clip_image", "embedder."),
}


def whole_model_part(part: str) -> Any:
    """The part with the weights that the recipe gives its tensors under their names in the whole model."""
    config, name, prefix = PARTS[part]
    state = weights({prefix + key: shape for key, shape in keys(name).items()})
    return load_part(part, config, {key.removeprefix(prefix): value for key, value in state.items()})


def test_sampling_run_is_the_released_one() -> None:
    recorded = load("ddim_runs")["S5_cfg1"]
    unet = whole_model_part("unet")
    context, concat = (torch.from_numpy(noise(t, s)) for t, s in [("ddim.context", (1, 333, 64)), ("ddim.concat", (1, 4, 16, 8, 16))])
    start = torch.from_numpy(noise("ddim.xT", (1, 16, 16, 8, 16)))
    with torch.no_grad():
        out = ddim(
            lambda x, t: unet(torch.cat([x, concat], dim=1), t, context, torch.tensor([24])),
            start,
            make_schedule(dynamic_rescale=True),
            steps=5,
            compat="released",
        )
    out = out if recorded.shape[2] == 16 else out[:, :, ::5]  # only every fifth frame is kept
    assert np.abs(out.numpy() - recorded).max() < 1e-4 * np.abs(recorded).max()


def test_video_to_images_is_the_released_chain() -> None:
    """Autoencoder, context, sampler and decoders, one after the other, from a video to the 11 output channels."""
    recorded = load("e2e")
    y, x, t = torch.meshgrid(torch.arange(64.0), torch.arange(128.0), torch.arange(16.0), indexing="ij")
    waves = [torch.sin(y / 7 + x / 11 + t / 5), torch.cos(y / 13 - x / 9 + t / 3), torch.sin(x / 8) * torch.cos(y / 6 - t / 4)]
    frames = torch.stack(waves).permute(3, 0, 1, 2)  # (v, 3, h, w)
    with torch.no_grad():
        mean, logvar = (autoencoder := whole_model_part("autoencoder")).encode(frames)
        posterior = torch.from_numpy(noise("e2e.posterior", (16, 4, 8, 16)))
        condition = ((mean + (logvar / 2).exp() * posterior) * SD_SCALE_FACTOR).transpose(0, 1)[None]
        np.testing.assert_allclose(condition[0].transpose(0, 1).numpy(), recorded["z_cond"], atol=1e-4)
        text = whole_model_part("text_tower")(tokenize(PROMPT))
        tokens = whole_model_part("image_tower")(torch.zeros(1, 3, 64, 128))
        context = torch.cat([text, whole_model_part("resampler")(tokens)], dim=1)
        np.testing.assert_allclose(context.numpy(), recorded["context"].astype(np.float32), atol=2e-4)
        unet = whole_model_part("unet")
        latents = ddim(
            lambda x_t, t: unet(torch.cat([x_t, condition], dim=1), t, context, torch.tensor([24])),
            torch.from_numpy(noise("e2e.xT", (1, 16, 16, 8, 16))),
            make_schedule(dynamic_rescale=True),
            steps=5,
            compat="released",
        )
        pair = latents[0, :, [0, 9]].transpose(0, 1) / SD_SCALE_FACTOR  # frames 0 and 9
        points = whole_model_part("point_decoder").decode_with_uncertainty(pair[:, :4])
        others = [autoencoder.decode(pair[:, i : i + 4]) for i in (4, 8, 12)]
    out = torch.cat([points, others[0], others[1], others[2].mean(dim=1, keepdim=True)], dim=1).numpy()
    expected = recorded["out_frames_0_9"][0].transpose(1, 0, 2, 3)
    out = out if expected.shape == out.shape else out[..., ::4, ::4]  # only every fourth pixel is kept
    assert np.abs(out - expected).max() < 1e-3 * np.abs(expected).max()


def test_wrong_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="no part 'vae'"):
        load_part("vae", {}, {})
    with pytest.raises(CheckpointError, match="do not fit: 29 missing"):
        load_part("resampler", RESAMPLER, {})
    with pytest.raises(ConfigError, match="does not have the released names"):
        load_part("resampler", {"width": 3}, {})
    with pytest.raises(CheckpointError, match="lack 'text_cfg'"):
        load_part("text_tower", {}, {})
