"""What the evaluation sets share.

Rules that say which frames count, sequences with their truth, and sets that find them.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from geo4d.data.files import naming, read_grey, read_rgb, read_size
from geo4d.data.frames import BadData, Problem
from geo4d.errors import ConfigError, InputError
from geo4d.io.video import FOLDER_FPS, IMAGE_SUFFIXES, natural_order

logger = logging.getLogger(__name__)

TASKS = ("depth", "pose", "pictures")
CHANGEABLE = ("start", "stride", "count", "max_gap_s", "depth_scale")  # of a rule, by the user
Pairing = Literal["number", "order", "time", "greedy"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Rule:
    """Which frames of which sequences count, and how the files of a frame are brought together.

    A preparation script as data.
    """

    about: str  # one sentence for the user
    sequences: Mapping[str, tuple[str, ...]]  # for each task: names or patterns of names; none: all that are there
    pairing: Pairing = "number"
    start: int = 0
    stride: int = 1
    count: int | None = None
    max_gap_s: float = 0.02  # between a frame and its depth or pose, where they are paired by time
    depth_scale: float = 1000.0  # stored value of one metre, in integer depth maps
    expected: int | None = None  # sequences that the first task should have, where no names are given
    depth_ending: str = ""  # of the files' names, where there are several kinds of depth maps
    drops_lost_poses: bool = False  # leaves out frames whose true pose is not finite
    gathered: bool = False  # reads the folders that the usual script writes, in which the selection is made already
    changed: str = ""  # what the user set otherwise

    def __post_init__(self) -> None:
        """Raises ConfigError if a number is out of range."""
        numbers = (
            f"start {self.start}, stride {self.stride}, count {self.count}, gap {self.max_gap_s}, "
            f"scale {self.depth_scale}"
        )
        if (
            self.start < 0
            or self.stride < 1
            or (self.count is not None and self.count < 1)
            or min(self.max_gap_s, self.depth_scale) <= 0
        ):
            raise ConfigError(
                f"A rule needs a start from 0, and a stride, count, gap and depth scale above 0; got {numbers}."
            )

    def but(self, **changes: Any) -> Rule:
        """The rule with some numbers set otherwise (None: left as they are), which its name will say."""
        unknown = [key for key in changes if key not in CHANGEABLE]
        if unknown:
            raise ConfigError(f"A rule has no number {unknown[0]!r} to set; expected one of {', '.join(CHANGEABLE)}.")
        changes = {key: changes[key] for key in CHANGEABLE if changes.get(key) is not None}
        words = [f"{key}={value:g}" for key, value in changes.items()]
        return replace(self, **changes, changed=" ".join([self.changed] * bool(self.changed) + words))

    def pick(self, items: Sequence[Item]) -> list[Item]:
        """Every `stride`-th from `start`, at most `count`."""
        picked = list(items[self.start :: self.stride])
        return picked if self.count is None else picked[: self.count]


@dataclass(frozen=True)
class EvaluationSequence:
    """One video with its truth; pictures and depth are read when they are asked for.

    Cameras are in our convention: OpenCV axes, pixel centres at +0.5, lengths in the unit of depth; the world is the
    data set's. `intrinsics` belong to the pictures; depth maps are of another size only where `depth_has_own_size`.
    """

    name: str
    frames: tuple[str, ...]  # names of the pictures, relative to the root
    timestamps: np.ndarray  # (t,) seconds
    read_image: Callable[[int], np.ndarray]  # (h, w, 3) uint8
    depth_frames: tuple[str, ...] | None = None
    read_depth: Callable[[int], np.ndarray] | None = None  # (h, w) metres, not positive or not finite where unknown
    intrinsics: np.ndarray | None = None  # (t, 3, 3)
    cam_to_world: np.ndarray | None = None  # (t, 4, 4)
    left_out: tuple[
        Problem, ...
    ] = ()  # frames that the rule wants but that cannot be had, and truth that is not to be trusted
    depth_has_own_size: bool = False
    read_moving: Callable[[int], np.ndarray] | None = None  # (h, w) bool, where what is seen moves, if that is known
    # nominal: the data set tells no times, so there are 24 frames a second
    clock: Literal["recorded", "nominal"] = "nominal"

    def __post_init__(self) -> None:
        """Raises InputError if there is no frame, or truth of another length."""
        if not self.frames:
            raise InputError(f"{self.name} has no frame left to be evaluated; check the files and the rule.")
        for what in ("timestamps", "depth_frames", "intrinsics", "cam_to_world"):
            value = getattr(self, what)
            if value is not None and len(value) != len(self.frames):
                raise InputError(
                    f"{self.name} has {len(self.frames)} frames but {len(value)} {what}; each frame needs one."
                )

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def images(self) -> np.ndarray:
        """All pictures, (t, h, w, 3) uint8.

        Raises BadData, which names the file, if one is broken or of another size.
        """
        return self._stack(self.read_image, self.frames)

    def depth(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """True depth (h, w) float32 in metres, 0 where it is not known, and where it is known, (h, w) bool."""
        if self.read_depth is None:
            raise InputError(f"{self.name} has no true depth; evaluate its cameras, or another data set.")
        depth = self.read_depth(index)
        valid = np.isfinite(depth) & (depth > 0)
        return np.where(valid, depth, 0).astype(np.float32), valid

    def depths(self) -> tuple[np.ndarray, np.ndarray]:
        """All depth maps (t, h, w) and their masks.

        Raises BadData if sizes differ or nothing is known in any of them.
        """
        depth = self._stack(lambda index: self.depth(index)[0], self.depth_frames or ())
        self.require_size(0, depth[0].shape, self.read_image(0).shape[:2])
        if not (depth > 0).any():
            raise BadData(
                (self.depth_frames or (self.name,))[0],
                f"and the other depth maps of {self.name} are zero in every pixel",
            )
        return depth, depth > 0

    def require_size(self, index: int, depth_size: tuple[int, ...], image_size: tuple[int, ...]) -> None:
        """Raises BadData if the depth map of a frame does not have the size (h, w) of its picture.

        Unless the data set has it so.
        """
        if depth_size != image_size and not self.depth_has_own_size:
            file = (self.depth_frames or self.frames)[index]
            size, image = (" x ".join(map(str, reversed(shape))) for shape in (depth_size, image_size))
            raise BadData(file, f"is {size}, its picture {image}; they must have one size")

    def digest(self) -> str:
        """SHA-256 of the frame list: pictures, times and depth maps, not their contents."""
        depths = self.depth_frames or ("",) * len(self.frames)
        rows = [f"{i}\t{t:.6f}\t{d}" for i, t, d in zip(self.frames, self.timestamps, depths, strict=True)]
        return hashlib.sha256("\n".join([self.name, *rows]).encode()).hexdigest()

    def _stack(self, read: Callable[[int], np.ndarray], names: Sequence[str]) -> np.ndarray:
        maps: list[np.ndarray] = []
        for index in range(self.num_frames):
            maps.append(read(index))
            if maps[-1].shape != maps[0].shape:
                size, first = (" x ".join(map(str, array.shape[1::-1])) for array in (maps[-1], maps[0]))
                raise BadData(names[index], f"is {size}, the first of {self.name} {first}; all must have one size")
        return np.stack(maps)


@dataclass(frozen=True)
class EvaluationSet:
    """A benchmark data set: where its sequences are, how one is read, and by which rules.

    The first rule is the default.
    """

    name: str
    hint: str  # its layout in a few characters
    rules: Mapping[str, Rule]
    find: Callable[[Path, Rule], list[str]]  # names of the sequences below the root
    load: Callable[[Path, str, Rule, str], EvaluationSequence]  # root, name, rule, task
    inner: str = ""  # the folder in which all of it lies, if it is there

    def rule(self, name: str | None = None) -> tuple[str, Rule]:
        """The rule of this name, or the default. Raises ConfigError if there is none."""
        name = name or next(iter(self.rules))
        if name not in self.rules:
            rules = "; ".join(f"{key}: {rule.about}" for key, rule in self.rules.items())
            raise ConfigError(f"{self.name} has no rule {name!r}; choose one of these: {rules}")
        return name, self.rules[name]


@dataclass(frozen=True)
class OpenSet:
    """An installed evaluation set, seen through one rule for one task."""

    dataset: EvaluationSet
    root: Path
    task: str
    rule_name: str
    rule: Rule
    names: tuple[str, ...]
    missing: tuple[str, ...]  # sequences that the rule names but that are not there
    # of `names`, those that a frame list says cannot be used, and why
    unusable: Mapping[str, Problem] = field(default_factory=dict)

    def __iter__(self) -> Iterator[EvaluationSequence]:
        """The sequences, one after the other. Raises InputError at the first that cannot be used."""
        return map(self.sequence, self.names)

    def sequence(self, name: str) -> EvaluationSequence:
        """One sequence.

        Raises InputError if something that the task needs is not there or broken, or was when the list was made.
        """
        if name not in self.names:
            raise InputError(f"{self.dataset.name} has no sequence {name!r}; expected one of {', '.join(self.names)}.")
        if name in self.unusable:
            raise BadData(self.unusable[name].file, self.unusable[name].reason)
        sequence = self.dataset.load(self.root, name, self.rule, self.task)
        poses = sequence.cam_to_world
        if self.task == "pose" and (poses is None or len(poses) < 2):
            reason = "; ".join(problem.reason for problem in sequence.left_out[:1]) or "check its ground truth"
            raise InputError(
                f"{name} of {self.dataset.name} has {0 if poses is None else 1} true poses; expected at least 2 "
                f"({reason})."
            )
        return sequence

    def digest(self) -> str:
        """SHA-256 of all frame lists."""
        return hashlib.sha256("\n".join(sequence.digest() for sequence in self).encode()).hexdigest()


def open_sequences(
    dataset: EvaluationSet, root: Path, task: str | None, rule_name: str, rule: Rule, include: str
) -> OpenSet:
    """Finds the sequences of a rule.

    Raises ConfigError for a task that the rule is not for, InputError if nothing is there.
    """
    task = task or next(iter(rule.sequences))
    root = root / dataset.inner if (root / dataset.inner).is_dir() else root
    if task not in rule.sequences:
        raise ConfigError(
            f"The rule {rule_name} of {dataset.name} is for {' and '.join(rule.sequences)}; got {task!r}: {rule.about}"
        )
    there = dataset.find(root, rule)
    wanted = rule.sequences[task]
    names = [name for name in there if not wanted or any(fnmatchcase(name, pattern) for pattern in wanted)]
    missing = [name for name in wanted if not any(letter in name for letter in "*?[") and name not in there]
    if rule.expected is not None and not wanted and len(names) < rule.expected:
        missing = [f"{rule.expected - len(names)} of {rule.expected} sequences"]
    names = [name for name in names if fnmatchcase(name, include)]
    if not names:
        raise InputError(
            f"{root} holds nothing of {dataset.name} that was asked for: expected {dataset.hint}; check the path or "
            "the rule."
        )
    return OpenSet(
        dataset,
        root,
        task,
        rule_name,
        rule,
        tuple(names),
        tuple(name for name in missing if fnmatchcase(name, include)),
    )


def from_files(
    root: Path,
    name: str,
    images: Sequence[Path],
    *,
    depths: Sequence[Path] | None = None,
    decode: Callable[[Path], np.ndarray] | None = None,
    timestamps: np.ndarray | None = None,
    **truth: Any,
) -> EvaluationSequence:
    """A sequence with a file for each picture and depth map. Raises BadData for the first that is missing."""
    for file in (*images, *(depths or ())):
        if not file.is_file():
            raise BadData(file, "is missing")
    return EvaluationSequence(
        name=name,
        frames=tuple(relative(file, root) for file in images),
        timestamps=np.arange(len(images)) / FOLDER_FPS if timestamps is None else timestamps,
        read_image=partial(_read_nth, read_rgb, tuple(images)),
        depth_frames=None if depths is None else tuple(relative(file, root) for file in depths),
        read_depth=None if depths is None or decode is None else partial(_read_nth, decode, tuple(depths)),
        clock="nominal" if timestamps is None else "recorded",
        **truth,
    )


def _read_nth(read: Callable[[Path], np.ndarray], files: tuple[Path, ...], index: int) -> np.ndarray:
    return read(files[index])


def relative(file: Path, root: Path) -> str:
    """How a frame list names a file: below the root if it lies there."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name


