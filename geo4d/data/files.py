"""Files -> arrays. Whatever a file does wrong becomes a `BadData` that names it."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tokenize import TokenError
from types import ModuleType

import numpy as np
from PIL import Image, UnidentifiedImageError

from geo4d.data.frames import BadData
from geo4d.errors import InputError
from geo4d.scene.arrays import map_array, read_archive

# what decoders raise; the last three come from compressed archives, from the headers of arrays, and from CSV files
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    RuntimeError,
    EOFError,
    SyntaxError,
    zlib.error,
    TokenError,
    csv.Error,
)


@contextmanager
def naming(file: Path, expected: str) -> Iterator[None]:
    """Turns the errors of the decoders into one that names the file and what it should have been."""
    try:
        yield
    except BadData:
        raise
    except DAMAGE as error:
        if not file.exists():
            raise BadData(file, "is missing") from error
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise BadData(file, f"is not {expected} that can be read ({reason})") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, zipfile.BadZipFile) as error:
        raise BadData(file, f"is not {expected} that can be read ({type(error).__name__})") from error


def read_rgb(file: Path) -> np.ndarray:
    """(h, w, 3) uint8; a file that is cut off is refused, not filled with grey."""
    with naming(file, "an image"), Image.open(file) as image:
        return np.array(image.convert("RGB"))


def read_size(file: Path) -> tuple[int, int]:
    """(height, width) of an image, from its header."""
    with naming(file, "an image"), Image.open(file) as image:
        return image.height, image.width


def read_grey(file: Path, *, bits: int) -> np.ndarray:
    """(h, w) uint8 or uint16 of an image with one channel of so many bits."""
    modes = {8: ("L", "P", "1"), 16: ("I;16", "I;16B", "I")}[bits]
    with naming(file, f"a {bits}-bit image of one channel"), Image.open(file) as image:
        if image.mode not in modes:
            raise BadData(file, f"has pixels of kind {image.mode}; expected one channel of {bits} bits")
        return np.array(image.convert("L") if bits == 8 else image).astype(np.uint8 if bits == 8 else np.uint16)


def read_npy(file: Path) -> np.ndarray:
    """One array; never a pickle."""
    return np.array(map_npy(file))


def map_npy(file: Path) -> np.ndarray:
    """One array as a memory map."""
    with naming(file, "a .npy file of numbers"):
        return map_array(file)


def read_npz(file: Path, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    """The named arrays of an archive; the others stay unread."""
    with naming(file, f"a .npz file with {', '.join(names)}"):
        archive = read_archive(file, names)
        missing = [name for name in names if name not in archive]
        if missing:
            raise BadData(file, f"holds no {' and no '.join(missing)}")
        return tuple(archive[name] for name in names)


def read_numbers(file: Path, columns: int, *, header: int = 0) -> np.ndarray:
    """(n, columns) float64 from a text file of so many numbers a line, after `header` lines."""
    with naming(file, f"a text file with {columns} numbers a line"):
        lines = [
            line.split() for line in file.read_text().splitlines()[header:] if line.strip() and not line.startswith("#")
        ]
        odd = next((i for i, words in enumerate(lines) if len(words) != columns), None)
        if odd is not None:
            raise BadData(file, f"has {len(lines[odd])} numbers in line {odd + 1 + header}; expected {columns}")
        return np.array(lines, dtype=np.float64).reshape(-1, columns)


def read_csv(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header that must have these columns."""
    with naming(file, "a CSV file"), file.open(newline="") as handle:
        reader = csv.DictReader(handle)
        rows = list(reader)
        missing = [name for name in columns if name not in (reader.fieldnames or [])]
        if missing:
            raise BadData(file, f"has no column {', '.join(missing)}")
        return rows


def read_hdf5(file: Path, name: str) -> np.ndarray:
    """One float32 data set of an HDF5 file. Raises InputError if h5py is not installed."""
    h5py = _optional("h5py", file)
    with naming(file, f"an HDF5 file with a data set {name!r}"), h5py.File(file, "r") as handle:
        return np.asarray(handle[name][()], dtype=np.float32)


def read_exr(file: Path, channel: str) -> np.ndarray:
    """One float32 channel of an OpenEXR file; the only one there is, whatever its name.

    Raises InputError without OpenEXR.
    """
    openexr = _optional("OpenEXR", file)
    with naming(file, f"an OpenEXR file with a channel {channel!r}"):
        if not file.is_file():
            raise FileNotFoundError(file)
        with openexr.File(str(file)) as handle:
            channels = handle.channels()
            name = channel if channel in channels or len(channels) != 1 else next(iter(channels))
            return np.array(channels[name].pixels, dtype=np.float32)


def _optional(module: str, file: Path) -> ModuleType:
    """A package that only some data sets need."""
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{file} needs the package {module}, which is not installed; run: pip install 'geo4d[data]'."
        ) from error
