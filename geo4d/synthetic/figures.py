"""What stands about: simple bodies, and things of several parts.

Walking figures, cars with wheels that turn, trees, tables.
"""

from __future__ import annotations

import numpy as np

from geo4d.synthetic.looks import Look, paint, random_rotation
from geo4d.synthetic.primitives import Builder, Shape


def add_thing(
    rng: np.random.Generator, builder: Builder, position: np.ndarray, size: float, moving: dict[str, object]
) -> None:
    """One simple body that stands at `position` (its lowest point) and is about `size` across."""
    shape = Shape(rng.choice([0, 1, 1, 2, 3, 4], p=[0.34, 0.14, 0.14, 0.16, 0.1, 0.12]))
    half = size / 2 * np.exp(rng.normal(size=3) * 0.3)
    tilt = np.eye(3)
    if shape == Shape.TORUS:
        half = np.array([size * 0.4, size * rng.uniform(0.08, 0.16), 1.0])
        tilt = random_rotation(rng) if rng.random() < 0.5 else np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
        rise = half[0] + half[1]
    elif shape == Shape.CAPSULE:
        half = np.array([size * 0.25, size * rng.uniform(0.2, 0.6), 1.0])
        rise = half[0] + half[1]
    else:
        rise = half[1]
    place = np.array([position[0], position[1] - rise, position[2]])
    look = paint(rng, Look(texture_scale=(0.5, 3.0), specular=0.5))
    builder.add(
        shape,
        size=half,
        base=place,
        yaw=rng.uniform(0, 6.3),
        tilt=tilt.ravel(),
        instance=builder.new_instance(),
        **look,
        **moving,
    )


def add_figure(
    rng: np.random.Generator, builder: Builder, place: np.ndarray, *, circle: float, walk: float = 0.0
) -> None:
    """A person of capsules.

    Walks on a circle of this radius, or straight along z at this speed, legs and arms swinging.
    """
    tall = rng.uniform(0.9, 1.15)
    stride = rng.uniform(3.5, 6.0)
    turn = rng.choice([-1.0, 1.0])
    root: dict[str, object] = {"base": place, "instance": builder.new_instance()}
    if walk:
        root |= {"velocity": (0, 0, walk), "yaw": 0.0 if walk > 0 else np.pi}
    elif circle > 0:
        speed = 0.22 * stride
        root |= {
            "circle_radius": circle,
            "circle_rate": turn * speed / max(circle, 0.3),
            "circle_phase": rng.uniform(0, 6.3),
        }
        root |= {"follow": 1.0, "yaw": turn * np.pi / 2}
    cloth, trousers, skin = (paint(rng, Look(contrast=0.6)) for _ in range(3))
    skin |= {"colour0": np.array([0.8, 0.6, 0.5]) * rng.uniform(0.4, 1.1), "texture": 21}
    phase = rng.uniform(0, 6.3)
    for side in (-1, 1):
        for y, x, length, radius, amplitude, sign, look in (
            (-0.85, 0.1, 0.85, 0.085, 0.5, side, trousers),
            (-1.38, 0.23, 0.6, 0.055, 0.45, -side, cloth),
        ):
            limb = {"pivot": (side * x * tall, y * tall, 0), "offset": (0, length / 2 * tall, 0)}
            size = (radius * tall, (length / 2 - radius) * tall, 1)
            swing = {"swing_amplitude": sign * amplitude, "swing_frequency": stride, "swing_phase": phase}
            builder.add(Shape.CAPSULE, size=size, **limb, **swing, **root, **look)
    builder.add(Shape.CAPSULE, size=(0.17 * tall, 0.2 * tall, 1), pivot=(0, -1.13 * tall, 0), **root, **cloth)
    builder.add(Shape.ELLIPSOID, size=np.array([0.1, 0.13, 0.11]) * tall, pivot=(0, -1.62 * tall, 0), **root, **skin)


