"""Peak of anonymous memory: files that are mapped do not count, since the system takes them back when it needs to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INTERVAL = 0.005  # seconds between samples


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Fills in `peak_gb`, the peak above what there was at the start."""
    result = {"peak_gb": 0.0}
    start, stop = anonymous_gb(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            result["peak_gb"] = max(result["peak_gb"], anonymous_gb() - start)
            time.sleep(INTERVAL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        stop.set()
        thread.join()


def anonymous_gb() -> float:
    """What this process holds now."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e9
