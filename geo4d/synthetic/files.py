"""Procedural clips as folders of files, and as a contact sheet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import matplotlib
import numpy as np
import torch
from PIL import Image

from geo4d.errors import InputError
from geo4d.io.video import write_video
from geo4d.scene import Clip
from geo4d.scene.arrays import map_array, read_json
from geo4d.scene.atomic import whole_folder
from geo4d.synthetic.render import FPS, render_clips
from geo4d.synthetic.world import WORLDS, Detail

ARRAYS = ("depth", "sky", "instance", "dynamic", "intrinsics", "cam_to_world")
FOLDER_KIND, SHEET = "clips", "contact_sheet.png"
CLIP_FILE = "clip.json"  # what a clip was rendered from, in its folder
LOOK_ALIKE = 1e-3  # how far cameras of the same clip may lie apart, in metres and in units of the image's longer side


def write_clip(folder: Path, seed: int, *, frames: int, size: tuple[int, int], detail: Detail = "plain") -> None:
    """Writes rgb.mp4, one .npy for each kind of truth and clip.json; a folder that exists is complete and stays.

    Raises InputError if the folder holds a clip of another seed, length, size or detail, or the place cannot be
    written.
    """
    entry = {"seed": str(seed), "frames": frames, "size": list(size), "detail": detail}
    if folder.exists():
        _require_same(folder, entry)
    else:
        clip = render_clips([seed], num_frames=frames, size=size, config=WORLDS[detail]).map(lambda x: x[0])
        save_clip(folder, clip, extra={CLIP_FILE: json.dumps(entry, indent=1) + "\n"})


def _require_same(folder: Path, entry: Mapping[str, Any]) -> None:
    """Raises InputError unless the folder holds the clip of that entry."""
    try:
        told = folder / CLIP_FILE
        found = read_json(told) if told.is_file() else _guess_entry(folder, entry)
        found.setdefault("detail", "plain")  # before there was another
        changed = [key for key in entry if found.get(key) != entry[key]]
    except (OSError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{folder} holds no clip of geo4d synth that can be read; remove it, or choose another --out."
        ) from error
    if changed:
        key = changed[0]
        got = f"{found[key]}" if found.get(key) is not None else "another"
        raise InputError(
            f"{folder} holds a clip of {key} {got}, asked for {entry[key]}; remove it, or choose another --out."
        )


def _guess_entry(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Of a folder without clip.json, as they were written before.

    Its seed is that of the entry if the cameras are, else None.
    """
    names = ("depth", "cam_to_world", "intrinsics")
    depth, poses, intrinsics = (map_array(folder / f"{name}.npy") for name in names)
    frames, *size = depth.shape
    small = 8  # cameras do not depend on the size but for the unit of the intrinsics
    true = render_clips([int(entry["seed"])], num_frames=frames, size=(small, small)).map(lambda x: x[0])
    same = np.allclose(poses, true.cam_to_world.numpy(), atol=LOOK_ALIKE) and np.allclose(
        intrinsics[:, 0, 0] / max(size), true.intrinsics[:, 0, 0].numpy() / small, atol=LOOK_ALIKE
    )
    return {"seed": entry["seed"] if same else None, "frames": frames, "size": size}


def save_clip(folder: Path, clip: Clip, *, lossless: bool = False, extra: Mapping[str, str] | None = None) -> None:
    """Writes one clip and `extra` text files in one move. Raises InputError if the place cannot be written."""
    pictures = clip.rgb.mul(255).round().byte().numpy()
    try:
        with whole_folder(folder) as temporary:
            if lossless:
                write_lossless(temporary / "rgb.mp4", pictures)
            else:
                write_video(temporary / "rgb.mp4", pictures, FPS, crf=14)
            for name in ARRAYS:
                np.save(temporary / f"{name}.npy", getattr(clip, name).numpy(), allow_pickle=False)
            for name, text in (extra or {}).items():
                (temporary / name).write_text(text)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); choose another --out.") from error


def write_lossless(path: Path, frames: np.ndarray) -> None:
    """Frames (t, h, w, 3) uint8 as H.264 in RGB: every pixel is read back as it was.

    Few players show it, libraries read it.
    """
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=Fraction(FPS), options={"qp": "0", "preset": "slow"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]
        container.mux([packet for picture in (*pictures, None) for packet in stream.encode(picture)])


def write_contact_sheet(
    path: Path, seeds: list[int], *, size: tuple[int, int] = (128, 192), columns: int = 4, detail: Detail = "plain"
) -> None:
    """One frame of each scene, colour above depth (near is warm, sky is black)."""
    clips = render_clips(seeds, num_frames=1, size=size, config=WORLDS[detail])
    tiles = [torch.cat([clips.rgb[i, 0], torch.from_numpy(_colour(clips, i))]) for i in range(len(seeds))]
    rows = [torch.cat(tiles[i : i + columns], dim=1) for i in range(0, len(tiles), columns)]
    Image.fromarray(torch.cat(rows).mul(255).round().byte().numpy()).quantize(256).save(path, optimize=True)


def _colour(clips: Clip, i: int) -> np.ndarray:
    disparity = torch.where(clips.valid[i, 0], 1 / clips.depth[i, 0].clamp_min(0.05), 0.0)
    share = (disparity / disparity.quantile(0.98).clamp_min(1e-6)).clamp(0, 1).numpy()
    colours = matplotlib.colormaps["turbo"](share)[..., :3].astype(np.float32)
    return np.where(clips.sky[i, 0].numpy()[..., None], np.float32(0), colours)
