"""Our own held-out scenes, rendered when they are asked for; the truth is exact."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from geo4d.evaluation.sets.base import EvaluationSequence, EvaluationSet, Rule
from geo4d.evaluation.synthetic import HELD_OUT_SEED, SyntheticSet, TrueClip, render_true_clip

SCENES = tuple(f"{index:04d}" for index in range(SyntheticSet().num))


@lru_cache(maxsize=2)
def _clip(seed: int, index: int, frames: int) -> TrueClip:
    return render_true_clip(SyntheticSet(seed=seed, frames=frames), index)


def _find(root: Path, rule: Rule) -> list[str]:
    return list(SCENES)


def _load(root: Path, name: str, rule: Rule, task: str) -> EvaluationSequence:
    rows = rule.pick(range(rule.start + rule.stride * (rule.count or SyntheticSet().frames)))
    clip = _clip(HELD_OUT_SEED, int(name), rows[-1] + 1)
    frames = tuple(f"procedural/{HELD_OUT_SEED}/{name}/{row:04d}" for row in rows)
    return EvaluationSequence(
        name=name,
        frames=frames,
        timestamps=clip.timestamps[rows],
        read_image=partial(_read_image, int(name), tuple(rows)),
        depth_frames=frames,
        read_depth=partial(_read_depth, int(name), tuple(rows)),
        intrinsics=clip.intrinsics[rows],
        cam_to_world=clip.cam_to_world[rows],
        clock="recorded",
    )


def _read_image(scene: int, rows: tuple[int, ...], index: int) -> np.ndarray:
    return _clip(HELD_OUT_SEED, scene, rows[-1] + 1).frames[rows[index]]


def _read_depth(scene: int, rows: tuple[int, ...], index: int) -> np.ndarray:
    clip = _clip(HELD_OUT_SEED, scene, rows[-1] + 1)
    return np.where(clip.valid[rows[index]], clip.depth[rows[index]], 0)


PROCEDURAL = EvaluationSet(
    name="procedural",
    hint="nothing on disk",
    rules={"held-out": Rule("32 frames of each of 16 scenes that no training draws.", {"depth": SCENES, "pose": SCENES}, count=32)},
    find=_find,
    load=_load,
)
