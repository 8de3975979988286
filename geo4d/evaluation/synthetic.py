"""The held-out procedural set: clips that no training draws, scored through the whole pipeline beside the baselines.

Splits: training uses scene splits 1 to 99, validation during training 800001, the mean-map and mean-path baselines
700001, the bundled demo clip 910001, the procedural benchmarks 920001 (v1) and 920002 (v2), and this set HELD_OUT_SEED.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geo4d.errors import InputError
from geo4d.evaluation.predictions import Prediction, from_reconstruction
from geo4d.evaluation.protocols import PROTOCOLS
from geo4d.evaluation.scores import Truth, constant_prediction, mean_prediction, score_prediction
from geo4d.scene import Reconstruction
from geo4d.synthetic import FPS, WORLDS, Detail, render_clips, scene_seed

HELD_OUT_SEED = 900001
SOURCE_SIZE = (128, 192)
SCORES = (  # of the summary, in its order
    *(
        "abs_rel",
        "delta1",
        "abs_rel_median_scale",
        "ate_sim3",
        "ate_scale",
        "ate_static",
        "rpe_translation",
        "rpe_rotation_deg",
    ),
    *("rotation_deg", "direction_deg", "auc_5", "auc_30", "focal_error"),
)


@dataclass(frozen=True)
class SyntheticSet:
    """Which clips: `num` scenes of split `seed`, `frames` frames each, rendered at `size` (height, width).

    The scenes are plain ones unless `world` says otherwise.
    """

    seed: int = HELD_OUT_SEED
    num: int = 16
    frames: int = 32
    size: tuple[int, int] = SOURCE_SIZE
    world: Detail = "plain"


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


def render_true_clip(dataset: SyntheticSet, index: int) -> TrueClip:
    """Renders clip `index` of the set."""
    seeds, config = [scene_seed(dataset.seed, index)], WORLDS[dataset.world]
    clip = render_clips(seeds, num_frames=dataset.frames, size=dataset.size, config=config).map(lambda x: x[0])
    return TrueClip(
        frames=clip.rgb.mul(255).round().byte().numpy(),
        timestamps=np.arange(dataset.frames) / FPS,
        depth=clip.depth.numpy(),
        valid=clip.valid.numpy(),
        dynamic=clip.dynamic.numpy() if clip.dynamic is not None else np.zeros(clip.valid.shape, bool),
        intrinsics=clip.intrinsics.double().numpy(),
        cam_to_world=clip.cam_to_world.double().numpy(),
    )


def truth_of(clip: TrueClip) -> Truth:
    """The clip's truth, for scoring."""
    return Truth(
        size=(int(clip.depth.shape[1]), int(clip.depth.shape[2])),
        frames=len(clip.depth),
        groups=("depth", "pose", "focal"),
        depth=clip.depth,
        valid=clip.valid,
        intrinsics=clip.intrinsics,
        cam_to_world=clip.cam_to_world,
        moving=clip.dynamic,
    )


def score(clip: TrueClip, prediction: Prediction) -> dict[str, float]:
    """The numbers of one prediction at the source resolution; lengths in units of the clip's median depth.

    Raises InputError if it cannot be scored.
    """
    truth = truth_of(clip)
    scores = score_prediction(truth, prediction, PROTOCOLS["relative"], "procedural")
    failed = [
        reason for group, reason in scores.failures.items() if group in truth.groups
    ]  # a number beside them may be missing
    if failed:
        raise InputError(failed[0])
    return chosen(scores.values)


def chosen(values: Mapping[str, float | None]) -> dict[str, float]:
    """The numbers of SCORES."""
    return {name: value for name in SCORES if (value := values.get(name)) is not None}


def score_reconstruction(clip: TrueClip, result: Reconstruction) -> dict[str, float]:
    """The same for a whole result."""
    return score(clip, from_reconstruction(Path("result"), result))


def error_ratio(clip: TrueClip, result: Reconstruction) -> float:
    """The mean error of log depth, up to one scale, by what the result itself expects."""
    depth = from_reconstruction(Path("result"), result).depth_at((int(clip.depth.shape[1]), int(clip.depth.shape[2])))
    use = clip.valid & (depth > 0)
    off = np.log(depth[use] / clip.depth[use])
    return float(np.abs(off - np.median(off)).mean() / result.diagnostics["expected_error"])


def score_baselines(clip: TrueClip) -> dict[str, dict[str, float]]:
    """Constant depth with a static camera, and the mean map with the mean path; both with the mean focal length."""
    truth = truth_of(clip)
    return {"constant": score(clip, constant_prediction(truth)), "mean": score(clip, mean_prediction(truth))}


def medians(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Median of every number over the clips that have it.

    Also the ratios to the baselines where both have an Abs Rel.
    """
    groups = [group for group in ("statistics", "constant", "mean", "model") if any(group in clip for clip in clips)]
    result: dict[str, Any] = {}
    for group in groups:
        numbers = [clip[group] for clip in clips if group in clip]
        names = _in_order({name for each in numbers for name in each}, numbers)
        result[group] = {name: float(np.median([each[name] for each in numbers if name in each])) for name in names}
    if "model" in result:
        whole = {name: ratio for name in ("constant", "mean") if (ratio := _ratio(result, name)) is not None}
        result["ratio"] = {f"abs_rel_by_{name}": ratio for name, ratio in whole.items()}
        for name in whole:
            each = [ratio for clip in clips if (ratio := _ratio(clip, name)) is not None]
            if each:
                result["ratio"][f"median_ratio_by_{name}"] = float(np.median(each))
        result["failures"] = sum("failure" in clip for clip in clips)
    return result


def _in_order(names: set[str], rows: list[dict[str, float]]) -> list[str]:
    """As in SCORES, and others as they come."""
    return [
        *(name for name in SCORES if name in names),
        *dict.fromkeys(name for row in rows for name in row if name not in SCORES),
    ]


def _ratio(clip: dict[str, Any], guess: str) -> float | None:
    """Abs Rel of the model by that of a baseline; None where either has none, or the baseline no error."""
    model, other = (clip.get(name, {}).get("abs_rel") for name in ("model", guess))
    return model / other if model is not None and other else None


def table(result: dict[str, Any]) -> str:
    """Medians as text, one row a metric."""
    median = result["median"]
    groups = [group for group in ("model", "constant", "mean") if group in median]
    lines = [f"{'metric':24s}" + "".join(f"{group:>12s}" for group in groups)]
    for name in _in_order({name for group in groups for name in median[group]}, [median[group] for group in groups]):
        values = [f"{median[group][name]:12.4f}" if name in median[group] else f"{'-':>12s}" for group in groups]
        lines.append(f"{name:24s}" + "".join(values))
    lines += [f"{key:24s}{value:12.4f}" for key, value in median.get("ratio", {}).items()]
    if median.get("failures"):
        lines.append(f"{median['failures']} of {len(result['clips'])} clips failed and count as constant depth")
    return "\n".join(lines)
