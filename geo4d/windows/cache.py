"""Finished windows on disk, so that a killed run loses nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geo4d._typing import Tensor
from geo4d.errors import InputError
from geo4d.io.atomic import temporary_path
from geo4d.models.geometry_model import GeometryModel

MANIFEST = "manifest.json"
SAMPLES_PER_TENSOR = 4096  # of the weights, in their fingerprint

logger = logging.getLogger(__name__)


class WindowCache:
    """Finished windows in a folder, one file each, for one video with one model and one setting."""

    def __init__(self, directory: Path, fingerprint: dict[str, Any]) -> None:
        """Raises InputError if the folder belongs to another run; says in what it differs."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        manifest = directory / MANIFEST
        if manifest.exists():
            old = json.loads(manifest.read_text())
            changed = sorted(key for key in {*old, *fingerprint} if old.get(key) != json.loads(json.dumps(fingerprint)).get(key))
            if changed:
                raise InputError(
                    f"The unfinished run in {directory.parent} was made with another {', '.join(changed)}; "
                    "use the same settings to resume it, or --overwrite to begin anew."
                )
        else:
            temporary = temporary_path(manifest)
            temporary.write_text(json.dumps(fingerprint))
            temporary.replace(manifest)

    def load(self, count: int) -> dict[int, dict[str, Any]]:
        """The windows that are finished; a damaged file counts as not finished."""
        results = {}
        for g in range(count):
            path = self._path(g)
            if not path.exists():
                continue
            try:
                with np.load(path, allow_pickle=False) as archive:
                    results[g] = {k: str(v) if v.dtype.kind == "U" else torch.from_numpy(v) for k, v in archive.items()}
            except (OSError, ValueError, EOFError, zipfile.BadZipFile):
                logger.warning("The cached window %s is damaged and is computed again.", path)
        return results

    def store(self, g: int, fields: dict[str, Any]) -> None:
        """Keeps one finished window."""
        temporary = temporary_path(self._path(g))
        arrays: dict[str, Any] = {k: v.numpy() if isinstance(v, Tensor) else np.array(v) for k, v in fields.items()}
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        temporary.replace(self._path(g))

    def _path(self, g: int) -> Path:
        return self.directory / _window_file(g)


def cache_files(count: int) -> list[str]:
    """Names of the files that a cache of so many windows holds."""
    return [MANIFEST, *map(_window_file, range(count))]


def _window_file(g: int) -> str:
    return f"window_{g:05d}.npz"


def fingerprint_frames(frames: np.ndarray) -> str:
    """A short hash of the working frames."""
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()[:16]


def fingerprint_model(model: GeometryModel) -> str:
    """A short hash of a sample of every tensor of the weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        flat = value.flatten()
        sample = flat[:: max(1, flat.numel() // SAMPLES_PER_TENSOR)]
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(sample.double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
