"""The shapes of our models; a preset's numbers are stored with its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ModelSpec:
    """Everything that is needed to build a model and to use it as it was trained."""

    name: str
    unet: dict[str, Any]
    autoencoder: dict[str, Any]
    modalities: tuple[str, ...] = ("points", "rays", "disparity")
    image_names: tuple[str, ...] = ("points", "ray_direction", "ray_moment", "disparity")  # one latent each
    points_normalization: Literal["minmax", "asinh", "mean"] = "minmax"
    uncertainty_blocks: int = 2  # of the point decoder; 0: there is none, and points are decoded like every image
    window_length: int = 16
    sampler: Literal["one_step", "ddim"] = "ddim"
    steps: int = 5
    dynamic_rescale: bool = True
    sampler_compat: Literal["exact", "released"] = "exact"  # DDIM's arithmetic (compat 4)
    context_tokens: int = 0  # of a constant context that is stored with the weights; 0: the U-Net has its own
    per_frame: bool = False  # every frame's own image tokens take the place of the constant ones (method 3)
    towers: dict[str, Any] = field(default_factory=dict)  # of the `Conditioner`; none: ViT-H/14 as released
    encoder: dict[str, Any] = field(default_factory=dict)  # of frames, for `build_encoder`; none: there is none
    base_size: tuple[int, int] = (320, 512)  # (height, width): where the latent statistics live
    sizes: tuple[tuple[int, int], ...] = field(default=((320, 512),))  # working resolutions
    error_scale: float = (
        1.0  # true by expected errors of depth on validation clips: what all windows get wrong alike does not show
    )

    @property
    def latent_channels(self) -> int:
        """Channels of the latent of one image; files that do not say mean 4."""
        return self.autoencoder.get("latent_channels", 4)

    @property
    def feature_channels(self) -> int:
        """Channels of the frames' features that the U-Net reads beside the latents; 0 without an encoder."""
        return self.encoder["channels"] if self.encoder else 0


SMALL_AUTOENCODER = {
    "block_out_channels": (32, 64, 96),
    "layers_per_block": 1,
    "norm_groups": 16,
    "mid_attention": False,
    "patch_size": 2,
    "pca_skip": True,
}
SMALL_ENCODER = {  # DINOv2 ViT-S/14
    "kind": "dinov2",
    "layers": (3, 6, 9, 12),
    "channels": 128,
    "config": {"hidden_size": 384, "num_attention_heads": 6, "mlp_ratio": 4, "image_size": 518, "patch_size": 14},
}
SMALL_UNET = {
    "in_channels": 4 * 16 + 16 + 128,  # latents of four images and of the frame, and its features
    "out_channels": 4 * 16,
    "model_channels": 64,  # 96 and (1, 2, 2) would make a file of 64 MiB and steps half as slow again
    "channel_mult": (1, 2, 3),
    "num_res_blocks": 1,
    "attention_resolutions": (2, 4),
    "num_head_channels": 32,
    "context_dim": 64,
    "dropout": 0.0,
    "temporal_conv_layers": 1,
    "ff_mult": 2,
    "frame_index_embedding": True,
    "coordinate_channels": True,
    "space_time_resolutions": (2, 4),
    "learned_context_tokens": 4,
    "image_cross_attention": False,
    "addition_attention": False,
    "frame_head_width": 160,
}

PRESETS = {
    "geo4d": ModelSpec(
        name="geo4d",
        unet={},
        autoencoder={},
        sampler_compat="released",
        context_tokens=77 + 256,
        sizes=((384, 512), (320, 512), (256, 576), (192, 640)),
    ),
    "dynamicrafter": ModelSpec(  # predicts frames, no geometry: where training of the full model starts
        name="dynamicrafter",
        unet={"in_channels": 8, "out_channels": 4},
        autoencoder={},
        modalities=(),
        image_names=("video",),
        uncertainty_blocks=0,
        sampler_compat="released",
        context_tokens=77 + 256,
    ),
    "small": ModelSpec(
        name="small",
        unet=SMALL_UNET,
        autoencoder={**SMALL_AUTOENCODER, "latent_channels": 16},
        points_normalization="asinh",
        uncertainty_blocks=1,
        sampler="one_step",
        dynamic_rescale=False,
        encoder=SMALL_ENCODER,
        base_size=(144, 192),
        sizes=((144, 192), (128, 192), (112, 192), (144, 144), (192, 144), (192, 112)),
    ),
    "tiny": ModelSpec(
        name="tiny",
        unet={
            **SMALL_UNET,
            "in_channels": 4 * 4 + 4 + 8,
            "out_channels": 4 * 4,
            "model_channels": 32,
            "channel_mult": (1, 1),
            "attention_resolutions": (2,),
            "context_dim": 8,
            "frame_head_width": 32,
            "frame_head_blocks": 1,
        },
        autoencoder={**SMALL_AUTOENCODER, "block_out_channels": (8, 8, 8), "norm_groups": 4},
        points_normalization="asinh",
        uncertainty_blocks=1,
        sampler="one_step",
        dynamic_rescale=False,
        encoder={
            "kind": "dinov2",
            "layers": (1, 2),
            "channels": 8,
            "config": {"hidden_size": 16, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 56, "patch_size": 14},
        },
        base_size=(32, 48),
        sizes=((32, 48), (48, 32)),
    ),
}
