"""One video's numbers.

What the truth allows to be scored, what the prediction offers, and what it costs to offer nothing. A part that cannot
be scored counts as what is known without looking: depth 1 everywhere, a camera that stands still and the mean focal
length; its shares (delta, AUC, F1) count as 0. After scale and shift no depth is worse by much, after a similarity no
path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geo4d.errors import InputError
from geo4d.evaluation import baselines
from geo4d.evaluation.predictions import Prediction
from geo4d.evaluation.protocols import DENSE, MAX_POINTS, EvaluationProtocol
from geo4d.geometry.camera import pixel_rays_cam
from geo4d.metrics.alignment import DepthAlignment
from geo4d.metrics.boundary import boundary_metrics
from geo4d.metrics.depth import NUMBERS, DepthMetrics, depth_metrics
from geo4d.metrics.focal import focal_error
from geo4d.metrics.points import PointAlignment, point_metrics
from geo4d.metrics.pose import absolute_trajectory_error, align_trajectory, pose_metrics
from geo4d.metrics.protocol import DepthProtocol

logger = logging.getLogger(__name__)
TRUST_BINS = 10
# Groups that are scored from depth and fail where it fails, but may fail alone; trust needs a confidence too
FROM_DEPTH = ("median scale", "boundary", "trust")


@dataclass(frozen=True)
class Metric:
    """How a number is called and read."""

    title: str
    group: str
    is_share: bool = False  # from 0 to 1, more is better; else an error, less is better
    in_tables: bool = True


METRICS = {
    "abs_rel": Metric("Abs Rel", "depth"),
    "delta1": Metric("delta < 1.25", "depth", is_share=True),
    "sq_rel": Metric("Sq Rel", "depth", in_tables=False),
    "rmse": Metric("RMSE", "depth"),
    "log_rmse": Metric("log RMSE", "depth"),
    "delta2": Metric("delta < 1.25^2", "depth", is_share=True, in_tables=False),
    "delta3": Metric("delta < 1.25^3", "depth", is_share=True, in_tables=False),
    "abs_rel_median_scale": Metric("Abs Rel, median scale", "median scale"),
    "boundary_f1": Metric("Boundary F1", "boundary", is_share=True),
    "point_rel": Metric("Point Rel", "points"),
    "point_delta": Metric("Point delta < 0.25", "points", is_share=True),
    "abs_rel_trusted": Metric("Abs Rel, trusted half", "trust"),
    "ate_sim3": Metric("ATE", "pose"),
    "ate_se3": Metric("ATE, rigid", "pose"),
    "ate_scale": Metric("ATE, scale only", "pose", in_tables=False),
    "ate_static": Metric("ATE of a static camera", "pose", in_tables=False),
    "rpe_translation": Metric("RPE trans", "pose"),
    "rpe_rotation_deg": Metric("RPE rot deg", "pose"),
    "rotation_deg": Metric("Rotation deg", "pose", in_tables=False),
    "direction_deg": Metric("Direction deg", "pose", in_tables=False),
    "auc_5": Metric("AUC 5", "pose", is_share=True, in_tables=False),
    "auc_30": Metric("AUC 30", "pose", is_share=True),
    "focal_error": Metric("Focal log error", "focal"),
}


@dataclass(frozen=True)
class Truth:
    """What is known of one video; lengths in the data set's unit."""

    size: tuple[int, int]  # (height, width) of the pictures
    frames: int
    groups: tuple[str, ...]  # of METRICS: what is scored
    depth: np.ndarray | None = None  # (t, h, w), 0 where unknown
    valid: np.ndarray | None = None
    intrinsics: np.ndarray | None = None  # (t, 3, 3), pixels of the pictures
    cam_to_world: np.ndarray | None = None  # (t, 4, 4)
    moving: np.ndarray | None = None  # (t, h, w) bool, where what is seen moves

    @property
    def median_depth(self) -> float:
        """Over all pixels whose depth is known."""
        assert self.depth is not None and self.valid is not None
        return float(np.median(self.depth[self.valid]))


