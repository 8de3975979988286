"""Geo4D on arrays and files: any length, sizes, settings and their refusals."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from geo4d.alignment import AlignmentConfig
from geo4d.alignment.config import PaperConfig
from geo4d.errors import CheckpointError, ConfigError, InputError
from geo4d.evaluation.demo import demo_truth, demo_video
from geo4d.evaluation.synthetic import score_reconstruction
from geo4d.io.video import write_video
from geo4d.pipeline import Geo4D, InferConfig, pick_device
from geo4d.scene import WindowPredictions

TOO_SHORT = "fewer than a window"


def frames(count: int, height: int = 40, width: int = 60) -> np.ndarray:
    """Smooth moving patterns, so that resizing keeps something."""
    v, u, t = np.mgrid[0:height, 0:width, 0:count].astype(np.float64)
    waves = [np.sin(u / 7 + t / 3), np.cos(v / 5 - t / 4), np.sin((u + v) / 11)]
    return np.stack([(127 + 120 * wave).astype(np.uint8).transpose(2, 0, 1) for wave in waves], axis=-1)


@pytest.fixture(scope="module")
def geo() -> Geo4D:
    return Geo4D.from_pretrained("tiny", device="cpu")


@pytest.mark.parametrize(
    ("count", "warning"), [(1, "no motion"), (2, TOO_SHORT), (15, TOO_SHORT), (16, None), (21, None)]
)
def test_any_length_is_reconstructed(geo: Geo4D, count: int, warning: str | None) -> None:
    video = frames(count)
    result = geo.reconstruct(video)
    detailed = result.diagnostics["detail"]["used"]
    assert result.depth.shape == result.images.shape[:3] == ((count, 40, 60) if detailed else (count, 32, 48))
    assert result.source_size == (40, 60)
    assert result.valid.any(axis=(1, 2)).all()
    assert np.isfinite(result.depth[result.valid]).all() and (result.depth[result.valid] > 0).all()
    assert np.isfinite(result.cam_to_world).all() and np.isfinite(result.intrinsics).all()
    np.testing.assert_allclose(result.cam_to_world[0], np.eye(4), atol=1e-6)
    assert (np.diff(result.timestamps) > 0).all()
    # random weights know no focal length, which tracks of noise do not believe
    found = [text for text in result.diagnostics["warnings"] if "focal length" not in text]
    assert any(warning in text for text in found) if warning else not found


def test_mixed_arithmetic_gives_nearly_the_same_in_float32(geo: Geo4D) -> None:
    """Geometry is decoded from images in float32, whatever the networks compute in."""
    video = geo.read(frames(16), InferConfig())
    exact, mixed = (Geo4D(geo.model, is_mixed=is_mixed).predict(video) for is_mixed in (False, True))
    for name in ("points", "disparity", "ray_direction"):
        one, other = (torch.as_tensor(getattr(found, name)) for found in (exact, mixed))
        assert other.dtype == torch.float32 and not torch.equal(one, other)
        assert float((one - other).abs().median()) < 0.05 * float(one.abs().median())
    assert not Geo4D.from_pretrained("tiny", device="cpu", dtype="float32").is_mixed


def test_intrinsics_at_the_source_resolution(geo: Geo4D) -> None:
    result = geo.reconstruct(frames(3, 128, 192))
    depth, k = result.at_source_resolution(1)
    assert depth.shape == (128, 192)
    np.testing.assert_allclose(k, np.diag([4.0, 4.0, 1.0]) @ result.intrinsics[1])


def test_working_size_is_the_nearest_in_aspect(geo: Geo4D) -> None:
    assert geo.working_size(1080, 1920) == (32, 48)
    assert geo.working_size(1920, 1080) == (48, 32)
    with pytest.raises(InputError, match="3000 x 17 pixels are too long"):
        geo.working_size(17, 3000)
    with pytest.raises(InputError, match="17 x 3000 pixels"):
        geo.working_size(3000, 17)


def test_sides_are_multiples_of_eight_pixels(geo: Geo4D) -> None:
    config = InferConfig(size=(24, 40), tracks=False)  # 3 x 5 latents, of which the second level has 2 x 3
    assert geo.reconstruct(frames(3), config).depth.shape == (3, 24, 40)
    for size in ((24, 44), (8, 40)):
        with pytest.raises(ConfigError, match="multiples of 8 pixels, at least 16; got"):
            geo.working_size(40, 60, InferConfig(size=size))


def test_a_strong_squeeze_is_warned_of(geo: Geo4D) -> None:
    assert any("squeezed 1.8-fold" in text for text in geo.reconstruct(frames(16, 40, 108)).diagnostics["warnings"])


def test_an_array_and_a_folder_of_the_same_images_agree(geo: Geo4D, tmp_path: Path) -> None:
    video = frames(7)
    for i, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    settings = {"start": 1, "frame_stride": 2, "max_frames": 3}
    of_array, of_folder = geo.reconstruct(video, **settings), geo.reconstruct(tmp_path, **settings)
    np.testing.assert_array_equal(of_array.images, of_folder.images)
    np.testing.assert_array_equal(of_array.depth, of_folder.depth)
    assert of_array.num_frames == 3
    np.testing.assert_allclose(np.diff(of_array.timestamps), 2 / 24)


def test_a_video_file_keeps_its_clock(geo: Geo4D, tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames(5), 12.5)
    result = geo.reconstruct(tmp_path / "v.mp4")
    np.testing.assert_allclose(result.timestamps, np.arange(5) / 12.5, atol=1e-3)


def test_the_same_seed_gives_the_same_bits_whatever_the_global_seed(geo: Geo4D) -> None:
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        results.append(geo.reconstruct(frames(5), steps=2))
    np.testing.assert_array_equal(results[0].depth, results[1].depth)
    np.testing.assert_array_equal(results[0].cam_to_world, results[1].cam_to_world)
    other = geo.reconstruct(frames(5), steps=2, seed=3)
    assert not np.array_equal(other.depth, results[0].depth)


def test_expected_errors_allow_for_what_windows_get_wrong_alike(geo: Geo4D) -> None:
    video, doubtful = frames(18), Geo4D(copy.copy(geo.model))
    doubtful.model.spec = dataclasses.replace(geo.model.spec, error_scale=4.0)
    plain, scaled = geo.reconstruct(video), doubtful.reconstruct(video)
    for name in ("expected_error", "typical_error"):
        assert scaled.diagnostics[name] == pytest.approx(4 * plain.diagnostics[name])
    np.testing.assert_array_equal(plain.confidence, scaled.confidence)


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "paper", "paper": PaperConfig(steps=20)},
        {"use_points": False, "use_rays": False},
        {"use_points": False, "use_disparity": False},
    ],
)
def test_every_way_of_aligning_says_what_to_expect(geo: Geo4D, settings: dict[str, Any]) -> None:
    result = geo.reconstruct(frames(18), alignment=AlignmentConfig(**settings))
    error = result.diagnostics["expected_error"]
    assert error > 0 if result.valid.any() else np.isnan(error)


def test_progress_and_windows_are_shown(geo: Geo4D) -> None:
    calls: list[tuple[str, int, int]] = []
    seen: list[WindowPredictions] = []
    geo.reconstruct(frames(20), windows_per_batch=1, progress=lambda *call: calls.append(call), on_windows=seen.append)
    assert [call for call in calls if call[0] == "windows"] == [("windows", done, 2) for done in (0, 1, 2)]
    assert calls[-1][0] in ("depth", "detail") and calls[-1][1] == calls[-1][2]
    assert seen[0].windows[:, 0].tolist() == [0, 4]
    assert seen[0].source_size == (40, 60)


def test_bfloat16_agrees_roughly(geo: Geo4D) -> None:
    low = Geo4D.from_pretrained("tiny", device="cpu", dtype="bfloat16").predict(frames(4))
    high = geo.predict(frames(4))
    assert low.disparity is not None and high.disparity is not None
    assert low.disparity.dtype == torch.float32
    assert (low.disparity - high.disparity).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 0}, "stride and windows per batch must be at least 1"),
        ({"windows_per_batch": 0}, "windows per batch"),
        ({"steps": -1}, "steps must be"),
        ({"steps": 1001}, "steps must be"),
        ({"seed": -1}, "seed must not be negative"),
        ({"mirrored": True, "compat": "released"}, "The released script predicts no mirrored frames"),
    ],
)
def test_nonsense_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InferConfig(**settings)


@pytest.mark.parametrize("settings", [{"start": -1}, {"max_frames": 0}, {"frame_stride": 0}])
def test_nonsense_selections_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least"):
        InferConfig(**settings)


def test_windows_of_one_pass_and_of_two_are_not_mixed(geo: Geo4D, tmp_path: Path) -> None:
    one = geo.predict(frames(16), cache_dir=tmp_path / "one")
    with pytest.raises(InputError, match="another mirrored"):
        geo.predict(frames(16), InferConfig(mirrored=True), cache_dir=tmp_path / "one")
    both = geo.predict(frames(16), InferConfig(mirrored=True), cache_dir=tmp_path / "both")
    with pytest.raises(InputError, match="another mirrored"):
        geo.predict(frames(16), cache_dir=tmp_path / "both")
    assert one.disparity is not None and both.disparity is not None
    assert one.disparity.shape == both.disparity.shape and not torch.equal(one.disparity, both.disparity)


def test_a_stride_beyond_the_window_is_refused(geo: Geo4D) -> None:
    with pytest.raises(ConfigError, match="would leave frames out"):
        geo.predict(frames(40), InferConfig(stride=17))


@pytest.mark.parametrize("name", ["warp", "cuda:99", "meta", "cpu:x"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="There is no device"):
        pick_device(name)


def test_bad_models_and_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype must be auto"):
        Geo4D.from_pretrained("tiny", dtype="int8")
    with pytest.raises(CheckpointError, match="There is no model at"):
        Geo4D.from_pretrained(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_bad_arrays_are_refused(geo: Geo4D, bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8 array"):
        geo.reconstruct(bad)


def test_a_start_behind_the_end_is_refused(geo: Geo4D) -> None:
    with pytest.raises(InputError, match="No frame is left"):
        geo.reconstruct(frames(3), start=3)


@pytest.mark.slow
def test_the_bundled_clip_keeps_its_cameras_and_what_they_do_for_depth() -> None:
    """The network alone is at .41; what triangulated points correct is the rest, and hangs on a gate of its own."""
    truth = demo_truth()
    result = Geo4D.from_pretrained("small", device="cpu").reconstruct(demo_video())
    found = score_reconstruction(truth, result)
    assert result.diagnostics["tracks"]["corrects_depth"]
    assert found["abs_rel"] < 0.38 and found["ate_scale"] < 0.05 * found["ate_static"]
