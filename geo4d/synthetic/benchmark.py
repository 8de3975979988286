"""The procedural benchmark: sixty clips with exact truth.

Anyone can build them again, and the same to the bit in their parameters. Indoor, outdoor and driving; static and moving
cameras; easy, medium and hard motion; 32 to 200 frames. Scene split BENCHMARK_SPLIT is used by nothing else. A clip's
scene parameters are float32 numbers made by numpy's generators; what is rendered from them differs between machines by
rounding alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from geo4d.errors import ConfigError, InputError
from geo4d.io.output import register
from geo4d.scene import Clip
from geo4d.scene.arrays import Unreadable, read_json
from geo4d.scene.atomic import whole_file
from geo4d.synthetic.files import CLIP_FILE, FOLDER_KIND, save_clip
from geo4d.synthetic.render import FPS, make_batch, render_clips, scene_seed
from geo4d.synthetic.staging import CameraStyle, Staging
from geo4d.synthetic.worlds import SceneConfig

BENCHMARK_SPLIT = 920001
MANIFEST = "manifest.json"
Category = Literal["indoor", "outdoor", "driving"]
Motion = Literal["easy", "medium", "hard"]
SIZES: dict[Category, tuple[int, int]] = {
    "indoor": (128, 168),
    "outdoor": (128, 192),
    "driving": (112, 192),
}  # height, width
SHARES: dict[Category, tuple[float, float]] = {"indoor": (1.0, 0.0), "outdoor": (0.0, 1.0), "driving": (0.0, 0.0)}
FIELD_OF_VIEW_DEG = (45.0, 85.0)

# category, camera, motion, frames, scene of the split: the scenes were chosen by eye, so that each shows what it is
# there for
V1 = """
indoor   static    easy      32    0
indoor   static    easy      64    1
indoor   static    medium    48    2
indoor   static    medium    96    3
indoor   static    hard      32    4
indoor   static    hard     200    5
indoor   orbit     easy      32    6
indoor   pan       easy      48    7
indoor   dolly     easy      64    8
indoor   handheld  easy      96    9
indoor   walk      easy     200   10
indoor   handheld  medium    32   11
indoor   orbit     medium    48   12
indoor   walk      medium    64   13
indoor   dolly     medium    96   14
indoor   orbit     medium   128   15
indoor   pan       hard      32   16
indoor   orbit     hard      48   17
indoor   handheld  hard      64   18
indoor   walk      hard      96   19
outdoor  static    easy      32   20
outdoor  static    easy      64   21
outdoor  static    medium    48   22
outdoor  static    medium    96   23
outdoor  static    hard      32   61
outdoor  static    hard     200   25
outdoor  handheld  easy      32   26
outdoor  dolly     easy      48   27
outdoor  pan       easy      64   28
outdoor  orbit     easy      96   29
outdoor  walk      easy     200   30
outdoor  walk      medium    32   31
outdoor  orbit     medium    48   32
outdoor  handheld  medium    64   33
outdoor  walk      medium    96   34
outdoor  dolly     medium   128   35
outdoor  orbit     hard      32   36
outdoor  pan       hard      48   37
outdoor  walk      hard      64   38
outdoor  handheld  hard      96   39
driving  static    easy      32   40
driving  static    easy      64   41
driving  static    medium    48   42
driving  static    medium    96   43
driving  static    hard      32   44
driving  static    hard     200   45
driving  drive     easy      32   46
driving  drive     easy      48   47
driving  drive     easy      64   48
driving  drive     easy      96   49
driving  drive     easy     200   50
driving  drive     medium    32   51
driving  drive     medium    48   52
driving  drive     medium    64   53
driving  drive     medium    96   54
driving  drive     medium   128   55
driving  drive     hard      32   56
driving  drive     hard      48   57
driving  drive     hard      64   58
driving  drive     hard      96   59
"""


@dataclass(frozen=True)
class BenchmarkClip:
    """One row of a benchmark's table."""

    number: int
    category: Category
    camera: CameraStyle
    motion: Motion
    frames: int
    scene: int  # of the split

    @property
    def name(self) -> str:
        """Its folder, such as 07-indoor-moving-easy."""
        return f"{self.number:02d}-{self.category}-{'static' if self.camera == 'static' else 'moving'}-{self.motion}"

    @property
    def seed(self) -> int:
        """Of the scene."""
        return scene_seed(BENCHMARK_SPLIT, self.scene)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return SIZES[self.category]

    @property
    def config(self) -> SceneConfig:
        """What the scene is drawn from."""
        indoor, outdoor = SHARES[self.category]
        return SceneConfig(indoor, outdoor, FIELD_OF_VIEW_DEG, compression=False, staging=self._staging())

    def _staging(self) -> Staging:
        moving = {
            "is_still": self.motion == "easy",
            "camera": self.camera,
            "pace": {"easy": 0.5, "medium": 1.0, "hard": 2.0}[self.motion],
        }
        if self.category == "driving":
            blocks, movers = self.frames // 40, {"easy": 1, "medium": 4, "hard": 9}[self.motion]
            return Staging(speed=(4.0, 10.0), blocks=blocks, movers=movers, mover_distance=(5.0, 22.0), **moving)
        movers = {"easy": 2, "medium": 3, "hard": 8}[self.motion]
        size = {"easy": (0.25, 0.45), "medium": (0.3, 0.7), "hard": (0.4, 1.0)}[self.motion]
        near = {"easy": (2.5, 6.0), "medium": (2.0, 5.0), "hard": (1.5, 4.5)}[self.motion]
        return Staging(movers=movers, mover_size=size, mover_distance=near, **moving)


def _read(table: str) -> tuple[BenchmarkClip, ...]:
    clips = []
    for number, line in enumerate(table.strip().splitlines()):
        category, camera, motion, frames, scene = line.split()
        clips.append(BenchmarkClip(number, category, camera, motion, int(frames), int(scene)))  # type: ignore[arg-type]
    return tuple(clips)


BENCHMARKS = {"v1": _read(V1)}


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
    batch = make_batch([clip.seed], config)
    for group in (batch.parts, batch.cameras, batch.lights, batch.style):
        for field in fields(group):
            values = getattr(group, field.name).numpy()
            digest.update(f"{field.name}{values.shape}".encode())
            digest.update(values.astype("<f4" if values.dtype.kind == "f" else "<i8").tobytes())
    return digest.hexdigest()


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
