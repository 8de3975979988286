"""7-Scenes: rooms filmed with a depth camera whose two sensors are some centimetres apart."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from geo4d.data.frames import BadData, Problem
from geo4d.evaluation.sets.base import (
    EvaluationSequence,
    EvaluationSet,
    Rule,
    from_files,
    read_matrices,
    read_png_depth,
    scaled_intrinsics,
    unless_needed,
)

COLOUR = (525.0, 525.0, 320.0, 240.0)  # at 640 x 480
UNKNOWN, FAR_M = 65535, 10.0
REGISTERED, RECORDED = "depth.proj.png", "depth.png"
TEST = tuple(
    f"{scene}/seq-{number:02d}"
    for scene, numbers in {
        "chess": (3, 5),
        "fire": (3, 4),
        "heads": (1,),
        "office": (2, 6, 7, 9),
        "pumpkin": (1, 7),
        "redkitchen": (3, 4, 6, 12, 14),
        "stairs": (1, 4),
    }.items()
    for number in numbers
)


def _find(root: Path, rule: Rule) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.glob("*/seq-*") if path.is_dir())


def _load(root: Path, name: str, rule: Rule, task: str) -> EvaluationSequence:
    folder = root / name
    images = rule.pick(sorted(folder.glob("frame-*.color.png")))
    if not images:
        raise BadData(folder, f"holds no frame-*.color.png from number {rule.start} on")
    frames = [file.name.removesuffix(".color.png") for file in images]
    depths = [folder / f"{frame}.{rule.depth_ending}" for frame in frames]
    if task == "depth" and rule.depth_ending == REGISTERED and not depths[0].is_file():
        raise BadData(depths[0], "is missing: depth must be registered to colour first; or choose the rule raw")
    cameras = [folder / f"{frame}.pose.txt" for frame in frames]
    left_out: list[Problem] = []
    there = task == "pose" or any(file.is_file() for file in cameras)
    poses = unless_needed(lambda: _read_poses(cameras), left_out, root, name, needed=task == "pose") if there else None
    return from_files(
        root,
        name,
        images,
        depths=depths if task == "depth" or all(file.is_file() for file in depths) else None,
        decode=partial(_read_depth, scale=rule.depth_scale),
        intrinsics=np.repeat(scaled_intrinsics(*COLOUR, images[0])[None], len(images), axis=0),
        cam_to_world=poses,
        left_out=tuple(left_out),
    )


def _read_poses(files: list[Path]) -> np.ndarray:
    rows = []
    for file in files:
        cam_to_world = read_matrices(file, 4)
        if len(cam_to_world) != 1 or not np.isfinite(cam_to_world).all():
            raise BadData(file, "holds no finite 4x4 pose")
        rows.append(cam_to_world[0])
    return np.stack(rows)


def _read_depth(file: Path, *, scale: float) -> np.ndarray:
    """Metres; raw files have 65535 where nothing is known, registered ones 0."""
    return read_png_depth(file, scale=scale, unknown=UNKNOWN, at_most=FAR_M)


TASKS = {"depth": TEST, "pose": TEST}
SEVEN_SCENES = EvaluationSet(
    name="7scenes",
    hint="<scene>/seq-01/frame-000000.{color.png,depth.png,pose.txt}",
    rules={
        "usual": Rule(
            "every 200th frame of the test sequences, depth registered to colour (depth.proj.png), poses of the depth "
            "camera.",
            TASKS,
            stride=200,
            depth_ending=REGISTERED,
        ),
        "raw": Rule(
            "every 200th frame of the test sequences, depth as recorded, which is off by the sensors' distance of "
            "centimetres.",
            TASKS,
            stride=200,
            depth_ending=RECORDED,
        ),
    },
    find=_find,
    load=_load,
)
