"""What is on disk, looked up once.

Recordings and problems in a JSON file of the user's cache, renewed when folders change.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from geo4d.data.frames import Problem, Recording
from geo4d.errors import InputError
from geo4d.scene.arrays import Unreadable, read_json
from geo4d.scene.atomic import whole_file

logger = logging.getLogger(__name__)

VERSION = 2


@dataclass(frozen=True)
class Index:
    """Everything that a scan of a data set found."""

    names: tuple[str, ...]  # all that is there, of use or not
    recordings: tuple[Recording, ...]  # their unbroken shots
    problems: tuple[tuple[str, Problem], ...]  # (name, what is wrong)
    watched: tuple[str, ...]  # folders and camera files whose change makes the index stale


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/geo4d/data`, by default below ~/.cache: a data set itself is never written to."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geo4d" / "data"


def load_index(root: Path, kind: str, scan: Callable[[], Index]) -> Index:
    """The index from the cache if nothing that it watches has changed since, else a new scan, which is kept."""
    file = cache_folder() / f"{kind}_{hashlib.sha256(str(root).encode()).hexdigest()[:20]}.json"
    try:
        stored = read_json(file)
        if stored["version"] == VERSION and stored["state"] == _state(stored["watched"]):
            recordings = tuple(Recording(**entry) for entry in stored["recordings"])
            problems = tuple((name, Problem(**entry)) for name, entry in stored["problems"])
            return Index(tuple(stored["names"]), recordings, problems, tuple(stored["watched"]))
    except (Unreadable, ValueError, KeyError, TypeError):
        logger.info("looking through %s", root)
    index = scan()
    entry = {"version": VERSION, "root": str(root), "state": _state(index.watched), **asdict(index)}
    try:
        with whole_file(file, subject=f"the index of {root}", remedy="it is made again next time") as temporary:
            temporary.write_text(json.dumps(entry))
    except InputError as error:
        logger.warning("Warning: %s", error)
    return index


def _state(watched: Iterable[str]) -> str:
    """One hash of the times and sizes of what is watched.

    A folder's time changes with every file that comes or goes.
    """
    digest = hashlib.sha256()
    for name in watched:
        try:
            status = Path(name).stat()
            entry = f"{name} {status.st_mtime_ns} {status.st_size}"
        except OSError:
            entry = f"{name} gone"
        digest.update(entry.encode())
    return digest.hexdigest()


def even_runs(numbers: np.ndarray) -> list[tuple[int, int, int]]:
    """Splits rising frame numbers into evenly spaced runs (first, step, count), all of the commonest step.

    A window never reaches over a gap, for the frames beside it are not equally far apart in time.
    """
    if len(numbers) < 2:
        return [(int(number), 1, 1) for number in numbers]
    gaps = np.diff(numbers)
    values, counts = np.unique(gaps, return_counts=True)
    step = int(values[counts.argmax()])
    parts = np.split(numbers, np.flatnonzero(gaps != step) + 1)
    return [(int(part[0]), step, len(part)) for part in parts]
