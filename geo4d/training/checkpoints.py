"""Checkpoints of a stage: one folder a step, complete or not there at all.

    <run>/<stage>/step_00001200/
        training.pt        weights and optimiser state, exactly as they were
        ema.safetensors    the averaged weights in fp32
        state.json         counters, and size and checksum of the other two

A folder is written under another name and moved in one rename, so a process killed at any moment leaves the older ones
whole.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from geo4d._typing import Tensor
from geo4d.errors import CheckpointError
from geo4d.scene.arrays import read_json

logger = logging.getLogger(__name__)

TRAINING, EMA, STATE = "training.pt", "ema.safetensors", "state.json"
PARTIAL = ".partial"


@dataclass(frozen=True)
class Snapshot:
    """Everything a run goes on from; tensors on the CPU."""

    module: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[int, Any]  # the optimiser's state by the number of the parameter
    counters: dict[str, Any]  # what JSON can hold


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in `directory`: the last `keep_last` are kept, and those at multiples of `keep_every` steps."""

    directory: Path
    keep_last: int = 2
    keep_every: int | None = None

    def steps(self) -> list[int]:
        """The steps there are complete checkpoints of, ascending."""
        names = [
            path.name for path in self.directory.glob("step_*") if path.name[5:].isdigit() and (path / STATE).is_file()
        ]
        return sorted(int(name[5:]) for name in names)

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self.directory / f"step_{step:08d}"

    def save(self, step: int, snapshot: Snapshot) -> Path:
        """Writes a checkpoint, then removes what need not be kept. For one process alone."""
        final = self.path(step)
        partial = final.with_name(final.name + PARTIAL)
        partial.mkdir(parents=True, exist_ok=True)  # of a process that was killed here: written over
        torch.save({"module": snapshot.module, "optimizer": snapshot.optimizer}, partial / TRAINING)
        save_file({key: value.contiguous() for key, value in snapshot.ema.items()}, partial / EMA)
        files = {name: _stamp(partial / name) for name in (TRAINING, EMA)}
        (partial / STATE).write_text(json.dumps({"step": step, "counters": snapshot.counters, "files": files}))
        for name in (TRAINING, EMA, STATE):
            _flush(partial / name)
        if final.exists():  # of the same step: a damaged one that was not read, or the same again
            self._remove(final)
        os.replace(partial, final)
        _flush(self.directory)
        self._retain()
        return final

    def newest_sound(self) -> int | None:
        """The step of the newest checkpoint whose files are what was written, or None if there is none at all.

        Damaged ones are passed over with a warning. Raises CheckpointError if all are damaged: to begin anew in silence
        would throw a run away.
        """
        steps = self.steps()
        for step in reversed(steps):
            fault = self._fault(step)
            if fault is None:
                return step
            logger.warning("The checkpoint %s is damaged (%s); the one before it is taken.", self.path(step), fault)
        if steps:
            raise CheckpointError(
                f"Every checkpoint in {self.directory} is damaged; restore one, or remove the folder to begin anew."
            )
        return None

    def load(self, step: int, *, shared_memory: bool = False) -> Snapshot:
        """Reads one checkpoint; with `shared_memory` the processes of a machine share the pages of the file."""
        folder = self.path(step)
        try:
            training = torch.load(folder / TRAINING, map_location="cpu", weights_only=True, mmap=shared_memory)
            state = read_json(folder / STATE)
            return Snapshot(training["module"], load_file(folder / EMA), training["optimizer"], state["counters"])
        except (OSError, EOFError, RuntimeError, KeyError, ValueError, UnpicklingError, SafetensorError) as error:
            raise CheckpointError(
                f"The checkpoint {folder} cannot be read ({type(error).__name__}); every process needs the same "
                "folder, on a disk that all machines see."
            ) from error

    def tidy(self, *, after: int) -> None:
        """Clears away what a killed process left half done, and damaged checkpoints of later steps.

        For one process alone.
        """
        for path in self.directory.glob("step_*"):
            if path.name.endswith(PARTIAL) or (path.name[5:].isdigit() and int(path.name[5:]) > after):
                _remove_files(path)

    def _fault(self, step: int) -> str | None:
        """What is wrong with a checkpoint, if anything."""
        try:
            files = read_json(self.path(step) / STATE)["files"]
            wrong = [name for name in (TRAINING, EMA) if _stamp(self.path(step) / name) != files[name]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{STATE} or a file it names cannot be read: {type(error).__name__}"
        return f"{wrong[0]} is not what was written" if wrong else None

    def _retain(self) -> None:
        for step in self.steps()[: -self.keep_last]:
            if not self.keep_every or step % self.keep_every:
                self._remove(self.path(step))

    def _remove(self, folder: Path) -> None:
        """Removes a checkpoint as a whole: renamed first, so that half of one is never taken for one."""
        partial = folder.with_name(f"{folder.name}.old{PARTIAL}")
        _remove_files(partial)
        os.replace(folder, partial)
        _remove_files(partial)


def load_ema(directory: Path) -> dict[str, Tensor]:
    """The averaged weights of the newest sound checkpoint in a stage's folder.

    Raises CheckpointError if there is none.
    """
    checkpoints = Checkpoints(directory)
    step = checkpoints.newest_sound()
    if step is None:
        raise CheckpointError(f"There is no checkpoint in {directory}; train this stage first.")
    return load_file(checkpoints.path(step) / EMA)


def _remove_files(folder: Path) -> None:
    """Removes the files of a checkpoint, and its folder if nothing else lies in it."""
    with suppress(OSError):  # it is not there, or is not empty
        for name in (TRAINING, EMA, STATE):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _stamp(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            checksum = zlib.crc32(block, checksum)
    return [path.stat().st_size, checksum]


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk and not only in the system's memory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
