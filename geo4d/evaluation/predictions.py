"""Results of any method, read from a folder.

Our own reconstructions, or arrays under the names that other projects use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from geo4d.data.files import naming
from geo4d.data.frames import BadData
from geo4d.errors import ConfigError, InputError
from geo4d.evaluation.archives import gather_arrays
from geo4d.geometry.pixels import resize_intrinsics
from geo4d.geometry.resample import resize_nearest
from geo4d.io.output import is_list
from geo4d.scene import Reconstruction
from geo4d.scene.files.reconstruction import SUMMARY, load_reconstruction

KEYS = {  # what an array means, by the names that projects give it
    "depth": ("depth", "depths", "depth_z", "depth_pred"),
    "disparity": ("disparity", "disps"),
    "points_cam": ("points_cam", "local_points", "pts3d_cam", "point_map"),  # their z is the depth
    "points_world": ("points_world", "world_points", "pts3d_world"),  # the same, once brought into their cameras
    "valid": ("valid", "mask"),
    "cam_to_world": ("cam_to_world", "cam_c2w", "camera_c2w", "camera_poses", "pose_pred"),
    "world_to_cam": ("world_to_cam", "extrinsic", "extrinsics"),
    "intrinsics": ("intrinsics", "intrinsic"),
}
POINTS_OF_EITHER = (
    "points",
    "pts3d",
    "pointmap",
)  # some projects mean the camera's frame, others the world's or the first camera's
CONFIDENCE = ("confidence", "depth_conf", "conf")  # of depth, in any unit: only its order counts
TAILS = {"points_cam": (3,), "points_world": (3,), "cam_to_world": (4, 4), "world_to_cam": (4, 4), "intrinsics": (3, 3)}
MIN_FOCAL_PX = 8.0  # below it a focal length is not in pixels


@dataclass(frozen=True)
class PredictionForm:
    """What the files do not say of themselves."""

    keys: Mapping[str, str] = field(default_factory=dict)  # meaning -> name of the array, where it is none of KEYS
    depth_is_disparity: bool = False  # what is called depth is 1 / depth, perhaps with a shift
    normalised_intrinsics: bool = False  # in units of the image's width and height
    # order in trajectory files; None: wxyz in pred_traj.txt, xyzw elsewhere
    quaternions: Literal["xyzw", "wxyz"] | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for a meaning that does not exist."""
        unknown = [key for key in self.keys if key not in KEYS]
        if unknown:
            raise ConfigError(
                f"There is no array {unknown[0]!r} in a prediction; expected names for {', '.join(KEYS)}."
            )


@dataclass(frozen=True)
class Prediction:
    """What a method says of one video; parts that it does not have are None."""

    source: Path
    depth: np.ndarray | None  # (t, h, w) z-depth at its own resolution; not finite where there is none
    cam_to_world: np.ndarray | None  # (t, 4, 4)
    intrinsics: np.ndarray | None  # (t, 3, 3), pixels of the depth maps
    confidence: np.ndarray | None = None  # (t, h, w) of the depth maps, more is better
    # mean of the error of log depth, if a method that has confidence = 1 / error says it
    expected_error: float | None = None

    def depth_at(
        self, size: tuple[int, int], *, interpolation: Literal["nearest", "bicubic"] = "nearest"
    ) -> np.ndarray:
        """Depth (t, H, W) at another size over the same view.

        Raises InputError if there is none, or it lies on its side.
        """
        if self.depth is None:
            raise InputError(f"{self.source} holds no depth; evaluate its cameras alone.")
        height, width = self.depth.shape[1:]
        if (height - width) * (size[0] - size[1]) < 0:
            raise BadData(
                self.source,
                f"holds depth of {width} x {height} for pictures of {size[1]} x {size[0]}; is it on its side?",
            )
        if (height, width) == size:
            return self.depth
        close = resize_nearest(self.depth, *size)
        if interpolation == "nearest":
            return close
        good = np.isfinite(self.depth)
        filled = torch.from_numpy(np.where(good, self.depth, 0.0).astype(np.float32))
        smooth = torch.nn.functional.interpolate(filled[:, None], size=size, mode="bicubic", align_corners=False)[
            :, 0
        ].numpy()
        around = torch.nn.functional.max_pool2d(torch.from_numpy(~good).float()[:, None], 5, 1, 2)[:, 0].numpy() > 0
        return np.where(
            resize_nearest(around, *size), close, smooth
        )  # the filter reaches two pixels far: not near a hole

    def intrinsics_at(self, size: tuple[int, int]) -> np.ndarray | None:
        """Intrinsics (t, 3, 3) of pictures of that size.

        None if there are none, or no depth that tells what they belong to.
        """
        if self.intrinsics is None or self.depth is None:
            return None
        return resize_intrinsics(torch.tensor(self.intrinsics, dtype=torch.float64), self.depth.shape[1:], size).numpy()


