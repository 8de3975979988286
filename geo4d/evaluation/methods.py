"""What is evaluated: our pipeline, a folder of predictions, or a guess that has seen nothing."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from geo4d.alignment import AlignmentConfig
from geo4d.errors import ConfigError, InputError
from geo4d.evaluation.predictions import (
    Prediction,
    PredictionForm,
    from_reconstruction,
    prediction_files,
    read_prediction,
)
from geo4d.evaluation.prepare import sha256
from geo4d.evaluation.scores import Truth, constant_prediction, mean_prediction
from geo4d.evaluation.sets import EvaluationSequence
from geo4d.io.output import register
from geo4d.pipeline import Compat, Geo4D, InferConfig
from geo4d.scene.files.reconstruction import save_reconstruction
from geo4d.windows.cache import cache_files, fingerprint_model

WINDOWS_KIND = "windows"  # of folder, of predicted windows
BASELINES = {"constant": constant_prediction, "mean": mean_prediction}


@dataclass(frozen=True)
class PipelineConfig:
    """Everything of our pipeline that changes a result, and where it runs."""

    model: str = "small"  # 'small', a geo4d file or folder, owner/name on the hub, or a released model.ckpt
    vae: str | None = None  # that belongs to a released model.ckpt
    device: str = "auto"
    dtype: str = "auto"
    stride: int = 4  # between windows
    steps: int | None = None  # None: as the model was made for; 0: one step from zero input; else DDIM steps
    seed: int = 0  # of the sampler's noise
    windows_per_batch: int = 2
    tracks: bool = True
    compat: Compat = "model"
    mirrored: bool = False  # whether mirrored frames are predicted too, and averaged in
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)

    def infer_config(self) -> InferConfig:
        """The part that `Geo4D.reconstruct` takes. Raises ConfigError for numbers that cannot work."""
        names = ("stride", "steps", "seed", "windows_per_batch", "tracks", "compat", "mirrored")
        return InferConfig(**{name: getattr(self, name) for name in names})


@runtime_checkable
class Method(Protocol):
    """Something that says what it sees in a video."""

    name: str

    def describe(self) -> dict[str, Any]:
        """What makes its results what they are, as plain data; nothing of the machine's folders."""
        ...

    def source(self, sequence: str) -> str:
        """A hash of what the prediction for one sequence is made from, beside the frames."""
        ...

    def predict(self, sequence: EvaluationSequence, truth: Truth) -> Prediction:
        """Raises an error of ours, or of a library, if there is no prediction."""
        ...


@dataclass(frozen=True)
class Guess:
    """A baseline that has not looked at the video; of the truth it takes sizes alone."""

    name: str

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"kind": "baseline", "baseline": self.name}

    def source(self, sequence: str) -> str:
        """Nothing."""
        return ""

    def predict(self, sequence: EvaluationSequence, truth: Truth) -> Prediction:
        """Depth 1 and a static camera, or the mean map and path."""
        return BASELINES[self.name](truth)


@dataclass(frozen=True)
class SavedPredictions:
    """Predictions of any method, read from a folder."""

    name: str
    folder: Path
    form: PredictionForm = field(default_factory=PredictionForm)

    def describe(self) -> dict[str, Any]:
        """How the files are read."""
        return {"kind": "predictions", "form": {**asdict(self.form), "keys": dict(self.form.keys)}}

    def source(self, sequence: str) -> str:
        """Of all files; none where there is no prediction, which `predict` will say."""
        try:
            files = prediction_files(self.folder, sequence)
        except InputError:
            return ""
        return hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode()).hexdigest()

    def predict(self, sequence: EvaluationSequence, truth: Truth) -> Prediction:
        """Reads it. Raises InputError if it is not there, broken or of another length."""
        return read_prediction(self.folder, sequence.name, sequence.num_frames, form=self.form)


