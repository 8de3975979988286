"""What rooms have on their walls and ceilings: windows, doors, pictures, lamps; and walls that divide them.

All but the walls are put up at once, in the frame of a piece.
"""

from __future__ import annotations

import numpy as np

from geo4d.synthetic.lifelike import materials as m
from geo4d.synthetic.lifelike.furniture import Item, Top, fill_shelf
from geo4d.synthetic.lifelike.piece import AHEAD, SIDEWAYS, Piece, tilted
from geo4d.synthetic.primitives import Shape


def partition(rng: np.random.Generator, height: float) -> Item:
    """A pillar, a piece of wall, a screen between desks."""
    kind = rng.random()
    half, deep = (rng.uniform(0.12, 0.25),) * 2 if kind < 0.3 else (rng.uniform(0.4, 1.2), rng.uniform(0.03, 0.1))
    high = rng.uniform(1.1, 1.6) if kind > 0.7 else height

    def put_up(piece: Piece) -> list[Top]:
        piece.box((0, -high / 2, 0), (half, high / 2, deep), m.fabric(rng) if kind > 0.7 else m.painted(rng))
        if kind <= 0.7:
            piece.box((0, -0.05, 0), (half + 0.012, 0.05, deep + 0.012), m.painted(rng))
        for side in (-1, 1) if rng.random() < 0.6 and half > 0.3 else ():
            turned = Piece(piece.builder, piece.there((0, 0, side * deep)), piece.yaw + (0 if side > 0 else np.pi))
            on_the_wall(rng, turned)
        return []

    return Item((half, deep), put_up)


def window(rng: np.random.Generator, piece: Piece) -> None:
    """In a wall, the foot of the piece on the floor below it, the wall at z = 0; with curtains or blinds perhaps."""
    half, high, sill = rng.uniform(0.4, 1.0), rng.uniform(0.5, 0.75), rng.uniform(0.7, 1.0)
    frame, middle = m.plastic(rng, m.hsv(0.1, 0.05, rng.uniform(0.3, 0.9))), -sill - high
    piece.box((0, middle, 0.01), (half, high, 0.01), m.lit_pane(rng))
    for x in np.linspace(-half, half, int(rng.integers(2, 5))):
        piece.box((x, middle, 0.03), (0.03, high, 0.025), frame)
    for y in (middle - high, middle, middle + high) if rng.random() < 0.5 else (middle - high, middle + high):
        piece.box((0, y, 0.03), (half + 0.03, 0.03, 0.025), frame)
    piece.box((0, middle + high + 0.02, 0.1), (half + 0.06, 0.015, 0.1), frame)
    kind = rng.random()
    if kind < 0.45:  # curtains
        cloth, bottom = m.fabric(rng), rng.choice([0.05, sill - 0.1])
        for side in (-1, 1):
            for k in range(5):
                x = side * (half + 0.12 - 0.085 * k)
                tall = (sill + 2 * high + 0.1 - bottom) / 2
                piece.add(Shape.CYLINDER, (x, -bottom - tall, 0.12), (0.055, tall, 0.035), cloth)
    elif kind < 0.65:  # blinds
        slats = m.plastic(rng) | {"cell": (9.0, 0.05), "joint": 0.02, "joint_colour": np.full(3, 0.75)}
        piece.box((0, middle - 0.4 * high, 0.07), (half, 0.6 * high, 0.01), slats)


