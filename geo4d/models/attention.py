"""Attention and transformer blocks of the video U-Net; names of the parameters are the released checkpoint's."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from geo4d._typing import Float, Tensor

TEXT_TOKENS = 77  # the first of the context; the rest belongs to the image
IMAGE_TOKENS = 16  # of a frame
WRITTEN_OUT = 1 << 24  # weights of attention that are kept for a backward pass on a CPU


def attend(
    q: Float[Tensor, "n h s d"], k: Float[Tensor, "n h k d"], v: Float[Tensor, "n h k d"]
) -> Float[Tensor, "n h s d"]:
    """Scaled dot-product attention of all heads.

    The backward pass of torch's fused kernel is slow on CPUs: small attention that is trained there is written out
    instead, which takes a quarter off a training step of the small model (`benchmarks/training_speed.py`).
    """
    if q.device.type == "cpu" and q.requires_grad and q.shape[:-1].numel() * k.shape[-2] <= WRITTEN_OUT:
        weights = (q * q.shape[-1] ** -0.5 @ k.mT).float().softmax(dim=-1)
        return weights.to(v.dtype) @ v
    return scaled_dot_product_attention(q, k, v)


class CrossAttention(nn.Module):
    """Multi-head attention; with `image_branch` a second set of keys and values for the image tokens, added up."""

    def __init__(
        self, channels: int, context: int | None, heads: int, head_channels: int, *, image_branch: bool = False
    ) -> None:
        super().__init__()
        inner = heads * head_channels
        source = context or channels
        self.heads = heads
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(source, inner, bias=False)
        self.to_v = nn.Linear(source, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, channels), nn.Dropout(0.0))
        if image_branch:
            self.to_k_ip = nn.Linear(source, inner, bias=False)
            self.to_v_ip = nn.Linear(source, inner, bias=False)
        self.image_branch = image_branch

    def forward(
        self, x: Float[Tensor, "n s c"], context: Float[Tensor, "n k d"] | None = None
    ) -> Float[Tensor, "n s c"]:
        """Attends to `context`, or to `x` itself."""
        q = self._split(self.to_q(x))
        text = x if context is None else context[:, :TEXT_TOKENS] if self.image_branch else context
        out = attend(q, self._split(self.to_k(text)), self._split(self.to_v(text)))
        if self.image_branch and context is not None:
            image = context[:, TEXT_TOKENS:]
            out = out + attend(q, self._split(self.to_k_ip(image)), self._split(self.to_v_ip(image)))
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (n, heads, s, head channels)


class _GatedGelu(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * gelu(gate)


class FeedForward(nn.Module):
    """Gated GELU between two linear layers."""

    def __init__(self, channels: int, multiple: int) -> None:
        super().__init__()
        inner = channels * multiple
        self.net = nn.Sequential(_GatedGelu(channels, inner), nn.Dropout(0.0), nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Acts on the last axis."""
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self attention, then attention to the context (or to itself where there is none), then the feed-forward."""

    def __init__(
        self, channels: int, context: int | None, heads: int, head_channels: int, *, image_branch: bool, ff_mult: int
    ) -> None:
        super().__init__()
        self.attn1 = CrossAttention(channels, None, heads, head_channels)
        self.ff = FeedForward(channels, ff_mult)
        self.attn2 = CrossAttention(channels, context, heads, head_channels, image_branch=image_branch)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(
        self, x: Float[Tensor, "n s c"], context: Float[Tensor, "m k d"] | None, groups: int
    ) -> Float[Tensor, "n s c"]:
        """`groups` rows in a row attend to each other in the self attention (space-time); 1: each row by itself."""
        joined = self.norm1(x).reshape(-1, groups * x.shape[1], x.shape[2])
        x = x + self.attn1(joined).reshape(x.shape)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


def joint_group_norm(x: Float[Tensor, "b s c"], norm: nn.GroupNorm) -> Float[Tensor, "b s c"]:
    """GroupNorm of channel-last tokens, statistics over all tokens of a batch row, in float32."""
    own, each = x.float(), x.shape[-1] // norm.num_groups
    variance, mean = torch.var_mean(own.unflatten(-1, (norm.num_groups, -1)), dim=(1, 3), unbiased=False)  # (b, groups)
    scale = (variance + norm.eps).rsqrt().repeat_interleave(each, dim=1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(each, dim=1) * scale
    return torch.addcmul(shift[:, None], own, scale[:, None]).to(x.dtype)


class SpatialTransformer(nn.Module):
    """Attention within a frame (or, with `space_time`, among all pixels of all frames) and to the context."""

    def __init__(
        self, channels: int, context: int | None, heads: int, head_channels: int, options: dict[str, object]
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        inner = heads * head_channels
        self.proj_in = nn.Linear(channels, inner)
        block = {"image_branch": bool(options["image_branch"]), "ff_mult": int(options["ff_mult"])}  # type: ignore[call-overload]
        depth = int(options["depth"])  # type: ignore[call-overload]
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(inner, context, heads, head_channels, **block) for _ in range(depth)
        )  # type: ignore[arg-type]
        self.proj_out = nn.Linear(inner, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)
        self.space_time = bool(options["space_time"])

    def forward(
        self, x: Float[Tensor, "n c y x"], context: Float[Tensor, "n k d"] | None, frames: int
    ) -> Float[Tensor, "n c y x"]:
        """`n` = batch times frames."""
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # (n, y x, c)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, context, frames if self.space_time else 1)
        tokens = self.proj_out(tokens)
        return x + tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class TemporalTransformer(nn.Module):
    """Attention of each pixel over the frames, twice a block; no positions, no mask."""

    def __init__(
        self, channels: int, heads: int, head_channels: int, *, depth: int, linear: bool, ff_mult: int
    ) -> None:
        super().__init__()
        inner = heads * head_channels
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        # the checkpoint's first one has 1-tap convolutions instead of linear layers: the same product
        self.proj_in: nn.Module = nn.Linear(channels, inner) if linear else nn.Conv1d(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(inner, None, heads, head_channels, image_branch=False, ff_mult=ff_mult)
            for _ in range(depth)
        )
        self.proj_out: nn.Module = nn.Linear(inner, channels) if linear else nn.Conv1d(inner, channels, 1)
        nn.init.zeros_(self.proj_out.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.proj_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "n c y x"], frames: int) -> Float[Tensor, "n c y x"]:
        """`n` = batch times `frames`."""
        n, c, height, width = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(n // frames, frames * height * width, c)
        tokens = joint_group_norm(tokens, self.norm).unflatten(1, (frames, height * width))
        tokens = tokens.transpose(1, 2).flatten(0, 1)  # (b y x, v, c)
        tokens = _project(self.proj_in, tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, None, 1)
        tokens = _project(self.proj_out, tokens)
        tokens = tokens.unflatten(0, (n // frames, height * width)).transpose(1, 2)  # (b, v, y x, c)
        return x + tokens.reshape(n, height, width, c).permute(0, 3, 1, 2)


def _project(layer: nn.Module, tokens: Tensor) -> Tensor:
    """A linear layer, or a 1-tap convolution as one."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return nn.functional.linear(tokens, weight.flatten(1), layer.bias)  # type: ignore[arg-type]
