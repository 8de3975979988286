"""Which frames each window holds."""

from __future__ import annotations

import torch

from geo4d._typing import Int, Tensor
from geo4d.errors import ConfigError


def plan_windows(
    num_frames: int, *, length: int = 16, stride: int = 4, as_released: bool = False
) -> Int[Tensor, "g v"]:
    """Windows that start at 0, stride, 2 stride, ... and one more clamped to the end, each once (method 5).

    A video shorter than `length` is one window. `as_released` repeats the last window where no clamping was needed, and
    needs a whole window of frames (compat 6). Raises ConfigError for numbers that cannot work.
    """
    if num_frames < 1 or length < 1 or stride < 1:
        raise ConfigError(
            f"frames, window length and stride must be at least 1; got {num_frames}, {length} and {stride}."
        )
    if stride > length:
        raise ConfigError(
            f"A stride of {stride} would leave frames out; it can be at most the window's length, {length}."
        )
    if as_released and num_frames < length:
        raise ConfigError(f"The released script needs at least {length} frames; got {num_frames}: leave --compat out.")
    length = min(length, num_frames)
    last = num_frames - length
    starts = [*range(0, last + 1, stride), last]
    return torch.tensor(starts if as_released else sorted(set(starts)))[:, None] + torch.arange(length)