def door(rng: np.random.Generator, piece: Piece) -> None:
    """In a wall, at z = 0: frame, leaf, panels, handle; sometimes open on a dark corridor."""
    half, high = rng.uniform(0.38, 0.48), 2.0
    leaf, frame = m.wood(rng, along=1) if rng.random() < 0.5 else m.painted(rng), m.painted(rng)
    for x in (-half - 0.04, half + 0.04):
        piece.box((x, -high / 2, 0.02), (0.05, high / 2, 0.025), frame)
    piece.box((0, -high - 0.04, 0.02), (half + 0.09, 0.05, 0.025), frame)
    if rng.random() < 0.3:
        piece.box((0, -high / 2, 0.005), (half, high / 2, 0.004), m.dark(rng) | {"reflection": 0.0})
        angle = rng.uniform(0.6, 1.5)
        at = (-half + half * np.cos(angle), -high / 2, 0.02 + half * np.sin(angle))
        piece.box(at, (half, high / 2, 0.02), leaf, tilted(0, -angle))
        return
    piece.box((0, -high / 2, 0.01), (half, high / 2, 0.012), leaf)
    for y in (-0.5, -1.4) if rng.random() < 0.6 else ():
        piece.box((0, y, 0.022), (0.65 * half, 0.35, 0.006), leaf)
    piece.rod((0.82 * half, -1.0, 0.07), (0.6 * half, -1.0, 0.07), 0.01, m.metal(rng))


def on_the_wall(rng: np.random.Generator, piece: Piece) -> None:
    """A picture, a poster, a clock, a switch, a small shelf, at z = 0."""
    kind = rng.choice(["picture", "poster", "clock", "socket", "shelf", "board"], p=[0.3, 0.25, 0.1, 0.1, 0.15, 0.1])
    half = np.array([rng.uniform(0.12, 0.5), rng.uniform(0.12, 0.5)])
    y = -rng.uniform(1.3, 1.7)
    if kind == "picture":
        piece.box((0, y, 0.012), (half[0] + 0.03, half[1] + 0.03, 0.012), m.wood(rng))
        piece.box((0, y, 0.026), (*half, 0.002), m.picture(rng, float(half.max())))
    elif kind == "poster":
        piece.box((0, y, 0.003), (*half, 0.002), m.printed(rng, float(half.max())))
    elif kind == "clock":
        piece.cylinder((0, y, 0.02), 0.15, 0.02, m.plastic(rng), AHEAD)
        piece.cylinder((0, y, 0.03), 0.135, 0.012, m.painted(rng, np.full(3, 0.9)), AHEAD)
        piece.rod((0, y, 0.045), (0.07, y - 0.06, 0.045), 0.005, m.dark(rng))
    elif kind == "socket":
        piece.box((0, rng.choice([-0.3, -1.1]), 0.006), (0.06, 0.04, 0.008), m.plastic(rng, np.full(3, 0.85)))
    elif kind == "shelf":
        piece.box((0, y, 0.1), (half[0] + 0.1, 0.012, 0.1), m.wood(rng))
        fill_shelf(rng, piece, (y - 0.012, half[0] + 0.1, 0.09, 0.3))
    else:
        piece.box((0, y, 0.012), (2 * half[0], half[1], 0.012), m.painted(rng))
        for _ in range(6):
            at = (rng.uniform(-1.7, 1.7) * half[0], y + rng.uniform(-0.7, 0.7) * half[1], 0.026)
            piece.box(
                at,
                (rng.uniform(0.03, 0.1), rng.uniform(0.03, 0.1), 0.002),
                m.printed(rng, 0.1),
                tilted(0, 0, rng.normal() * 0.1),
            )


def ceiling_lamp(rng: np.random.Generator, piece: Piece, height: float) -> None:
    """A globe on a cord, a flat panel, a tube."""
    kind, bright = rng.random(), m.lit_pane(rng) | {"glow": 1.5}
    if kind < 0.4:
        drop = rng.uniform(0.3, 0.9)
        piece.cylinder((0, -height + drop / 2, 0), 0.005, drop / 2, m.dark(rng))
        piece.ball((0, -height + drop, 0), rng.uniform(0.1, 0.2), bright)
    elif kind < 0.7:
        piece.box((0, -height + 0.02, 0), (0.3, 0.02, 0.3), bright)
    else:
        piece.cylinder((0, -height + 0.08, 0), 0.03, 0.6, bright, SIDEWAYS)
