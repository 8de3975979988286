"""What rooms are furnished with.

Each maker draws an `Item`: how much floor it takes, and how it is put up in its own frame. An item's back is towards
-z, its front towards +z. Putting it up returns its tops, where small things may stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from geo4d.synthetic.lifelike import materials as m
from geo4d.synthetic.lifelike.piece import AHEAD, Piece, tilted

# centre in the piece's frame, half width (x) and half depth (z); round tops as squares
Top = tuple[np.ndarray, float, float]


@dataclass(frozen=True)
class Item:
    """One piece of furniture before it has a place."""

    half: tuple[float, float]  # of its floor space, x and z
    put_up: Callable[[Piece], list[Top]]


def _board(rng: np.random.Generator) -> m.Columns:
    """Of table tops and fronts."""
    kind = rng.random()
    if kind < 0.55:
        return m.wood(rng, planks=(rng.uniform(0.06, 0.2), 3.0) if rng.random() < 0.5 else None)
    return m.plastic(rng) if kind < 0.85 else m.stone(rng)


def table(rng: np.random.Generator, *, low: bool = False) -> Item:
    """Square or round, on four legs, on one, or on trestles."""
    high = rng.uniform(0.35, 0.5) if low else rng.uniform(0.7, 0.78)
    is_round = rng.random() < 0.25
    x = rng.uniform(0.35, 0.65) if is_round or low else rng.uniform(0.5, 1.1)
    z = x if is_round else min(x, rng.uniform(0.35, 0.55))
    look, legs = _board(rng), m.wood(rng, along=1) if rng.random() < 0.5 else m.metal(rng)
    thick, radius, square = rng.uniform(0.01, 0.03), rng.uniform(0.015, 0.05), rng.random() < 0.6
    inset = rng.uniform(0.75, 0.95)

    def put_up(piece: Piece) -> list[Top]:
        if is_round:
            piece.cylinder((0, -high + thick, 0), x, thick, look)
        else:
            piece.box((0, -high + thick, 0), (x, thick, z), look)
        under = high - 2 * thick
        if is_round or inset < 0.78:
            piece.cylinder((0, -under / 2, 0), 1.3 * radius, under / 2, legs)
            piece.cylinder((0, -0.02, 0), 0.6 * min(x, z), 0.02, legs)
        else:
            piece.legs(inset * x, inset * z, under, radius, legs, square=square)
            if square:
                piece.box((0, -under + 0.04, 0), (inset * x, 0.04, inset * z), legs)
        share = 0.65 if is_round else 0.92
        return [(np.array([0, -high, 0]), share * x, share * z)]

    return Item((x, z), put_up)


def chair(rng: np.random.Generator) -> Item:
    """Of wood, of tubes, or on castors."""
    half, high, back = rng.uniform(0.2, 0.24), rng.uniform(0.43, 0.48), rng.uniform(0.36, 0.5)
    frame = m.wood(rng, along=1) if rng.random() < 0.55 else m.metal(rng)
    seat = m.leather(rng) if rng.random() < 0.4 else m.fabric(rng) if rng.random() < 0.5 else frame
    kind = rng.choice(["slats", "panel", "tubes", "swivel"], p=[0.3, 0.25, 0.2, 0.25])
    slats = int(rng.integers(2, 6))

    def put_up(piece: Piece) -> list[Top]:
        piece.box((0, -high, 0), (half, 0.025, half), seat)
        lean = rng.uniform(0.05, 0.2)
        if kind == "swivel":
            piece.box((0, -high - 0.1 - back / 2, -half), (0.9 * half, back / 2, 0.03), seat, tilted(lean))
            piece.cylinder((0, -high / 2, 0), 0.025, high / 2, m.metal(rng))
            for angle in np.arange(5) * 2 * np.pi / 5:
                piece.rod((0, -0.1, 0), (0.27 * np.cos(angle), -0.04, 0.27 * np.sin(angle)), 0.02, m.dark(rng))
            for x in (-half, half) if rng.random() < 0.6 else ():
                piece.box((x, -high - 0.2, 0), (0.03, 0.015, 0.13), m.dark(rng))
            return []
        if kind == "tubes":
            for x in (-half, half):
                piece.rod((x, -high, half), (x, -0.02, half), 0.012, frame)
                piece.rod((x, -0.02, half), (x, -0.02, -half), 0.012, frame)
                piece.rod((x, -high, -half), (x, -high - back, -half - lean * back), 0.012, frame)
            piece.rod((-half, -0.02, -half), (half, -0.02, -half), 0.012, frame)
            piece.box(
                (0, -high - 0.65 * back, -half - 0.65 * lean * back), (half, 0.3 * back, 0.01), seat, tilted(lean)
            )
            return []
        piece.legs(0.9 * half, 0.9 * half, high, rng.uniform(0.014, 0.024), frame, square=True)
        for x in (-0.9 * half, 0.9 * half):
            piece.box((x, -high - back / 2, -half), (0.018, back / 2, 0.016), frame)
        if kind == "panel":
            piece.box((0, -high - 0.6 * back, -half), (0.85 * half, 0.35 * back, 0.012), seat)
        for k in range(slats if kind == "slats" else 0):
            piece.box(
                (0, -high - back * (0.25 + 0.75 * (k + 0.5) / slats), -half),
                (0.85 * half, 0.28 * back / slats, 0.01),
                frame,
            )
        return []

    return Item((half + 0.08, half + 0.08), put_up)


def sofa(rng: np.random.Generator) -> Item:
    """For one to three, with cushions."""
    seats = int(rng.choice([1, 2, 3]))
    half, deep, high = 0.33 * seats + 0.12, rng.uniform(0.38, 0.46), rng.uniform(0.36, 0.45)
    cloth = m.leather(rng) if rng.random() < 0.4 else m.fabric(rng)
    rounded = rng.random() < 0.5

    def put_up(piece: Piece) -> list[Top]:
        piece.box((0, -high / 2 - 0.03, 0), (half, high / 2 - 0.06, deep), cloth)
        piece.box((0, -0.4, -deep + 0.1), (half, 0.38 * rng.uniform(0.95, 1.15), 0.11), cloth, tilted(-0.08))
        for side in (-1, 1):
            piece.box((side * (half - 0.09), -0.3, 0), (0.09, 0.26, deep), cloth)
            if rounded:
                piece.rod(
                    (side * (half - 0.09), -0.56, -deep + 0.1), (side * (half - 0.09), -0.56, deep - 0.1), 0.1, cloth
                )
        for k in range(seats):
            x = (k - (seats - 1) / 2) * 0.62
            piece.box((x, -high - 0.03, 0.08), (0.29, 0.07, deep - 0.14), cloth)
            piece.ball((x, -high - 0.07, 0.08), (0.3, 0.07, deep - 0.12), cloth)
            if rng.random() < 0.6:
                _cushion(rng, piece, (x + rng.uniform(-0.1, 0.1), -high - 0.25, -deep + 0.28))
        return [(np.array([0, -high - 0.11, 0.1]), 0.7 * half, 0.2)]

    return Item((half, deep), put_up)


def _cushion(rng: np.random.Generator, piece: Piece, at: tuple[float, float, float]) -> None:
    side = rng.uniform(0.16, 0.24)
    look, turn = m.fabric(rng), tilted(rng.uniform(-0.5, -0.2), rng.uniform(-0.4, 0.4), rng.uniform(-0.3, 0.3))
    piece.ball(at, (1.15 * side, 1.15 * side, 0.09), look, turn)


def bed(rng: np.random.Generator) -> Item:
    """Frame, mattress, blanket, pillows."""
    half, long = rng.uniform(0.45, 0.9), 1.05
    frame, sheet, cover = m.wood(rng), m.fabric(rng, m.hsv(rng.random(), 0.08, 0.85)), m.fabric(rng)

    def put_up(piece: Piece) -> list[Top]:
        piece.box((0, -0.2, 0), (half, 0.12, long), frame)
        piece.box((0, -0.45, -long), (half, 0.45, 0.03), frame)
        piece.box((0, -0.4, 0), (0.97 * half, 0.1, 0.97 * long), sheet)
        piece.box((0, -0.42, 0.3), (1.02 * half, 0.11, 0.7), cover)
        for _ in range(6):  # folds
            at = (rng.uniform(-0.8, 0.8) * half, -0.51, rng.uniform(-0.2, 0.9))
            piece.ball(at, (rng.uniform(0.2, 0.5), 0.05, rng.uniform(0.1, 0.3)), cover, tilted(0, rng.uniform(0, 3), 0))
        for x in (-0.5, 0.5) if half > 0.6 else (0.0,):
            piece.ball((x * half, -0.55, -0.75 * long), (0.33, 0.1, 0.22), sheet)
        return [(np.array([0, -0.54, 0.3]), 0.7 * half, 0.5)]

    return Item((half, long), put_up)


def shelf(rng: np.random.Generator) -> Item:
    """Boards with rows of books, boxes and gaps."""
    half, deep, high = rng.uniform(0.35, 0.8), rng.uniform(0.12, 0.2), rng.uniform(0.8, 2.1)
    look, boards = _board(rng), max(2, int(high / rng.uniform(0.28, 0.42)))
    has_back = rng.random() < 0.6

    def put_up(piece: Piece) -> list[Top]:
        tops: list[Top] = []
        for x in (-half, half):
            piece.box((x, -high / 2, 0), (0.012, high / 2, deep), look)
        if has_back:
            piece.box((0, -high / 2, -deep), (half, high / 2, 0.006), look)
        gap = high / boards
        for k in range(boards + 1):
            y = -high + k * gap
            piece.box((0, y, 0), (half, 0.01, deep), look)
            if k < boards:
                fill_shelf(rng, piece, (y + gap - 0.01, half, deep, gap))
        tops.append((np.array([0, -high - 0.01, 0]), 0.9 * half, 0.8 * deep))
        return tops

    return Item((half, deep), put_up)


def fill_shelf(rng: np.random.Generator, piece: Piece, room: tuple[float, float, float, float]) -> None:
    """Books and boxes on a board at y (its upper side), between the uprights."""
    y, half, deep, gap = room
    x = -0.95 * half
    while x < 0.8 * half:
        wide = rng.uniform(0.08, 0.45)
        wide = min(wide, 0.95 * half - x)
        if rng.random() < 0.75:
            tall, thick = rng.uniform(0.4, 0.85) * gap, rng.uniform(0.5, 0.85) * deep
            look = m.books(rng) if rng.random() < 0.65 else m.plastic(rng)
            piece.box((x + wide / 2, y - tall / 2, rng.uniform(-0.1, 0.1) * deep), (wide / 2, tall / 2, thick), look)
        x += wide + rng.uniform(0.0, 0.15)


def cupboard(rng: np.random.Generator, *, tall: bool = False) -> Item:
    """Doors or drawers, with handles."""
    high = rng.uniform(1.7, 2.1) if tall else rng.uniform(0.5, 1.0)
    half, deep = rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.3)
    look = _board(rng)
    columns, rows = (max(1, round(half / rng.uniform(0.22, 0.5))), 1 if tall else int(rng.integers(1, 5)))

    def put_up(piece: Piece) -> list[Top]:
        piece.box((0, -high / 2 - 0.02, 0), (half, high / 2 - 0.02, deep), look)
        _fronts(rng, piece, (0.0, -high, half, high - 0.06, deep), (columns, rows), look)
        return [(np.array([0, -high, 0]), 0.9 * half, 0.8 * deep)]

    return Item((half, deep), put_up)


def _fronts(
    rng: np.random.Generator,
    piece: Piece,
    face: tuple[float, float, float, float, float],
    grid: tuple[int, int],
    look: m.Columns,
) -> None:
    """Doors with gaps and handles on the front of a body: face is (x, top, half width, height, z)."""
    x0, top, half, high, z = face
    columns, rows = grid
    handle, is_bar = m.metal(rng), rng.random() < 0.6
    for i in range(columns):
        for j in range(rows):
            wide, tall = half / columns, high / rows
            x, y = x0 - half + (2 * i + 1) * wide, top + (j + 0.5) * tall
            piece.box((x, y, z), (wide - 0.004, tall / 2 - 0.004, 0.009), look)
            if rows > 1 or is_bar:
                piece.box((x, y - 0.36 * tall, z + 0.03), (0.4 * wide, 0.006, 0.008), handle)
            else:
                piece.ball((x + (0.8 if i % 2 == 0 else -0.8) * wide, y - 0.1 * tall, z + 0.025), 0.015, handle)


def counter(rng: np.random.Generator, half: float) -> Item:
    """A run of kitchen: base cupboards, worktop, sink or hob, tiles, wall cupboards."""
    deep, high = 0.3, 0.9
    body, top = (
        m.plastic(rng) if rng.random() < 0.6 else m.wood(rng),
        m.stone(rng) if rng.random() < 0.6 else m.wood(rng),
    )
    above = rng.random() < 0.7
    shine = rng.uniform(0.02, 0.12)

    def put_up(piece: Piece) -> list[Top]:
        doors = max(1, round(2 * half / rng.uniform(0.45, 0.8)))
        piece.box((0, -0.46, -0.02), (half, 0.4, deep - 0.03), body)
        piece.box((0, -0.04, -0.05), (half, 0.04, deep - 0.06), m.dark(rng))
        _fronts(
            rng,
            piece,
            (0.0, -0.84, half, 0.74, deep - 0.05),
            (doors, int(rng.integers(1, 3))),
            body | {"reflection": shine},
        )
        piece.box((0, -high + 0.02, 0), (half + 0.01, 0.02, deep), top)
        piece.box((0, -high - 0.3, -deep + 0.005), (half, 0.3, 0.006), m.tiles(rng, (0.05, 0.2)))
        at = rng.uniform(-0.5, 0.5) * half
        if rng.random() < 0.5:
            piece.box((at, -high - 0.003, 0), (0.28, 0.004, 0.2), m.dark(rng))  # hob
        else:
            piece.box((at, -high - 0.002, 0), (0.25, 0.004, 0.19), m.metal(rng))  # sink and tap
            piece.rod((at, -high, -0.22), (at, -high - 0.28, -0.22), 0.012, m.metal(rng))
            piece.rod((at, -high - 0.28, -0.22), (at, -high - 0.26, -0.05), 0.012, m.metal(rng))
        if above:
            piece.box((0, -1.8, -deep + 0.16), (half, 0.35, 0.15), body)
            _fronts(rng, piece, (0.0, -2.15, half, 0.7, -deep + 0.32), (doors, 1), body | {"reflection": shine})
        return [(np.array([0, -high, 0.02]), 0.95 * half, 0.2)]

    return Item((half, deep), put_up)


def fridge(rng: np.random.Generator) -> Item:
    """Or an oven tower, a washing machine."""
    half, high, look = 0.3, rng.choice([0.85, 1.7, 1.9]), m.metal(rng) if rng.random() < 0.5 else m.plastic(rng)

    def put_up(piece: Piece) -> list[Top]:
        piece.box((0, -high / 2, 0), (half, high / 2, 0.3), look)
        piece.box((0, -0.65 * high, 0.305), (0.98 * half, 0.33 * high, 0.012), look)
        piece.box((0, -0.15 * high, 0.305), (0.98 * half, 0.15 * high, 0.012), look)
        piece.rod((0.8 * half, -0.4 * high, 0.35), (0.8 * half, -0.6 * high, 0.35), 0.012, m.metal(rng))
        return [(np.array([0, -high, 0]), 0.8 * half, 0.2)]

    return Item((half, 0.32), put_up)


def desk(rng: np.random.Generator) -> Item:
    """With a monitor or two, keyboard, mouse, drawers."""
    half, deep, high = rng.uniform(0.6, 0.9), rng.uniform(0.33, 0.42), rng.uniform(0.7, 0.76)
    look, legs = _board(rng), m.metal(rng)

    def put_up(piece: Piece) -> list[Top]:
        piece.box((0, -high + 0.015, 0), (half, 0.015, deep), look)
        piece.legs(0.93 * half, 0.9 * deep, high - 0.03, 0.02, legs, square=rng.random() < 0.6)
        if rng.random() < 0.5:
            piece.box((0.6 * half, -0.32, 0), (0.2, 0.3, 0.8 * deep), look)
            _fronts(rng, piece, (0.6 * half, -0.62, 0.2, 0.58, 0.8 * deep), (1, 3), look)
        for k in range(int(rng.integers(1, 3))):
            _monitor(rng, piece, (-0.25 + 0.55 * k, -high, -0.45 * deep), rng.uniform(-0.3, 0.3))
        keys = m.plastic(rng) | {
            "cell": (0.019, 0.019),
            "joint": 0.005,
            "joint_colour": np.full(3, rng.uniform(0.02, 0.6)),
            "tone": 0.3,
        }
        piece.box((-0.1, -high - 0.01, 0.4 * deep), (0.22, 0.01, 0.065), keys, tilted(0, rng.uniform(-0.15, 0.15), 0))
        piece.ball((0.22, -high - 0.01, 0.4 * deep), (0.03, 0.02, 0.05), m.dark(rng))
        return [
            (np.array([0.35 * half, -high, 0.1]), 0.5 * half, 0.7 * deep),
            (np.array([-0.7 * half, -high, 0]), 0.25 * half, 0.8 * deep),
        ]

    return Item((half, deep), put_up)


def _monitor(rng: np.random.Generator, piece: Piece, foot: tuple[float, float, float], turn: float) -> None:
    x, y, z = foot
    wide, tall = rng.uniform(0.22, 0.35), rng.uniform(0.14, 0.19)
    dark = m.dark(rng)
    on = m.screen(rng, wide) if rng.random() < 0.6 else dark
    s, c = np.sin(turn), np.cos(turn)
    piece.box((x, y - 0.01, z), (0.12, 0.008, 0.09), dark)
    piece.cylinder((x, y - 0.09, z), 0.02, 0.08, dark)
    piece.box((x, y - 0.12 - tall, z + 0.03), (wide + 0.01, tall + 0.01, 0.014), dark, tilted(0, turn))
    piece.box((x + 0.016 * s, y - 0.12 - tall, z + 0.03 + 0.016 * c), (wide, tall, 0.002), on, tilted(0, turn))


def plant(rng: np.random.Generator) -> Item:
    """A pot with leaves: a bush, or long blades."""
    radius, high, size = rng.uniform(0.1, 0.2), rng.uniform(0.15, 0.35), rng.uniform(0.25, 0.6)
    green = m.leaves(rng, 0.3)

    def put_up(piece: Piece) -> list[Top]:
        piece.cylinder((0, -high / 2, 0), radius, high / 2, m.plastic(rng))
        blades = rng.random() < 0.6
        for k in range(14 if blades else 6):
            angle, lean = rng.uniform(0, 6.3), rng.uniform(0.2, 1.1)
            out = np.array([np.cos(angle) * np.sin(lean), -np.cos(lean), np.sin(angle) * np.sin(lean)])
            at = np.array([0, -high, 0]) + out * size * rng.uniform(0.5, 0.9)
            if blades:
                turn = tilted(0, -angle) if k % 2 else tilted(rng.normal() * 0.6, -angle, lean)
                piece.ball(at, (0.35 * size, 0.012, rng.uniform(0.04, 0.12)), green, turn)
                piece.rod((0, -high, 0), at, 0.006, green)
            else:
                piece.ball(at, size * rng.uniform(0.25, 0.5), green)
        return []

    return Item((0.8 * size, 0.8 * size), put_up)


def floor_lamp(rng: np.random.Generator) -> Item:
    """A foot, a pole, a shade."""
    high = rng.uniform(1.3, 1.8)

    def put_up(piece: Piece) -> list[Top]:
        pole = m.metal(rng)
        piece.cylinder((0, -0.01, 0), 0.14, 0.012, pole)
        piece.cylinder((0, -high / 2, 0), 0.012, high / 2, pole)
        piece.cylinder(
            (0, -high, 0), rng.uniform(0.12, 0.25), 0.13, m.lit_pane(rng) if rng.random() < 0.5 else m.fabric(rng)
        )
        return []

    return Item((0.2, 0.2), put_up)


def television(rng: np.random.Generator) -> Item:
    """On a low board."""
    half = rng.uniform(0.6, 0.9)

    def put_up(piece: Piece) -> list[Top]:
        look = _board(rng)
        piece.box((0, -0.24, 0), (half, 0.2, 0.2), look)
        _fronts(rng, piece, (0.0, -0.44, half, 0.38, 0.2), (3, 1), look)
        wide = rng.uniform(0.4, 0.65)
        piece.box((0, -0.5 - 0.56 * wide, 0), (wide, 0.56 * wide, 0.02), m.dark(rng))
        piece.box(
            (0, -0.5 - 0.56 * wide, 0.021),
            (0.98 * wide, 0.54 * wide, 0.001),
            m.screen(rng, wide) if rng.random() < 0.4 else m.dark(rng),
        )
        piece.box((0, -0.47, 0), (0.2, 0.03, 0.08), m.dark(rng))
        return [(np.array([0.75 * half, -0.44, 0]), 0.2 * half, 0.15)]

    return Item((half, 0.22), put_up)


def clutter_on_floor(rng: np.random.Generator) -> Item:
    """A bin, a box, a bag, a ball, a bottle crate, shoes."""
    kind, size = rng.choice(["bin", "box", "bag", "ball", "shoes"]), rng.uniform(0.12, 0.25)

    def put_up(piece: Piece) -> list[Top]:
        if kind == "bin":
            piece.cylinder((0, -size, 0), 0.7 * size, size, m.plastic(rng))
        elif kind == "box":
            piece.box(
                (0, -0.7 * size, 0),
                (size, 0.7 * size, 0.8 * size),
                m.printed(rng, size) if rng.random() < 0.4 else m.wood(rng),
            )
        elif kind == "bag":
            look = m.fabric(rng)
            piece.ball((0, -1.1 * size, 0), (0.8 * size, 1.2 * size, 0.55 * size), look)
            piece.ball((0, -0.8 * size, 0.4 * size), (0.6 * size, 0.6 * size, 0.35 * size), look)
            piece.ring((0, -2.1 * size, 0), 0.25 * size, 0.05 * size, look, AHEAD)
        elif kind == "ball":
            piece.ball((0, -0.6 * size, 0), 0.6 * size, m.printed(rng, size))
        else:
            look = m.leather(rng)
            for x in (-0.07, 0.07):
                piece.ball((x, -0.045, 0.03), (0.05, 0.045, 0.14), look)
                piece.ball((x, -0.08, -0.06), (0.045, 0.06, 0.06), look)
        return []

    return Item((1.1 * size, 1.1 * size), put_up)


def radiator(rng: np.random.Generator) -> Item:
    """Ribs below a window."""

    def put_up(piece: Piece) -> list[Top]:
        look = m.plastic(rng, m.hsv(0.1, 0.03, 0.85))
        piece.box(
            (0, -0.4, 0),
            (0.5, 0.28, 0.03),
            look | {"cell": (0.06, 9.0), "joint": 0.02, "joint_colour": np.full(3, 0.5)},
        )
        piece.rod((-0.5, -0.12, 0.04), (0.5, -0.12, 0.04), 0.02, look)
        return []

    return Item((0.52, 0.06), put_up)
