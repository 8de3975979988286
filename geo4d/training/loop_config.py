"""Settings of a training run that are the same for every stage, and the names of its micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from geo4d.errors import ConfigError


@dataclass(frozen=True)
class LoopConfig:
    """How long, how fast, how safely.

    With `minutes` the run ends at whichever comes first, steps or minutes, and the learning rate follows the clock:
    such a run resumes from the time already spent, but only a run without `minutes` is repeated bit for bit.
    """

    steps: int = 1000
    minutes: float | None = None
    seed: int = 0  # of everything a loss draws from the global generators, such as dropout
    accumulate: int = 1  # micro-batches of each process that make one step
    precision: Literal["bf16", "fp32"] = "bf16"  # of the arithmetic; weights, optimiser and EMA stay in fp32
    gradient_checkpointing: bool = False  # less memory, about a third more work
    find_unused_parameters: bool = False  # for several processes, where a step may leave weights without a gradient

    optimizer: Literal["adamw", "adamw_fused", "adamw_8bit"] = "adamw"
    learning_rate: float = 1e-3
    decay: Literal["linear", "cosine"] = "linear"
    final_share: float = 0.02  # of the learning rate, at the end
    flat_share: float = 0.5  # of the run before the rate begins to fall
    warmup_steps: int = 100
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip_norm: float = 1.0
    ema_decay: float = 0.98  # of one update, every `ema_every` steps
    ema_every: int = 4

    checkpoint_minutes: float | None = 3.0
    checkpoint_steps: int | None = None
    keep_last: int = 2  # checkpoints
    keep_every: int | None = None  # steps: checkpoints at multiples of it are kept for good
    max_bad_steps: int = 20  # steps in a row without a finite loss and gradient before the run stops
    max_bad_share: float = 0.05  # of all steps (of 1000 at least)
    log_every: int = 50
    tensorboard: bool = True  # where it is installed

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "ema_every", "keep_last", "log_every", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        for name in ("minutes", "checkpoint_minutes", "checkpoint_steps", "keep_every", "learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be positive, got {value}.")
        for name in ("final_share", "flat_share", "ema_decay", "beta2", "max_bad_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie between 0 and 1, got {getattr(self, name)}.")


class Draw(int):
    """The number of one micro-batch, counted over the whole run: no two processes and no two steps share one.

    A loss draws its data and its noise from generators seeded with this number, so a resumed run needs no generator's
    state. With the same product of processes and accumulation a step sees the same draws, however they are split.
    `step` is for what all processes must decide alike, such as the size of the frames; with one process and no
    accumulation both are one.
    """

    step: int
    micro: int
    rank: int
    parts: int  # micro-batches of all processes that make one step

    @property
    def part(self) -> int:
        """Which of them this one is."""
        return int(self) - self.step * self.parts

    @classmethod
    def at(cls, step: int, *, micro: int = 0, rank: int = 0, accumulate: int = 1, world: int = 1) -> Draw:
        """The micro-batch `micro` (of `accumulate`) of process `rank` (of `world`) in a step."""
        draw = cls((step * accumulate + micro) * world + rank)
        draw.step, draw.micro, draw.rank, draw.parts = step, micro, rank, accumulate * world
        return draw

    def seed(self, base: int) -> int:
        """32 bits that differ from draw to draw and from `base` to `base`."""
        return int(np.random.SeedSequence([base, int(self)]).generate_state(1)[0])
