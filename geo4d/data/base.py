"""What all data sets share: finding recordings, listing frames, reading windows of them as clips."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar

import numpy as np

from geo4d.data.files import read_rgb
from geo4d.data.frames import BadData, ChangeColours, Frame, Problem, RecordedCameras, Recording, make_frame, to_clip
from geo4d.data.index import Index, even_runs, load_index
from geo4d.data.view import View
from geo4d.errors import InputError
from geo4d.scene import Clip

KILOMETRE = 1000.0  # beyond it nothing can be told from sky
KEPT_CAMERAS = 256  # recordings whose cameras stay in memory


class DataSet(ABC):
    """Recordings, and windows of them as clips."""

    kind: ClassVar[str]
    recordings: Sequence[Recording]

    @abstractmethod
    def frames(self, recording: Recording, indices: Sequence[int]) -> Iterator[Frame]:
        """The frames with these indices (0 to `recording.count - 1`).

        Raises BadData, which names the file, for what is broken.
        """

    def counts(self) -> np.ndarray:
        """(r,) int64: frames of each recording."""
        return np.array([recording.count for recording in self.recordings], dtype=np.int64)

    def read(
        self,
        recording: Recording,
        indices: Sequence[int],
        *,
        view: View | None = None,
        photometric: ChangeColours | None = None,
    ) -> Clip:
        """A clip (t, h, w) whose world is its first camera.

        It is cut and resized by `view` frame by frame, and coloured by `photometric`. Raises BadData for a file that is
        missing, broken or not of its format's kind.
        """
        rows: list[Frame] = []
        size = None
        for frame in self.frames(recording, indices):
            size = size or frame.size
            if frame.size != size:
                sizes = f"{frame.size[1]} x {frame.size[0]}, the frames before it {size[1]} x {size[0]}"
                raise BadData(self.describe(recording, indices[len(rows)]), f"is {sizes}")
            rows.append(frame if view is None else view(frame))
        return to_clip(rows, photometric)

    def describe(self, recording: Recording, index: int) -> str:
        """What to call a frame in a message."""
        return f"{self.kind} {recording.name} frame {recording.number(index)}"


class DiskSet(DataSet):
    """A data set in a folder, indexed once."""

    hint: ClassVar[str]  # its layout in a few characters

    def __init__(self, root: str | Path, *, include: str | None = None, far: float | None = None) -> None:
        """Opens `root`.

        `include` is a pattern of recording names, such as "Scene20/*"; without it, all that are meant for training.
        What is more than `far` metres away counts as sky. Raises InputError if there is nothing of this kind in `root`.
        """
        self.root, self.far = Path(root).expanduser().absolute(), far
        if next(self.find(self.root), None) is None:
            raise InputError(
                f"{root} does not look like {self.kind}: expected {self.hint}; check the path or the kind."
            )
        index = load_index(self.root, self.kind, self._scan)
        keep = self.is_for_training if include is None else lambda name: fnmatch(name, include)
        # of usable recordings, and of those that are not
        self.names = tuple(name for name in index.names if keep(name))
        self.recordings = tuple(recording for recording in index.recordings if keep(recording.name))
        self.problems = tuple(problem for name, problem in index.problems if keep(name))
        self._cameras: dict[str, RecordedCameras] = {}

    @classmethod
    @abstractmethod
    def find(cls, root: Path) -> Iterator[str]:
        """Names of the recordings below `root`, found without looking at frames."""

    @abstractmethod
    def scan(self, name: str) -> tuple[list[Recording], list[Problem], list[Path]]:
        """The unbroken shots of one recording, what is wrong with it, and which folders and files tell of changes."""

    @abstractmethod
    def camera_files(self, name: str) -> list[Path]:
        """The files that hold the cameras of a recording."""

    @abstractmethod
    def load_cameras(self, name: str) -> RecordedCameras:
        """All cameras of a recording, as stored; only the axes, units and pixel centres are ours."""

    def lost(self) -> list[str]:
        """Names of the recordings of which no frame can be used; `problems` says why."""
        usable = {recording.name for recording in self.recordings}
        return [name for name in self.names if name not in usable]

    def is_for_training(self, name: str) -> bool:
        """Whether the publishers do not hold this recording out."""
        return True

    def cameras(self, name: str) -> RecordedCameras:
        """The usable cameras of a recording, kept in memory."""
        if name not in self._cameras:
            if len(self._cameras) >= KEPT_CAMERAS:
                self._cameras.clear()
            self._cameras[name] = self.load_cameras(name).rigid()
        return self._cameras[name]

    def camera(self, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Intrinsics and cam_to_world of one frame."""
        cameras = self.cameras(name)
        row = int(np.searchsorted(cameras.numbers, number))
        if row == len(cameras.numbers) or cameras.numbers[row] != number:
            raise BadData(self.camera_files(name)[0], f"has no usable camera for frame {number}")
        return cameras.intrinsics[row], cameras.cam_to_world[row]

    def _scan(self) -> Index:
        names = sorted(self.find(self.root))
        recordings: list[Recording] = []
        problems: list[tuple[str, Problem]] = []
        watched: dict[str, None] = {str(self.root): None}
        for name in names:
            try:
                found, wrong, paths = self.scan(name)
            except BadData as error:
                found, wrong, paths = [], [error.problem], [Path(error.file)]
            recordings += found
            problems += [(name, problem) for problem in wrong]
            for path in paths:
                inside = [part for part in (path, *path.parents) if part.is_relative_to(self.root)]
                watched |= dict.fromkeys(map(str, inside))
        return Index(tuple(names), tuple(recordings), tuple(problems), tuple(watched))


