"""The query transformer: a few learnt queries read the image tower's tokens (method 3, compat 3).

Names of the parameters are the released checkpoint's.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from geo4d._typing import Tensor
from geo4d.errors import ConfigError


class QueryAttention(nn.Module):
    """Queries attend to the tokens and to themselves."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """`tokens` (n, k, dim) and `queries` (n, q, dim) give (n, q, dim)."""
        queries = self.norm2(queries)
        key, value = self.to_kv(torch.cat([self.norm1(tokens), queries], dim=1)).chunk(2, dim=-1)
        out = scaled_dot_product_attention(self._split(self.to_q(queries)), self._split(key), self._split(value))
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Resampler(nn.Module):
    """Image tokens to `num_queries` context tokens a frame, `num_queries * video_length` in all."""

    def __init__(
        self,
        dim: int = 1024,
        depth: int = 4,
        dim_head: int = 64,
        heads: int = 12,
        num_queries: int = 16,
        embedding_dim: int = 1280,
        output_dim: int = 1024,
        ff_mult: int = 4,
        video_length: int = 16,
    ) -> None:
        super().__init__()
        self.num_queries, self.video_length = num_queries, video_length
        self.latents = nn.Parameter(torch.randn(1, num_queries * video_length, dim) / dim**0.5)
        self.proj_in = nn.Linear(embedding_dim, dim)
        self.proj_out = nn.Linear(dim, output_dim)
        self.norm_out = nn.LayerNorm(output_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([QueryAttention(dim, heads, dim_head), _feed_forward(dim, ff_mult)]) for _ in range(depth)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, k, c): all queries read one image; (b, v, k, c): each frame's queries read that frame.

        Returns (b, num_queries * video_length, output_dim). Raises ConfigError if v is not `video_length`.
        """
        batch = len(tokens)
        queries = self.latents.expand(batch, -1, -1)
        if tokens.ndim == 4:
            if tokens.shape[1] != self.video_length:
                raise ConfigError(
                    f"The query transformer reads {self.video_length} frames; got {tokens.shape[1]}: give windows of "
                    f"{self.video_length} frames, or one image (b, k, c)."
                )
            queries = queries.unflatten(1, (self.video_length, self.num_queries)).flatten(0, 1)
            tokens = tokens.flatten(0, 1)
        tokens = self.proj_in(tokens)
        for layer in self.layers:
            queries = queries + layer[0](tokens, queries)
            queries = queries + layer[1](queries)
        out = self.norm_out(self.proj_out(queries))
        return out.reshape(batch, -1, out.shape[-1])


def _feed_forward(dim: int, multiple: int) -> nn.Sequential:
    inner = dim * multiple
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, inner, bias=False), nn.GELU(), nn.Linear(inner, dim, bias=False)
    )
