"""Cars, vans, buses and lorries, parked or driving along z."""

from __future__ import annotations

import numpy as np

from geo4d.synthetic.lifelike import materials as m
from geo4d.synthetic.lifelike.piece import SIDEWAYS, Piece, tilted

TYRE = 0.33


def _lights_and_plate(rng: np.random.Generator, piece: Piece, half: tuple[float, float], y: float) -> None:
    """Lamps at both ends, bumpers and number plates; half width and half length."""
    x, z = half
    lit = rng.random() < 0.4
    for end, hue in ((1, 0.14), (-1, 0.0)):
        lamp = m.plastic(rng, m.hsv(hue, 0.2 if end == 1 else 0.85, 0.9 if end == 1 else 0.55)) | {
            "glow": 1.2 if lit else 0.1
        }
        for side in (-1, 1):
            piece.ball((0.8 * side * x, y, end * z), (0.16 * x, 0.08, 0.05), lamp)
        piece.box((0, y + 0.28, end * z), (0.9 * x, 0.08, 0.06), m.dark(rng))
        plate = m.painted(rng, m.hsv(0.14, rng.choice([0.0, 0.7]), 0.85))
        piece.box((0, y + 0.22, end * (z + 0.06)), (0.26, 0.055, 0.008), plate)


def _wheels(
    rng: np.random.Generator, piece: Piece, spots: list[float], half: float, radius: float, speed: float, *, plain: bool
) -> None:
    """Two wheels at each place along z, in dark arches."""
    rubber, rim = m.dark(rng) | {"reflection": 0.0}, m.metal(rng)
    for z in spots:
        if not plain:
            piece.cylinder((0, -1.05 * radius, z), 1.18 * radius, half + 0.004, rubber, SIDEWAYS)
        for side in (-1, 1):
            at = (side * (half - 0.09), -radius, z)
            piece.cylinder(at, radius, 0.11, rubber, SIDEWAYS, swing_rate=-speed / radius, hinge=at)
            if not plain:
                piece.cylinder((side * half, -radius, z), 0.6 * radius, 0.025, rim, SIDEWAYS)


def car(rng: np.random.Generator, piece: Piece, speed: float = 0.0, *, plain: bool = False) -> tuple[float, float]:
    """A saloon, an estate or a small van, along its z; returns half width and half length."""
    half, long = rng.uniform(0.82, 0.93), rng.uniform(1.85, 2.35)
    paint, glass = m.cars_paint(rng), m.dark(rng) | {"reflection": 0.2}
    belt, roof = rng.uniform(0.82, 0.98), rng.uniform(1.42, 1.75)
    rear = rng.choice([-0.95, -0.8, -0.55])  # where the roof ends: hatchback to saloon, in half lengths
    piece.box((0, -(0.25 + belt) / 2, 0), (half, (belt - 0.25) / 2, long - 0.1), paint)
    piece.box((0, -(0.3 + 0.85 * belt) / 2, 0), (0.92 * half, (0.85 * belt - 0.3) / 2, long), paint)
    front = 0.28 * long
    middle, length = (front + rear * long) / 2, (front - rear * long) / 2
    body = (half, long, belt, roof)
    if rng.random() < 0.5:
        _rounded(piece, body, (middle, length), (paint, glass))
    else:
        _angular(piece, body, (front, rear * long), (paint, glass), plain=plain)
    for side in () if plain else (-1, 1):
        piece.ball((side * (half + 0.1), -belt - 0.05, front), (0.1, 0.07, 0.05), paint)
    _lights_and_plate(rng, piece, (half, long), -0.7)
    _wheels(rng, piece, [0.62 * long, -0.6 * long], half, TYRE, speed, plain=plain)
    return half, long + 0.1


def _rounded(
    piece: Piece,
    body: tuple[float, float, float, float],
    cabin: tuple[float, float],
    looks: tuple[m.Columns, m.Columns],
) -> None:
    """Cabin and bonnet as ellipsoids.

    `body` is (half width, half length, belt, roof), `cabin` (middle, half length) along z.
    """
    (half, long, belt, roof), (middle, length), (paint, glass) = body, cabin, looks
    piece.ball((0, -belt + 0.2, middle - 0.1), (0.93 * half, roof - belt + 0.2, 1.2 * length), glass)
    piece.ball((0, -roof + 0.08, middle - 0.15), (0.72 * half, 0.1, 0.8 * length), paint)
    piece.ball((0, -0.72, 0.55 * long), (0.97 * half, belt - 0.66, 0.46 * long), paint)
    piece.ball((0, -0.72, -0.6 * long), (0.97 * half, belt - 0.64, 0.41 * long), paint)


