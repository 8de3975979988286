"""Window predictions on disk: one .npz, or a folder of .npy files that can be memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from geo4d.errors import InputError
from geo4d.scene.arrays import Unreadable, is_float, map_array, picture_size, read_archive
from geo4d.scene.atomic import whole_file
from geo4d.scene.extra import PREFIX
from geo4d.scene.windows import WindowPredictions

DENSE = ("points", "weight", "disparity", "disparity_weight", "ray_direction", "ray_moment", "ray_cam_to_win")
OTHER = ("images", "timestamps")
NAMES = (*DENSE, *OTHER, "windows", "points_origin", "image_size", "img")
TAILS = {
    **dict.fromkeys(("points", "ray_direction", "ray_moment"), "H, W, 3"),
    "ray_cam_to_win": "4, 4",
}  # of other maps: H, W
SEE = " (docs/windows_format.md says what each key holds)"
SPARSEST = 16  # frames of the video for each frame in a window: beyond, the numbers are damaged or begin far from 0


def save_windows(path: str | Path, predictions: WindowPredictions) -> None:
    """Writes an .npz if the path says so, else a folder with one .npy a key."""
    path = Path(path)
    arrays: dict[str, Any] = {
        "windows": predictions.windows.numpy().astype(np.int32),
        "points_origin": np.array(predictions.points_origin),
    }
    arrays |= {name: getattr(predictions, name).numpy() for name in DENSE if getattr(predictions, name) is not None}
    arrays |= {name: np.asarray(getattr(predictions, name)) for name in OTHER if getattr(predictions, name) is not None}
    arrays |= {PREFIX + name: value.numpy() for name, value in predictions.extra.items()}
    if predictions.source_size is not None:
        arrays["image_size"] = np.array(predictions.source_size, dtype=np.int32)
    try:
        if path.suffix == ".npz":
            with whole_file(path, alone=True) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
        else:
            path.mkdir(parents=True, exist_ok=True)
            for name, array in arrays.items():
                with whole_file(path / f"{name}.npy", alone=True) as temporary, temporary.open("wb") as file:
                    np.save(file, array, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from error


def load_windows(path: str | Path) -> WindowPredictions:
    """Reads what `save_windows` wrote, or any file of the same keys (`img` is read as `images`).

    Raises InputError if the file is missing, is something else, or its arrays do not belong together.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There are no window predictions at {path}; give an .npz file or a folder of .npy files.")
    try:
        if path.is_dir():
            names = [*NAMES, *(file.stem for file in sorted(path.glob(f"{PREFIX}*.npy")))]
            arrays = {name: map_array(path / f"{name}.npy", "c") for name in names if (path / f"{name}.npy").exists()}
        else:
            arrays = read_archive(path, NAMES, prefix=PREFIX)
    except Unreadable as error:
        raise InputError(
            f"{path} is not a file of window predictions ({error}); expected an .npz as geo4d infer --save-windows "
            "writes."
        ) from error
    if "windows" not in arrays or arrays["windows"].ndim != 2:
        raise InputError(f"{path} lacks the key 'windows' (G, V); it has {sorted(arrays)}.")
    _check_shapes(path, arrays)
    _check_frames(path, arrays)
    tensors = {name: _tensor(arrays[name], name) for name in DENSE if name in arrays}
    size = arrays.get("image_size")
    return WindowPredictions(
        windows=torch.from_numpy(np.array(arrays["windows"], np.int64)),
        **tensors,  # type: ignore[arg-type]
        points_origin=str(arrays.get("points_origin", "unknown")),  # type: ignore[arg-type]
        images=arrays.get("images", arrays.get("img")),
        timestamps=arrays.get("timestamps"),
        source_size=None if size is None else picture_size(size, f"{path}: 'image_size'"),
        extra=_extra(path, arrays),
    )