@dataclass
class Scores:
    """Numbers of one prediction, and what plots are drawn from; plain data but for the container."""

    values: dict[str, float | None] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # group -> why it could not be scored, offered or not
    pixels: int = 0  # whose depth was scored
    per_frame: dict[str, list[float | None]] = field(default_factory=dict)
    path: dict[str, list[list[float]]] = field(default_factory=dict)  # predicted (aligned) and true centres
    trust: dict[str, Any] = field(default_factory=dict)  # error by confidence
    # group -> frames of which a free fit would take a negative scale
    upside_down: dict[str, int] = field(default_factory=dict)


def score_prediction(truth: Truth, prediction: Prediction, protocol: EvaluationProtocol, dataset: str) -> Scores:
    """Scores every group that the truth is for.

    A group that cannot be scored is named in `failures`, with no values.
    """
    scores = Scores()
    depth_protocol = protocol.depth_of(dataset)
    parts: dict[str, Callable[[], None]] = {
        "depth": lambda: _score_depth(scores, truth, prediction, protocol, depth_protocol),
        "pose": lambda: _score_pose(
            scores, truth, prediction, protocol, is_metric=depth_protocol.alignment.kind == "none"
        ),
        "focal": lambda: _score_focal(scores, truth, prediction),
        "points": lambda: _score_points(scores, truth, prediction, depth_protocol),
    }
    for group, score in parts.items():
        if group in truth.groups:
            try:
                score()
            except InputError as error:
                scores.failures[group] = str(error)
    return scores


def count_failures(
    scores: Scores, truth: Truth, protocol: EvaluationProtocol, dataset: str, task: str
) -> tuple[str, ...]:
    """Fills the groups that failed with what a constant depth and a static camera get, and 0 for shares.

    Returns the groups whose truth cannot be used, as not even they can be scored. Raises InputError if the task's is
    among them.
    """
    if not scores.failures:
        return ()
    uninformed = score_prediction(truth, constant_prediction(truth), protocol, dataset)
    hopeless = tuple(uninformed.failures)
    if task in hopeless or set(hopeless) == set(truth.groups):
        raise InputError(uninformed.failures.get(task, uninformed.failures[hopeless[0]]))
    for group in hopeless:
        logger.warning("The %s cannot be scored for any method: %s", group, uninformed.failures[group])
        scores.failures.pop(group, None)
    for name, value in uninformed.values.items():
        if failure(name, scores.failures) is not None and value is not None:
            scores.values[name] = 0.0 if METRICS[name].is_share else value
    if "depth" in scores.failures:
        scores.pixels = uninformed.pixels
    if failure("abs_rel_trusted", scores.failures) is not None:
        scores.values["abs_rel_trusted"] = uninformed.values["abs_rel"]  # no part of it is better than another
    if uninformed.values.get("boundary_f1") is None:
        scores.failures.pop("boundary", None)  # the truth has no edge to be found
    return hopeless


def failure(name: str, failures: Mapping[str, str]) -> str | None:
    """Why a number could not be scored, as groups failed; None if it could."""
    group = METRICS[name].group
    return failures.get(group, failures.get("depth") if group in FROM_DEPTH else None)


def offers(prediction: Prediction, groups: Sequence[str]) -> list[str]:
    """Which of the groups whose truth is known the prediction says anything of, whether or not that can be scored."""
    has_depth = prediction.depth is not None
    has = {
        "depth": has_depth,
        "pose": prediction.cam_to_world is not None,
        "focal": has_depth and prediction.intrinsics is not None,  # depth tells which pixels they are in
        "points": has_depth and prediction.intrinsics is not None,
    }
    found = [group for group in groups if has.get(group, False)]
    return found + ["trust"] * ("depth" in found and prediction.confidence is not None)


def constant_prediction(truth: Truth) -> Prediction:
    """Depth 1, a camera that stands still, the mean focal length."""
    return _unseen(
        truth, baselines.constant_depth((truth.frames, *_depth_size(truth))), baselines.static_camera(truth.frames)
    )


def mean_prediction(truth: Truth) -> Prediction:
    """The mean map and the mean path of many procedural scenes, and the mean focal length."""
    return _unseen(
        truth, baselines.mean_map_depth(truth.frames, *_depth_size(truth)), baselines.mean_path(truth.frames)
    )


def _unseen(truth: Truth, depth: np.ndarray, cam_to_world: np.ndarray) -> Prediction:
    height, width = depth.shape[1:]
    intrinsics = np.tile(np.eye(3), (truth.frames, 1, 1))
    focal = baselines.mean_focal() * max(truth.size)
    intrinsics[:, 0] = [focal * width / truth.size[1], 0, width / 2]
    intrinsics[:, 1] = [0, focal * height / truth.size[0], height / 2]
    return Prediction(Path("nothing seen"), depth, cam_to_world, intrinsics)


