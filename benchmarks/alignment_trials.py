"""Clips on which single numbers of the alignment are tried.

Each part holds what some numbers are for, and says how well it went. None of them is scored elsewhere. What a network
errs in is simulated (`geo4d.synthetic.windows`), but for followed points, which are tried on the windows of a network.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from alignment_cases import LAWS, Case, procedural, score
from alignment_honesty import motion_scores, normalized_errors
from alignment_network import predict
from scipy.stats import spearmanr

from geo4d import Geo4D, Reconstruction
from geo4d._typing import Tensor
from geo4d.alignment import AlignmentConfig, Distance, Priors, align
from geo4d.alignment.align import complete, draft_of, select
from geo4d.alignment.joint.steps import Joint, prepare, solve_joint
from geo4d.evaluation.synthetic import SyntheticSet, render_true_clip, score_reconstruction
from geo4d.evaluation.tum import read_tum_clip
from geo4d.geometry.camera import intrinsics_from_focal, pixel_rays_cam
from geo4d.geometry.rigid import relative_to_first
from geo4d.geometry.rotation import so3_exp
from geo4d.scene import Clip, Tracks, WindowPredictions
from geo4d.synthetic import SceneConfig, render_clips, scene_seed
from geo4d.synthetic.motion import camera_to_scene
from geo4d.synthetic.render import frame_times, make_batch
from geo4d.synthetic.windows import NoiseLaw, simulate_windows
from geo4d.tracks import track_points
from geo4d.windows.plan import plan_windows

DEVELOPMENT_SPLIT = 830_001  # of procedural scenes, apart from those that are scored
SIZE = (48, 72)
UNKNOWN = 0.7  # of log metres, that a result counts for which knows none
ROUGHLY = 0.01  # of them, that no one minds
TENTHS = 10
TRAVELLING = (55, 62, 74, 78)  # development scenes whose cameras travel by .4 of the depth and more

Scores = dict[str, float]
Settings = Callable[[AlignmentConfig], AlignmentConfig]


def still(config: AlignmentConfig) -> AlignmentConfig:
    """Without saying what moves."""
    return replace(config, motion=False)


def zooming(config: AlignmentConfig) -> AlignmentConfig:
    """With a focal length for each frame."""
    return replace(config, focal="per_frame", motion=False)


@dataclass(frozen=True)
class Trial:
    """One clip on which a configuration is scored."""

    name: str
    predictions: WindowPredictions
    score: Callable[[Reconstruction], Scores]
    priors: Priors = field(default_factory=Priors)
    tracks: Tracks | None = None
    settings: Settings = still
    refused: Scores | None = None  # what it counts for where the usual alignment may refuse it
    is_joint: bool = True  # whether all windows are solved together

    def run(self, config: AlignmentConfig, *, as_usual: bool) -> Reconstruction:
        """Of a configuration; `as_usual` says that its joint solve is the usual one, which is done once."""
        config = self.settings(config)
        if not as_usual or not self.is_joint:
            return align(self.predictions, tracks=self.tracks, priors=self.priors, config=config)
        windows = select(self.predictions, config)
        return complete(windows, draft_of(windows, self._joint, self.priors, config), self.tracks, self.priors, config)

    @cached_property
    def _joint(self) -> Joint:
        usual = self.settings(AlignmentConfig())
        return solve_joint(prepare(select(self.predictions, usual), usual, self.priors))


@dataclass(frozen=True)
class Part:
    """Numbers, by patterns of their names, and the clips on which they are tried."""

    numbers: tuple[str, ...]
    trials: Callable[[argparse.Namespace], Iterator[Trial]]


def cameras_and_depth(case: Case) -> Callable[[Reconstruction], Scores]:
    """Scores by a case's truth."""

    def scores(result: Reconstruction) -> Scores:
        found = score(result, case)
        return {
            "ATE": found["ATE"],
            "RPE-r": found["RPE-r deg"],
            "Abs Rel": found["Abs Rel %"],
            "focal": found["focal %"],
        }

    return scores


# ---- simulated windows


def development_clip(index: int, *, frames: int = 24, size: tuple[int, int] = SIZE) -> Clip:
    """A scene of the development split."""
    return render_clips([scene_seed(DEVELOPMENT_SPLIT, index)], num_frames=frames, size=size).map(lambda x: x[0])


