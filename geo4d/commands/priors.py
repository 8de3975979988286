"""What is known of a video beforehand, from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geo4d.errors import ConfigError, InputError

if TYPE_CHECKING:
    from geo4d.alignment import Distance, Priors


def add_prior_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `align` and `infer`."""
    group = parser.add_argument_group(
        "what is known beforehand", "pixels are those of the video; sigmas of 0 mean: exactly so"
    )
    group.add_argument(
        "--intrinsics", default=None, metavar="FX,FY,CX,CY|FILE", help="in pixels; or .npy (3, 3) or (T, 3, 3)"
    )
    group.add_argument("--focal-sigma", type=float, default=0.0, help="relative, of --intrinsics")
    group.add_argument(
        "--poses",
        default=None,
        metavar="FILE",
        help="cam_to_world: a TUM trajectory with a line a frame, or .npy (T, 4, 4)",
    )
    group.add_argument("--metric-poses", action="store_true", help="--poses are in metres")
    group.add_argument("--pose-sigma", type=parse_pair, default=(0.0, 0.0), metavar="DEG,LENGTH", help="of --poses")
    group.add_argument(
        "--depth", default=None, metavar="FILE.npy", help="metric z-depth (T, h, w) in metres, nan or 0 where unknown"
    )
    group.add_argument("--depth-sigma", type=float, default=0.05, help="relative, of --depth")
    group.add_argument(
        "--ignore", default=None, metavar="FILE.npy", help="bool (T, h, w): pixels that are not to determine cameras"
    )
    group.add_argument(
        "--camera-height", type=float, default=None, metavar="METRES", help="above the ground, in the typical frame"
    )
    group.add_argument(
        "--distance",
        nargs=3,
        action="append",
        default=[],
        metavar=("FRAME:U,V", "FRAME:U,V", "METRES"),
        help="a known distance between what two pixels show; may be repeated",
    )


def parse_pair(text: str) -> tuple[float, float]:
    """Two numbers."""
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected two numbers such as 0.5,0.02, got {text!r}") from error
    return first, second


def prior_files(args: argparse.Namespace) -> list[tuple[str, str | None]]:
    """(option, what it was given) of those that may name a file."""
    return [(f"--{name}", getattr(args, name)) for name in ("intrinsics", "poses", "depth", "ignore")]


def read_priors(args: argparse.Namespace) -> Priors:
    """Reads what the options name. Raises InputError or ConfigError for what cannot be used."""
    from geo4d.alignment import Priors

    return Priors(
        intrinsics=None if args.intrinsics is None else _intrinsics(args.intrinsics),
        focal_sigma=args.focal_sigma,
        cam_to_world=None if args.poses is None else _poses(Path(args.poses)),
        poses_are_metric=args.metric_poses,
        pose_turn_sigma_deg=args.pose_sigma[0],
        pose_centre_sigma=args.pose_sigma[1],
        depth=None if args.depth is None else _array(Path(args.depth)),
        depth_sigma=args.depth_sigma,
        ignore=None if args.ignore is None else _array(Path(args.ignore)),
        distances=tuple(_distance(words) for words in args.distance),
        camera_height=args.camera_height,
    )


def _intrinsics(text: str) -> np.ndarray:
    if Path(text).suffix == ".npy":
        return _array(Path(text))
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--intrinsics must be FX,FY,CX,CY in pixels or a .npy file; got {text!r}.") from error
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _poses(path: Path) -> np.ndarray:
    from geo4d.scene.files.reconstruction import read_tum

    return _array(path) if path.suffix == ".npy" else read_tum(path)[1]


def _array(path: Path) -> np.ndarray:
    from geo4d.scene.arrays import Unreadable, map_array

    try:
        return map_array(path)
    except Unreadable as error:
        raise InputError(f"{path} cannot be read as an array ({error}); give a .npy file with one.") from error


def _distance(words: list[str]) -> Distance:
    from geo4d.alignment import Distance

    try:
        ends = []
        for word in words[:2]:
            frame, _, pixel = word.partition(":")
            u, v = (float(part) for part in pixel.split(","))
            ends.append((int(frame), (u, v)))
        return Distance(*ends[0], *ends[1], float(words[2]))
    except ValueError as error:
        raise ConfigError(f"--distance takes FRAME:U,V FRAME:U,V METRES; got {' '.join(words)!r}.") from error
