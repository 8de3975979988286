"""Any folder of RGB-D recordings: rgb/, depth/ and perhaps intrinsics and cameras as text."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from geo4d.data.files import naming, read_npy
from geo4d.data.frames import BadData, Problem
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
from geo4d.io.video import natural_order
from geo4d.scene.files.reconstruction import read_tum

DEPTH_SUFFIXES = (".png", ".npy")


def _find(root: Path, rule: Rule) -> list[str]:
    if (root / "rgb").is_dir():
        return [root.name]
    return sorted(path.parent.relative_to(root).as_posix() for path in root.glob("*/rgb") if path.is_dir())


def _load(root: Path, name: str, rule: Rule, task: str) -> EvaluationSequence:
    folder = root if (root / "rgb").is_dir() else root / name
    images = list_images(folder / "rgb")
    left_out: list[Problem] = []
    intrinsics = unless_needed(lambda: _read_intrinsics(folder, len(images)), left_out, root, name, needed=False)
    poses = unless_needed(lambda: _read_poses(folder, len(images)), left_out, root, name, needed=task == "pose")
    if task == "pose" and poses is None:
        raise BadData(
            folder / "cam_to_world.txt", "is missing; expected it (16 numbers a line) or trajectory.txt (TUM lines)"
        )
    depths = _list_depths(folder / "depth", needed=task == "depth")
    rows = list(range(len(images)))
    partner: dict[int, Path] = {}
    if depths is not None:
        partner, alone = _pair(root, images, depths, rule)
        left_out += alone
        rows = [i for i in rows if i in partner]
    rows = rule.pick(rows)
    return from_files(
        root,
        name,
        [images[i] for i in rows],
        depths=None if depths is None else [partner[i] for i in rows],
        decode=partial(_read_depth, scale=rule.depth_scale),
        intrinsics=None if intrinsics is None else intrinsics[rows],
        cam_to_world=None if poses is None else poses[rows],
        left_out=tuple(left_out),
    )


def _list_depths(folder: Path, *, needed: bool) -> list[Path] | None:
    files = [file for file in folder.glob("*") if file.suffix in DEPTH_SUFFIXES and not file.name.startswith(".")]
    if not files and needed:
        raise BadData(folder, "holds no depth map; expected a .png (16 bits) or .npy (metres) for each picture")
    return sorted(files, key=natural_order) or None


def _pair(root: Path, images: list[Path], depths: list[Path], rule: Rule) -> tuple[dict[int, Path], list[Problem]]:
    """The depth map of each picture, by equal names or, where the rule says so, by order."""
    if rule.pairing == "order":
        if len(images) != len(depths):
            raise BadData(
                depths[0].parent,
                f"holds {len(depths)} depth maps for {len(images)} pictures; pair them by name instead",
            )
        return dict(enumerate(depths)), []
    named = {file.stem: file for file in depths}
    partner = {i: named[file.stem] for i, file in enumerate(images) if file.stem in named}
    if not partner:
        raise BadData(
            depths[0].parent, "holds no depth map of the same name as a picture; rename them, or choose the rule order"
        )
    return partner, [
        Problem(relative(file, root), "has no depth map of the same name")
        for i, file in enumerate(images)
        if i not in partner
    ]


def _read_depth(file: Path, *, scale: float) -> np.ndarray:
    if file.suffix == ".npy":
        depth = read_npy(file)
        if depth.ndim != 2 or depth.dtype.kind not in "fiu":
            raise BadData(file, f"holds {depth.dtype} of shape {list(depth.shape)}; expected metres of shape (h, w)")
        return depth.astype(np.float32)
    return read_png_depth(file, scale=scale)


def _read_intrinsics(folder: Path, frames: int) -> np.ndarray | None:
    """(t, 3, 3) of intrinsics.txt: fx fy cx cy (pixel centres at +0.5), one line or one a frame."""
    file = folder / "intrinsics.txt"
    if not file.is_file():
        return None
    with naming(file, "a text file of fx fy cx cy"):
        values = np.loadtxt(file, ndmin=2)
    if values.shape not in ((1, 4), (frames, 4)):
        raise BadData(
            file,
            f"holds {len(values)} lines of {values.shape[-1]} numbers; expected fx fy cx cy, once or for {frames} "
            "frames",
        )
    values = np.repeat(values, frames // len(values), axis=0)
    intrinsics = np.tile(np.eye(3), (frames, 1, 1))
    intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]] = values
    return intrinsics


def _read_poses(folder: Path, frames: int) -> np.ndarray | None:
    """(t, 4, 4) of cam_to_world.txt (16 numbers a line) or trajectory.txt (TUM lines), one line a picture."""
    matrices, trajectory = folder / "cam_to_world.txt", folder / "trajectory.txt"
    file = matrices if matrices.is_file() else trajectory
    if not file.is_file():
        return None
    poses = read_matrices(file, 1) if file is matrices else read_tum(file)[1]
    if len(poses) != frames:
        raise BadData(file, f"holds {len(poses)} poses for {frames} pictures; expected one for each")
    return poses


ALL = {"depth": (), "pose": (), "pictures": ()}
RGBD = EvaluationSet(
    name="rgbd",
    hint=(
        "<recording>/rgb/0000.png with depth/0000.png (16 bits) or .npy, intrinsics.txt, "
        "and cam_to_world.txt or trajectory.txt"
    ),
    rules={
        "name": Rule("pictures and depth maps of the same name.", ALL),
        "order": Rule("pictures and depth maps in the order of their names; there must be as many.", ALL, "order"),
    },
    find=_find,
    load=_load,
)
