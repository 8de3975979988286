"""The main job: a video in, a 4D reconstruction out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from geo4d._typing import Int, Tensor
from geo4d.alignment import AlignmentConfig, Priors, align
from geo4d.diffusion.schedule import STEPS, make_schedule
from geo4d.errors import ConfigError, InputError
from geo4d.io.video import FOLDER_FPS, Selection, at_size, read_video
from geo4d.modalities import make_layout
from geo4d.models.device import is_fast_in_bfloat16, pick_device
from geo4d.models.geometry_model import GeometryModel
from geo4d.models.storage import load_model, push_to_hub, save_folder
from geo4d.scene import Reconstruction, Video, WindowPredictions
from geo4d.tracks import PointFollower, TrackerConfig
from geo4d.windows.cache import WindowCache, fingerprint_frames, fingerprint_model
from geo4d.windows.plan import plan_windows
from geo4d.windows.predict import PredictConfig, Predictor, Progress

logger = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Compat = Literal["model", "exact", "released"]
MAX_SQUEEZE = 2.0  # how far a source's aspect ratio may be from the working resolution's
WARN_SQUEEZE = 1.5


@dataclass(frozen=True)
class InferConfig:
    """What `reconstruct` can be told; every default is meant to be kept."""

    start: int = 0
    max_frames: int | None = None
    frame_stride: int = 1
    stride: int = 4  # between windows
    steps: int | None = None  # None: as the model was made for; 0: one step from zero input; else DDIM steps
    seed: int = 0
    windows_per_batch: int = 2
    size: tuple[int, int] | None = None  # (height, width) to work at; None: the model's that is nearest in aspect ratio
    tracks: bool = True  # whether cameras and focal length are corrected by points followed through the source frames
    tracker: TrackerConfig = field(default_factory=TrackerConfig)  # how they are followed
    detail_size: int = 384  # pixels of the longer side at which near views sharpen depth; never above the video's own
    compat: Compat = "model"  # "released": all that the released script does; "exact": its sampler's last step undone
    mirrored: bool = False  # whether mirrored frames are predicted too, and averaged in: twice the network's time

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.compat not in ("model", "exact", "released"):
            raise ConfigError(f"compat must be model, exact or released; got {self.compat!r}.")
        if self.mirrored and self.compat == "released":
            raise ConfigError("The released script predicts no mirrored frames; leave out mirrored or compat=released.")
        if self.stride < 1 or self.windows_per_batch < 1:
            raise ConfigError(
                f"stride and windows per batch must be at least 1; got stride {self.stride} and windows per batch "
                f"{self.windows_per_batch}."
            )
        if self.steps is not None and not 0 <= self.steps <= STEPS:
            raise ConfigError(f"steps must be 0 (one step from zero input) to {STEPS}; got {self.steps}.")
        if self.detail_size < 64:
            raise ConfigError(f"detail_size must be at least 64 pixels (detail=off: none); got {self.detail_size}.")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative; got {self.seed}.")
        self.selection  # noqa: B018  its numbers are checked there

    @property
    def follows_points(self) -> bool:
        """Whether to track; the released script does not."""
        return self.tracks and self.compat != "released"

    @property
    def keeps_pictures(self) -> bool:
        """Whether frames are kept at `detail_size` too: followed points may come later, from a file."""
        return self.compat != "released"

    @property
    def selection(self) -> Selection:
        """Which frames of the video."""
        return Selection(self.start, self.max_frames, self.frame_stride)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one CPU thread.

    The alignment's many small tensors gain nothing from more, and lose much on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Geo4D:
    """A model that turns videos into reconstructions.

    Frames are resized to the working resolution nearest in aspect ratio, as a whole: nothing is cut off. The network
    and the alignment take working pixels for square; where they are not quite, the two focal lengths of a result at
    another resolution are scaled apart by as much.
    """

    def __init__(self, model: GeometryModel, *, is_mixed: bool | None = None) -> None:
        """The networks compute in the dtype of their weights; results are float32.

        With `is_mixed` weights of float32 compute in bfloat16 where torch's autocast does, as in training. Default: for
        models with a frame encoder, on CPUs that are faster so.
        """
        self.model = model
        spec = model.spec
        usual = bool(spec.encoder) and model.dtype == torch.float32 and is_fast_in_bfloat16(model.device)
        self.is_mixed = usual if is_mixed is None else is_mixed
        if not spec.modalities:
            raise ConfigError(
                f"The model {spec.name!r} predicts no geometry; it is where training of a geometry model starts."
            )
        self.layout = make_layout(
            spec.modalities, normalization=spec.points_normalization, image_channels=spec.latent_channels
        )
        self.schedule = make_schedule(dynamic_rescale=spec.dynamic_rescale)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "small",
        *,
        vae: str | Path | None = None,
        device: str | None = None,
        dtype: str = "auto",
    ) -> Geo4D:
        """Loads a model and moves it to a device.

        `model` is "small", which ships with the package, a geo4d file or folder, a hub repository ("owner/name"), or a
        released model.ckpt with its point decoder as `vae`.

        `dtype` is that of the networks; "auto" is bfloat16 on CUDA and float32 elsewhere, mixed with bfloat16 for
        models with a frame encoder on CPUs that are faster so. Raises CheckpointError for weights that cannot be used,
        ConfigError for an unknown device or dtype.
        """
        place = pick_device(device)
        if dtype not in ("auto", *DTYPES):
            raise ConfigError(f"dtype must be auto, {' or '.join(DTYPES)}; got {dtype!r}.")
        own = DTYPES["bfloat16" if place.type == "cuda" else "float32"] if dtype == "auto" else DTYPES[dtype]
        return cls(load_model(model, vae=vae, device=place, dtype=own), is_mixed=None if dtype == "auto" else False)

    def save_pretrained(self, directory: str | Path, *, max_shard_size: str = "2GB", notice: str = "") -> None:
        """Writes the model's folder (config.json, safetensors in shards, NOTICE.md), whole or not at all."""
        save_folder(self.model, Path(directory), max_shard_size=max_shard_size, notice=notice)

    def push_to_hub(
        self, repository: str, *, private: bool | None = None, token: str | None = None, message: str = ""
    ) -> str:
        """Uploads the model's folder to a hub repository ("owner/name"), made if need be.

        Returns the commit's address.
        """
        return push_to_hub(self.model, repository, private=private, token=token, message=message)

    def working_size(self, height: int, width: int, config: InferConfig | None = None) -> tuple[int, int]:
        """The (height, width) at which a source of this size is worked.

        That of `config`, else the model's working resolution nearest in aspect; as released, the model's base size
        whatever the aspect. Raises InputError if the frames would be squeezed more than twofold, ConfigError for a size
        the network cannot work at.
        """
        config = config or InferConfig()
        spec = self.model.spec
        if config.compat == "released" and width <= height:
            raise InputError(
                f"The released script takes landscape frames alone; got {width} x {height}: leave --compat out."
            )
        if config.size is not None:
            return self._checked(config.size)
        if config.compat == "released":
            return spec.base_size
        size = min(spec.sizes, key=lambda size: _squeeze(size, (height, width)))
        if _squeeze(size, (height, width)) > MAX_SQUEEZE:
            raise InputError(
                f"Frames of {width} x {height} pixels are too long and narrow for this model, "
                f"whose nearest working resolution is {size[1]} x {size[0]}; crop them."
            )
        return size

    def _checked(self, size: tuple[int, int]) -> tuple[int, int]:
        least = 8 * 2 ** (len(self.model.unet.config.channel_mult) - 1)  # one latent at the coarsest level
        # the released network's own pipeline takes whole grids at every level alone (compat 2)
        multiple = least if self.model.spec.sampler_compat == "released" else 8
        if any(side < least or side % multiple for side in size):
            raise ConfigError(
                f"The working size must be in multiples of {multiple} pixels"
                f"{f', at least {least}' * (least > multiple)}; got {size[1]} x {size[0]}."
            )
        return size

    def read(self, video: str | Path | np.ndarray | Video, config: InferConfig) -> Video:
        """Reads and resizes: a file, a folder, uint8 frames (t, h, w, 3), or a Video that is passed on."""
        if isinstance(video, Video):
            return video
        if isinstance(video, np.ndarray):
            return self._from_array(video, config)
        tracker = PointFollower(config.tracker) if config.follows_points else None
        clip = read_video(
            video,
            config.selection,
            resize=lambda height, width: self.working_size(height, width, config),
            picture_size=partial(_picture_size, longer=config.detail_size) if config.keeps_pictures else None,
            observe=None if tracker is None else tracker.add,
        )
        return clip if tracker is None else _followed(clip, tracker)

    def plan(self, clip: Video, config: InferConfig) -> Int[Tensor, "g v"]:
        """The frame numbers of each window. Raises ConfigError if the stride would leave frames out."""
        length, released = self.model.spec.window_length, config.compat == "released"
        return plan_windows(len(clip.frames), length=length, stride=config.stride, as_released=released)

    def open_cache(self, clip: Video, config: InferConfig, directory: Path) -> WindowCache:
        """The folder of finished windows. Raises InputError if it belongs to another video, model or setting."""
        return WindowCache(directory, self._fingerprint(clip, config))

    def predict(
        self,
        video: str | Path | np.ndarray | Video,
        config: InferConfig | None = None,
        *,
        cache_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> WindowPredictions:
        """Runs the network over all windows.

        With `cache_dir` finished windows are kept there and not computed again.
        """
        config = config or InferConfig()
        clip = self.read(video, config)
        windows = self.plan(clip, config)
        cache = None if cache_dir is None else self.open_cache(clip, config, cache_dir)
        compat = self.model.spec.sampler_compat if config.compat == "model" else config.compat
        settings = PredictConfig(
            steps=config.steps,
            seed=config.seed,
            windows_per_batch=config.windows_per_batch,
            sampler_compat=compat,
            as_released=config.compat == "released",
            is_mixed=self.is_mixed,
            mirrored=config.mirrored,
        )
        predictor = Predictor(self.model, self.layout, self.schedule, settings)
        fields = predictor.predict(clip.frames, windows, clip.fps, cache=cache, progress=progress)
        return WindowPredictions(
            windows=windows, **fields, images=clip.frames, timestamps=clip.timestamps, source_size=clip.source_size
        )

    def fuse(
        self,
        clip: Video,
        predictions: WindowPredictions,
        alignment: AlignmentConfig | None = None,
        *,
        priors: Priors | None = None,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Aligns the windows that `predict` gave for `clip`.

        Corrects the cameras by the clip's tracks if it has any. `diagnostics["warnings"]` says what to be careful with,
        `diagnostics["expected_error"]` the mean error of log depth to be expected: what the windows' disagreement
        tells, times what the model's validation showed it to leave out.
        """
        with one_thread():
            result = align(
                predictions,
                tracks=clip.tracks,
                priors=priors,
                frames=clip.pictures,
                config=alignment,
                device=self.model.device,
                progress=progress,
            )
        warnings = [*clip.warnings, *self._warnings(clip), *result.diagnostics["warnings"]]
        for warning in warnings:
            logger.warning("Warning: %s", warning)
        scale = self.model.spec.error_scale
        errors = {name: scale * result.diagnostics[name] for name in ("expected_error", "typical_error")}
        return result.with_diagnostics(model=self.model.spec.name, warnings=warnings, **errors)

    def reconstruct(
        self,
        video: str | Path | np.ndarray | Video,
        config: InferConfig | None = None,
        *,
        alignment: AlignmentConfig | None = None,
        priors: Priors | None = None,
        cache_dir: Path | None = None,
        progress: Progress | None = None,
        on_windows: Callable[[WindowPredictions], None] | None = None,
        **settings: Any,
    ) -> Reconstruction:
        """Video in, reconstruction out; `diagnostics["warnings"]` says what to be careful with.

        `settings` are fields of InferConfig, for short: `reconstruct(video, max_frames=40, stride=8)`. `on_windows` is
        shown the network's predictions before they are aligned. Raises InputError, ConfigError or AlignmentError.
        """
        started = time.perf_counter()
        config = replace(config or InferConfig(), **settings)
        clip = self.read(video, config)
        predictions = self.predict(clip, config, cache_dir=cache_dir, progress=progress)
        predicted = time.perf_counter()
        if on_windows is not None:
            on_windows(predictions)
        result = self.fuse(clip, predictions, alignment, priors=priors, progress=progress)
        return result.with_diagnostics(
            predict_seconds=round(predicted - started, 3),
            seconds_per_frame=round((time.perf_counter() - started) / len(clip.frames), 4),
        )

    def _from_array(self, frames: np.ndarray, config: InferConfig) -> Video:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
            raise InputError(
                f"Frames must be a uint8 array (t, h, w, 3) with t > 0; got {frames.dtype} {frames.shape}."
            )
        chosen = frames[config.start :: config.frame_stride][: config.max_frames]
        if len(chosen) == 0:
            raise InputError(f"No frame is left from number {config.start} on: there are {len(frames)}.")
        tracker = PointFollower(config.tracker) if config.follows_points else None
        if tracker is not None:
            for frame in chosen:
                tracker.add(frame)
        source = (frames.shape[1], frames.shape[2])
        pictures = None
        if config.keeps_pictures:
            pictures = _resized(chosen, _picture_size(*source, longer=config.detail_size))
        times = np.arange(len(chosen)) * config.frame_stride / FOLDER_FPS
        clip = Video(
            _resized(chosen, self.working_size(*source, config)),
            times,
            FOLDER_FPS / config.frame_stride,
            source,
            pictures=pictures,
        )
        return clip if tracker is None else _followed(clip, tracker)

    def _fingerprint(self, clip: Video, config: InferConfig) -> dict[str, object]:
        """What makes two runs the same run."""
        return {
            "video": fingerprint_frames(clip.frames),
            "model": fingerprint_model(self.model),
            "dtype": f"{self.model.dtype}{', mixed' * self.is_mixed}",
            "device": self.model.device.type,
            "torch version": torch.__version__,
            "windows per batch": config.windows_per_batch,  # a window's last bits depend on what it is computed with
            "compat": config.compat,
            "frame rate": clip.fps,
            "stride": config.stride,
            "steps": config.steps,
            "seed": config.seed,
            # said where it is so alone: runs that were begun before there was a choice can be resumed
            **({"mirrored": True} if config.mirrored else {}),
        }

    def _warnings(self, clip: Video) -> list[str]:
        """What about this video makes the result worse than it could be."""
        frames, length, found = len(clip.frames), self.model.spec.window_length, []
        if frames == 1:
            found.append("A single frame gives depth and a camera, but no motion.")
        elif frames < length:
            found.append(
                f"The video has {frames} frames, fewer than a window of {length}: expect less than from a longer one."
            )
        squeeze = _squeeze((clip.frames.shape[1], clip.frames.shape[2]), clip.source_size)
        if squeeze > WARN_SQUEEZE:
            found.append(
                f"The frames are squeezed {squeeze:.1f}-fold to a working resolution; crop them for a better result."
            )
        return found


def _squeeze(size: tuple[int, int], source: tuple[int, int]) -> float:
    """By how much the aspect ratio changes from one (height, width) to another; at least 1."""
    return math.exp(abs(math.log(size[1] / size[0] * source[0] / source[1])))


def _picture_size(height: int, width: int, *, longer: int) -> tuple[int, int]:
    """The (height, width) at which a video of this size is shown: its longer side so many pixels, or its own."""
    shrink = min(1.0, longer / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def _resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.stack([at_size(Image.fromarray(frame), size) for frame in frames])


def _followed(clip: Video, tracker: PointFollower) -> Video:
    return replace(clip, tracks=tracker.tracks(), warnings=(*clip.warnings, *tracker.warnings))
