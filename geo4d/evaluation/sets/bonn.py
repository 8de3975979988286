"""Bonn RGB-D Dynamic: a hand-held depth camera among moving people, followed by markers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from geo4d.data.frames import BadData, Problem
from geo4d.evaluation.sets.associate import interpolate_poses, pair_by_time
from geo4d.evaluation.sets.base import (
    EvaluationSequence,
    EvaluationSet,
    Rule,
    by_time,
    from_files,
    list_images,
    read_png_depth,
    relative,
    scaled_intrinsics,
)
from geo4d.scene.files.reconstruction import read_tum

CALIBRATION = (
    542.822841,
    542.576870,
    315.593520,
    237.756098,
)  # at 640 x 480; the lens's distortion stays in the pictures
SEQUENCES = ("balloon2", "crowd2", "crowd3", "person_tracking2", "synchronous")
ROS = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
MARKER = np.array(
    [
        [1.0157, 0.1828, -0.2389, 0.0113],
        [0.0009, -0.8431, -0.6413, -0.0098],
        [-0.3009, 0.6147, -0.8085, 0.0111],
        [0, 0, 0, 1],
    ]
)
_Paired = tuple[list[Path], list[Path], np.ndarray | None, list[Problem]]


def marker_to_camera() -> np.ndarray:
    """The published transform (4, 4) between the markers and the camera.

    Its rotation, which is published scaled, made one.
    """
    transform = MARKER.copy()
    u, _, vt = np.linalg.svd(MARKER[:3, :3])
    transform[:3, :3] = u @ vt
    return transform


def cameras_of_markers(marker_to_world: np.ndarray) -> np.ndarray:
    """cam_to_world (t, 4, 4) from the rows of groundtruth.txt, which describe the markers in the axes of ROS."""
    return np.linalg.inv(ROS) @ marker_to_world @ ROS @ marker_to_camera()


def _find(root: Path, rule: Rule) -> list[str]:
    folder = "rgb_110" if rule.gathered else "rgb"
    return sorted(path.parent.name.removeprefix("rgbd_bonn_") for path in root.glob(f"rgbd_bonn_*/{folder}"))


def _load(root: Path, name: str, rule: Rule, task: str) -> EvaluationSequence:
    folder = root / f"rgbd_bonn_{name}"
    pictures, maps = ("rgb_110", "depth_110") if rule.gathered else ("rgb", "depth")
    images, depths = (list_images(folder / kind, order=by_time) for kind in (pictures, maps))
    poses: np.ndarray | None = None
    left_out: list[Problem] = []
    if rule.pairing == "order":
        images, depths = rule.pick(images), rule.pick(depths)
        if len(images) != len(depths):
            raise BadData(folder / maps, f"gives {len(depths)} depth maps for {len(images)} frames; download it again")
    else:
        images, depths, poses, left_out = _by_time(root, folder, images, depths, rule, task)
    return from_files(
        root,
        name,
        images,
        depths=depths,
        decode=partial(read_png_depth, scale=rule.depth_scale),
        timestamps=_times(images),
        intrinsics=np.repeat(scaled_intrinsics(*CALIBRATION, images[0])[None], len(images), axis=0),
        cam_to_world=poses,
        left_out=tuple(left_out),
    )


def _by_time(root: Path, folder: Path, images: list[Path], depths: list[Path], rule: Rule, task: str) -> _Paired:
    """Frames with the depth map nearest in time and the camera at their own time; frames that lack one are left out."""
    images = rule.pick(images)
    times, others = _times(images), {"depth map": (folder / "depth", _times(depths))}
    file = folder / "groundtruth.txt"
    trajectory = read_tum(file) if task == "pose" or file.exists() else None
    if trajectory is not None:
        others["pose"] = (file, trajectory[0])
    keep, index, left_out = pair_by_time(times, [relative(file, root) for file in images], others, rule.max_gap_s)
    poses = None if trajectory is None else cameras_of_markers(interpolate_poses(times[keep], *trajectory))
    return [images[i] for i in keep], [depths[i] for i in index["depth map"]], poses, left_out


def _times(files: list[Path]) -> np.ndarray:
    """Seconds, which are the names of the files."""
    times = []
    for file in files:
        try:
            times.append(float(file.stem))
        except ValueError:
            raise BadData(file, "has no time as its name; expected seconds, such as 1548266470.88376.png") from None
    return np.array(times, dtype=np.float64)


BONN = EvaluationSet(
    name="bonn",
    hint="rgbd_bonn_dataset/rgbd_bonn_<sequence>/{rgb,depth}/<seconds>.png with groundtruth.txt",
    rules={
        "released": Rule(
            "files 30 to 139 of the pictures and, counted apart, of the depth maps, whatever their times; no cameras.",
            {"depth": SEQUENCES},
            "order",
            start=30,
            count=110,
            depth_scale=5000.0,
        ),
        "right": Rule(
            "pictures 30 to 139, each with the depth map nearest in time and the camera (not the markers) at its own "
            "time.",
            {"depth": SEQUENCES, "pose": SEQUENCES},
            "time",
            start=30,
            count=110,
            depth_scale=5000.0,
        ),
        "gathered": Rule(
            "rgb_110 and depth_110 as the usual script has written them.",
            {"depth": SEQUENCES},
            "order",
            depth_scale=5000.0,
            gathered=True,
        ),
    },
    find=_find,
    load=_load,
    inner="rgbd_bonn_dataset",
)
