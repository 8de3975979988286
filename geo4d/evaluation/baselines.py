"""What can be had without looking at the video: constant depth, the mean depth map, a static camera, the mean path."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from geo4d.geometry.resample import resize_nearest
from geo4d.scene.arrays import read_archive
from geo4d.synthetic import FPS, render_clips, scene_seed

MEAN_SPLIT = 700001  # scenes that the mean map and the mean path are averaged over
MEAN_CLIPS = 512
MEAN_FRAMES = 32
MEAN_SIZE = (64, 96)
MEAN_FILE = "mean_map.npz"


def constant_depth(shape: tuple[int, ...]) -> np.ndarray:
    """Depth 1 everywhere."""
    return np.ones(shape)


def mean_map_depth(frames: int, height: int, width: int) -> np.ndarray:
    """(t, h, w) of one map: the median over many scenes of depth by the scene's own median, per pixel."""
    small = _means()["depth"]
    return np.broadcast_to(resize_nearest(small[None], height, width), (frames, height, width))


def static_camera(frames: int) -> np.ndarray:
    """A camera that stays where it is."""
    return np.tile(np.eye(4), (frames, 1, 1))


def mean_path(frames: int) -> np.ndarray:
    """The mean trajectory of many scenes (centres in units of the scene's median depth), the first camera its world."""
    centres = _means()["centres"]
    index = np.minimum(np.arange(frames), len(centres) - 1)
    path = static_camera(frames)
    path[:, :3, 3] = centres[index]
    return path


def mean_focal() -> float:
    """Geometric mean of focal length by the longer side of the image."""
    return float(_means()["focal"])


@cache
def _means() -> dict[str, np.ndarray]:
    return read_archive(Path(str(resources.files("geo4d.evaluation") / MEAN_FILE)))


def compute_means(path: Path) -> None:
    """Renders the scenes of MEAN_SPLIT and writes what the baselines need."""
    maps, centres, focals = [], [], []
    for i in range(0, MEAN_CLIPS, 16):
        seeds = [scene_seed(MEAN_SPLIT, k) for k in range(i, i + 16)]
        clips = render_clips(seeds, num_frames=5, size=MEAN_SIZE, frame_step=8)
        for k in range(16):
            valid = clips.valid[k].numpy()
            if not valid.any():
                continue
            median = float(np.median(clips.depth[k].numpy()[valid]))
            maps.append(np.where(valid[0], clips.depth[k, 0].numpy() / median, np.nan))
            centres.append(clips.cam_to_world[k, :, :3, 3].numpy() / median)
            focals.append(float(clips.intrinsics[k, 0, 0, 0]) / max(MEAN_SIZE))
    sampled_frames = np.linspace(0, MEAN_FRAMES, 5)
    mean = np.mean(centres, axis=0)
    path_centres = np.stack(
        [np.interp(np.arange(MEAN_FRAMES), sampled_frames, mean[:, axis]) for axis in range(3)], axis=1
    )
    with path.open("wb") as file:
        np.savez(
            file,
            depth=np.nanmedian(np.stack(maps), axis=0).astype(np.float32),
            centres=path_centres,
            focal=np.exp(np.mean(np.log(focals))),
            fps=FPS,
        )
