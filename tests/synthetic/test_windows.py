"""Simulated windows: exact without noise, repeatable, and as wrong as the law says."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from geo4d.alignment import AlignmentConfig, align
from geo4d.metrics.pose import pose_metrics
from geo4d.synthetic import render_clips, scene_seed
from geo4d.synthetic.windows import RAY_GRID, WILD, NoiseLaw, iterate_windows, simulate_windows
from geo4d.windows.plan import plan_windows

FRAMES, SIZE = 20, (24, 48)
WINDOWS = plan_windows(FRAMES, length=12, stride=4)
EXACT = NoiseLaw().scaled(0.0)
MAPS = ("points", "weight", "disparity", "ray_direction", "ray_moment")


def clip_of(index):
    return render_clips([scene_seed(31, index)], num_frames=FRAMES, size=SIZE, frame_step=2).map(
        lambda values: values[0]
    )


@pytest.fixture(scope="module")
def clip():
    return clip_of(11)  # a street with sky, passed through by the camera


def own_log_errors(clip, law, seed=0):
    """Log depth of every window against the truth, up to the window's own scale, by the depth in its own cameras."""
    predictions = simulate_windows(clip, WINDOWS, law, seed)
    exact = simulate_windows(clip, WINDOWS, EXACT, seed)
    off = []
    for g, window in enumerate(WINDOWS):
        inverse, true = (values.disparity[g][clip.valid[window]].double() for values in (predictions, exact))
        a, b = np.polyfit(true, inverse, 1)
        off.append(np.abs(a * true.numpy() + b - inverse.numpy()))
    return float(np.mean(np.concatenate(off)))


def test_a_law_can_be_scaled():
    law = NoiseLaw(constant_disparity=True).scaled(2.0)
    for field in fields(NoiseLaw):
        wanted = getattr(NoiseLaw(), field.name) * (1 if field.name == "flagged" else 2)
        assert getattr(law, field.name) == (True if field.name == "constant_disparity" else pytest.approx(wanted))
    assert NoiseLaw().scaled(100.0).outliers == 0.33  # most pixels are not outliers
    assert all(
        getattr(EXACT, field.name) == 0
        for field in fields(EXACT)
        if field.name not in ("flagged", "constant_disparity")
    )


def test_shapes_and_ranges(clip):
    predictions = simulate_windows(clip, WINDOWS, NoiseLaw(), 0)
    g, v = WINDOWS.shape
    assert predictions.points.shape == (g, v, *SIZE, 3) and predictions.weight.shape == (g, v, *SIZE)
    assert predictions.ray_direction.shape == predictions.ray_moment.shape == (g, v, RAY_GRID[0], RAY_GRID[1], 3)
    assert all(
        getattr(predictions, name).dtype == torch.float32 and getattr(predictions, name).isfinite().all()
        for name in MAPS
    )
    valid = clip.valid[WINDOWS]
    assert not predictions.weight[~valid].any() and (predictions.weight[valid] > 0).all()
    assert predictions.disparity.min() >= -0.05 and predictions.disparity.max() <= 1.2
    assert predictions.disparity[~valid].max() <= predictions.disparity[valid].min() + 1e-6  # the sky is farthest
    torch.testing.assert_close(predictions.ray_direction.norm(dim=-1), torch.ones(g, v, *RAY_GRID))
    assert (predictions.ray_direction * predictions.ray_moment).sum(-1).abs().max() < 1e-5
    assert predictions.images.shape == (FRAMES, *SIZE, 3) and predictions.images.dtype == np.uint8
    assert predictions.points_origin == "unknown"


@pytest.mark.parametrize("index", [1, 5, 11])
def test_the_clean_law_gives_exact_windows(index):
    clip = clip_of(index)
    predictions = simulate_windows(clip, WINDOWS, EXACT, seed=3)
    valid = clip.valid[WINDOWS]
    true = clip.cam_to_world.double().numpy()
    true = np.linalg.inv(true[:1]) @ true
    unit = float(clip.depth[clip.valid].median())
    points = align(replace(predictions, disparity=None), config=AlignmentConfig(motion=False))
    whole = align(predictions, config=AlignmentConfig(motion=False))
    for result in (points, whole):
        assert pose_metrics(result.cam_to_world, true).ate_sim3 < 1e-3 * unit
        assert pose_metrics(result.cam_to_world, true).rotation_deg < 0.01
        off = np.log(result.depth / clip.depth.numpy())[result.valid & clip.valid.numpy()]
        assert np.abs(off - np.median(off)).mean() < 1e-3
        assert result.intrinsics[0, 0, 0] == pytest.approx(float(clip.intrinsics[0, 0, 0]), rel=1e-3)
    inverse = 1 / clip.depth[WINDOWS[0]][valid[0]].double().numpy()
    inside = predictions.disparity[0][valid[0]].numpy() < 1.19
    a, b = np.polyfit(inverse[inside], predictions.disparity[0][valid[0]].numpy()[inside], 1)
    assert a > 0
    np.testing.assert_allclose(a * inverse[inside] + b, predictions.disparity[0][valid[0]].numpy()[inside], atol=1e-4)


