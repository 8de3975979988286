"""The global condition: text and image tokens of CLIP ViT-H/14 (method 3, compat 3).

The prompt is one constant sentence and the released configuration feeds one zero image, so the context of a window is a
constant of the checkpoint: compute it once with `Conditioner.constant_context`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import geo4d.models._torchvision  # noqa: F401  (before transformers and kornia)
from geo4d._typing import Float, Int, Tensor
from geo4d.models.resampler import Resampler

PROMPT = "Output a video that assigns each 3D location in the world a consistent color."
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TowerConfig:
    """Shape of one CLIP tower; `layers` counts those of the checkpoint."""

    width: int
    layers: int
    heads: int
    image_size: int = 224
    patch_size: int = 14
    context_length: int = 77
    vocab_size: int = 49408
    mlp_ratio: float = 4.0


TEXT_VIT_H = TowerConfig(width=1024, layers=24, heads=16)
IMAGE_VIT_H = TowerConfig(width=1280, layers=32, heads=16)
_TOWERS = {"text": TEXT_VIT_H, "image": IMAGE_VIT_H}


class TextTower(nn.Module):
    """Text tokens after the last block but one and the final norm; not pooled, not projected."""

    def __init__(self, config: TowerConfig = TEXT_VIT_H) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        self.layers = config.layers
        self.model = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=config.vocab_size,
                max_position_embeddings=config.context_length,
                num_hidden_layers=config.layers - 1,  # the last block's output is not used
                **_shape(config),
            )
        )

    def forward(self, token_ids: Int[Tensor, "b k"]) -> Float[Tensor, "b k c"]:
        """Tokens of the text; causal, padding included."""
        return self.model(input_ids=token_ids).last_hidden_state


class ImageTower(nn.Module):
    """All tokens of an image after the last block, class token first; no final norm, no projection."""

    def __init__(self, config: TowerConfig = IMAGE_VIT_H) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel

        self.size = config.image_size
        self.model = CLIPVisionModel(
            CLIPVisionConfig(
                image_size=config.image_size,
                patch_size=config.patch_size,
                num_hidden_layers=config.layers,
                **_shape(config),
            )
        )

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k c"]:
        """Tokens of images in [-1, 1] of any size."""
        return self.model(pixel_values=preprocess(images, self.size)).last_hidden_state


class Conditioner(nn.Module):
    """Text tower, image tower and query transformer: the context of the U-Net's cross attention."""

    def __init__(self, text: TowerConfig = TEXT_VIT_H, image: TowerConfig = IMAGE_VIT_H, **resampler: int) -> None:
        super().__init__()
        self.text_tower = TextTower(text)
        self.image_tower = ImageTower(image)
        self.resampler = Resampler(**resampler)

    @classmethod
    def from_spec(cls, towers: Mapping[str, Any]) -> Conditioner:
        """By the `towers` of a ModelSpec.

        {"text": {...}, "image": {...}, "resampler": {...}}, each of them optional.
        """
        text, image = (TowerConfig(**towers[name]) if name in towers else default for name, default in _TOWERS.items())
        return cls(text, image, **towers.get("resampler", {}))

    def forward(self, token_ids: Int[Tensor, "b k"], images: Tensor) -> Float[Tensor, "b m c"]:
        """Context of the text and of one image (b, 3, h, w) or of every frame (b, v, 3, h, w), in [-1, 1]."""
        frames = images.flatten(0, -4)
        tokens = self.image_tower(frames).unflatten(0, images.shape[:-3])
        return torch.cat([self.text_tower(token_ids), self.resampler(tokens)], dim=1)

    @torch.no_grad()
    def constant_context(self, prompt: str = PROMPT) -> Float[Tensor, "1 m c"]:
        """The released configuration's context: the prompt and a zero image."""
        device = self.resampler.latents.device
        grey = torch.zeros(1, 3, self.image_tower.size, self.image_tower.size, device=device)
        return self(tokenize(prompt).to(device), grey)


def number_positions(module: nn.Module) -> None:
    """Gives towers that were built without memory their position numbers, which no checkpoint stores."""
    for tower in module.modules():
        numbers = getattr(tower, "position_ids", None)
        if isinstance(numbers, Tensor) and numbers.is_meta:
            weight = next(tower.parameters())
            tower.position_ids = torch.arange(numbers.shape[-1], device=weight.device)[None]


def preprocess(images: Float[Tensor, "b 3 h w"], size: int = 224) -> Float[Tensor, "b 3 s s"]:
    """Images in [-1, 1] to the square the image tower reads: bicubic, antialiased, aspect not kept."""
    from kornia.geometry.transform import resize

    square = resize(images, (size, size), interpolation="bicubic", align_corners=True, antialias=True)
    mean = torch.tensor(CLIP_MEAN).to(images)[:, None, None]
    std = torch.tensor(CLIP_STD).to(images)[:, None, None]
    return ((square + 1) / 2 - mean) / std


def tokenize(*prompts: str) -> Int[Tensor, "b 77"]:
    """Token numbers of CLIP's vocabulary, with start and end marks, padded with zeros."""
    import open_clip

    return open_clip.tokenize(list(prompts))


def _shape(config: TowerConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "num_attention_heads": config.heads,
        "hidden_act": "gelu",
    }
