"""The kinds of stage.

Each takes a model and gives back a better one; each can be killed at any time and goes on where it was.

    <out>/<stage>/config.yaml     all settings
    <out>/<stage>/<kind>/step_*   checkpoints
    <out>/<stage>/log.jsonl       and tensorboard/
    <out>/<stage>/model/          the finished model (of kind latents: *.safetensors, the pool)

The network is that of method 3, the order of training that of method 4.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from geo4d._typing import Tensor
from geo4d.diffusion.sampler import one_step
from geo4d.diffusion.schedule import make_schedule
from geo4d.errors import ConfigError, Geo4DError, InputError
from geo4d.models.geometry_model import GeometryModel
from geo4d.models.grow import with_point_decoder
from geo4d.models.latents import LatentNormalizer
from geo4d.scene.atomic import whole_file
from geo4d.training import ranks
from geo4d.training.autoencoder import autoencoder_loss, fit_encoder, fit_pca, point_decoder_loss
from geo4d.training.checkpoints import Checkpoints
from geo4d.training.config import Length, StageConfig
from geo4d.training.diffusion import diffusion_loss
from geo4d.training.latents import EncodeJob, LatentPool, encode_batch, fill_pool, latents_of
from geo4d.training.loop import Draw, TrainingLoop
from geo4d.training.sources import Place, open_source, rgb_images
from geo4d.training.start import fit_statistics, layout_of, spec_layout, starting_model
from geo4d.training.validation import make_validator

logger = logging.getLogger(__name__)

AUTOENCODER_STREAM, POOL_STREAM, POINTS_STREAM = 1, 2, 3  # scene splits of the stages; evaluation uses none of them
PCA_IMAGES = 4000

Validate = Callable[[GeometryModel, Path, int], dict[str, float]]  # scores a model; pictures go into the folder


@dataclass(frozen=True)
class Stage:
    """One stage under way: its settings, its folder, the model as it came in."""

    config: StageConfig
    directory: Path
    model: GeometryModel
    device: torch.device
    validate: Validate | None = None


def run_autoencoder(stage: Stage) -> GeometryModel:
    """Reconstruction of frames and of every geometry image alike; a new autoencoder starts at the PCA of its images.

    A new model's frame encoder is fitted to the frames, and stays as it is from then on.

    One that is tuned further gives other latents: its model has no point decoder and no latent statistics any more, and
    its denoiser has to learn anew. With `decoder_alone` latents stay, and it loses the point decoder alone.
    """
    config, own = stage.config, stage.config.autoencoder
    model = with_point_decoder(stage.model, 0)
    if not own.decoder_alone:
        model.normalizer = LatentNormalizer(
            ("rgb", *model.spec.image_names), model.normalizer.grid, model.spec.latent_channels
        ).to(stage.device)
    elif config.start is None or own.normalization is not None:
        raise ConfigError(
            "A decoder alone is tuned for the latents of a model that is there: set start, and leave "
            "autoencoder.normalization out."
        )
    if own.normalization is not None:
        model.spec = replace(model.spec, points_normalization=own.normalization)
    with ranks.main_first():
        images = _pictures(replace(stage, model=model))
    if config.start is None and model.spec.encoder:
        frames = images.unflatten(0, (own.shards, -1, own.clips))[:, 0].flatten(0, 1)
        fit_encoder(model.frame_encoder, frames, seed=config.seed)
        logger.info("the frame encoder's projection is fitted")
    torch.manual_seed(config.seed)
    is_new = config.start is None and not Checkpoints(stage.directory / "autoencoder").steps()
    if is_new and model.autoencoder.config.pca_skip:
        sample = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))[:PCA_IMAGES]
        model.autoencoder.set_pca(*fit_pca(images[sample].float(), model.spec.latent_channels))

    def draw(number: Draw) -> Tensor:
        picks = torch.from_numpy(np.random.default_rng([config.seed, number]).integers(len(images), size=own.batch))
        return images[picks].float().to(stage.device)

    if own.decoder_alone:
        model.autoencoder.requires_grad_(requires_grad=False)
        model.autoencoder.decoder.requires_grad_()
    loop = TrainingLoop("autoencoder", model.autoencoder, config.loop, stage.directory, stage.device)
    loop.run(autoencoder_loss(model.autoencoder, draw, kl_weight=own.kl_weight))
    model.autoencoder.requires_grad_()
    return model


def run_latents(stage: Stage) -> None:
    """Fills the pool: each process of the run its share, in `latents.workers` processes each."""
    own, world = stage.config.latents, torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    rank = torch.distributed.get_rank() if world > 1 else 0
    config = replace(
        stage.config, device=str(stage.device)
    )  # a process of its own does not know which GPU is its parent's
    jobs = [
        (config, stage.directory, rank * own.workers + worker, world * own.workers) for worker in range(own.workers)
    ]
    if own.workers == 1:
        encode_shards(*jobs[0], model=stage.model)
        return
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_encode_apart, args=job) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise InputError(
            "A process that fills the latent pool failed; its message stands above. Started again, it goes on from "
            "there."
        )


def _encode_apart(config: StageConfig, directory: Path, worker: int, workers: int) -> None:
    """The shards of a process of its own, which is not one of the run's; what is wrong is said in one sentence."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
    torch.set_num_threads(1)
    try:
        encode_shards(config, directory, worker, workers, model=starting_model(config, torch.device(config.device)))
    except Geo4DError as error:
        sys.stderr.write(f"geo4d: error: {error}\n")
        raise SystemExit(1) from None


