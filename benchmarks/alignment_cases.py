"""Window predictions with known truth, for measuring the alignment: where they come from and how a result is scored."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geo4d import Reconstruction
from geo4d.metrics.alignment import DepthAlignment
from geo4d.metrics.depth import depth_metrics
from geo4d.metrics.focal import focal_error
from geo4d.metrics.pose import pose_metrics
from geo4d.metrics.protocol import DepthProtocol
from geo4d.scene import WindowPredictions
from geo4d.synthetic import render_clips, scene_seed
from geo4d.synthetic.windows import NoiseLaw, simulate_windows
from geo4d.windows.plan import plan_windows

SPLIT = 820_001  # of the procedural scenes; nothing was fitted to them
LAWS = {
    "clean": NoiseLaw().scaled(0),
    "soft": NoiseLaw().scaled(0.5),
    "usual": NoiseLaw(),
    "hard": NoiseLaw().scaled(2.5),
}
FIRST_MOVING = 14  # of a made case's obj_id
FIELDS = ("points", "weight", "disparity", "ray_direction", "ray_moment")


@dataclass(frozen=True)
class Case:
    """Predictions and what they should lead to; `nuisances` (of made cases) undo each window's scale and shift."""

    name: str
    predictions: WindowPredictions
    depth: np.ndarray  # (t, h, w)
    valid: np.ndarray  # (t, h, w)
    intrinsics: np.ndarray  # (t, 3, 3)
    cam_to_world: np.ndarray  # (t, 4, 4)
    moving: np.ndarray | None = None  # (t, h, w)
    nuisances: dict[str, np.ndarray] = field(default_factory=dict)


def procedural(
    index: int, law: NoiseLaw, *, frames: int = 24, size: tuple[int, int] = (64, 96), name: str = ""
) -> Case:
    """One of the project's own scenes under a law of noise."""
    clip = render_clips([scene_seed(SPLIT, index)], num_frames=frames, size=size).map(lambda x: x[0])
    predictions = simulate_windows(clip, plan_windows(frames, length=16), law, index)
    arrays = (clip.depth.numpy(), clip.valid.numpy(), clip.intrinsics.numpy(), clip.cam_to_world.double().numpy())
    return Case(name or f"scene {index}", predictions, *arrays, None if clip.dynamic is None else clip.dynamic.numpy())


def from_arrays(case: dict[str, np.ndarray], name: str) -> Case:
    """A case in the layout of `WindowPredictions` on disk.

    Beside it stand gt_depth, gt_intrinsics and gt_cam_to_world (and obj_id, true_*).
    """
    fields = {key: torch.from_numpy(np.asarray(case[key])) for key in FIELDS if key in case}
    predictions = WindowPredictions(
        windows=torch.from_numpy(np.asarray(case["windows"])).long(), images=case.get("img"), **fields
    )
    depth = np.asarray(case["gt_depth"])
    intrinsics = np.broadcast_to(case["gt_intrinsics"], (len(depth), 3, 3))
    moving = None if "obj_id" not in case else np.asarray(case["obj_id"]) >= FIRST_MOVING
    nuisances = {key: np.asarray(value) for key, value in case.items() if key.startswith("true_")}
    return Case(name, predictions, depth, depth > 0, intrinsics, np.asarray(case["gt_cam_to_world"]), moving, nuisances)


def from_file(path: Path) -> Case:
    """A case in one npz."""
    with np.load(path, allow_pickle=False) as archive:
        return from_arrays(dict(archive), path.stem)


def maker(path: Path) -> Any:
    """`make_case` of a Python file that makes cases; it is run, so it must be one that you trust."""
    spec = importlib.util.spec_from_file_location("case_maker", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_case


def varied(make_case: Any, count: int, seed: int) -> Iterator[Case]:
    """Made cases of many kinds.

    Two levels of noise and two laws of disparity in turn, lengths, sizes and fields of view at random.
    """
    generator = np.random.default_rng(seed)
    for i in range(count):
        settings: dict[str, Any] = {
            "seed": seed + i,
            "noise": ("realistic", "hard")[i % 2],
            "dmode": ("rel", "abs")[(i // 2) % 2],
            "T": int(generator.integers(20, 51)),
            "fov": float(generator.uniform(40, 90)),
            "world": "varied",
        }
        if i % 5 == 4:
            settings |= {"H": 128, "W": 256, "T": int(generator.integers(20, 28))}
        yield from_arrays(make_case(**settings), settings["noise"])


def score(result: Reconstruction, case: Case) -> dict[str, float]:
    """Lengths in units of the case.

    Depth after one exact L1 scale and shift, and after one median scale (nan without depth).
    """
    pose = pose_metrics(result.cam_to_world, case.cam_to_world)
    fitted = scaled = float("nan")
    if np.isfinite(result.depth).any():
        fitted = depth_metrics(result.depth, case.depth, case.valid).abs_rel
        scaled = depth_metrics(
            result.depth, case.depth, case.valid, protocol=DepthProtocol(DepthAlignment("median"))
        ).abs_rel
    (height, width), (h, w) = case.depth.shape[1:], result.depth.shape[1:]
    # rays alone have a grid of their own
    intrinsics = np.array([width / w, height / h, 1.0])[:, None] * result.intrinsics
    return {
        "ATE": pose.ate_sim3,
        "RPE-t": pose.rpe_translation,
        "RPE-r deg": pose.rpe_rotation_deg,
        "Abs Rel %": 100 * fitted,
        "scale only %": 100 * scaled,
        "focal %": 100 * math.expm1(focal_error(intrinsics, case.intrinsics)),
    }


def oracle_abs_rel(case: Case) -> float:
    """In %: every value that any window has of a pixel, brought to the world with the true nuisances and cameras.

    Their median.
    """
    n, p = case.nuisances, case.predictions
    assert p.points is not None and p.weight is not None and p.disparity is not None
    pool: list[list[np.ndarray]] = [[] for _ in case.depth]
    for g, window in enumerate(p.windows.tolist()):
        cameras = np.linalg.inv(case.cam_to_world[window[0]]) @ case.cam_to_world[window]
        shift = np.array([0, 0, n["true_pt_zshift"][g]])
        for k, frame in enumerate(window):
            seen = p.points[g, k].numpy() * n["true_pt_scale"][g] + shift
            z = (seen - cameras[k, :3, 3]) @ cameras[k, :3, 2]
            pool[frame].append(np.where(p.weight[g, k].numpy() > 0, z, np.nan).astype(np.float32))
            inverse = p.disparity[g, k].numpy() * n["true_disp_scale"][g] + n["true_disp_shift"][g]
            pool[frame].append(np.where(inverse > 1e-4, 1 / np.maximum(inverse, 1e-4), np.nan).astype(np.float32))
    depth = np.stack([np.nanmedian(np.stack(values), axis=0) for values in pool])
    return 100 * depth_metrics(depth, case.depth, case.valid).abs_rel


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers; what is smaller than 1e-12 counts as that."""
    return float(np.exp(np.log(np.maximum(list(values), 1e-12)).mean()))
