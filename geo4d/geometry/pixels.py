"""The pixel grid: integer pixel (u, v) has its centre at (u + 0.5, v + 0.5)."""

from __future__ import annotations

import torch

from geo4d._typing import Float, Int, Tensor


def pixel_grid(
    height: int, width: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "{height} {width} 2"]:
    """Pixel centres (u, v) of an image, in pixels."""
    v = torch.arange(height, device=device, dtype=dtype) + 0.5
    u = torch.arange(width, device=device, dtype=dtype) + 0.5
    return torch.stack(torch.broadcast_tensors(u[None, :], v[:, None]), dim=-1)


def resize_intrinsics(
    intrinsics: Float[Tensor, "*b 3 3"], from_size: tuple[int, int], to_size: tuple[int, int]
) -> Float[Tensor, "*b 3 3"]:
    """Intrinsics of the same camera after its image is resized from (height, width) to (height, width)."""
    scale = intrinsics.new_tensor([to_size[1] / from_size[1], to_size[0] / from_size[0], 1.0])
    return scale[:, None] * intrinsics


def sample_grid(height: int, width: int, samples: int) -> Int[Tensor, "p"]:
    """About `samples` pixels on a regular grid, as indices into the flattened map."""
    rows = max(2, min(height, round((samples * height / width) ** 0.5)))
    columns = max(2, min(width, round(samples / rows)))
    v = ((torch.arange(rows) + 0.5) * height / rows).long()
    u = ((torch.arange(columns) + 0.5) * width / columns).long()
    return (v[:, None] * width + u).flatten()


def centred_pixels(height: int, width: int) -> Float[Tensor, "n 2"]:
    """Pixel centres from the image centre, divided by the longer side."""
    v = (torch.arange(height, dtype=torch.float64) + 0.5 - height / 2) / max(height, width)
    u = (torch.arange(width, dtype=torch.float64) + 0.5 - width / 2) / max(height, width)
    return torch.stack([u.expand(height, width), v[:, None].expand(height, width)], dim=-1).flatten(0, 1)
