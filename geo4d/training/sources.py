"""Where a stage's clips come from: procedural scenes rendered in batches, or a mixture of data sets.

Each batch has a number.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.data import BadWindows, DataSet, DiskSet, Mixture, ProceduralSet, WindowBatch, batches, open_data
from geo4d.data.mixture import Size
from geo4d.errors import ConfigError, InputError
from geo4d.scene import Clip
from geo4d.synthetic import WORLDS, render_clips, scene_seed
from geo4d.training.config import DataConfig, Length, SetConfig, WorldShare
from geo4d.training.loop_config import Draw

logger = logging.getLogger(__name__)

BASE_FPS = 24.0
STRIDES = (1, 2, 3)  # method 4
MOST_APART = 15  # frames of a window between the two of a pair
CHUNK_FRAMES = 32  # rendered at a time
SCENES_A_BATCH = 4096  # scene numbers set aside for each batch
SEEDS = 30  # runs of different seeds that share no scene
FAR_AHEAD = 1_000_000  # steps that a reading ahead may last
NAMED = 3  # problems of a data set that the log names

Shared = TypeVar("Shared", Size, Length, WorldShare)


@dataclass(frozen=True)
class ClipBatch:
    """Clips (b, v, ...) of one size, with the frame numbers and rates that condition the network."""

    clip: Clip
    frame_index: Tensor  # (b, v) int64, relative to the window's first frame
    fps: Float[Tensor, "b"]


@dataclass(frozen=True)
class Place:
    """Which batch: what the processes and micro-batches of a step read apart from one another are its parts."""

    step: int
    part: int = 0
    parts: int = 1

    @classmethod
    def of(cls, draw: Draw) -> Place:
        """That of a micro-batch of the training loop."""
        return cls(draw.step, draw.part, draw.parts)

    @property
    def number(self) -> int:
        """Counted over all steps and parts."""
        return self.step * self.parts + self.part


@runtime_checkable
class ClipSource(Protocol):
    """A batch is named by a step and one of the step's parts, and is always the same; no two streams share a clip."""

    def batch(self, at: Place, length: Length, sizes: Sequence[Size] | None = None) -> ClipBatch:
        """`length.clips` clips of one of the sizes (default: the configured ones).

        The size is the same for all parts of a step.
        """
        ...


