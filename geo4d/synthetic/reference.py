"""Is a benchmark that was built here the one that was published?

Scene parameters bit for bit, pixels within a level, depth to 1e-5. The reference holds the hash of every clip's
parameters, and colour and depth of pixels within even patches of three of its frames: there rounding, which differs
between machines, cannot show another thing or another patch of a texture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from geo4d.errors import InputError
from geo4d.io.video import read_video
from geo4d.scene.arrays import Unreadable, map_array, read_archive
from geo4d.scene.atomic import whole_file
from geo4d.synthetic.benchmark import BenchmarkClip, parameters_hash, read_entry

FRAMES, PIXELS = 3, 48  # of each clip
EVEN_LEVELS, EVEN_DEPTH = 12, 0.02  # greatest differences within 3 x 3 pixels
LEVELS, DEPTH = 1, 1e-5  # that a clip may be off; depth relative


@dataclass(frozen=True)
class Reference:
    """What a benchmark holds, clip by clip."""

    names: list[str]
    parameters: list[str]
    place: np.ndarray  # (clips, FRAMES, PIXELS, 3) int16: frame, row, column
    rgb: np.ndarray  # (clips, FRAMES, PIXELS, 3) uint8
    depth: np.ndarray  # (clips, FRAMES, PIXELS) float32


def reference_file(version: str) -> Path:
    """Where the package keeps it."""
    return Path(str(resources.files("geo4d"))) / "assets" / f"benchmark_{version}.npz"


def load_reference(file: Path) -> Reference:
    """Reads one. Raises InputError if it is not there or something else."""
    try:
        content = read_archive(file, ("names", "parameters", "place", "rgb", "depth"))
        return Reference(
            content["names"].tolist(),
            content["parameters"].tolist(),
            content["place"],
            content["rgb"],
            content["depth"],
        )
    except (Unreadable, KeyError) as error:
        raise InputError(f"{file} is not the reference of a benchmark; install geo4d again.") from error


def write_reference(clips: Sequence[BenchmarkClip], root: Path, file: Path) -> None:
    """Draws the pixels of a benchmark in `root` and keeps them, in one move."""
    samples = [_draw(root / clip.name, clip) for clip in clips]
    place, rgb, depth = (np.stack(part) for part in zip(*samples, strict=True))
    with whole_file(file) as temporary, temporary.open("wb") as handle:
        names, hashes = np.array([clip.name for clip in clips]), np.array([parameters_hash(clip) for clip in clips])
        np.savez_compressed(handle, names=names, parameters=hashes, place=place, rgb=rgb, depth=depth)


def check_benchmark(
    clips: Sequence[BenchmarkClip],
    root: Path,
    reference: Reference,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """One sentence for every clip that is not as published; nothing if all are.

    Raises InputError for folders that are no clips.
    """
    faults = []
    for done, clip in enumerate(clips, 1):
        fault = _fault(clip, root / clip.name, reference)
        if fault is not None:
            faults.append(f"{clip.name}: {fault}")
        if progress is not None:
            progress(done, len(clips))
    return faults


def _fault(clip: BenchmarkClip, folder: Path, reference: Reference) -> str | None:
    if not folder.is_dir():
        return "is missing"
    if clip.name not in reference.names:
        return "is not in the reference"
    index = reference.names.index(clip.name)
    if not read_entry(folder)["parameters"] == parameters_hash(clip) == reference.parameters[index]:
        return "its scene parameters are others"
    place = reference.place[index].astype(np.int64)
    pictures, depths = _read(folder, clip)
    frame, row, column = np.moveaxis(place, -1, 0)
    levels = np.abs(pictures[frame, row, column].astype(int) - reference.rgb[index]).max()
    true = reference.depth[index]
    error = (np.abs(depths[frame, row, column] - true) / np.maximum(true, 1e-6)).max()
    if levels > LEVELS:
        return f"pixels differ by up to {levels} levels, {LEVELS} is allowed"
    if not error <= DEPTH:
        return f"depth differs by up to {error:.2g} of it, {DEPTH:.0e} is allowed"
    return None


def _read(folder: Path, clip: BenchmarkClip) -> tuple[np.ndarray, np.ndarray]:
    """Frames and depth. Raises InputError if they are not as many, or not as large, as the table says."""
    pictures = read_video(folder / "rgb.mp4").frames
    try:
        depths = map_array(folder / "depth.npy")
    except Unreadable as error:
        raise InputError(f"{folder / 'depth.npy'} cannot be read; remove the folder and build it again.") from error
    expected = (clip.frames, *clip.size)
    if pictures.shape[:3] != expected or depths.shape != expected:
        raise InputError(
            f"{folder} holds {pictures.shape[:3]} pixels and {depths.shape} depths; expected {expected}; build it "
            "again."
        )
    return pictures, depths


def _draw(folder: Path, clip: BenchmarkClip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, colours and depths of pixels in even patches."""
    pictures, depths = _read(folder, clip)
    places = []
    for frame in np.linspace(0, clip.frames - 1, FRAMES).round().astype(int):
        even = np.argwhere(_is_even(pictures[frame], np.asarray(depths[frame])))
        chosen = even[
            np.random.default_rng([clip.number, int(frame)]).choice(len(even), PIXELS, replace=len(even) < PIXELS)
        ]
        places.append(np.column_stack([np.full(PIXELS, frame), chosen]))
    place = np.stack(places).astype(np.int16)
    frame, row, column = np.moveaxis(place.astype(np.int64), -1, 0)
    return place, pictures[frame, row, column], np.asarray(depths[frame, row, column], dtype=np.float32)


def _is_even(picture: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(h, w) bool: pixels around which neither colour nor depth changes much, and which are not sky."""
    from scipy.ndimage import maximum_filter, minimum_filter

    spread = maximum_filter(picture, (3, 3, 1)).astype(int) - minimum_filter(picture, (3, 3, 1))
    near, far = minimum_filter(depth, 3), maximum_filter(depth, 3)
    even = (spread.max(axis=-1) <= EVEN_LEVELS) & (near > 0) & (far < (1 + EVEN_DEPTH) * near)
    even[[0, -1]] = even[:, [0, -1]] = False
    return even
