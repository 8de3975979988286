"""The procedural benchmarks: clips with exact truth.

Anyone can build them again, and the same to the bit in their parameters. v1 has sixty clips of plain worlds (indoor,
outdoor and driving; static and moving cameras; easy, medium and hard motion; 32 to 200 frames), v2 twenty-four of
lifelike ones (at tables, in rooms, outdoors, from a car; 32 to 96 frames). Their scene splits are used by nothing else.
A clip's scene parameters are float32 numbers made by numpy's generators; what is rendered from them differs between
machines by rounding alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch

from geo4d.errors import ConfigError, InputError
from geo4d.io.output import register
from geo4d.scene import Clip
from geo4d.scene.arrays import Unreadable, read_json
from geo4d.scene.atomic import whole_file
from geo4d.synthetic.benchmark_tables import BENCHMARKS, BenchmarkClip
from geo4d.synthetic.files import CLIP_FILE, FOLDER_KIND, save_clip
from geo4d.synthetic.render import FPS, Batch, make_batch, render_clips

MANIFEST = "manifest.json"


def benchmark_clips(version: str, *, only: str = "*", num: int | None = None) -> tuple[BenchmarkClip, ...]:
    """Clips of a benchmark whose names match `only`, at most the first `num`. Raises ConfigError if there are none."""
    if version not in BENCHMARKS:
        raise ConfigError(f"There is no benchmark {version!r}; expected one of {', '.join(BENCHMARKS)}.")
    clips = tuple(clip for clip in BENCHMARKS[version] if fnmatchcase(clip.name, only))[:num]
    if not clips:
        names = ", ".join(clip.name for clip in BENCHMARKS[version][:3])
        raise ConfigError(
            f"No clip of benchmark {version} is chosen by {only!r}; expected a pattern of names such as {names}."
        )
    return clips


def parameters_hash(clip: BenchmarkClip) -> str:
    """SHA-256 of all that a clip is rendered from.

    The row of the table, and every number of the scene as little-endian float32.
    """
    config = clip.config
    head = {"clip": asdict(clip), "size": clip.size, "fps": FPS, "far": config.far, "shadows": config.shadows}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name, column in columns(make_batch([clip.seed], config)):
        values = column.numpy()
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.astype("<f4" if values.dtype.kind == "f" else "<i8").tobytes())
    return digest.hexdigest()


def columns(batch: Batch) -> Iterator[tuple[str, torch.Tensor]]:
    """Every number of the scenes, by name."""
    groups: list[Any] = [batch.parts, batch.cameras, batch.lights, batch.style]
    if batch.lifelike is not None:
        yield "finish", batch.lifelike.finish
        groups += [batch.lifelike.studio, batch.lifelike.lens]
    for group in groups:
        for field in fields(group):
            yield field.name, getattr(group, field.name)


def render_benchmark_clip(clip: BenchmarkClip) -> Clip:
    """The clip, (t, h, w)."""
    return render_clips([clip.seed], num_frames=clip.frames, size=clip.size, config=clip.config).map(
        lambda values: values[0]
    )


def summary(clip: Clip) -> dict[str, float]:
    """What kind of clip it is: path and depth in metres and relative to one another, shares of pixels."""
    depth = clip.depth[clip.valid]
    path = float(clip.cam_to_world[:, :3, 3].diff(dim=0).norm(dim=1).sum())
    middle = float(depth.median())
    assert clip.dynamic is not None
    return {
        "median_depth": middle,
        "path": path,
        "path_by_median_depth": path / middle,
        "dynamic_share": float(clip.dynamic.float().mean()),
        "sky_share": float(clip.sky.float().mean()),
    }


def build_benchmark(
    version: str, clips: Sequence[BenchmarkClip], out: Path, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Renders the clips into folders of `out`, as geo4d synth lays them out; those that are there are left alone.

    Frames are written without loss. The manifest lists the clips of the benchmark that are in `out`. Raises InputError
    if `out` cannot be written, holds a clip of the same name from other parameters, or a manifest of something else.
    """
    _claim_manifest(version, out)
    for done, clip in enumerate(clips, 1):
        folder = out / clip.name
        entry = {
            **asdict(clip),
            "name": clip.name,
            "seed": str(clip.seed),
            "size": clip.size,
            "parameters": parameters_hash(clip),
        }
        if folder.exists():
            _require_same(folder, entry)
        else:
            _write(folder, clip, entry)
        if progress is not None:
            progress(done, len(clips))
    write_manifest(version, out)


def _write(folder: Path, clip: BenchmarkClip, entry: dict[str, Any]) -> None:
    rendered = render_benchmark_clip(clip)
    rendered = rendered.map(partial(_small, most=int(rendered.instance.max())))
    save_clip(
        folder, rendered, lossless=True, extra={CLIP_FILE: json.dumps(entry | {"summary": summary(rendered)}, indent=1)}
    )


def _small(values: torch.Tensor, most: int) -> torch.Tensor:
    """Whole numbers in a byte where all of them fit."""
    return values.to(torch.int8) if values.dtype == torch.int64 and most < 128 else values


def read_entry(folder: Path) -> dict[str, Any]:
    """What a clip's folder says of itself. Raises InputError if it is not a clip of a benchmark."""
    try:
        entry = read_json(folder / CLIP_FILE)
    except Unreadable as error:
        raise InputError(
            f"{folder} is not a clip of a benchmark (no {CLIP_FILE} that can be read); remove it, or choose another "
            "folder."
        ) from error
    if not isinstance(entry, dict) or not isinstance(entry.get("parameters"), str):
        raise InputError(
            f"{folder / CLIP_FILE} does not say from which parameters the clip was rendered; remove the folder and "
            "build it again."
        )
    return entry


def _require_same(folder: Path, entry: dict[str, Any]) -> None:
    if read_entry(folder)["parameters"] != entry["parameters"]:
        raise InputError(
            f"{folder} was rendered from other scene parameters than {entry['name']} has; remove it, or choose another "
            "--out."
        )


def _claim_manifest(version: str, out: Path) -> None:
    """Raises InputError if the manifest would be written over a file that is none of this benchmark."""
    try:
        found = read_json(out / MANIFEST)
    except Unreadable:
        found = None
    if not isinstance(found, dict) or found.get("benchmark") != version:
        register(out, FOLDER_KIND, [MANIFEST])


def write_manifest(version: str, out: Path) -> None:
    """Lists the benchmark's clips that are in `out`, in one move."""
    entries = [read_entry(out / clip.name) for clip in BENCHMARKS[version] if (out / clip.name).is_dir()]
    manifest = {"benchmark": version, "clips_of_the_benchmark": len(BENCHMARKS[version]), "fps": FPS, "clips": entries}
    with whole_file(out / MANIFEST, remedy="choose another --out") as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")
