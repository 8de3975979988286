"""People with joints that stand, sit and walk, and animals on four legs."""

from __future__ import annotations

from typing import Literal

import numpy as np

from geo4d.synthetic.lifelike import materials as m
from geo4d.synthetic.lifelike.piece import Piece, tilted
from geo4d.synthetic.primitives import Builder

Pose = Literal["stand", "sit", "walk"]


def _along(forward: float, outward: float) -> np.ndarray:
    """Direction of a limb that hangs down, raised forwards and sidewards (towards +x) by angles."""
    return np.array([np.sin(outward), np.cos(outward) * np.cos(forward), np.cos(outward) * np.sin(forward)])


def person(
    rng: np.random.Generator,
    builder: Builder,
    place: np.ndarray,
    yaw: float,
    pose: Pose,
    motion: m.Columns | None = None,
) -> None:
    """Faces +z of its own frame, feet on `place`, 1.5 to 1.9 metres tall.

    Who walks needs a motion that leads along the ground.
    """
    tall = rng.uniform(0.9, 1.08) if rng.random() < 0.85 else rng.uniform(0.55, 0.8)
    piece = Piece(builder, place, yaw, dict(motion or {}))
    cloth, trousers, shoes = m.fabric(rng), m.fabric(rng, m.anything(rng) * 0.7), m.leather(rng)
    flesh, hair = m.skin(rng), m.fur(rng)
    hip = 0.47 / tall if pose == "sit" else 0.92
    stout = rng.uniform(0.9, 1.25)
    stride, phase = rng.uniform(4.5, 6.5), rng.uniform(0, 6.3)
    swing = {"swing_frequency": stride, "swing_phase": phase} if pose == "walk" else {}
    lean = rng.normal() * 0.08 + 0.05
    bare = rng.random() < 0.4

    def up(y: float, x: float = 0.0, z: float = 0.0) -> np.ndarray:
        return np.array([x, -y + 0.0, z + (y - hip) * lean]) * tall

    for side in (-1, 1):
        _leg(rng, piece, (side, hip, tall, stout), pose, (trousers, shoes), swing)
        shoulder = up(hip + 0.5, 0.19 * side * stout)
        _arm(rng, piece, (side, tall, shoulder), (cloth, flesh if bare else cloth, flesh), swing)
        piece.ball(shoulder, 0.062 * tall * stout, cloth)
    piece.ball(up(hip + 0.33), np.array([0.175 * stout, 0.25, 0.12 * stout]) * tall, cloth, tilted(-lean))
    piece.ball(up(hip + 0.12), np.array([0.16 * stout, 0.2, 0.125 * stout]) * tall, cloth, tilted(-lean))
    piece.ball(up(hip), np.array([0.165 * stout, 0.13, 0.125 * stout]) * tall, trousers)
    piece.rod(up(hip + 0.48), up(hip + 0.62), 0.055 * tall, flesh)
    turn = tilted(rng.normal() * 0.15, rng.normal() * 0.3)
    piece.ball(up(hip + 0.71), np.array([0.078, 0.115, 0.098]) * tall, flesh, turn)
    piece.ball(up(hip + 0.74, 0.0, -0.025), np.array([0.086, 0.105, 0.095]) * tall, hair, turn)
    piece.ball(up(hip + 0.7, 0.0, 0.095), np.array([0.012, 0.02, 0.018]) * tall, flesh)
    if rng.random() < 0.3:
        piece.ball(up(hip + 0.62, 0.0, -0.09), np.array([0.09, 0.17, 0.04]) * tall, hair)
    if rng.random() < 0.2:
        piece.ball(up(hip + 0.33, 0.0, -0.17), np.array([0.15, 0.22, 0.1]) * tall, m.fabric(rng))  # a rucksack


def _leg(
    rng: np.random.Generator,
    piece: Piece,
    body: tuple[int, float, float, float],
    pose: Pose,
    looks: tuple[m.Columns, m.Columns],
    swing: m.Columns,
) -> None:
    """Thigh, shin and shoe; bent at the knee."""
    side, hip, tall, stout = body
    trousers, shoes = looks
    joint = np.array([0.09 * side, -hip, 0]) * tall
    length = 0.44 * tall
    raised, bent = {"sit": (1.5, 1.5), "walk": (0.08, 0.2), "stand": (rng.normal() * 0.06, 0.05)}[pose]
    knee = joint + length * _along(raised, 0.05 * side)
    ankle = knee + length * _along(raised - bent, 0.0)
    more = swing | ({"swing_amplitude": 0.45 * side, "hinge": joint} if swing else {})
    piece.rod(joint, knee, 0.08 * tall * stout, trousers, **more)
    piece.rod(knee, ankle, 0.055 * tall * stout, trousers, **more)
    piece.ball(ankle + np.array([0, 0.015, 0.07]) * tall, np.array([0.045, 0.045, 0.13]) * tall, shoes, **more)


