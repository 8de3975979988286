"""Recordings in TUM layout: rgb.txt, depth.txt and groundtruth.txt with clocks of their own.

TUM-dynamics among them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from geo4d.data.files import naming
from geo4d.data.frames import BadData, Problem
from geo4d.evaluation.sets.associate import associate_greedily, interpolate_poses, pair_by_time
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
    unless_needed,
)
from geo4d.scene.files.reconstruction import read_tum

FREIBURG3 = (535.4, 539.2, 320.1, 247.6)  # calibrated, at 640 x 480
DYNAMIC = tuple(
    f"rgbd_dataset_freiburg3_{what}_{how}"
    for what in ("sitting", "walking")
    for how in ("static", "xyz", "halfsphere", "rpy")
)
Times = tuple[np.ndarray, list[Path]]
Calibration = tuple[float, float, float, float]


def read_list(file: Path) -> Times:
    """Times (n,) and files of a list with lines of `time name`; comment lines begin with #."""
    with naming(file, "a list of times and file names"):
        lines = [line.split() for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
        odd = next((line for line in lines if len(line) < 2), None)
        if odd is not None:
            raise BadData(file, f"has a line {' '.join(odd)!r}; expected a time and a file name")
        return np.array([line[0] for line in lines], dtype=np.float64), [file.parent / line[1] for line in lines]


def _find(root: Path, rule: Rule) -> list[str]:
    marker = "rgb_90" if rule.gathered else "rgb.txt"
    if (root / marker).exists():
        return [root.name]
    return sorted(path.parent.relative_to(root).as_posix() for path in root.glob(f"*/{marker}"))


def _load(
    root: Path, name: str, rule: Rule, task: str, *, calibration: Calibration | None = None
) -> EvaluationSequence:
    folder = root if (root / ("rgb_90" if rule.gathered else "rgb.txt")).exists() else root / name
    depths: list[Path] | None = None
    poses: np.ndarray | None
    left_out: list[Problem] = []
    if rule.gathered:
        images, times, poses = _gathered(folder)
    elif rule.pairing == "greedy":
        images, times, poses = _greedy(folder, rule)
    else:
        images, times, depths, poses, left_out = _by_time(folder, rule, task)
    if not images:
        raise BadData(folder / "rgb.txt", f"gives no frame from number {rule.start} on; choose an earlier start")
    intrinsics = unless_needed(lambda: _intrinsics(folder, images[0], calibration), left_out, root, name, needed=False)
    return from_files(
        root,
        name,
        images,
        depths=depths,
        decode=partial(read_png_depth, scale=rule.depth_scale),
        timestamps=times,
        intrinsics=None if intrinsics is None else np.repeat(intrinsics[None], len(images), axis=0),
        cam_to_world=poses,
        left_out=tuple(left_out),
    )


def _greedy(folder: Path, rule: Rule) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Pictures and poses as the usual script has them.

    Closest pairs first, each used once, and of these every third.
    """
    times, files = read_list(folder / "rgb.txt")
    pose_times, poses = read_tum(folder / "groundtruth.txt")
    first, second = associate_greedily(times, pose_times, rule.max_gap_s)
    if not len(first):
        pair_by_time(
            times, [file.name for file in files], {"pose": (folder / "groundtruth.txt", pose_times)}, rule.max_gap_s
        )
    picked = rule.pick(range(len(first)))
    return [files[i] for i in first[picked]], times[first[picked]], poses[second[picked]]


def _gathered(folder: Path) -> tuple[list[Path], np.ndarray, np.ndarray]:
    images = list_images(folder / "rgb_90", order=by_time)
    times, poses = read_tum(folder / "groundtruth_90.txt")
    if len(poses) != len(images):
        raise BadData(
            folder / "groundtruth_90.txt", f"holds {len(poses)} poses for the {len(images)} pictures of rgb_90"
        )
    return images, times, poses


def _by_time(
    folder: Path, rule: Rule, task: str
) -> tuple[list[Path], np.ndarray, list[Path] | None, np.ndarray | None, list[Problem]]:
    """Pictures with the depth map nearest in time and the camera at their own time.

    What has no list restricts nothing.
    """
    times, files = read_list(folder / "rgb.txt")
    maps, path = folder / "depth.txt", folder / "groundtruth.txt"
    depth = read_list(maps) if task == "depth" or maps.exists() else None
    trajectory = read_tum(path) if task == "pose" or path.exists() else None
    others = {} if depth is None else {"depth map": (maps, depth[0])}
    if trajectory is not None:
        others["pose"] = (path, trajectory[0])
    keep, index, left_out = pair_by_time(times, [relative(file, folder) for file in files], others, rule.max_gap_s)
    picked = rule.pick(range(len(keep)))
    keep = keep[picked]
    return (
        [files[i] for i in keep],
        times[keep],
        None if depth is None else [depth[1][i] for i in index["depth map"][picked]],
        None if trajectory is None else interpolate_poses(times[keep], *trajectory),
        left_out,
    )


def _intrinsics(folder: Path, image: Path, calibration: Calibration | None) -> np.ndarray | None:
    """(3, 3): intrinsics.txt (fx fy cx cy, pixel centres at +0.5) if it is there, else the calibration.

    None where neither is known.
    """
    file = folder / "intrinsics.txt"
    if file.is_file():
        with naming(file, "a text file of fx fy cx cy"):
            fx, fy, cx, cy = map(float, file.read_text().split())
            return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    return None if calibration is None else scaled_intrinsics(*calibration, image)


ALL = {"depth": (), "pose": ()}
HINT = "<recording>/rgb.txt, depth.txt, groundtruth.txt and the folders they name"
TUM = EvaluationSet(
    name="tum",
    hint=HINT,
    rules={
        "time": Rule(
            "every picture with the depth map nearest in time and the camera at its own time.",
            ALL,
            "time",
            depth_scale=5000.0,
        ),
    },
    find=_find,
    load=_load,
)
TUM_DYNAMICS = EvaluationSet(
    name="tum-dynamics",
    hint=HINT.replace("<recording>", "rgbd_dataset_freiburg3_{sitting,walking}_{static,xyz,halfsphere,rpy}"),
    rules={
        "released": Rule(
            "pictures and true poses within 20 ms, closest first; every third pair, at most 90; no depth.",
            {"pose": DYNAMIC},
            "greedy",
            stride=3,
            count=90,
        ),
        "right": Rule(
            "every third picture that has all, at most 90: the depth map nearest in time, the camera at the picture's "
            "own time.",
            {"pose": DYNAMIC, "depth": DYNAMIC},
            "time",
            stride=3,
            count=90,
            depth_scale=5000.0,
        ),
        "gathered": Rule(
            "rgb_90 and groundtruth_90.txt as the usual script has written them.",
            {"pose": DYNAMIC},
            "order",
            gathered=True,
        ),
    },
    find=_find,
    load=partial(_load, calibration=FREIBURG3),
)