def read_prediction(
    folder: str | Path, sequence: str, frames: int, *, form: PredictionForm | None = None
) -> Prediction:
    """The prediction for one sequence of so many frames.

    Depth may also be given as points, in their cameras' frames (their z is it) or, beside cameras, in the world.
    It is looked for as `<folder>/<sequence>/` (a result of `geo4d infer`, .npy and .npz files, a file for each frame,
    trajectory files) or `<folder>/<sequence>.npz`; a "/" in the sequence's name may be "_" there. 3x4 poses get their
    last row, a batch of one and a channel of one are taken off.

    Raises:
        InputError: nothing is there, a name or shape is not understood, or the number of frames is not that of the
            sequence.
    """
    source = _find(Path(folder).expanduser(), sequence)
    if source.is_dir() and (source / SUMMARY).is_file():
        result = load_reconstruction(source)
        prediction = from_reconstruction(source, result)
    else:
        prediction = _from_arrays(source, form or PredictionForm())
    for what in ("depth", "cam_to_world", "intrinsics"):
        array = getattr(prediction, what)
        if array is not None and len(array) != frames:
            raise BadData(
                source, f"holds {what} of {len(array)} frames; {sequence} has {frames}: predict every frame of its list"
            )
    return prediction


def from_reconstruction(source: Path, result: Reconstruction) -> Prediction:
    """A result of our own pipeline as a prediction."""
    return Prediction(
        source,
        depth=np.where(result.valid, result.depth, np.nan),
        cam_to_world=np.asarray(result.cam_to_world),
        intrinsics=np.asarray(result.intrinsics),
        confidence=np.asarray(result.confidence),
        expected_error=result.diagnostics.get("expected_error"),
    )


def prediction_files(folder: str | Path, sequence: str) -> list[Path]:
    """All files of the prediction for one sequence, in a fixed order. Raises InputError if there is none."""
    source = _find(Path(folder).expanduser(), sequence)
    return (
        [source]
        if source.is_file()
        else sorted(path for path in source.rglob("*") if path.is_file() and not is_list(path.name))
    )


def _find(folder: Path, sequence: str) -> Path:
    if not folder.is_dir():
        raise InputError(
            f"There is no folder of predictions {folder}; expected one with a folder or .npz file for each sequence."
        )
    for name in dict.fromkeys((sequence, sequence.replace("/", "_"))):
        for path in (folder / name, folder / f"{name}.npz"):
            if path.is_dir() or path.is_file():
                return path
    raise InputError(
        f"{folder} holds no prediction for {sequence}; expected the folder {sequence} or the file {sequence}.npz in it."
    )


def _from_arrays(source: Path, form: PredictionForm) -> Prediction:
    arrays = gather_arrays(source, form.quaternions)
    found = {meaning: _pick(source, arrays, meaning, form) for meaning in KEYS}
    _refuse_unclear_points(source, arrays, found, form)
    if not any(
        found[key] is not None
        for key in ("depth", "disparity", "points_cam", "points_world", "cam_to_world", "world_to_cam")
    ):
        raise BadData(
            source,
            f"holds no depth and no cameras: got {', '.join(sorted(arrays)) or 'no array'}; expected names such as "
            f"{', '.join(names[0] for names in KEYS.values())}",
        )
    poses, world_to_cam, intrinsics = found["cam_to_world"], found["world_to_cam"], found["intrinsics"]
    if poses is not None and world_to_cam is not None:
        raise BadData(source, "holds cameras both ways, cam_to_world and world_to_cam; keep one")
    if world_to_cam is not None:
        with naming(source, "world_to_cam matrices that have an inverse"):
            poses = np.linalg.inv(world_to_cam)
    if found["points_world"] is not None and not any(
        found[key] is not None for key in ("depth", "disparity", "points_cam")
    ):
        found["points_cam"] = _into_cameras(source, found["points_world"], poses)
    depth = _depth(source, found, form)
    count = len(depth) if depth is not None else len(poses) if poses is not None else 0
    if intrinsics is not None and len(intrinsics) == 1 and count > 1:
        intrinsics = np.repeat(intrinsics, count, axis=0)  # one camera for the whole video
    pixels = None if intrinsics is None else _in_pixels(source, intrinsics, depth, form)
    return Prediction(source, depth, poses, pixels, _confidence(arrays, depth))


def _refuse_unclear_points(
    source: Path, arrays: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray | None], form: PredictionForm
) -> None:
    """Raises BadData where depth could come from points alone, whose frame nobody has said."""
    if any(found[key] is not None for key in ("depth", "disparity", "points_cam", "points_world")):
        return
    name = next((name for name in POINTS_OF_EITHER if name in arrays and name not in form.keys.values()), None)
    if name is not None:
        say = f"say which by --key points_cam={name} or --key points_world={name}"
        raise BadData(source, f"holds {name}, which may be in their cameras' frames or in the world's; {say}")


