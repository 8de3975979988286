"""The held-out procedural set: clips that no training draws, scored through the whole pipeline beside the baselines.

Splits: training uses scene splits 1 to 99, validation during training 800001, the mean-map and mean-path baselines 700001,
the bundled demo clip 910001, and this set HELD_OUT_SEED.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geo4d.errors import ConfigError, Geo4DError
from geo4d.evaluation import baselines
from geo4d.metrics.alignment import DepthAlignment
from geo4d.metrics.depth import depth_metrics
from geo4d.metrics.focal import focal_error
from geo4d.metrics.pose import pose_metrics
from geo4d.metrics.protocol import DepthProtocol
from geo4d.scene import Reconstruction
from geo4d.synthetic import FPS, render_clips, scene_seed

HELD_OUT_SEED = 900001
SOURCE_SIZE = (128, 192)


@dataclass(frozen=True)
class SyntheticSet:
    """Which clips: `num` scenes of split `seed`, `frames` frames each, rendered at `size` (height, width)."""

    seed: int = HELD_OUT_SEED
    num: int = 16
    frames: int = 32
    size: tuple[int, int] = SOURCE_SIZE


@dataclass(frozen=True)
class TrueClip:
    """One clip as a user has it (8-bit frames, timestamps) and its truth."""

    frames: np.ndarray  # (t, h, w, 3) uint8
    timestamps: np.ndarray  # (t,)
    depth: np.ndarray
    valid: np.ndarray
    dynamic: np.ndarray
    intrinsics: np.ndarray
    cam_to_world: np.ndarray


Predict = Callable[[TrueClip], Reconstruction]


def render_true_clip(dataset: SyntheticSet, index: int) -> TrueClip:
    """Renders clip `index` of the set."""
    clip = render_clips([scene_seed(dataset.seed, index)], num_frames=dataset.frames, size=dataset.size).map(lambda x: x[0])
    return TrueClip(
        frames=clip.rgb.mul(255).round().byte().numpy(),
        timestamps=np.arange(dataset.frames) / FPS,
        depth=clip.depth.numpy(),
        valid=clip.valid.numpy(),
        dynamic=clip.dynamic.numpy() if clip.dynamic is not None else np.zeros(clip.valid.shape, bool),
        intrinsics=clip.intrinsics.double().numpy(),
        cam_to_world=clip.cam_to_world.double().numpy(),
    )


def score(clip: TrueClip, depth: np.ndarray, cam_to_world: np.ndarray, focal_px: np.ndarray) -> dict[str, float]:
    """All metrics of one prediction at the source resolution; lengths in units of the clip's median depth."""
    unit = float(np.median(clip.depth[clip.valid]))
    poses, true = cam_to_world.copy(), clip.cam_to_world.copy()
    true[:, :3, 3] /= unit
    intrinsics = np.tile(np.eye(3), (len(depth), 1, 1))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = focal_px[..., 0], focal_px[..., 1]
    d, p = depth_metrics(depth, clip.depth, clip.valid), pose_metrics(poses, true)
    scale_only = depth_metrics(depth, clip.depth, clip.valid, protocol=DepthProtocol(DepthAlignment("median")))
    return {
        "abs_rel": d.abs_rel,
        "delta1": d.delta1,
        "abs_rel_median_scale": scale_only.abs_rel,
        **asdict(p),
        "focal_error": focal_error(intrinsics, clip.intrinsics),
    }


def score_reconstruction(clip: TrueClip, result: Reconstruction) -> dict[str, float]:
    """The same for a whole result, taken at the source resolution."""
    at_source = [result.at_source_resolution(i) for i in range(result.num_frames)]
    focal = np.stack([[k[0, 0], k[1, 1]] for _, k in at_source])
    return score(clip, np.stack([depth for depth, _ in at_source]), result.cam_to_world, focal)


