"""Which windows a run sees: a pure function of (seed, step, rank).

So any step can be made again, and a run goes on anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from geo4d.data.base import DataSet
from geo4d.data.photometric import PhotometricConfig
from geo4d.data.view import View, ViewConfig, draw_view
from geo4d.errors import ConfigError

PAPER_RATIOS = {"pointodyssey": 1.0, "tartanair": 1.0, "spring": 1.0, "vkitti2": 1.0, "bedlam": 2.0}  # method 4
BLOCK = 720  # draws in which the ratios hold exactly; divisible by every number up to ten but seven
VIEW_STREAM, SIZE_STREAM, BLOCK_STREAM, EPOCH_STREAM = range(4)


@dataclass(frozen=True)
class Size:
    """A resolution bucket."""

    height: int
    width: int
    share: float = 1.0  # of the steps, against the other sizes


PAPER_SIZES = (Size(384, 512), Size(320, 512), Size(256, 576), Size(192, 640))


@dataclass(frozen=True)
class MixtureConfig:
    """What a batch is made of."""

    # by name of the data set; need not add up to one
    ratios: dict[str, float] = field(default_factory=lambda: dict(PAPER_RATIOS))
    sizes: list[Size] = field(default_factory=lambda: list(PAPER_SIZES))
    frames: int = 16
    strides: tuple[int, ...] = (1, 2, 3)
    batch: int = 8  # windows a step and rank
    view: ViewConfig = field(default_factory=ViewConfig)
    # None: colours, blur and compression stay as they are
    film: PhotometricConfig | None = field(default_factory=PhotometricConfig)
    least_known: float = 0.02  # share of a window's pixels with depth, below which another window takes its place
    most_bad: float = 0.05  # share of windows with broken files at which the run stops


@dataclass(frozen=True)
class PlannedWindow:
    """One window: all that is needed to make it again."""

    data: str  # name of the data set
    recording: int
    start: int
    stride: int
    view: View
    seed: tuple[int, ...]  # of colours and compression, and of substitutes


class Mixture:
    """Data sets by name, and the order in which their windows are drawn.

    The data set follows the ratios, exactly in every BLOCK draws. Each set is gone through epoch by epoch in a new
    random order, so ranks never share a window within an epoch, and long recordings are seen more often than short
    ones. Windows of a step have one size.
    """

    def __init__(self, sets: Mapping[str, DataSet], config: MixtureConfig | None = None, *, seed: int = 0) -> None:
        """Raises ConfigError if a set has no ratio or no recording that is long enough.

        Ratios of sets that are not given fall away.
        """
        self.sets, self.config, self.seed = dict(sets), config or MixtureConfig(), seed
        c = self.config
        if not sets or c.frames < 1 or c.batch < 1 or not c.sizes or min(c.strides, default=0) < 1:
            raise ConfigError(
                "A mixture needs data sets, sizes, strides from 1, and at least one frame and one window a batch."
            )
        unknown = sorted(set(sets) - {name for name, ratio in c.ratios.items() if ratio > 0})
        if unknown:
            raise ConfigError(f"The mixture has no ratio for {', '.join(unknown)}; give one that is above 0.")
        self.names = sorted(sets)
        ratios = np.array([c.ratios[name] for name in self.names])
        self.block = _whole_parts(ratios / ratios.sum(), BLOCK)
        if self.block.min() < 1:
            raise ConfigError(
                f"The smallest ratio is below 1 in {BLOCK}, so its data set would never be drawn; raise it or leave it "
                "out."
            )
        self.starts = {name: np.cumsum(np.maximum(data.counts() - c.frames + 1, 0)) for name, data in self.sets.items()}
        short = [name for name in self.names if not len(self.starts[name]) or self.starts[name][-1] == 0]
        if short:
            raise ConfigError(
                f"No recording of {', '.join(short)} has the {c.frames} frames of a window; check the data or take "
                "fewer."
            )

    def plan(self, step: int, rank: int = 0, world_size: int = 1) -> list[PlannedWindow]:
        """The windows of one batch."""
        first = (step * world_size + rank) * self.config.batch
        size = self.size(step)
        return [self._draw(number, size) for number in range(first, first + self.config.batch)]

    def size(self, step: int) -> tuple[int, int]:
        """(height, width) of the windows of a step, the same on all ranks, so that none waits for another."""
        generator = np.random.default_rng([self.seed, step, SIZE_STREAM])
        shares = np.array([size.share for size in self.config.sizes])
        chosen = self.config.sizes[int(generator.choice(len(shares), p=shares / shares.sum()))]
        return chosen.height, chosen.width

    def substitute(self, draw: PlannedWindow, attempt: int) -> PlannedWindow:
        """Another window of the same data set and size, for one that is of no use."""
        generator = np.random.default_rng([*draw.seed, attempt])
        return self._window(
            draw.data, int(generator.integers(self.starts[draw.data][-1])), draw.view.size, (*draw.seed, attempt)
        )

    def _draw(self, number: int, size: tuple[int, int]) -> PlannedWindow:
        """The window with this number among all that are ever drawn."""
        block, within_block = divmod(number, BLOCK)
        order = _order(self.seed, block, tuple(self.block.tolist()))
        which = int(order[within_block])
        drawn_before = block * int(self.block[which]) + int((order[:within_block] == which).sum())  # of this set
        name = self.names[which]
        epoch, item = divmod(drawn_before, int(self.starts[name][-1]))
        chosen = int(_permutation(self.seed, which, epoch, int(self.starts[name][-1]))[item])
        return self._window(name, chosen, size, (self.seed, number, VIEW_STREAM))

    def _window(self, name: str, item: int, size: tuple[int, int], seed: tuple[int, ...]) -> PlannedWindow:
        """Item n is the n-th place where a window of stride 1 can begin.

        Larger strides leave fewer places and share them.
        """
        ends = self.starts[name]
        recording = int(np.searchsorted(ends, item, side="right"))
        before = int(ends[recording - 1]) if recording else 0
        places = int(ends[recording]) - before
        count = places + self.config.frames - 1
        generator = np.random.default_rng(seed)
        fitting = [stride for stride in self.config.strides if stride * (self.config.frames - 1) < count] or [1]
        stride = int(generator.choice(fitting))
        room = count - stride * (self.config.frames - 1)
        return PlannedWindow(
            name,
            recording,
            (item - before) * room // places,
            stride,
            draw_view(generator, size, self.config.view),
            seed,
        )


def _whole_parts(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that add up to `total`, as near to the shares as can be."""
    parts = np.floor(shares * total + 1e-9).astype(np.int64)
    parts[np.argsort(parts - shares * total, kind="stable")[: total - int(parts.sum())]] += 1
    return parts


@lru_cache(maxsize=64)
def _order(seed: int, block: int, parts: tuple[int, ...]) -> np.ndarray:
    """Which data set each draw of a block takes."""
    return np.random.default_rng([seed, block, BLOCK_STREAM]).permutation(np.repeat(np.arange(len(parts)), parts))


@lru_cache(maxsize=32)
def _permutation(seed: int, which: int, epoch: int, size: int) -> np.ndarray:
    """The order of a data set's windows in one epoch."""
    return np.random.default_rng([seed, which, epoch, EPOCH_STREAM]).permutation(size).astype(np.int32)