def add_car(rng: np.random.Generator, builder: Builder, place: np.ndarray, velocity: float, track: np.ndarray) -> bool:
    """Body, cabin and four wheels, driving along z; left out (False) if it would come too near to the camera."""
    half = np.array([rng.uniform(0.8, 0.95), rng.uniform(0.3, 0.4), rng.uniform(1.9, 2.4)])
    times = np.linspace(0.0, 9.0, len(track))
    path = place + np.outer(times, [0, 0, velocity])
    near = np.abs(track - path)
    if ((near[:, 0] < half[0] + 0.5) & (near[:, 2] < half[2] + 0.6)).any():
        return False
    root: dict[str, object] = {"base": place, "velocity": (0, 0, velocity), "instance": builder.new_instance()}
    look = paint(rng, Look(contrast=0.2, specular=0.9))
    look["texture"] = 21
    radius = 0.33
    builder.add(Shape.BOX, size=half, pivot=(0, -radius - half[1], 0), **root, **look)
    dark = {"colour0": (0.1, 0.12, 0.15), "colour1": (0.2, 0.22, 0.25), "specular": 0.6}
    cabin = half * [0.88, 0.8, 0.5]
    builder.add(Shape.BOX, size=cabin, pivot=(0, -radius - 2 * half[1] - cabin[1], -0.15), **root, **dark)
    sideways = (0, -1, 0, 1, 0, 0, 0, 0, 1)  # the cylinder's axis along x
    rubber = {"colour0": (0.06, 0.06, 0.06), "colour1": (0.5, 0.5, 0.5), "texture": 6, "texture_scale": 2.0}
    for x in (-half[0], half[0]):
        for z in (-0.62 * half[2], 0.62 * half[2]):
            spin = {"pivot": (x, -radius, z), "swing_rate": -velocity / radius}
            builder.add(Shape.CYLINDER, size=(radius, 0.12, radius), tilt=sideways, **spin, **root, **rubber)
    return True


def add_tree(rng: np.random.Generator, builder: Builder, place: np.ndarray) -> None:
    """A trunk and a crown."""
    tall, thick = rng.uniform(1.2, 3.5), rng.uniform(0.08, 0.25)
    crown = np.array([1, rng.uniform(0.8, 1.6), 1]) * rng.uniform(0.7, 1.8)
    instance = builder.new_instance()
    bark = {
        "colour0": (0.3, 0.22, 0.15),
        "colour1": (0.45, 0.35, 0.25),
        "texture": rng.integers(0, 6),
        "texture_scale": 1.5,
    }
    builder.add(Shape.CYLINDER, size=(thick, tall / 2, thick), base=place - [0, tall / 2, 0], instance=instance, **bark)
    green = np.array([rng.uniform(0.1, 0.45), rng.uniform(0.3, 0.6), rng.uniform(0.05, 0.25)])
    leaves = {
        "colour0": green * 0.5,
        "colour1": green * 1.4,
        "texture": rng.integers(0, 3),
        "texture_scale": rng.uniform(0.5, 1.5),
    }
    builder.add(Shape.ELLIPSOID, size=crown, base=place - [0, tall + 0.7 * crown[1], 0], instance=instance, **leaves)


def add_table(rng: np.random.Generator, builder: Builder, place: np.ndarray, *, width: float, height: float) -> None:
    """A top on four legs."""
    instance, look = builder.new_instance(), paint(rng, Look(contrast=0.4))
    half = np.array([width / 2, 0.03, width / 2 * rng.uniform(0.6, 1.0)])
    builder.add(Shape.BOX, size=half, base=place - [0, height, 0], instance=instance, **look)
    for x in (-0.85, 0.85):
        for z in (-0.85, 0.85):
            foot = place + [x * half[0], -height / 2, z * half[2]]
            builder.add(Shape.CYLINDER, size=(0.03, height / 2, 0.03), base=foot, instance=instance, **look)
