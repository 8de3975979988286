"""Depth at the resolution of the pictures, beside depth before it and beside constant depth.

    python benchmarks/detail.py --recordings room=DIR,1000,0,5 office=DIR,1000,0.3,5 --json FILE
    python benchmarks/detail.py --clips V1 --only '*-moving-*' --json FILE

Recordings are in TUM layout (NAME=DIR,DEPTH_SCALE,NEAR,FAR), clips are folders as geo4d synth --benchmark writes them.
Every clip is predicted once and aligned with detail off, by flow and in full. Abs Rel is after an L1 scale and shift in
depth for the whole video; F1 is that of depth boundaries; moving: mean error of log depth where the truth moves, after
the median of what does not; trust: expected error by true error; seconds: CPU of one thread for the alignment.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from recordings import Recording, depth_error

from geo4d import Geo4D, Reconstruction
from geo4d.alignment import AlignmentConfig
from geo4d.errors import Geo4DError
from geo4d.geometry.resample import resize_nearest
from geo4d.io.video import read_video
from geo4d.metrics.boundary import boundary_metrics
from geo4d.pipeline import InferConfig

MODES = ("off", "flow", "full")
Row = dict[str, float]


@dataclass(frozen=True)
class Subject:
    """What is reconstructed, and the truth; true depth is 0 where it is not known."""

    name: str
    frames: np.ndarray
    true: np.ndarray
    moving: np.ndarray | None = None


def subjects(args: argparse.Namespace) -> Iterator[Subject]:
    """Recordings, then clips."""
    for text in args.recordings:
        recording = Recording.read(text)
        clip, true = recording.clip()
        yield Subject(recording.name, clip.frames, true)
    folders = sorted(args.clips.iterdir()) if args.clips is not None else []
    for folder in folders:
        if fnmatchcase(folder.name, args.only) and (folder / "depth.npy").is_file():
            depth = np.nan_to_num(np.load(folder / "depth.npy").astype(np.float32), posinf=0.0)
            depth[np.load(folder / "sky.npy") > 0] = 0.0
            moving = np.load(folder / "dynamic.npy") > 0
            yield Subject(folder.name, read_video(folder / "rgb.mp4").frames, depth, moving)


def scored(result: Reconstruction, subject: Subject) -> Row:
    """All figures of one reconstruction, at the size of the truth."""
    true = subject.true
    depth = np.where(result.valid, result.depth, np.nan)
    depth = resize_nearest(np.where(np.isfinite(depth), depth, np.nanmax(depth)), *true.shape[1:])
    known = true > 0
    log_error = np.where(known, np.log(np.maximum(true, 1e-6)) - np.log(depth), np.nan)
    still = known if subject.moving is None else known & ~subject.moving
    log_error = np.abs(log_error - np.median(log_error[still]))
    row = {"abs_rel": depth_error(depth, true, per="video"), "f1": boundary_metrics(depth, true, known).f1}
    if subject.moving is not None and (known & subject.moving).sum() > 1000:
        row["moving"] = float(log_error[known & subject.moving].mean())
    row["trust"] = result.diagnostics["expected_error"] / float(log_error[known].mean())
    return row


def compare(model: Geo4D, subject: Subject, modes: tuple[str, ...]) -> dict[str, Row]:
    """One subject, each way."""
    config = InferConfig()
    clip = model.read(subject.frames, config)
    predictions = model.predict(clip, config)
    constant = depth_error(np.ones_like(subject.true), subject.true, per="video")
    rows: dict[str, Row] = {"constant": {"abs_rel": constant}}
    for mode in modes:
        begin = time.process_time()
        result = model.fuse(clip, predictions, AlignmentConfig(detail=mode))  # type: ignore[arg-type]
        seconds = time.process_time() - begin
        rows[mode] = {**scored(result, subject), "seconds": seconds}
        rows[mode]["used"] = float(result.diagnostics.get("detail", {}).get("used", False))
    return rows


def summary(found: dict[str, dict[str, Row]], mode: str) -> str:
    """Of many clips: ratios to depth before detail."""
    ratios = np.array([rows[mode]["abs_rel"] / rows["off"]["abs_rel"] for rows in found.values()])
    moving = [rows[mode]["moving"] / rows["off"]["moving"] for rows in found.values() if "moving" in rows["off"]]
    words = [
        f"{mode}: {len(ratios)} clips, Abs Rel by that before: median {np.median(ratios):.3f}, "
        f"worst {ratios.max():.3f}",
        f"worse by more than 2 %: {int((ratios > 1.02).sum())}",
    ]
    if moving:
        words.append(f"moving pixels: median {np.median(moving):.3f}, worst {max(moving):.3f}")
    f1 = [(rows["off"]["f1"], rows[mode]["f1"]) for rows in found.values()]
    before, after = np.mean(f1, axis=0)
    used = sum(rows[mode]["used"] for rows in found.values())
    words.append(f"boundary F1 {before:.3f} to {after:.3f}; used on {used:.0f}")
    return "; ".join(words)


def main(words: list[str] | None = None) -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", nargs="*", default=[], metavar="NAME=DIR,DEPTH_SCALE,NEAR,FAR")
    parser.add_argument("--clips", type=Path, default=None, help="folder of a procedural benchmark's clips")
    parser.add_argument("--only", default="*", help="pattern of clips' names")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--model", default="small")
    parser.add_argument("--json", type=Path, default=None, help="figures as a file; what is there is not run again")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    modes = ("off", *(mode for mode in MODES[1:] if mode in args.modes))
    found = json.loads(args.json.read_text()) if args.json is not None and args.json.is_file() else {}
    try:
        model = Geo4D.from_pretrained(args.model, device="cpu")
        for subject in subjects(args):
            if subject.name not in found:
                found[subject.name] = compare(model, subject, modes)
                if args.json is not None:
                    args.json.write_text(json.dumps(found, indent=1) + "\n")
            for mode, row in found[subject.name].items():
                text = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if not math.isnan(value))
                sys.stdout.write(f"{subject.name:24s} {mode:9s} {text}\n")
            sys.stdout.flush()
    except Geo4DError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for mode in modes[1:]:
        sys.stdout.write(summary(found, mode) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
