"""Fields that only some rooms know go through the alignment and onto disk untouched."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geo4d.errors import InputError
from geo4d.scene import Clip, Reconstruction, WindowPredictions


def predictions(**extra: torch.Tensor) -> WindowPredictions:
    return WindowPredictions(torch.arange(12).reshape(2, 6), disparity=torch.rand(2, 6, 4, 5), extra=extra)


@pytest.mark.parametrize("name", ["windows.npz", "windows"])
def test_windows_keep_them_on_disk(tmp_path: Path, name: str) -> None:
    flow, times = torch.rand(2, 6, 4, 5, 3), torch.arange(12).reshape(2, 6)
    predictions(flow=flow, target_times=times).save(tmp_path / name)
    found = WindowPredictions.load(tmp_path / name).extra
    assert sorted(found) == ["flow", "target_times"]
    assert torch.equal(found["flow"], flow) and torch.equal(found["target_times"], times)


def test_windows_keep_them_when_they_are_sorted() -> None:
    from geo4d.alignment import AlignmentConfig
    from geo4d.alignment.align import select

    mixed = predictions(target_times=torch.arange(12.0).reshape(2, 6)).map_windows(lambda values: values.flip(0))
    assert mixed.extra["target_times"][0, 0] == 6
    assert select(mixed, AlignmentConfig()).extra["target_times"][0, 0] == 0


def test_results_keep_them_on_disk(small_reconstruction: Reconstruction, tmp_path: Path) -> None:
    speed = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    replace(small_reconstruction, extra={"speed": speed}).save(tmp_path)
    np.testing.assert_array_equal(Reconstruction.load(tmp_path).extra["speed"], speed)
    small_reconstruction.save(tmp_path)  # the old one must not stay
    assert Reconstruction.load(tmp_path).extra == {}


def test_clips_keep_them() -> None:
    maps = {name: torch.zeros(2, 3, 4) for name in ("depth", "valid", "sky")}
    clip = Clip(
        torch.zeros(2, 3, 4, 3), maps["depth"], maps["valid"].bool(), maps["sky"].bool(), torch.zeros(2, 3, 3),
        torch.zeros(2, 4, 4), extra={"gravity": torch.arange(6.0).reshape(2, 3)},
    )  # fmt: skip
    assert torch.equal(clip.map(lambda values: values[1:]).extra["gravity"], torch.tensor([[3.0, 4.0, 5.0]]))


@pytest.mark.parametrize(
    "extra", [{"../x": torch.zeros(2, 6)}, {"Flow": torch.zeros(2, 6)}, {"flow": torch.zeros(6, 2)}]
)
def test_what_does_not_fit_is_refused(extra: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InputError, match="The extra field"):
        predictions(**extra)


def test_damaged_ones_are_refused(small_reconstruction: Reconstruction, tmp_path: Path) -> None:
    small_reconstruction.save(tmp_path)
    for wrong in (np.zeros((3, 2)), np.array(["<script>"] * 8)):
        np.save(tmp_path / "extra_speed.npy", wrong)
        with pytest.raises(InputError, match="extra field 'speed'"):
            Reconstruction.load(tmp_path)
    predictions().save(tmp_path / "windows")
    np.save(tmp_path / "windows" / "extra_flow.npy", np.zeros((2, 6), np.complex128))
    with pytest.raises(InputError, match="extra_flow must hold numbers"):
        WindowPredictions.load(tmp_path / "windows")
