"""Point maps: known similarities, known errors, missing points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from geo4d.errors import InputError
from geo4d.metrics import PointAlignment, point_metrics

RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=(3, 6, 8, 3)) + [0, 0, 6]
MASK = RNG.random(TRUE.shape[:3]) < 0.8
TURN = Rotation.from_rotvec([0.3, -0.2, 0.9]).as_matrix()


def test_known_maps_are_undone():
    similar = 2.5 * TRUE @ TURN.T + [1, 2, 3]
    for weight in ("uniform", "relative"):
        for per in ("video", "frame"):
            for predicted, kind in ((TRUE, "none"), (TRUE / 3, "scale"), (similar, "sim3")):
                result = point_metrics(predicted, TRUE, MASK, alignment=PointAlignment(kind, weight, per))
                assert (result.rel, result.distance) == pytest.approx((0, 0), abs=1e-9) and result.delta == 1
    assert result.points == MASK.sum() and point_metrics(similar, TRUE, MASK).rel > 0.1
    each = TRUE * np.array([1, 2, 3])[:, None, None, None]
    assert (
        point_metrics(each, TRUE, MASK, alignment=PointAlignment(per="frame")).rel
        < 1e-9
        < point_metrics(each, TRUE, MASK).rel
    )


def test_known_errors():
    result = point_metrics(1.2 * TRUE, TRUE, MASK, alignment=PointAlignment("none"))
    assert result.rel == pytest.approx(0.2) and result.delta == 1
    assert result.distance == pytest.approx(0.2 * np.linalg.norm(TRUE[MASK], axis=1).mean())
    assert point_metrics(1.3 * TRUE, TRUE, MASK, alignment=PointAlignment("none")).delta == 0
    centres = np.array([[0, 0, 1.0], [0, 0, 2], [0, 0, 3]])
    seen = point_metrics(TRUE + [0.1, 0, 0], TRUE, MASK, alignment=PointAlignment("none"), centres=centres)
    assert seen.rel == pytest.approx((0.1 / np.linalg.norm(TRUE - centres[:, None, None], axis=-1))[MASK].mean())


def test_the_scale_is_the_best_one():
    predicted = TRUE + RNG.normal(size=TRUE.shape)
    p, t = predicted[MASK], TRUE[MASK]
    for weight, w in (("uniform", np.ones(len(t))), ("relative", 1 / (t**2).sum(1))):
        best = (w[:, None] * p * t).sum() / (w[:, None] * p * p).sum()
        result = point_metrics(predicted, TRUE, MASK, alignment=PointAlignment("scale", weight))
        assert result.distance == pytest.approx(np.linalg.norm(best * p - t, axis=1).mean(), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.tuples(*[st.floats(-3, 3)] * 6))
def test_a_similarity_of_the_prediction_changes_nothing(seed, scale, numbers):
    predicted = TRUE + np.random.default_rng(seed).normal(size=TRUE.shape)
    other = scale * predicted @ Rotation.from_rotvec(numbers[:3]).as_matrix().T + np.array(numbers[3:])
    alignment = PointAlignment("sim3")
    one, two = (point_metrics(p, TRUE, MASK, alignment=alignment) for p in (predicted, other))
    assert one.rel == pytest.approx(two.rel, rel=1e-8) and one.distance == pytest.approx(two.distance, rel=1e-8)


def test_a_missing_point_counts_as_one_at_the_camera():
    predicted = TRUE.copy()
    predicted[0] = np.nan
    for per in ("video", "frame"):
        result = point_metrics(predicted, TRUE, MASK, alignment=PointAlignment(per=per))
        share = MASK[0].sum() / MASK.sum()
        assert result.rel == pytest.approx(share) and result.delta == pytest.approx(1 - share)


def test_points_that_cannot_be_scored():
    at_camera = TRUE.copy()
    at_camera[MASK] = 0
    for predicted, true, mask, message in (
        (TRUE[:2], TRUE, MASK, "resize"),
        (TRUE, TRUE, MASK & False, "empty"),
        (TRUE * np.nan, TRUE, MASK, "no predicted point"),
        (TRUE, at_camera, MASK, "away from their camera"),
        (0 * TRUE, TRUE, MASK, "origin"),
    ):
        with pytest.raises(InputError, match=message):
            point_metrics(predicted, true, mask)
    with pytest.raises(InputError, match="centres"):
        point_metrics(TRUE, TRUE, MASK, centres=np.zeros((2, 3)))
    with pytest.raises(InputError, match="at least 3 points"):
        point_metrics(TRUE[:1, :1, :2], TRUE[:1, :1, :2], np.ones((1, 1, 2), bool), alignment=PointAlignment("sim3"))
