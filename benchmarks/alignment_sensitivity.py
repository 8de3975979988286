"""What every number of the alignment does: each is halved and doubled, on clips that nothing is scored on."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from alignment_cases import geometric_mean
from alignment_trials import PARTS, Scores, Trial

from geo4d.alignment import AlignmentConfig
from geo4d.errors import Geo4DError

AFTER_JOINT = ("bundle.", "depth.", "finish.")  # numbers that change nothing before all windows are solved
NOTHING = 1e-3  # relative change of a score, below which a number moves nothing
MISS = 10.0  # times the usual score, that a run counts for which is refused


Value = float | int | tuple[float | int, ...]


def numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Every number of a tree of settings, and every row of numbers, by its name."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{prefix}{item.name}.")
        elif all(type(number) in (int, float) for number in (value if isinstance(value, tuple) else (value,))):
            yield prefix + item.name, value


def times(value: Value, factor: float) -> Value:
    """A number by a factor, or each of a row."""
    return tuple(type(v)(v * factor) for v in value) if isinstance(value, tuple) else type(value)(value * factor)


def changed(config: Any, name: str, value: Value) -> Any:
    """The settings with one number changed."""
    first, _, rest = name.partition(".")
    return replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


def part_of(name: str) -> str | None:
    """Where a number is tried; None for those of solvers that are not tried."""
    return next((part for part, it in PARTS.items() if any(fnmatch(name, pattern) for pattern in it.numbers)), None)


def sensitivity(args: argparse.Namespace) -> dict[str, Any]:
    """A row for each number, and those that move nothing."""
    usual = AlignmentConfig()
    chosen = {
        name: (part, value) for name, value in numbers(usual) if fnmatch(name, args.only) and (part := part_of(name))
    }
    trials = {part: list(PARTS[part].trials(args)) for part in dict.fromkeys(part for part, _ in chosen.values())}
    before = {part: [_scored(trial, usual, as_usual=True) for trial in some] for part, some in trials.items()}
    result: dict[str, Any] = {"usual": {part: _mean(rows) for part, rows in before.items()}, "numbers": {}}
    sys.stdout.write("".join(f"usual, {part}: {_text(numbers)}\n" for part, numbers in result["usual"].items()))
    for name, (part, value) in chosen.items():
        row = {}
        for word, factor in (("half", 0.5), ("double", 2.0)):
            other = times(value, factor)
            if other != value:
                row[word] = _ratios(trials[part], before[part], usual, name, other)
        moved = any(
            isinstance(found, str) or any(abs(math.log(max(r, 1e-9))) > NOTHING for r in found.values())
            for found in row.values()
        )
        result["numbers"][name] = {"value": value, "part": part, "moves": moved, **row}
        words = "; ".join(f"{word} {found if isinstance(found, str) else _text(found)}" for word, found in row.items())
        sys.stdout.write(f"{name} = {value}: {words if moved else 'moves nothing'}\n")
        sys.stdout.flush()
    still = [name for name, row in result["numbers"].items() if not row["moves"]]
    sys.stdout.write(f"\n{len(result['numbers'])} numbers; these move nothing here: {', '.join(still) or 'none'}\n")
    return result


def _ratios(trials: list[Trial], before: list[Scores], usual: AlignmentConfig, name: str, value: Value) -> Scores | str:
    """Geometric means over the clips of each score by the usual one; a sentence for what is refused."""
    try:
        config = changed(usual, name, value)
    except Geo4DError:
        return "refused"
    rows = [_scored(trial, config, as_usual=name.startswith(AFTER_JOINT)) for trial in trials]
    pairs = [(after, old) for after, old in zip(rows, before, strict=True)]
    keys = pairs[0][1].keys()
    return {
        key: geometric_mean((after.get(key, MISS * old[key]) + 1e-9) / (old[key] + 1e-9) for after, old in pairs)
        for key in keys
    }


def _scored(trial: Trial, config: AlignmentConfig, *, as_usual: bool) -> Scores:
    """What is refused has no scores, if it may be: the usual alignment does what is asked of it."""
    try:
        return trial.score(trial.run(config, as_usual=as_usual))
    except Geo4DError:
        if trial.refused is None and config == AlignmentConfig():
            raise
        return trial.refused or {}


def _mean(rows: list[Scores]) -> Scores:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else {}


def _text(scores: Scores) -> str:
    return ", ".join(f"{key} {value:.3f}" for key, value in scores.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the part `sensitivity`."""
    parser.add_argument("--only", default="*", help="pattern of the numbers' names, such as 'bundle.*'")
    parser.add_argument("--count", type=int, default=2, help="clips of each kind")
    parser.add_argument("--model", default="small")
    parser.add_argument("--recordings", nargs="*", type=Path, default=[], help="folders in TUM layout")
    parser.add_argument("--depth-scale", type=float, default=1000.0, help="depth PNG value of one metre")
    parser.add_argument("--frames", type=int, default=32, help="at most so many of recordings")
