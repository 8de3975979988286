"""Everything that is written when a run is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geo4d.errors import InputError
from geo4d.evaluation.manifest import make_manifest
from geo4d.evaluation.plots import FILES, write_plots
from geo4d.evaluation.results import (
    Results,
    costs_csv,
    counted_failures,
    latex,
    markdown,
    offered_groups,
    sequences_csv,
    summary,
    upside_down,
)
from geo4d.evaluation.sets import OpenSet
from geo4d.evaluation.store import Store, write_json, write_text
from geo4d.evaluation.synthetic import chosen, medians

TABLES = ("table.md", "table.tex", "sequences.csv", "costs.csv", "summary.json")
PLOTS = "plots"
MANIFEST = "manifest.json"


def report_files() -> list[str]:
    """Names of tables and plots, relative to the folder."""
    return [*TABLES, *(f"{PLOTS}/{name}" for name in FILES)]


def write_report(store: Store, opened: OpenSet, *, plots: bool = True) -> Results:
    """Writes tables, CSV, summary, manifest and plots beside the records.

    Raises InputError if the run is not finished.
    """
    results = Results.load(store)
    store.register([*report_files(), MANIFEST])
    write_tables(results, store.folder, markdown(results))
    if plots:
        write_plots(results, store.folder / PLOTS)
    write_json(store.folder / MANIFEST, make_manifest(store, opened))
    return results


def write_tables(results: Results, folder: Path, text: str) -> None:
    """Writes the table for people, for papers and for programs, and what it cost."""
    for name, content in zip(
        TABLES[:4], (text, latex(results), sequences_csv(results), costs_csv(results)), strict=True
    ):
        write_text(folder / name, content)
    write_json(folder / TABLES[4], summary(results))


def clip_summary(results: Results, about: dict[str, Any]) -> dict[str, Any]:
    """Medians and clips of one model beside the two baselines, and what is upside down.

    In the form of the files below benchmarks/. Raises InputError if the truth of a clip cannot be used.
    """
    named = {row.method: row.records for row in results.rows}
    groups = {name: named[name] for name in ("constant", "mean") if name in named}
    model = next((row.records for row in results.rows if not row.is_baseline), None)
    clips: list[dict[str, Any]] = []
    for index in range(len(results.settings["sequences"])):
        first = results.rows[0].records[index]
        if first["status"] == "unusable":
            raise InputError(first["failures"]["truth"])
        entry: dict[str, Any] = {"index": index, "statistics": first["statistics"]}
        entry |= {name: chosen(records[index]["scores"]) for name, records in groups.items()}
        if model is not None:
            entry["model"] = chosen(model[index]["scores"])
            failures = counted_failures(model[index], offered_groups(model, results.settings["task"]))
            if failures:
                entry["failures"] = failures
            if model[index]["status"] != "scored":
                entry["failure"] = next(iter(failures.values()))
        clips.append(entry)
    everybody = groups if model is None else {**groups, "model": model}
    flips = {name: upside_down(records) for name, records in everybody.items()}
    return {"set": about, "median": medians(clips), "upside_down": flips, "clips": clips}