def simulated(clip: Clip, law: NoiseLaw, seed: int, *, length: int = 16, stride: int = 4) -> Case:
    """A clip and what a network might see of it."""
    windows = plan_windows(len(clip.depth), length=length, stride=stride)
    arrays = (clip.depth.numpy(), clip.valid.numpy(), clip.intrinsics.numpy(), clip.cam_to_world.double().numpy())
    return Case(
        "", simulate_windows(clip, windows, law, seed), *arrays, None if clip.dynamic is None else clip.dynamic.numpy()
    )


def zoomed(clip: Clip, factors: Tensor) -> Clip:
    """The middle of every picture alone, by factors (t,) of its focal length."""
    height, width = clip.depth.shape[1:]
    k = clip.intrinsics.clone()
    k[:, :2] *= max(SIZE) / max(height, width)
    k[:, [0, 1], [0, 1]] *= factors[:, None]
    rays = pixel_rays_cam(k, *SIZE)
    column = (rays[..., 0] * clip.intrinsics[:, None, None, 0, 0] + width / 2).long().clamp(0, width - 1)
    row = (rays[..., 1] * clip.intrinsics[:, None, None, 1, 1] + height / 2).long().clamp(0, height - 1)
    frame = torch.arange(len(k))[:, None, None]
    return replace(
        clip.map(lambda values: values[frame, row, column] if values.ndim > 2 and len(values[0]) == height else values),
        intrinsics=k,
    )


def bank(pitch_deg: float) -> Clip:
    """Level ground, 1.5 below a camera that looks down by an angle and walks along a bank of 50 degrees."""
    k = intrinsics_from_focal(torch.full((12,), 60.0), *SIZE)
    poses = torch.eye(4).repeat(12, 1, 1)
    poses[:, :3, :3] = so3_exp(torch.tensor([-math.radians(pitch_deg), 0.0, 0.0], dtype=torch.float64)).float()
    poses[:, 2, 3] = 0.1 * torch.arange(12)
    rays = pixel_rays_cam(k, *SIZE) @ poses[:, None, :3, :3].mT
    slope = math.tan(math.radians(50))
    ground, side = 1.5 / rays[..., 1], (1.5 + slope) / (rays[..., 1] + slope * rays[..., 0])
    depth = torch.minimum(torch.where(ground > 0, ground, torch.inf), torch.where(side > 0, side, torch.inf))
    valid = depth < 40
    rgb = torch.zeros(12, *SIZE, 3)
    return Clip(rgb, torch.where(valid, depth, 0.0), valid, ~valid, k, relative_to_first(poses.double()).float())


def with_rows(predictions: WindowPredictions, g: int, others: WindowPredictions) -> WindowPredictions:
    """One window as in other predictions of the same clip."""

    def mixed(name: str) -> Tensor:
        values = getattr(predictions, name).clone()
        values[g] = getattr(others, name)[g]
        return values

    return replace(
        predictions, **{name: mixed(name) for name in ("points", "weight", "disparity", "ray_direction", "ray_moment")}
    )


# ---- parts


def usual_windows(args: argparse.Namespace) -> Iterator[Trial]:
    """Simulated windows under two laws of noise, without tracks."""
    for index in range(args.count):
        for law in ("usual", "hard"):
            case = procedural(7000 + index, LAWS[law], size=SIZE)
            yield Trial(f"scene {index} {law}", case.predictions, cameras_and_depth(case))


def followed(args: argparse.Namespace) -> Iterator[Trial]:
    """A network's windows and followed points, of procedural clips and of recordings."""
    model = Geo4D.from_pretrained(args.model, device="cpu")
    dataset = SyntheticSet(DEVELOPMENT_SPLIT, args.count)
    clips = [(f"clip {index}", render_true_clip(dataset, index)) for index in range(args.count)]
    clips += [
        (folder.name, read_tum_clip(folder, depth_scale=args.depth_scale, max_frames=args.frames))
        for folder in args.recordings
    ]
    for name, clip in clips:
        windows, tracks = predict(model, clip)

        def scores(result: Reconstruction, clip: Any = clip) -> Scores:
            found = score_reconstruction(clip, result)
            names = {"ATE": "ate_scale", "RPE-r": "rpe_rotation_deg", "Abs Rel": "abs_rel", "focal": "focal_error"}
            return {name: found[key] for name, key in names.items()}

        yield Trial(name, windows, scores, tracks=tracks)


