"""What a stage of training is told.

Files below configs/train/ fill `StageConfig`; what they leave out has the value given here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from geo4d.data.mixture import MixtureConfig, Size
from geo4d.errors import ConfigError
from geo4d.modalities.layout import ORDER
from geo4d.modalities.points import Normalization
from geo4d.synthetic import Detail
from geo4d.training.loop_config import LoopConfig

Kind = Literal["autoencoder", "latents", "point_decoder", "denoiser"]


@dataclass(frozen=True)
class Length:
    """Clips of one length; `share` is its part of the shards, not of the frames."""

    frames: int
    clips: int = 16  # in one shard
    share: float = 1.0


@dataclass(frozen=True)
class WorldShare:
    """Procedural worlds of one kind, and their part of the batches."""

    detail: Detail = "plain"
    share: float = 1.0


@dataclass(frozen=True)
class SetConfig:
    """One data set of a mixture: a folder, or rendered scenes.

    With `kind: procedural` scenes are rendered when they are asked for.
    """

    root: str | None = None
    kind: str | None = None  # default: by the layout
    include: str | None = None  # pattern of recordings
    far: float | None = None  # metres beyond which all counts as sky
    fill: int | None = None  # pointodyssey: pixels that depth is spread into holes


@dataclass(frozen=True)
class DataConfig:
    """Which clips a stage sees: procedural scenes alone (no `sets`), or a mixture of data sets."""

    sizes: list[Size] = field(default_factory=lambda: [Size(320, 512)])
    lengths: list[Length] = field(default_factory=lambda: [Length(16)])
    worlds: list[WorldShare] = field(default_factory=lambda: [WorldShare()])  # of procedural scenes, without `sets`
    sets: dict[str, SetConfig | None] = field(default_factory=dict)  # by name, as in `mixture.ratios`; null: left out
    mixture: MixtureConfig = field(default_factory=MixtureConfig)  # its sizes, frames and batch are set by the stage
    readers: int = 0  # processes that read ahead

    def __post_init__(self) -> None:
        """Raises ConfigError if there is nothing to draw."""
        if not self.sizes or not self.lengths or min(length.frames for length in self.lengths) < 1:
            raise ConfigError("data needs at least one size and one length of a frame or more.")
        if not self.worlds or min(world.share for world in self.worlds) < 0 or not any(w.share for w in self.worlds):
            raise ConfigError("data.worlds needs at least one kind of worlds, with a share above 0.")


@dataclass(frozen=True)
class AutoencoderConfig:
    """Reconstruction of frames and geometry images by one autoencoder."""

    modalities: tuple[str, ...] = ORDER  # whose images it learns, beside the frames; none: the frames alone
    shards: int = 32  # of `clips` pairs of frames each, rendered or read once and kept
    clips: int = 64
    batch: int = 32  # images a step
    kl_weight: float = 1e-4
    decoder_alone: bool = False  # latents, and with them the denoiser, stay what they are
    normalization: Normalization | None = None  # of point maps, from this stage on; none: the model's


@dataclass(frozen=True)
class LatentsConfig:
    """The pool: clips encoded once, so that the denoiser does not wait for the autoencoder."""

    modalities: tuple[str, ...] = ORDER
    shards: int = 400
    workers: int = 1  # processes that render or read, and encode


@dataclass(frozen=True)
class ObjectiveConfig:
    """The denoiser's loss; the defaults are the paper's plain v-diffusion.

    In a share of the clips the input is zero at the last step, and the network's -v regresses the posterior mean: one
    step at inference. With `zero_share` 1 that is all it learns.
    """

    zero_share: float = 0.0
    timesteps: Literal["uniform", "noisy"] = "uniform"  # of the other clips; noisy: 1 - u^2 of the way to the last
    image_weights: dict[str, float] = field(default_factory=dict)  # by name of the image; 1 where it is not named
    squared_images: tuple[str, ...] = ()  # L2 in the regression; L1 elsewhere
    channel_floor: float = 1.0  # channels count by their spread, at least by so much of the widest one's; 1: all alike
    pixel_weight: float = 0.0  # of the L1 between decoded images, of predicted and of true latents
    pixel_frames: int = 4  # of a batch, that are decoded
    condition_noise: float = 0.0  # in frames' latents and features, by their spread, lest a small pool be memorised
    drop_text: float = 0.0  # shares of the clips that lose a condition (method 4)
    drop_image: float = 0.0
    drop_both: float = 0.0

    def __post_init__(self) -> None:
        """Raises ConfigError for shares that are none."""
        shares = (self.zero_share, self.channel_floor, self.drop_text + self.drop_image + self.drop_both)
        weights = (self.pixel_weight, self.condition_noise)
        if min(shares) < 0 or max(shares) > 1 or min(weights) < 0 or self.pixel_frames < 1:
            raise ConfigError(
                "Shares of the objective lie between 0 and 1, weights and noise from 0, and pixel_frames from 1."
            )


@dataclass(frozen=True)
class DenoiserConfig:
    """Latent video diffusion: short clips first where asked for, whole windows at the end."""

    latents: str | None = None  # folder of the pool; none: clips are rendered or read, and encoded, step by step
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    batch_frames: int = 16  # of a micro-batch
    short_frames: int = 2
    long_frames: int = 16
    short_share: float = (
        0.0  # of the run, on short clips alone; afterwards long and short ones in turn. 0: long ones alone
    )
    # what reads each frame by itself: trained with the rest, alone (at a quarter of the cost) or held as it is
    frame_head: Literal["joint", "alone", "held"] = "joint"
    fit_statistics: bool = False  # mean and spread of latents that are new, from the pool; else those of the release


@dataclass(frozen=True)
class PointDecoderConfig:
    """The decoder of point maps, with its uncertainty (paper Eq. 3)."""

    begin: Literal["autoencoder", "own"] = "autoencoder"  # own: go on with the decoder that the model has
    blocks: int = 2  # of the uncertainty branch
    frames: int = 2
    batch: int = 8  # clips a step
    predicted_share: float = 0.0  # of the batches: latents that the denoiser predicts rather than the encoder's


@dataclass(frozen=True)
class ValidationConfig:
    """The whole pipeline on procedural clips that no training draws, at every checkpoint of a denoiser."""

    clips: int = 4  # 0: none
    frames: int = 24
    tracks: bool = False  # the network alone is what is trained
    quick_clips: int = 24  # of 8 frames, one window each: a figure for every modality


@dataclass(frozen=True)
class StageConfig:
    """One stage: a model comes in, a model goes out, in `out`/`name`/model."""

    kind: Kind = "denoiser"
    name: str = ""  # default: the name of its file
    out: str = "runs/geo4d"
    preset: str | None = None  # begin with random weights of this shape ...
    start: str | None = None  # ... or with a model: an earlier stage's, a file, a folder, a released checkpoint
    encoder: str | None = (
        None  # weights of a preset's frame encoder: a published folder or hub repository, a model; or random
    )
    vae: str | None = None  # the point-map autoencoder of a released checkpoint
    modalities: tuple[
        str, ...
    ] = ()  # the denoiser's after this stage; it grows by what is new. None named: as they are
    seed: int = 0
    device: str = "auto"
    export: str | None = None  # also write the finished model as one file, in half precision
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    latents: LatentsConfig = field(default_factory=LatentsConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    point_decoder: PointDecoderConfig = field(default_factory=PointDecoderConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
