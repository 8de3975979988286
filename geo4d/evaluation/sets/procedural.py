"""Our own held-out scenes, rendered when they are asked for; the truth is exact."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from geo4d.errors import ConfigError
from geo4d.evaluation.sets.base import EvaluationSequence, EvaluationSet, OpenSet, Rule, open_sequences
from geo4d.evaluation.synthetic import HELD_OUT_SEED, SyntheticSet, TrueClip, render_true_clip

ClipFrames = tuple[int, int, tuple[int, ...]]  # split, scene, frames


@lru_cache(maxsize=2)
def _clip(seed: int, index: int, frames: int) -> TrueClip:
    return render_true_clip(SyntheticSet(seed=seed, frames=frames), index)


def _load(root: Path, name: str, rule: Rule, task: str, *, seed: int = HELD_OUT_SEED) -> EvaluationSequence:
    rows = rule.pick(range(rule.start + rule.stride * (rule.count or SyntheticSet().frames)))
    clip = _clip(seed, int(name), rows[-1] + 1)
    frames = tuple(f"procedural/{seed}/{name}/{row:04d}" for row in rows)
    clip_frames = (seed, int(name), tuple(rows))
    return EvaluationSequence(
        name=name,
        frames=frames,
        timestamps=clip.timestamps[rows],
        read_image=partial(_read_image, clip_frames),
        depth_frames=frames,
        read_depth=partial(_read_depth, clip_frames),
        read_moving=partial(_read_moving, clip_frames),
        intrinsics=clip.intrinsics[rows],
        cam_to_world=clip.cam_to_world[rows],
        clock="recorded",
    )


def _at(clip_frames: ClipFrames, index: int) -> tuple[TrueClip, int]:
    seed, scene, rows = clip_frames
    return _clip(seed, scene, rows[-1] + 1), rows[index]


def _read_image(clip_frames: ClipFrames, index: int) -> np.ndarray:
    clip, row = _at(clip_frames, index)
    return clip.frames[row]


def _read_depth(clip_frames: ClipFrames, index: int) -> np.ndarray:
    clip, row = _at(clip_frames, index)
    return np.where(clip.valid[row], clip.depth[row], 0)


def _read_moving(clip_frames: ClipFrames, index: int) -> np.ndarray:
    clip, row = _at(clip_frames, index)
    return clip.dynamic[row]


def procedural_set(seed: int = HELD_OUT_SEED, num: int = SyntheticSet().num) -> EvaluationSet:
    """The first scenes of a split; the held-out set if nothing else is asked for."""
    scenes = tuple(f"{index:04d}" for index in range(num))
    return EvaluationSet(
        name="procedural",
        hint="nothing on disk",
        rules={
            "held-out": Rule(
                f"{SyntheticSet().frames} frames of each of {num} scenes that no training draws.",
                {"depth": scenes, "pose": scenes},
                count=SyntheticSet().frames,
            )
        },
        find=lambda root, rule: list(scenes),
        load=partial(_load, seed=seed),
    )


def open_scenes(seed: int, num: int, frames: int | None = None, include: str = "*") -> OpenSet:
    """The first scenes of any split, opened. Raises ConfigError for fewer than one scene or two frames."""
    if num < 1 or (frames is not None and frames < 2):
        raise ConfigError(f"The procedural set needs at least one clip of two frames; got {num} of {frames}.")
    dataset = procedural_set(seed, num)
    name, rule = dataset.rule()
    if frames not in (None, rule.count):
        rule = rule.but(count=frames)
    return open_sequences(dataset, Path.cwd(), None, " ".join([name, rule.changed]).strip(), rule, include)


PROCEDURAL = procedural_set()
