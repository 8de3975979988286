"""Pictures of a finished run: errors along the videos, paths from above, and whether confidence can be believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from geo4d.evaluation.results import Results
from geo4d.evaluation.store import Record
from geo4d.scene.atomic import whole_file

COLUMNS, MAX_PANELS, PANEL = 4, 24, (3.4, 2.5)  # panels a row, panels a picture, inches
TRAJECTORIES, RELIABILITY = "trajectories.png", "reliability.png"
FILES = ("frames_abs_rel.png", "frames_position.png", TRAJECTORIES, RELIABILITY)
Draw = Callable[[Axes, dict[str, Record], dict[str, str]], None]


def write_plots(results: Results, folder: Path) -> list[Path]:
    """Writes what there is data for, and says what was written."""
    written = []
    for key, title, unit in (
        ("abs_rel", "Abs Rel of each frame", "Abs Rel"),
        ("position", "Position error of each frame, after a similarity", results.settings["constants"]["lengths"]),
    ):
        if _has(results, "per_frame", key):
            written.append(
                _panels(results, folder / f"frames_{key}.png", title, _draw_frames(key, unit), ("per_frame", key))
            )
    if _has(results, "path", "true"):
        written.append(
            _panels(
                results,
                folder / TRAJECTORIES,
                "Paths, in the plane in which the true one spreads most",
                _draw_path,
                ("path", "true"),
            )
        )
    if _has(results, "trust", "error"):
        written.append(_reliability(results, folder / RELIABILITY))
    return written


def _has(results: Results, what: str, key: str) -> bool:
    return any(record[what].get(key) for row in results.rows for record in row.records)


def _panels(results: Results, path: Path, title: str, draw: Draw, need: tuple[str, str]) -> Path:
    """One panel a sequence, all methods in it."""
    shown = []
    for index, sequence in enumerate(results.settings["sequences"]):
        records = {row.method: row.records[index] for row in results.rows if row.records[index][need[0]].get(need[1])}
        if records:
            shown.append((sequence, records))
    left_out = len(shown) - MAX_PANELS
    shown = shown[:MAX_PANELS]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    colours = _colours(results)
    figure = Figure(figsize=(max(PANEL[0] * columns, 5), PANEL[1] * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (sequence, records) in enumerate(shown, 1):
        axes = figure.add_subplot(rows, columns, number)
        draw(axes, records, colours)
        axes.set_title(sequence, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    handles = [*(["truth"] if need[0] == "path" else []), *colours]
    lines = [figure.axes[0].plot([], [], color=colours.get(name, "black"), label=name)[0] for name in handles]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=8)
    figure.suptitle(
        title + (f" (the first {MAX_PANELS} of {MAX_PANELS + left_out} sequences)" if left_out > 0 else ""), fontsize=10
    )
    return _save(figure, path)


def _draw_frames(key: str, unit: str) -> Draw:
    def draw(axes: Axes, records: dict[str, Record], colours: dict[str, str]) -> None:
        for method, record in records.items():
            values = np.array(
                [np.nan if value is None else value for value in record["per_frame"][key]], dtype=np.float64
            )
            axes.plot(values, linewidth=1.1, color=colours[method])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("frame", fontsize=7)
        axes.set_ylabel(unit, fontsize=7)

    return draw


def _draw_path(axes: Axes, records: dict[str, Record], colours: dict[str, str]) -> None:
    """The true path on the two axes along which it spreads most, and the predicted ones on the same."""
    true = np.array(next(iter(records.values()))["path"]["true"])
    middle = true.mean(0)
    plane = np.linalg.svd(true - middle, full_matrices=False)[2][:2] if len(true) > 2 else np.eye(3)[:2]
    axes.plot(*((true - middle) @ plane.T).T, color="black", linewidth=1.6)
    for method, record in records.items():
        path = (np.array(record["path"]["predicted"]) - middle) @ plane.T
        axes.plot(*path.T, linewidth=1.1, color=colours[method])
        axes.plot(*path[0], "o", markersize=3, color=colours[method])
    axes.set_aspect("equal", adjustable="datalim")


def _reliability(results: Results, path: Path) -> Path:
    """Mean error by how far a method trusts its depth, and by what it expects where it says that."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    by_rank, by_expected = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    colours = _colours(results)
    for row in results.rows:
        found = [record["trust"] for record in row.records if record["trust"].get("error")]
        if not found:
            continue
        error = np.mean([trust["error"] for trust in found], axis=0)
        by_rank.plot(
            (np.arange(len(error)) + 0.5) / len(error),
            error,
            "o-",
            markersize=3,
            color=colours[row.method],
            label=row.method,
        )
        expected = [trust["expected"] for trust in found if "expected" in trust]
        if expected:
            actual = [trust["error"] for trust in found if "expected" in trust]
            by_expected.plot(
                np.ravel(expected), np.ravel(actual), ".", markersize=4, color=colours[row.method], label=row.method
            )
    by_rank.set(xlabel="share of pixels, least trusted first", ylabel="mean relative error", xlim=(0, 1))
    by_rank.set_ylim(bottom=0)
    by_rank.legend(fontsize=8)
    by_expected.set(
        xlabel="expected relative error", ylabel="relative error", title="each dot a tenth of a video's pixels"
    )
    if by_expected.lines:
        by_expected.set(xscale="log", yscale="log")
        ends = [*by_expected.get_xlim(), *by_expected.get_ylim()]
        by_expected.plot([min(ends), max(ends)], [min(ends), max(ends)], color="grey", linewidth=0.8)
    else:
        by_expected.text(
            0.5, 0.5, "no method says what it expects", ha="center", transform=by_expected.transAxes, fontsize=8
        )
    return _save(figure, path)


def _colours(results: Results) -> dict[str, str]:
    return {row.method: f"C{number % 10}" for number, row in enumerate(results.rows)}


def _save(figure: Figure, path: Path) -> Path:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png", metadata={"Software": None})
    return path
