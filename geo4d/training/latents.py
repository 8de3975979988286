"""The latent pool: clips encoded once into shards on disk, which any number of processes fill and read.

    <pool>/320x512x16_000012.safetensors    rgb, each geometry image and, where the model has a frame encoder, the
                                            frames' features (b, c, v, y, x) in half precision, frame_index, fps

Shards are read where they lie: a batch costs its own bytes, however large the pool is.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from geo4d._typing import Tensor
from geo4d.errors import InputError
from geo4d.modalities import Layout
from geo4d.models.geometry_model import GeometryModel
from geo4d.scene.atomic import whole_file
from geo4d.training.config import Length
from geo4d.training.sources import ClipBatch, ClipSource, Place, pick, rgb_images

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
KIND = "latents_of"  # in a shard's metadata
FEATURES = "features"
NO_LATENTS = ("frame_index", "fps", FEATURES)
ENCODED_AT_ONCE = 64  # images
MOST_OPEN = 256  # shards


@torch.no_grad()
def encode_batch(model: GeometryModel, layout: Layout, batch: ClipBatch) -> dict[str, Tensor]:
    """Posterior means: `rgb` and each image of the layout, (b, c, v, y, x), as the autoencoder gives them.

    Beside them `features`, if the model has a frame encoder.
    """
    device = model.device
    images = {"rgb": rgb_images(batch.clip), **layout.encode(batch.clip)}
    b, v = batch.frame_index.shape
    latents = {}
    for name, image in images.items():
        flat = image.flatten(0, 1).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            mean = torch.cat([model.autoencoder.encode(part)[0] for part in flat.split(ENCODED_AT_ONCE)])
        latents[name] = mean.float().unflatten(0, (b, v)).movedim(1, 2)
        if name == "rgb" and model.spec.encoder:
            features = torch.cat([model.encode_features(part) for part in flat.split(ENCODED_AT_ONCE)])
            latents[FEATURES] = features.unflatten(0, (b, v)).movedim(1, 2)
    return latents


@dataclass(frozen=True)
class EncodeJob:
    """What one process does: shards `worker`, `worker + workers`, ... below `shards`."""

    directory: Path
    lengths: Sequence[Length]
    shards: int
    worker: int = 0
    workers: int = 1


def latents_of(model: GeometryModel) -> str:
    """What latents must have in common to be of one kind: a hash of the encoders, and how point maps are normalised."""
    digest = hashlib.sha256()
    if model.spec.encoder:  # its projection is fitted to what its network gives, and so tells of that too
        for buffer in (model.frame_encoder.mean, model.frame_encoder.std, model.frame_encoder.projection):
            digest.update(buffer.half().cpu().numpy().tobytes())
    for name, value in model.autoencoder.state_dict().items():
        if not name.startswith("decoder."):
            digest.update(
                name.encode() + value.detach().half().cpu().numpy().tobytes()
            )  # models are saved in half precision too
    return f"{digest.hexdigest()[:16]} {model.spec.points_normalization}"


def fill_pool(
    job: EncodeJob,
    source: ClipSource,
    model: GeometryModel,
    layout: Layout,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Renders or reads, and encodes, every shard of the job that is not there yet.

    Raises InputError for a pool of other latents.
    """
    job.directory.mkdir(parents=True, exist_ok=True)
    kind = latents_of(model)
    if list(job.directory.glob(f"*{SUFFIX}")):
        LatentPool(job.directory).check(kind)
    for shard in range(job.worker, job.shards, job.workers):
        if not list(job.directory.glob(f"*_{shard:06d}{SUFFIX}")):
            length = pick(job.lengths, [shard, 3])
            batch = source.batch(Place(shard), length)
            write_shard(job.directory, shard, batch, encode_batch(model, layout, batch), kind)
        if progress is not None:
            progress(shard + 1, job.shards)


