"""ScanNet v2, exported: rooms scanned with a tablet; pictures and depth of two cameras that nearly coincide."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from geo4d.data.files import naming
from geo4d.data.frames import BadData, Problem
from geo4d.evaluation.archives import number_of
from geo4d.evaluation.sets.base import (
    EvaluationSequence,
    EvaluationSet,
    Rule,
    from_files,
    list_images,
    read_matrices,
    read_png_depth,
    relative,
    unless_needed,
)

SCENES = tuple(f"scene{number:04d}_00" for number in range(707, 807))


def _find(root: Path, rule: Rule) -> list[str]:
    folder = "color_90" if rule.gathered else "color"
    return sorted(path.parent.name for path in root.glob(f"scene*/{folder}"))


def _load(root: Path, name: str, rule: Rule, task: str) -> EvaluationSequence:
    folder = root / name
    images = rule.pick(list_images(folder / ("color_90" if rule.gathered else "color"), order=number_of))
    depths = [folder / ("depth_90" if rule.gathered else "depth") / f"{file.stem}.png" for file in images]
    source = folder / ("pose_90.txt" if rule.gathered else "pose")
    left_out: list[Problem] = []
    needed = task == "pose" or rule.drops_lost_poses  # which frames count depends on them
    poses = (
        unless_needed(lambda: _read_poses(source, images), left_out, root, name, needed=needed)
        if needed or source.exists()
        else None
    )
    if poses is not None:
        lost = np.flatnonzero(~np.isfinite(poses).all((1, 2)))
        if len(lost) and rule.drops_lost_poses:
            kept = np.flatnonzero(np.isfinite(poses).all((1, 2)))
            left_out = [Problem(relative(images[i], root), "has a pose that was lost (not finite)") for i in lost]
            images, depths, poses = [images[i] for i in kept], [depths[i] for i in kept], poses[kept]
        elif len(lost):
            left_out = [
                Problem(
                    relative(source, root), f"lost {len(lost)} poses of the rule's frames, so the scene has no cameras"
                )
            ]
            poses = None
    calibration = folder / "intrinsic" / "intrinsic_color.txt"
    there = calibration.exists()
    intrinsics = (
        unless_needed(lambda: _read_intrinsics(calibration), left_out, root, name, needed=False) if there else None
    )
    return from_files(
        root,
        name,
        images,
        depths=depths if task == "depth" or all(file.is_file() for file in depths) else None,
        decode=partial(read_png_depth, scale=rule.depth_scale),
        intrinsics=None if intrinsics is None else np.repeat(intrinsics[None], len(images), axis=0),
        cam_to_world=poses,
        left_out=tuple(left_out),
        depth_has_own_size=True,
    )


def _read_poses(source: Path, images: list[Path]) -> np.ndarray:
    """cam_to_world (t, 4, 4) of a file with 16 numbers a line or a folder of 4x4 matrices.

    Not finite where the tracker was lost.
    """
    if source.is_file():
        poses = read_matrices(source, 1)
        if len(poses) != len(images):
            raise BadData(source, f"holds {len(poses)} poses for the {len(images)} pictures of color_90")
        return poses
    rows = []
    for image in images:
        file = source / f"{number_of(image)}.txt"
        cam_to_world = read_matrices(file, 4)
        if len(cam_to_world) != 1:
            raise BadData(file, f"holds {len(cam_to_world)} poses; expected one of four rows")
        rows.append(cam_to_world[0])
    return np.stack(rows)


def _read_intrinsics(file: Path) -> np.ndarray:
    with naming(file, "a 4x4 matrix of intrinsics"):
        intrinsics = read_matrices(file, 4)[0, :3, :3]
    intrinsics[:2, 2] += 0.5
    return intrinsics


TASKS = {"pose": SCENES, "depth": SCENES}
SCANNET = EvaluationSet(
    name="scannet",
    hint="scene0707_00/{color/0.jpg,depth/0.png,pose/0.txt,intrinsic/intrinsic_color.txt}",
    rules={
        "released": Rule(
            "every third of the first 270 frames; a scene with a lost pose among them has no cameras.",
            TASKS,
            stride=3,
            count=90,
        ),
        "right": Rule(
            "every third of the first 270 frames, without those whose pose was lost.",
            TASKS,
            stride=3,
            count=90,
            drops_lost_poses=True,
        ),
        "gathered": Rule(
            "color_90, depth_90 and pose_90.txt as the usual script has written them.",
            TASKS,
            "order",
            gathered=True,
            depth_scale=1000.0,
        ),
    },
    find=_find,
    load=_load,
)