def _depth_size(truth: Truth) -> tuple[int, int]:
    return truth.size if truth.depth is None else (int(truth.depth.shape[1]), int(truth.depth.shape[2]))


def statistics(truth: Truth) -> dict[str, float]:
    """What kind of video it is, as far as the truth tells."""
    found: dict[str, float] = {}
    if truth.depth is not None and truth.valid is not None:
        depth = truth.depth[truth.valid]
        found["median_depth"] = float(np.median(depth))
        found["depth_p5"], found["depth_p95"] = (float(np.quantile(depth, share)) for share in (0.05, 0.95))
        found["sky_share"] = float(1 - truth.valid.mean())
        found["dynamic_share"] = 0.0 if truth.moving is None else float(truth.moving.mean())
    if truth.cam_to_world is not None:
        path = float(np.linalg.norm(np.diff(truth.cam_to_world[:, :3, 3], axis=0), axis=1).sum())
        if "median_depth" in found:
            found["path_by_median_depth"] = path / found["median_depth"]
        else:
            found["path"] = path
    if truth.intrinsics is not None:
        found["focal_by_width"] = float(truth.intrinsics[0, 0, 0] / truth.size[1])
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _score_depth(
    scores: Scores, truth: Truth, prediction: Prediction, protocol: EvaluationProtocol, depth_protocol: DepthProtocol
) -> None:
    assert truth.depth is not None and truth.valid is not None
    depth = prediction.depth_at(_depth_size(truth), interpolation=protocol.interpolation)
    found = depth_metrics(depth, truth.depth, truth.valid, protocol=depth_protocol)
    scores.values |= {name: getattr(found, name) for name in NUMBERS}
    scores.pixels = found.pixels
    scores.upside_down["depth"] = int(found.fit.free_scale_is_negative.sum())
    scores.per_frame["abs_rel"] = [None if frame is None else frame.abs_rel for frame in found.frames]
    by_median = DepthProtocol(DepthAlignment("median"), depth_protocol.max_depth, depth_protocol.clip)
    try:
        scores.values["abs_rel_median_scale"] = depth_metrics(
            depth, truth.depth, truth.valid, protocol=by_median
        ).abs_rel
    except InputError as error:  # affine depth may have a median that is not positive
        scores.failures["median scale"] = str(error)
    if truth.valid.mean() > DENSE:
        _score_boundary(scores, truth, prediction, depth)
    if prediction.confidence is not None:
        _score_trust(scores, truth, prediction, depth, found, depth_protocol)


def _score_boundary(scores: Scores, truth: Truth, prediction: Prediction, depth: np.ndarray) -> None:
    assert truth.depth is not None and truth.valid is not None
    if not (depth[truth.valid] > 0).any():
        scores.failures["boundary"] = (
            f"{prediction.source} holds no positive depth, without which there are no boundaries."
        )
        return
    try:
        scores.values["boundary_f1"] = boundary_metrics(depth, truth.depth, truth.valid).f1
    except InputError as error:  # the prediction has depth, so it is the truth that has no edge
        logger.debug("no boundaries: %s", error)


