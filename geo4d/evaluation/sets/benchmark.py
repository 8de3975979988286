"""The procedural benchmarks as `geo4d synth --benchmark` builds them; the truth is exact."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from geo4d.data.files import map_npy, naming, read_npy
from geo4d.data.frames import BadData
from geo4d.evaluation.sets.base import EvaluationSequence, EvaluationSet, Rule
from geo4d.io.video import read_video
from geo4d.synthetic.benchmark import CLIP_FILE, benchmark_clips
from geo4d.synthetic.render import FPS

ABOUT = {
    "v1": "All frames of all sixty clips; --include '*-indoor-*', '*-driving-*', '*-static-*', '*-hard' take a part.",
    "v2": "All frames of all clips; --include '*-table-*', '*-room-*', '*-outdoor-*', '*-driving-*' take a part.",
}


@lru_cache(maxsize=2)
def _pictures(file: Path) -> np.ndarray:
    with naming(file, "a video that can be read"):
        return read_video(file).frames


def _find(version: str, root: Path, rule: Rule) -> list[str]:
    return [clip.name for clip in benchmark_clips(version) if (root / clip.name / CLIP_FILE).is_file()]


def _load(root: Path, name: str, rule: Rule, task: str) -> EvaluationSequence:
    folder = root / name
    poses, intrinsics = (
        read_npy(folder / f"{array}.npy").astype(np.float64) for array in ("cam_to_world", "intrinsics")
    )
    depth = map_npy(folder / "depth.npy")
    if not len(poses) == len(intrinsics) == len(depth):
        raise BadData(
            folder / "depth.npy", f"holds {len(depth)} frames, there are {len(poses)} cameras; build the clip again"
        )
    rows = rule.pick(range(len(depth)))
    return EvaluationSequence(
        name=name,
        frames=tuple(f"{name}/rgb.mp4#{row}" for row in rows),
        timestamps=np.array(rows) / FPS,
        read_image=partial(_read_image, folder / "rgb.mp4", tuple(rows)),
        depth_frames=tuple(f"{name}/depth.npy#{row}" for row in rows),
        read_depth=partial(_read_row, folder / "depth.npy", tuple(rows)),
        read_moving=partial(_read_row, folder / "dynamic.npy", tuple(rows)),
        intrinsics=intrinsics[rows],
        cam_to_world=poses[rows],
        clock="recorded",
    )


def _read_image(file: Path, rows: tuple[int, ...], index: int) -> np.ndarray:
    pictures = _pictures(file)
    if rows[index] >= len(pictures):
        raise BadData(file, f"ends after {len(pictures)} frames; expected {rows[-1] + 1}; build the clip again")
    return pictures[rows[index]]


def _read_row(file: Path, rows: tuple[int, ...], index: int) -> np.ndarray:
    return np.array(map_npy(file)[rows[index]])


def _benchmark_set(version: str) -> EvaluationSet:
    number = len(benchmark_clips(version))
    return EvaluationSet(
        name=f"procedural-{version}",
        hint=f"<clip>/{CLIP_FILE} with rgb.mp4 and depth.npy, as geo4d synth --benchmark {version} writes them",
        rules={"all": Rule(ABOUT[version], {"depth": (), "pose": ()}, expected=number)},
        find=partial(_find, version),
        load=_load,
    )


PROCEDURAL_BENCHMARKS = tuple(_benchmark_set(version) for version in ABOUT)
