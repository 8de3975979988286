"""What an alignment says of itself.

Fits by window, suspects, the cameras' covariance, and how far depth is to be believed.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import exact_windows
from scipy.stats import spearmanr

from geo4d.alignment import AlignmentConfig, align
from geo4d.synthetic import render_clips, scene_seed
from geo4d.synthetic.windows import NoiseLaw, simulate_windows
from geo4d.windows.plan import plan_windows

STILL = AlignmentConfig(motion=False)
NOISES = (0.5, 2.0)
SCENES = (3, 5, 11)  # a room, a camera that stands, a street
BY_WINDOW = ("turn_deg", "shift", "across_px", "along", "rays_deg", "disparity")


@pytest.fixture(scope="module")
def results():
    found = {}
    for index in SCENES:
        clip = render_clips([scene_seed(31, index)], num_frames=24, size=(24, 32), frame_step=2).map(
            lambda values: values[0]
        )
        for noise in NOISES:
            found[index, noise] = (
                clip,
                align(simulate_windows(clip, plan_windows(24), NoiseLaw().scaled(noise), seed=1), config=STILL),
            )
    return found


def depth_errors(clip, result):
    """Of log depth up to the scale of the whole: what came true, and what was expected."""
    valid = result.valid & clip.valid.numpy()
    off = np.log(result.depth[valid] / clip.depth.numpy()[valid])
    return np.abs(off - np.median(off)), result.diagnostics["typical_error"] / result.confidence[valid]


def turn_errors_deg(clip, result):
    true = np.linalg.inv(clip.cam_to_world[:1].double().numpy()) @ clip.cam_to_world.double().numpy()
    off = torch.from_numpy(np.swapaxes(result.cam_to_world[:, :3, :3], 1, 2) @ true[:, :3, :3])
    return np.degrees(
        np.linalg.norm([(off[:, i, j] - off[:, j, i]).numpy() / 2 for i, j in ((0, 1), (0, 2), (1, 2))], axis=0)
    )


def noisy_windows(frames=44):
    return exact_windows(frames, noise=0.01)[0]


def spoiled(predictions, g, **changes):
    changed = {}
    for name, change in changes.items():
        values = getattr(predictions, name).clone()
        values[g] = change(values[g])
        changed[name] = values
    return replace(predictions, **changed)


def test_every_window_is_described():
    predictions = noisy_windows(28)
    windows = align(predictions, config=STILL).diagnostics["windows"]
    assert [entry["frames"] for entry in windows] == [[int(w[0]), int(w[-1])] for w in predictions.windows]
    for entry in windows:
        assert all(np.isfinite(entry[name]) and entry[name] >= 0 for name in BY_WINDOW)
        assert 0.001 < entry["along"] < 0.02  # one per cent of noise
        assert entry["focal_by_longer_side"] == pytest.approx(30 / 36, rel=0.02)
    scales = np.array([entry["scale"] for entry in windows])
    np.testing.assert_allclose(scales / scales[0], (1.5 + 0.4 * np.arange(4)) / 1.5, rtol=0.01)
    lacking = align(
        replace(predictions, ray_direction=None, ray_moment=None, disparity=None), config=STILL
    ).diagnostics["windows"]
    assert not {"rays_deg", "disparity"} & set(lacking[0])  # of what is not there nothing is said


def test_clean_windows_are_not_suspected():
    for predictions in (exact_windows(44)[0], noisy_windows()):
        diagnostics = align(predictions, config=STILL).diagnostics
        assert diagnostics["suspect_windows"] == [] and diagnostics["suspect_frames"] == []


SPOILS = {
    "points": lambda values: (
        values * (1 + 0.15 * torch.randn(values.shape[:3], generator=torch.Generator().manual_seed(1))[..., None])
    ),
    "disparity": lambda values: values.flip(-1),
    "ray_direction": lambda values: values.flip(0),
}


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoiled_window_is_suspected(name):
    suspects = align(spoiled(noisy_windows(), 4, **{name: SPOILS[name]}), config=STILL).diagnostics["suspect_windows"]
    assert suspects[0]["window"] == 4
    wanted = {"points": {"along", "across_px", "turn_deg"}, "disparity": {"disparity"}, "ray_direction": {"rays_deg"}}[
        name
    ]
    assert suspects[0]["by"] in wanted and suspects[0]["times_the_usual"] > 2


def test_frames_that_are_wrong_in_all_windows_are_suspected():
    predictions = noisy_windows()
    generator = torch.Generator().manual_seed(2)
    wrong = (predictions.windows == 20) | (predictions.windows == 21)
    noise = torch.exp(0.3 * torch.randn(predictions.weight.shape, generator=generator))
    points = torch.where(wrong[:, :, None, None, None], predictions.points * noise[..., None], predictions.points)
    result = align(replace(predictions, points=points, disparity=None), config=STILL)
    assert result.diagnostics["suspect_frames"] == [20, 21]
    low = np.array([np.median(result.confidence[frame]) for frame in range(44)])
    assert set(np.argsort(low)[:2]) == {20, 21}


def test_covariances_are_covariances(results):
    for _, result in results.values():
        covariance = result.pose_covariance
        assert covariance.shape == (24, 6, 6) and np.isfinite(covariance).all()
        np.testing.assert_allclose(covariance, np.swapaxes(covariance, 1, 2), atol=1e-12 * np.abs(covariance).max())
        assert np.linalg.eigvalsh(covariance).min() > -1e-9 * np.abs(covariance).max()
        assert np.abs(covariance[0]).max() < 1e-20  # the first camera is the world
        spread = np.trace(covariance[:, :3, :3], axis1=1, axis2=2)
        assert (spread[1:] > 0).all() and spread[16:].mean() > spread[1:8].mean()  # the farther, the less certain


@pytest.mark.parametrize("index", SCENES)
def test_cameras_are_as_uncertain_as_they_are_wrong(results, index):
    expected, true = [], []
    for noise in NOISES:
        clip, result = results[index, noise]
        expected.append(np.degrees(np.sqrt(np.trace(result.pose_covariance[:, :3, :3], axis1=1, axis2=2)).mean()))
        true.append(turn_errors_deg(clip, result).mean())
    assert expected[1] > 2 * expected[0]
    assert 1 / 4 < np.sum(expected) / np.sum(true) < 4


@pytest.mark.parametrize("index", SCENES)
@pytest.mark.parametrize("noise", NOISES)
def test_expected_depth_errors_come_true(results, index, noise):
    true, expected = depth_errors(*results[index, noise])
    assert spearmanr(true, expected).statistic > 0.25
    assert 0.5 < expected.mean() / true.mean() < 2
    order = np.argsort(expected)
    believed, doubted = true[order[: len(order) // 4]], true[order[-len(order) // 4 :]]
    assert np.median(doubted) > 1.5 * np.median(believed)


@pytest.mark.parametrize("index", SCENES)
def test_quality_falls_with_noise(results, index):
    entries = [results[index, noise][1].diagnostics for noise in NOISES]
    for name in ("expected_error", "typical_error"):
        assert 1.2 * entries[0][name] < entries[1][name]
    for name in ("point", "disparity"):
        assert 1.2 * entries[0]["disagreement"][name] < entries[1]["disagreement"][name]


def test_confidence_is_one_where_typical_and_zero_where_nothing_is_known():
    predictions = noisy_windows(20)
    weight, disparity = predictions.weight.clone(), predictions.disparity.clone()
    weight[:, :, :6], disparity[:, :, :6] = 0, 0
    result = align(replace(predictions, weight=weight, disparity=disparity), config=STILL)
    assert not result.valid[:, :6].any() and (result.confidence[:, :6] == 0).all()
    assert np.median(result.confidence[result.valid]) == pytest.approx(1, abs=0.01)


def test_windows_that_differ_meet_in_the_middle(results):
    """Where few windows share a frame, its camera could be that of one of them exactly.

    The others would be outliers then.
    """
    for _, result in results.values():
        turns = [entry["turn_deg"] for entry in result.diagnostics["windows"]]
        assert min(turns) > 0.2 * max(turns) > 0
