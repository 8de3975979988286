"""What the usual preparation scripts do, as a list: which frames count, with times and hashes. Nothing is copied.

The list is a JSON file whose names are relative to the data set's folder, so that another person can repeat the same
run with `reopen`, or be told in one sentence where their data differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geo4d.data.frames import BadData, Problem
from geo4d.errors import InputError
from geo4d.evaluation.sets import OpenSet, open_set
from geo4d.evaluation.sets.base import CHANGEABLE, EvaluationSequence, without_root
from geo4d.scene.arrays import Unreadable, read_json
from geo4d.scene.atomic import whole_file

FORMAT, VERSION = "geo4d-frames", 1
TEXTS, LISTS = ("dataset", "task", "rule", "digest"), ("sequences", "missing", "problems")
PARTS = {
    "changes": dict,
    **dict.fromkeys(TEXTS, str),
    **dict.fromkeys(LISTS, list),
}  # of a list that can be opened again
PARTS_OF_SEQUENCE = {"name": str, "digest": str, "frames": list}
PARTS_OF_PROBLEM = {"sequence": str, "file": str, "reason": str}


@dataclass(frozen=True)
class Unusable(Problem):
    """A sequence that cannot be evaluated, and the file that is at fault."""

    sequence: str


@dataclass(frozen=True)
class FrameList:
    """The frame list of an evaluation set, and what is wrong with the installation."""

    entries: dict[str, Any]  # as in the JSON file
    problems: tuple[Problem, ...]  # sequences and frames that cannot be evaluated

    def save(self, path: Path) -> None:
        """Writes the list in one move. Raises InputError if the place cannot be written."""
        with whole_file(path, remedy="choose another --out") as temporary:
            temporary.write_text(json.dumps(self.entries, indent=1))

    def text(self) -> str:
        """What was taken, what was left out and why, for a terminal."""
        entries = self.entries
        lines = [f"{entries['dataset']}, {entries['task']}, rule {entries['rule']}: {entries['about']}"]
        for sequence in entries["sequences"]:
            lost = f", {len(sequence['left_out'])} left out" if sequence["left_out"] else ""
            lines.append(f"  {sequence['name']}: {len(sequence['frames'])} frames{lost}")
            lines += [f"    {item['file']}: {item['reason']}" for item in sequence["left_out"][:3]]
            lines += [f"    and {len(sequence['left_out']) - 3} more"] * (len(sequence["left_out"]) > 3)
        lines += [f"  not there: {name}" for name in entries["missing"]]
        lines += [f"  cannot be used: {problem.file}: {problem.reason}" for problem in self.problems]
        lines.append(f"frame list {entries['digest'][:16]}")
        return "\n".join(lines) + "\n"


def prepare(opened: OpenSet, *, hashes: bool = True, progress: Callable[[int, int], None] | None = None) -> FrameList:
    """Makes the frame list of an open set; every picture and depth map is read once, and hashed if `hashes`.

    A sequence that cannot be used becomes a problem, which a run over the list counts as it would without one.
    Sequences of a single frame are refused for poses. Depth that the task does not need may be broken; why is then
    among what is left out.
    """
    rows: list[dict[str, Any]] = []
    problems: list[Unusable] = []
    for number, name in enumerate(opened.names, 1):
        try:
            sequence = opened.sequence(name)
            rows.append(list_frames(opened.root, _require_whole(opened, sequence), hashes=hashes))
        except InputError as error:
            found = _problem(error, name, opened.root)
            problems.append(Unusable(found.file, found.reason, name))
        if progress is not None:
            progress(number, len(opened.names))
    return FrameList(frame_list(opened, rows, problems), tuple(problems))


def frame_list(opened: OpenSet, rows: list[dict[str, Any]], problems: Sequence[Problem]) -> dict[str, Any]:
    """The entries of a list, from the rows of its sequences."""
    base = opened.dataset.rules[opened.rule_name.split(" ")[0]]
    return {
        "format": FORMAT,
        "version": VERSION,
        "dataset": opened.dataset.name,
        "task": opened.task,
        "rule": opened.rule_name,
        "about": opened.rule.about,
        "settings": {key: getattr(opened.rule, key) for key in (*CHANGEABLE, "pairing")},
        "changes": {
            key: getattr(opened.rule, key) for key in CHANGEABLE if getattr(opened.rule, key) != getattr(base, key)
        },
        "digest": hashlib.sha256("\n".join(row["digest"] for row in rows).encode()).hexdigest(),
        "sequences": rows,
        "missing": list(opened.missing),
        "problems": [_entry(problem) for problem in problems],
    }


def _entry(problem: Problem) -> dict[str, str]:
    """A record without a sequence is that of the sequence which it names as its file."""
    sequence = problem.sequence if isinstance(problem, Unusable) else problem.file
    return {"sequence": sequence, "file": problem.file, "reason": problem.reason}


def _problem(error: InputError, name: str, root: Path) -> Problem:
    """What is wrong with the sequence of that name."""
    return without_root(error.problem if isinstance(error, BadData) else Problem(name, str(error).rstrip(".")), root)


def list_frames(root: Path, sequence: EvaluationSequence, *, hashes: bool) -> dict[str, Any]:
    """The row of one sequence."""
    depths = sequence.depth_frames
    frames = []
    for index, image in enumerate(sequence.frames):
        frame: dict[str, Any] = {"image": image, "time": round(float(sequence.timestamps[index]), 6)}
        if depths is not None:
            frame["depth"] = depths[index]
        for what in ("image", "depth") if hashes else ():
            if what in frame and (root / frame[what]).is_file():
                frame[f"{what}_sha256"] = sha256(root / frame[what])
        frames.append(frame)
    return {
        "name": sequence.name,
        "digest": sequence.digest(),
        "clock": sequence.clock,
        "has_depth": depths is not None,
        "has_cameras": sequence.cam_to_world is not None,
        "frames": frames,
        "left_out": [{"file": problem.file, "reason": problem.reason} for problem in sequence.left_out],
    }


def reopen(path: str | Path, root: str | Path | None = None, *, contents: bool = False) -> OpenSet:
    """Opens the set of a saved list again, with the sequences of the list alone.

    Those that could not be used stay of no use. Raises InputError if the list has no sequence that can be used, if the
    data in `root` give other frames, or with `contents` if a file holds something else.
    """
    entries = load_frame_list(path)
    name = entries["rule"].split(" ")[0]
    opened = open_set(entries["dataset"], root, task=entries["task"], rule=name, **entries["changes"])
    unusable = {entry["sequence"]: Problem(entry["file"], entry["reason"]) for entry in entries["problems"]}
    listed = [row["name"] for row in entries["sequences"]]
    if not listed:
        raise InputError(
            f"{path} has no sequence that can be used; mend what it names under problems, and prepare it again."
        )
    for row in entries["sequences"]:
        if row["name"] not in opened.names:
            raise InputError(
                f"{path} lists the sequence {row['name']}, which is not in {opened.root}; unpack it there."
            )
        sequence = opened.sequence(row["name"])
        if sequence.digest() != row["digest"]:
            _tell_difference(Path(path), sequence, row)
        if contents:
            _require_contents(opened.root, row)
    return replace(
        opened, names=tuple(sorted({*listed, *unusable})), missing=tuple(entries["missing"]), unusable=unusable
    )


def load_frame_list(path: str | Path) -> dict[str, Any]:
    """The entries of a saved list. Raises InputError if the file is none."""
    try:
        entries = read_json(Path(path))
        if entries["format"] == FORMAT and entries["version"] == VERSION:
            _require_parts(entries)
            return entries
    except (Unreadable, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path} is no list of frames that can be read ({reason}); write it by geo4d data prepare."
        ) from error
    raise InputError(
        f"{path} is {entries['format']} of version {entries['version']}; expected {FORMAT} {VERSION}; prepare it again."
    )


def _require_parts(entries: dict[str, Any]) -> None:
    """Raises KeyError or TypeError for a list in which something is not there, or of another kind."""
    _require_kinds(entries, PARTS)
    _require_kinds(entries["changes"], dict.fromkeys(entries["changes"], (int, float)))
    for problem in entries["problems"]:
        _require_kinds(problem, PARTS_OF_PROBLEM)
    for row in entries["sequences"]:
        _require_kinds(row, PARTS_OF_SEQUENCE)
        for frame in row["frames"]:
            _require_kinds(frame, {"image": str})


def _require_kinds(part: Any, kinds: Mapping[str, type | tuple[type, ...]]) -> None:
    if not isinstance(part, dict):
        raise TypeError(f"it holds {json.dumps(part)[:40]} where a part with {', '.join(kinds)} was expected")
    for key, kind in kinds.items():
        if not isinstance(part[key], kind):
            raise TypeError(f"its {key} is {json.dumps(part[key])[:40]}")


def _require_whole(opened: OpenSet, sequence: EvaluationSequence) -> EvaluationSequence:
    """The sequence, by the rule of a run: all pictures, and depth if the task needs it, can be read and have one size.

    Depth of a task without it may be broken; it is then said among what is left out. Raises BadData for the first file
    at fault.
    """
    size = _require_one_size(
        "picture", opened.root, sequence.frames, lambda index: sequence.read_image(index).shape[:2]
    )
    if sequence.depth_frames is None:
        return sequence
    try:
        _require_depth(opened.root, sequence, size)
    except InputError as error:
        if opened.task == "depth":
            raise
        return replace(sequence, left_out=(*sequence.left_out, _problem(error, sequence.name, opened.root)))
    return sequence


def _require_depth(root: Path, sequence: EvaluationSequence, image_size: tuple[int, ...]) -> None:
    """Raises BadData for a depth map that is broken or of another size, or if nothing is known in any of them."""
    assert sequence.depth_frames is not None
    has_depth = [False] * sequence.num_frames

    def read(index: int) -> tuple[int, ...]:
        depth, valid = sequence.depth(index)
        has_depth[index] = bool(valid.any())
        return depth.shape

    size = _require_one_size("depth map", root, sequence.depth_frames, read)
    sequence.require_size(0, size, image_size)
    if not any(has_depth):
        raise BadData(
            root / sequence.depth_frames[0], f"and the other depth maps of {sequence.name} are zero in every pixel"
        )


def _require_one_size(
    what: str, root: Path, files: Sequence[str], read: Callable[[int], tuple[int, ...]]
) -> tuple[int, ...]:
    """The size (h, w) that all files have. Raises BadData for the first of another size."""
    first = read(0)
    for index, file in enumerate(files):
        size = read(index) if index else first
        if size != first:
            raise BadData(
                root / file,
                f"is {size[1]} x {size[0]}, the first {what} {first[1]} x {first[0]}; all must have one size",
            )
    return first


def _tell_difference(path: Path, sequence: EvaluationSequence, row: dict[str, Any]) -> None:
    """Raises InputError with the first frame that is another."""
    listed = [" with ".join(filter(None, (frame["image"], frame.get("depth")))) for frame in row["frames"]]
    depths = sequence.depth_frames or (None,) * len(sequence.frames)
    here = [" with ".join(filter(None, names)) for names in zip(sequence.frames, depths, strict=True)]
    reason = "has the same files here, but other times"
    if len(listed) != len(here):
        reason = f"has {len(here)} frames here, {len(listed)} in the list"
    elif listed != here:
        index = next(i for i, (a, b) in enumerate(zip(listed, here, strict=True)) if a != b)
        reason = f"has {here[index]} as frame {index}, the list {listed[index]}"
    raise InputError(f"{path} does not fit the data: {row['name']} {reason}; prepare it again, or complete the data.")


def _require_contents(root: Path, row: dict[str, Any]) -> None:
    for frame in row["frames"]:
        for what in ("image", "depth"):
            expected = frame.get(f"{what}_sha256")
            if expected is not None and sha256(root / frame[what]) != expected:
                raise BadData(root / frame[what], "holds something else than when the list was made (SHA-256 differs)")


def sha256(file: Path) -> str:
    """Of a file's contents."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
