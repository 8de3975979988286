"""The model over the plan: independent of batching, of the order and of what came from the cache."""

import shutil
from collections.abc import Callable
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


@pytest.mark.parametrize("name", ["encode_rgb", "encode_features"])
def test_every_frame_is_encoded_once(model: GeometryModel, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    encoded = []
    encode = getattr(model, name)
    monkeypatch.setattr(model, name, lambda images: encoded.append(len(images)) or encode(images))
    predictor(model).predict(FRAMES, WINDOWS, 24.0)
    assert sum(encoded) == len(FRAMES)


def test_windows_read_the_features_of_their_frames(model: GeometryModel) -> None:
    """A model with other features of the same frames predicts something else, and only where they are other."""
    one = predictor(model, windows_per_batch=1)
    with torch.no_grad():
        old = model.unet.out[2].weight.clone()
        model.unet.out[2].weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    encode = model.encode_features
    count = iter(range(100))

    def other(images: torch.Tensor) -> torch.Tensor:
        next(count)
        features = encode(images)
        features[8:] += 3.0  # frames 8, 9 and 10: of windows 2 and 3
        return features

    try:
        before = one.predict(FRAMES, WINDOWS, 24.0)
        model.encode_features = other  # type: ignore[method-assign]
        after = one.predict(FRAMES, WINDOWS, 24.0)
    finally:
        del model.encode_features
        with torch.no_grad():
            model.unet.out[2].weight.copy_(old)
    assert next(count) == 1
    moved = (after["disparity"] - before["disparity"]).abs().amax(dim=(1, 2, 3))
    assert not moved[:2].any() and (moved[2:] > 1e-4).all()


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
        cache.path(g).unlink()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("window_*")}
    calls: list[tuple[str, int, int]] = []
    resumed = one.predict(FRAMES, WINDOWS, 24.0, cache=cache, progress=lambda *call: calls.append(call))
    assert_same(whole, resumed)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert [call for call in calls if call[0] == "windows"][-1] == ("windows", 4, 4)
    assert len([call for call in calls if call[0] == "windows"]) == -(-4 // size)
    assert one.predict(FRAMES, WINDOWS, 24.0, cache=cache, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("windows", 4, 4)
    assert sum(stage == "encode" for stage, _, _ in calls) == 2


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(b"PK half a file")


def flip_a_number(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 8
    path.write_bytes(content)


def flip_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 8
    path.write_bytes(content)


def replace_by_another_run(path: Path) -> None:
    other = WindowCache(path.parent.parent / "other", {"seed": 1})
    other.store(0, {"points": torch.zeros(16, 64, 64, 3), "points_origin": "unknown"})
    path.write_bytes(other.path(0).read_bytes())


DAMAGES = [remove, cut, empty, overwrite, flip_a_number, flip_the_header, replace_by_another_run]


@pytest.mark.parametrize("damaged", [[0], [1], [2], [3], [0, 1], [1, 2], [0, 3]], ids=str)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_whatever_is_lost_of_the_cache_a_resumed_run_has_the_bits_of_a_whole_one(
    two_to_a_batch: tuple, tmp_path: Path, damage: Callable[[Path], None], damaged: list[int]
) -> None:
    one, whole, source = two_to_a_batch
    shutil.copytree(source, tmp_path / "cache")
    cache = WindowCache(tmp_path / "cache", {"seed": 0})
    for g in damaged:
        damage(cache.path(g))
    assert sorted({0, 1, 2, 3} - set(damaged)) == sorted(cache.load(4))
    assert_same(whole, one.predict(FRAMES, WINDOWS, 24.0, cache=cache))
    assert sorted(cache.load(4)) == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def two_to_a_batch(model: GeometryModel, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A predictor, the windows of a whole run, and its cache."""
    folder = tmp_path_factory.mktemp("whole") / "cache"
    one = predictor(model, windows_per_batch=2)
    return one, one.predict(FRAMES, WINDOWS, 24.0, cache=WindowCache(folder, {"seed": 0})), folder


@pytest.mark.parametrize("content", [None, b"", b'{"seed": ', b"[1, 2]", b"\xff\xfe", b"[" * 100_000])
def test_a_lost_or_damaged_manifest_costs_nothing(two_to_a_batch: tuple, tmp_path: Path, content: bytes | None) -> None:
    _, _, source = two_to_a_batch
    shutil.copytree(source, tmp_path / "cache")
    manifest = tmp_path / "cache" / "manifest.json"
    manifest.unlink() if content is None else manifest.write_bytes(content)
    assert len(WindowCache(tmp_path / "cache", {"seed": 0}).load(4)) == 4
    manifest.write_bytes(b"")
    assert WindowCache(tmp_path / "cache", {"seed": 1}).load(4) == {}


def test_a_damaged_cache_file_is_computed_again_and_said(
    two_to_a_batch: tuple, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, source = two_to_a_batch
    shutil.copytree(source, tmp_path / "cache")
    cache = WindowCache(tmp_path / "cache", {"seed": 0})
    cut(cache.path(1))
    assert sorted(cache.load(4)) == [0, 2, 3]
    assert "window_00001.safetensors is damaged" in caplog.text


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
