"""The main job: a video in, a 4D reconstruction out."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geo4d.alignment import AlignmentConfig, align
from geo4d.diffusion.schedule import make_schedule
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
        if self.stride < 1 or self.windows_per_batch < 1 or (self.steps is not None and self.steps < 0):
            raise ConfigError(
                "stride and windows per batch must be at least 1 and steps at least 0; "
                f"got stride {self.stride}, windows per batch {self.windows_per_batch}, steps {self.steps}."
            )

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
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"There is no device {name!r} here; choose auto, cpu or cuda.") from error
    return device


class Geo4D:
    """A model that turns videos into reconstructions."""

    def __init__(self, model: GeometryModel) -> None:
        self.model = model
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
        return cls(load_model(model, device=pick_device(device), dtype=DTYPES[dtype]))

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """The model's working resolution nearest in aspect to a source of this size."""
        return min(self.model.spec.sizes, key=lambda size: abs(math.log(size[1] / size[0] * height / width)))

    def read(self, video: str | Path | np.ndarray | Video, config: InferConfig) -> Video:
        """Reads and resizes: a file, a folder, uint8 frames (t, h, w, 3), or a Video that is passed on."""
        if isinstance(video, Video):
            return video
        if isinstance(video, np.ndarray):
            return self._from_array(video, config)
        return read_video(video, config.selection, resize=self.working_size)

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
        windows = plan_windows(len(clip.frames), length=self.model.spec.window_length, stride=config.stride)
        cache = None if cache_dir is None else WindowCache(cache_dir, self._fingerprint(clip, config))
        settings = PredictConfig(config.steps, config.seed, config.windows_per_batch)
        predictor = Predictor(self.model, self.layout, self.schedule, settings)
        fields = predictor.predict(clip.frames, windows, clip.fps, cache=cache, progress=progress)
        return WindowPredictions(
            windows=windows, **fields, images=clip.frames, timestamps=clip.timestamps, source_size=clip.source_size
        )

    def reconstruct(
        self,
        video: str | Path | np.ndarray | Video,
        config: InferConfig | None = None,
        *,
        alignment: AlignmentConfig | None = None,
        cache_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Video in, reconstruction out; `diagnostics["warnings"]` says what to be careful with."""
        started = time.perf_counter()
        config = config or InferConfig()
        clip = self.read(video, config)
        predictions = self.predict(clip, config, cache_dir=cache_dir, progress=progress)
        predicted = time.perf_counter()
        result = align(predictions, alignment)
        warnings = [*clip.warnings, *_warn_short(len(clip.frames), self.model.spec.window_length), *result.diagnostics["warnings"]]
        return result.with_diagnostics(
            model=self.model.spec.name,
            predict_seconds=round(predicted - started, 3),
            seconds_per_frame=round((time.perf_counter() - started) / len(clip.frames), 4),
            warnings=warnings,
        )

    def _from_array(self, frames: np.ndarray, config: InferConfig) -> Video:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
            raise InputError(f"Frames must be a uint8 array (t, h, w, 3) with t > 0; got {frames.dtype} {frames.shape}.")
        chosen = frames[config.start :: config.frame_stride][: config.max_frames]
        if len(chosen) == 0:
            raise InputError(f"No frame is left from number {config.start} on: there are {len(frames)}.")
        height, width = self.working_size(*frames.shape[1:3])
        from PIL import Image

        resized = [np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)) for frame in chosen]
        times = np.arange(len(chosen)) * config.frame_stride / FOLDER_FPS
        return Video(np.stack(resized), times, FOLDER_FPS / config.frame_stride, (frames.shape[1], frames.shape[2]))

    def _fingerprint(self, clip: Video, config: InferConfig) -> dict[str, object]:
        """What makes two runs the same run."""
        return {
            "video": fingerprint_frames(clip.frames),
            "model": fingerprint_model(self.model),
            "dtype": str(next(self.model.unet.parameters()).dtype),
            "stride": config.stride,
            "steps": config.steps,
            "seed": config.seed,
        }


def _warn_short(frames: int, length: int) -> list[str]:
    if frames >= length:
        return []
    if frames == 1:
        return ["A single frame gives depth and a camera, but no motion."]
    return [f"The video has {frames} frames, fewer than a window of {length}: expect less than from a longer one."]
