"""What the joint solve looks for, and where each of it stands in the vector of unknowns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geo4d._typing import Bool, Float, Int, Tensor
from geo4d.geometry.rotation import fit_rotation, so3_exp
from geo4d.geometry.similarity import Similarity
from geo4d.solver.banded import Structure, arrange


@dataclass(frozen=True)
class Columns:
    """Places of the unknowns.

    Cameras (6 each), windows (7), ray similarities (7), focal lengths if they vary; then what touches all: the common
    focal length, the similarity of given poses (7), the scale of given depth.
    """

    frames: int
    windows: int
    has_rays: bool = False
    zooms: bool = False  # one focal length a frame
    has_poses: bool = False
    has_depth: bool = False
    one_scale: bool = False  # given poses and given depth share their unit

    def camera(self, frame: Tensor) -> Int[Tensor, "... 6"]:
        """Rotation and centre."""
        return 6 * frame[..., None] + torch.arange(6)

    def window(self, window: Tensor) -> Int[Tensor, "... 7"]:
        """Log scale, rotation, translation."""
        return 6 * self.frames + 7 * window[..., None] + torch.arange(7)

    def ray(self, window: Tensor) -> Int[Tensor, "... 7"]:
        """Likewise of the ray cameras."""
        return self.window(window + self.windows)

    def focal(self, frame: Tensor) -> Int[Tensor, "..."]:
        """Log focal length."""
        first = 6 * self.frames + 7 * self.windows * (2 if self.has_rays else 1)
        return first + frame if self.zooms else torch.full_like(frame, first)

    @property
    def poses(self) -> Int[Tensor, "7"]:
        """Log scale, rotation, translation of the given poses."""
        return self._after_focal + torch.arange(7)

    @property
    def depth(self) -> int:
        """Log scale of the given depth."""
        return self._after_focal + (0 if self.one_scale else 7 if self.has_poses else 0)

    @property
    def _after_focal(self) -> int:
        return int(self.focal(torch.zeros(1, dtype=torch.int64))) + (self.frames if self.zooms else 1)

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return self._after_focal + (7 if self.has_poses else 0) + (1 if self.has_depth and not self.one_scale else 0)

    def structure(
        self, windows: Int[Tensor, "g v"], nearest_window: Int[Tensor, "t"], beside: Int[Tensor, "e 2"] | None = None
    ) -> Structure:
        """Their order for the linear algebra.

        `beside` are pairs of unknowns that meet besides those that follow from the windows.
        """
        g, t = self.windows, self.frames
        index = windows.numpy()
        owner = np.repeat(np.arange(g), index.shape[1])
        seen = np.stack([owner + t, index.ravel()], axis=1)
        pairs = [seen, np.stack([np.arange(t), np.arange(t)], axis=1)]
        # windows that share a frame meet in the elimination of its depth
        order = np.lexsort((owner, index.ravel()))
        frame, window = index.ravel()[order], owner[order]
        for gap in range(1, int(np.bincount(frame).max())):
            same = frame[gap:] == frame[:-gap]
            pairs.append(np.stack([window[gap:][same] + t, window[:-gap][same] + t], axis=1))
        for gap in (1, 2):
            pairs.append(np.stack([np.arange(t - gap), np.arange(gap, t)], axis=1))
        near = nearest_window.numpy()[1:-1]
        pairs += [np.stack([np.arange(gap, gap + len(near)), near + t], axis=1) for gap in (0, 1, 2) if t > 2]
        sizes = [6] * t + [7] * g
        if self.has_rays:
            sizes += [7] * g
            pairs.append(seen + [g, 0])
        if self.zooms:
            first = len(sizes)
            sizes += [1] * t
            focal = np.arange(first, first + t)
            pairs += [np.stack([focal, np.arange(t)], axis=1), np.stack([owner + t, focal[index.ravel()]], axis=1)]
            pairs += [np.stack([focal[:-gap], focal[gap:]], axis=1) for gap in (1, 2) if t > gap]
        if beside is not None:
            blocks = np.searchsorted(np.cumsum(sizes), beside.numpy(), side="right")
            pairs.append(blocks[(blocks < len(sizes)).all(axis=1)])  # what touches all is beside the band anyway
        return arrange(np.array(sizes), np.unique(np.concatenate(pairs), axis=0), self.size - sum(sizes))


@dataclass(frozen=True)
class Unknowns:
    """What is solved for. World: the first camera, until the result is made."""

    rotation: Float[Tensor, "t 3 3"]  # cam_to_world
    centre: Float[Tensor, "t 3"]
    windows: Similarity  # (g,) win_to_world of the points
    log_focal: Float[Tensor, "t"]  # of the focal length by the longer side
    rays: Similarity | None = None  # (g,) win_to_world of the ray cameras
    poses: Similarity | None = None  # (1,) of given poses to the world
    log_depth_scale: float = 0.0  # of given depth to the world's

    def moved(self, columns: Columns, step: Float[Tensor, "n"]) -> Unknowns:
        """After a step: rotations from the left, scales by their logarithm."""
        t, g = columns.frames, columns.windows
        frames, windows = torch.arange(t), torch.arange(g)
        camera = step[columns.camera(frames)]
        poses = self.poses
        if poses is not None and columns.has_poses:
            poses = _move(poses, step[columns.poses][None])
        return Unknowns(
            so3_exp(camera[:, :3]) @ self.rotation,
            self.centre + camera[:, 3:],
            _move(self.windows, step[columns.window(windows)]),
            self.log_focal + step[columns.focal(frames)],
            None if self.rays is None else _move(self.rays, step[columns.ray(windows)]),
            poses,
            self.log_depth_scale + (float(step[columns.depth]) if columns.has_depth else 0.0),
        )


def _move(similarity: Similarity, step: Float[Tensor, "g 7"]) -> Similarity:
    """Step = (log scale, rotation, translation), scale and rotation about the image of the origin."""
    return Similarity(
        similarity.scale * step[:, 0].exp(),
        so3_exp(step[:, 1:4]) @ similarity.rotation,
        similarity.translation + step[:, 4:],
    )


def ray_similarities(
    windows: Int[Tensor, "g v"],
    poses: Float[Tensor, "t 4 4"],
    rays: Float[Tensor, "g v 4 4"],
    usable: Bool[Tensor, "g v"] | None = None,
) -> Similarity:
    """Start of each window's ray similarity.

    Rotation by Procrustes on the cameras' axes, then scale and shift of centres. Cameras that are not usable take no
    part; a window without any gets the unit scale.
    """
    target = poses[windows]  # (g, v, 4, 4)
    w = torch.ones(windows.shape, dtype=rays.dtype) if usable is None else usable.to(rays.dtype)
    axes = rays[..., :3, :3].transpose(-1, -2).flatten(1, 2), target[..., :3, :3].transpose(-1, -2).flatten(1, 2)
    rotation = fit_rotation(*axes, w.repeat_interleave(3, dim=1))
    share = (w / w.sum(1, keepdim=True).clamp_min(1e-12))[..., None]
    rotated = (rotation[:, None] @ rays[..., :3, 3:])[..., 0]
    centres = target[..., :3, 3]
    middles = (share * rotated).sum(1), (share * centres).sum(1)
    a, b = (share.sqrt() * (c - middle[:, None]) for c, middle in zip((rotated, centres), middles, strict=True))
    # both are noisy: the ratio of their spreads is not biased towards either
    scale = (b.square().sum((1, 2)) / a.square().sum((1, 2)).clamp_min(1e-12)).sqrt().clamp(1e-6, 1e6)
    scale = torch.where(w.sum(1) > 0, scale, 1.0)
    return Similarity(scale, rotation, middles[1] - scale[:, None] * middles[0])
