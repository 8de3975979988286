"""The latent video U-Net (method 3, compat 2): spatial and temporal attention at several scales.

With the released configuration its state dict has the released keys. The options that the released model does not have
(defaults: off) are what the small model adds: frame numbers and pixel coordinates as inputs, attention over space and
time at chosen levels, learnt context tokens, lean temporal convolutions.
"""

from __future__ import annotations

import math

import torch
import geo4d.models._torchvision  # noqa: F401  (before diffusers)
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.utils.checkpoint import checkpoint

from geo4d._typing import Float, Int, Tensor
from geo4d.errors import ConfigError
from geo4d.models.attention import IMAGE_TOKENS, TEXT_TOKENS, SpatialTransformer, TemporalTransformer
from geo4d.models.blocks import Downsample, FrameHead, ResBlock, Upsample


def sinusoid(position: Tensor, dim: int) -> Float[Tensor, "n dim"]:
    """Cosines, then sines, of a position at `dim / 2` frequencies from 1 down to 1 / 10000."""
    half = dim // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=position.device, dtype=torch.float32) / half)
    angle = position.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def _two_layers(channels: int, embedding: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))


class VideoUNet(ModelMixin, ConfigMixin):
    """(b, in_channels, v, y, x) -> (b, out_channels, v, y, x), for any y and x.

    Each level has half the grid of the one above, rounded up; on the way up its result takes the size of the skip.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        in_channels: int = 20,
        out_channels: int = 16,
        model_channels: int = 320,
        attention_resolutions: tuple[int, ...] = (4, 2, 1),
        num_res_blocks: int = 2,
        channel_mult: tuple[int, ...] = (1, 2, 4, 4),
        dropout: float = 0.1,
        num_head_channels: int = 64,
        transformer_depth: int = 1,
        context_dim: int = 1024,
        use_linear: bool = True,
        use_checkpoint: bool = False,
        temporal_conv: bool = True,
        temporal_attention: bool = True,
        temporal_selfatt_only: bool = True,
        use_relative_position: bool = False,
        use_causal_attention: bool = False,
        temporal_length: int = 16,
        addition_attention: bool = True,
        image_cross_attention: bool = True,
        default_fs: int = 24,
        fs_condition: bool = True,
        temporal_conv_layers: int = 4,
        ff_mult: int = 4,
        frame_index_embedding: bool = False,
        coordinate_channels: bool = False,
        space_time_resolutions: tuple[int, ...] = (),
        learned_context_tokens: int = 0,
        frame_head_width: int = 0,
        frame_head_blocks: int = 4,
    ) -> None:
        super().__init__()
        if not use_linear or not temporal_selfatt_only or use_relative_position or use_causal_attention:
            raise ConfigError(
                "VideoUNet builds linear projections and plain temporal self-attention, as the released model has; got "
                "another use_linear, temporal_selfatt_only, use_relative_position or use_causal_attention."
            )
        embedding = 4 * model_channels
        self.time_embed = _two_layers(model_channels, embedding)
        if fs_condition:
            self.fps_embedding = _two_layers(model_channels, embedding)
        if frame_index_embedding:
            self.frame_embedding = _two_layers(model_channels, embedding)
        if learned_context_tokens:
            self.context = nn.Parameter(torch.randn(1, learned_context_tokens, context_dim) * 0.02)
        first = in_channels + 2 * coordinate_channels
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(first, model_channels, 3, padding=1)])])
        if addition_attention:
            initial = TemporalTransformer(
                model_channels, 8, num_head_channels, depth=transformer_depth, linear=False, ff_mult=ff_mult
            )
            self.init_attn = nn.ModuleList([initial])
        self._add_levels()
        last = nn.Conv2d(model_channels, out_channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.out = nn.Sequential(nn.GroupNorm(32, model_channels), nn.SiLU(), last)
        self.is_head_alone = False  # while the frame head is trained by itself
        if frame_head_width:  # reads all but the noisy latents
            self.frame_head = FrameHead(
                first - out_channels, frame_head_width, out_channels, blocks=frame_head_blocks, embedding=embedding
            )

    def _add_levels(self) -> None:
        """Down, middle and up; the released model's order."""
        c = self.config
        skips = [c.model_channels]
        channels, scale = c.model_channels, 1
        for level, multiple in enumerate(c.channel_mult):
            for _ in range(c.num_res_blocks):
                self.input_blocks.append(self._stage(channels, c.model_channels * multiple, scale))
                channels = c.model_channels * multiple
                skips.append(channels)
            if level < len(c.channel_mult) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(channels)]))
                skips.append(channels)
                scale *= 2
        attention = [self._spatial(channels, scale)] + ([self._temporal(channels)] if c.temporal_attention else [])
        self.middle_block = nn.ModuleList([self._res(channels, channels), *attention, self._res(channels, channels)])
        self.output_blocks = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(c.channel_mult))):
            for i in range(c.num_res_blocks + 1):
                stage = self._stage(channels + skips.pop(), c.model_channels * multiple, scale)
                channels = c.model_channels * multiple
                if level > 0 and i == c.num_res_blocks:
                    stage.append(Upsample(channels))
                    scale //= 2
                self.output_blocks.append(stage)

    def forward(
        self,
        x: Float[Tensor, "b c v y x"],
        timesteps: Int[Tensor, "b"],
        context: Float[Tensor, "b k d"] | None = None,
        fps: Tensor | None = None,
        frame_index: Int[Tensor, "b v"] | None = None,
    ) -> Float[Tensor, "b o v y x"]:
        """Predicts v. `fps` defaults to the configured rate, `frame_index` to 0, 1, 2, ...

        `context` holds 77 text tokens and, with image cross attention, 16 tokens a frame (or any number for all frames
        together, compat 2); it is not needed where context tokens are learnt.
        """
        b, _, v = x.shape[:3]
        embedding = self._embedding(timesteps, fps, frame_index, (b, v))
        tokens = self._context(context, b, v)
        hidden = x.transpose(1, 2).flatten(0, 1)  # (b v, c, y, x)
        if self.config.coordinate_channels:
            hidden = torch.cat([hidden, _coordinates(hidden)], dim=1)
        by_frame = self._by_frame(hidden, embedding)
        if by_frame is not None and self.is_head_alone:
            return by_frame.unflatten(0, (b, v)).transpose(1, 2)
        if hidden.is_cuda or hidden.dtype != torch.float32 or torch.is_autocast_enabled(hidden.device.type):
            # faster in half precision; in float32 on a CPU it gains nothing and rounds a little worse
            hidden = hidden.contiguous(memory_format=torch.channels_last)
        skips = []
        for i, stage in enumerate(self.input_blocks):
            hidden = self._run(stage, hidden, embedding, tokens, v)
            if i == 0 and hasattr(self, "init_attn"):
                hidden = self._run(self.init_attn, hidden, embedding, tokens, v)
            skips.append(hidden)
        hidden = self._run(self.middle_block, hidden, embedding, tokens, v)
        for stage in self.output_blocks:
            hidden = torch.cat([hidden, skips.pop()], dim=1)
            hidden = self._run(stage, hidden, embedding, tokens, v, skips[-1].shape[-2:] if skips else None)
        result = self.out(hidden) if by_frame is None else self.out(hidden) + by_frame
        return result.unflatten(0, (b, v)).transpose(1, 2)

    def hold_frame_head(self) -> None:
        """The frame head, and the embeddings that tell it the noise, are no longer trained."""
        for name in ("frame_head", "time_embed", "fps_embedding", "frame_embedding"):
            if hasattr(self, name):
                getattr(self, name).requires_grad_(requires_grad=False)

    def _by_frame(self, hidden: Float[Tensor, "n c y x"], embedding: Float[Tensor, "n e"]) -> Tensor | None:
        """What the frame head makes of each frame, as v; None without one."""
        if not self.config.frame_head_width:
            return None
        return self.frame_head(hidden[:, self.config.out_channels :], embedding)

    def _run(
        self,
        stage: nn.Module,
        hidden: Tensor,
        embedding: Tensor,
        context: Tensor | None,
        frames: int,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """One stage; `grid` is that of the next skip, to which a stage that ends a level brings its result."""
        if self.config.use_checkpoint and self.training:
            return checkpoint(self._layers, stage, hidden, embedding, context, frames, grid, use_reentrant=False)
        return self._layers(stage, hidden, embedding, context, frames, grid)

    @staticmethod
    def _layers(
        stage: nn.ModuleList,
        hidden: Tensor,
        embedding: Tensor,
        context: Tensor | None,
        frames: int,
        grid: tuple[int, int] | None,
    ) -> Tensor:
        for layer in stage:
            if isinstance(layer, ResBlock):
                hidden = layer(hidden, embedding, frames)
            elif isinstance(layer, SpatialTransformer):
                hidden = layer(hidden, context, frames)
            elif isinstance(layer, TemporalTransformer):
                hidden = layer(hidden, frames)
            elif isinstance(layer, Upsample):
                hidden = layer(hidden, grid)
            else:
                hidden = layer(hidden)
        return hidden

    def _embedding(
        self, timesteps: Tensor, fps: Tensor | None, frame_index: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        """Sum of the time, rate and frame embeddings, one row a frame."""
        c, (b, v) = self.config, shape
        dtype = self.time_embed[0].weight.dtype
        embedding = self.time_embed(sinusoid(timesteps, c.model_channels).to(dtype))
        if c.fs_condition:
            rate = torch.full((b,), float(c.default_fs), device=timesteps.device) if fps is None else fps
            embedding = embedding + self.fps_embedding(sinusoid(rate, c.model_channels).to(dtype))
        embedding = embedding.repeat_interleave(v, dim=0)
        if c.frame_index_embedding:
            index = torch.arange(v, device=timesteps.device).expand(b, v) if frame_index is None else frame_index
            embedding = embedding + self.frame_embedding(sinusoid(index.flatten(), c.model_channels).to(dtype))
        return embedding

    def _context(self, context: Tensor | None, b: int, v: int) -> Tensor | None:
        """Context tokens of every frame, (b v, k, d)."""
        if context is None:
            if not self.config.learned_context_tokens:
                raise ConfigError("This U-Net has no learnt context tokens: give it a context (b, k, channels).")
            return self.context.expand(b * v, -1, -1)
        if context.shape[1] == TEXT_TOKENS + IMAGE_TOKENS * v and self.config.image_cross_attention:
            text = context[:, :TEXT_TOKENS].repeat_interleave(v, dim=0)
            image = context[:, TEXT_TOKENS:].unflatten(1, (v, IMAGE_TOKENS)).flatten(0, 1)
            return torch.cat([text, image], dim=1)
        return context.repeat_interleave(v, dim=0)

    def _res(self, channels: int, out_channels: int) -> ResBlock:
        c = self.config
        layers = c.temporal_conv_layers if c.temporal_conv else 0
        return ResBlock(channels, 4 * c.model_channels, out_channels, dropout=c.dropout, temporal_layers=layers)

    def _spatial(self, channels: int, scale: int) -> SpatialTransformer:
        c = self.config
        options = {
            "image_branch": c.image_cross_attention,
            "ff_mult": c.ff_mult,
            "depth": c.transformer_depth,
            "space_time": scale in c.space_time_resolutions,
        }
        return SpatialTransformer(
            channels, c.context_dim, channels // c.num_head_channels, c.num_head_channels, options
        )

    def _temporal(self, channels: int) -> TemporalTransformer:
        c = self.config
        heads = channels // c.num_head_channels
        return TemporalTransformer(
            channels, heads, c.num_head_channels, depth=c.transformer_depth, linear=True, ff_mult=c.ff_mult
        )

    def _stage(self, channels: int, out_channels: int, scale: int) -> nn.ModuleList:
        stage = nn.ModuleList([self._res(channels, out_channels)])
        if scale in self.config.attention_resolutions:
            stage.append(self._spatial(out_channels, scale))
            if self.config.temporal_attention:
                stage.append(self._temporal(out_channels))
        return stage


def _coordinates(x: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 2 y x"]:
    """Pixel coordinates in [-1, 1] from side to side."""
    n, _, height, width = x.shape
    u = (torch.arange(width, device=x.device, dtype=x.dtype) + 0.5) * (2 / width) - 1
    v = (torch.arange(height, device=x.device, dtype=x.dtype) + 0.5) * (2 / height) - 1
    return torch.stack([u.expand(height, width), v[:, None].expand(height, width)]).expand(n, -1, -1, -1)
