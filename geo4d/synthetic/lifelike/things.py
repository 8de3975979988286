"""Small things that stand and lie on tops: cups, plates, bottles, books, fruit, boxes, papers, cables, gadgets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from geo4d.synthetic.lifelike import materials as m
from geo4d.synthetic.lifelike.piece import AHEAD, SIDEWAYS, Piece, tilted

Maker = Callable[[np.random.Generator, Piece], None]


def cup(rng: np.random.Generator, piece: Piece) -> None:
    """With a handle and something in it."""
    radius, half, look = rng.uniform(0.035, 0.045), rng.uniform(0.04, 0.055), m.plastic(rng)
    piece.cylinder((0, -half, 0), radius, half, look)
    piece.cylinder(
        (0, -2 * half - 0.0005, 0), 0.88 * radius, 0.001, m.dark(rng) if rng.random() < 0.6 else m.plastic(rng)
    )
    piece.ring((radius + 0.012, -half, 0), 0.024, 0.006, look, AHEAD)


def glass(rng: np.random.Generator, piece: Piece) -> None:
    """A tumbler or a vase."""
    look = m.plastic(rng, m.hsv(rng.uniform(0.3, 0.6), 0.1, rng.uniform(0.4, 0.8))) | {
        "reflection": 0.25,
        "specular": 0.9,
    }
    piece.cylinder((0, -0.06, 0), rng.uniform(0.025, 0.04), 0.06, look)


def plate(rng: np.random.Generator, piece: Piece) -> None:
    """A plate or bowl, perhaps with fruit."""
    radius, look = rng.uniform(0.08, 0.15), m.plastic(rng)
    piece.cylinder((0, -0.008, 0), radius, 0.008, look)
    piece.ring((0, -0.016, 0), 0.93 * radius, 0.008, look)
    for _ in range(int(rng.choice([0, 2, 4]))):
        at = rng.normal(size=2) * 0.3 * radius
        fruit = m.plastic(rng, m.hsv(rng.choice([0.0, 0.08, 0.14, 0.25]), 0.8, rng.uniform(0.4, 0.85)))
        piece.ball((at[0], -0.045, at[1]), rng.uniform(0.028, 0.04) * np.array([1, 0.95, 1]), fruit)


def fruit(rng: np.random.Generator, piece: Piece) -> None:
    """An apple with its stalk, an orange, a lemon."""
    radius, hue = rng.uniform(0.03, 0.045), rng.choice([0.0, 0.97, 0.08, 0.14, 0.25])
    look = m.plastic(rng, m.hsv(hue, 0.8, rng.uniform(0.4, 0.85))) | {
        "mottle_gain": 2.0,
        "mottle_scale": 8.0,
        "specular": 0.4,
    }
    piece.ball((0, -0.95 * radius, 0), radius * np.array([1, 0.93, 1]), look)
    piece.rod((0, -1.75 * radius, 0), (0.004, -2.15 * radius, 0), 0.0025, m.bark(rng))


def bottle(rng: np.random.Generator, piece: Piece) -> None:
    """Body, shoulder, neck, label."""
    radius, tall = rng.uniform(0.028, 0.045), rng.uniform(0.06, 0.1)
    look = m.plastic(rng) | {"reflection": 0.12, "specular": 0.8}
    piece.cylinder((0, -tall, 0), radius, tall, look)
    piece.ball((0, -2 * tall, 0), (radius, 0.7 * radius, radius), look)
    piece.cylinder((0, -2 * tall - radius, 0), 0.35 * radius, 0.9 * radius, look)
    piece.cylinder((0, -2 * tall - 2 * radius, 0), 0.4 * radius, 0.008, m.plastic(rng))
    if rng.random() < 0.7:
        piece.cylinder((0, -tall, 0), radius + 0.0006, 0.5 * tall, m.printed(rng, 2 * tall))


def can(rng: np.random.Generator, piece: Piece) -> None:
    """Or a jar."""
    radius, half = rng.uniform(0.03, 0.05), rng.uniform(0.045, 0.08)
    piece.cylinder((0, -half, 0), radius, half, m.printed(rng, 2 * half))
    piece.cylinder((0, -2 * half, 0), 0.95 * radius, 0.004, m.metal(rng))


def book(rng: np.random.Generator, piece: Piece) -> None:
    """One lying, or a pile."""
    y = 0.0
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        half = np.array([rng.uniform(0.07, 0.13), rng.uniform(0.004, 0.02), rng.uniform(0.1, 0.16)])
        turn = tilted(0, rng.normal() * 0.2)
        y += 2 * half[1] + 0.002
        piece.box((0, -y + half[1], 0), half, m.printed(rng, 0.3), turn)
        piece.box((0.004, -y + half[1], 0), half * [1.0, 0.8, 0.99], m.painted(rng, np.full(3, 0.85)), turn)


def standing_books(rng: np.random.Generator, piece: Piece) -> None:
    """A row."""
    x = 0.0
    for _ in range(int(rng.integers(2, 6))):
        half = np.array([rng.uniform(0.008, 0.025), rng.uniform(0.09, 0.14), rng.uniform(0.06, 0.1)])
        piece.box((x + half[0], -half[1], 0), half, m.printed(rng, 0.25))
        x += 2 * half[0] + 0.002


def paper(rng: np.random.Generator, piece: Piece) -> None:
    """Sheets, a magazine."""
    for k in range(int(rng.integers(1, 4))):
        look = m.printed(rng, 0.3) if rng.random() < 0.5 else m.printed(rng, 0.2) | {"joint_colour": np.full(3, 0.88)}
        at = (rng.normal() * 0.05, -0.001 - 0.0015 * k, rng.normal() * 0.05)
        piece.box(at, (0.105, 0.001, 0.148), look, tilted(0, rng.uniform(0, 3)))


def package(rng: np.random.Generator, piece: Piece) -> None:
    """A carton, upright or lying."""
    half = np.sort(rng.uniform(0.02, 0.13, 3))[rng.permutation(3)]
    look = m.printed(rng, float(half.max()) * 2) if rng.random() < 0.7 else m.painted(rng, m.hsv(0.09, 0.4, 0.55))
    piece.box((0, -half[1], 0), half, look)
    if rng.random() < 0.25:
        piece.box((0, -2 * half[1] - 0.3 * half[1], 0), half * [0.7, 0.3, 0.7], m.printed(rng, 0.2))


def phone(rng: np.random.Generator, piece: Piece) -> None:
    """A phone, a remote control, a purse."""
    half = rng.choice([0, 1, 2])
    size = [(0.037, 0.004, 0.075), (0.024, 0.01, 0.09), (0.06, 0.014, 0.045)][half]
    piece.box((0, -size[1], 0), size, [m.dark, m.dark, m.leather][half](rng))
    if half == 0:
        piece.box(
            (0, -2 * size[1] - 0.0004, 0),
            (0.034, 0.0005, 0.07),
            m.screen(rng, 0.1) if rng.random() < 0.4 else m.dark(rng),
        )


def laptop(rng: np.random.Generator, piece: Piece) -> None:
    """Open."""
    look, wide, deep = m.metal(rng) if rng.random() < 0.5 else m.dark(rng), 0.165, 0.115
    lean = rng.uniform(0.1, 0.5)
    piece.box((0, -0.008, 0), (wide, 0.008, deep), look)
    keys = m.dark(rng) | {
        "cell": (0.019, 0.019),
        "joint": 0.004,
        "joint_colour": np.full(3, rng.uniform(0.1, 0.5)),
        "tone": 0.2,
    }
    piece.box((0, -0.0165, -0.02), (0.9 * wide, 0.001, 0.5 * deep), keys)
    up, back = np.cos(lean), np.sin(lean)
    at = np.array([0, -0.016 - deep * up, -deep - deep * back])
    piece.box(at, (wide, deep, 0.004), look, tilted(lean))
    face = at + 0.005 * np.array([0, -back, up])
    piece.box(face, (0.94 * wide, 0.92 * deep, 0.0008), m.screen(rng, wide), tilted(lean))


def desk_lamp(rng: np.random.Generator, piece: Piece) -> None:
    """With a bent arm, or a shade on a foot."""
    look = m.metal(rng)
    piece.cylinder((0, -0.01, 0), 0.08, 0.01, look)
    if rng.random() < 0.5:
        piece.rod((0, 0, 0), (-0.08, -0.25, 0), 0.008, look)
        piece.rod((-0.08, -0.25, 0), (0.1, -0.42, 0), 0.008, look)
        piece.cylinder((0.13, -0.4, 0), 0.06, 0.05, look, tilted(0, 0, 0.6))
    else:
        piece.cylinder((0, -0.13, 0), 0.015, 0.12, look)
        piece.cylinder((0, -0.3, 0), 0.11, 0.08, m.lit_pane(rng))


def pot_plant(rng: np.random.Generator, piece: Piece) -> None:
    """A small one."""
    green = m.leaves(rng, 0.1)
    piece.cylinder((0, -0.05, 0), 0.05, 0.05, m.plastic(rng))
    for _ in range(7):
        at = np.array([rng.normal() * 0.05, -0.13 - rng.uniform(0, 0.1), rng.normal() * 0.05])
        piece.ball(
            at,
            (0.06, rng.uniform(0.01, 0.05), 0.03),
            green,
            tilted(rng.normal() * 0.5, rng.uniform(0, 6), rng.normal() * 0.5),
        )


def cutlery(rng: np.random.Generator, piece: Piece) -> None:
    """Pens, a knife and a fork."""
    for k in range(int(rng.integers(1, 4))):
        x = 0.025 * k
        look = m.metal(rng) if rng.random() < 0.6 else m.plastic(rng)
        piece.rod((x, -0.005, -0.08), (x + rng.normal() * 0.01, -0.005, 0.08), 0.005, look)


def cable(rng: np.random.Generator, piece: Piece) -> None:
    """A few bends."""
    look = m.dark(rng) if rng.random() < 0.6 else m.plastic(rng)
    at, heading = np.zeros(3) + [0, -0.004, 0], rng.uniform(0, 6.3)
    for _ in range(5):
        heading += rng.normal() * 0.7
        new = at + 0.07 * np.array([np.cos(heading), 0, np.sin(heading)])
        piece.rod(at, new, 0.004, look)
        at = new


def toy(rng: np.random.Generator, piece: Piece) -> None:
    """A stuffed animal, a ball, blocks."""
    if rng.random() < 0.4:
        for _ in range(3):
            side = rng.uniform(0.015, 0.035)
            piece.box(
                (rng.normal() * 0.06, -side, rng.normal() * 0.06),
                (side,) * 3,
                m.plastic(rng),
                tilted(0, rng.uniform(0, 3)),
            )
        return
    look = m.fur(rng)
    piece.ball((0, -0.06, 0), (0.06, 0.065, 0.055), look)
    piece.ball((0, -0.15, 0), 0.05, look)
    for x in (-1, 1):
        piece.ball((0.04 * x, -0.195, 0), 0.02, look)
        piece.ball((0.055 * x, -0.03, 0.05), (0.025, 0.025, 0.05), look)
        piece.ball((0.06 * x, -0.09, 0.02), (0.03, 0.02, 0.02), look)


def teapot(rng: np.random.Generator, piece: Piece) -> None:
    """A kettle, a pan."""
    look = m.metal(rng) if rng.random() < 0.6 else m.plastic(rng)
    if rng.random() < 0.5:
        piece.cylinder((0, -0.05, 0), 0.11, 0.05, look)
        piece.rod((0.11, -0.08, 0), (0.28, -0.09, 0), 0.012, m.dark(rng))
        return
    piece.ball((0, -0.09, 0), (0.08, 0.09, 0.08), look)
    piece.rod((0.06, -0.08, 0), (0.13, -0.14, 0), 0.014, look)
    piece.ring((-0.09, -0.1, 0), 0.05, 0.009, m.dark(rng), AHEAD)
    piece.ball((0, -0.185, 0), 0.014, m.dark(rng))


def roll(rng: np.random.Generator, piece: Piece) -> None:
    """Kitchen paper, tape, a lying bottle."""
    radius = rng.uniform(0.025, 0.06)
    look = m.painted(rng, np.full(3, 0.88)) if rng.random() < 0.5 else m.printed(rng, 0.2)
    piece.cylinder((0, -radius, 0), radius, rng.uniform(0.05, 0.13), look, SIDEWAYS)


KITCHEN: tuple[Maker, ...] = (
    cup,
    glass,
    plate,
    fruit,
    bottle,
    bottle,
    can,
    package,
    teapot,
    roll,
    cutlery,
    paper,
    pot_plant,
)
DESK: tuple[Maker, ...] = (
    cup,
    book,
    paper,
    paper,
    phone,
    cable,
    cutlery,
    laptop,
    desk_lamp,
    standing_books,
    package,
    bottle,
    glass,
)
LIVING: tuple[Maker, ...] = (
    book,
    book,
    cup,
    glass,
    plate,
    fruit,
    phone,
    pot_plant,
    toy,
    paper,
    desk_lamp,
    package,
    can,
    toy,
    bottle,
)


def scatter(
    rng: np.random.Generator, piece: Piece, top: tuple[np.ndarray, float, float], kinds: tuple[Maker, ...], count: int
) -> None:
    """Puts about `count` things on a top of a piece of furniture, apart from each other."""
    centre, half_x, half_z = top
    taken: list[np.ndarray] = []
    for _ in range(count):
        for _ in range(5):
            at = np.array([rng.uniform(-1, 1) * max(half_x - 0.06, 0.0), rng.uniform(-1, 1) * max(half_z - 0.06, 0.0)])
            if all(np.linalg.norm(at - other) > 0.17 for other in taken):
                break
        else:
            continue
        taken.append(at)
        spot = piece.there(centre + [at[0], 0, at[1]])
        kinds[rng.integers(len(kinds))](rng, Piece(piece.builder, spot, rng.uniform(0, 2 * np.pi)))
