"""Which procedural clips a training run sees: buckets of size and length, each clip named by one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.scene import Clip
from geo4d.synthetic import render_clips, scene_seed

BASE_FPS = 24.0


@dataclass(frozen=True)
class Bucket:
    """Clips of one size and length; `share` is its part of the shards (not of the frames)."""

    height: int
    width: int
    frames: int
    clips: int  # in one shard
    share: float

    @property
    def name(self) -> str:
        """Short and unique, for file names."""
        return f"{self.height}x{self.width}x{self.frames}"


@dataclass(frozen=True)
class ClipBatch:
    """Clips (b, v, ...) with the frame numbers and rates that condition the network."""

    clip: Clip
    frame_index: Tensor  # (b, v) int64, relative to the window's first frame
    fps: Float[Tensor, "b"]


def pick_bucket(buckets: Sequence[Bucket], split: int, shard: int) -> Bucket:
    """The bucket of a shard: always the same for the same split and number."""
    shares = np.array([bucket.share for bucket in buckets])
    return buckets[np.random.default_rng([split, shard]).choice(len(buckets), p=shares / shares.sum())]


def render_shard(bucket: Bucket, split: int, shard: int, *, device: str = "cpu", chunk_frames: int = 32) -> ClipBatch:
    """Renders the clips of one shard.

    Two-frame clips are 1 to 15 frames apart, like any two frames of a window; longer ones are consecutive at a stride of
    1, 2 or 3 (METHOD section 4).
    """
    generator = np.random.default_rng([split, shard, 1])
    stride = generator.integers(1, 4, bucket.clips)
    gap = generator.integers(1, 16, bucket.clips) if bucket.frames == 2 else np.ones(bucket.clips, dtype=np.int64)
    start = generator.integers(0, 16, bucket.clips)
    seeds = [scene_seed(split, shard * 4096 + i) for i in range(bucket.clips)]
    chunk = max(1, chunk_frames // bucket.frames)
    parts = [
        render_clips(
            seeds[i : i + chunk],
            num_frames=bucket.frames,
            size=(bucket.height, bucket.width),
            frame_step=(stride * gap)[i : i + chunk].tolist(),
            start=start[i : i + chunk].tolist(),
            device=device,
        )
        for i in range(0, bucket.clips, chunk)
    ]
    frame_index = torch.from_numpy(gap)[:, None] * torch.arange(bucket.frames)
    return ClipBatch(_concatenate(parts), frame_index, torch.from_numpy(BASE_FPS / stride).float())


def _concatenate(clips: list[Clip]) -> Clip:
    """One batch out of several, leaving out what the training does not use."""
    names = ("rgb", "depth", "valid", "sky", "intrinsics", "cam_to_world")
    return Clip(**{name: torch.cat([getattr(clip, name) for clip in clips]) for name in names})


def rgb_images(clip: Clip) -> Float[Tensor, "b v 3 h w"]:
    """Frames in [-1, 1], in network order, rounded to 8 bits like those of a video file."""
    return (clip.rgb.mul(255).round().div(127.5) - 1).movedim(-1, -3)
