"""Residual and resampling blocks of the video U-Net; names of the parameters are the released checkpoint's."""

from __future__ import annotations

import torch
from torch import nn

from geo4d._typing import Float, Tensor
from geo4d.models.attention import joint_group_norm


class TemporalConvolution(nn.Module):
    """Residual chain of norm, SiLU and a 3-tap convolution over the frames; norms see all frames together."""

    def __init__(self, channels: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = layers
        for i in range(1, layers + 1):
            extra = [] if i == 1 else [nn.Dropout(dropout)]
            convolution = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
            setattr(self, f"conv{i}", nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), *extra, convolution))
        nn.init.zeros_(convolution.weight)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "n c y x"], frames: int) -> Float[Tensor, "n c y x"]:
        """`n` = batch times `frames`; the taps are one matrix product on channel-last tokens, faster than Conv3d."""
        n, c, height, width = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(n // frames, frames * height * width, c)
        for i in range(1, self.layers + 1):
            layer: nn.Sequential = getattr(self, f"conv{i}")
            convolution: nn.Conv3d = layer[-1]  # type: ignore[assignment]
            hidden = layer[1:-1](joint_group_norm(tokens, layer[0]))  # type: ignore[arg-type]
            hidden = hidden.unflatten(1, (frames, height * width))
            padded = nn.functional.pad(hidden, (0, 0, 0, 0, 1, 1))
            taps = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=-1)  # (b, v, y x, 3 c)
            weight = convolution.weight[..., 0, 0].permute(0, 2, 1).flatten(1)
            tokens = nn.functional.linear(taps, weight, convolution.bias).flatten(1, 2)
        return x + tokens.reshape(n, height, width, c).permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """Two convolutions with the time embedding between them, a skip, then the temporal convolution."""

    def __init__(
        self, channels: int, embedding: int, out_channels: int, *, dropout: float, temporal_layers: int
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels))
        last = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.out_layers = nn.Sequential(nn.GroupNorm(32, out_channels), nn.SiLU(), nn.Dropout(dropout), last)
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)
        if temporal_layers:
            self.temopral_conv = TemporalConvolution(
                out_channels, temporal_layers, dropout
            )  # the checkpoint's spelling

    def forward(
        self, x: Float[Tensor, "n c y x"], embedding: Float[Tensor, "n e"], frames: int
    ) -> Float[Tensor, "n d y x"]:
        """`n` = batch times `frames`."""
        hidden = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        x = self.skip_connection(x) + self.out_layers(hidden)
        return self.temopral_conv(x, frames) if hasattr(self, "temopral_conv") else x


class Downsample(nn.Module):
    """Halves the grid, rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, y, x) to (n, c, ceil(y / 2), ceil(x / 2))."""
        return self.op(x)


class Upsample(nn.Module):
    """Brings a grid to the size of its skip, twice its own or one less, by repeating pixels; then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(n, c, y, x) to (n, c, *size); repeats each pixel twice where `size` is (2 y, 2 x)."""
        return self.conv(nn.functional.interpolate(x, size=size, mode="nearest"))


class FrameHead(nn.Module):
    """v of each frame by itself, from its own latents and features: cheap, and where the network begins."""

    def __init__(self, channels: int, width: int, out_channels: int, *, blocks: int, embedding: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 1)
        self.blocks = nn.ModuleList(self._block(width) for _ in range(blocks))
        last = nn.Conv2d(width, out_channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.leave = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), last)
        self.gate = nn.Linear(embedding, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -1.0)  # of zero input at the last step v is -x0

    @staticmethod
    def _block(width: int) -> nn.Sequential:
        layers = (nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        return nn.Sequential(*layers, nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Float[Tensor, "n c y x"], embedding: Float[Tensor, "n e"]) -> Float[Tensor, "n o y x"]:
        """One row a frame; how much its x0 is worth depends on the noise, which the embedding tells."""
        hidden = self.enter(x)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.gate(nn.functional.silu(embedding))[..., None, None] * self.leave(hidden)
