"""What a run found: means over the sequences, tables, one CSV line a sequence, and a summary as data.

Nothing in them depends on time.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geo4d.errors import InputError
from geo4d.evaluation.scores import METRICS, failure
from geo4d.evaluation.store import Record, Store

DIGITS, LEAST, NOTHING = 4, 1e-3, 1e-9  # after the point; below, two digits and the power of ten; below, 0
MAX_NAMES = 5  # of missing sequences, in tables
HEADLINES = ("abs_rel", "ate_sim3")  # that have a table by sequence
MARK = "†"  # a number in which failures are counted
COUNTED = (
    f"{MARK}: failures are counted, as constant depth, a static camera and the mean focal length, with shares of 0."
)


@dataclass(frozen=True)
class Cell:
    """One number of a data set."""

    value: float
    sequences: int  # over how many
    failures: int  # how many of them are counted failures


@dataclass(frozen=True)
class Row:
    """A method on a data set."""

    method: str
    is_baseline: bool
    records: list[Record]
    cells: Mapping[str, Cell]

    @property
    def failed(self) -> int:
        """On how many sequences there was no prediction worth scoring."""
        return sum(record["status"] == "failed" for record in self.records)

    @property
    def unusable(self) -> int:
        """How many sequences have no truth that can be used."""
        return sum(record["status"] == "unusable" for record in self.records)


@dataclass(frozen=True)
class Results:
    """A finished run."""

    settings: dict[str, Any]
    rows: list[Row]

    @classmethod
    def load(cls, store: Store) -> Results:
        """All methods that are finished. Raises InputError if none is."""
        settings, rows = store.settings(), []
        for name, described in store.methods().items():
            records = store.records(name)
            if records is not None:
                average = settings["constants"]["average"]
                rows.append(
                    Row(
                        name,
                        described["kind"] == "baseline",
                        records,
                        average_records(records, settings["task"], average),
                    )
                )
        if not rows:
            raise InputError(f"The run in {store.folder} is not finished; start the same command again to finish it.")
        return cls(settings, rows)

    def row(self, method: str | None) -> Row:
        """That of a method, or the first. Raises InputError if there is no such method."""
        for row in self.rows:
            if method in (None, row.method):
                return row
        raise InputError(
            f"The run has no method {method!r}; expected one of {', '.join(row.method for row in self.rows)}."
        )

    @property
    def columns(self) -> list[str]:
        """The numbers that tables show: those that some method has, the task's own first."""
        names = [
            name for name, metric in METRICS.items() if metric.in_tables and any(name in row.cells for row in self.rows)
        ]
        return sorted(names, key=lambda name: METRICS[name].group != self.settings["task"])

    def best(self, name: str) -> set[str]:
        """The methods with the best number, of those without failures that have looked at the video."""
        cells = {row.method: row.cells[name] for row in self.rows if name in row.cells and not row.is_baseline}
        values = {method: cell.value for method, cell in cells.items() if not cell.failures}
        if len(cells) < 2 or not values:
            return set()
        first = (max if METRICS[name].is_share else min)(values.values())
        return {method for method, value in values.items() if value == first}


def average_records(records: Sequence[Record], task: str, average: str) -> dict[str, Cell]:
    """The data set's numbers.

    A group that a method offers on no sequence, and that the task does not ask for, is left out.
    """
    offered = offered_groups(records, task)
    cells = {}
    for name, metric in METRICS.items():
        rows = [record for record in records if record["scores"].get(name) is not None]
        if not rows or metric.group not in offered:
            continue
        values = np.array([row["scores"][name] for row in rows])
        failures = sum(failure(name, row["failures"]) is not None for row in rows)
        cells[name] = Cell(combine(values, weights_of(name, rows, average), average), len(rows), failures)
    return cells


def offered_groups(records: Sequence[Record], task: str) -> set[str]:
    """The groups of numbers that a method has on some sequence, well or badly, and that which the task asks for."""
    offered = {group for record in records for group in record["offers"]} | {task}
    return offered | {"median scale", "boundary"} if "depth" in offered else offered


