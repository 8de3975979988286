"""Analytic windows with known answers.

A room of planes seen by any camera, with the nuisances that networks leave open.
"""

from __future__ import annotations

import numpy as np
import torch

from geo4d.geometry.camera import intrinsics_from_focal, pixel_rays_cam
from geo4d.geometry.plucker import plucker_rays
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import so3_exp
from geo4d.metrics.depth import depth_metrics
from geo4d.metrics.focal import focal_error
from geo4d.metrics.pose import pose_metrics
from geo4d.scene import WindowPredictions
from geo4d.windows.plan import plan_windows

SIZE, FOCAL = (24, 36), 30.0
H, W = SIZE
PLANES = [((0.0, 1, 0), 1.2), ((0.1, 0, 1), 7.0), ((1.0, 0, 0.1), 4.0), ((-1.0, 0.05, 0), 3.0), ((0, -1.0, 0.1), 2.5)]


def camera_path(frames, turn=1.0, move=(1.5, 0.2, 0.8)):
    """A smooth path; `move` and `turn` scale what it does."""
    t = torch.linspace(0, 1, frames, dtype=torch.float64)
    angles = turn * torch.stack([0.1 * t.sin(), 0.3 * t, 0.05 * t**2], dim=-1)
    return rigid(so3_exp(angles), torch.stack([move[0] * t, move[1] * (3 * t).sin(), move[2] * t], dim=-1))


def render(poses, intrinsics, size=SIZE):
    """Depth (t, h, w) of the room from inside, and rays (t, h, w, 3) of unit depth."""
    rays = pixel_rays_cam(intrinsics, *size)
    world = torch.einsum("tij,thwj->thwi", poses[:, :3, :3], rays)
    hits = []
    for normal, distance in PLANES:
        n = torch.tensor(normal, dtype=torch.float64)
        t = (distance - poses[:, :3, 3] @ n)[:, None, None] / (world @ n)
        hits.append(torch.where(t > 0, t, torch.inf))
    return torch.stack(hits).amin(dim=0), rays


def exact_windows(
    frames=24, *, shifted=False, noise=0.0, length=16, poses=None, size=SIZE, focal=FOCAL, stride=4, move_depth=None
):
    """Window predictions with known nuisances; and the truth: depth and poses.

    `focal` may be one a frame; `move_depth` (t, h, w) multiplies the depth, as if the scene moved.
    """
    poses = camera_path(frames) if poses is None else poses
    focals = torch.as_tensor(focal, dtype=torch.float64).expand(frames)
    intrinsics = intrinsics_from_focal(focals, *size)
    depth, rays = render(poses, intrinsics, size)
    if move_depth is not None:
        depth = depth * move_depth
    windows = plan_windows(frames, length=length, stride=stride)
    generator = torch.Generator().manual_seed(0)
    parts = {name: [] for name in ("points", "disparity", "ray_direction", "ray_moment")}
    for g, window in enumerate(windows):
        relative = torch.linalg.inv(poses[window[0]]) @ poses[window]
        scale = 1.5 + 0.4 * g
        d = depth[window] * (1 + noise * torch.randn(depth[window].shape, generator=generator, dtype=torch.float64))
        points = (
            torch.einsum("vij,vhwj->vhwi", relative[:, :3, :3], d[..., None] * rays[window])
            + relative[:, None, None, :3, 3]
        )
        shift = torch.tensor([0, 0, 0.7 if shifted else 0.0], dtype=torch.float64)
        parts["points"].append((points - shift) / scale)
        inverse = 1 / depth[window]
        parts["disparity"].append((inverse - 0.9 * inverse.min()) / (inverse.max() - 0.9 * inverse.min()))
        scaled = relative.clone()
        scaled[:, :3, 3] /= scale
        direction, moment = plucker_rays(intrinsics[window], scaled, *size)
        parts["ray_direction"].append(direction)
        parts["ray_moment"].append(moment)
    tensors = {name: torch.stack(values).float() for name, values in parts.items()}
    weight = torch.ones_like(tensors["disparity"])
    origin = "unknown" if shifted else "camera"
    return WindowPredictions(windows=windows, weight=weight, points_origin=origin, **tensors), (
        depth.numpy(),
        poses.numpy(),
    )


def check(result, truth, *, depth=1e-3, ate=1e-3, focal=0.005, true_focal=FOCAL):
    """The result against the truth: mean relative depth error, ATE by the path's extent, focal error."""
    true_depth, poses = truth
    extent = np.ptp(poses[:, :3, 3], axis=0).max()
    d = depth_metrics(result.depth, true_depth, result.valid)
    p = pose_metrics(result.cam_to_world, np.linalg.inv(poses[:1]) @ poses)
    assert d.abs_rel < depth
    assert p.ate_sim3 < ate * extent
    height, width = true_depth.shape[1:]
    focals = np.broadcast_to(true_focal, (len(poses),))
    k = np.stack([[[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]] for f in focals])
    assert focal_error(result.intrinsics, k) < focal
    return d, p
