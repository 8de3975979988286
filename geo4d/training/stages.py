"""From nothing to a working model, stage by stage: autoencoder, latent pool, U-Net, point decoder, one weight file.

Every stage can be run alone and killed at any time; started again it goes on where it was. Stages that fill the pool may
run in several processes beside the one that trains.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from geo4d._typing import Tensor
from geo4d.diffusion.sampler import one_step
from geo4d.diffusion.schedule import Schedule, make_schedule
from geo4d.errors import InputError
from geo4d.modalities import Layout, make_layout
from geo4d.models.geometry_model import GeometryModel, build_model
from geo4d.models.presets import PRESETS
from geo4d.models.storage import save_model
from geo4d.training.autoencoder import autoencoder_loss, fit_pca, point_decoder_loss
from geo4d.training.checkpoints import Checkpoints, load_ema
from geo4d.training.clips import Bucket, ClipBatch, pick_bucket, render_shard, rgb_images
from geo4d.training.diffusion import ObjectiveConfig, diffusion_loss
from geo4d.training.latents import EncodeJob, LatentPool, fill_pool
from geo4d.training.loop import Draw, LoopConfig, TrainingLoop
from geo4d.training.ranks import choose_device, is_main, main_first
from geo4d.training.validation import make_validator

logger = logging.getLogger(__name__)

Stage = Literal["autoencoder", "encode", "unet", "points", "export"]
TRAINED_STAGES = ("autoencoder", "unet", "points")  # by all processes together; the others by the main one alone
AUTOENCODER_SPLIT, POOL_SPLIT, POINTS_SPLIT = 1, 2, 3  # scene seeds of the stages; evaluation uses none of them


@dataclass(frozen=True)
class DataConfig:
    """Procedural clips of the run."""

    buckets: list[Bucket] = field(default_factory=lambda: [Bucket(64, 96, 2, 128, 0.6), Bucket(64, 96, 16, 16, 0.4)])
    autoencoder_shards: int = 48
    shards: int = 500
    workers: int = 1  # processes that render and encode


@dataclass(frozen=True)
class UnetConfig:
    """The denoiser's stage: short clips first, whole windows at the end."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    batch_frames: int = 32
    short_frames: int = 2
    long_frames: int = 16
    short_share: float = 0.6  # of the run, on short clips alone; afterwards long and short ones in turn
    refresh_every: int = 200  # steps between looks for new shards
    minimum_frames: int = 4000  # of the pool before training starts


@dataclass(frozen=True)
class TrainConfig:
    """One training run; what is not named here is in the model preset."""

    preset: str = "small"
    out: str = "runs/small"
    seed: int = 0
    device: str = "auto"
    stages: tuple[Stage, ...] = ("autoencoder", "encode", "unet", "points", "export")
    data: DataConfig = field(default_factory=DataConfig)
    autoencoder: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2500, flat_share=0.3))
    unet: UnetConfig = field(default_factory=UnetConfig)
    points: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1500, learning_rate=3e-4))
    autoencoder_batch: int = 32  # images a step
    points_predicted_share: float = 0.7  # of the point decoder's latents: from the U-Net rather than the encoder