def _into_cameras(source: Path, points_world: np.ndarray, cam_to_world: np.ndarray | None) -> np.ndarray:
    """Points (t, h, w, 3) of the world in the frame of the camera that sees them."""
    if cam_to_world is None or len(cam_to_world) != len(points_world):
        got = "none" if cam_to_world is None else str(len(cam_to_world))
        raise BadData(
            source,
            f"holds points of {len(points_world)} frames in the world; expected as many cameras to give depth, got "
            f"{got}",
        )
    with naming(source, "cam_to_world matrices that have an inverse"):
        world_to_cam = np.linalg.inv(cam_to_world.astype(np.float64))
    return np.einsum("tij,thwj->thwi", world_to_cam[:, :3, :3], points_world) + world_to_cam[:, None, None, :3, 3]


def _confidence(arrays: Mapping[str, np.ndarray], depth: np.ndarray | None) -> np.ndarray | None:
    """The first array with the name of a confidence that fits the depth.

    It is not needed, so others are passed over.
    """
    if depth is None:
        return None
    found = [
        arrays[name]
        for name in CONFIDENCE
        if name in arrays and arrays[name].size == depth.size and arrays[name].dtype.kind in "fiu"
    ]
    return found[0].reshape(depth.shape).astype(np.float32) if found else None


def _pick(source: Path, arrays: Mapping[str, np.ndarray], meaning: str, form: PredictionForm) -> np.ndarray | None:
    """The array of this meaning, brought to its shape."""
    if meaning in form.keys and form.keys[meaning] not in arrays:
        raise BadData(
            source, f"holds no array {form.keys[meaning]!r} for {meaning}; got {', '.join(sorted(arrays)) or 'none'}"
        )
    named = set(form.keys.values())
    names = (
        [form.keys[meaning]]
        if meaning in form.keys
        else [name for name in KEYS[meaning] if name in arrays and name not in named]
    )
    if len(names) > 1:
        raise BadData(source, f"holds {' and '.join(names)}, which both mean {meaning}; say which by its name")
    if not names:
        return None
    array, tail = arrays[names[0]], TAILS.get(meaning, ())
    rank = 1 + len(tail) + (0 if meaning in ("cam_to_world", "world_to_cam", "intrinsics") else 2)
    if array.ndim > rank and not tail and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim > rank and array.shape[0] == 1:
        array = array[0]
    if meaning == "intrinsics" and array.shape == (3, 3):
        array = array[None]
    if tail == (4, 4) and array.shape[1:] == (3, 4):
        array = np.concatenate(
            [array, np.broadcast_to(np.array([0, 0, 0, 1], array.dtype), (len(array), 1, 4))], axis=1
        )
    if (
        array.ndim != rank
        or not len(array)
        or (tail and array.shape[-len(tail) :] != tail)
        or array.dtype.kind not in "fiub"
    ):
        expected = ", ".join(["t", *(["h", "w"] if rank - len(tail) == 3 else []), *map(str, tail)])
        raise BadData(
            source,
            f"holds {names[0]} of {arrays[names[0]].dtype} and shape {list(arrays[names[0]].shape)}; expected "
            f"({expected})",
        )
    return array


def _depth(source: Path, found: Mapping[str, np.ndarray | None], form: PredictionForm) -> np.ndarray | None:
    """(t, h, w) with nan in holes, from depth, disparity or points, whichever is there."""
    depth, disparity, points, valid = (found[name] for name in ("depth", "disparity", "points_cam", "valid"))
    if form.depth_is_disparity and depth is not None:
        depth, disparity = None, depth
    if depth is None and disparity is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.where(disparity > 0, 1 / disparity.astype(np.float64), np.nan)
    if depth is None and points is not None:
        depth = points[..., 2]
    if depth is None:
        return None
    depth = depth.astype(np.float32 if depth.dtype.itemsize <= 4 else np.float64)
    if valid is not None:
        if valid.shape != depth.shape:
            raise BadData(source, f"holds a mask of shape {list(valid.shape)} for depth of shape {list(depth.shape)}")
        depth = np.where(valid > 0, depth, np.nan)
    if not (np.isfinite(depth) & (depth != 0)).any():
        raise BadData(source, "holds depth that is zero or not finite in every pixel")
    return depth


def _in_pixels(source: Path, intrinsics: np.ndarray, depth: np.ndarray | None, form: PredictionForm) -> np.ndarray:
    """(t, 3, 3) float64 in pixels of the depth maps."""
    intrinsics = intrinsics.astype(np.float64)
    if form.normalised_intrinsics:
        if depth is None:
            raise BadData(source, "holds normalised intrinsics but no depth maps that tell the size of the image")
        return np.array([depth.shape[2], depth.shape[1], 1.0])[:, None] * intrinsics
    if not (intrinsics[:, [0, 1], [0, 1]] > MIN_FOCAL_PX).all():
        least = intrinsics[:, [0, 1], [0, 1]].min()
        raise BadData(
            source,
            f"holds a focal length of {least:g}; expected pixels: say so if intrinsics are normalised by the image's "
            "size",
        )
    return intrinsics
