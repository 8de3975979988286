"""Which pixels move, on simulated windows of procedural scenes whose objects are known to move or to stand."""

import numpy as np
import pytest
from scenes import exact_windows

from geo4d.alignment import AlignmentConfig, align
from geo4d.alignment.finish.assemble import scaled
from geo4d.alignment.finish.moving import find_motion
from geo4d.scene.files.reconstruction import load_reconstruction, save_reconstruction
from geo4d.synthetic import render_clips, scene_seed
from geo4d.synthetic.windows import NoiseLaw, simulate_windows
from geo4d.windows.plan import plan_windows

MOVING, STANDING = (2, 5), (3, 11)  # scenes with one object that crosses the view; with none


def simulated(index, noise):
    clip = render_clips([scene_seed(31, index)], num_frames=24, size=(24, 32), frame_step=2).map(
        lambda values: values[0]
    )
    return clip, align(simulate_windows(clip, plan_windows(24), NoiseLaw().scaled(noise), seed=0))


@pytest.fixture(scope="module")
def results():
    return {(index, noise): simulated(index, noise) for index in MOVING for noise in (0.0, 1.0)}


def overlap(found, true):
    return (found & true).sum() / (found | true).sum()


@pytest.mark.parametrize("index", MOVING)
@pytest.mark.parametrize("noise,least", [(0.0, 0.8), (1.0, 0.6)])
def test_what_moves_is_found(results, index, noise, least):
    clip, result = results[index, noise]
    truth = (clip.dynamic & clip.valid).numpy()
    share = truth.mean()
    assert 0.05 < share < 0.3
    found = result.dynamic > 0.5
    guessed = np.random.default_rng(0).random(truth.shape) < share
    assert overlap(found, truth) > max(least, 2 * overlap(guessed, truth), 2 * overlap(np.ones_like(truth), truth))
    assert result.dynamic[truth].mean() > 0.7 and result.dynamic[~truth].mean() < 0.12


@pytest.mark.parametrize("index", STANDING)
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_nothing_moves_where_nothing_moves(index, noise):
    clip, result = simulated(index, noise)
    assert not (clip.dynamic & clip.valid).any()
    assert result.dynamic.mean() < 0.03
    assert (result.dynamic > 0.5).mean() < (1e-3 if noise == 0 else 0.03)


def test_it_is_a_probability_of_every_pixel(results):
    for clip, result in results.values():
        assert result.dynamic.dtype == np.float32 and result.dynamic.shape == result.depth.shape
        assert result.dynamic.min() >= 0 and result.dynamic.max() <= 1
        assert not result.dynamic[~result.valid].any()
        assert (result.dynamic[clip.dynamic.numpy()] > 0.9).any()


def test_it_depends_on_depth_and_cameras_only_up_to_their_unit(results):
    _, result = results[5, 1.0]
    np.testing.assert_allclose(find_motion(scaled(result, 7.5)), result.dynamic, atol=1e-3)


def test_it_is_computed_if_asked_for():
    predictions, _ = exact_windows(20)
    assert align(predictions, config=AlignmentConfig(motion=False)).dynamic is None
    assert align(predictions).dynamic.max() < 0.05  # a room that stands


@pytest.mark.parametrize("frames", [1, 3])
def test_too_few_frames_say_nothing(frames):
    predictions, _ = exact_windows(frames)
    dynamic = align(predictions).dynamic
    assert dynamic.shape[0] == frames and not dynamic.any()


def test_it_is_kept_on_disk(results, tmp_path):
    _, result = results[2, 0.0]
    save_reconstruction(result, tmp_path / "with")
    np.testing.assert_array_equal(load_reconstruction(tmp_path / "with").dynamic, result.dynamic)
    predictions, _ = exact_windows(3)
    save_reconstruction(
        align(predictions, config=AlignmentConfig(motion=False)), tmp_path / "with"
    )  # the old one must not stay
    assert load_reconstruction(tmp_path / "with").dynamic is None
