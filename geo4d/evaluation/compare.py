"""Two runs side by side, over the sequences that both have: is the difference more than the choice of sequences?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geo4d.errors import InputError
from geo4d.evaluation.results import COUNTED, MARK, Results, Row, combine, in_digits, weights_of
from geo4d.evaluation.scores import METRICS, failure
from geo4d.evaluation.store import Record, Store

DRAWS, SEED, LEVEL = 10_000, 0, 0.95
MUST_AGREE = ("dataset", "task", "protocol", "constants")  # and the frames of each sequence


@dataclass(frozen=True)
class Difference:
    """One number of two runs, over the sequences that both have."""

    name: str
    first: float
    second: float
    low: float | None  # ends of the interval of second - first; None with a single sequence
    high: float | None
    second_is_better: float | None  # share of the draws in which it is
    better_in: int  # sequences in which the second is better
    sequences: int
    failures: int  # counted failures among them, of either run

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same frames, scored in the same way."""

    settings: dict[str, Any]
    names: tuple[str, str]
    differences: list[Difference]
    only_in_one: list[str]  # sequences that one of the runs lacks
    same_code: bool

    def markdown(self) -> str:
        """The table, and how to read it."""
        first, second = self.names
        lines = [
            f"# {self.settings['dataset']}, {self.settings['task']}, protocol {self.settings['protocol']}: {first} and "
            f"{second}",
            "",
            f"Paired bootstrap over sequences: {DRAWS} draws, seed {SEED}, intervals of {LEVEL:.0%}. * the interval "
            "leaves out 0.",
        ]
        if self.only_in_one:
            lines.append(f"Left out, because only one run has them: {', '.join(self.only_in_one)}.")
        if not self.same_code:
            lines.append("The two runs were made with different versions of the code.")
        if any(difference.failures for difference in self.differences):
            lines.append(COUNTED)
        lines += [
            "",
            f"| number | {first} | {second} | difference | interval | {second} is better |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for d in self.differences:
            metric = METRICS[d.name]
            interval = (
                "–" if d.low is None else f"{in_digits(d.low)} to {in_digits(d.high)}{' *' if d.is_clear else ''}"
            )
            chance = "" if d.second_is_better is None else f", {d.second_is_better:.0%} of draws"
            title = f"{metric.title} {'↑' if metric.is_share else '↓'}{MARK if d.failures else ''}"
            values = " | ".join(map(in_digits, (d.first, d.second, d.second - d.first)))
            lines.append(f"| {title} | {values} | {interval} | in {d.better_in} of {d.sequences}{chance} |")
        return "\n".join(lines) + "\n"


def compare_runs(
    first: str | Path, second: str | Path, methods: tuple[str | None, str | None] = (None, None)
) -> Comparison:
    """Compares a method of one run (default: its first) with one of another, or of the same.

    Raises InputError if the runs are not of the same data, protocol, frames and truth, or have no sequence in common.
    """
    runs = [Results.load(Store(folder)) for folder in (first, second)]
    rows = [run.row(method) for run, method in zip(runs, methods, strict=True)]
    for key in MUST_AGREE:
        if runs[0].settings[key] != runs[1].settings[key]:
            got = " and ".join(str(run.settings[key]) for run in runs)
            raise InputError(
                f"{first} and {second} cannot be compared: they have another {key} ({got}); evaluate both in the same "
                "way."
            )
    pairs, alone = _pair(rows)
    if not pairs:
        raise InputError(f"{first} and {second} have no sequence in common.")
    for a, b in pairs:
        if a["digest"] != b["digest"]:
            raise InputError(
                f"{first} and {second} cannot be compared: {a['sequence']} has other frames; use one list of frames "
                "for both."
            )
        other = [part for part in a["truth"] if part in b["truth"] and a["truth"][part] != b["truth"][part]]
        if other:
            what = f"{a['sequence']} has other true {' and '.join(other)}"
            raise InputError(
                f"{first} and {second} cannot be compared: {what}; evaluate both with one copy of the data, read in "
                "one way."
            )
    average = runs[0].settings["constants"]["average"]
    names = [name for name in METRICS if METRICS[name].in_tables and all(name in row.cells for row in rows)]
    differences = [difference for name in names if (difference := _difference(name, pairs, average)) is not None]
    same_code = runs[0].settings["code"] == runs[1].settings["code"]
    return Comparison(
        runs[0].settings, _titles(rows, (Path(first).name, Path(second).name)), differences, alone, same_code
    )


def _pair(rows: Sequence[Row]) -> tuple[list[tuple[Record, Record]], list[str]]:
    """Records of sequences whose truth can be used, in both; and the names of the others."""
    found = [{record["sequence"]: record for record in row.records if record["status"] != "unusable"} for row in rows]
    both = [name for name in found[0] if name in found[1]]
    return [(found[0][name], found[1][name]) for name in both], sorted(found[0].keys() ^ found[1].keys())


def _titles(rows: Sequence[Row], folders: tuple[str, str]) -> tuple[str, str]:
    names = rows[0].method, rows[1].method
    return names if names[0] != names[1] else (f"{folders[0]}: {names[0]}", f"{folders[1]}: {names[1]}")


def _difference(name: str, pairs: Sequence[tuple[Record, Record]], average: str) -> Difference | None:
    """None where no sequence has the number in both."""
    both = [pair for pair in pairs if all(record["scores"].get(name) is not None for record in pair)]
    if not both:
        return None
    a, b = (np.array([pair[i]["scores"][name] for pair in both]) for i in (0, 1))
    weights = weights_of(name, [pair[0] for pair in both], average)
    better = b > a if METRICS[name].is_share else b < a
    first, second = (combine(values, weights, average) for values in (a, b))
    low = high = chance = None
    if len(both) > 1:
        drawn = np.random.default_rng(SEED).integers(len(both), size=(DRAWS, len(both)))
        if average == "median":
            change = np.median(b[drawn], axis=1) - np.median(a[drawn], axis=1)
        else:
            change = (weights[drawn] * (b - a)[drawn]).sum(1) / weights[drawn].sum(1)
        low, high = (float(np.quantile(change, share)) for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        chance = float(((change > 0) if METRICS[name].is_share else (change < 0)).mean())
    failures = sum(failure(name, record["failures"]) is not None for pair in both for record in pair)
    return Difference(name, first, second, low, high, chance, int(better.sum()), len(both), failures)
