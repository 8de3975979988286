"""Rooms that are lived in: living rooms, kitchens, offices, bedrooms, corridors."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from geo4d.synthetic.lifelike import fittings, things
from geo4d.synthetic.lifelike import furniture as f
from geo4d.synthetic.lifelike import materials as m
from geo4d.synthetic.lifelike.camera import ACROSS, CLOSE, DOWN, Obstacles, look_at
from geo4d.synthetic.lifelike.people import animal, person, wander
from geo4d.synthetic.lifelike.piece import Piece
from geo4d.synthetic.primitives import Builder, Shape
from geo4d.synthetic.staging import Staging
from geo4d.synthetic.world import World

ATTEMPTS = 12
AREA = 40.0  # square metres from which a room has one set of furniture more
LARGE_SHARE = 0.08
WALL_YAW = (0.0, np.pi / 2, np.pi, -np.pi / 2)  # of what stands with its back to the wall at -z, -x, +z, +x


@dataclass
class Room:
    """A room around the origin while it is being furnished."""

    rng: np.random.Generator
    builder: Builder
    half: tuple[float, float]
    height: float
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)  # x, z, half x, half z
    targets: list[np.ndarray] = field(default_factory=list)  # worth a look from afar
    tops: list[np.ndarray] = field(default_factory=list)  # worth a look from near by
    seats: list[tuple[np.ndarray, float]] = field(default_factory=list)

    @property
    def extra(self) -> int:
        """How many more sets of furniture it holds than a common room does."""
        return int(4 * self.half[0] * self.half[1] / AREA)

    def is_free(self, x: float, z: float, half: tuple[float, float], gap: float = 0.05) -> bool:
        """Whether a rectangle of floor is in the room and not taken."""
        inside = bool(abs(x) + half[0] <= self.half[0] and abs(z) + half[1] <= self.half[1])
        return inside and all(
            abs(x - a) > half[0] + c + gap or abs(z - b) > half[1] + d + gap for a, b, c, d in self.taken
        )

    def at_wall(self, item: f.Item, gap: float = 0.02) -> Piece | None:
        """A place with its back to a wall, taken."""
        for _ in range(ATTEMPTS):
            wall = int(self.rng.integers(4))
            half = item.half if wall % 2 == 0 else item.half[::-1]
            along = self.rng.uniform(-1, 1) * max(self.half[wall % 2] - half[wall % 2], 0.0)
            off = self.half[1 - wall % 2] - half[1 - wall % 2] - gap
            x, z = ((along, -off), (-off, along), (along, off), (off, along))[wall]
            if self.is_free(x, z, half):
                self.taken.append((x, z, *half))
                return Piece(self.builder, np.array([x, 0.0, z]), WALL_YAW[wall])
        return None

    def anywhere(self, item: f.Item) -> Piece | None:
        """A place on the floor, taken."""
        for _ in range(ATTEMPTS):
            yaw = self.rng.choice(WALL_YAW) + self.rng.normal() * 0.1
            half = item.half if abs(np.cos(yaw)) > 0.7 else item.half[::-1]
            x, z = self.rng.uniform(-1, 1, 2) * np.maximum(np.array(self.half) - half, 0.0)
            if self.is_free(x, z, half, gap=0.15):
                self.taken.append((x, z, *half))
                return Piece(self.builder, np.array([x, 0.0, z]), yaw)
        return None

    def put(self, item: f.Item, piece: Piece | None, kinds: tuple[things.Maker, ...] = (), most: int = 6) -> bool:
        """Puts an item up where there was a place, with things on its tops."""
        if piece is None:
            return False
        for top in item.put_up(piece):
            self.tops.append(piece.there(top[0]))
            if kinds:
                things.scatter(self.rng, piece, top, kinds, int(self.rng.integers(0, most + 1)))
        self.targets.append(piece.there((0, -0.5, 0)))
        return True

    def chairs_at(self, table: Piece, item: f.Item, count: int) -> None:
        """Chairs of one kind around a table, some drawn back, some pushed under."""
        seed = int(self.rng.integers(2**31))
        for k in range(count):
            side = (1, -1)[k % 2]
            x = 0.0 if item.half[0] < 0.6 else (k // 2 - 0.5) * item.half[0] * 0.95
            z = side * (item.half[1] + self.rng.uniform(-0.05, 0.35))
            place = table.there((x, 0, z))
            yaw = table.yaw + (np.pi if side > 0 else 0.0) + self.rng.normal() * 0.2
            if abs(place[0]) + 0.3 > self.half[0] or abs(place[2]) + 0.3 > self.half[1]:
                continue
            chair = f.chair(np.random.default_rng(seed))
            chair.put_up(Piece(self.builder, place, yaw))
            self.taken.append((place[0], place[2], 0.25, 0.25))
            self.seats.append((place, yaw))


def lived_in_room(rng: np.random.Generator, builder: Builder, staging: Staging) -> World:
    """A furnished room and a camera in it."""
    kind = rng.choice(["living", "kitchen", "office", "bedroom", "corridor"], p=[0.28, 0.27, 0.25, 0.1, 0.1])
    half = (
        (rng.uniform(1.5, 3.2), rng.uniform(1.6, 3.6))
        if kind != "corridor"
        else (rng.uniform(0.9, 1.6), rng.uniform(3, 7))
    )
    if kind == "office":
        half = (half[0] * 1.3, half[1] * 1.3)
    if kind != "corridor" and rng.random() < LARGE_SHARE:
        half = (half[0] * rng.uniform(1.3, 2.0), half[1] * rng.uniform(1.3, 2.0))
    room = Room(rng, builder, half, rng.uniform(2.3, 3.1))
    window = _shell(room, kind)
    {"living": _living, "kitchen": _kitchen, "office": _office, "bedroom": _bedroom, "corridor": _corridor}[kind](room)
    for _ in range(room.extra):  # large rooms are for more than one purpose
        rng.choice([_living, _kitchen, _office, _dining_place])(room)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.9, 0.08, 0.02])) + room.extra):
        wall = fittings.partition(rng, room.height)
        room.put(wall, room.anywhere(wall))
    _people(room, staging)
    view = {"across": ACROSS, "down": DOWN, "close": CLOSE}[
        rng.choice(["across", "down", "close"], p=[0.45, 0.33, 0.22])
    ]
    targets = room.tops if view is not ACROSS and room.tops else room.targets
    if view is not CLOSE:
        targets = targets + [
            np.array([rng.uniform(-0.7, 0.7) * half[0], -rng.uniform(0, 0.6), rng.uniform(-0.7, 0.7) * half[1]])
        ]
    margin = (half[0] - 0.05, half[1] - 0.05)
    camera = look_at(rng, Obstacles(builder), targets, view, half=margin, style=staging.camera, walk=min(half))
    extras = {"centre_x": 0.0, "centre_z": 0.0}
    return World(
        "indoor", builder, camera, _light(rng, room, window), room=(half[0], room.height, half[1]), extras=extras
    )


def _light(rng: np.random.Generator, room: Room, window: np.ndarray) -> dict[str, np.ndarray | float]:
    """A lamp under the ceiling, or the brightness of a window."""
    if rng.random() < 0.5:
        position = np.array(
            [rng.uniform(-0.5, 0.5) * room.half[0], -room.height + 0.45, rng.uniform(-0.5, 0.5) * room.half[1]]
        )
    else:
        position = window * [0.92, 1, 0.92]
    return {"position": position, "ambient": rng.uniform(0.2, 0.5), "strength": rng.uniform(0.5, 1.2), "haze": 0.0}


def _floor(rng: np.random.Generator, kind: str) -> m.Columns:
    choice = rng.random()
    if kind == "office" or choice < 0.25:
        return m.carpet(rng) if choice < 0.65 else m.wood(rng, planks=(rng.uniform(0.08, 0.2), 1.2))
    if kind == "kitchen" and choice < 0.6:
        return m.tiles(rng, (0.15, 0.6))
    if choice < 0.8:
        return m.wood(rng, planks=(rng.uniform(0.06, 0.2), rng.uniform(0.5, 2)), along=int(rng.choice([0, 2])))
    return m.stone(rng)


def _wall(rng: np.random.Generator) -> m.Columns:
    choice = rng.random()
    if choice < 0.68:
        return m.painted(rng)
    return m.wallpaper(rng) if choice < 0.84 else m.brick(rng) if choice < 0.92 else m.tiles(rng)


def _shell(room: Room, kind: str) -> np.ndarray:
    """Walls, floor, ceiling, skirting, windows, doors, what hangs; returns where the light comes in."""
    rng, builder, (x, z), high = room.rng, room.builder, room.half, room.height
    builder.add(Shape.BOX, structure=True, size=(x, high, z), **_wall(rng))
    builder.add(Shape.BOX, structure=True, size=(x, 0.005, z), **_floor(rng, kind))
    ceiling = m.painted(rng, m.hsv(0.1, 0.04, rng.uniform(0.7, 0.95)))
    builder.add(Shape.BOX, structure=True, size=(x, 0.01, z), base=(0, -high, 0), **ceiling)
    skirting = m.painted(rng)
    for wall, yaw in enumerate(WALL_YAW):
        wide, off = (x, z) if wall % 2 == 0 else (z, x)
        piece = Piece(builder, off * np.array([-np.sin(yaw), 0, -np.cos(yaw)]), yaw, instance=0)
        if rng.random() < 0.2:
            piece.box((0, -high / 2, 0), (wide, high / 2, 0.004), _wall(rng))
        piece.box((0, -0.05, 0.006), (wide, 0.05, 0.008), skirting)
    lit = np.array([0.0, -1.5, z])
    for number in range(int(rng.integers(2, 6))):
        wall = int(rng.integers(4))
        yaw, (wide, off) = WALL_YAW[wall], (x, z) if wall % 2 == 0 else (z, x)
        out, along = np.array([-np.sin(yaw), 0, -np.cos(yaw)]), np.array([np.cos(yaw), 0, -np.sin(yaw)])
        place = (off - 0.004) * out + rng.uniform(-0.75, 0.75) * max(wide - 0.4, 0.1) * along
        piece = Piece(builder, place, yaw)
        if number == 0 and wide > 1.2:
            fittings.window(rng, piece)
            lit = place + [0, -1.5, 0]
        elif number == 1 or (kind == "corridor" and rng.random() < 0.6):
            fittings.door(rng, piece)
        else:
            fittings.on_the_wall(rng, piece)
    if rng.random() < 0.5:
        fittings.ceiling_lamp(
            rng, Piece(builder, np.array([rng.uniform(-0.5, 0.5) * x, 0, rng.uniform(-0.5, 0.5) * z])), high
        )
    return lit


def _rug(room: Room, place: np.ndarray, yaw: float) -> None:
    half = (room.rng.uniform(0.6, 1.1), 0.006, room.rng.uniform(0.7, 1.4))
    room.builder.add(Shape.BOX, structure=True, size=half, base=place + [0, -0.006, 0], yaw=yaw, **m.rug(room.rng))


def _bits(room: Room, count: int) -> None:
    """Lamps, plants, bins, boxes, where there is a place."""
    for _ in range(count):
        maker = room.rng.choice([f.plant, f.clutter_on_floor, f.clutter_on_floor, f.floor_lamp, f.radiator])  # type: ignore[arg-type]
        item = maker(room.rng)
        room.put(item, room.at_wall(item) if maker is not f.clutter_on_floor else room.anywhere(item))


def _living(room: Room) -> None:
    rng = room.rng
    for _ in range(int(rng.integers(1, 3))):
        item = f.sofa(rng)
        piece = room.at_wall(item, gap=rng.uniform(0.02, 0.3)) if rng.random() < 0.7 else room.anywhere(item)
        room.put(item, piece, (things.book, things.phone, things.toy, things.paper), 2)
        if piece is not None:
            room.seats.append((piece.place, piece.yaw))
            low = f.table(rng, low=True)
            front = piece.there((0, 0, item.half[1] + low.half[1] + rng.uniform(0.25, 0.5)))
            if rng.random() < 0.8 and room.is_free(front[0], front[2], low.half):
                room.taken.append((front[0], front[2], *low.half))
                _rug(room, front, piece.yaw)
                room.put(low, Piece(room.builder, front, piece.yaw), things.LIVING, 8)
    for item, chance in ((f.television(rng), 0.6), (f.shelf(rng), 0.7), (f.cupboard(rng), 0.6), (f.shelf(rng), 0.4)):
        if rng.random() < chance:
            room.put(item, room.at_wall(item), things.LIVING, 4)
    if rng.random() < 0.4:
        _dining(room, things.LIVING)
    _bits(room, int(rng.integers(1, 5)))


def _dining_place(room: Room) -> None:
    _dining(room, things.KITCHEN)


def _dining(room: Room, kinds: tuple[things.Maker, ...]) -> None:
    """A table with chairs."""
    item = f.table(room.rng)
    piece = room.anywhere(item)
    if room.put(item, piece, kinds, 10):
        assert piece is not None
        room.chairs_at(piece, item, int(room.rng.integers(1, 5)))


def _kitchen(room: Room) -> None:
    rng = room.rng
    for _ in range(int(rng.integers(1, 4))):
        item = f.counter(rng, rng.uniform(0.6, max(0.7, min(room.half) * 0.9)))
        room.put(item, room.at_wall(item, gap=0.01), things.KITCHEN, 9)
    if rng.random() < 0.7:
        item = f.fridge(rng)
        room.put(item, room.at_wall(item), things.KITCHEN, 2)
    for _ in range(int(rng.integers(1, 3))):
        _dining(room, things.KITCHEN)
    _bits(room, int(rng.integers(0, 4)))


def _office(room: Room) -> None:
    rng = room.rng
    for _ in range(int(rng.integers(1, 4))):
        item = f.desk(rng)
        piece = room.at_wall(item) if rng.random() < 0.6 else room.anywhere(item)
        if room.put(item, piece, things.DESK, 7):
            assert piece is not None
            place = piece.there((rng.normal() * 0.15, 0, item.half[1] + rng.uniform(0.15, 0.5)))
            if max(abs(place[0]) - room.half[0], abs(place[2]) - room.half[1]) < -0.3:
                f.chair(rng).put_up(Piece(room.builder, place, piece.yaw + np.pi + rng.normal() * 0.4))
                room.seats.append((place, piece.yaw + np.pi))
                room.taken.append((place[0], place[2], 0.3, 0.3))
    for item, chance in (
        (f.shelf(rng), 0.7),
        (f.cupboard(rng, tall=True), 0.6),
        (f.cupboard(rng), 0.5),
        (f.sofa(rng), 0.3),
    ):
        if rng.random() < chance:
            room.put(item, room.at_wall(item), things.DESK, 3)
    if rng.random() < 0.4:
        _dining(room, things.DESK)
    _bits(room, int(rng.integers(1, 5)))


def _bedroom(room: Room) -> None:
    rng = room.rng
    for item, chance in (
        (f.bed(rng), 1.0),
        (f.cupboard(rng, tall=True), 0.8),
        (f.cupboard(rng), 0.8),
        (f.desk(rng), 0.4),
        (f.shelf(rng), 0.4),
        (f.chair(rng), 0.5),
    ):
        if rng.random() < chance:
            room.put(item, room.at_wall(item), things.LIVING, 4)
    if rng.random() < 0.5:
        _rug(room, np.array([rng.normal() * 0.4, 0.0, rng.normal() * 0.4]), rng.uniform(0, 3))
    _bits(room, int(rng.integers(1, 5)))


def _corridor(room: Room) -> None:
    rng = room.rng
    for _ in range(int(rng.integers(2, 6))):
        item = rng.choice([f.cupboard, f.chair, f.sofa, f.plant, f.shelf])(rng)  # type: ignore[arg-type]
        if item.half[1] < 0.7 * room.half[0]:
            room.put(item, room.at_wall(item), things.DESK, 2)
    _bits(room, int(rng.integers(2, 6)))


def _people(room: Room, staging: Staging) -> None:
    """Someone sits, stands or walks; a cat or a dog."""
    rng = room.rng
    for _ in range(int(rng.choice([0, 1, 2], p=[0.55, 0.33, 0.12]))):
        pose = rng.choice(["sit", "stand", "walk"])
        if pose == "sit" and room.seats:
            place, yaw = room.seats[rng.integers(len(room.seats))]
            person(rng, room.builder, place, yaw, "sit")
            room.targets.append(place - [0, 1.0, 0])
            continue
        is_walking = pose == "walk" and not staging.is_still
        circle = rng.uniform(0.3, 0.7) if is_walking else 0.0
        for _ in range(ATTEMPTS):
            x, z = rng.uniform(-1, 1, 2) * (np.array(room.half) - 0.35 - circle)
            if room.is_free(x, z, (0.3 + circle, 0.3 + circle), gap=0.0):
                place = np.array([x, 0.0, z])
                motion = wander(rng, circle, rng.uniform(0.5, 1.1)) if is_walking else None
                person(rng, room.builder, place, rng.uniform(0, 6.3), "walk" if is_walking else "stand", motion)
                room.taken.append((x, z, 0.3 + circle, 0.3 + circle))
                room.targets += [place - [0, 1.2, 0]] * 2
                break
    if rng.random() < 0.12:
        x, z = rng.uniform(-0.7, 0.7, 2) * room.half
        if room.is_free(x, z, (0.3, 0.3)):
            animal(rng, room.builder, np.array([x, 0.0, z]), rng.uniform(0, 6.3), rng.uniform(0.25, 0.55))
            room.targets.append(np.array([x, -0.3, z]))
