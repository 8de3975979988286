"""Reference vectors recorded from the released code at small widths, and the recipe of their weights and inputs.

Every tensor is PCG64 noise seeded by the crc32 of its name: x 0.05 for weights, 1 + that for the gains of norms.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

_OWN = Path(__file__).parent / "data" / "parity"
_SHARED = Path(__file__).resolve().parents[2] / "shared" / "compat" / "parity"


def _path(name: str) -> Path:
    for folder in (_OWN, _SHARED):
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"no reference file {name}: it is not part of the repository")


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of one reference file; skips the test where the file is absent."""
    with np.load(_path(f"{name}.npz")) as file:
        return {key: file[key] for key in file.files}


def keys(part: str) -> dict[str, list[int]]:
    """Names and shapes of the released part's tensors at the vectors' small widths."""
    return json.loads(_path("keys_small.json").read_text())[part]


def full_manifest() -> Any:
    """Names and shapes of the whole released model."""
    return json.loads(_path("../manifest_full.json").read_text())


def noise(tag: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal input of a tag, float32."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(tag.encode())))
    return np.asarray(generator.standard_normal(shape)).astype(np.float32)


def weights(shapes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The vectors' weights for keys and shapes."""
    result = {}
    for key, shape in shapes.items():
        generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
        value = (np.asarray(generator.standard_normal(tuple(shape))) * 0.05).astype(np.float32)
        if len(shape) == 1 and key.endswith("weight"):
            value = (value + np.float32(1)).astype(np.float32)
        result[key] = torch.from_numpy(np.ascontiguousarray(value)).reshape(tuple(shape))
    return result