def moving(args: argparse.Namespace) -> Iterator[Trial]:
    """What moves, against the truth: one minus the intersection over union."""
    for index in range(3 * args.count):
        case = procedural(7100 + index, LAWS["usual"], size=SIZE)
        if case.moving is None or not case.moving.any():
            continue

        def scores(result: Reconstruction, case: Case = case) -> Scores:
            assert result.dynamic is not None and case.moving is not None
            return {"1 - IoU": 1 - motion_scores(result.dynamic[case.valid], case.moving[case.valid])["iou"]}

        yield Trial(f"scene {index}", case.predictions, scores, settings=lambda config: config)


def lenses(args: argparse.Namespace) -> Iterator[Trial]:
    """Lenses of 10 to 40 degrees; and windows that see the same scene in different widths."""
    for index in range(args.count):
        wide = development_clip(index, size=(144, 216))
        for factor in (2.0, 5.0):
            case = simulated(zoomed(wide, torch.full((24,), factor)), LAWS["soft"], index)
            yield Trial(f"lens {index} x{factor:g}", case.predictions, cameras_and_depth(case))
        case = simulated(zoomed(wide, torch.ones(24)), LAWS["usual"], index)
        assert case.predictions.points is not None
        points = case.predictions.points.clone()
        points[..., :2] *= torch.exp(torch.tensor([-0.4, 0.1, 0.4]))[:, None, None, None, None]
        yield Trial(f"doubt {index}", replace(case.predictions, points=points), cameras_and_depth(case))


def zooms(args: argparse.Namespace) -> Iterator[Trial]:
    """Cameras that zoom, steadily or in a hurry, with a focal length for each frame."""
    steady, hurried = torch.linspace(1, 2, 32), 1 + torch.sigmoid(torch.linspace(-9, 9, 32))
    for index in range(args.count):
        wide = development_clip(10 + index, frames=32, size=(96, 144))
        for name, factors in (("steady", steady), ("hurried", hurried)):
            case = simulated(zoomed(wide, factors), LAWS["usual"], index, length=8, stride=2)
            yield Trial(f"{name} {index}", case.predictions, cameras_and_depth(case), settings=zooming)


def slight_zooms(args: argparse.Namespace) -> Iterator[Trial]:
    """Is it told that the camera zooms? 1 where that is right, 2 where it is wrong."""
    for index in range(args.count):
        wide = development_clip(10 + index, frames=32, size=(96, 144))
        for most in (1.0, 1.04, 1.08, 1.5):
            case = simulated(zoomed(wide, torch.linspace(1, most, 32)), LAWS["soft"], index, length=8, stride=2)

            def scores(result: Reconstruction, zooms: bool = most > 1) -> Scores:  # noqa: FBT001
                told = any("focal=per_frame" in warning for warning in result.diagnostics["warnings"])
                return {"told": 1.0 + (told != zooms)}

            yield Trial(f"zoom {index} to {most}", case.predictions, scores)


