"""Finished windows on disk, so that a killed run loses nothing."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from geo4d._typing import Tensor
from geo4d.errors import InputError
from geo4d.models.geometry_model import GeometryModel
from geo4d.scene.arrays import Unreadable, parse_json, read_json
from geo4d.scene.atomic import whole_file

MANIFEST = "manifest.json"
SAMPLES_PER_TENSOR = 4096  # of the weights, in their fingerprint

logger = logging.getLogger(__name__)


class WindowCache:
    """Finished windows in a folder, one file each, for one video with one model and one setting.

    Every file says of which run it is and what its bytes hash to. What is cut, changed or of another run counts as not
    finished, whatever a kill or a disk has left, so that a resumed run is made of nothing but its own windows.
    """

    def __init__(self, directory: Path, fingerprint: Mapping[str, Any]) -> None:
        """Raises InputError if the folder belongs to another run; says in what it differs."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._run = _digest([json.dumps(fingerprint, sort_keys=True).encode()])
        manifest = directory / MANIFEST
        changed = _differences(manifest, fingerprint)
        if changed:
            raise InputError(
                f"The unfinished run in {directory.parent} was made with another {', '.join(changed)}; "
                "use the same settings to resume it, or --overwrite to begin anew."
            )
        with whole_file(manifest, alone=True) as temporary:
            temporary.write_text(json.dumps(fingerprint))

    def load(self, count: int) -> dict[int, dict[str, Any]]:
        """The windows that are finished, by their number."""
        found = ((g, self._read(self.path(g))) for g in range(count))
        return {g: fields for g, fields in found if fields is not None}

    def store(self, g: int, fields: dict[str, Any]) -> None:
        """Keeps one finished window: tensors, and words."""
        tensors = {name: value.contiguous() for name, value in fields.items() if isinstance(value, Tensor)}
        words = {name: value for name, value in fields.items() if isinstance(value, str)}
        metadata = {"run": self._run, "digest": _digest_fields(tensors, words), "words": json.dumps(words)}
        with whole_file(self.path(g), alone=True) as temporary:
            save_file(tensors, temporary, metadata)

    def path(self, g: int) -> Path:
        """Where a window is kept."""
        return self.directory / _window_file(g)

    def _read(self, path: Path) -> dict[str, Any] | None:
        """The fields of a window; None where there is no file, or none that can be used."""
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            words = parse_json(metadata["words"])
            whole = (
                isinstance(words, dict)
                and metadata["run"] == self._run
                and metadata["digest"] == _digest_fields(tensors, words)
            )
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            logger.warning("The cached window %s is damaged or of another run, and is computed again.", path)
            return None
        return {**tensors, **words}


def cache_files(count: int) -> list[str]:
    """Names of the files that a cache of so many windows holds."""
    return [MANIFEST, *map(_window_file, range(count))]


def _window_file(g: int) -> str:
    return f"window_{g:05d}.safetensors"


def _differences(manifest: Path, fingerprint: Mapping[str, Any]) -> list[str]:
    """The settings in which the run of a manifest differs; none if it is not there or cannot be read."""
    try:
        old = read_json(manifest)
    except Unreadable:
        return []
    new = parse_json(json.dumps(fingerprint))  # tuples as the lists that a file gives back
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key)) if isinstance(old, dict) else []


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _digest_fields(tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> str:
    parts = [json.dumps(words, sort_keys=True).encode()]
    for name, tensor in sorted(tensors.items()):
        parts += [
            f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(),
            tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes(),
        ]
    return _digest(parts)


def fingerprint_frames(frames: np.ndarray) -> str:
    """A short hash of the working frames."""
    return _digest([f"{frames.shape}".encode(), np.ascontiguousarray(frames).tobytes()])


def fingerprint_model(model: GeometryModel) -> str:
    """A short hash of a sample of every tensor of the weights."""
    parts = []
    for name, value in model.state_dict().items():
        flat = value.flatten()
        sample = flat[:: max(1, flat.numel() // SAMPLES_PER_TENSOR)]
        parts += [f"{name} {tuple(value.shape)}".encode(), sample.double().cpu().numpy().tobytes()]
    return _digest(parts)
