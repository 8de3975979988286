"""The main job: a video in, a 4D reconstruction out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import geo4d.io.reconstruction  # noqa: F401  (gives Reconstruction its save and load)
from geo4d._typing import Int, Tensor
from geo4d.alignment import AlignmentConfig, align
from geo4d.diffusion.schedule import STEPS, make_schedule
from geo4d.errors import ConfigError, InputError
from geo4d.io.video import FOLDER_FPS, Selection, Video, read_video
from geo4d.modalities import make_layout
from geo4d.models.geometry_model import GeometryModel, load_model
from geo4d.scene import Reconstruction, WindowPredictions
from geo4d.windows.plan import plan_windows
from geo4d.windows.predict import (
    PredictConfig,
    Predictor,
    Progress,
    WindowCache,
    fingerprint_frames,
    fingerprint_model,
)

logger = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEVICES = ("cpu", "cuda", "mps")
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

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.stride < 1 or self.windows_per_batch < 1:
            raise ConfigError(
                f"stride and windows per batch must be at least 1; got stride {self.stride} and windows per batch {self.windows_per_batch}."
            )
        if self.steps is not None and not 0 <= self.steps <= STEPS:
            raise ConfigError(f"steps must be 0 (one step from zero input) to {STEPS}; got {self.steps}.")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative; got {self.seed}.")
        self.selection  # noqa: B018  its numbers are checked there

    @property
    def selection(self) -> Selection:
        """Which frames of the video."""
        return Selection(self.start, self.max_frames, self.frame_stride)


def pick_device(name: str | None) -> torch.device:
    """A device by name; "auto" (or None) takes CUDA where there is one. Raises ConfigError for one that is not there."""
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
        if device.type in DEVICES:
            torch.zeros(1, device=device)
            return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        logger.debug("device %r: %s", name, error)
    raise ConfigError(f"There is no device {name!r} here; choose auto, cpu or, where there is one, cuda.")


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one CPU thread: the alignment's many small tensors gain nothing from more, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Geo4D:
    """A model that turns videos into reconstructions.

    Frames are resized to the working resolution nearest in aspect ratio, as a whole: nothing is cut off. The network and
    the alignment take working pixels for square; where they are not quite, `Reconstruction.at_source_resolution` scales
    the two focal lengths apart by as much.
    """

    def __init__(self, model: GeometryModel, *, dtype: torch.dtype = torch.float32) -> None:
        """`dtype` is that of the networks' arithmetic (by autocast); weights and results stay float32."""
        self.model = model
        self.dtype = dtype
        spec = model.spec
        self.layout = make_layout(spec.modalities, normalization=spec.points_normalization)
        self.schedule = make_schedule(dynamic_rescale=spec.dynamic_rescale)

    @classmethod
    def from_pretrained(cls, model: str | Path = "small", *, device: str | None = None, dtype: str = "float32") -> Geo4D:
        """Loads "small", which ships with the package, or a file that geo4d wrote.

        Raises CheckpointError for a file that is not one, ConfigError for an unknown device or dtype.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
        return cls(load_model(model, device=pick_device(device)), dtype=DTYPES[dtype])

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """The model's working resolution nearest in aspect to a source of this size.

        Raises InputError if even that one would squeeze the frames more than twofold.
        """
        size = min(self.model.spec.sizes, key=lambda size: _squeeze(size, (height, width)))
        if _squeeze(size, (height, width)) > MAX_SQUEEZE:
            raise InputError(
                f"Frames of {width} x {height} pixels are too long and narrow for this model, "
                f"whose nearest working resolution is {size[1]} x {size[0]}; crop them."
            )
        return size

    def read(self, video: str | Path | np.ndarray | Video, config: InferConfig) -> Video:
        """Reads and resizes: a file, a folder, uint8 frames (t, h, w, 3), or a Video that is passed on."""
        if isinstance(video, Video):
            return video
        if isinstance(video, np.ndarray):
            return self._from_array(video, config)
        return read_video(video, config.selection, resize=self.working_size)

    def plan(self, clip: Video, config: InferConfig) -> Int[Tensor, "g v"]:
        """The frame numbers of each window. Raises ConfigError if the stride would leave frames out."""
        return plan_windows(len(clip.frames), length=self.model.spec.window_length, stride=config.stride)

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
        """Runs the network over all windows; with `cache_dir` finished windows are kept there and not computed again."""
        config = config or InferConfig()
        clip = self.read(video, config)
        windows = self.plan(clip, config)
        cache = None if cache_dir is None else self.open_cache(clip, config, cache_dir)
        settings = PredictConfig(config.steps, config.seed, config.windows_per_batch, self.dtype)
        predictor = Predictor(self.model, self.layout, self.schedule, settings)
        fields = predictor.predict(clip.frames, windows, clip.fps, cache=cache, progress=progress)
        return WindowPredictions(windows=windows, **fields, images=clip.frames, timestamps=clip.timestamps, source_size=clip.source_size)

    def fuse(self, clip: Video, predictions: WindowPredictions, alignment: AlignmentConfig | None = None) -> Reconstruction:
        """Aligns the windows that `predict` gave for `clip`; `diagnostics["warnings"]` says what to be careful with."""
        with one_thread():
            result = align(predictions, alignment)
        warnings = [*clip.warnings, *self._warnings(clip), *result.diagnostics["warnings"]]
        for warning in warnings:
            logger.warning("Warning: %s", warning)
        return result.with_diagnostics(model=self.model.spec.name, warnings=warnings)

    def reconstruct(
        self,
        video: str | Path | np.ndarray | Video,
        config: InferConfig | None = None,
        *,
        alignment: AlignmentConfig | None = None,
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
        if progress is not None:
            progress("alignment", 0, 1)
        result = self.fuse(clip, predictions, alignment)
        if progress is not None:
            progress("alignment", 1, 1)
        return result.with_diagnostics(
            predict_seconds=round(predicted - started, 3),
            seconds_per_frame=round((time.perf_counter() - started) / len(clip.frames), 4),
        )

    def _from_array(self, frames: np.ndarray, config: InferConfig) -> Video:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
            raise InputError(f"Frames must be a uint8 array (t, h, w, 3) with t > 0; got {frames.dtype} {frames.shape}.")
        chosen = frames[config.start :: config.frame_stride][: config.max_frames]
        if len(chosen) == 0:
            raise InputError(f"No frame is left from number {config.start} on: there are {len(frames)}.")
        height, width = self.working_size(*frames.shape[1:3])
        if (height, width) != frames.shape[1:3]:
            resized = [Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS) for frame in chosen]
            chosen = np.stack([np.asarray(image) for image in resized])
        times = np.arange(len(chosen)) * config.frame_stride / FOLDER_FPS
        return Video(np.ascontiguousarray(chosen), times, FOLDER_FPS / config.frame_stride, (frames.shape[1], frames.shape[2]))

    def _fingerprint(self, clip: Video, config: InferConfig) -> dict[str, object]:
        """What makes two runs the same run."""
        return {
            "video": fingerprint_frames(clip.frames),
            "model": fingerprint_model(self.model),
            "dtype": str(self.dtype),
            "frame rate": clip.fps,
            "stride": config.stride,
            "steps": config.steps,
            "seed": config.seed,
        }

    def _warnings(self, clip: Video) -> list[str]:
        """What about this video makes the result worse than it could be."""
        frames, length, found = len(clip.frames), self.model.spec.window_length, []
        if frames == 1:
            found.append("A single frame gives depth and a camera, but no motion.")
        elif frames < length:
            found.append(f"The video has {frames} frames, fewer than a window of {length}: expect less than from a longer one.")
        squeeze = _squeeze((clip.frames.shape[1], clip.frames.shape[2]), clip.source_size)
        if squeeze > WARN_SQUEEZE:
            found.append(f"The frames are squeezed {squeeze:.1f}-fold to a working resolution; crop them for a better result.")
        return found


def _squeeze(size: tuple[int, int], source: tuple[int, int]) -> float:
    """By how much the aspect ratio changes from one (height, width) to another; at least 1."""
    return math.exp(abs(math.log(size[1] / size[0] * source[0] / source[1])))