def read_png_depth(file: Path, *, scale: float, unknown: int = 0, at_most: float = np.inf) -> np.ndarray:
    """Depth (h, w) in metres of a 16-bit PNG, 0 where it holds `unknown` or is more than `at_most` metres away."""
    stored = read_grey(file, bits=16)
    depth = stored.astype(np.float32) / np.float32(scale)
    return np.where((stored == unknown) | (depth > at_most), np.float32(0), depth)


def read_matrices(file: Path, rows: int) -> np.ndarray:
    """(n, 4, 4) from a text file that has each matrix in so many rows: 1 or 4."""
    with naming(file, f"a text file of 4x4 matrices with {16 // rows} numbers a line"):
        values = np.array([line.split() for line in file.read_text().splitlines() if line.strip()], dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != 16 // rows or len(values) % rows:
            raise BadData(file, f"has {len(values)} lines of {values.shape[-1]} numbers; expected {16 // rows} a line")
        return values.reshape(-1, 4, 4)


def list_images(folder: Path, *, order: Callable[[Path], Any] = natural_order) -> list[Path]:
    """Images of a folder, by name with 2 before 10 as `geo4d infer` reads them, or in another order.

    Raises BadData if there is none.
    """
    if not folder.is_dir():
        raise BadData(folder, "is missing; expected a folder of images")
    files = [
        file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise BadData(folder, "holds no image")
    return sorted(files, key=order)


def by_time(file: Path) -> str:
    """The order of files whose names are seconds.

    A fraction with fewer digits is no earlier, so they are compared as text.
    """
    return file.name


def unless_needed(
    read: Callable[[], Item], left_out: list[Problem], root: Path, name: str, *, needed: bool
) -> Item | None:
    """Truth of the sequence `name` that the task may do without.

    Where it is broken, None, and why is added to `left_out`. Raises InputError if it is `needed`.
    """
    try:
        return read()
    except InputError as error:
        if needed:
            raise
        problem = without_root(
            error.problem if isinstance(error, BadData) else Problem(name, str(error).rstrip(".")), root
        )
        logger.warning("Cameras of %s cannot be used, and are not scored: %s: %s", name, problem.file, problem.reason)
        left_out.append(problem)
        return None


def without_root(problem: Problem, root: Path) -> Problem:
    """The same record without the folder of the data set: a list says nothing of the machine it was made on."""
    below = f"{root}{os.sep}"
    return Problem(problem.file.removeprefix(below), problem.reason.replace(below, ""))


def scaled_intrinsics(
    fx: float, fy: float, cx: float, cy: float, image: Path, size: tuple[int, int] = (480, 640)
) -> np.ndarray:
    """(3, 3) for the size of `image`, from a calibration at `size` (height, width).

    The calibration counts from a pixel's centre.
    """
    height, width = read_size(image)
    scale = np.array([width / size[1], height / size[0], 1.0])
    return scale[:, None] * np.array([[fx, 0, cx + 0.5], [0, fy, cy + 0.5], [0, 0, 1.0]])
