"""`geo4d align` on what `geo4d infer --save-windows` wrote, and its refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from geo4d.cli import main
from geo4d.pipeline import Geo4D
from geo4d.scene.files.reconstruction import ARRAYS, load_reconstruction
from geo4d.scene.files.windows import save_windows

FRAMES = np.random.default_rng(0).integers(0, 256, (18, 40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("windows") / "windows.npz"
    save_windows(path, Geo4D.from_pretrained("tiny", device="cpu").predict(FRAMES))
    return path


def align(source: Path, out: Path, *words: str) -> int:
    return main(["align", str(source), *words, "--out", str(out), "--no-preview"])


def refusal(capsys: pytest.CaptureFixture[str], code: int) -> str:
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert error.startswith("geo4d: error: ") and "\n" not in error
    return error


def test_saved_windows_give_the_same_reconstruction(windows: Path, tmp_path: Path) -> None:
    assert align(windows, tmp_path / "out") == 0
    direct = Geo4D.from_pretrained("tiny", device="cpu").reconstruct(FRAMES)
    alone = load_reconstruction(tmp_path / "out")
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(alone, name), getattr(direct, name), rtol=1e-6, err_msg=name)
    assert alone.source_size == (40, 60)
    assert (tmp_path / "out" / "config.yaml").exists()


def test_settings_are_taken(windows: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    assert align(windows, tmp_path / "out", "use_rays=false", "use_disparity=false", "joint.iterations=3") == 0
    assert load_reconstruction(tmp_path / "out").diagnostics["terms"] == ["points"]
    assert main(["align", str(windows), "--out", str(tmp_path / "after"), "--no-preview", "joint.iterations=2"]) == 0
    assert "iterations: 2" in (tmp_path / "after" / "config.yaml").read_text()
    assert "iterations: 3" in (tmp_path / "out" / "config.yaml").read_text()
    assert torch.get_num_threads() == threads


def test_refusals(windows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "no window predictions at" in refusal(capsys, align(tmp_path / "none.npz", out))
    (tmp_path / "text.npz").write_text("no archive")
    assert "is not a file of window predictions" in refusal(capsys, align(tmp_path / "text.npz", out))
    assert "use_rays" in refusal(capsys, align(windows, out, "use_ray=false"))
    assert "at least one of" in refusal(
        capsys, align(windows, out, "use_rays=false", "use_disparity=false", "use_points=false")
    )
    assert main(["align", str(windows), "--out", str(out), "two", "words"]) == 2
    assert not out.exists()
    capsys.readouterr()
    out.mkdir()
    (out / "file").touch()
    assert "already holds other files" in refusal(capsys, align(windows, out))
