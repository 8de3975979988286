"""KITTI depth: pictures from a car, sparse depth from its laser scanner; the drives of the validation split."""

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
    read_png_depth,
    unless_needed,
)

DRIVES = tuple(
    f"{date}_drive_{drive:04d}_sync_02"
    for date, drives in {
        "2011_09_26": (2, 5, 13, 20, 23, 36, 79, 95, 113),
        "2011_09_28": (37,),
        "2011_09_29": (26,),
        "2011_09_30": (16,),
        "2011_10_03": (47,),
    }.items()
    for drive in drives
)
GATHERED = Path("depth_selection") / "val_selection_cropped"


def _find(root: Path, rule: Rule) -> list[str]:
    if rule.gathered:
        return sorted(path.name for path in (root / GATHERED / "groundtruth_depth_gathered").glob("*"))
    return sorted(f"{path.parents[2].name}_02" for path in root.glob("val/*/proj_depth/groundtruth/image_02"))


def _load(root: Path, name: str, rule: Rule, task: str) -> EvaluationSequence:
    drive, date = name.removesuffix("_02"), name[:10]
    folder = root / date / drive / "image_02"
    if rule.gathered:
        depths = rule.pick(list_images(root / GATHERED / "groundtruth_depth_gathered" / name))
        images = [root / GATHERED / "image_gathered" / name / file.name for file in depths]
    else:
        depths = rule.pick(list_images(root / "val" / drive / "proj_depth" / "groundtruth" / "image_02"))
        images = [folder / "data" / file.name for file in depths]
    calibration, clock = root / date / "calib_cam_to_cam.txt", folder / "timestamps.txt"
    left_out: list[Problem] = []
    there = calibration.exists()
    intrinsics = (
        unless_needed(lambda: _read_calibration(calibration), left_out, root, name, needed=False) if there else None
    )
    return from_files(
        root,
        name,
        images,
        depths=depths,
        decode=partial(read_png_depth, scale=rule.depth_scale),
        timestamps=_read_times(clock, images) if clock.exists() else None,
        intrinsics=None if intrinsics is None else np.repeat(intrinsics[None], len(images), axis=0),
        left_out=tuple(left_out),
    )


def _read_calibration(file: Path) -> np.ndarray:
    """Intrinsics (3, 3) of the left colour camera after rectification."""
    with naming(file, "a KITTI calibration"):
        rows = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
        intrinsics = np.array(rows["P_rect_02"].split(), dtype=np.float64).reshape(3, 4)[:, :3]
    intrinsics[:2, 2] += 0.5
    return intrinsics


def _read_times(file: Path, images: list[Path]) -> np.ndarray:
    """Seconds since the first line, of the frames with these numbers."""
    with naming(file, "a list of dates and times"):
        lines = [line.strip().replace(" ", "T") for line in file.read_text().splitlines() if line.strip()]
        times = np.array(lines, dtype="datetime64[ns]")
        numbers = [number_of(image) for image in images]
        if max(numbers) >= len(times):
            raise BadData(file, f"has {len(times)} lines; expected one for frame {max(numbers)}")
        return (times[numbers] - times[0]) / np.timedelta64(1, "s")


KITTI = EvaluationSet(
    name="kitti",
    hint=(
        "val/<drive>_sync/proj_depth/groundtruth/image_02/0000000005.png and "
        "<date>/<drive>_sync/image_02/data/0000000005.png"
    ),
    rules={
        "released": Rule(
            "the first 110 frames with depth of each of the 13 drives, left colour camera.",
            {"depth": DRIVES},
            count=110,
            depth_scale=256.0,
        ),
        "gathered": Rule(
            "image_gathered and groundtruth_depth_gathered as the usual script has written them.",
            {"depth": DRIVES},
            depth_scale=256.0,
            gathered=True,
        ),
    },
    find=_find,
    load=_load,
)