def links(args: argparse.Namespace) -> Iterator[Trial]:
    """Windows that share few pixels of one frame; and one window among others that is bad."""
    for index in range(args.count):
        clip = development_clip(20 + index, frames=23)
        case = simulated(clip, LAWS["usual"], index, length=8, stride=5)
        for kept in (5, 12):  # columns of pixels that have a weight in frames of two windows
            weight = case.predictions.weight
            assert weight is not None
            weight = weight.clone()
            for g, window in enumerate(case.predictions.windows.tolist()):
                for k, frame in enumerate(window):
                    if (case.predictions.windows == frame).sum() > 1:
                        weight[g, k, :, kept:] = 0
                        weight[g, k, : SIZE[0] // 2] = 0
            yield Trial(f"few pixels {index} {kept}", replace(case.predictions, weight=weight), cameras_and_depth(case))
        case = simulated(clip, LAWS["usual"], index, length=8, stride=2)
        bad = simulated(clip, NoiseLaw().scaled(20), index, length=8, stride=2).predictions
        generator = torch.Generator().manual_seed(index)
        fields = ("points", "disparity", "ray_direction", "ray_moment")
        noise = replace(bad, **{name: torch.randn(getattr(bad, name).shape, generator=generator) for name in fields})
        for name, other in (("bad window", bad), ("window of noise", noise)):
            yield Trial(f"{name} {index}", with_rows(case.predictions, 3, other), cameras_and_depth(case))


def given(args: argparse.Namespace) -> Iterator[Trial]:
    """Poses and depth that are known about as well as the windows know them, intrinsics a little off."""
    for index in range(args.count):
        clip = development_clip(30 + index)
        case = simulated(clip, LAWS["hard"], index)
        generator = torch.Generator().manual_seed(index)
        noise = torch.randn(24, 6, generator=generator, dtype=torch.float64)
        unit = 0.02 * float(clip.depth[clip.valid].median())
        poses = clip.cam_to_world.double().clone()
        poses[:, :3, :3] = poses[:, :3, :3] @ so3_exp(math.radians(0.5) * noise[:, :3])
        poses[:, :3, 3] += unit * noise[:, 3:]
        priors = Priors(cam_to_world=poses.numpy(), pose_turn_sigma_deg=0.5, pose_centre_sigma=unit)
        yield Trial(f"poses {index}", case.predictions, cameras_and_depth(case), priors)
        spoilt = torch.where(
            clip.valid, clip.depth * torch.exp(0.05 * torch.randn(clip.depth.shape, generator=generator)), 0.0
        )
        spoilt[:, :, ::2] = 0
        k = clip.intrinsics.double().clone()
        k[:, [0, 1], [0, 1]] *= 1.03
        priors = Priors(depth=spoilt.numpy(), depth_sigma=0.05, intrinsics=k.numpy(), focal_sigma=0.03)
        yield Trial(f"depth {index}", case.predictions, cameras_and_depth(case), priors)


def odd(args: argparse.Namespace) -> Iterator[Trial]:
    """Two windows that are odd, and one between them that is not; points or disparity far better than the other."""
    for index in range(args.count):
        clip = development_clip(40 + index, frames=32)
        soft, usual, hard = (
            simulated(clip, NoiseLaw().scaled(factor), index, length=12).predictions for factor in (0.3, 1.0, 5.0)
        )
        case = simulated(clip, LAWS["usual"], index, length=12)
        both = with_rows(with_rows(usual, 2, hard), 4, hard)
        yield Trial(f"odd windows {index}", both, cameras_and_depth(case))
        yield Trial(f"better points {index}", replace(soft, disparity=hard.disparity), cameras_and_depth(case))
        yield Trial(f"better disparity {index}", replace(hard, disparity=soft.disparity), cameras_and_depth(case))


def few_points(args: argparse.Namespace) -> Iterator[Trial]:
    """Followed points of a camera that travels, of which some ten a frame are triangulated, or half as many."""
    clip = development_clip(50, size=(96, 144))
    case = simulated(clip, LAWS["hard"], 50)
    tracks = track_points((clip.rgb.clamp(0, 1) * 255).round().byte().numpy())
    for share in (1.0, 0.5):
        rows = (np.random.default_rng(0).random(tracks.num_tracks) < share)[tracks.track]
        number = np.unique(tracks.track[rows], return_inverse=True)[1].astype(np.int32)
        few = replace(tracks, track=number, frame=tracks.frame[rows], position=tracks.position[rows])
        yield Trial(f"{share:g} of the points", case.predictions, cameras_and_depth(case), tracks=few)


def confidence(args: argparse.Namespace) -> Iterator[Trial]:
    """Expected against true errors, in tenths of the pixels by trust.

    Of windows with precision and disparity, and of one without.
    """
    for index in range(args.count):
        for factor in (0.5, 1.5):
            case = simulated(development_clip(60 + index), NoiseLaw().scaled(factor), index)
            yield Trial(f"errors {index} x{factor:g}", case.predictions, honest(case))
        case = simulated(development_clip(60 + index, frames=8), LAWS["usual"], index, length=8)
        alone = replace(case.predictions, weight=None, disparity=None)
        yield Trial(f"one window {index}", alone, honest(case))


def honest(case: Case) -> Callable[[Reconstruction], Scores]:
    """How far expected errors are from true ones, log, mean over tenths; and how badly they rank them."""

    def scores(result: Reconstruction) -> Scores:
        known = case.valid & result.valid
        ratio = np.log(result.depth[known] / case.depth[known])
        true = np.abs(ratio - np.median(ratio))
        expected = result.diagnostics["typical_error"] / np.maximum(result.confidence[known], 1e-9)
        parts = np.array_split(expected.argsort(kind="stable"), TENTHS)
        off = [abs(math.log(expected[part].mean() / true[part].mean())) for part in parts]
        return {"tenths": float(np.mean(off)), "1 - rank": 1 - float(np.nan_to_num(spearmanr(expected, true)[0]))}

    return scores


def covariances(args: argparse.Namespace) -> Iterator[Trial]:
    """Errors of cameras by their stated covariance: how far their median is from what it should be, log."""
    for index in range(args.count):
        case = simulated(development_clip(60 + index), LAWS["usual"], index)
        yield Trial(f"scene {index}", case.predictions, honest_cameras(case))


def honest_cameras(case: Case) -> Callable[[Reconstruction], Scores]:
    """How far squared errors by their covariance are from what they should be, log."""

    def scores(result: Reconstruction) -> Scores:
        known = case.valid & result.valid
        scale = float(np.median(case.depth[known] / result.depth[known]))
        centre, rotation = normalized_errors(result, case, scale)
        return {"centres": abs(math.log(centre / 0.79)), "rotations": abs(math.log(rotation / 0.79))}

    return scores


def followed_covariances(args: argparse.Namespace) -> Iterator[Trial]:
    """The same of cameras by followed points; those of the last clip are too many to be worked out together."""
    for index in range(args.count + 1):
        frames = 32 if index < args.count else 300
        clip = development_clip(TRAVELLING[index % len(TRAVELLING)], frames=frames, size=(96, 144))
        tracks = track_points((clip.rgb.clamp(0, 1) * 255).round().byte().numpy())
        case = simulated(clip, LAWS["hard"], index)
        yield Trial(f"scene {index}, {frames} frames", case.predictions, honest_cameras(case), tracks=tracks)


def disparity_alone(args: argparse.Namespace) -> Iterator[Trial]:
    """Without points: rays' cameras, given ones, and given ones that hardly move, by which no scale can be said."""
    for index in range(args.count):
        for law in ("soft", "usual"):
            clip = development_clip(100 + index, frames=32)
            case = simulated(clip, LAWS[law], index)
            rays = replace(case.predictions, points=None, weight=None)
            yield Trial(f"rays {index} {law}", rays, cameras_and_depth(case), is_joint=False)
            alone = replace(rays, ray_direction=None, ray_moment=None)
            given = Priors(cam_to_world=case.cam_to_world, intrinsics=case.intrinsics)
            yield Trial(f"given {index} {law}", alone, cameras_and_depth(case), given, is_joint=False)
            near = case.cam_to_world.copy()
            near[:, :3, 3] *= 0.02
            known = Priors(cam_to_world=near, intrinsics=case.intrinsics)
            yield Trial(f"hardly moves {index} {law}", alone, says_unknown, known, is_joint=False)


def says_unknown(result: Reconstruction) -> Scores:
    """1 where it is said that the scale is unknown, else 2."""
    said = any("unknown scale" in warning for warning in result.diagnostics["warnings"])
    return {"ATE": 1.0, "RPE-r": 1.0, "Abs Rel": 2.0 - said, "focal": 1.0}


def by_first_order(args: argparse.Namespace) -> Iterator[Trial]:
    """The usual windows, by the paper's own optimisation."""
    for trial in usual_windows(args):
        yield replace(trial, settings=lambda config: replace(config, solver="paper", motion=False), is_joint=False)


def suspects(args: argparse.Namespace) -> Iterator[Trial]:
    """Windows that are bad, more or less: 1, and one more for each that is not named or named without a reason."""
    for index in range(args.count):
        clip = development_clip(70 + index, frames=40)
        usual = simulated(clip, LAWS["usual"], index, length=8, stride=2).predictions
        for factor, bad in ((2.0, (4,)), (3.0, (4,)), (8.0, tuple(range(0, 17, 3))), (1.0, ())):
            worse = simulated(clip, NoiseLaw().scaled(factor), index, length=8, stride=2).predictions
            predictions = usual
            for g in bad:
                predictions = with_rows(predictions, g, worse)

            def scores(result: Reconstruction, bad: tuple[int, ...] = bad) -> Scores:
                named = {suspect["window"] for suspect in result.diagnostics["suspect_windows"]}
                return {"wrong": 1.0 + len(named ^ set(bad))}

            yield Trial(f"{len(bad)} windows {index} x{factor:g}", predictions, scores)


def metres(args: argparse.Namespace) -> Iterator[Trial]:
    """How far metres are off, log.

    By the camera's height in many scenes, by a distance, by cameras that hardly move.
    """
    heights = []
    for index in range(4 * args.count):
        clip = development_clip(80 + index, frames=12)
        path = camera_to_scene(
            make_batch([scene_seed(DEVELOPMENT_SPLIT, 80 + index)], SceneConfig()).cameras, frame_times(0, 1, 1, 12)
        )
        shown = (12, 5, 3)[index % 3]  # frames whose lower half is seen
        clip.valid[shown:, SIZE[0] // 2 :] = False
        heights.append(
            (f"scene {index}, {shown} frames", clip, float((-path[0, :, 1, 3]).median()))
        )  # the ground is y = 0, y points down
    heights += [(f"bank, {pitch} deg", bank(pitch), 1.5) for pitch in (10, 25, 45)]
    for index, (name, clip, height) in enumerate(heights):
        case = simulated(clip, LAWS["usual"], index, length=12)
        yield Trial(name, case.predictions, metric(case), Priors(camera_height=height), refused={"metres": UNKNOWN})
    for index in range(args.count):
        clip = development_clip(80 + index, frames=12)
        case = simulated(clip, LAWS["usual"], index, length=12)
        yield Trial(f"distance {index}", case.predictions, metric(case), Priors(distances=(known_distance(case),)))
        for share in (0.003, 0.008):
            yield slow(f"slow {index} {share}", clip, share, index)


def slow(name: str, clip: Clip, share: float, seed: int) -> Trial:
    """One picture for all frames, as if the camera hardly moved: by a share of the depth, which is known to a fifth."""
    reach = share * float(clip.depth[clip.valid].median())
    poses = torch.eye(4, dtype=torch.float64).repeat(len(clip.depth), 1, 1)
    poses[:, 0, 3] = torch.linspace(0, reach, len(poses), dtype=torch.float64)
    still_clip = replace(clip.map(lambda values: values[:1].expand_as(values)), cam_to_world=poses)
    case = simulated(still_clip, LAWS["soft"], seed, length=12)
    known = poses.clone()
    known[:, :3, 3] += (
        0.2 * reach * torch.randn(len(poses), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )
    priors = Priors(
        cam_to_world=known.numpy(), poses_are_metric=True, pose_turn_sigma_deg=0.1, pose_centre_sigma=0.2 * reach
    )
    return Trial(name, case.predictions, metric(case), priors)


def known_distance(case: Case) -> Distance:
    """Between two pixels of the first frame."""
    ends, points = [], []
    for u in (0.25, 0.75):
        column = int(u * SIZE[1])
        row = int(np.flatnonzero(case.valid[0, :, column])[-1])
        k, z = case.intrinsics[0], case.depth[0, row, column]
        points.append(z * np.array([(column + 0.5 - k[0, 2]) / k[0, 0], (row + 0.5 - k[1, 2]) / k[1, 1], 1.0]))
        ends.append((column + 0.5, row + 0.5))
    return Distance(0, ends[0], 0, ends[1], float(np.linalg.norm(points[0] - points[1])))


def metric(case: Case) -> Callable[[Reconstruction], Scores]:
    """Of depth as it is: scenes are in metres."""

    def scores(result: Reconstruction) -> Scores:
        known = case.valid & result.valid
        off = abs(float(np.median(np.log(result.depth[known] / case.depth[known]))))
        return {"metres": off + ROUGHLY if result.is_metric else UNKNOWN}

    return scores


PARTS = {  # the first that holds a number is the one on which it is tried
    "lenses": Part(("joint.focal_prior*", "joint.min_field_of_view_deg"), lenses),
    "zooms": Part(("joint.zoom_*",), zooms),
    "slight zooms": Part(("joint.drift",), slight_zooms),
    "links": Part(("joint.min_shared_pixels",), links),
    "given": Part(("joint.prior_pixels", "depth.given_weight"), given),
    "odd": Part(("depth.most_trust", "depth.odd_window", "depth.neighbours"), odd),
    "few points": Part(("depth.correction.least_points",), few_points),
    "confidence": Part(("depth.confidence.*",), confidence),
    "metres": Part(("finish.metric.*",), metres),
    "suspects": Part(("finish.suspect", "finish.least_excess", "finish.most_suspects"), suspects),
    "covariances": Part(("finish.correlated_frames",), covariances),
    "followed covariances": Part(("bundle.all_covariances", "bundle.independent_frames"), followed_covariances),
    "disparity alone": Part(("fallback.*",), disparity_alone),
    "first order": Part(("paper.*",), by_first_order),
    "moving": Part(("finish.moving.*",), moving),
    "tracks": Part(("bundle.*", "depth.correction.*"), followed),
    "windows": Part(("joint.*", "depth.*"), usual_windows),
}
