"""The result on disk: memory-mappable arrays, a JSON file, a TUM trajectory."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from geo4d.errors import InputError
from geo4d.io.atomic import temporary_path
from geo4d.scene import Reconstruction

VERSION = 1
ARRAYS = ("depth", "confidence", "valid", "images", "intrinsics", "cam_to_world", "timestamps")
OPTIONAL = ("dynamic", "pose_covariance")
SUMMARY = "reconstruction.json"
TRAJECTORY = "trajectory_tum.txt"
FILES = (*(f"{name}.npy" for name in (*ARRAYS, *OPTIONAL)), TRAJECTORY, SUMMARY)
CONVENTIONS = {
    "camera": "OpenCV: x right, y down, z forward",
    "cam_to_world": "4x4, row major; the world is the first camera",
    "depth": "z-depth at the working resolution, nan where not valid",
    "intrinsics": "pixels of the working resolution, pixel centres at +0.5",
    "confidence": "typical expected relative error of depth by that of the pixel; 1 is typical",
    "dynamic": "probability that what the pixel shows moves",
    "pose_covariance": "6x6 of rotation (radians, about the world's axes) and centre; the first camera is exact",
    "trajectory_tum.txt": "time x y z qx qy qz qw, camera to world",
}


def save_reconstruction(reconstruction: Reconstruction, directory: str | Path) -> None:
    """Writes the result into `directory` (made if need be); the summary comes last, so a folder that has one is whole."""
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / SUMMARY).unlink(missing_ok=True)
        for name in ARRAYS:
            _write(directory / f"{name}.npy", getattr(reconstruction, name))
        for name in OPTIONAL:
            (directory / f"{name}.npy").unlink(missing_ok=True)
            if getattr(reconstruction, name) is not None:
                _write(directory / f"{name}.npy", getattr(reconstruction, name))
        trajectory = format_tum(reconstruction.timestamps, reconstruction.cam_to_world)
        (directory / TRAJECTORY).write_text(trajectory)
        summary = {
            "format": "geo4d-reconstruction",
            "version": VERSION,
            "frames": reconstruction.num_frames,
            "size": list(reconstruction.depth.shape[1:]),
            "source_size": list(reconstruction.source_size),
            "is_metric": reconstruction.is_metric,
            "conventions": CONVENTIONS,
            "diagnostics": _plain(reconstruction.diagnostics),
        }
        temporary = temporary_path(directory / SUMMARY)
        temporary.write_text(json.dumps(summary, indent=1))
        os.replace(temporary, directory / SUMMARY)
    except OSError as error:
        raise InputError(f"{directory} cannot be written ({error.strerror}); choose another output folder.") from error


def load_reconstruction(directory: str | Path) -> Reconstruction:
    """Opens a result; arrays are memory maps. Raises InputError if the folder does not hold a whole one."""
    directory = Path(directory)
    if not (directory / SUMMARY).is_file():
        raise InputError(f"{directory} holds no finished reconstruction ({SUMMARY} is missing); run geo4d infer first.")
    try:
        summary = json.loads((directory / SUMMARY).read_text())
        names = [*ARRAYS, *(name for name in OPTIONAL if (directory / f"{name}.npy").exists())]
        arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
        shape = (summary["frames"], *summary["size"])
        source_size = (int(summary["source_size"][0]), int(summary["source_size"][1]))
        is_metric, diagnostics = bool(summary["is_metric"]), dict(summary["diagnostics"])
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{directory} holds a damaged reconstruction ({error}); run geo4d infer again.") from error
    if summary.get("version") != VERSION or arrays["depth"].shape != shape:
        raise InputError(
            f"{directory} holds version {summary.get('version')} with depth {arrays['depth'].shape}; expected {VERSION} and {shape}."
        )
    tails = {"images": (*shape[1:], 3), "intrinsics": (3, 3), "cam_to_world": (4, 4), "timestamps": (), "pose_covariance": (6, 6)}
    for name, array in arrays.items():
        expected = (shape[0], *tails.get(name, shape[1:]))
        if array.shape != expected:
            raise InputError(f"{directory} holds {name} of shape {array.shape}; expected {expected}; run geo4d infer again.")
    return Reconstruction(**arrays, source_size=source_size, is_metric=is_metric, diagnostics=diagnostics)


def format_tum(timestamps: np.ndarray, cam_to_world: np.ndarray) -> str:
    """TUM lines: t x y z qx qy qz qw."""
    quaternions = Rotation.from_matrix(cam_to_world[:, :3, :3]).as_quat()  # scipy's order is x y z w
    rows = np.concatenate([timestamps[:, None], cam_to_world[:, :3, 3], quaternions], axis=1)
    return "".join(" ".join([f"{row[0]:.9f}", *(f"{value:.9g}" for value in row[1:])]) + "\n" for row in rows)


def read_tum(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Timestamps (t,) and cam_to_world (t, 4, 4) of a TUM file; comment lines begin with #."""
    try:
        rows = np.loadtxt(path, comments="#", ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a TUM trajectory ({error}); expected lines of t x y z qx qy qz qw.") from error
    if rows.shape[1] != 8:
        raise InputError(f"{path} has {rows.shape[1]} columns; a TUM trajectory has 8: t x y z qx qy qz qw.")
    if not np.isfinite(rows).all() or (np.linalg.norm(rows[:, 4:], axis=1) == 0).any():
        raise InputError(f"{path} has a line that is not finite or whose quaternion is zero; expected lines of t x y z qx qy qz qw.")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(rows[:, 4:]).as_matrix()
    poses[:, :3, 3] = rows[:, 1:4]
    return rows[:, 0], poses


def _write(path: Path, array: np.ndarray) -> None:
    temporary = temporary_path(path)
    with temporary.open("wb") as file:
        np.save(file, np.asarray(array), allow_pickle=False)
    os.replace(temporary, path)


def _plain(value: Any) -> Any:
    """JSON has no nan, no tuples and no numpy."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy, torch
        return _plain(value.tolist())
    if not isinstance(value, (str, int, float, bool, type(None))):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


# The class lives below the files' floor, so its methods for files are completed here.
Reconstruction.save = save_reconstruction  # type: ignore[attr-defined]
Reconstruction.load = staticmethod(load_reconstruction)  # type: ignore[attr-defined]
