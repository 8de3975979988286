"""One video's numbers, on depth that is known to the last pixel: what is in range, and what fails alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geo4d.evaluation.predictions import Prediction
from geo4d.evaluation.protocols import PROTOCOLS
from geo4d.evaluation.scores import Truth, count_failures, failure, offers, score_prediction
from geo4d.evaluation.synthetic import SyntheticSet, render_true_clip, score, truth_of

SIZE, FRAMES = (20, 24), 4
CAMERA = np.tile(np.array([[20.0, 0, 12], [0, 20, 10], [0, 0, 1]]), (FRAMES, 1, 1))


def truth(depth, **changes):
    return Truth(SIZE, FRAMES, ("depth", "points"), depth, np.ones(depth.shape, bool), CAMERA, **changes)


def near(seed=0):
    return np.random.default_rng(seed).uniform(2, 20, (FRAMES, *SIZE))


def prediction(depth, **changes):
    return Prediction(Path("video.npz"), depth, None, CAMERA, **changes)


def scored(known, said, protocol="geo4d", dataset="sintel"):
    found = score_prediction(known, said, PROTOCOLS[protocol], dataset)
    return found, count_failures(found, known, PROTOCOLS[protocol], dataset, "depth")


def test_depth_without_a_positive_median_loses_the_median_scale_alone():
    depth = near()
    known, said = truth(depth), prediction(depth - 1.5 * np.median(depth))
    found, hopeless = scored(known, said)
    assert (
        hopeless == ()
        and list(found.failures) == ["median scale"]
        and "needs a positive median" in found.failures["median scale"]
    )
    assert found.values["abs_rel"] == pytest.approx(0, abs=1e-6) and found.values["delta1"] == 1
    constant = score_prediction(known, prediction(np.ones(depth.shape)), PROTOCOLS["geo4d"], "sintel").values
    assert found.values["abs_rel_median_scale"] == constant["abs_rel_median_scale"] > 0.1
    assert failure("abs_rel_median_scale", found.failures) and failure("abs_rel", found.failures) is None
    by_median, _ = scored(known, said, "scale-only")  # where the median is the protocol's own fit, depth has failed
    assert "depth" in by_median.failures and failure("abs_rel_median_scale", by_median.failures) is not None


def test_the_model_of_a_clip_is_scored_without_the_median_scale():
    clip = render_true_clip(SyntheticSet(num=1, frames=3, size=(32, 48)), 0)
    depth = np.where(clip.valid, clip.depth - 2 * np.median(clip.depth[clip.valid]), np.nan)
    found = score(clip, Prediction(Path("result"), depth, clip.cam_to_world, clip.intrinsics))
    assert "abs_rel_median_scale" not in found and found["abs_rel"] == pytest.approx(0, abs=1e-5)


def test_depth_that_is_negative_everywhere_has_no_boundaries():
    depth = np.where(np.arange(SIZE[1]) < 12, 2.0, 10.0) * np.ones((FRAMES, *SIZE))
    found, _ = scored(truth(depth), prediction(-depth))
    constant, _ = scored(truth(depth), prediction(np.ones(depth.shape)))
    assert found.values["abs_rel"] == constant.values["abs_rel"] > 0.3  # upside down is not good
    assert found.upside_down == {"depth": FRAMES, "points": FRAMES} and constant.upside_down == {
        "depth": 0,
        "points": 0,
    }
    assert found.values["point_rel"] == pytest.approx(1)
    assert found.values["boundary_f1"] == 0 and "holds no positive depth" in found.failures["boundary"]
    slope = np.linspace(2.0, 3.0, SIZE[1]) * np.ones((FRAMES, *SIZE))  # whose truth has no edge
    found, _ = scored(truth(slope), prediction(-slope))
    assert "boundary_f1" not in found.values and "boundary" not in found.failures


def test_no_number_of_depth_looks_beyond_the_range():
    """Half of the picture is beyond 70 m, wrongly predicted there, and trusted most: nothing of that is scored."""
    depth = near()
    depth[:, :10] = np.random.default_rng(1).uniform(100, 900, (FRAMES, 10, SIZE[1]))
    said = depth.copy()
    said[:, :10] = 60
    confidence = np.where(depth > 70, 100.0, 1.0)
    found, _ = scored(truth(depth), prediction(said, confidence=confidence))
    assert found.pixels == FRAMES * 10 * SIZE[1] and not found.failures
    for name in ("abs_rel", "abs_rel_trusted", "point_rel"):
        assert found.values[name] == pytest.approx(0, abs=1e-6), name
    assert found.values["point_delta"] == 1 and max(found.trust["error"]) < 1e-6
    everywhere, _ = scored(truth(depth), prediction(said, confidence=confidence), dataset="kitti")  # which has no range
    assert everywhere.values["abs_rel_trusted"] > 0.1 and everywhere.values["point_rel"] > 0.1


def test_the_trusted_half_is_clipped_as_all_of_depth_is():
    depth = near()
    depth[:, 0] = 69.0
    said = depth.copy()
    said[:, 0] = 6900.0
    both = score_prediction(
        truth(depth), prediction(said, confidence=np.ones(depth.shape)), PROTOCOLS["metric"], "bonn"
    )
    row = np.zeros(depth.shape)
    row[:, 0] = 1
    trusted = score_prediction(truth(depth), prediction(said, confidence=row), PROTOCOLS["metric"], "bonn")
    assert both.values["abs_rel"] == pytest.approx((1 / 69) / SIZE[0], rel=1e-4)
    assert trusted.values["abs_rel_trusted"] == pytest.approx((1 / 69) / SIZE[0] * 2, rel=1e-4)


def test_a_video_all_beyond_the_range_has_no_points_for_anybody():
    known = replace(
        truth(100 * near() + 100), cam_to_world=np.tile(np.eye(4), (FRAMES, 1, 1)), groups=("pose", "points")
    )
    found = score_prediction(known, prediction(known.depth), PROTOCOLS["geo4d"], "sintel")
    assert set(found.failures) == {"pose", "points"} and "mask of the truth is empty" in found.failures["points"]


def test_confidence_of_nothing_is_a_failure():
    depth = near()
    found, _ = scored(truth(depth), prediction(depth, confidence=np.full(depth.shape, np.nan)))
    assert list(found.failures) == ["trust"] and "finite confidence for fewer than 10 pixels" in found.failures["trust"]
    assert found.values["abs_rel_trusted"] > 0.1 and found.values["abs_rel"] == pytest.approx(0, abs=1e-6)


def test_what_a_prediction_offers():
    depth, poses, groups = near(), np.tile(np.eye(4), (FRAMES, 1, 1)), ("depth", "pose", "focal", "points")
    assert offers(Prediction(Path("all"), depth, poses, CAMERA, confidence=depth), groups) == [*groups, "trust"]
    assert offers(Prediction(Path("cameras"), None, poses * np.nan, CAMERA), groups) == ["pose"]
    assert offers(Prediction(Path("all"), depth, poses, CAMERA, confidence=depth), ("pose",)) == ["pose"]
    assert truth_of(render_true_clip(SyntheticSet(num=1, frames=2, size=(16, 24)), 0)).groups == groups[:3]


def test_upside_down_disparity_with_holes_of_depth_zero_still_has_a_trusted_half():
    depth = near()
    said = 20 / depth
    said[0, 0] = 0
    found, _ = scored(truth(depth), prediction(said, confidence=np.ones(depth.shape)), "disparity", "kitti")
    assert found.upside_down["depth"] == FRAMES and not found.failures
    assert found.values["abs_rel_trusted"] == pytest.approx(found.values["abs_rel"], rel=0.2)