def counted_failures(record: Record, offered: Container[str]) -> dict[str, str]:
    """Why which groups of a result are counted as failures: not what the method never has, which is in no table."""
    if record["status"] == "unusable":
        return {}
    return {group: reason for group, reason in record["failures"].items() if group in offered}


def weights_of(name: str, rows: Sequence[Record], average: str) -> np.ndarray:
    """What each sequence counts in the mean of a number."""
    if average == "pixel" and METRICS[name].group in ("depth", "median scale"):
        return np.array([row["pixels"] for row in rows], dtype=np.float64)
    return np.ones(len(rows))


def upside_down(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """On how many sequences, and in how many of their frames, a free fit would take a negative scale.

    By group that is fitted.
    """
    found = {}
    for group in ("depth", "points"):
        frames = [record["upside_down"][group] for record in records if group in record["upside_down"]]
        if frames:
            found[group] = {"sequences": sum(n > 0 for n in frames), "frames": sum(frames)}
    return found


def combine(values: np.ndarray, weights: np.ndarray, average: str) -> float:
    """Weighted mean, or the median."""
    return float(np.median(values) if average == "median" else weights @ values / weights.sum())


def summary(results: Results) -> dict[str, Any]:
    """Means, and over how many sequences, as plain data."""
    rows = {
        row.method: {
            "failed": row.failed,
            "unusable": row.unusable,
            "of": len(row.records),
            "scores": {name: cell.value for name, cell in row.cells.items()},
            "sequences": {name: cell.sequences for name, cell in row.cells.items()},
            "failures": {name: cell.failures for name, cell in row.cells.items()},
            "upside_down": upside_down(row.records),
        }
        for row in results.rows
    }
    return {**results.settings, "methods": rows}


def sequences_csv(results: Results) -> str:
    """One line for each method and sequence: scores, and what failed."""
    names = [
        name
        for name in METRICS
        if any(record["scores"].get(name) is not None for row in results.rows for record in row.records)
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "sequence", "status", "frames", "pixels", *names, "failures"])
    for row in results.rows:
        for record in row.records:
            scores = ["" if (value := record["scores"].get(name)) is None else repr(value) for name in names]
            reasons = "; ".join(f"{group}: {reason}" for group, reason in record["failures"].items())
            writer.writerow(
                [row.method, record["sequence"], record["status"], record["frames"], record["pixels"], *scores, reasons]
            )
    return out.getvalue()


