"""Arrays and small JSON from files that anyone may have written.

Nothing is unpickled, no claimed size believed unchecked.
"""

from __future__ import annotations

import json
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy

from geo4d.errors import InputError

MOST_SIDE = 2**15  # pixels of a picture's side, twice that of 16K video: more is a damaged number
# what an archive may unpack to, in bytes, and times its own size; noise of any kind stays far below
UNPACKED, UNPACKED_RATIO = 2**28, 100
LARGEST_JSON = 64 * 2**20  # bytes; the summary of an hour of video, the largest that we write, has about one tenth
_HEADERS: dict[tuple[int, int], Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_BROKEN = (
    OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, EOFError, OverflowError, MemoryError,
    SyntaxError, NotImplementedError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Unreadable(ValueError):
    """Why a file holds no usable arrays, in a few words for the sentence of whoever wanted them."""


def map_array(path: str | Path, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """The one array of an .npy file as a memory map, to read ("r") or to change in memory alone ("c").

    Raises Unreadable for a missing, damaged or cut off file, for pickles, and for archives of several arrays.
    """
    if not Path(path).is_file():  # a pipe would be waited for without end
        raise Unreadable("there is no such file")
    try:
        found = np.load(path, mmap_mode=mode, allow_pickle=False)
    except _BROKEN as error:
        raise Unreadable(_reason(error)) from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise Unreadable("it holds several arrays")
    return found


def read_archive(
    path: str | Path, names: Collection[str] | None = None, *, prefix: str = "\0"
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file that bear one of these names or begin with `prefix`, or all; others are not read.

    Raises Unreadable for a missing or damaged file, for pickles, and for an archive that would unpack to far more than
    itself or whose arrays are not of the size that they claim.
    """

    def is_wanted(name: str) -> bool:
        return names is None or name in names or name.startswith(prefix)

    if not Path(path).is_file():
        raise Unreadable("there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = [entry for entry in archive.infolist() if is_wanted(entry.filename.removesuffix(".npy"))]
            claimed = sum(entry.file_size for entry in wanted)
            if claimed > max(UNPACKED, UNPACKED_RATIO * Path(path).stat().st_size):
                raise Unreadable(f"it claims to unpack to {claimed} bytes from {Path(path).stat().st_size}")
            for entry in wanted:
                with archive.open(entry) as file:
                    _check_claim(file, entry)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if is_wanted(name)}
    except Unreadable:
        raise
    except _BROKEN as error:
        raise Unreadable(_reason(error)) from error


def read_json(path: Path, most_bytes: int = LARGEST_JSON) -> Any:
    """What a JSON file holds. Raises Unreadable if it is missing, longer than `most_bytes`, or something else."""
    if not path.is_file():
        raise Unreadable("there is no such file")
    try:
        if path.stat().st_size > most_bytes:
            raise Unreadable(f"{path.name} is {path.stat().st_size} bytes long")
        return parse_json(path.read_bytes())
    except OSError as error:
        raise Unreadable(_reason(error)) from error


def parse_json(text: str | bytes) -> Any:
    """What JSON text (bytes: UTF-8) holds. Raises Unreadable for anything else, and for parts nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(_reason(error)) from error


def is_float(array: np.ndarray) -> bool:
    """Whether an array holds single or double precision in this machine's byte order, as torch takes it."""
    return array.dtype in (np.float32, np.float64)


def picture_size(size: Any, what: str) -> tuple[int, int]:
    """(height, width) as ints.

    Raises InputError, which begins with `what`, unless they are two whole numbers of pixels.
    """
    pair = np.asarray(size) if isinstance(size, (tuple, list, np.ndarray)) else np.empty(0)
    if pair.shape != (2,) or pair.dtype.kind not in "iu" or not 1 <= pair.min() <= pair.max() <= MOST_SIDE:
        said = str(size).replace("\n", " ")[:80]
        raise InputError(f"{what} must be (height, width) in whole pixels from 1 to {MOST_SIDE}; got {said}.")
    return int(pair[0]), int(pair[1])


def _check_claim(file: zipfile.ZipExtFile, entry: zipfile.ZipInfo) -> None:
    """An array's header says how much memory numpy takes for it: that must be what the archive holds of it."""
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise Unreadable(f"{entry.filename} is of the unknown version {version}")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise Unreadable(f"{entry.filename} holds Python objects, which are not read")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != entry.file_size - file.tell():
        raise Unreadable(f"{entry.filename} claims the shape {shape}, which is not what the file holds")


def _reason(error: BaseException) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(words.split())[:200].rstrip(".")
