"""What a run was made with: enough to make it again, or to see why two runs differ."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import geo4d
from geo4d.data.frames import Problem
from geo4d.evaluation.prepare import frame_list
from geo4d.evaluation.results import counted_failures, offered_groups
from geo4d.evaluation.sets import OpenSet
from geo4d.evaluation.store import Record, Store

PACKAGE = Path(geo4d.__file__).parent
HOW_FAILURES_COUNT = (
    "A prediction that failed counts as constant depth, a static camera and the mean focal length; its shares (delta, "
    "AUC, F1) count as 0. It is never left out, and a method with failures is never marked as the best. A sequence "
    "whose truth cannot be used has no number for any method."
)


@cache
def code_version() -> dict[str, str | None]:
    """Version, commit (where there is one) and a hash over all sources of the package."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\n".encode() + file.read_bytes())
    return {"version": geo4d.__version__, "digest": digest.hexdigest()[:16], "commit": _commit()}


def _commit() -> str | None:
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def environment() -> dict[str, str]:
    """Of this process."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": gpu,
    }


def make_manifest(store: Store, opened: OpenSet) -> dict[str, Any]:
    """Everything about a finished run but its scores."""
    settings, methods = store.settings(), store.methods()
    records = {name: done for name in methods if (done := store.records(name)) is not None}
    unusable = {
        record["sequence"]: record["failures"]["truth"]
        for done in records.values()
        for record in done
        if record["status"] == "unusable"
    }
    rows = [row for name in settings["sequences"] if name not in unusable and (row := store.frames(name)) is not None]
    return {
        "format": settings["format"],
        "version": settings["version"],
        "protocol": {"name": settings["protocol"], **settings["constants"]},
        "failures_count_as": HOW_FAILURES_COUNT,
        "code": code_version(),
        "environment": environment(),
        "methods": methods,
        "failures": {name: _failures(done, settings["task"]) for name, done in records.items()},
        "cost": {name: _cost(done) for name, done in records.items()},
        "frames": frame_list(opened, rows, [Problem(name, reason) for name, reason in sorted(unusable.items())]),
    }


def _failures(records: list[Record], task: str) -> dict[str, Any]:
    """How many sequences failed in what the task asks for, and every failure that is counted, in any number."""
    offered, status = offered_groups(records, task), [record["status"] for record in records]
    failed = {record["sequence"]: counted for record in records if (counted := counted_failures(record, offered))}
    return {
        "failed": status.count("failed"),
        "of": len(records),
        "unusable": status.count("unusable"),
        "sequences": failed,
    }


def _cost(records: list[Record]) -> dict[str, float | int]:
    """Time a frame over all that was predicted, and the most memory."""
    costs = [
        (record["cost"], record["frames"])
        for record in records
        if record["cost"] is not None and record["status"] == "scored"
    ]
    seconds, frames = sum(cost["seconds"] for cost, _ in costs), sum(count for _, count in costs)
    peaks = {key: max((cost[key] for cost, _ in costs), default=0) for key in ("peak_ram_bytes", "peak_gpu_bytes")}
    return {
        "seconds": round(seconds, 3),
        "frames": frames,
        "seconds_per_frame": round(seconds / max(frames, 1), 4),
        **peaks,
    }