def encode_shards(config: StageConfig, directory: Path, worker: int, workers: int, *, model: GeometryModel) -> None:
    """The shards of one process."""
    model.eval()
    layout = spec_layout(model.spec, config.latents.modalities)
    source = open_source(config.data, seed=config.seed, stream=POOL_STREAM, device=str(model.device))
    job = EncodeJob(directory, config.data.lengths, config.latents.shards, worker, workers)

    def progress(done: int, total: int) -> None:
        if done % 20 == 0 or done == total:
            logger.info("latents: shard %d of %d", done, total)

    fill_pool(job, source, model, layout, progress)


def run_denoiser(stage: Stage) -> GeometryModel:
    """The denoiser, on latents from the pool or encoded step by step."""
    config, model, own = stage.config, stage.model, stage.config.denoiser
    layout, schedule = layout_of(model), make_schedule(dynamic_rescale=model.spec.dynamic_rescale)
    model.autoencoder.eval()
    pool = LatentPool(Path(own.latents)) if own.latents is not None else None
    if pool is not None:
        pool.check(latents_of(model))
    if own.fit_statistics:
        if pool is None:
            raise InputError("denoiser.fit_statistics needs a pool of latents: set denoiser.latents=FOLDER.")
        fit_statistics(model, pool)
    source = (
        None
        if pool is not None
        else open_source(config.data, seed=config.seed, stream=POOL_STREAM, device=str(stage.device))
    )
    for layer in model.unet.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.to(memory_format=torch.channels_last)  # faster by a fifteenth on a CPU, where that was measured
    if own.frame_head != "joint" and not model.unet.config.frame_head_width:
        raise ConfigError(
            f"This model has no frame head that could be {own.frame_head}; leave denoiser.frame_head out."
        )
    model.unet.is_head_alone = own.frame_head == "alone"
    if own.frame_head == "held":
        model.unet.hold_frame_head()
    loop = TrainingLoop("denoiser", model.unet, config.loop, stage.directory, stage.device)
    sizes = [(size.height, size.width) for size in config.data.sizes]

    def draw(number: Draw) -> dict[str, Tensor]:
        short = own.short_share > 0 and (loop.progress < own.short_share or number.step % 2 == 1)
        frames = own.short_frames if short else own.long_frames
        at = Place.of(number)
        if pool is not None:
            return pool.draw(at, seed=config.seed, frames=own.batch_frames, clip_frames=frames, sizes=sizes)
        assert source is not None
        with torch.autocast(stage.device.type, enabled=False):  # geometry is never rendered in half precision
            batch = source.batch(at, Length(frames, max(1, own.batch_frames // frames)))
        return {**encode_batch(model, layout, batch), "frame_index": batch.frame_index, "fps": batch.fps}

    quick = make_validator(model, layout, schedule, clips=config.validation.quick_clips)

    def validate(step: int) -> dict[str, float]:
        model.eval()
        numbers = {**quick(), **_validate_pipeline(stage, model, step)}
        model.unet.train()
        return numbers

    loop.run(diffusion_loss(model, layout, schedule, own.objective, draw), on_checkpoint=validate)
    model.unet.is_head_alone = False
    model.unet.requires_grad_()
    return model


def run_point_decoder(stage: Stage) -> GeometryModel:
    """The point decoder with its uncertainty, on the encoder's latents or on what the denoiser makes of the frames."""
    config, own = stage.config, stage.config.point_decoder
    torch.manual_seed(config.seed)  # the decoder's new part starts alike, whichever stages ran before
    model = stage.model if own.begin == "own" else with_point_decoder(stage.model, own.blocks)
    if not model.spec.uncertainty_blocks:
        raise InputError("The model has no point decoder to go on with; set point_decoder.begin=autoencoder.")
    layout, schedule = layout_of(model), make_schedule(dynamic_rescale=model.spec.dynamic_rescale)
    source = open_source(config.data, seed=config.seed, stream=POINTS_STREAM, device=str(stage.device))
    model.eval()
    loop = TrainingLoop("point_decoder", model.point_decoder, config.loop, stage.directory, stage.device)

    @torch.no_grad()
    def draw(number: Draw) -> tuple[Tensor, Tensor]:
        """Latents to decode and the point images they stand for."""
        with torch.autocast(stage.device.type, enabled=False):
            batch = source.batch(Place.of(number), Length(own.frames, own.batch))
            images = layout.encode(batch.clip)["points"].flatten(0, 1).to(stage.device)
        if np.random.default_rng([config.seed, POINTS_STREAM, number.step]).random() >= own.predicted_share:
            return model.autoencoder.encode(images)[0].float(), images
        rgb = rgb_images(batch.clip).to(stage.device)
        condition, features = model.encode_windows(rgb)
        rates, frame_index = batch.fps.to(stage.device), batch.frame_index.to(stage.device)
        denoise = model.denoiser(condition, rates, frame_index, features=features)
        like = torch.zeros(len(rgb), layout.latent_channels, *condition.shape[2:], device=stage.device)
        predicted = layout.split(one_step(denoise, like, schedule))["points"].float()
        return model.normalizer.denormalize("points", predicted.movedim(2, 1).flatten(0, 1)), images

    def validate(step: int) -> dict[str, float]:
        return _validate_pipeline(stage, model, step)

    # latents that a denoiser predicts: it is trained already, so the whole pipeline can be looked at
    loop.run(point_decoder_loss(model.point_decoder, draw), on_checkpoint=validate if own.predicted_share > 0 else None)
    return model


def _validate_pipeline(stage: Stage, model: GeometryModel, step: int) -> dict[str, float]:
    """Scores the model by the whole pipeline, and tells it by how much its windows' agreement promises too much."""
    numbers = {} if stage.validate is None else stage.validate(model, stage.directory / "validation", step)
    ratio = numbers.get("pipeline_error_ratio", math.nan)
    if math.isfinite(ratio) and ratio > 0:
        model.spec = replace(model.spec, error_scale=model.spec.error_scale * ratio)
    return numbers


def _pictures(stage: Stage) -> Tensor:
    """Frames and geometry images (n, 3, h, w) in half precision, rendered or read once and kept with the stage."""
    path, own, spec = stage.directory / "images.safetensors", stage.config.autoencoder, stage.model.spec
    if path.exists():
        return load_file(path)["images"]
    size = replace(stage.config.data.sizes[0], height=spec.base_size[0], width=spec.base_size[1])
    source = open_source(stage.config.data, seed=stage.config.seed, stream=AUTOENCODER_STREAM, device=str(stage.device))
    layout = spec_layout(spec, own.modalities) if own.modalities else None
    images = []
    for shard in range(own.shards):
        batch = source.batch(Place(shard), Length(2, own.clips), [size])
        frames = {"rgb": rgb_images(batch.clip), **(layout.encode(batch.clip) if layout else {})}
        images.append(torch.cat([image[:, shard % 2].half().cpu() for image in frames.values()]))
        logger.info("autoencoder images: shard %d of %d", shard + 1, own.shards)
    with whole_file(path, alone=True) as temporary:
        save_file({"images": torch.cat(images)}, temporary)
    return torch.cat(images)
