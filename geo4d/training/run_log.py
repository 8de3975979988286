"""What a run writes down.

`log.jsonl` with one line an interval, TensorBoard where it is installed, a line on the console.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
from pathlib import Path
from typing import Any

from geo4d.scene.arrays import Unreadable, parse_json
from geo4d.scene.atomic import whole_file

logger = logging.getLogger(__name__)

SUMMED = (
    "samples"  # the one number of a loss that is added up over micro-batches and processes; the others are averaged
)


class Window:
    """Sums since the last line of the log; part of the checkpoint, so that a resumed run writes the same lines."""

    def __init__(self, sums: dict[str, list[float]] | None = None) -> None:
        self.sums: dict[str, list[float]] = sums or {}  # name -> [sum, count]

    def add(self, numbers: dict[str, float]) -> None:
        """Takes in the numbers of a micro-batch or a step."""
        for key, number in numbers.items():
            pair = self.sums.setdefault(key, [0.0, 0.0])
            pair[0] += number
            pair[1] += 1.0

    def means(self) -> dict[str, float]:
        """Means of what is averaged."""
        return {key: total / count for key, (total, count) in self.sums.items() if key != SUMMED}

    def total(self, key: str) -> float:
        """A sum, 0 for a name that was not met."""
        return self.sums.get(key, [0.0, 0.0])[0]

    @classmethod
    def merged(cls, windows: list[dict[str, list[float]]]) -> Window:
        """The window of all processes together."""
        result: dict[str, list[float]] = {}
        for sums in windows:
            for key, (total, count) in sums.items():
                pair = result.setdefault(key, [0.0, 0.0])
                pair[0] += total
                pair[1] += count
        return cls(result)


class RunLog:
    """Writes for one stage; made by every process, written by the main one alone (`is_main`)."""

    def __init__(self, directory: Path, stage: str, *, is_main: bool, tensorboard: bool) -> None:
        self.path, self.stage, self.is_main = directory / "log.jsonl", stage, is_main
        self._boards = directory / "tensorboard" / stage if tensorboard and is_main else None
        self._writer: Any = None
        self._first_step = 0

    def rewind(self, step: int) -> None:
        """Drops this stage's lines of later steps, and any line that a killed process left unfinished."""
        self._first_step = step + 1
        if not self.is_main or not self.path.exists():
            return
        kept = [line for line in self.path.read_text().splitlines() if self._is_kept(line, step)]
        with whole_file(self.path, alone=True) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))

    def write(self, step: int, numbers: dict[str, Any]) -> None:
        """One line, and one point a number in TensorBoard; what is not finite is written as null."""
        if not self.is_main:
            return
        clean = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"stage": self.stage, "step": step, **clean}) + "\n")
        writer = self._tensorboard()
        if writer is not None:
            for key, value in clean.items():
                if value is not None:
                    writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Writes what TensorBoard still holds in memory."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _is_kept(self, line: str, step: int) -> bool:
        try:
            entry = parse_json(line)
        except Unreadable:
            return False
        if not isinstance(entry, dict):
            return False
        return entry.get("stage") != self.stage or entry.get("step", 0) <= step

    def _tensorboard(self) -> Any:
        """The writer, made at the first line; None where TensorBoard is not wanted or not installed (said once)."""
        if self._writer is None and self._boards is not None:
            if importlib.util.find_spec("tensorboard") is None:
                logger.info(
                    "TensorBoard is not installed, log.jsonl is written alone; `pip install geo4d[train]` adds it."
                )
                self._boards = None
                return None
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._boards), purge_step=self._first_step)
        return self._writer


def duration(seconds: float) -> str:
    """Seconds as people say them: "45 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