class Pipeline:
    """Our own, from the pictures on."""

    def __init__(
        self, name: str, config: PipelineConfig, *, keep: Path | None = None, windows: Path | None = None
    ) -> None:
        """Loads the weights.

        `keep` is a folder for the results; `windows` one in which predicted windows stay, for runs that differ in the
        alignment. Raises CheckpointError or ConfigError if the model cannot be had.
        """
        self.name, self.config, self.keep, self.windows = name, config, keep, windows
        self.settings = config.infer_config()
        self.model = Geo4D.from_pretrained(
            config.model, vae=config.vae, device=local_device(config.device), dtype=config.dtype
        )
        self.weights = fingerprint_model(self.model.model)

    def describe(self) -> dict[str, Any]:
        """Weights and settings; the kind of device, not its number."""
        settings = {
            key: value for key, value in asdict(self.config).items() if key not in ("model", "vae", "device", "dtype")
        }
        network = self.model.model
        return {
            "kind": "pipeline",
            "model": network.spec.name,
            "weights": self.weights,
            "device": network.device.type,
            "dtype": str(network.dtype).removeprefix("torch."),
            **settings,
        }

    def source(self, sequence: str) -> str:
        """The weights."""
        return self.weights

    def predict(self, sequence: EvaluationSequence, truth: Truth) -> Prediction:
        """Reconstructs the video as `geo4d infer` does."""
        images, times = sequence.images(), sequence.timestamps - sequence.timestamps[0]
        video = self.model.read(images, self.settings)
        fps = 1 / float(np.diff(times).mean()) if len(times) > 1 else video.fps
        cache = None
        if self.windows is not None:
            key = f"{self._windows_key()}/{sequence.name.replace('/', '_')}"
            names = cache_files(len(self.model.plan(video, self.settings)))
            register(self.windows, WINDOWS_KIND, [f"{key}/{name}" for name in names])
            cache = self.windows / key
        result = self.model.reconstruct(
            replace(video, timestamps=times, fps=fps), self.settings, alignment=self.config.alignment, cache_dir=cache
        )
        if self.keep is not None:
            save_reconstruction(result, self.keep / sequence.name)
        return from_reconstruction(Path(self.name), result)

    def _windows_key(self) -> str:
        """What decides the network's part of a result."""
        described = self.describe()
        parts = [described[key] for key in ("weights", "device", "dtype", "stride", "steps", "seed", "compat")]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def local_device(name: str) -> str:
    """The device to ask for.

    With "auto", where several processes share the GPUs of a machine, the GPU of this process' number.
    """
    rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", ""))
    if name == "auto" and rank.isdecimal() and torch.cuda.device_count() > 1:
        return f"cuda:{int(rank) % torch.cuda.device_count()}"
    return name


def make_methods(
    models: list[str], predictions: list[str], config: PipelineConfig, form: PredictionForm, keep: Path | None
) -> list[Method]:
    """The methods that were asked for, in that order: models and baselines, then folders (`DIR` or `NAME=DIR`).

    Raises ConfigError if two have one name or there is none.
    """
    methods: list[Method] = []
    for model in models:
        if model in BASELINES:
            methods.append(Guess(model))
        else:
            name = Path(model).stem if "/" in model or "." in model else model
            methods.append(Pipeline(name, replace(config, model=model), keep=None if keep is None else keep / name))
    for entry in predictions:
        name, equals, folder = entry.partition("=")
        path = Path(folder if equals else entry).expanduser().absolute()
        methods.append(SavedPredictions(name if equals else path.name, path, form))
        if not path.is_dir():
            raise InputError(
                f"There is no folder of predictions {path}; expected one with a folder or .npz file for each sequence."
            )
    names = [method.name for method in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not methods or twice is not None or any("/" in name or name.startswith(".") or not name for name in names):
        got = f"two called {twice!r}" if twice else ", ".join(names) or "none"
        raise ConfigError(
            f"Methods must have plain names of their own; got {got}: give --model, or --predictions NAME=DIR."
        )
    return methods


class Meter:
    """Time and peak memory of one prediction."""

    def __enter__(self) -> Meter:
        self._on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._started
        self.gpu_bytes = torch.cuda.max_memory_allocated() if self._on_gpu else 0
        self.ram_bytes = peak_ram_bytes()

    def cost(self, frames: int) -> dict[str, float | int]:
        """As it is recorded; RAM is the highest that the process has had so far."""
        return {
            "seconds": round(self.seconds, 3),
            "seconds_per_frame": round(self.seconds / max(frames, 1), 4),
            "peak_ram_bytes": self.ram_bytes,
            "peak_gpu_bytes": self.gpu_bytes,
        }


def peak_ram_bytes() -> int:
    """The most memory that this process has held; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
