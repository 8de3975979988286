"""What the usual preparation scripts do, as a list: which frames count, with times and hashes. Nothing is copied.

The list is a JSON file whose names are relative to the data set's folder, so that another person can repeat the same run with
`reopen`, or be told in one sentence where their data differ.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geo4d.data.frames import BadData, Problem
from geo4d.errors import InputError
from geo4d.evaluation.sets import OpenSet, open_set
from geo4d.evaluation.sets.base import CHANGEABLE, EvaluationSequence

FORMAT, VERSION = "geo4d-frames", 1


@dataclass(frozen=True)
class Prepared:
    """The frame list of an evaluation set, and what is wrong with the installation."""

    entries: dict[str, Any]  # as in the JSON file
    problems: tuple[Problem, ...]  # sequences and frames that cannot be evaluated

    def save(self, path: Path) -> None:
        """Writes the list in one move. Raises InputError if the place cannot be written."""
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.entries, indent=1))
            os.replace(temporary, path)
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); choose another --out.") from error

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


def prepare(opened: OpenSet, *, hashes: bool = True, progress: Callable[[int, int], None] | None = None) -> Prepared:
    """Makes the frame list of an open set; every picture and depth map is read once, and hashed if `hashes`.

    A sequence that cannot be used becomes a problem and is not in the list. Sequences of a single frame are refused for poses.
    """
    rows, problems = [], []
    for number, name in enumerate(opened.names, 1):
        try:
            sequence = opened.sequence(name)
            _require_whole(opened.root, sequence)
            rows.append(list_frames(opened.root, sequence, hashes=hashes))
        except BadData as error:
            problems.append(error.problem)
        except InputError as error:
            problems.append(Problem(name, str(error).rstrip(".")))
        if progress is not None:
            progress(number, len(opened.names))
    below = f"{opened.root}{os.sep}"  # a list says nothing of the machine it was made on
    problems = [Problem(problem.file.removeprefix(below), problem.reason.replace(below, "")) for problem in problems]
    return Prepared(frame_list(opened, rows, problems), tuple(problems))


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
        "changes": {key: getattr(opened.rule, key) for key in CHANGEABLE if getattr(opened.rule, key) != getattr(base, key)},
        "digest": hashlib.sha256("\n".join(row["digest"] for row in rows).encode()).hexdigest(),
        "sequences": rows,
        "missing": list(opened.missing),
        "problems": [{"file": problem.file, "reason": problem.reason} for problem in problems],
    }


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

    Raises InputError if the data in `root` give other frames, or with `contents` if a file holds something else.
    """
    entries = load_frame_list(path)
    name = entries["rule"].split(" ")[0]
    opened = open_set(entries["dataset"], root, task=entries["task"], rule=name, **entries["changes"])
    for row in entries["sequences"]:
        if row["name"] not in opened.names:
            raise InputError(f"{path} lists the sequence {row['name']}, which is not in {opened.root}; unpack it there.")
        sequence = opened.sequence(row["name"])
        if sequence.digest() != row["digest"]:
            _tell_difference(Path(path), sequence, row)
        if contents:
            _require_contents(opened.root, row)
    return replace(opened, names=tuple(row["name"] for row in entries["sequences"]))


def load_frame_list(path: str | Path) -> dict[str, Any]:
    """The entries of a saved list. Raises InputError if the file is none."""
    try:
        entries = json.loads(Path(path).read_text())
        if entries["format"] == FORMAT and entries["version"] == VERSION:
            return entries
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no list of frames that can be read ({error}); write it by geo4d data prepare.") from error
    raise InputError(f"{path} is {entries['format']} of version {entries['version']}; expected {FORMAT} {VERSION}; prepare it again.")


def _require_whole(root: Path, sequence: EvaluationSequence) -> None:
    """Raises BadData for a picture or depth map that is broken or of another size than the first."""
    sizes: dict[str, tuple[int, ...]] = {}
    for index, image in enumerate(sequence.frames):
        shape = sequence.read_image(index).shape[:2]
        _require_first_size(sizes, "picture", shape, root / image)
        if sequence.depth_frames is not None:
            depth, valid = sequence.depth(index)
            sequence.require_size(index, depth.shape, shape)
            _require_first_size(sizes, "depth map", depth.shape, root / sequence.depth_frames[index])
            if not valid.any():
                raise BadData(root / sequence.depth_frames[index], "has no pixel whose depth is known")


def _require_first_size(sizes: dict[str, tuple[int, ...]], what: str, size: tuple[int, ...], file: Path) -> None:
    first = sizes.setdefault(what, size)
    if size != first:
        raise BadData(file, f"is {size[1]} x {size[0]}, the first {what} {first[1]} x {first[0]}; all must have one size")


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