class FrameFiles(DiskSet):
    """A data set with files for each frame.

    `layout` says which, below `root`, by recording `name` and frame `number`.
    """

    layout: ClassVar[dict[str, str]]  # "rgb" and "depth", and perhaps more
    optional: ClassVar[tuple[str, ...]] = ()  # parts that a frame may lack
    fps: ClassVar[float]  # of consecutive numbers

    @abstractmethod
    def load_depth(self, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Depth in metres (h, w), not positive or not finite where unknown, and the sky (h, w)."""

    def file(self, part: str, name: str, number: int) -> Path:
        """The path of one file of a frame."""
        return self.root / self.layout[part].format(name=name, leaf=name.rpartition("/")[2], number=number)

    def frames(self, recording: Recording, indices: Sequence[int]) -> Iterator[Frame]:
        """Reads frame by frame."""
        for index in indices:
            number = recording.number(index)
            rgb = read_rgb(self.file("rgb", recording.name, number))
            depth, sky = self.load_depth(recording.name, number)
            if depth.shape != rgb.shape[:2]:
                sizes = f"{' x '.join(map(str, depth.shape[::-1]))}, its image {rgb.shape[1]} x {rgb.shape[0]}"
                raise BadData(self.file("depth", recording.name, number), f"is {sizes}")
            frame = make_frame(rgb, depth, sky, self.camera(recording.name, number), far=self.far)
            if not (frame.valid.any() or frame.sky.any()):
                raise BadData(self.file("depth", recording.name, number), "has no pixel whose depth is known")
            yield frame

    def describe(self, recording: Recording, index: int) -> str:
        """The image file."""
        return str(self.file("rgb", recording.name, recording.number(index)))

    def scan(self, name: str) -> tuple[list[Recording], list[Problem], list[Path]]:
        """Frames that have all their files and a usable camera, in runs without gaps."""
        required = [part for part in self.layout if part not in self.optional]
        folders = [self.file(part, name, 0).parent for part in required]
        numbers = {part: self._list(part, name) for part in required}
        watched = [*folders, *self.camera_files(name)]
        if not len(numbers["rgb"]):
            return [], [Problem(str(folders[0]), "holds no frame")], watched
        cameras = self.load_cameras(name)
        problems = []
        for part in required:
            lost = np.setdiff1d(numbers["rgb"], numbers[part])
            if len(lost):
                problems.append(Problem(str(self.file(part, name, int(lost[0]))), f"is missing{_and_more(lost)}"))
        source = str(self.camera_files(name)[0])
        for lost, what in (
            (np.setdiff1d(numbers["rgb"], cameras.numbers), "has no camera"),
            (np.intersect1d(numbers["rgb"], cameras.numbers[~cameras.usable()]), "holds numbers that are no camera"),
        ):
            if len(lost):
                problems.append(Problem(source, f"{what} for frame {lost[0]}{_and_more(lost)}"))
        usable = cameras.numbers[cameras.usable()]
        for present in numbers.values():
            usable = np.intersect1d(usable, present)
        runs = [Recording(name, first, step, count, self.fps / step) for first, step, count in even_runs(usable)]
        return runs, problems, watched

    def _list(self, part: str, name: str) -> np.ndarray:
        """Rising frame numbers of the files of one kind that are there."""
        folder = self.file(part, name, 0).parent
        before, width, after = _split_template(self.layout[part].rpartition("/")[2])
        leaf = name.rpartition("/")[2]
        pattern = re.compile(
            re.escape(before.format(leaf=leaf)) + rf"(\d{{{width},}})" + re.escape(after.format(leaf=leaf))
        )
        try:
            names = [entry.name for entry in os.scandir(folder)]
        except OSError:
            return np.zeros(0, dtype=np.int64)
        found = [int(match[1]) for match in map(pattern.fullmatch, names) if match]
        return np.array(sorted(found), dtype=np.int64)


def _split_template(template: str) -> tuple[str, int, str]:
    """A file name's template before and after the frame number, and the number's least width."""
    before, _, rest = template.partition("{number:0")
    width, _, after = rest.partition("d}")
    return before, int(width), after


def _and_more(lost: np.ndarray) -> str:
    return f" (and {len(lost) - 1} more frames)" if len(lost) > 1 else ""


def folders_with(root: Path, patterns: Sequence[str], marker: Callable[[Path], bool]) -> Iterator[str]:
    """Names, relative to `root`, of the folders that match one of the patterns and have the marker.

    Hidden ones are passed over.
    """
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            if not path.name.startswith(".") and path.is_dir() and marker(path):
                yield path.relative_to(root).as_posix()
