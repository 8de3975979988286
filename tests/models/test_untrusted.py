"""Hostile and broken files: one clear error each, nothing run, nothing left behind."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from geo4d.errors import CheckpointError
from geo4d.models.storage import load_model
from geo4d.models.untrusted import SafeTensors, read_torch_file


class Malicious:
    """Would write a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def truncated(path: Path, _: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:3000])


def truncated_in_the_middle(path: Path, _: Path) -> None:
    """The archive's directory, at the end of the file, is whole."""
    torch.save({"state_dict": {"a": torch.zeros(10000)}}, path)
    content = path.read_bytes()
    path.write_bytes(content[:2000] + content[-600:])


def runs_code(path: Path, mark: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2)}, "callbacks": Malicious(mark)}, path)


def runs_code_in_the_old_format(path: Path, mark: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2)}, "x": Malicious(mark)}, path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious(mark)))


def bomb(path: Path, _: Path) -> None:
    """Sixty megabytes of zeros in sixty kilobytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(60_000_000))
        archive.writestr("archive/version", "3\n")


def oversize_claim(path: Path, _: Path) -> None:
    """An archive whose directory says that one entry is larger than the file."""
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**31)
    path.write_bytes(bytes(content))


def outside_its_storage(path: Path, _: Path) -> None:
    """A tensor that claims more numbers than its storage holds."""
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries = {name: data.replace(struct.pack("<H", 1000), struct.pack("<H", 60000)) for name, data in entries.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def text(path: Path, _: Path) -> None:
    path.write_text("<html>404: not found</html>")


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "make",
    [
        truncated,
        truncated_in_the_middle,
        runs_code,
        runs_code_in_the_old_format,
        bare_pickle,
        bomb,
        oversize_claim,
        outside_its_storage,
        text,
        empty,
    ],
)
def test_hostile_checkpoints(make: Callable[[Path, Path], None], tmp_path: Path) -> None:
    path, mark = tmp_path / "model.ckpt", tmp_path / "mark"
    make(path, mark)
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "add_safe_globals" not in str(caught.value)  # no advice to trust the file
    assert not mark.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.ckpt"]


class Settings:
    """Stands for a trainer's object; saved under the trainer's name."""


def test_objects_of_training_frameworks_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("deepspeed")
    module.Settings = Settings  # type: ignore[attr-defined]
    Settings.__module__ = "deepspeed"
    settings, path = Settings(), tmp_path / "model.ckpt"
    settings.__dict__["learning_rate"] = 1e-5
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "deepspeed", module)
        torch.save({"state_dict": OrderedDict(a=torch.arange(3.0)), "callbacks": {"x": settings}}, path)
    loaded = read_torch_file(path)
    assert torch.equal(loaded["state_dict"]["a"], torch.arange(3.0))
    assert type(loaded["callbacks"]["x"]).__name__ == "Inert"


def header(length: int, content: bytes) -> bytes:
    return struct.pack("<Q", length) + content


@pytest.mark.parametrize(
    "content",
    [
        header(2**62, b"{}"),
        header(10, b"not json!!"),
        header(60, json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}).encode().ljust(60)),
        b"",
    ],
)
def test_hostile_safetensors(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load_model(path)


def test_safetensors_are_read_one_at_a_time(tmp_path: Path) -> None:
    for i in range(2):
        save_file({f"t{i}": torch.full((2, 3), float(i))}, tmp_path / f"{i}.safetensors", {f"m{i}": "x"})
    tensors = SafeTensors(sorted(tmp_path.iterdir()))
    assert list(tensors) == ["t0", "t1"]
    assert len(tensors) == 2
    assert tensors.shapes() == {"t0": (2, 3), "t1": (2, 3)}
    assert torch.equal(tensors["t1"], torch.ones(2, 3))
    assert tensors.metadata == {"m0": "x", "m1": "x"}