def _score_trust(
    scores: Scores,
    truth: Truth,
    prediction: Prediction,
    depth: np.ndarray,
    found: DepthMetrics,
    depth_protocol: DepthProtocol,
) -> None:
    """Does the error fall where the confidence rises? In bins of as many pixels, from the least trusted to the most."""
    assert truth.depth is not None and prediction.confidence is not None
    sure = Prediction(prediction.source, prediction.confidence, None, None).depth_at(_depth_size(truth))
    scored = _in_range(truth, depth_protocol)
    use = scored & np.isfinite(depth) & np.isfinite(sure)
    if int(use.sum()) < TRUST_BINS:
        if int(scored.sum()) >= TRUST_BINS:  # else it is the truth that has too little
            scores.failures["trust"] = (
                f"{prediction.source} holds finite confidence for fewer than {TRUST_BINS} pixels of known depth."
            )
        return
    aligned = found.fit.apply(depth)[use]
    if depth_protocol.clip is not None:
        aligned = np.minimum(aligned, depth_protocol.clip)
    error = np.abs(aligned - truth.depth[use]) / truth.depth[use]
    order = np.argsort(sure[use], kind="stable")
    groups = np.array_split(order, TRUST_BINS)
    scores.trust["error"] = [float(error[group].mean()) for group in groups]
    scores.values["abs_rel_trusted"] = float(error[order[len(order) // 2 :]].mean())
    if prediction.expected_error is not None:
        inverse = 1 / np.maximum(prediction.confidence, 1e-9)
        unit = prediction.expected_error / float(inverse[prediction.confidence > 0].mean())
        expected = unit / np.maximum(sure[use], 1e-9)
        scores.trust["expected"] = [float(expected[group].mean()) for group in groups]


def _score_pose(
    scores: Scores, truth: Truth, prediction: Prediction, protocol: EvaluationProtocol, *, is_metric: bool
) -> None:
    assert truth.cam_to_world is not None
    if prediction.cam_to_world is None:
        raise InputError(f"{prediction.source} holds no cameras; evaluate its depth alone.")
    true = truth.cam_to_world.copy()
    if protocol.lengths == "median depth":
        if truth.depth is None:
            raise InputError(
                "Lengths in units of the median depth need true depth; choose a protocol in metres, such as geo4d."
            )
        true[:, :3, 3] /= truth.median_depth
    scores.values |= asdict(pose_metrics(prediction.cam_to_world, true))
    if is_metric:
        scores.values["ate_se3"] = absolute_trajectory_error(prediction.cam_to_world, true, alignment="se3")
    aligned = align_trajectory(prediction.cam_to_world, true, "sim3")
    scores.per_frame["position"] = np.linalg.norm(aligned[:, :3, 3] - true[:, :3, 3], axis=1).tolist()
    scores.path = {"predicted": aligned[:, :3, 3].tolist(), "true": true[:, :3, 3].tolist()}


def _score_focal(scores: Scores, truth: Truth, prediction: Prediction) -> None:
    assert truth.intrinsics is not None
    scores.values["focal_error"] = focal_error(_intrinsics(prediction, truth.size), truth.intrinsics)


def _score_points(scores: Scores, truth: Truth, prediction: Prediction, depth_protocol: DepthProtocol) -> None:
    """Points in their cameras' frames, one scale a video; lenses and depth together."""
    assert truth.depth is not None and truth.intrinsics is not None
    size, valid = _depth_size(truth), _in_range(truth, depth_protocol)
    step = int(np.ceil(np.sqrt(max(truth.depth.size / MAX_POINTS, 1.0))))
    grid = (slice(None), slice(None, None, step), slice(None, None, step))
    if not valid[grid].any():
        grid = (slice(None),) * 3
    scale = np.array([size[1] / truth.size[1], size[0] / truth.size[0], 1.0])[:, None]
    depth = prediction.depth_at(size)
    predicted = _points(depth, _intrinsics(prediction, size), grid)
    found = point_metrics(
        predicted, _points(truth.depth, scale * truth.intrinsics, grid), valid[grid], alignment=PointAlignment()
    )
    scores.values |= {"point_rel": found.rel, "point_delta": found.delta}
    scores.upside_down["points"] = int(found.free_scale_is_negative.sum())


def _in_range(truth: Truth, depth_protocol: DepthProtocol) -> np.ndarray:
    """Where the true depth is known and scored, (t, h, w) bool."""
    assert truth.depth is not None and truth.valid is not None
    return truth.valid if depth_protocol.max_depth is None else truth.valid & (truth.depth < depth_protocol.max_depth)


def _points(depth: np.ndarray, intrinsics: np.ndarray, grid: tuple[slice, ...]) -> np.ndarray:
    """Points (t, y, x, 3) of some pixels in their cameras' frames."""
    rays = pixel_rays_cam(torch.tensor(intrinsics, dtype=torch.float64), *depth.shape[1:]).numpy()
    return rays[grid] * depth[grid].astype(np.float64)[..., None]


def _intrinsics(prediction: Prediction, size: tuple[int, int]) -> np.ndarray:
    intrinsics = prediction.intrinsics_at(size)
    if intrinsics is None:
        raise InputError(f"{prediction.source} holds no intrinsics, or no depth that tells what they belong to.")
    return intrinsics
