"""The model over the plan: independent of batching, of the order and of what came from the cache."""

from pathlib import Path

import numpy as np
import pytest
import torch

from geo4d.diffusion.schedule import make_schedule
from geo4d.errors import InputError
from geo4d.modalities import make_layout
from geo4d.models.geometry_model import GeometryModel
from geo4d.models.storage import load_model
from geo4d.windows.cache import WindowCache, fingerprint_frames, fingerprint_model
from geo4d.windows.plan import plan_windows
from geo4d.windows.predict import PredictConfig, Predictor

FRAMES = np.random.default_rng(0).integers(0, 256, (11, 32, 48, 3), dtype=np.uint8)
WINDOWS = plan_windows(11, length=5, stride=2)  # 4 windows


@pytest.fixture(scope="module")
def model() -> GeometryModel:
    return load_model("tiny")


def predictor(model: GeometryModel, **settings: object) -> Predictor:
    layout = make_layout(model.spec.modalities, normalization=model.spec.points_normalization)
    return Predictor(model, layout, make_schedule(dynamic_rescale=False), PredictConfig(**settings))  # type: ignore[arg-type]


def assert_same(a: dict[str, object], b: dict[str, object], tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, b[key], rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            assert value == b[key]


def test_fields_shapes_and_types(model: GeometryModel) -> None:
    fields = predictor(model).predict(FRAMES, WINDOWS, 24.0)
    assert fields["points"].shape == (4, 5, 32, 48, 3)
    assert fields["weight"].shape == fields["disparity"].shape == (4, 5, 32, 48)
    assert fields["ray_direction"].shape == fields["ray_moment"].shape == (4, 5, 8, 12, 3)
    assert all(value.dtype == torch.float32 for value in fields.values() if isinstance(value, torch.Tensor))
    assert fields["points_origin"] == "camera"


@pytest.mark.parametrize("steps", [0, 2])
def test_the_result_does_not_depend_on_batching(model: GeometryModel, steps: int) -> None:
    results = [predictor(model, steps=steps, windows_per_batch=n).predict(FRAMES, WINDOWS, 24.0) for n in (1, 3, 4)]
    for other in results[1:]:
        assert_same(results[0], other, tolerance=2e-3)


def test_a_window_depends_on_the_seed_and_its_own_frames_alone(model: GeometryModel) -> None:
    ddim = predictor(model, steps=2, windows_per_batch=1)
    whole = ddim.predict(FRAMES, WINDOWS, 24.0)
    alone = ddim.predict(FRAMES, WINDOWS[2:3], 24.0)
    assert_same({k: v[2:3] if isinstance(v, torch.Tensor) else v for k, v in whole.items()}, alone, tolerance=1e-4)
    other = predictor(model, steps=2, seed=1, windows_per_batch=1).predict(FRAMES, WINDOWS[2:3], 24.0)
    assert (other["points"] - alone["points"]).abs().max() > 1e-3


def test_every_frame_is_encoded_once(model: GeometryModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    encode = model.encode_rgb
    monkeypatch.setattr(model, "encode_rgb", lambda images: encoded.append(len(images)) or encode(images))
    predictor(model).predict(FRAMES, WINDOWS, 24.0)
    assert sum(encoded) == len(FRAMES)


def test_frame_rates_beyond_the_trained_ones_count_as_the_nearest(model: GeometryModel) -> None:
    one = predictor(model)
    assert_same(one.predict(FRAMES, WINDOWS[:1], 24.0), one.predict(FRAMES, WINDOWS[:1], 120.0))


@pytest.mark.parametrize("size", [1, 3])
def test_the_cache_gives_the_same_bits_and_spares_the_work(model: GeometryModel, tmp_path: Path, size: int) -> None:
    one = predictor(model, steps=2, windows_per_batch=size)
    whole = one.predict(FRAMES, WINDOWS, 24.0)
    cache = WindowCache(tmp_path / "cache", {"seed": 0})
    cached = one.predict(FRAMES, WINDOWS, 24.0, cache=cache)
    assert_same(whole, cached)
    for g in range(size, 4):
        (tmp_path / "cache" / f"window_{g:05d}.npz").unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npz")}
    calls: list[tuple[str, int, int]] = []
    resumed = one.predict(FRAMES, WINDOWS, 24.0, cache=cache, progress=lambda *call: calls.append(call))
    assert_same(whole, resumed)
    assert all((tmp_path / "cache" / name).stat().st_mtime_ns == time for name, time in kept.items())
    assert [call for call in calls if call[0] == "windows"][-1] == ("windows", 4, 4)
    assert len([call for call in calls if call[0] == "windows"]) == -(-4 // size)
    assert one.predict(FRAMES, WINDOWS, 24.0, cache=cache, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("windows", 4, 4)
    assert sum(stage == "encode" for stage, _, _ in calls) == 2


def test_a_damaged_cache_file_is_computed_again(model: GeometryModel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, cache = predictor(model), WindowCache(tmp_path, {})
    whole = one.predict(FRAMES, WINDOWS, 24.0, cache=cache)
    (tmp_path / "window_00001.npz").write_bytes(b"PK half a file")
    assert_same(whole, one.predict(FRAMES, WINDOWS, 24.0, cache=cache), tolerance=1e-4)
    assert "window_00001.npz is damaged" in caplog.text


def test_the_cache_of_another_run_is_refused(tmp_path: Path) -> None:
    WindowCache(tmp_path, {"seed": 0, "video": "a"})
    WindowCache(tmp_path, {"seed": 0, "video": "a"})
    with pytest.raises(InputError, match="another seed"):
        WindowCache(tmp_path, {"seed": 1, "video": "a"})


def test_fingerprints_tell_videos_and_models_apart(model: GeometryModel) -> None:
    changed = FRAMES.copy()
    changed[3, 4, 5, 0] ^= 1
    assert fingerprint_frames(FRAMES) == fingerprint_frames(FRAMES.copy()) != fingerprint_frames(changed)
    assert fingerprint_model(model) == fingerprint_model(load_model("tiny"))
    other = load_model("tiny")
    with torch.no_grad():
        other.unet.time_embed[0].bias[0] += 0.1
    assert fingerprint_model(other) != fingerprint_model(model)
