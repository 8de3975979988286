"""From plans to batches.

Bad windows are replaced and counted, worker processes never die of one, and too many stop the run.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from geo4d._typing import Float, Tensor
from geo4d.data.frames import BadData, Problem
from geo4d.data.mixture import Mixture, PlannedWindow
from geo4d.data.photometric import draw_photometric
from geo4d.errors import Geo4DError, InputError
from geo4d.scene import Clip

logger = logging.getLogger(__name__)

ATTEMPTS = 20  # windows tried for one place in a batch
FEW = 40  # windows of a data set before its share of bad ones says anything
PHOTOMETRIC_STREAM = 1 << 16  # apart from the numbers of substitutes
NAMED = 3  # problems that the last message names


@dataclass(frozen=True)
class WindowBatch:
    """Windows (b, v, ...) of one size, with what conditions the network, and what went wrong on the way."""

    clip: Clip
    frame_index: Tensor  # (b, v) int64, from 0
    fps: Float[Tensor, "b"]  # after the stride
    draws: tuple[PlannedWindow, ...]  # those that were read in the end
    problems: tuple[tuple[str, Problem], ...] = ()  # (data set, what was wrong) for each window that had to be replaced


@dataclass
class BadWindows:
    """Good and bad windows of each data set, over the whole run."""

    most_bad: float
    good: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def add(self, batch: WindowBatch) -> None:
        """Counts a batch and logs its problems. Raises InputError when more than the set share of a data set is bad."""
        self.good.update(draw.data for draw in batch.draws)
        for name, problem in batch.problems:
            self.bad[name] += 1
            self.problems.append(problem)
            logger.warning("Warning: a window of %s was left out: %s: %s.", name, problem.file, problem.reason)
        for name, bad in self.bad.items():
            total = bad + self.good[name]
            if total >= FEW and bad > self.most_bad * total:
                last = "; ".join(f"{problem.file} {problem.reason}" for problem in self.problems[-NAMED:])
                raise InputError(
                    f"{bad} of {total} windows of {name} cannot be read, more than the {100 * self.most_bad:.3g} % "
                    f"that are tolerated (the last: {last}); run geo4d data check on it."
                )


def load_window(mixture: Mixture, draw: PlannedWindow) -> Clip:
    """One window (v, ...). Raises BadData for broken files."""
    data, frames = mixture.sets[draw.data], mixture.config.frames
    photometric = (
        None
        if mixture.config.film is None
        else draw_photometric(np.random.default_rng([*draw.seed, PHOTOMETRIC_STREAM]), mixture.config.film)
    )
    indices = list(range(draw.start, draw.start + draw.stride * frames, draw.stride))
    return data.read(data.recordings[draw.recording], indices, view=draw.view, photometric=photometric)


def load_batch(mixture: Mixture, step: int, rank: int = 0, world_size: int = 1) -> WindowBatch:
    """The batch of a step: always the same as long as the files are.

    Raises InputError if ATTEMPTS windows in a row are of no use.
    """
    clips: list[Clip] = []
    draws: list[PlannedWindow] = []
    problems: list[tuple[str, Problem]] = []
    for planned in mixture.plan(step, rank, world_size):
        clip, draw = _first_usable(mixture, planned, problems)
        clips.append(clip)
        draws.append(draw)
    fps = [mixture.sets[draw.data].recordings[draw.recording].fps / draw.stride for draw in draws]
    names = ("rgb", "depth", "valid", "sky", "intrinsics", "cam_to_world")
    stacked = Clip(**{name: torch.stack([getattr(clip, name) for clip in clips]) for name in names})
    frame_index = torch.arange(mixture.config.frames).repeat(len(draws), 1)
    return WindowBatch(stacked, frame_index, torch.tensor(fps), tuple(draws), tuple(problems))


def _first_usable(
    mixture: Mixture, planned: PlannedWindow, problems: list[tuple[str, Problem]]
) -> tuple[Clip, PlannedWindow]:
    """The planned window or the first of its substitutes that can be read and shows more than sky."""
    draw, reason = planned, "nothing but sky and holes in view"
    for attempt in range(1, ATTEMPTS + 1):
        try:
            clip = load_window(mixture, draw)
        except BadData as error:
            problems.append((draw.data, error.problem))
            reason = str(error)
        else:
            if float(clip.valid.float().mean()) >= mixture.config.least_known:
                return clip, draw
        draw = mixture.substitute(planned, attempt)
    raise InputError(
        f"{ATTEMPTS} windows of {planned.data} in a row cannot be used (the last: {reason}); run geo4d data check on "
        "it."
    )


def batches(
    mixture: Mixture,
    steps: range,
    *,
    ranks: Sequence[int] = (0,),
    world_size: int = 1,
    workers: int = 0,
    timeout: float = 600.0,
    bad_windows: BadWindows | None = None,
) -> Iterator[WindowBatch]:
    """The batches of these steps in order, in each step those of `ranks` in theirs.

    They are read ahead by `workers` processes in all. To go on in the middle of an epoch, begin `steps` where the run
    was left. Raises InputError, with the reason, for what no substitute helps against: too many bad windows, a worker
    that is killed, or none answering for `timeout` seconds.
    """
    bad_windows = bad_windows or BadWindows(mixture.config.most_bad)
    loader: DataLoader[WindowBatch | Geo4DError] = DataLoader(
        _Steps(mixture, steps, tuple(ranks), world_size),
        batch_size=None,
        num_workers=workers,
        timeout=timeout if workers else 0,
        worker_init_fn=_one_thread,
        prefetch_factor=2 if workers else None,
    )
    try:
        for batch in loader:
            if isinstance(batch, Geo4DError):
                raise batch
            bad_windows.add(batch)
            yield batch
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"Reading the data stopped ({reason}); look for a file system that hangs or memory that ran out."
        ) from error


@dataclass(frozen=True)
class _Steps(Dataset[WindowBatch | Geo4DError]):
    """Batches by step and rank.

    Errors are handed over as values: raised in a worker they would arrive as a page of traceback.
    """

    mixture: Mixture
    steps: range
    ranks: tuple[int, ...]
    world_size: int

    def __len__(self) -> int:
        return len(self.steps) * len(self.ranks)

    def __getitem__(self, index: int) -> WindowBatch | Geo4DError:
        step, rank_index = divmod(index, len(self.ranks))
        try:
            return load_batch(self.mixture, self.steps[step], self.ranks[rank_index], self.world_size)
        except Geo4DError as error:
            return error


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
