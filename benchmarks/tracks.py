"""Points followed through clips of known depth and cameras: how many, how long, how well, and what settings change."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from geo4d.errors import ConfigError
from geo4d.evaluation.demo import demo_truth, demo_video
from geo4d.evaluation.synthetic import SyntheticSet, TrueClip, render_true_clip
from geo4d.evaluation.tum import read_tum_clip
from geo4d.geometry.pixels import nearest_pixel
from geo4d.io.video import read_video
from geo4d.scene import Tracks
from geo4d.synthetic import FPS, SceneConfig, render_clips, scene_seed
from geo4d.synthetic.staging import Staging
from geo4d.tracks import TrackerConfig, track_points

WRONG = 3.0  # pixels off the truth, from which an observation is of something else
EDGE = 1.1  # ratio of the depths of neighbouring pixels, from which they are of two surfaces
TURN = 40  # frames until the camera of `there_and_back` turns
COLUMNS = {  # what is measured: its heading, and whether a change is told in per cent
    "tracks_per_frame": ("tracks", True),
    "mean_length": ("length", True),
    "closed": ("closed", False),
    "median_error": ("error", True),
    "wrong_share": ("wrong", False),
    "ms_per_frame": ("time", True),
}


@dataclass(frozen=True)
class Measured:
    """One clip, or the mean of several.

    Errors are distances in pixels of the source from where a static point really is.
    """

    tracks_per_frame: float  # observed
    mean_length: float  # frames in which a track is observed
    closed: float  # tracks that go on after a gap
    median_error: float
    wrong_share: float  # of the observations after the first, that are off by WRONG or more
    ms_per_frame: float  # CPU


def sensitivity(args: argparse.Namespace) -> dict[str, Any]:
    """Every number of the tracker halved and doubled, one at a time."""
    clips = [clip for _, clip in all_clips(args)]
    default, tracks = measure_all(clips, TrackerConfig())
    rows: dict[str, Any] = {}
    print_row("", "", *(f"{heading}: {text}" for heading in ("half", "double") for text, _ in COLUMNS.values()))
    print_row("default", "", *(show(name, value) for name, value in dataclasses.asdict(default).items()))
    for name, value, *changed in variations(TrackerConfig()):
        if not name.startswith(tuple(args.only)):
            continue
        cells: list[str] = []
        rows[name] = {"value": value}
        for word, config in zip(("half", "double"), changed, strict=True):
            if config is None:
                rows[name][word], texts = "refused", ["refused"]
            else:
                measured, others = measure_all(clips, config)
                same = all(is_same(a, b) for a, b in zip(tracks, others, strict=True))
                rows[name][word] = "nothing changes" if same else dataclasses.asdict(measured)
                texts = ["same"] if same else compare(default, measured)
            cells += texts + [""] * (len(COLUMNS) - len(texts))
        print_row(name, f"{value:g}", *cells)
    return {"default": dataclasses.asdict(default), "numbers": rows}


def clips(args: argparse.Namespace) -> dict[str, Any]:
    """The default settings on each clip."""
    result = {}
    print_row("", "", *(text for text, _ in COLUMNS.values()))
    for name, clip in all_clips(args):
        result[name] = dataclasses.asdict(measure(clip, TrackerConfig())[0])
        print_row(name, str(len(clip.frames)), *(show(column, value) for column, value in result[name].items()))
    return result


def all_clips(args: argparse.Namespace) -> Iterator[tuple[str, TrueClip]]:
    """The bundled clip, one whose camera comes back, one whose camera stands still, held-out clips and recordings."""
    video = read_video(demo_video(), resize=lambda height, width: (height, width))
    yield "demo", replace(demo_truth(), frames=video.frames)
    turning = there_and_back()
    yield "there and back", turning
    yield "still", stand_still(turning)
    dataset = SyntheticSet(num=args.count)
    for index in range(args.count):
        yield f"held-out {index}", render_true_clip(dataset, index)
    for folder in args.recordings:
        yield folder.name, read_tum_clip(folder, depth_scale=args.depth_scale, max_frames=args.frames)


def there_and_back() -> TrueClip:
    """A camera that looks about in a room, and back the same way, so that points come into view again."""
    config = SceneConfig(1.0, 0.0, (45.0, 70.0), compression=False, staging=Staging(camera="pan", is_still=True))
    clip = render_clips([scene_seed(66, 0)], num_frames=TURN, size=(144, 192), frame_step=3, config=config).map(
        lambda x: x[0]
    )
    order = np.r_[:TURN, TURN - 2 : -1 : -1]
    return TrueClip(
        frames=clip.rgb.mul(255).round().byte().numpy()[order],
        timestamps=np.arange(len(order)) * 3 / FPS,
        depth=clip.depth.numpy()[order],
        valid=clip.valid.numpy()[order],
        dynamic=np.zeros((len(order), *clip.depth.shape[1:]), bool),
        intrinsics=clip.intrinsics.double().numpy()[order],
        cam_to_world=clip.cam_to_world.double().numpy()[order],
    )


def stand_still(clip: TrueClip) -> TrueClip:
    """Its first frame over and over, with the noise of a sensor."""
    order = np.zeros(TURN, int)
    frames = np.random.default_rng(0).normal(clip.frames[order], 2.0).clip(0, 255).astype(np.uint8)
    fields = ("timestamps", "depth", "valid", "dynamic", "intrinsics", "cam_to_world")
    return TrueClip(frames, **{name: getattr(clip, name)[order] for name in fields})


def measure_all(clips: list[TrueClip], config: TrackerConfig) -> tuple[Measured, list[Tracks]]:
    """The mean over clips, nan where nothing is left to measure in any, and the tracks of each."""
    rows, tracks = zip(*(measure(clip, config) for clip in clips), strict=True)
    table = np.array([dataclasses.astuple(row) for row in rows])
    counted = np.isfinite(table)
    return Measured(
        *(np.where(counted, table, 0).sum(axis=0) / np.where(counted.any(axis=0), counted.sum(axis=0), np.nan))
    ), list(tracks)


def measure(clip: TrueClip, config: TrackerConfig) -> tuple[Measured, Tracks]:
    """Tracks of a clip, and what they are worth."""
    started = time.process_time()
    tracks = track_points(clip.frames, config)
    seconds = time.process_time() - started
    rows = len(tracks.track)
    length, first, last = (np.zeros(tracks.num_tracks, int) for _ in range(3))
    first[:] = tracks.num_frames
    np.add.at(length, tracks.track, 1)
    np.minimum.at(first, tracks.track, tracks.frame)
    np.maximum.at(last, tracks.track, tracks.frame)
    errors = reprojection_errors(clip, tracks)
    return Measured(
        rows / tracks.num_frames,
        rows / max(tracks.num_tracks, 1),
        float((last - first + 1 > length).sum()),
        float(np.median(errors)) if len(errors) else math.nan,
        float(np.mean(errors >= WRONG)) if len(errors) else math.nan,
        1000 * seconds / tracks.num_frames,
    ), tracks


def reprojection_errors(clip: TrueClip, tracks: Tracks) -> np.ndarray:
    """How far (pixels) observations of static points lie from where the truth puts them.

    A track's first observation is lifted by the true depth of its pixel and put into the cameras of the frames of the
    others.
    """
    order = np.lexsort((tracks.frame, tracks.track))
    track, frame, position = tracks.track[order], tracks.frame[order], tracks.position[order].astype(np.float64)
    start = np.unique(track, return_index=True)[1]
    row, column = nearest_pixel(position[start], tracks.source_size, clip.depth.shape[1:])
    here = frame[start]
    known = clip.valid[here, row, column] & ~clip.dynamic[here, row, column] & ~depth_edges(clip)[here, row, column]
    rays = np.linalg.solve(clip.intrinsics[here], np.column_stack([position[start], np.ones(len(start))])[..., None])[
        ..., 0
    ]
    points = np.ones((len(start), 4))
    points[:, :3] = rays * clip.depth[here, row, column][:, None]
    world = (clip.cam_to_world[here] @ points[..., None])[..., 0]
    later = np.setdiff1d(np.flatnonzero(known[track]), start)
    seen = (np.linalg.inv(clip.cam_to_world)[frame[later]] @ world[track[later]][..., None])[:, :3, 0]
    pixel = (clip.intrinsics[frame[later]] @ seen[..., None])[..., 0]
    error = np.linalg.norm(pixel[:, :2] / pixel[:, 2:] - position[later], axis=1)
    return np.where(pixel[:, 2] > 0, error, np.inf)


def depth_edges(clip: TrueClip) -> np.ndarray:
    """Pixels (t, h, w) beside which depth jumps, or is not known: a point there may be of either side."""
    size = (1, 3, 3)
    far = maximum_filter(np.where(clip.valid, clip.depth, np.inf), size)
    return ~(far < EDGE * minimum_filter(np.where(clip.valid, clip.depth, np.inf), size))


def variations(config: Any, prefix: str = "") -> Iterator[tuple[str, float, Any, Any]]:
    """Every number of a config and those inside it.

    Name, value, the config with it halved and doubled (None: refused).
    """
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            for name, number, *changed in variations(value, f"{prefix}{item.name}."):
                yield (
                    name,
                    number,
                    *(None if inner is None else replace(config, **{item.name: inner}) for inner in changed),
                )
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers = (value // 2, value * 2) if isinstance(value, int) else (value / 2, value * 2)
            yield prefix + item.name, value, *(changed_or_none(config, item.name, number) for number in numbers)


def changed_or_none(config: Any, name: str, value: float) -> Any:
    """The config with another number, None if it refuses it."""
    try:
        return replace(config, **{name: value})
    except ConfigError:
        return None


def is_same(first: Tracks, second: Tracks) -> bool:
    """To the last bit."""
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("track", "frame", "position"))


def compare(default: Measured, changed: Measured) -> list[str]:
    """Changes in per cent, or the new number."""
    texts = []
    for name, (_, relative) in COLUMNS.items():
        before, after = getattr(default, name), getattr(changed, name)
        texts.append(f"{100 * (after / before - 1):+.1f} %" if relative and before else show(name, after))
    return texts


def show(name: str, value: float) -> str:
    """A number of a column."""
    return (
        f"{100 * value:.2f} %"
        if name == "wrong_share"
        else f"{value:.3f}"
        if name == "median_error"
        else f"{value:.1f}"
    )


def print_row(name: str, value: str, *cells: str) -> None:
    """A line of the table, at once."""
    sys.stdout.write(f"{name:36s}{value:>8s}" + "".join(f"{cell:>15s}" for cell in cells).rstrip() + "\n")
    sys.stdout.flush()


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, function in (("clips", clips), ("sensitivity", sensitivity)):
        sub = parts.add_parser(name, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(function=function)
        sub.add_argument("--count", type=int, default=2, help="held-out clips")
        sub.add_argument("--recordings", nargs="*", type=Path, default=[], help="folders in TUM layout")
        sub.add_argument("--depth-scale", type=float, default=1000.0, help="depth PNG value of one metre")
        sub.add_argument("--frames", type=int, default=None, help="at most so many of recordings")
        sub.add_argument("--only", nargs="*", default=[""], help="beginnings of the names of numbers to change")
        sub.add_argument("--out", type=Path, default=None, help="JSON file for the figures")
    args = parser.parse_args()
    result = args.function(args)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
