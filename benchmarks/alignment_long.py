"""Long videos: time, memory and drift of the alignment against the number of frames, windows as a folder of .npy."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import peak_memory
from numpy.lib.format import open_memmap

from geo4d.metrics.depth import depth_metrics
from geo4d.metrics.pose import pose_metrics
from geo4d.scene import Clip
from geo4d.synthetic import render_clips, scene_seed
from geo4d.synthetic.windows import NoiseLaw, iterate_windows
from geo4d.windows.plan import plan_windows

SCENE = (77, 3)  # split, number
SIZE = (64, 128)
RENDERED = 200  # frames; a longer video goes to and fro along them
COLUMNS = (
    "frames",
    "windows",
    "CPU s",
    "CPU s a window",
    "peak GB",
    "ATE by extent",
    "RPE-r deg",
    "log scale drift",
    "Abs Rel %",
)


def long_videos(args: argparse.Namespace) -> dict[str, Any]:
    """One process for each length."""
    clip = render_clips([scene_seed(*SCENE)], num_frames=min(RENDERED, max(args.frames)), size=SIZE).map(lambda x: x[0])
    rows = []
    sys.stdout.write("".join(f"{name:>17s}" for name in COLUMNS) + "\n")
    for frames in args.frames:
        with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
            truth = write_windows(to_and_fro(clip, frames), Path(folder))
            rows.append(pool.apply(measure, (folder, truth)))
        sys.stdout.write("".join(f"{rows[-1][name]:17.4f}" for name in COLUMNS) + "\n")
    return {"rows": rows}


def to_and_fro(clip: Clip, frames: int) -> Clip:
    """A video of any length."""
    last = len(clip.depth) - 1
    index = torch.arange(frames) % (2 * last)
    index = torch.where(index > last, 2 * last - index, index)
    return clip.map(lambda x: x[index])


def write_windows(clip: Clip, folder: Path) -> Path:
    """The folder that `geo4d align` reads, and the truth beside it."""
    windows = plan_windows(len(clip.depth), length=16)
    maps: dict[str, np.memmap] = {}
    for g, fields in enumerate(iterate_windows(clip, windows, NoiseLaw(), 1)):
        for name, value in fields.items():
            if name not in maps:
                maps[name] = open_memmap(
                    folder / f"{name}.npy", "w+", dtype=np.float32, shape=(len(windows), *value.shape)
                )
            maps[name][g] = value.numpy()
    np.save(folder / "windows.npy", windows.numpy().astype(np.int32))
    np.save(folder / "images.npy", (clip.rgb.clamp(0, 1) * 255).to(torch.uint8).numpy())
    truth = folder / "truth.npz"
    np.savez(truth, depth=clip.depth.numpy(), valid=clip.valid.numpy(), cam_to_world=clip.cam_to_world.double().numpy())
    return truth


def measure(folder: str, truth: Path) -> dict[str, float]:
    """Aligns one folder with one thread."""
    from geo4d.alignment import align
    from geo4d.scene.files.windows import load_windows

    torch.set_num_threads(1)
    with peak_memory() as memory:
        started = time.process_time()
        predictions = load_windows(Path(folder))
        result = align(predictions)
        seconds = time.process_time() - started
    with np.load(truth) as archive:
        depth, valid, poses = archive["depth"], archive["valid"], archive["cam_to_world"]
    pose = pose_metrics(result.cam_to_world, poses)
    scale = np.array([np.median(d[v] / r[v]) for d, r, v in zip(depth, result.depth, valid, strict=True)])
    log_scale = np.log(scale / np.median(scale))
    return {
        "frames": len(depth),
        "windows": len(predictions.windows),
        "CPU s": seconds,
        "CPU s a window": seconds / len(predictions.windows),
        "peak GB": memory["peak_gb"],
        "ATE by extent": pose.ate_sim3 / float(np.ptp(poses[:, :3, 3], axis=0).max()),
        "RPE-r deg": pose.rpe_rotation_deg,
        "log scale drift": float(np.ptp(log_scale)),
        "Abs Rel %": 100 * depth_metrics(result.depth, depth, valid).abs_rel,
    }
