"""One training loop for every stage; it knows nothing of the task.

A stage gives a module and a function `loss(draw) -> (loss, numbers to log)`; the loop adds what every run needs:
several processes, accumulation, clipping, the schedule, EMA, checkpoints, logs, and the care for steps that are not
finite.

A run of fixed length (no `minutes`) that is killed and started again gives the same weights and the same losses, bit
for bit, on hardware whose kernels are deterministic: data and noise follow from the draw's number, torch's, NumPy's and
Python's global generators are seeded with it, and a checkpoint holds everything else.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from geo4d._typing import Tensor
from geo4d.errors import CheckpointError, Geo4DError
from geo4d.training import ranks
from geo4d.training.checkpoints import Checkpoints, Snapshot
from geo4d.training.ema import Ema
from geo4d.training.loop_config import Draw, LoopConfig
from geo4d.training.optimizer import learning_rate, make_optimizer, switch_on_checkpointing
from geo4d.training.ranks import StopRequest
from geo4d.training.run_log import SUMMED, RunLog, Window, duration
from geo4d.training.updates import make_updates
from geo4d.training.utilisation import FlopCounter, peak_flops

__all__ = ["Draw", "LoopConfig", "Loss", "TrainingLoop"]

logger = logging.getLogger(__name__)

Loss = Callable[[Draw], tuple[Tensor, dict[str, float]]]
Validation = Callable[[int], dict[str, float]]
COUNT_FLOPS_EVERY = 1000  # steps: batches change in size over a run
STOPPED_BY_SIGNAL = 143  # exit code, as shells give it for SIGTERM


class TrainingLoop:
    """Runs one stage in `directory`; started again on the same directory it goes on from the last checkpoint.

    `numbers` of the loss are averaged for the log, but for "samples", which is summed and gives the throughput.
    """

    def __init__(
        self, name: str, module: nn.Module, config: LoopConfig, directory: Path, device: torch.device | None = None
    ) -> None:
        self.name, self.config, self.directory = name, config, directory
        device = ranks.choose_device() if device is None else device
        if config.gradient_checkpointing:
            switch_on_checkpointing(module)
        self.accelerator = ranks.make_accelerator(device, config)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device = device if self.world == 1 or device.type == "cpu" else self.accelerator.device
        self.module = module.to(self.device)
        self.optimizer = make_optimizer(module.parameters(), config)
        self.updates = make_updates(self.accelerator, module, self.optimizer, config)
        self.ema = Ema(module, config.ema_decay)
        self.checkpoints = Checkpoints(directory / name, config.keep_last, config.keep_every)
        self.step, self.elapsed = 0, 0.0
        self.bad_steps, self.bad_in_a_row = 0, 0
        self._clock = 0.0  # when the last step ended; checkpoints and validation are not counted
        self._flops: int | None = None
        self._window = Window()
        directory.mkdir(parents=True, exist_ok=True)
        self.log = RunLog(directory, name, is_main=self.is_main, tensorboard=config.tensorboard)
        self._resume()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def progress(self) -> float:
        """How much of the run is over, 0 to 1, by steps or by minutes; the same on every process."""
        by_time = self.elapsed / (60 * self.config.minutes) if self.config.minutes else 0.0
        return min(1.0, max(self.step / self.config.steps, by_time))

    def run(self, loss: Loss, *, on_checkpoint: Validation | None = None) -> None:
        """Trains to the end, then leaves the EMA weights in the module.

        `on_checkpoint(step)` may validate: it runs after every checkpoint on every process, without gradients and with
        the EMA weights in place; its numbers are averaged over the processes and logged. SIGTERM saves a checkpoint,
        then exits.
        """
        self.module.train()
        if (
            self.progress >= 1.0 and on_checkpoint is not None
        ):  # killed after its last step, perhaps before it was validated
            self._validate(on_checkpoint)
        last_save, self._clock = self.elapsed, time.monotonic()
        with StopRequest() as stop, contextlib.closing(self.log):
            while self.progress < 1.0:
                is_stopped = self._train_step(loss, stop)
                over = self.progress >= 1.0
                if self.step % self.config.log_every == 0 or over:
                    self._log_window()
                if over or is_stopped or self._is_due(self.elapsed - last_save):
                    self.save()
                    if is_stopped:
                        ranks.wait()  # a launcher that sees one process end soon kills the others
                        logger.warning(
                            "%s: stopped at step %d by a signal; started again it goes on from there.",
                            self.name,
                            self.step,
                        )
                        raise SystemExit(STOPPED_BY_SIGNAL)
                    if on_checkpoint is not None:
                        self._validate(on_checkpoint)
                    last_save, self._clock = self.elapsed, time.monotonic()
        self.ema.copy_to_module()
        self.module.eval()

    def save(self) -> None:
        """Writes a checkpoint; every process must call it."""
        window = Window.merged(ranks.from_all_ranks(self._window.sums))
        self._window = window if self.is_main else Window()
        counters = {
            "step": self.step,
            "elapsed": self.elapsed,
            "ema_updates": self.ema.updates,
            "bad_steps": [self.bad_steps, self.bad_in_a_row],
            "window": self._window.sums,
            "draws_per_step": self.config.accumulate * self.world,
            "optimizer": self.config.optimizer,
        }
        parts = [ranks.to_cpu(self.module.state_dict()), ranks.to_cpu(self.ema.weights), self.updates.state()]
        if self.is_main:
            self.checkpoints.save(self.step, Snapshot(*parts, counters=counters))

    def _train_step(self, loss: Loss, stop: StopRequest) -> bool:
        """One step of the optimiser, or none if anything was not finite; says whether a process was told to stop."""
        c = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(c, self.step, self.progress)
        numbers = self._accumulate(loss)
        norm = self.updates.clip()
        is_bad = not all(math.isfinite(each["loss"]) for each in (*numbers, {"loss": norm}))
        now = time.monotonic()
        seconds, self._clock = now - self._clock if self.is_main else 0.0, now
        bad, stops, seconds = ranks.sum_over_ranks([float(is_bad), float(stop.wished), seconds], self.device)
        if not bad:
            self.updates.step()
        self.updates.clear()
        self.step, self.elapsed = self.step + 1, self.elapsed + seconds
        if self.is_main:
            self._window.add({"seconds": seconds})
        if bad:
            self._count_bad(numbers, norm)
            return stops > 0
        self.bad_in_a_row = 0
        if self.step % c.ema_every == 0:
            self.ema.update()
        for each in (*numbers, *([{"gradient_norm": norm}] if self.is_main else [])):
            self._window.add(each)
        return stops > 0

    def _accumulate(self, loss: Loss) -> list[dict[str, float]]:
        """The gradient of the mean loss over all micro-batches and processes; the numbers of this process."""
        c, results = self.config, []
        counter = FlopCounter() if self._flops is None or self.step % COUNT_FLOPS_EVERY == 0 else None
        with counter or contextlib.nullcontext():
            for micro in range(c.accumulate):
                draw = Draw.at(self.step, micro=micro, rank=self.rank, accumulate=c.accumulate, world=self.world)
                ranks.seed_generators(draw.seed(c.seed), self.device)
                with self.updates.micro_batch(is_last=micro == c.accumulate - 1):
                    value, numbers = self.updates.forward(loss, draw)
                    self.updates.backward(value)
                results.append({**numbers, "loss": float(value.detach())})
        if counter is not None:
            self._flops = counter.total
        return results

    def _count_bad(self, numbers: list[dict[str, float]], norm: float) -> None:
        """Counts a step that was left out; raises Geo4DError when there are too many."""
        c = self.config
        self.bad_steps, self.bad_in_a_row = self.bad_steps + 1, self.bad_in_a_row + 1
        losses = ", ".join(f"{each['loss']:.4g}" for each in numbers)
        logger.warning(
            "%s: step %d left out on all processes (loss %s, gradient norm %.4g).",
            self.name,
            self.step - 1,
            losses,
            norm,
        )
        in_a_row, too_many = (
            self.bad_in_a_row >= c.max_bad_steps,
            self.bad_steps > c.max_bad_share * max(self.step, 1000),
        )
        if in_a_row or too_many:
            how = f"{self.bad_in_a_row} times in a row" if in_a_row else f"in {self.bad_steps} of {self.step} steps"
            raise Geo4DError(
                f"Stage {self.name} stopped at step {self.step}: the loss or its gradient was not finite {how}; lower "
                "the learning rate or look at the data of these steps, and start again from the last checkpoint in "
                f"{self.checkpoints.directory}."
            )

    def _is_due(self, seconds: float) -> bool:
        """Whether it is time for a checkpoint."""
        by_step, minutes = self.config.checkpoint_steps, self.config.checkpoint_minutes
        return bool(by_step and self.step % by_step == 0) or bool(minutes and seconds > 60 * minutes)

    def _validate(self, on_checkpoint: Validation) -> None:
        def quietly(step: int) -> dict[str, float]:
            with torch.autocast(self.device.type, enabled=False):
                return on_checkpoint(step)

        with self.ema.in_module(), torch.no_grad():
            numbers = self.updates.forward(quietly, self.step)
        means = Window.merged(
            [{key: [float(value), 1.0] for key, value in each.items()} for each in ranks.from_all_ranks(numbers)]
        ).means()
        self.log.write(self.step, {"seconds": self.elapsed, **means})
        if self.is_main:
            logger.info("%s %d  validation  %s", self.name, self.step, _shown(means))

    def _log_window(self) -> None:
        """Writes the means since the last line, with throughput and time left; every process must call it."""
        window = Window.merged(ranks.from_all_ranks(self._window.sums))
        self._window = Window()
        if not self.is_main:
            return
        means, (seconds, steps) = window.means(), window.sums.get("seconds", [0.0, 0.0])
        means.pop("seconds", None)
        rates: dict[str, float] = {"steps_per_second": steps / max(seconds, 1e-9)}
        if window.total(SUMMED):
            rates["samples_per_second"] = window.total(SUMMED) / max(seconds, 1e-9)
        if self._flops:
            rates["flops_share"] = (
                self._flops * rates["steps_per_second"] / peak_flops(self.device, self.config.precision)[0]
            )
        rate = learning_rate(self.config, self.step, self.progress)
        entry = {"seconds": self.elapsed, "learning_rate": rate, "bad_steps": self.bad_steps}
        self.log.write(self.step, {**entry, **means, **rates})
        left = duration(self.elapsed * (1 / max(self.progress, 1e-9) - 1))
        where = f"{self.name} {self.step} ({100 * self.progress:.0f} %, {left} left)"
        logger.info("%s  %s  %s", where, _shown(means), self._shown_rates(rates))

    def _shown_rates(self, rates: dict[str, float]) -> str:
        text = f"{rates['steps_per_second']:.3g} steps/s"
        if "samples_per_second" in rates:
            text += f"  {rates['samples_per_second']:.3g} samples/s"
        if "flops_share" in rates:
            source = peak_flops(self.device, self.config.precision)[1]
            text += f"  {100 * rates['flops_share']:.1f} % of the {source} peak"
        return text

    def _resume(self) -> None:
        """Goes on from the newest sound checkpoint, the same on every process."""
        step = ranks.from_main(self.checkpoints.newest_sound() if self.is_main else None)
        if self.is_main:
            self.checkpoints.tidy(after=step or 0)
        self.log.rewind(step or 0)
        if step is None:
            return
        snapshot = self.checkpoints.load(step, shared_memory=self.world > 1)
        counters = snapshot.counters
        if ("8bit" in counters["optimizer"]) != ("8bit" in self.config.optimizer):
            raise CheckpointError(
                f"The checkpoint of stage {self.name} was made with optimizer={counters['optimizer']}, which does not "
                f"go on as {self.config.optimizer}; set the former, or use another folder."
            )
        self._load(snapshot)
        self.step, self.elapsed, self.ema.updates = step, counters["elapsed"], counters["ema_updates"]
        self.bad_steps, self.bad_in_a_row = counters["bad_steps"]
        self._window = Window(counters["window"] if self.is_main else None)
        draws = self.config.accumulate * self.world
        if draws != counters["draws_per_step"]:
            logger.warning(
                "%s: %d micro-batches a step, before %d; the run goes on, with other data.",
                self.name,
                draws,
                counters["draws_per_step"],
            )
        if self.is_main:
            logger.info("%s: resumed at step %d", self.name, step)

    def _load(self, snapshot: Snapshot) -> None:
        """Puts a snapshot's tensors where they belong; raises CheckpointError where they do not fit."""
        own = self.module.state_dict()
        if own.keys() != snapshot.module.keys() or any(
            own[key].shape != value.shape for key, value in snapshot.module.items()
        ):
            raise CheckpointError(
                f"The checkpoint in {self.checkpoints.directory} is of another {type(self.module).__name__}: its "
                "weights have other names or shapes; use another folder, or the settings it was made with."
            )
        self.module.load_state_dict({key: ranks.like(value, own[key]) for key, value in snapshot.module.items()})
        for key, value in self.ema.weights.items():
            value.copy_(ranks.like(snapshot.ema[key], value))
        self.updates.load_state(snapshot.optimizer)


def _shown(numbers: dict[str, float]) -> str:
    return "  ".join(f"{key} {value:.4f}" for key, value in numbers.items())