@dataclass(frozen=True)
class ProceduralSource:
    """Scenes of split `stream` (1 to 99 are training's), each met once."""

    sizes: Sequence[Size]
    stream: int
    device: str = "cpu"
    worlds: Sequence[WorldShare] = (WorldShare(),)

    def batch(self, at: Place, length: Length, sizes: Sequence[Size] | None = None) -> ClipBatch:
        """Pairs are 1 to 15 frames apart, like any two frames of a window.

        Longer clips are consecutive, at a stride of 1, 2 or 3.
        """
        size, number = pick(sizes or self.sizes, [self.stream, at.step, 2]), at.number
        generator = np.random.default_rng([self.stream, number, 1])
        world = WORLDS[pick(self.worlds, [self.stream, number, 4]).detail]
        count = length.clips
        stride = generator.integers(STRIDES[0], STRIDES[-1] + 1, count)
        gap = generator.integers(1, MOST_APART + 1, count) if length.frames == 2 else np.ones(count, dtype=np.int64)
        start = generator.integers(0, 16, count)
        seeds = [scene_seed(self.stream, number * SCENES_A_BATCH + i) for i in range(count)]
        chunk = max(1, CHUNK_FRAMES // length.frames)
        parts = [
            render_clips(
                seeds[i : i + chunk],
                num_frames=length.frames,
                size=(size.height, size.width),
                frame_step=(stride * gap)[i : i + chunk].tolist(),
                start=start[i : i + chunk].tolist(),
                config=world,
                device=self.device,
            )
            for i in range(0, count, chunk)
        ]
        frame_index = torch.from_numpy(gap)[:, None] * torch.arange(length.frames)
        return ClipBatch(_concatenate(parts), frame_index, torch.from_numpy(BASE_FPS / stride).float())


class MixtureSource:
    """Windows of data sets; a bad one is replaced and counted, and too many of them end the run.

    Batches are read ahead by `readers` processes for each length and choice of sizes, however many parts a step has, as
    soon as two steps have shown which parts are asked for here and how the steps follow one another.
    """

    def __init__(self, sets: dict[str, DataSet], config: DataConfig, *, seed: int, stream: int) -> None:
        self.sets, self.config, self.seed = sets, config, seed * 100 + stream
        self.bad_windows = BadWindows(config.mixture.most_bad)
        self._streams: dict[tuple[Length, tuple[Size, ...]], _Stream] = {}

    def batch(self, at: Place, length: Length, sizes: Sequence[Size] | None = None) -> ClipBatch:
        """Pairs are 1 to 15 frames apart; longer clips have a stride of the mixture's.

        Raises InputError for too many bad windows.
        """
        key = (length, tuple(sizes or self.config.sizes))
        if key not in self._streams:
            self._streams[key] = _Stream(self._mixture(length, key[1]), self.config.readers, self.bad_windows)
        windows = self._streams[key].read(at)
        if length.frames != 2:
            return ClipBatch(windows.clip, windows.frame_index, windows.fps)
        gap = torch.tensor([draw.stride for draw in windows.draws])
        return ClipBatch(windows.clip, windows.frame_index * gap[:, None], windows.fps * gap)

    def _mixture(self, length: Length, sizes: tuple[Size, ...]) -> Mixture:
        own = self.config.mixture
        strides = tuple(range(1, MOST_APART + 1)) if length.frames == 2 else own.strides
        ratios = {name: own.ratios.get(name, 1.0) for name in self.sets}
        config = replace(
            own, ratios=ratios, sizes=list(sizes), frames=length.frames, batch=length.clips, strides=strides
        )
        return Mixture(self.sets, config, seed=self.seed)


class _Stream:
    """The batches of one kind, in the order in which this process asks for them: the same parts in every step."""

    def __init__(self, mixture: Mixture, readers: int, bad_windows: BadWindows) -> None:
        self.mixture, self.readers, self.bad_windows = mixture, readers, bad_windows
        self._asked: list[Place] = []  # in the latest step
        self._expected: Place | None = None  # the next of those read ahead
        self._places: Iterator[Place] = iter(())  # the others
        self._batches: Iterator[WindowBatch] = iter(())

    def read(self, at: Place) -> WindowBatch:
        """The batch at a place, from those read ahead if it is the next one."""
        if at != self._expected:
            self._begin(at)
        self._expected = next(self._places, None)
        self._asked = [*self._asked, at] if self._asked and self._asked[0].step == at.step else [at]
        return next(self._batches)

    def _begin(self, at: Place) -> None:
        """Reads ahead from a place on if it follows, by whole steps, the first of the step before.

        Else this batch alone.
        """
        first = self._asked[0] if self._asked else at
        rhythm = at.step - first.step
        steps, ranks, workers = range(at.step, at.step + 1), [at.part], 0
        if self.readers and rhythm > 0 and at == replace(first, step=at.step):
            steps, workers = range(at.step, at.step + rhythm * FAR_AHEAD, rhythm), self.readers
            ranks = [place.part for place in self._asked]
        self._batches = batches(
            self.mixture, steps, ranks=ranks, world_size=at.parts, workers=workers, bad_windows=self.bad_windows
        )
        self._places = islice((Place(step, part, at.parts) for step in steps for part in ranks), 1, None)


def open_source(config: DataConfig, *, seed: int, stream: int, device: str = "cpu") -> ClipSource:
    """The source that a stage's `data` asks for.

    Raises ConfigError for a set without a root, InputError for one that is not there or has lost too many of its
    recordings.
    """
    stream += 3 * (seed % SEEDS)  # a run has three streams
    chosen = {name: entry for name, entry in config.sets.items() if entry is not None}
    if not chosen:
        return ProceduralSource(config.sizes, stream, device, config.worlds)
    sets = {name: _open_set(name, entry, stream, config.mixture.most_bad) for name, entry in chosen.items()}
    return MixtureSource(sets, config, seed=seed, stream=stream)


def _open_set(name: str, entry: SetConfig, stream: int, most_bad: float) -> DataSet:
    if entry.kind == "procedural":
        if entry.fill is not None:
            raise ConfigError(
                f"Procedural scenes have no holes to fill: leave out data.sets.{name}.fill; got {entry.fill}."
            )
        return ProceduralSet(render_clips, partial(scene_seed, stream))
    if entry.root is None:
        raise ConfigError(
            f"The data set {name} needs a folder: set data.sets.{name}.root=FOLDER, or leave it out (null)."
        )
    data = open_data(entry.root, entry.kind, include=entry.include, far=entry.far, fill=entry.fill)
    _report_losses(name, data, most_bad)
    return data


def _report_losses(name: str, data: DiskSet, most_bad: float) -> None:
    """Logs what the index found wrong.

    Raises InputError if more than the share `most_bad` of the recordings is of no use.
    """
    for problem in data.problems[:NAMED]:
        logger.warning("Warning: %s: %s: %s.", name, problem.file, problem.reason)
    if len(data.problems) > NAMED:
        logger.warning(
            "Warning: %s: %d more problems; geo4d data check %s names them all.",
            name,
            len(data.problems) - NAMED,
            data.root,
        )
    lost = data.lost()
    if len(lost) > most_bad * len(data.names):
        raise InputError(
            f"{len(lost)} of {len(data.names)} recordings of {name} cannot be used, more than the {100 * most_bad:.3g} "
            f"% that are tolerated (the first: {lost[0]}); geo4d data check {data.root} says why, "
            "data.mixture.most_bad sets the share."
        )


def pick(items: Sequence[Shared], seed: list[int]) -> Shared:
    """One of the items by their shares, always the same for the same seed."""
    shares = np.array([item.share for item in items])
    return items[np.random.default_rng(seed).choice(len(items), p=shares / shares.sum())]


def rgb_images(clip: Clip) -> Float[Tensor, "b v 3 h w"]:
    """Frames in [-1, 1], in network order, rounded to 8 bits like those of a video file."""
    return (clip.rgb.mul(255).round().div(127.5) - 1).movedim(-1, -3)


def _concatenate(clips: list[Clip]) -> Clip:
    """One batch out of several, leaving out what the training does not use."""
    names = ("rgb", "depth", "valid", "sky", "intrinsics", "cam_to_world")
    return Clip(**{name: torch.cat([getattr(clip, name) for clip in clips]) for name in names})
