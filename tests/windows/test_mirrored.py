"""The mirrored second pass: exact windows come back exactly, and what is symmetric stays so."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from geo4d.diffusion.schedule import make_schedule
from geo4d.errors import ConfigError
from geo4d.geometry.camera import intrinsics_from_focal
from geo4d.modalities import make_layout
from geo4d.models.storage import load_model
from geo4d.scene import Clip
from geo4d.synthetic import render_clips, scene_seed
from geo4d.windows.cache import WindowCache
from geo4d.windows.mirrored import average_fields, mirror_fields, mirror_frames
from geo4d.windows.plan import plan_windows
from geo4d.windows.predict import PredictConfig, Predictor

WINDOWS = plan_windows(8, length=5, stride=3)  # 2 windows
MIRROR = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))


@pytest.fixture(scope="module")
def clip() -> Clip:
    """One window that turns and travels, in double precision, its principal point off the centre."""
    found = render_clips([scene_seed(77, 3)], num_frames=5, size=(24, 40), frame_step=6)
    intrinsics = intrinsics_from_focal(
        torch.full((1, 5), 30.0),
        24,
        40,
    ).double()
    intrinsics[..., 0, 2] += 4.5
    intrinsics[..., 1, 2] -= 1.5
    return replace(found, depth=found.depth.double(), intrinsics=intrinsics, cam_to_world=found.cam_to_world.double())


def mirror_clip(clip: Clip) -> Clip:
    """The same scene in a mirror: frames flipped, cameras reflected, principal point on the other side."""
    flipped = {name: getattr(clip, name).flip(3) for name in ("rgb", "depth", "valid", "sky")}
    intrinsics = clip.intrinsics.clone()
    intrinsics[..., 0, 2] = clip.depth.shape[-1] - intrinsics[..., 0, 2]
    return Clip(**flipped, intrinsics=intrinsics, cam_to_world=MIRROR @ clip.cam_to_world @ MIRROR)


def decode(clip: Clip, normalization: str) -> dict[str, object]:
    """Fields of the one window, through its images."""
    layout = make_layout(normalization=normalization)
    fields = layout.decode(layout.encode(clip))
    return {name: value[0] if isinstance(value, torch.Tensor) else value for name, value in fields.items()}


@pytest.mark.parametrize("normalization", ["minmax", "asinh", "mean"])
def test_a_window_of_mirrored_frames_mirrored_back_is_the_window(clip: Clip, normalization: str) -> None:
    whole, back = decode(clip, normalization), mirror_fields(decode(mirror_clip(clip), normalization))
    assert whole.keys() == back.keys() and clip.sky.any()
    seen = whole["weight"] > 0
    assert seen.float().mean() > 0.3
    torch.testing.assert_close(back["points"][seen], whole["points"][seen], atol=1e-4, rtol=1e-4)
    for name in ("weight", "disparity", "disparity_weight", "ray_direction", "ray_moment"):
        torch.testing.assert_close(back[name], whole[name], atol=1e-5, rtol=1e-4)
    assert whole["ray_moment"].abs().max() > 0.01  # the camera does travel
    mean = average_fields(whole, back)
    torch.testing.assert_close(mean["points"][seen], whole["points"][seen], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mean["weight"], whole["weight"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("normalization", "shift"), [("asinh", 0.0), ("minmax", 0.3)])
def test_another_scale_of_the_second_is_brought_to_that_of_the_first(
    clip: Clip, normalization: str, shift: float
) -> None:
    first = decode(clip, normalization)
    moved = first["points"] * 1.7 + shift * first["points"].new_tensor([0.0, 0.0, 1.0])
    second = first | {"points": moved, "weight": first["weight"] / 1.7, "ray_moment": 1.7 * first["ray_moment"]}
    mean = average_fields(first, second)
    for name in ("weight", "ray_moment"):
        torch.testing.assert_close(mean[name], first[name], atol=1e-5, rtol=1e-4)
    seen = first["weight"] > 0
    torch.testing.assert_close(mean["points"][seen], first["points"][seen], atol=1e-4, rtol=1e-4)


def test_what_one_calls_invalid_is_the_others_and_scales_are_averaged(clip: Clip) -> None:
    first = decode(clip, "asinh")
    half, seen = first["weight"].clone(), first["weight"] > 0
    half[:, :, :20] = 0.0
    poor = first | {"weight": half, "points": torch.where(half[..., None] > 0, first["points"], torch.nan)}
    mean = average_fields(first, poor)
    torch.testing.assert_close(mean["points"][seen], first["points"][seen], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mean["weight"], first["weight"], atol=1e-5, rtol=1e-4)
    doubtful = first | {"weight": first["weight"] / 3}  # Laplace scales s and 3 s: 2 s
    torch.testing.assert_close(average_fields(first, doubtful)["weight"], first["weight"] / 2, atol=1e-5, rtol=1e-4)
    nothing = first | {"weight": torch.zeros_like(half)}
    assert not average_fields(nothing, nothing)["weight"].any()


def test_a_field_of_which_it_is_not_known_how_it_is_mirrored_is_refused() -> None:
    with pytest.raises(ConfigError, match="The model predicts flow"):
        mirror_fields({"flow": torch.zeros(2, 4, 4, 2)})


def tiny(**settings: object) -> Predictor:
    """The smallest model, its last layer shaken so that what it says depends on the frames."""
    model = load_model("tiny")
    with torch.no_grad():
        model.unet.out[2].weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    layout = make_layout(model.spec.modalities, normalization=model.spec.points_normalization)
    return Predictor(model, layout, make_schedule(dynamic_rescale=False), PredictConfig(**settings))  # type: ignore[arg-type]


FRAMES = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)


def test_symmetric_frames_give_a_symmetric_result() -> None:
    left = FRAMES[:, :, :24]
    frames = np.concatenate([left, mirror_frames(left)], axis=2)
    one, both = (tiny(mirrored=mirrored).predict(frames, WINDOWS[:1], 24.0) for mirrored in (False, True))
    for name, value in both.items():
        if isinstance(value, torch.Tensor):
            back = mirror_fields({name: value[0]})[name]
            torch.testing.assert_close(back, value[0], atol=2e-3, rtol=2e-3)
    alone = one["disparity"]
    assert (alone - alone.flip(-1)).abs().max() > 0.01  # the network by itself is not symmetric


def test_mirrored_frames_give_the_mirrored_result_up_to_the_windows_scale() -> None:
    both = tiny(mirrored=True)
    there, back = both.predict(FRAMES, WINDOWS[:1], 24.0), both.predict(mirror_frames(FRAMES), WINDOWS[:1], 24.0)
    for name in ("disparity", "ray_direction"):
        torch.testing.assert_close(mirror_fields({name: back[name][0]})[name], there[name][0], atol=2e-3, rtol=2e-3)


def test_progress_counts_both_passes_and_every_frame_is_encoded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    both, encoded, calls = tiny(mirrored=True, windows_per_batch=1), [], []
    encode = both.model.encode_rgb
    monkeypatch.setattr(both.model, "encode_rgb", lambda images: encoded.append(images) or encode(images))
    both.predict(FRAMES, WINDOWS, 24.0, progress=lambda *call: calls.append(call))
    plain, mirrored = torch.cat(encoded).chunk(2)
    assert torch.equal(plain.flip(-1), mirrored)
    assert [call for call in calls if call[0] == "windows"] == [("windows", done, 4) for done in range(5)]
    assert [call for call in calls if call[0] == "encode"][-1] == ("encode", 16, 16)


def test_the_cache_gives_the_same_bits(tmp_path) -> None:
    both, cache = tiny(mirrored=True, windows_per_batch=1), WindowCache(tmp_path / "cache", {"mirrored": True})
    whole = both.predict(FRAMES, WINDOWS, 24.0, cache=cache)
    cache.path(1).unlink()
    resumed = both.predict(FRAMES, WINDOWS, 24.0, cache=cache)
    assert all(torch.equal(whole[name], resumed[name]) for name in ("points", "weight", "disparity", "ray_moment"))
