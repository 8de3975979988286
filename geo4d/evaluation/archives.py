"""Arrays by name from whatever files a prediction consists of; what the names mean is for `predictions`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from geo4d.data.files import naming, read_npy
from geo4d.data.frames import BadData
from geo4d.scene.arrays import read_archive
from geo4d.scene.files.reconstruction import read_tum

WXYZ_FILE = "pred_traj.txt"  # some projects write it in TUM lines, but with the quaternion's scalar first
TRAJECTORIES = (WXYZ_FILE, "trajectory_tum.txt", "trajectory.txt", "traj.txt")
INTRINSICS = ("pred_intrinsics.txt", "intrinsics.txt")


def gather_arrays(source: Path, quaternions: str | None = None) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, or of a folder.

    A folder may hold one .npz file; .npy files, each an array of its own name; a map for each frame, as
    depth/<number>.npy or frame_<number>.npy; cameras for each frame, as camera/<number>.npz with pose (cam_to_world)
    and intrinsics; a trajectory in TUM lines; intrinsics with 9 numbers a line. Frames come in the order of their
    numbers. Raises InputError, which names the file, for what cannot be read, and where one array comes from two
    places.
    """
    if source.is_file():
        return _read_archive(source)
    arrays: dict[str, np.ndarray] = {}
    archives = sorted(source.glob("*.npz"))
    if len(archives) > 1:
        raise BadData(
            source,
            f"holds {len(archives)} .npz files; expected one for the whole sequence, or frames in depth/ and camera/",
        )
    for file in archives:
        _add(source, arrays, _read_archive(file))
    maps = sorted(source.glob("frame_*.npy"), key=number_of)
    for file in sorted(set(source.glob("*.npy")) - set(maps)):
        if not file.stem[-1:].isdigit():  # conf_3.npy and the like are of no use here
            _add(source, arrays, {file.stem: read_npy(file)})
    maps += sorted((source / "depth").glob("*.npy"), key=number_of)
    if maps:
        _add(source, arrays, {"depth": _stack(maps, read_npy)})
    cameras = sorted((source / "camera").glob("*.npz"), key=number_of)
    if cameras:
        rows = [_read_archive(file) for file in cameras]
        for key, name in (("pose", "cam_to_world"), ("intrinsics", "intrinsics")):
            lacking = next((file for file, row in zip(cameras, rows, strict=True) if key not in row), None)
            if lacking is not None:
                raise BadData(lacking, f"holds no {key}; got {', '.join(rows[cameras.index(lacking)])}")
            _add(source, arrays, {name: np.stack([row[key] for row in rows])})
    for name in TRAJECTORIES:
        if (source / name).is_file():
            _add(source, arrays, {"cam_to_world": _read_trajectory(source / name, quaternions)})
    for name in INTRINSICS:
        if (source / name).is_file():
            _add(source, arrays, {"intrinsics": _read_intrinsics(source / name)})
    return arrays


def number_of(file: Path) -> int:
    """The last whole number in a file's name. Raises BadData if there is none."""
    digits = "".join(letter if letter.isdigit() else " " for letter in file.stem).split()
    if not digits:
        raise BadData(file, "has no number in its name")
    return int(digits[-1])


def _add(source: Path, arrays: dict[str, np.ndarray], more: dict[str, np.ndarray]) -> None:
    twice = sorted(arrays.keys() & more.keys())
    if twice:
        raise BadData(source, f"holds {twice[0]} in two places; keep one")
    arrays.update(more)


def _read_archive(file: Path) -> dict[str, np.ndarray]:
    with naming(file, "an .npz file of numbers"):
        return read_archive(file)


def _stack(files: list[Path], read: Callable[[Path], np.ndarray]) -> np.ndarray:
    maps = [read(file) for file in files]
    odd = next((i for i, array in enumerate(maps) if array.shape != maps[0].shape), None)
    if odd is not None:
        raise BadData(
            files[odd],
            f"has shape {list(maps[odd].shape)}, the first frame {list(maps[0].shape)}; all must have one size",
        )
    return np.stack(maps)


def _read_trajectory(file: Path, quaternions: str | None) -> np.ndarray:
    """cam_to_world (t, 4, 4) of lines t x y z and a quaternion in the given order, or in that of the file's name."""
    order = quaternions or ("wxyz" if file.name == WXYZ_FILE else "xyzw")
    poses = read_tum(file)[1]
    if order == "wxyz":
        wxyz = np.loadtxt(file, comments="#", ndmin=2)[:, 4:]
        poses[:, :3, :3] = Rotation.from_quat(wxyz[:, [1, 2, 3, 0]]).as_matrix()
    return poses


def _read_intrinsics(file: Path) -> np.ndarray:
    """(t, 3, 3) of lines of 9 numbers, or of one matrix in three lines."""
    with naming(file, "a text file of 3x3 matrices"):
        return np.loadtxt(file, ndmin=2).reshape(-1, 3, 3)