def _arm(
    rng: np.random.Generator,
    piece: Piece,
    body: tuple[int, float, np.ndarray],
    looks: tuple[m.Columns, m.Columns, m.Columns],
    swing: m.Columns,
) -> None:
    """Upper arm, forearm and hand; bent at the elbow."""
    side, tall, shoulder = body
    sleeve, fore, flesh = looks
    raised, bent = (0.0, 0.4) if swing else (rng.choice([0.1, 0.4, 1.0]) * rng.uniform(0.5, 1.2), rng.uniform(0.1, 1.7))
    elbow = shoulder + 0.29 * tall * _along(raised, 0.15 * side)
    wrist = elbow + 0.26 * tall * _along(raised + bent, rng.uniform(-0.5, 0.1) * side)
    more = swing | ({"swing_amplitude": -0.4 * side, "hinge": shoulder} if swing else {})
    piece.rod(shoulder, elbow, 0.047 * tall, sleeve, **more)
    piece.rod(elbow, wrist, 0.037 * tall, fore, **more)
    piece.ball(wrist + 0.06 * (wrist - elbow) / 0.26, np.array([0.035, 0.06, 0.03]) * tall, flesh, **more)


def animal(
    rng: np.random.Generator,
    builder: Builder,
    place: np.ndarray,
    yaw: float,
    tall: float,
    motion: m.Columns | None = None,
) -> None:
    """On four legs, its back `tall` metres high: a cat, a dog, a horse by proportion; looks along +z."""
    piece = Piece(builder, place, yaw, dict(motion or {}))
    coat, dark = m.fur(rng), m.dark(rng)
    long, thick = tall * rng.uniform(0.55, 0.8), tall * rng.uniform(0.16, 0.26)
    body = -tall + thick
    piece.ball((0, body, -0.4 * long), (thick, 1.05 * thick, 0.6 * long), coat)
    piece.ball((0, body - 0.05 * thick, 0.35 * long), (thick, 1.15 * thick, 0.55 * long), coat)
    neck = np.array([0, body - 0.3 * thick, 0.75 * long])
    head = neck + tall * rng.uniform(0.2, 0.45) * np.array([0, -np.cos(0.6), np.sin(0.6)])
    size = tall * rng.uniform(0.1, 0.16)
    piece.rod(neck, head, 0.75 * size, coat)
    piece.ball(head, (0.8 * size, 0.85 * size, size), coat)
    piece.ball(head + [0, 0.3 * size, size], (0.4 * size, 0.4 * size, 0.7 * size), coat)
    piece.ball(head + [0, 0.2 * size, 1.65 * size], 0.14 * size, dark)
    swing = {"swing_frequency": rng.uniform(5, 9), "swing_phase": rng.uniform(0, 6)} if motion else {}
    for x in (-1, 1):
        piece.ball(head + [0.6 * x * size, -0.9 * size, -0.1 * size], (0.2 * size, 0.45 * size, 0.12 * size), coat)
        piece.ball(head + [0.45 * x * size, -0.2 * size, 0.85 * size], 0.1 * size, dark)
        for z, sign in ((-0.75, x), (0.65, -x)):
            top = np.array([0.55 * x * thick, body + 0.3 * thick, z * long])
            knee = np.array([0.55 * x * thick, 0.55 * (body + 0.3 * thick), z * long + 0.06 * long])
            more = swing | ({"swing_amplitude": 0.35 * sign, "hinge": top} if swing else {})
            piece.rod(top, knee, 0.3 * thick, coat, **more)
            piece.rod(knee, (0.55 * x * thick, -0.05 * tall, z * long), 0.2 * thick, coat, **more)
    tail = np.array([0, body - 0.5 * thick, -0.95 * long])
    piece.rod(tail, tail + tall * np.array([0, rng.uniform(-0.5, 0.4), -0.3]), 0.1 * thick, coat)


def wander(rng: np.random.Generator, radius: float, pace: float) -> m.Columns:
    """Motion on a circle, looking ahead; what it is given to should face +z."""
    turn = rng.choice([-1.0, 1.0])
    columns = {
        "circle_radius": radius,
        "circle_rate": turn * pace / max(radius, 0.3),
        "circle_phase": rng.uniform(0, 6.3),
    }
    return columns | {"follow": 1.0, "yaw": turn * np.pi / 2}