def _extra(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Fields that this room does not know. Raises InputError for what torch cannot hold."""
    found = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    odd = {
        name: array.dtype.name
        for name, array in found.items()
        if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8
    }
    if odd:
        raise InputError(
            f"{path}: {', '.join(PREFIX + name for name in odd)} must hold numbers; got {', '.join(odd.values())}."
        )
    return {name: torch.from_numpy(array) for name, array in found.items()}


def _tensor(array: np.ndarray, name: str) -> torch.Tensor:
    """As it lies on disk, if that is in half or single precision: a memory map stays one."""
    kept = array.dtype in (np.float16, np.float32) or (name == "ray_cam_to_win" and is_float(array))
    return torch.from_numpy(array if kept else array.astype(np.float32))


def _check_shapes(path: Path, arrays: dict[str, np.ndarray]) -> None:
    g, v = arrays["windows"].shape
    if arrays["windows"].dtype.kind not in "iu" or not arrays["windows"].size or (arrays["windows"] < 0).any():
        found = f"{arrays['windows'].dtype.name} {arrays['windows'].shape}"
        raise InputError(
            f"{path}: 'windows' must hold frame numbers, whole and from 0, for at least one window; got {found}{SEE}."
        )
    odd = {name: arrays[name].dtype.name for name in DENSE if name in arrays and arrays[name].dtype.kind not in "fiub"}
    if odd:
        raise InputError(f"{path}: {', '.join(odd)} must hold numbers; got {', '.join(odd.values())}.")
    last = {"points": 3, "ray_direction": 3, "ray_moment": 3}
    for name in DENSE:
        if name not in arrays:
            continue
        shape = arrays[name].shape
        wanted = 4 if name in ("weight", "disparity", "disparity_weight", "ray_cam_to_win") else 5
        if len(shape) != wanted or 0 in shape or shape[:2] != (g, v) or shape[-1] != last.get(name, shape[-1]):
            fits = f"({g}, {v}, {TAILS.get(name, 'H, W')})"
            raise InputError(
                f"{path}: '{name}' must have the shape {fits}, since 'windows' is ({g}, {v}); got {shape}{SEE}."
            )
    origin = str(arrays.get("points_origin", "unknown"))
    if origin not in ("unknown", "camera"):
        raise InputError(f"{path}: points_origin must be 'unknown' or 'camera'; got {origin!r}.")
    _check_grids(path, arrays)


def _check_grids(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Maps of one kind share their grid; the optional per-frame arrays cover every frame."""
    for names in (("points", "weight", "disparity", "disparity_weight"), ("ray_direction", "ray_moment")):
        grids = {name: arrays[name].shape[2:4] for name in names if name in arrays}
        if len(set(grids.values())) > 1:
            raise InputError(f"{path}: {' and '.join(grids)} must share one (H, W); got {grids}.")
    if "ray_cam_to_win" in arrays and arrays["ray_cam_to_win"].shape[2:] != (4, 4):
        raise InputError(f"{path}: 'ray_cam_to_win' must be (G, V, 4, 4); got {arrays['ray_cam_to_win'].shape}.")


def _check_frames(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """The numbers of the frames are those of a video, and what there is for each frame is there for every one."""
    frames, places = int(arrays["windows"].max()) + 1, arrays["windows"].size
    if frames > SPARSEST * places:
        raise InputError(
            f"{path}: 'windows' holds the frame number {frames - 1} among {places}; number the video's frames from 0."
        )
    for name in ("images", "img", "timestamps"):
        if name in arrays and (arrays[name].ndim == 0 or len(arrays[name]) < frames):
            raise InputError(
                f"{path}: '{name}' has shape {arrays[name].shape}, too short for the {frames} frames in 'windows'."
            )
    for name in ("images", "img"):
        found = arrays.get(name)
        if found is not None and (found.dtype != np.uint8 or found.ndim != 4 or found.shape[3] != 3 or not found.size):
            raise InputError(f"{path}: '{name}' must be uint8 (T, H, W, 3); got {found.dtype.name} {found.shape}.")
    times = arrays.get("timestamps", np.zeros(0))
    if times.ndim != 1 or times.dtype.kind not in "fiu" or not np.isfinite(times).all():
        raise InputError(f"{path}: 'timestamps' must be finite seconds (T,); got {times.dtype.name} {times.shape}.")