def test_the_seed_decides_everything(clip):
    first, again, other = (simulate_windows(clip, WINDOWS, NoiseLaw(), seed) for seed in (1, 1, 2))
    for name in MAPS:
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))
    assert not torch.allclose(
        first.disparity[0, 4:], first.disparity[1, :8], atol=1e-3
    )  # windows err each in its own way


def test_windows_come_one_after_the_other(clip):
    whole = simulate_windows(clip, WINDOWS, NoiseLaw(), 5)
    iterator = iterate_windows(clip, WINDOWS, NoiseLaw(), 5)
    assert iter(iterator) is iterator
    for g, one in enumerate(iterator):
        assert set(one) == set(MAPS)
        for name in MAPS:
            assert torch.equal(one[name], getattr(whole, name)[g])
    first = next(iterate_windows(clip, WINDOWS[:1], NoiseLaw(), 5))
    assert torch.equal(first["points"], whole.points[0])  # however many follow


def test_each_error_grows_with_its_size(clip):
    still = {
        "smooth": 0.0,
        "objects": 0.0,
        "pixels": 0.0,
        "outliers": 0.0,
        "turn_deg": 0.0,
        "shift": 0.0,
        "ray_deg": 0.0,
        "ray_scale": 0.0,
    }
    for name, size in (("smooth", 0.02), ("objects", 0.02), ("pixels", 0.02), ("outliers", 0.1)):
        errors = [own_log_errors(clip, NoiseLaw(**{**still, name: factor * size})) for factor in (0.0, 0.5, 2.0)]
        assert errors[0] < 1e-6 < errors[1] < errors[2] and errors[2] > 2 * errors[1]


def test_camera_errors_move_points_and_rays_and_not_disparity(clip):
    still = dict.fromkeys(("smooth", "objects", "pixels", "outliers", "turn_deg", "shift", "ray_deg", "ray_scale"), 0.0)
    exact = simulate_windows(clip, WINDOWS, NoiseLaw(**still), 0)
    for change in ({"turn_deg": 2.0}, {"shift": 0.05}):
        moved = simulate_windows(clip, WINDOWS, NoiseLaw(**{**still, **change}), 0)
        assert torch.equal(moved.disparity, exact.disparity)
        assert not torch.allclose(moved.points[:, 4], exact.points[:, 4], atol=1e-3)
        assert not torch.allclose(moved.ray_moment[:, 4], exact.ray_moment[:, 4], atol=1e-3)
        torch.testing.assert_close(
            moved.ray_direction[:, 0], exact.ray_direction[:, 0]
        )  # a window's first camera is exact
    turned = simulate_windows(clip, WINDOWS, NoiseLaw(**{**still, "turn_deg": 2.0}), 0)
    cosine = (turned.ray_direction * exact.ray_direction).sum(-1).clamp(-1, 1)
    assert 0.5 < cosine[:, 1:].arccos().rad2deg().median() < 5


def test_outliers_are_as_many_and_as_wild_as_said_and_mostly_told(clip):
    still = dict.fromkeys(("smooth", "objects", "pixels", "turn_deg", "shift", "ray_deg", "ray_scale"), 0.0)
    law = NoiseLaw(**still, outliers=0.2, flagged=0.8)
    exact, wild = (simulate_windows(clip, WINDOWS, one, 0) for one in (replace(law, outliers=0.0), law))
    valid = clip.valid[WINDOWS[0, 0]]
    # x of a window's first frame is depth times a constant of the pixel, by the window's scale
    stretch = (wild.points[0, 0, ..., 0] / exact.points[0, 0, ..., 0])[valid].log()
    off = (stretch - stretch.median()).abs()
    assert 0.15 < float((off > 1e-3).float().mean()) < 0.25
    assert 0.9 * WILD < off.max() < 1.001 * WILD
    ratio = (wild.weight / exact.weight)[clip.valid[WINDOWS]]
    low = (ratio < 0.2 * ratio.median()).float().mean()
    assert 0.1 < low < 0.25  # four fifths of a fifth


def test_constant_errors_of_disparity(clip):
    """In proportion, near things err most in disparity; constant, near and far err alike."""
    law = NoiseLaw(smooth=0.05, objects=0.0, pixels=0.0, outliers=0.0)
    exact = simulate_windows(clip, WINDOWS, replace(law, smooth=0.0), 0).disparity[0]
    near = exact[clip.valid[WINDOWS[0]]]
    shares = []
    for constant in (False, True):
        noisy = simulate_windows(clip, WINDOWS, replace(law, constant_disparity=constant), 0).disparity[0]
        off = (noisy[clip.valid[WINDOWS[0]]] - near).abs()
        shares.append(float(off[near > near.quantile(0.9)].mean() / off[near < near.quantile(0.5)].mean()))
    assert shares[0] > 2 * shares[1]


def test_a_clip_of_sky_alone_does_not_fail(clip):
    nothing = torch.zeros_like(clip.valid)
    predictions = simulate_windows(replace(clip, valid=nothing), WINDOWS[:1], NoiseLaw(), 0)
    assert not predictions.weight.any() and predictions.points.isfinite().all()