class Trainer:
    """Holds the model of a run and its folder; one method a stage."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.directory = Path(config.out)
        self.device = choose_device(config.device)
        self.model: GeometryModel = build_model(PRESETS[config.preset], seed=config.seed).to(self.device)
        self.layout: Layout = make_layout(self.model.spec.modalities, normalization=self.model.spec.points_normalization)
        self.schedule: Schedule = make_schedule(dynamic_rescale=self.model.spec.dynamic_rescale)

    def run(self) -> None:
        """Runs the configured stages in order."""
        for stage in self.config.stages:
            logger.info("stage %s", stage)
            if stage in TRAINED_STAGES:
                getattr(self, f"run_{stage}")()
                continue
            with main_first():
                if is_main():
                    getattr(self, f"run_{stage}")()

    def run_autoencoder(self) -> None:
        """PCA start, then reconstruction of frames and of every geometry image alike."""
        with main_first():
            images = self._autoencoder_images()
        torch.manual_seed(self.config.seed)
        if not Checkpoints(self.directory / "autoencoder").steps():
            sample = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:4000]
            self.model.autoencoder.set_pca(*fit_pca(images[sample].float()))
        loop = TrainingLoop("autoencoder", self.model.autoencoder, self.config.autoencoder, self.directory, self.device)

        def draw(step: int) -> Tensor:
            picks = torch.from_numpy(
                np.random.default_rng([self.config.seed, step]).integers(len(images), size=self.config.autoencoder_batch)
            )
            return images[picks].float().to(self.device)

        loop.run(autoencoder_loss(self.model.autoencoder, draw))

    def run_encode(self) -> None:
        """Fills the latent pool, in `data.workers` processes."""
        self._load("autoencoder", self.model.autoencoder)
        data = self.config.data
        jobs = [
            EncodeJob(self.directory / "pool", data.buckets, data.shards, POOL_SPLIT, worker, data.workers, str(self.device))
            for worker in range(data.workers)
        ]
        if data.workers == 1:
            fill_pool(jobs[0], self.model.autoencoder, self.layout)
            return
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=_encode_worker, args=(self.config, job)) for job in jobs]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise InputError("A process that fills the latent pool failed; its message stands above.")

    def run_unet(self) -> None:
        """The denoiser, on the pool as it grows."""
        self._load("autoencoder", self.model.autoencoder)
        config, pool = self.config.unet, LatentPool(self.directory / "pool")
        frames = pool.refresh()
        if frames < config.minimum_frames:
            raise InputError(f"The latent pool holds {frames} frames, {config.minimum_frames} are needed; run the encode stage first.")
        with main_first():
            self._fit_normalizer(pool)
        self.model.unet.to(memory_format=torch.channels_last) if self.device.type == "cuda" else None
        loop = TrainingLoop("unet", self.model.unet, config.loop, self.directory, self.device)

        def draw(number: Draw) -> dict[str, Tensor]:
            if number.step % config.refresh_every == 0 and number.micro == 0:
                logger.info("pool: %d frames", pool.refresh())
            short = loop.progress < config.short_share or number.step % 2 == 1
            length = config.short_frames if short else config.long_frames
            generator = np.random.default_rng([self.config.seed, number, 2])
            return pool.draw(generator, frames=config.batch_frames, clip_frames=length)

        validate = make_validator(self.model, self.layout, self.schedule)
        loss = diffusion_loss(self.model, self.layout, self.schedule, config.objective, draw)
        loop.run(loss, on_checkpoint=lambda step: validate())

    def run_points(self) -> None:
        """The point decoder with its uncertainty, on encoded and on predicted latents."""
        self._load("autoencoder", self.model.autoencoder)
        self._load_normalizer()
        self._load("unet", self.model.unet)
        blocks = self.model.spec.uncertainty_blocks
        torch.manual_seed(self.config.seed)  # the decoder's new part starts alike, whichever stages ran before
        self.model.point_decoder = self.model.autoencoder.make_decoder(uncertainty_blocks=blocks).to(self.device)
        loop = TrainingLoop("points", self.model.point_decoder, self.config.points, self.directory, self.device)
        loop.run(point_decoder_loss(self.model.point_decoder, self._draw_points))

    def run_export(self) -> None:
        """Writes the whole model as one file."""
        for name in ("autoencoder", "unet"):
            self._load(name, getattr(self.model, name))
        self._load_normalizer()
        self._load("points", self.model.point_decoder)
        self.model.eval()
        save_model(self.model, self.directory / f"{self.config.preset}.safetensors")
        logger.info("wrote %s", self.directory / f"{self.config.preset}.safetensors")

    @torch.no_grad()
    def _draw_points(self, step: int) -> tuple[Tensor, Tensor]:
        """Latents to decode and the point images they stand for, of freshly rendered clips."""
        with torch.autocast(self.device.type, enabled=False):  # geometry is never rendered in half precision
            batch = self._points_batch(step)
            images = self.layout.encode(batch.clip)["points"].flatten(0, 1).to(self.device)
        latents = self.model.autoencoder.encode(images)[0].float()
        if np.random.default_rng([POINTS_SPLIT, step]).random() >= self.config.points_predicted_share:
            return latents, images
        rgb = rgb_images(batch.clip).to(self.device)
        condition = self.model.encode_rgb(rgb.flatten(0, 1)).unflatten(0, rgb.shape[:2]).movedim(1, 2)
        denoise = self.model.denoiser(condition, batch.fps.to(self.device), batch.frame_index.to(self.device))
        like = torch.zeros(len(rgb), self.layout.latent_channels, *condition.shape[2:], device=self.device)
        predicted = self.layout.split(one_step(denoise, like, self.schedule))["points"].float()
        return self.model.normalizer.denormalize("points", predicted.movedim(2, 1).flatten(0, 1)), images

    def _points_batch(self, step: int) -> ClipBatch:
        """A few short clips, of another bucket each step."""
        short = [bucket for bucket in self.config.data.buckets if bucket.frames == self.config.unet.short_frames]
        bucket = pick_bucket(short, POINTS_SPLIT, step)
        return render_shard(Bucket(bucket.height, bucket.width, bucket.frames, 8, 1.0), POINTS_SPLIT, step)

    def _autoencoder_images(self) -> Tensor:
        """Frames and geometry images (n, 3, h, w) in half precision, rendered once and kept on disk."""
        path = self.directory / "autoencoder_images.pt"
        if path.exists():
            return torch.load(path, weights_only=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        height, width = self.model.spec.base_size
        images = []
        for shard in range(self.config.data.autoencoder_shards):
            batch = render_shard(Bucket(height, width, 2, 64, 1.0), AUTOENCODER_SPLIT, shard)
            frames = {"rgb": rgb_images(batch.clip), **self.layout.encode(batch.clip)}
            images.append(torch.cat([image[:, shard % 2].half() for image in frames.values()]))
            logger.info("autoencoder images: shard %d of %d", shard + 1, self.config.data.autoencoder_shards)
        result = torch.cat(images)
        torch.save(result, path)
        return result

    def _fit_normalizer(self, pool: LatentPool) -> None:
        """Mean per position and spread per channel, from the first shards of the base size; kept with the run."""
        path = self.directory / "normalizer.pt"
        if not path.exists():
            height, width = self.model.spec.base_size
            names = [name for name in pool.groups if name.startswith(f"{height}x{width}x")]
            shards = [shard for name in sorted(names) for shard in pool.groups[name][:40]]
            for name in ("rgb", *self.layout.image_names):
                latents = np.concatenate([shard[name].swapaxes(1, 2).reshape(-1, 4, *shard[name].shape[3:]) for shard in shards])
                self.model.normalizer.fit(name, torch.from_numpy(latents).float())
            torch.save(self.model.normalizer.state_dict(), path)
        self._load_normalizer()

    def _load_normalizer(self) -> None:
        state = torch.load(self.directory / "normalizer.pt", map_location=self.device, weights_only=True)
        self.model.normalizer.load_state_dict(state)

    def _load(self, stage: str, module: torch.nn.Module) -> None:
        """The finished (EMA) weights of an earlier stage."""
        if not Checkpoints(self.directory / stage).steps():
            raise InputError(f"Stage {stage} has not been run in {self.directory}: it has no checkpoint there; run it first.")
        module.load_state_dict(load_ema(self.directory / stage))
        module.eval()


def _encode_worker(config: TrainConfig, job: EncodeJob) -> None:
    """One process of the encode stage."""
    logging.basicConfig(level=logging.WARNING)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # a helper of one process, not one of the run's processes
        os.environ.pop(name, None)
    torch.set_num_threads(1)
    trainer = Trainer(config)
    trainer._load("autoencoder", trainer.model.autoencoder)
    fill_pool(job, trainer.model.autoencoder, trainer.layout)
