"""MPI Sintel: rendered film with exact depth and cameras; pictures of the final pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geo4d.data.base import KILOMETRE
from geo4d.data.files import naming
from geo4d.data.frames import BadData, Problem
from geo4d.evaluation.sets.base import EvaluationSequence, EvaluationSet, Rule, from_files, list_images, unless_needed

TAG = 202021.25  # first number of every .dpt and .cam file
POSE_SEQUENCES = (  # in the others the camera hardly moves
    *("alley_2", "ambush_4", "ambush_5", "ambush_6", "cave_2", "cave_4", "market_2"),
    *("market_5", "market_6", "shaman_3", "sleeping_1", "sleeping_2", "temple_2", "temple_3"),
)


def _find(root: Path, rule: Rule) -> list[str]:
    folder = root / "training" / "final"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _load(root: Path, name: str, rule: Rule, task: str) -> EvaluationSequence:
    images = rule.pick(list_images(root / "training" / "final" / name))
    depths = [root / "training" / "depth" / name / f"{file.stem}.dpt" for file in images]
    folder = root / "training" / "camdata_left" / name
    left_out: list[Problem] = []
    there = task == "pose" or folder.is_dir()
    cameras = (
        unless_needed(lambda: _read_cameras(folder, images), left_out, root, name, needed=task == "pose")
        if there
        else None
    )
    return from_files(
        root,
        name,
        images,
        depths=depths if task == "depth" or all(file.is_file() for file in depths) else None,
        decode=read_dpt,
        intrinsics=None if cameras is None else cameras[0],
        cam_to_world=None if cameras is None else cameras[1],
        left_out=tuple(left_out),
    )


def read_dpt(file: Path) -> np.ndarray:
    """Depth (h, w) in metres; 0 in the sky, which is stored as kilometres away."""
    with naming(file, "a Sintel depth map"):
        data = file.read_bytes()
        tag, (width, height) = np.frombuffer(data, "<f4", 1)[0], np.frombuffer(data, "<i4", 2, 4)
        if tag != np.float32(TAG) or min(width, height) < 1 or len(data) != 12 + 4 * int(width) * int(height):
            raise BadData(
                file,
                f"is no whole Sintel depth map: tag {tag:g} (expected {TAG}), {width} x {height}, {len(data)} bytes",
            )
        depth = np.frombuffer(data, "<f4", offset=12).reshape(height, width)
    return np.where(depth < KILOMETRE, depth, np.float32(0))


def read_cam(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics (3, 3) with pixel centres at +0.5, and cam_to_world (4, 4); the file has world_to_cam."""
    with naming(file, "a Sintel camera"):
        data = file.read_bytes()
        tag = np.frombuffer(data, "<f4", 1)[0]
        if tag != np.float32(TAG) or len(data) != 4 + 8 * 21:
            raise BadData(
                file, f"is no Sintel camera: tag {tag:g} (expected {TAG}), {len(data)} bytes (expected {4 + 8 * 21})"
            )
        intrinsics = np.frombuffer(data, "<f8", 9, 4).reshape(3, 3).copy()
        world_to_cam = np.eye(4)
        world_to_cam[:3] = np.frombuffer(data, "<f8", 12, 4 + 8 * 9).reshape(3, 4)
    intrinsics[:2, 2] += 0.5
    return intrinsics, np.linalg.inv(world_to_cam)


def _read_cameras(folder: Path, images: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    rows = [read_cam(folder / f"{file.stem}.cam") for file in images]
    return np.stack([k for k, _ in rows]), np.stack([cam_to_world for _, cam_to_world in rows])


SINTEL = EvaluationSet(
    name="sintel",
    hint=(
        "training/final/<sequence>/frame_0001.png, training/depth/<sequence>/frame_0001.dpt, training/camdata_left/..."
    ),
    rules={
        "released": Rule(
            "all frames; depth of all 23 sequences, cameras of the 14 in which they move.",
            {"depth": (), "pose": POSE_SEQUENCES},
            expected=23,
        ),
        "fourteen": Rule(
            "all frames of the 14 sequences for depth too, as other evaluations have it.",
            {"depth": POSE_SEQUENCES, "pose": POSE_SEQUENCES},
        ),
    },
    find=_find,
    load=_load,
)
