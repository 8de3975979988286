"""Whether the network looks at the pictures: its depth alone on recordings, and with the pictures taken away.

    python benchmarks/pictures.py room=DIR,1000,0,5 office=DIR,1000,0.3,5 --model small --json FILE

Recordings are in TUM layout (NAME=DIR,DEPTH_SCALE,NEAR,FAR). Each is reconstructed by the network alone (no followed
points) as it is, from grey pictures, and from the pictures of the next recording named. Abs Rel is after an L1 scale
and shift in depth for the whole video; rows: rank correlation with the truth inside image rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from recordings import Recording, depth_error, row_correlation
from torch.nn.functional import interpolate

from geo4d import Geo4D
from geo4d.errors import Geo4DError
from geo4d.io.video import resample
from geo4d.pipeline import InferConfig

Row = dict[str, float]


def depth_of(model: Geo4D, frames: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Depth (t, h, w) at another size, by the network and the alignment of its windows; its CPU seconds a frame."""
    config = InferConfig(tracks=False)
    clip = model.read(frames, config)
    begin = time.process_time()
    predictions = model.predict(clip, config)
    seconds = (time.process_time() - begin) / len(frames)
    depth = torch.as_tensor(model.fuse(clip, predictions).depth)
    return interpolate(depth[:, None].float(), size, mode="bilinear")[:, 0].numpy(), seconds


def fitted(frames: np.ndarray, like: np.ndarray) -> np.ndarray:
    """As many frames as another clip has, of its size; a shorter clip runs to and fro."""
    count, last = len(like), max(len(frames) - 1, 1)
    index = np.abs((np.arange(count) + last) % (2 * last) - last) if len(frames) > 1 else np.zeros(count, int)
    return np.stack([np.asarray(resample(Image.fromarray(frames[i]), like.shape[1:3])) for i in index])


def scored(guess: np.ndarray, true: np.ndarray) -> Row:
    """Both figures of one reconstruction."""
    return {"abs_rel": depth_error(guess, true, per="video"), "rows": row_correlation(guess, true)}


def look(model: Geo4D, recordings: list[Recording]) -> dict[str, dict[str, Row]]:
    """Of each recording: constant depth, the network, and the network without the pictures."""
    clips = [recording.clip() for recording in recordings]
    found: dict[str, dict[str, Row]] = {}
    for i, (recording, (clip, true)) in enumerate(zip(recordings, clips, strict=True)):
        size = true.shape[1:]
        depth, seconds = depth_of(model, clip.frames, size)
        rows = {
            "constant": {"abs_rel": depth_error(np.ones_like(true), true, per="video")},
            "pictures": scored(depth, true),
        }
        rows["pictures"]["seconds_per_frame"] = seconds
        rows["grey"] = scored(depth_of(model, np.full_like(clip.frames, 128), size)[0], true)
        if len(clips) > 1:
            others = fitted(clips[(i + 1) % len(clips)][0].frames, clip.frames)
            rows["another clip's"] = scored(depth_of(model, others, size)[0], true)
        found[recording.name] = rows
        for name, row in rows.items():
            words = ", ".join(f"{key} {value:.3f}" for key, value in row.items())
            sys.stdout.write(f"{recording.name:10s} {name:16s} {words}\n")
        sys.stdout.flush()
    return found


def main(words: list[str] | None = None) -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", metavar="NAME=DIR,DEPTH_SCALE,NEAR,FAR")
    parser.add_argument("--model", default="small")
    parser.add_argument("--json", type=Path, default=None, help="figures as a file")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    try:
        found = look(
            Geo4D.from_pretrained(args.model, device="cpu"), [Recording.read(text) for text in args.recordings]
        )
    except Geo4DError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
