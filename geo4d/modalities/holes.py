"""Pixels of which nothing is known, but for which a network must be taught something: no loss masks them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from geo4d._typing import Float, Tensor
from geo4d.scene import Clip


def without_holes(clip: Clip) -> Clip:
    """The clip (..., h, w) with a depth, or sky, at every pixel.

    A hole, which is neither valid nor sky, gets the z-depth of the nearest valid pixel of its own frame, on its own
    ray; in a frame without any valid pixel holes count as sky. `valid` stays as it is, so scales are those of what is
    known. A clip without holes is handed back itself.
    """
    hole = ~(clip.valid | clip.sky)
    if not hole.any():
        return clip
    has_depth = clip.valid.flatten(-2).any(dim=-1)[..., None, None]
    depth = clip.depth.clone()
    for frame in (hole & has_depth).flatten(-2).any(dim=-1).nonzero().tolist():
        place = tuple(frame)
        depth[place] = torch.where(
            hole[place], nearest_depth(clip.depth[place], clip.valid[place].cpu().numpy()), depth[place]
        )
    alone = hole & ~has_depth
    return replace(clip, depth=torch.where(alone, 0.0, depth), sky=clip.sky | alone)


def nearest_depth(depth: Float[Tensor, "h w"], valid: np.ndarray) -> Float[Tensor, "h w"]:
    """At every pixel the depth of the nearest one of `valid` (h, w), of which there is at least one."""
    row, column = distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return depth[torch.from_numpy(row).long().to(depth.device), torch.from_numpy(column).long().to(depth.device)]
