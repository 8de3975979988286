"""The result on disk: memory-mappable arrays, a JSON file, a TUM trajectory."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from geo4d.errors import InputError
from geo4d.scene.arrays import Unreadable, is_float, map_array, picture_size, read_json
from geo4d.scene.atomic import whole_file
from geo4d.scene.extra import PREFIX
from geo4d.scene.reconstruction import Reconstruction

VERSION = 1
ARRAYS = ("depth", "confidence", "valid", "images", "intrinsics", "cam_to_world", "timestamps")
OPTIONAL = ("dynamic", "pose_covariance")
SUMMARY = "reconstruction.json"
RIGID = 1e-2  # by which a rotation's rows may miss being orthonormal
TRAJECTORY = "trajectory_tum.txt"
FILES = (*(f"{name}.npy" for name in (*ARRAYS, *OPTIONAL)), TRAJECTORY, SUMMARY)
CONVENTIONS = {
    "camera": "OpenCV: x right, y down, z forward",
    "cam_to_world": "4x4, row major; the world is the first camera",
    "depth": "z-depth, nan where not valid",
    "intrinsics": "pixels of the depth, pixel centres at +0.5",
    "confidence": "typical expected relative error of depth by that of the pixel; 1 is typical",
    "dynamic": "probability that what the pixel shows moves",
    "pose_covariance": "6x6 of rotation (radians, about the world's axes) and centre; the first camera is exact",
    "trajectory_tum.txt": "time x y z qx qy qz qw, camera to world",
}


def save_reconstruction(reconstruction: Reconstruction, directory: str | Path) -> None:
    """Writes the result into `directory` (made if need be).

    The summary comes last, so a folder that has one is whole.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / SUMMARY).unlink(missing_ok=True)
        files = []
        for name in (*ARRAYS, *OPTIONAL):
            files.append(directory / f"{name}.npy")
            if getattr(reconstruction, name) is None:
                files.pop().unlink(missing_ok=True)
            else:
                _write(files[-1], getattr(reconstruction, name))
        for old in set(directory.glob(f"{PREFIX}*.npy")) - {
            directory / f"{PREFIX}{name}.npy" for name in reconstruction.extra
        }:
            old.unlink()
        for name, array in reconstruction.extra.items():
            files.append(directory / f"{PREFIX}{name}.npy")
            _write(files[-1], array)
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
            "sha256": {file.name: _sha256(file) for file in files},
            "diagnostics": _plain(reconstruction.diagnostics),
        }
        with whole_file(directory / SUMMARY, alone=True) as temporary:
            temporary.write_text(json.dumps(summary, indent=1))
    except OSError as error:
        raise InputError(f"{directory} cannot be written ({error.strerror}); choose another output folder.") from error


def load_reconstruction(directory: str | Path) -> Reconstruction:
    """Opens a result; arrays are memory maps. Raises InputError if the folder does not hold a whole one."""
    directory = Path(directory)
    if not (directory / SUMMARY).is_file():
        raise InputError(f"{directory} holds no finished reconstruction ({SUMMARY} is missing); run geo4d infer first.")
    try:
        summary = _read_summary(directory / SUMMARY)
        names = [*ARRAYS, *(name for name in OPTIONAL if (directory / f"{name}.npy").exists())]
        arrays = {name: map_array(directory / f"{name}.npy") for name in names}
        extra = {path.stem.removeprefix(PREFIX): map_array(path) for path in sorted(directory.glob(f"{PREFIX}*.npy"))}
        shape = (summary["frames"], *picture_size(summary.get("size"), "size"))
        source_size = picture_size(summary.get("source_size"), "source_size")
    except (Unreadable, InputError) as error:
        raise InputError(
            f"{directory} holds a damaged reconstruction ({str(error).rstrip('.')}); run geo4d infer again."
        ) from error
    if summary.get("version") != VERSION or arrays["depth"].shape != shape:
        raise InputError(
            f"{directory} holds version {summary.get('version')} with depth {arrays['depth'].shape}; expected "
            f"{VERSION} and {shape}."
        )
    _check_arrays(directory, arrays)
    said = {"is_metric": summary["is_metric"], "diagnostics": summary["diagnostics"]}
    return Reconstruction(**arrays, source_size=source_size, **said, extra=extra)


def _read_summary(path: Path) -> dict[str, Any]:
    """The JSON file, its fields of the right types. Raises Unreadable."""
    summary = read_json(path)
    if not isinstance(summary, dict):
        raise Unreadable(f"{SUMMARY} is no table of fields")
    for name, kind in (("frames", int), ("is_metric", bool), ("diagnostics", dict)):
        if type(summary.get(name)) is not kind:  # a bool is an int
            raise Unreadable(
                f"{name} in {SUMMARY} must be of type {kind.__name__}, and is {type(summary.get(name)).__name__}"
            )
    for name in ("expected_error", "typical_error"):  # what other parts compute with
        if type(summary["diagnostics"].get(name)) not in (int, float, type(None)):
            raise Unreadable(f"{name} in {SUMMARY} must be a number")
    return summary


def _check_arrays(directory: Path, arrays: dict[str, np.ndarray]) -> None:
    """Shapes and types of all arrays, and values of the small ones; the dense ones stay unread. Raises InputError."""
    shape = arrays["depth"].shape
    tails = {
        "images": (*shape[1:], 3),
        "intrinsics": (3, 3),
        "cam_to_world": (4, 4),
        "timestamps": (),
        "pose_covariance": (6, 6),
    }
    for name, array in arrays.items():
        expected = (shape[0], *tails.get(name, shape[1:]))
        if array.shape != expected:
            raise InputError(
                f"{directory} holds {name} of shape {array.shape}; expected {expected}; run geo4d infer again."
            )
        kind = {"valid": "bool", "images": "uint8"}.get(name, "float32 or float64")
        if not (is_float(array) if kind.startswith("float") else array.dtype.name == kind):
            raise InputError(f"{directory} holds {name} of type {array.dtype}; expected {kind}; run geo4d infer again.")
    for name in ("intrinsics", "cam_to_world", "timestamps"):
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"{directory} holds {name} that are not finite; run geo4d infer again.")
    focal, rotation = arrays["intrinsics"][:, [0, 1], [0, 1]], arrays["cam_to_world"][:, :3, :3]
    off = (
        np.abs(rotation @ np.swapaxes(rotation, 1, 2) - np.eye(3)) if np.abs(rotation).max() < 2 else np.full(1, np.inf)
    )
    if focal.min() <= 0 or off.max() > RIGID or (np.linalg.det(rotation) < 0).any():
        raise InputError(
            f"{directory} holds cameras that cannot be (focal lengths above 0 and rotations are); run geo4d infer "
            "again."
        )


def is_intact(directory: str | Path) -> bool:
    """Whether a folder holds a whole result of which every array is as it was written: nothing cut, nothing changed."""
    directory = Path(directory)
    try:
        load_reconstruction(directory)
        digests = read_json(directory / SUMMARY)["sha256"]
        return bool(digests) and all(_sha256(directory / name) == digests[name] for name in digests)
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return False


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


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
        raise InputError(
            f"{path} has a line that is not finite or whose quaternion is zero; expected lines of t x y z qx qy qz qw."
        )
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(rows[:, 4:]).as_matrix()
    poses[:, :3, 3] = rows[:, 1:4]
    return rows[:, 0], poses


def _write(path: Path, array: np.ndarray) -> None:
    with whole_file(path, alone=True) as temporary, temporary.open("wb") as file:
        np.save(file, np.asarray(array), allow_pickle=False)


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