def costs_csv(results: Results) -> str:
    """Time and memory, which no two runs have alike."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("seconds", "seconds_per_frame", "peak_ram_bytes", "peak_gpu_bytes")
    writer.writerow(["method", "sequence", "frames", *names])
    for row in results.rows:
        for record in row.records:
            cost = record["cost"] or {}
            writer.writerow([row.method, record["sequence"], record["frames"], *(cost.get(name, "") for name in names)])
    return out.getvalue()


def markdown(results: Results, title: str = "", more: Sequence[str] = ()) -> str:
    """The table of means, one of each headline number by sequence, what failed, and how to read it."""
    settings, columns = results.settings, results.columns
    lines = [f"# {title or ', '.join([settings['dataset'], settings['task'], 'protocol ' + settings['protocol']])}", ""]
    lines += [*(f"* {note}" for note in _notes(results)), ""]
    heads = ["method", *(_head(results, name) for name in columns), "failed"]
    lines += _pipes(heads, [_line(results, row, "**{}**") for row in results.rows])
    for name in [name for name in columns if name in HEADLINES]:
        titles = ["sequence", *(row.method for row in results.rows)]
        lines += ["", f"## {METRICS[name].title} by sequence", "", *_pipes(titles, _by_sequence(results, name))]
    reasons = _reasons(results)
    for section in (["## Failures", "", *reasons] if reasons else [], more):
        lines += ["", *section] if section else []
    return "\n".join(lines) + "\n"


def _reasons(results: Results) -> list[str]:
    """One line for each result that is not whole: what failed, and why, each reason once."""
    lines = []
    for row in results.rows:
        offered = offered_groups(row.records, results.settings["task"])
        for record in row.records:
            failures = record["failures"] if record["status"] == "unusable" else counted_failures(record, offered)
            if failures:
                what = ", ".join(failures) if record["status"] == "scored" else record["status"]
                lines.append(
                    f"* {row.method} on {record['sequence']} ({what}): " + " ".join(dict.fromkeys(failures.values()))
                )
    return lines


def latex(results: Results) -> str:
    """The table of means as a tabular of plain LaTeX."""
    columns = results.columns
    heads = " & ".join(_tex(_head(results, name)) for name in columns)
    body = [
        " & ".join(_tex_cell(cell) for cell in _line(results, row, r"\textbf{{{}}}")) + r" \\" for row in results.rows
    ]
    notes = [f"% {note}" for note in _notes(results)]
    rule = r"\begin{tabular}{l" + "r" * (len(columns) + 1) + "}"
    return (
        "\n".join(
            [*notes, rule, r"\hline", rf"method & {heads} & failed \\", r"\hline", *body, r"\hline", r"\end{tabular}"]
        )
        + "\n"
    )


def _notes(results: Results) -> list[str]:
    settings, constants = results.settings, results.settings["constants"]
    total, missing = len(settings["sequences"]), ", ".join(settings["missing"][:MAX_NAMES])
    if len(settings["missing"]) > MAX_NAMES:
        missing += f" and {len(settings['missing']) - MAX_NAMES} more"
    found = [
        f"Data set {settings['dataset']}, rule {settings['rule']}, protocol {settings['protocol']}; {total} sequences"
        + (f"; not there: {missing}." if missing else "."),
        f"Protocol: {constants['about']}",
        f"Depth alignment: {constants['alignment']}. Average: {constants['average']}. Lengths in "
        f"{constants['lengths']}.",
    ]
    unusable = max(row.unusable for row in results.rows)
    if unusable:
        found.append(f"{unusable} of {total} sequences have no truth that can be used, and no number for any method.")
    flipped = [
        (row, flips) for row in results.rows if (flips := upside_down(row.records).get("depth", {})).get("sequences")
    ]
    if flipped:
        where = "; ".join(
            f"{row.method} on {flips['sequences']} of {total} ({flips['frames']} frames)" for row, flips in flipped
        )
        found.append(
            f"Upside down, where a free fit of depth would take a negative scale, and scored at scale 0: {where}."
        )
    if any(cell.failures for row in results.rows for cell in row.cells.values()):
        found.append(COUNTED)
    return found


def _head(results: Results, name: str) -> str:
    """The number's title, with over how many sequences it is taken where that is not all."""
    metric = METRICS[name]
    counts = {row.cells[name].sequences for row in results.rows if name in row.cells}
    few = f" ({max(counts)})" if max(counts) < len(results.settings["sequences"]) else ""
    return f"{metric.title} {'↑' if metric.is_share else '↓'}{few}"


def _line(results: Results, row: Row, strong: str) -> list[str]:
    cells = [row.method]
    for name in results.columns:
        cell = row.cells.get(name)
        text = "–" if cell is None else f"{in_digits(cell.value)}{MARK if cell.failures else ''}"
        cells.append(strong.format(text) if row.method in results.best(name) else text)
    return [*cells, f"{row.failed} of {len(row.records)}"]


def in_digits(value: float) -> str:
    """A number as tables show it."""
    return f"{value:.1e}" if NOTHING < abs(value) < LEAST else f"{value:.{DIGITS}f}"


def _by_sequence(results: Results, name: str) -> list[list[str]]:
    lines = []
    for index, sequence in enumerate(results.settings["sequences"]):
        cells = [sequence]
        for row in results.rows:
            record = row.records[index]
            value = record["scores"].get(name) if name in row.cells else None
            cells.append(
                "–"
                if value is None
                else f"{in_digits(value)}{'' if failure(name, record['failures']) is None else MARK}"
            )
        lines.append(cells)
    return lines


def _pipes(titles: list[str], lines: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (titles, ["---"] + ["---:"] * (len(titles) - 1), *lines)]


def _tex(text: str) -> str:
    swaps = {"_": r"\_", "%": r"\%", "<": "$<$", "^2": "$^2$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    for old, new in swaps.items():
        text = text.replace(old, new)
    return text


def _tex_cell(text: str) -> str:
    return _tex(text).replace(MARK, r"$\dagger$").replace("–", "--")