def write_shard(directory: Path, shard: int, batch: ClipBatch, latents: dict[str, Tensor], kind: str = "") -> None:
    """Writes one shard, in one move; `kind` is what `latents_of` says of the model."""
    height, width = batch.clip.depth.shape[-2:]
    path = directory / f"{height}x{width}x{batch.frame_index.shape[1]}_{shard:06d}{SUFFIX}"
    tensors = {name: value.half().cpu().contiguous() for name, value in latents.items()}
    with whole_file(path, alone=True) as temporary:
        save_file({**tensors, "frame_index": batch.frame_index, "fps": batch.fps}, temporary, metadata={KIND: kind})


@dataclass
class LatentPool:
    """The shards of a folder, grouped by size and length. Raises InputError if there are none."""

    directory: Path
    groups: dict[str, list[Path]] = field(init=False)
    _open: OrderedDict[Path, Any] = field(init=False, default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.groups = {}
        for path in sorted(self.directory.glob(f"*{SUFFIX}")):
            self.groups.setdefault(path.name.split("_")[0], []).append(path)
        if not self.groups:
            raise InputError(
                f"There are no latents in {self.directory}; encode some first, by the stage of kind latents or geo4d "
                "data encode."
            )

    def check(self, kind: str) -> None:
        """Raises InputError if a shard was encoded by another autoencoder; shards that do not say are trusted."""
        for paths in self.groups.values():
            for path in paths:
                found = (self._archive(path).metadata() or {}).get(KIND)
                if found and found != kind:
                    raise InputError(
                        f"{path} was encoded by another autoencoder than this model's, or of point maps that were "
                        "normalised in another way; begin with the model that encoded it, or encode anew into another "
                        "folder."
                    )

    def draw(
        self, at: Place, *, seed: int, frames: int, clip_frames: int, sizes: Sequence[tuple[int, int]] = ()
    ) -> dict[str, Tensor]:
        """A batch of about `frames` frames in clips of `clip_frames`, the same at every part.

        All are of one size (any, or one of `sizes`). Raises InputError if the pool has no such clips, or a shard is
        broken.
        """
        wanted = {f"{height}x{width}x{clip_frames}" for height, width in sizes}
        names = sorted(name for name in self.groups if (name in wanted if wanted else name.endswith(f"x{clip_frames}")))
        if not names:
            raise InputError(
                f"The latents in {self.directory} are of {', '.join(sorted(self.groups))}; none has {clip_frames} "
                f"frames{' and one of the wanted sizes' if wanted else ''}. Encode some, or set other sizes."
            )
        counts = np.array([len(self.groups[name]) for name in names], dtype=float)
        group = self.groups[
            names[np.random.default_rng([seed, at.step, 1]).choice(len(names), p=counts / counts.sum())]
        ]
        generator = np.random.default_rng([seed, at.number, 2])
        picks = []
        for _ in range(max(1, frames // clip_frames)):
            path = group[generator.integers(len(group))]
            picks.append(self._clip(path, float(generator.random())))
        return {key: torch.stack([each[key] for each in picks]) for key in picks[0]}

    def sample(self, size: tuple[int, int], shards: int) -> dict[str, Tensor]:
        """All latents (n, c, y, x) of the first shards of a size, of each length, by name."""
        names = sorted(name for name in self.groups if name.startswith(f"{size[0]}x{size[1]}x"))
        if not names:
            raise InputError(
                f"The latents in {self.directory} have none of {size[0]} x {size[1]} pixels, the model's own size; "
                "encode some."
            )
        archives = [self._archive(path) for name in names for path in self.groups[name][:shards]]
        keys = [key for key in archives[0].keys() if key not in NO_LATENTS]
        return {
            key: torch.cat([a.get_tensor(key).movedim(2, 1).flatten(0, 1) for a in archives]).float() for key in keys
        }

    def _clip(self, path: Path, where: float) -> dict[str, Tensor]:
        archive = self._archive(path)
        rows = {key: archive.get_slice(key) for key in archive.keys()}
        index = int(where * rows["fps"].get_shape()[0])
        clip = {key: row[index : index + 1][0] for key, row in rows.items()}
        return {key: value.float() if value.is_floating_point() else value for key, value in clip.items()}

    def _archive(self, path: Path) -> Any:
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"The latents {path} cannot be read ({error}); remove the file and encode again."
                ) from error
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        return self._open[path]
