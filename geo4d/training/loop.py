"""One training loop for every stage: accelerate, AdamW, warm-up and decay, EMA, atomic checkpoints, a log file.

It knows nothing of the task: a stage gives a module and a function `(step) -> (loss, numbers to log)`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from geo4d._typing import Tensor
from geo4d.errors import Geo4DError

logger = logging.getLogger(__name__)

Loss = Callable[[int], tuple[Tensor, dict[str, float]]]
MAX_BAD_STEPS = 20  # non-finite losses in a row before the run stops


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast. With `minutes` the schedule ends at whichever comes first, steps or minutes."""

    steps: int = 1000
    minutes: float | None = None
    learning_rate: float = 1e-3
    final_share: float = 0.02  # of the learning rate, at the end
    flat_share: float = 0.5  # of the run before the rate begins to fall
    warmup_steps: int = 100
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip_norm: float = 1.0
    ema_decay: float = 0.98  # of one update, every `ema_every` steps
    ema_every: int = 4
    checkpoint_minutes: float = 3.0
    log_every: int = 50


class TrainingLoop:
    """Runs one stage in `directory`; started again on the same directory it goes on from the last checkpoint."""

    def __init__(self, name: str, module: nn.Module, config: LoopConfig, directory: Path, device: torch.device) -> None:
        self.name, self.config, self.directory, self.device = name, config, directory, device
        self.module = module.to(device)
        self.ema = {key: value.detach().clone().float() for key, value in module.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=config.learning_rate,
            betas=(0.9, config.beta2),
            weight_decay=config.weight_decay,
        )
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16")
        self.step, self.ema_updates, self.elapsed, self.bad_steps = 0, 0, 0.0, 0
        directory.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def progress(self) -> float:
        """How much of the run is over, 0 to 1, by steps or by minutes."""
        by_time = self.elapsed / (60 * self.config.minutes) if self.config.minutes else 0.0
        return min(1.0, max(self.step / self.config.steps, by_time))

    def learning_rate(self) -> float:
        """Warm-up, flat, then linear to the final share."""
        c = self.config
        warm = min(1.0, (self.step + 1) / max(c.warmup_steps, 1))
        fall = max(0.0, (self.progress - c.flat_share) / max(1 - c.flat_share, 1e-6))
        return c.learning_rate * warm * (1 - (1 - c.final_share) * fall)

    def run(self, loss: Loss, *, on_checkpoint: Callable[[int], dict[str, float]] | None = None) -> None:
        """Trains to the end, then leaves the EMA weights in the module.

        `on_checkpoint(step)` may validate with the EMA weights in place; its numbers are logged.
        """
        last_time, last_save = time.monotonic(), self.elapsed
        sums: dict[str, list[float]] = {}
        self.module.train()
        while self.progress < 1.0:
            value, numbers = self._train_step(loss)
            now = time.monotonic()
            self.elapsed, last_time = self.elapsed + now - last_time, now
            for key, number in {"loss": value, **numbers}.items():
                sums.setdefault(key, []).append(number)
            if self.step % self.config.log_every == 0:
                self._log({key: sum(values) / len(values) for key, values in sums.items()})
                sums = {}
            if self.elapsed - last_save > 60 * self.config.checkpoint_minutes:
                last_save = self.elapsed
                self.save()
                if on_checkpoint is not None:
                    self._log(self._with_ema(lambda: on_checkpoint(self.step)))
                    last_time = time.monotonic()
        self.module.load_state_dict(self.ema)
        self.module.eval()
        self.save()
        if on_checkpoint is not None:
            self._log(on_checkpoint(self.step))

    def save(self) -> None:
        """Writes the state beside the old one, then replaces it in one move."""
        state = {
            "module": self.module.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "counters": [self.step, self.ema_updates, self.elapsed],
        }
        temporary = self._path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self._path)

    def _train_step(self, loss: Loss) -> tuple[float, dict[str, float]]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with self.accelerator.autocast():
            value, numbers = loss(self.step)
        self.step += 1
        if not math.isfinite(float(value.detach())):
            self.bad_steps += 1
            if self.bad_steps >= MAX_BAD_STEPS:
                raise Geo4DError(
                    f"Stage {self.name} stopped: the loss was not finite {MAX_BAD_STEPS} times in a row; "
                    "lower the learning rate and start again from the last checkpoint."
                )
            return 0.0, {}
        self.bad_steps = 0
        self.accelerator.backward(value)
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.step % self.config.ema_every == 0:
            self._update_ema()
        return float(value.detach()), {**numbers, "gradient_norm": float(norm)}

    @torch.no_grad()
    def _update_ema(self) -> None:
        self.ema_updates += 1
        decay = min(self.config.ema_decay, (self.ema_updates + 1) / (self.ema_updates + 30))
        for key, value in self.module.state_dict().items():
            if value.dtype.is_floating_point:
                self.ema[key].lerp_(value.float(), 1 - decay)
            else:
                self.ema[key].copy_(value)

    def _with_ema(self, function: Callable[[], dict[str, float]]) -> dict[str, float]:
        own = {key: value.clone() for key, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.ema)
        self.module.eval()
        numbers = function()
        self.module.load_state_dict(own)
        self.module.train()
        return numbers

    @property
    def _path(self) -> Path:
        return self.directory / f"{self.name}.pt"

    def _resume(self) -> None:
        if not self._path.exists():
            return
        state = torch.load(self._path, map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.ema = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.ema_updates, self.elapsed = state["counters"]
        logger.info("%s: resumed at step %d", self.name, self.step)

    def _log(self, numbers: dict[str, float]) -> None:
        left = self.elapsed * (1 / max(self.progress, 1e-6) - 1)
        entry = {"stage": self.name, "step": self.step, "seconds": round(self.elapsed, 1), "lr": self.learning_rate()}
        with (self.directory / "log.jsonl").open("a") as file:
            file.write(json.dumps({**entry, **{key: round(value, 6) for key, value in numbers.items()}}) + "\n")
        shown = "  ".join(f"{key} {value:.4f}" for key, value in numbers.items())
        logger.info("%s %d (%.0f %%, %.0f s left)  %s", self.name, self.step, 100 * self.progress, left, shown)
