"""Rays alone: cameras without depth. And the focal length by ray maps."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.functional import normalize

from geo4d._typing import Float, Int, Tensor
from geo4d.alignment.cameras import Cameras, FixedIntrinsics
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.depth.dense import Dense
from geo4d.alignment.draft import Draft
from geo4d.alignment.joint.observations import WindowRays, ray_cameras
from geo4d.alignment.joint.unknowns import ray_similarities
from geo4d.alignment.priors import Priors
from geo4d.errors import AlignmentError
from geo4d.geometry.pixels import pixel_grid
from geo4d.geometry.rays import camera_from_rays
from geo4d.geometry.rigid import invert_rigid, rigid
from geo4d.scene import WindowPredictions


def align_rays(predictions: WindowPredictions, config: AlignmentConfig, priors: Priors) -> Draft:
    """Cameras alone: windows are chained through the cameras that they share.

    Raises AlignmentError if the rays say nothing.
    """
    cameras = ray_cameras(predictions)
    if cameras is None or not cameras.usable.any():
        raise AlignmentError(
            "The ray maps are incomplete, not finite or do not spread, and there is no other modality to align; look "
            "at the predictions."
        )
    frames = predictions.num_frames
    path, warnings = chain_cameras(predictions.windows.long(), cameras, frames)
    height, width = predictions.grid_size if predictions.ray_direction is not None else (8, 8)
    warnings = ["Ray maps alone give cameras; there is no depth.", *warnings]
    resolved = priors.resolve(predictions, None) if predictions.ray_direction is not None else None
    fixed_intrinsics = FixedIntrinsics.ideal(frames) if resolved is None else resolved.fixed_intrinsics
    both = ray_focal(predictions, height, width)
    focal = torch.full(
        (frames,), config.joint.focal_prior if both is None else both[0] / max(height, width), dtype=torch.float64
    )
    if resolved is not None and resolved.log_focal is not None:
        focal = resolved.log_focal.exp()
    elif both is not None:
        fixed_intrinsics = replace(fixed_intrinsics, aspect=torch.full_like(fixed_intrinsics.aspect, both[1] / both[0]))
    return Draft(
        Cameras.of(path, focal, fixed_intrinsics),
        Dense.nothing(frames, height, width),
        {"terms": ["rays"]},
        tuple(warnings),
    )


def chain_cameras(
    windows: Int[Tensor, "g v"], rays: WindowRays, frames: int
) -> tuple[Float[Tensor, "t 4 4"], list[str]]:
    """Cameras of the video in the first one's frame, and what is to be warned of.

    A frame for which no window has a usable camera takes that of the frame before it.
    """
    poses: list[Tensor | None] = [None] * frames
    warnings = list(rays.problems)
    for g, window in enumerate(windows.tolist()):
        usable = [k for k in range(len(window)) if rays.usable[g, k]]
        shared = [k for k in usable if poses[window[k]] is not None]
        placed = rays.cam_to_win[g]
        if shared:
            target = torch.stack([poses[window[k]] for k in shared])  # type: ignore[misc]
            link = ray_similarities(torch.arange(len(shared))[None], target, placed[shared][None])
            centres = link.apply(placed[None, :, :3, 3])[0]
            placed = rigid(link.rotation[0] @ placed[:, :3, :3], centres)
        elif g > 0 and usable:
            warnings.append(f"Window {g} shares no frame with an earlier one.")
        for k in usable:
            if poses[window[k]] is None:
                poses[window[k]] = placed[k]
    first = next((pose for pose in poses if pose is not None), torch.eye(4, dtype=torch.float64))
    path = [first]
    for pose in poses:
        path.append(path[-1] if pose is None else pose)
    return invert_rigid(torch.stack(path[1:2])) @ torch.stack(path[1:]), warnings


def ray_focal(predictions: WindowPredictions, height: int, width: int) -> tuple[float, float] | None:
    """Focal lengths fx, fy in pixels of a grid of that size, by the windows' first frames (medians).

    None if no ray map determines them. Ray maps may be of another size, and of another aspect: then their own pixels
    are not square.
    """
    if predictions.ray_direction is None:
        return None
    first = torch.stack([window[0] for window in predictions.ray_direction]).double()  # (g, y, x, 3)
    rows, columns = first.shape[1:3]
    direction = normalize(first, dim=-1).flatten(1, 2)
    pixels = pixel_grid(rows, columns, dtype=torch.float64).flatten(0, 1)
    cameras = camera_from_rays(direction, torch.zeros_like(direction), pixels)
    usable = [g for g in range(len(first)) if (g,) not in cameras.problems]
    if not usable:
        return None
    fx, fy = (float(cameras.intrinsics[usable, axis, axis].median()) for axis in (0, 1))
    return fx * width / columns, fy * height / rows
