"""The latent pool: clips encoded once into shards on disk, which any number of processes fill and one trains from."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from geo4d._typing import Tensor
from geo4d.errors import InputError
from geo4d.modalities import Layout
from geo4d.models.autoencoder import Autoencoder
from geo4d.training.clips import Bucket, ClipBatch, pick_bucket, render_shard, rgb_images

logger = logging.getLogger(__name__)


@torch.no_grad()
def encode_batch(autoencoder: Autoencoder, layout: Layout, batch: ClipBatch) -> dict[str, Tensor]:
    """Posterior means: `rgb` and each image of the layout, (b, 4, v, y, x), as the autoencoder gives them."""
    images = {"rgb": rgb_images(batch.clip), **layout.encode(batch.clip)}
    b, v = batch.frame_index.shape
    latents = {}
    for name, image in images.items():
        flat = image.flatten(0, 1)
        with torch.autocast(flat.device.type, torch.bfloat16):
            mean = torch.cat([autoencoder.encode(part)[0] for part in flat.split(64)])
        latents[name] = mean.float().unflatten(0, (b, v)).movedim(1, 2)
    return latents


@dataclass(frozen=True)
class EncodeJob:
    """What one process does: shards `worker`, `worker + workers`, ... below `shards`."""

    directory: Path
    buckets: Sequence[Bucket]
    shards: int
    split: int = 1
    worker: int = 0
    workers: int = 1
    device: str = "cpu"


def fill_pool(job: EncodeJob, autoencoder: Autoencoder, layout: Layout) -> None:
    """Renders and encodes every shard of the job that is not there yet."""
    job.directory.mkdir(parents=True, exist_ok=True)
    for shard in range(job.worker, job.shards, job.workers):
        bucket = pick_bucket(job.buckets, job.split, shard)
        path = job.directory / f"{bucket.name}_{shard:06d}.npz"
        if path.exists():
            continue
        batch = render_shard(bucket, job.split, shard, device=job.device)
        arrays = {name: value.half().cpu().numpy() for name, value in encode_batch(autoencoder, layout, batch).items()}
        temporary = path.with_suffix(f".tmp{job.worker}")
        with temporary.open("wb") as file:
            np.savez(file, frame_index=batch.frame_index.numpy(), fps=batch.fps.numpy(), **arrays)
        os.replace(temporary, path)
        logger.info("shard %d of %d", shard + 1, job.shards)


@dataclass
class LatentPool:
    """Reads the shards of a pool into memory, grouped by bucket; `refresh` picks up what was added since."""

    directory: Path
    groups: dict[str, list[dict[str, np.ndarray]]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def refresh(self) -> int:
        """Loads new shards and returns the number of frames in the pool."""
        for path in sorted(self.directory.glob("*.npz")):
            if path.name in self.seen:
                continue
            with np.load(path) as archive:
                self.groups.setdefault(path.name.split("_")[0], []).append(dict(archive))
            self.seen.add(path.name)
        return sum(shard["frame_index"].size for shards in self.groups.values() for shard in shards)

    def draw(self, generator: np.random.Generator, *, frames: int, clip_frames: int) -> dict[str, Tensor]:
        """A batch of about `frames` frames in clips of `clip_frames`, all from one bucket (chosen by its size).

        Raises InputError if the pool has no such clips.
        """
        groups = {name: shards for name, shards in self.groups.items() if name.endswith(f"x{clip_frames}")}
        if not groups:
            raise InputError(f"The latent pool {self.directory} has no clips of {clip_frames} frames; encode some first.")
        names = sorted(groups)
        sizes = np.array([len(groups[name]) for name in names], dtype=float)
        shards = groups[names[generator.choice(len(names), p=sizes / sizes.sum())]]
        picks = []
        for _ in range(max(1, frames // clip_frames)):
            shard = shards[generator.integers(len(shards))]
            picks.append((shard, generator.integers(len(shard["fps"]))))
        return {key: torch.from_numpy(np.stack([shard[key][i] for shard, i in picks])) for key in picks[0][0]}
