"""The tables of the procedural benchmarks: which clips each holds, and what their scenes are drawn from.

A table never changes once it is published: what was measured on it would mean something else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from geo4d.synthetic.render import scene_seed
from geo4d.synthetic.staging import CameraStyle, Staging
from geo4d.synthetic.world import LIFELIKE, SceneConfig

BENCHMARK_SPLIT = 920001  # of v1
LIFELIKE_SPLIT = 920002  # of v2
Category = Literal["indoor", "outdoor", "driving", "table", "room"]
Motion = Literal["easy", "medium", "hard"]
SIZES: dict[Category, tuple[int, int]] = {
    "indoor": (128, 168),
    "outdoor": (128, 192),
    "driving": (112, 192),
}  # height, width, of v1
SHARES: dict[Category, tuple[float, float]] = {
    "indoor": (1.0, 0.0),
    "outdoor": (0.0, 1.0),
    "driving": (0.0, 0.0),
    "table": (1.0, 0.0),
    "room": (1.0, 0.0),
}  # of rooms and of open ground
FIELD_OF_VIEW_DEG = (45.0, 85.0)  # of v1
DRIVEN = (4.0, 10.0)  # metres a second of a car with a camera in it

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

# category, camera, motion, frames, scene of the split, height, width; chosen in the same way: tables are looked down at
V2 = """
table    static    easy      32   24  144  192
table    handheld  easy      32    1  144  192
table    handheld  easy      48   98  144  192
table    orbit     easy      32   27  128  192
table    handheld  easy      64   74  144  192
table    dolly     easy      32  101  192  144
room     static    medium    32  282  144  192
room     handheld  easy      32    7  144  192
room     walk      easy      64    8  144  192
room     walk      easy      32   32  144  192
room     pan       easy      32   34  128  192
room     handheld  easy      32   11  192  144
outdoor  static    medium    32  312  128  192
outdoor  handheld  easy      32  109  144  192
outdoor  handheld  medium    48   86  128  192
outdoor  walk      medium    96  332  128  192
outdoor  orbit     easy      32   40  144  192
outdoor  walk      easy      32  113  144  192
driving  static    medium    32   18  112  192
driving  drive     easy      32   19  112  192
driving  drive     easy      48   68  112  192
driving  drive     medium    32   45  112  192
driving  drive     medium    64   70  112  192
driving  drive     medium    32   95  128  192
"""


@dataclass(frozen=True)
class BenchmarkClip:
    """One row of a benchmark's table; as such, of v1's."""

    split: ClassVar[int] = BENCHMARK_SPLIT  # of scenes
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
        return scene_seed(self.split, self.scene)

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
            return Staging(speed=DRIVEN, blocks=blocks, movers=movers, mover_distance=(5.0, 22.0), **moving)
        movers = {"easy": 2, "medium": 3, "hard": 8}[self.motion]
        size = {"easy": (0.25, 0.45), "medium": (0.3, 0.7), "hard": (0.4, 1.0)}[self.motion]
        near = {"easy": (2.5, 6.0), "medium": (2.0, 5.0), "hard": (1.5, 4.5)}[self.motion]
        return Staging(movers=movers, mover_size=size, mover_distance=near, **moving)


@dataclass(frozen=True)
class LifelikeClip(BenchmarkClip):
    """One row of v2's table: easy where nothing moves but the camera, medium where people and vehicles do."""

    split: ClassVar[int] = LIFELIKE_SPLIT
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    def _staging(self) -> Staging:
        return Staging(camera=self.camera, speed=DRIVEN, is_still=self.motion == "easy")

    @property
    def config(self) -> SceneConfig:
        """What the scene is drawn from."""
        indoor, outdoor = SHARES[self.category]
        return replace(LIFELIKE, indoor_share=indoor, outdoor_share=outdoor, compression=False, staging=self._staging())


def _read(table: str, kind: type[BenchmarkClip]) -> tuple[BenchmarkClip, ...]:
    rows = [[int(word) if word.isdigit() else word for word in line.split()] for line in table.strip().splitlines()]
    return tuple(kind(number, *row) for number, row in enumerate(rows))  # type: ignore[arg-type]


BENCHMARKS = {"v1": _read(V1, BenchmarkClip), "v2": _read(V2, LifelikeClip)}