def score_baselines(clip: TrueClip) -> dict[str, dict[str, float]]:
    """Constant depth with a static camera, and the mean map with the mean path; both with the mean focal length."""
    frames, height, width = clip.depth.shape
    focal = np.full((frames, 2), baselines.mean_focal() * max(height, width))
    constant = score(clip, baselines.constant_depth(clip.depth.shape), baselines.static_camera(frames), focal)
    mean = score(clip, baselines.mean_map_depth(frames, height, width), baselines.mean_path(frames), focal)
    return {"constant": constant, "mean": mean}


def statistics(clip: TrueClip) -> dict[str, float]:
    """What kind of clip it is."""
    depth = clip.depth[clip.valid]
    relative = clip.cam_to_world
    path = np.linalg.norm(np.diff(relative[:, :3, 3], axis=0), axis=1).sum() if len(relative) > 1 else 0.0
    return {
        "median_depth": float(np.median(depth)),
        "depth_p5": float(np.quantile(depth, 0.05)),
        "depth_p95": float(np.quantile(depth, 0.95)),
        "sky_share": float(1 - clip.valid.mean()),
        "dynamic_share": float(clip.dynamic.mean()),
        "path_by_median_depth": float(path / np.median(depth)),
        "focal_by_width": float(clip.intrinsics[0, 0, 0] / clip.depth.shape[2]),
    }


def evaluate_synthetic(
    dataset: SyntheticSet, predict: Predict | None, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Scores `predict` (None: baselines alone) on every clip; the result is plain data, ready for JSON.

    A clip on which `predict` fails with one of our errors counts as constant depth and a static camera, and is named.
    """
    if dataset.num < 1 or dataset.frames < 2:
        raise ConfigError(f"The synthetic set needs at least one clip of two frames; got {dataset.num} of {dataset.frames}.")
    clips = []
    for index in range(dataset.num):
        clip = render_true_clip(dataset, index)
        entry: dict[str, Any] = {"index": index, "statistics": statistics(clip), **score_baselines(clip)}
        if predict is not None:
            try:
                entry["model"] = score_reconstruction(clip, predict(clip))
            except Geo4DError as error:
                entry |= {"model": entry["constant"], "failure": str(error)}
        clips.append(entry)
        if progress is not None:
            progress(index + 1, dataset.num)
    return {"set": asdict(dataset), "median": medians(clips), "clips": clips}


def medians(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Median of every number over the clips, and the ratios to the baselines."""
    groups = [group for group in ("statistics", "constant", "mean", "model") if group in clips[0]]
    result: dict[str, Any] = {
        group: {key: float(np.median([clip[group][key] for clip in clips])) for key in clips[0][group]} for group in groups
    }
    if "model" in result:
        model = result["model"]["abs_rel"]
        result["ratio"] = {f"abs_rel_by_{name}": model / result[name]["abs_rel"] for name in ("constant", "mean")}
        for name in ("constant", "mean"):
            each = [clip["model"]["abs_rel"] / clip[name]["abs_rel"] for clip in clips]
            result["ratio"][f"median_ratio_by_{name}"] = float(np.median(each))
        result["failures"] = sum("failure" in clip for clip in clips)
    return result


def write_json(result: dict[str, Any], path: Path) -> None:
    """Writes the result in one move."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    os.replace(temporary, path)


def table(result: dict[str, Any]) -> str:
    """Medians as text, one row a metric."""
    median = result["median"]
    groups = [group for group in ("model", "constant", "mean") if group in median]
    lines = [f"{'metric':24s}" + "".join(f"{group:>12s}" for group in groups)]
    lines += [f"{key:24s}" + "".join(f"{median[g][key]:12.4f}" for g in groups) for key in median[groups[0]]]
    lines += [f"{key:24s}{value:12.4f}" for key, value in median.get("ratio", {}).items()]
    if median.get("failures"):
        lines.append(f"{median['failures']} of {len(result['clips'])} clips failed and count as constant depth")
    return "\n".join(lines)
