"""What is given before the alignment: intrinsics, cameras, depth, pixels to leave out, and lengths in the scene."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from geo4d._typing import Bool, Float, Int, Tensor
from geo4d.alignment.cameras import FixedIntrinsics
from geo4d.alignment.joint.problem import Given
from geo4d.errors import ConfigError, InputError
from geo4d.geometry.resample import resize_nearest
from geo4d.scene import WindowPredictions

LEAST_TURN_SIGMA = 1e-5  # radians, of a prior that is soft in its centres alone
LEAST_SHIFT_SIGMA = 1e-6  # the same of its centres, in the poses' unit
LARGEST_SKEW = 1e-3  # of intrinsics and rotations, above which they are taken for something else
LENGTHS = (1e-4, 1e5)  # metres that a scene can have
FARTHEST = 1e8  # of cameras from their world's origin, in the poses' unit: maps have millions of metres
PIXELS = 1e6  # largest entry of intrinsics that can be: far beyond any picture
# option, least (beside 0) and largest value, what they are in
SIGMAS = {
    "focal_sigma": ("--focal-sigma", 1e-6, 10.0, "of the focal length"),
    "pose_turn_sigma_deg": ("--pose-sigma", 1e-6, 360.0, "degrees"),
    "pose_centre_sigma": ("--pose-sigma", 1e-6, 1e6, "of the poses' unit"),
    "depth_sigma": ("--depth-sigma", 1e-6, 10.0, "of the depth"),
}
OPTIONS = {"intrinsics": "--intrinsics", "cam_to_world": "--poses", "depth": "--depth", "ignore": "--ignore"}


@dataclass(frozen=True)
class Distance:
    """The distance in metres between what two pixels (u, v) of two frames show; pixel centres are at +0.5."""

    frame_a: int
    pixel_a: tuple[float, float]
    frame_b: int
    pixel_b: tuple[float, float]
    metres: float


@dataclass(frozen=True)
class Priors:
    """Each is optional; a sigma of 0 means that it is exact and is not moved.

    `intrinsics` (3, 3) or (T, 3, 3) are in pixels of the video (of the predictions' grid where the video's size is
    unknown), and so are the pixels of `distances`. `depth` (T, h, w) is metric z-depth of any resolution, nan or 0
    where unknown. `ignore` (T, h, w) is true where pixels are not to determine cameras: they still get their depth.
    Poses are cam_to_world. Metric depth, metric poses, a distance or the camera's height above the ground make the
    result metric.
    """

    intrinsics: Any = None
    focal_sigma: float = 0.0  # relative
    cam_to_world: Any = None  # (T, 4, 4)
    poses_are_metric: bool = False
    pose_turn_sigma_deg: float = 0.0
    pose_centre_sigma: float = 0.0  # in the poses' unit
    depth: Any = None
    depth_sigma: float = 0.05  # relative
    ignore: Any = None
    distances: tuple[Distance, ...] = field(default_factory=tuple)
    camera_height: float | None = None  # metres above the ground, of the typical frame

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot be, InputError for arrays of another shape or of such numbers."""
        for name, (option, least, largest, unit) in SIGMAS.items():
            value, lower = (
                getattr(self, name),
                "from" if name == "depth_sigma" else "0 or from",
            )  # depth is never taken for exact
            if not (_within(value, least, largest) or (value == 0 and name != "depth_sigma")):
                raise ConfigError(
                    f"The prior {name} ({option}) must be {lower} {least:g} to {largest:g} {unit}; got {value}."
                )
        lengths: list[tuple[str, Any]] = [("distance (--distance)", distance.metres) for distance in self.distances]
        if self.camera_height is not None:
            lengths.append(("camera_height (--camera-height)", self.camera_height))
        for name, value in lengths:
            if not _within(value, *LENGTHS):
                raise ConfigError(
                    f"The prior {name} must be from {LENGTHS[0]:g} to {LENGTHS[1]:g} metres; got {value}."
                )
        for name, dimensions, last in (
            ("intrinsics", (2, 3), (3, 3)),
            ("cam_to_world", (3,), (4, 4)),
            ("depth", (3,), ()),
            ("ignore", (3,), ()),
        ):
            if getattr(self, name) is not None:
                self._check_array(name, dimensions, last)
        if self.intrinsics is not None:
            _check_intrinsics(np.asarray(self.intrinsics, dtype=np.float64))
        if self.cam_to_world is not None:
            _check_poses(np.asarray(self.cam_to_world, dtype=np.float64))

    def _check_array(self, name: str, dimensions: tuple[int, ...], last: tuple[int, ...]) -> None:
        value = np.asarray(getattr(self, name))
        shape, option = value.shape, OPTIONS[name]
        if len(shape) not in dimensions or shape[len(shape) - len(last) :] != last or 0 in shape:
            wanted = {"intrinsics": "(3, 3) or (T, 3, 3)", "cam_to_world": "(T, 4, 4)"}.get(name, "(T, h, w)")
            raise InputError(f"The prior {name} ({option}) must have the shape {wanted}; got {shape}.")
        if value.dtype.kind not in "fiub":
            raise InputError(f"The prior {name} ({option}) must hold numbers; got {value.dtype.name}.")
        if name in ("intrinsics", "cam_to_world") and not np.isfinite(value).all():
            raise InputError(
                f"The prior {name} ({option}) holds values that are not finite; leave it out, or give it for every "
                "frame."
            )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is given."""
        given = (self.intrinsics, self.cam_to_world, self.depth, self.ignore, self.camera_height)
        return all(value is None for value in given) and not self.distances

    def resolve(self, predictions: WindowPredictions, index: Int[Tensor, "p"] | None) -> ResolvedPriors:
        """The priors on the predictions' grid, depth at the sampled pixels `index`.

        Raises InputError for another video's.
        """
        frames = predictions.num_frames
        for name in ("cam_to_world", "depth", "ignore"):
            value = getattr(self, name)
            if value is not None and len(value) != frames:
                raise InputError(
                    f"The prior {name} is of {len(value)} frames, the video has {frames}; give one for each."
                )
        fixed_intrinsics, log_focal = self._fixed_intrinsics(predictions)
        log_depth = self._log_depth(predictions)
        depth_at = None if log_depth is None or index is None else log_depth.flatten(1)[:, index].double()
        poses = None if self.cam_to_world is None else torch.from_numpy(np.array(self.cam_to_world, dtype=np.float64))
        soft = self.pose_turn_sigma_deg > 0 or self.pose_centre_sigma > 0
        given = Given(
            poses,
            max(math.radians(self.pose_turn_sigma_deg), LEAST_TURN_SIGMA) if soft else 0.0,
            max(self.pose_centre_sigma, LEAST_SHIFT_SIGMA) if soft else 0.0,
            depth_at,
            self.depth_sigma,
            one_scale=self.poses_are_metric,
        )
        return ResolvedPriors(fixed_intrinsics, log_focal, given, log_depth, self._ignored(predictions))

    def _fixed_intrinsics(self, predictions: WindowPredictions) -> tuple[FixedIntrinsics, Tensor | None]:
        frames = predictions.num_frames
        if self.intrinsics is None:
            return FixedIntrinsics.ideal(frames), None
        k = torch.from_numpy(np.array(self.intrinsics, dtype=np.float64))
        if k.ndim == 3 and len(k) != frames:
            raise InputError(
                f"The prior intrinsics are of {len(k)} frames, the video has {frames}; give one for each, or one for "
                "all."
            )
        k = k.expand(frames, 3, 3)
        height, width = predictions.grid_size
        source = predictions.source_size or (height, width)
        x, y = width / source[1], height / source[0]
        side = max(height, width)
        principal_point = torch.stack([k[:, 0, 2] * x - width / 2, k[:, 1, 2] * y - height / 2], dim=-1) / side
        return FixedIntrinsics(principal_point, k[:, 1, 1] * y / (k[:, 0, 0] * x)), (k[:, 0, 0] * x / side).log()

    def _log_depth(self, predictions: WindowPredictions) -> Float[Tensor, "t h w"] | None:
        if self.depth is None:
            return None
        # in its own type, whose numbers are checked
        depth = resize_nearest(np.asarray(self.depth), *predictions.grid_size)
        valid = np.isfinite(depth) & (depth > 0)
        if not valid.any():
            raise InputError("The prior depth (--depth) holds no value above 0; leave it out.")
        if depth[valid].min() < LENGTHS[0] or depth[valid].max() > LENGTHS[1]:
            raise InputError(
                f"The prior depth (--depth) must be from {LENGTHS[0]:g} to {LENGTHS[1]:g} metres; got "
                f"{depth[valid].min():g} to {depth[valid].max():g}: put nan or 0 where it is unknown."
            )
        return torch.from_numpy(np.log(np.where(valid, depth, np.nan).astype(np.float32)))

    def _ignored(self, predictions: WindowPredictions) -> Bool[Tensor, "t h w"] | None:
        if self.ignore is None:
            return None
        return torch.from_numpy(resize_nearest(np.asarray(self.ignore).astype(bool), *predictions.grid_size))


@dataclass(frozen=True)
class ResolvedPriors:
    """Priors as the solver takes them."""

    fixed_intrinsics: FixedIntrinsics
    log_focal: Tensor | None  # (t,) by the longer side
    given: Given
    log_depth: Tensor | None  # (t, h, w), nan where unknown
    ignore: Tensor | None  # (t, h, w)


def _within(value: Any, least: float, largest: float) -> bool:
    """Whether a value is a number of that range; nan is not."""
    return (
        isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(least <= value <= largest)
    )


def _check_intrinsics(k: np.ndarray) -> None:
    """Raises InputError unless (3, 3) or (T, 3, 3) are of a pinhole camera without skew, of the size of pictures."""
    zero = np.abs(np.stack([k[..., 0, 1], k[..., 1, 0], k[..., 2, 0], k[..., 2, 1], k[..., 2, 2] - 1]))
    if zero.max() > LARGEST_SKEW * max(float(np.abs(k).max()), 1.0):
        raise InputError(
            "The prior intrinsics (--intrinsics) must have the form [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; got another."
        )
    focal = k[..., [0, 1], [0, 1]]
    if focal.min() < 1 / PIXELS or np.abs(k).max() > PIXELS:
        raise InputError(
            f"The prior intrinsics (--intrinsics) must have focal lengths above 0 and no entry beyond {PIXELS:g} "
            f"pixels; got focal lengths from {focal.min():g} to {focal.max():g}."
        )


def _check_poses(poses: np.ndarray) -> None:
    """Raises InputError unless (T, 4, 4) are rotations and translations of a size that maps have."""
    if np.abs(poses).max() > FARTHEST:
        raise InputError(
            f"The prior cam_to_world (--poses) must lie within {FARTHEST:g} of the origin; got {np.abs(poses).max():g}."
        )
    rotation = poses[:, :3, :3]
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max()
    last = np.abs(poses[:, 3] - [0, 0, 0, 1]).max()
    if max(off, last) > LARGEST_SKEW or (np.linalg.det(rotation) < 0).any():
        raise InputError(
            "The prior cam_to_world (--poses) must hold rigid transforms, a rotation and a translation; got other "
            "matrices."
        )