def _angular(
    piece: Piece,
    body: tuple[float, float, float, float],
    ends: tuple[float, float],
    looks: tuple[m.Columns, m.Columns],
    *,
    plain: bool,
) -> None:
    """Cabin as a box with slanting panes from the front end to the rear end of its roof; body as for a rounded one."""
    (half, _, belt, roof), (front, rear), (paint, glass) = body, ends, looks
    middle, length = (front + rear) / 2, (front - rear) / 2
    piece.box((0, -(belt + roof) / 2, middle - 0.1), (0.84 * half, (roof - belt) / 2, length - 0.25), glass)
    piece.box((0, -roof, middle - 0.12), (0.8 * half, 0.03, length - 0.3), paint)
    tilt = np.arctan2(0.55, roof - belt)
    for end, at, lean in ((1, front - 0.05, tilt), (-1, rear + 0.12, -0.6 * tilt)):
        piece.box(
            (0, -(belt + roof) / 2, at - 0.12 * end),
            (0.82 * half, 0.56 * (roof - belt) / np.cos(lean), 0.02),
            glass,
            tilted(lean),
        )
    for z in () if plain else (front - 0.3, middle, rear + 0.25):
        for side in (-1, 1):
            piece.box((side * 0.862 * half, -(belt + roof) / 2, z), (0.012, (roof - belt) / 2, 0.045), paint)


def lorry(rng: np.random.Generator, piece: Piece, speed: float = 0.0, *, plain: bool = False) -> tuple[float, float]:
    """A van, a bus, a lorry with a box or a tank."""
    kind = rng.choice(["van", "bus", "box", "tank"])
    half, tall = (1.0, rng.uniform(2.0, 2.6)) if kind == "van" else (1.25, rng.uniform(2.8, 3.8))
    long = rng.uniform(2.5, 3.2) if kind == "van" else rng.uniform(3.5, 6.0)
    paint, body, glass = m.cars_paint(rng), m.cars_paint(rng) | {"reflection": 0.04}, m.dark(rng)
    if rng.random() < 0.4:
        body |= m.printed(rng, 4.0) | {"specular": 0.2}
    cab = 0.9 if kind != "bus" else 0.02
    radius = TYRE if kind == "van" else 0.5
    piece.box((0, -radius - 0.25, 0), (0.85 * half, 0.2, long - 0.1), m.dark(rng))
    middle, length = -cab, long - cab
    if kind == "tank":
        piece.cylinder(
            (0, -radius - 0.35 - half, middle), 0.98 * half, length, m.metal(rng), (1, 0, 0, 0, 0, -1, 0, 1, 0)
        )
    else:
        piece.box((0, -(radius + tall) / 2, middle), (half, (tall - radius) / 2, length), body)
    if kind == "bus":
        for side in (-1, 1):
            piece.box(
                (side * half, -0.65 * tall, 0),
                (0.01, 0.16 * tall, 0.95 * long),
                glass | {"cell": (1.3, 9.0), "joint": 0.12},
            )
    else:
        high = min(tall, 2.6 if kind != "van" else tall)
        piece.box((0, -(radius + high) / 2, long - 0.9), (0.96 * half, (high - radius) / 2, 0.88), paint)
        for side in (-1, 1):
            piece.box((side * 0.97 * half, -0.72 * high, long - 0.75), (0.012, 0.14 * high, 0.45), glass)
            piece.ball((side * (half + 0.15), -0.72 * high, long - 0.2), (0.08, 0.2, 0.08), m.dark(rng))
    piece.box((0, -0.68 * min(tall, 2.8), long), (0.86 * half, 0.17 * min(tall, 2.8), 0.012), glass)
    piece.box((0, -0.55 * tall, -long), (0.93 * half, 0.4 * tall, 0.012), body if rng.random() < 0.7 else m.metal(rng))
    if rng.random() < 0.3:
        stripes = m.painted(rng, m.hsv(0.0, 0.8, 0.6)) | {
            "cell": (0.25, 9.0),
            "joint": 0.12,
            "joint_colour": m.hsv(0.14, 0.8, 0.85),
        }
        piece.box((0, -radius - 0.3, -long - 0.02), (0.9 * half, 0.12, 0.012), stripes)
    _lights_and_plate(rng, piece, (half, long), -radius - 0.35)
    _wheels(rng, piece, [0.75 * long, -0.5 * long, -0.75 * long], half, radius, speed, plain=plain)
    return half + 0.1, long + 0.15
