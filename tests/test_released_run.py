"""The pipeline as the released script runs it, and from the files a user has, at small widths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from parity import SPEC, whole_model, whole_vae

from geo4d.cli import main
from geo4d.diffusion.sampler import ddim
from geo4d.errors import CheckpointError, ConfigError, InputError
from geo4d.models.checkpoint import load_released
from geo4d.models.geometry_model import GeometryModel
from geo4d.models.presets import PRESETS
from geo4d.models.storage import load_model
from geo4d.pipeline import Geo4D, InferConfig
from geo4d.windows.predict import _noise


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("release")
    torch.save({"state_dict": whole_model()}, folder / "model.ckpt")
    torch.save({"state_dict": whole_vae()}, folder / "vae.ckpt")
    return folder / "model.ckpt", folder / "vae.ckpt"


@pytest.fixture(scope="module")
def model(files: tuple[Path, Path]) -> GeometryModel:
    return load_released(*files, spec=SPEC)


def frames(count: int, height: int = 90, width: int = 160) -> np.ndarray:
    v, u, t = np.mgrid[0:height, 0:width, 0:count].astype(np.float64)
    waves = [np.sin(u / 17 + t / 3), np.cos(v / 15 - t / 4), np.sin((u + v) / 21)]
    return np.stack([(127 + 120 * wave).astype(np.uint8).transpose(2, 0, 1) for wave in waves], axis=-1)


def test_released_mode_repeats_the_script(model: GeometryModel) -> None:
    """One size whatever the aspect, the last window twice with other noise.

    Posterior samples, 24 fps, the script's sampler.
    """
    geo = Geo4D(model)
    config = InferConfig(compat="released", steps=2, seed=3)
    clip = geo.read(frames(16), config)
    assert clip.frames.shape[1:3] == SPEC.base_size
    assert clip.tracks is None
    predictions = geo.predict(clip, config)
    assert predictions.windows[:, 0].tolist() == [0, 0]
    assert predictions.points is not None and predictions.disparity is not None
    assert (predictions.points[0] - predictions.points[1]).abs().max() > 1e-2
    with torch.no_grad():
        mean, std = model.encode_posterior(torch.from_numpy(clip.frames.copy()).movedim(-1, 1).float() / 127.5 - 1)
        condition = (mean + std * _noise((16, 4, 8, 16), 3, 1, 1)).movedim(0, 1)[None]
        start = _noise((16, 16, 8, 16), 3, 1)[None]
        out = ddim(model.denoiser(condition, torch.tensor([24.0])), start, geo.schedule, steps=2, compat="released")
        disparity = model.decode_images("disparity", out[0, 12:].transpose(0, 1)).mean(dim=1)
    torch.testing.assert_close(predictions.disparity[1], (disparity + 1) / 2, atol=1e-4, rtol=1e-4)


def test_exact_mode_undoes_the_last_factor(model: GeometryModel) -> None:
    """The sampler alone differs; the preset of the release has the released one."""
    geo, clip = Geo4D(model), frames(4)
    default, exact = (geo.predict(clip, InferConfig(steps=1, compat=compat)) for compat in ("model", "exact"))
    assert default.disparity is not None and exact.disparity is not None
    assert (default.disparity - exact.disparity).abs().max() > 1e-3


def test_what_the_script_cannot_do_is_said(model: GeometryModel) -> None:
    geo = Geo4D(model)
    with pytest.raises(InputError, match="landscape frames alone; got 90 x 160"):
        geo.reconstruct(frames(16, 160, 90), compat="released")
    with pytest.raises(ConfigError, match="at least 16 frames; got 5"):
        geo.reconstruct(frames(5), compat="released")
    with pytest.raises(ConfigError, match=r"multiples of 64 pixels; got 100 x 64"):
        geo.reconstruct(frames(5), size=(64, 100))


def test_any_working_size(model: GeometryModel) -> None:
    geo = Geo4D(model)
    assert geo.read(frames(2), InferConfig(size=(128, 64))).frames.shape[1:3] == (128, 64)
    assert geo.read(frames(2), InferConfig()).frames.shape[1:3] == (64, 128)
    assert geo.read(frames(2, 100, 150), InferConfig()).frames.shape[1:3] == (128, 192)


def test_per_frame_images_reach_the_network(files: tuple[Path, Path], model: GeometryModel) -> None:
    own = Geo4D(load_released(*files, spec=SPEC, per_frame=True))
    clip, config = frames(3), InferConfig(steps=1)
    one, other = own.predict(clip, config), Geo4D(model).predict(clip, config)
    assert one.disparity is not None and other.disparity is not None
    assert (one.disparity - other.disparity).abs().max() > 1e-4
    whole = frames(16)  # as released, the constant context is used all the same
    released = InferConfig(steps=1, compat="released")
    same = [geo.predict(whole, released).disparity for geo in (own, Geo4D(model))]
    assert same[0] is not None and torch.equal(same[0], same[1])  # type: ignore[arg-type]


def test_convert_and_infer(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The command line from the release's files to a folder to a result."""
    monkeypatch.setitem(PRESETS, "geo4d", SPEC)
    words = ["convert", str(files[0]), "--vae", str(files[1]), "--out", str(tmp_path / "m"), "--dtype", "fp32"]
    assert main(words) == 0
    assert sorted(entry.name for entry in (tmp_path / "m").iterdir()) == [
        "NOTICE.md",
        "config.json",
        "model.safetensors",
    ]
    assert "model.ckpt and vae.ckpt" in (tmp_path / "m" / "NOTICE.md").read_text()
    direct, folder = load_released(*files, spec=SPEC), load_model(tmp_path / "m")
    for (name, one), other in zip(direct.state_dict().items(), folder.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    clip = frames(5)
    one, other = (Geo4D(m).predict(clip, InferConfig(steps=1)) for m in (direct, folder))
    assert torch.equal(one.points, other.points)  # type: ignore[arg-type]
    assert main(words) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    back = ["convert", str(tmp_path / "m"), "--to", "released", "--dtype", "fp32", "--out", str(tmp_path / "r")]
    assert main(back) == 2
    assert "needs --base" in capsys.readouterr().err
    assert main([*back, "--base", str(files[0])]) == 0
    again = load_released(tmp_path / "r" / "model.ckpt", tmp_path / "r" / "vae.ckpt", spec=SPEC)
    assert all(
        torch.equal(a, b) for a, b in zip(direct.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("damage", ["truncated", "nan", "wrong model"])
def test_a_failed_conversion_leaves_nothing(
    damage: str, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(PRESETS, "geo4d", SPEC)
    source = tmp_path / "model.ckpt"
    if damage == "truncated":
        source.write_bytes(files[0].read_bytes()[:100_000])
    elif damage == "nan":
        state = {**whole_model(), "first_stage_model.decoder.conv_in.bias": torch.full((128,), torch.nan)}
        torch.save({"state_dict": state}, source)
    else:
        torch.save({"state_dict": {"a": torch.zeros(3)}}, source)
    assert main(["convert", str(source), "--out", str(tmp_path / "m")]) == 2
    told, message = capsys.readouterr().err.splitlines()
    assert told.startswith("reading ") and message.startswith("geo4d: error: ")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.ckpt"]


def test_save_pretrained_and_from_pretrained(model: GeometryModel, tmp_path: Path) -> None:
    Geo4D(model).save_pretrained(tmp_path / "m")
    again = Geo4D.from_pretrained(tmp_path / "m", device="cpu")
    assert again.model.spec == model.spec
    half = Geo4D.from_pretrained(tmp_path / "m", device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    exact, rounded = (geo.predict(frames(3), InferConfig(steps=1)) for geo in (again, half))
    assert rounded.disparity is not None and rounded.disparity.dtype == torch.float32
    assert (exact.disparity - rounded.disparity).abs().mean() < 0.05  # type: ignore[operator]


def test_dynamicrafter_is_refused_for_geometry(files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="predicts no geometry"):
        Geo4D(GeometryModelOf("dynamicrafter"))
    with pytest.raises(CheckpointError, match="There is no model at"):
        Geo4D.from_pretrained("no/such/place.ckpt", device="cpu")


def GeometryModelOf(preset: str) -> GeometryModel:
    with torch.device("meta"):
        return GeometryModel(PRESETS[preset])
