"""A running mean of the weights, in fp32: what a run hands on when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from geo4d._typing import Tensor


class Ema:
    """`weights` follows a module's state; every process holds the same one (or, sharded, its part of it).

    The decay of an update is min(decay, (n + 1) / (n + 30)) for the n-th, so the first steps are forgotten soon.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.updates = module, decay, 0
        self.weights: dict[str, Tensor] = {
            key: value.detach().clone().float() if value.dtype.is_floating_point else value.detach().clone()
            for key, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Moves the mean towards the module; counters and other whole numbers are copied."""
        self.updates += 1
        decay = min(self.decay, (self.updates + 1) / (self.updates + 30))
        for key, value in self.module.state_dict().items():
            if value.dtype.is_floating_point:
                self.weights[key].mul_(decay).add_(value.float(), alpha=1 - decay)
            else:
                self.weights[key].copy_(value)

    def copy_to_module(self) -> None:
        """Puts the mean into the module for good."""
        self.module.load_state_dict(self.weights)

    @contextmanager
    def in_module(self) -> Iterator[None]:
        """The module in evaluation mode with the mean as its weights; its own come back afterwards."""
        own = {key: value.detach().clone() for key, value in self.module.state_dict().items()}
        was_training = self.module.training
        self.copy_to_module()
        self.module.eval()
        try:
            yield
        finally:
            self.module.load_state_dict(own)
            self.module.train(was_training)
