"""Streets with traffic, and gardens, parks and yards."""

from __future__ import annotations

import numpy as np

from geo4d.synthetic.lifelike import materials as m
from geo4d.synthetic.lifelike.camera import Obstacles, Vantage, look_at
from geo4d.synthetic.lifelike.people import animal, person, wander
from geo4d.synthetic.lifelike.piece import AHEAD, Piece
from geo4d.synthetic.lifelike.vehicles import car, lorry
from geo4d.synthetic.primitives import Builder, Shape
from geo4d.synthetic.staging import Staging
from geo4d.synthetic.world import DENSE_SECONDS, Camera, World, camera_track, draw_camera

LANE = (2.9, 3.6)
DETAILED = 22.0  # metres ahead, up to which vehicles show their smaller parts
OUTSIDE_VIEW = Vantage((2.5, 9.0), (0.9, 1.8), 0.6, 1.2)
NEAR_VIEW = Vantage((1.0, 3.0), (0.7, 1.7), 0.4, 0.6, roll=0.07)


def tree(rng: np.random.Generator, builder: Builder, place: np.ndarray, size: float) -> None:
    """A trunk, branches and clumps of leaves, or a conifer; `size` metres high."""
    piece, bark, green = Piece(builder, place), m.bark(rng), m.leaves(rng, max(0.5, size / 6))
    thick = 0.025 * size * rng.uniform(0.8, 1.6)
    if rng.random() < 0.25:
        piece.cylinder((0, -0.1 * size, 0), thick, 0.1 * size, bark)
        for k in range(5):
            share = k / 5
            piece.ball(
                (0, -size * (0.25 + 0.7 * share), 0),
                size * np.array([0.24 * (1 - share) + 0.02, 0.13, 0.24 * (1 - share) + 0.02]),
                green,
            )
        return
    stem = rng.uniform(0.3, 0.5)
    piece.cylinder((0, -0.5 * stem * size, 0), thick, 0.5 * stem * size, bark)
    for _ in range(int(rng.integers(6, 14))):
        angle, out = rng.uniform(0, 6.3), rng.uniform(0.05, 0.3) * size
        at = np.array([out * np.cos(angle), -size * rng.uniform(stem + 0.05, 0.9), out * np.sin(angle)])
        if rng.random() < 0.4:
            piece.rod((0, -stem * size, 0), at, 0.4 * thick, bark)
        piece.ball(at, size * rng.uniform(0.07, 0.2) * rng.uniform(0.6, 1.2, 3), green)


def _bush(rng: np.random.Generator, builder: Builder, place: np.ndarray, size: float) -> None:
    piece, green = Piece(builder, place), m.leaves(rng, 0.5)
    for _ in range(int(rng.integers(2, 5))):
        at = rng.normal(size=3) * 0.3 * size * np.array([1, 0, 1]) + [0, -0.4 * size, 0]
        piece.ball(at, size * rng.uniform(0.35, 0.6), green)


def _house(rng: np.random.Generator, builder: Builder, place: np.ndarray, half: np.ndarray, yaw: float = 0.0) -> None:
    """A front with windows, a ground floor, a roof or a cornice; `half` extents, its foot at `place`."""
    piece, walls = Piece(builder, place, yaw), m.facade(rng) if rng.random() < 0.75 else m.brick(rng)
    piece.box((0, -half[1], 0), half, walls)
    if rng.random() < 0.6:
        shop = (
            m.printed(rng, 4.0)
            if rng.random() < 0.4
            else m.dark(rng) | {"cell": (1.8, 9.0), "joint": 0.3, "joint_colour": m.anything(rng)}
        )
        piece.box((0, -1.6, 0), half * [1, 0, 1] + [0.03, 1.5, 0.03], shop)
    if half[1] < 5 and rng.random() < 0.7:
        roof = m.tiles(rng, (0.2, 0.4)) | {
            "colour0": m.hsv(rng.uniform(0, 0.08), 0.5, 0.25),
            "colour1": m.hsv(0.03, 0.4, 0.5),
        }
        side = half[0] * 0.78
        tilt = (0.7071, -0.7071, 0, 0.7071, 0.7071, 0, 0, 0, 1)
        piece.box((0, -2 * half[1] + 0.1, 0), (side, side, half[2] - 0.02), roof, tilt)
    else:
        piece.box((0, -2 * half[1], 0), half * [1, 0, 1] + [0.2, 0.2, 0.2], m.concrete(rng))


def _pole(rng: np.random.Generator, builder: Builder, place: np.ndarray, towards: int) -> None:
    """A street lamp, a traffic light, a sign; `towards` is the side of the road, -1 or 1 along x."""
    piece, look, kind = Piece(builder, place), m.metal(rng) | {"reflection": 0.05}, rng.random()
    if kind < 0.45:
        high = rng.uniform(5, 8)
        piece.cylinder((0, -high / 2, 0), 0.07, high / 2, look)
        piece.rod((0, -high, 0), (1.6 * towards, -high - 0.3, 0), 0.05, look)
        piece.ball((1.7 * towards, -high - 0.28, 0), (0.35, 0.08, 0.15), m.plastic(rng))
        return
    high = rng.uniform(2.2, 3.2)
    piece.cylinder((0, -high / 2, 0), 0.035, high / 2, look)
    if kind < 0.75:
        sign = m.printed(rng, 0.6) | {"colour0": m.hsv(rng.choice([0.0, 0.6, 0.14]), 0.85, 0.7)}
        if rng.random() < 0.6:
            piece.cylinder((0, -high, -0.04), 0.32, 0.012, sign, AHEAD)
        else:
            piece.box((0, -high, -0.04), (rng.uniform(0.25, 0.7), rng.uniform(0.2, 0.45), 0.012), sign)
    else:
        piece.box((0, -high, 0), (0.14, 0.42, 0.12), m.dark(rng))
        lit = rng.integers(3)
        for k, hue in enumerate((0.0, 0.12, 0.37)):
            lamp = m.plastic(rng, m.hsv(hue, 0.9, 0.9 if k == lit else 0.2)) | {"glow": 1.0 if k == lit else 0.0}
            piece.ball((0, -high + 0.26 * (k - 1), -0.12), (0.09, 0.09, 0.04), lamp)


def _backdrop(rng: np.random.Generator, builder: Builder) -> None:
    """Hills and rows of trees far away."""
    for _ in range(int(rng.integers(0, 5))):
        angle, distance = rng.uniform(-np.pi, np.pi), rng.uniform(40, 75)
        place = distance * np.array([np.sin(angle), 0, np.cos(angle)])
        size = (rng.uniform(8, 30), rng.uniform(4, 14), rng.uniform(8, 20))
        look = m.leaves(rng, 4.0) if rng.random() < 0.6 else m.grass(rng)
        builder.add(Shape.ELLIPSOID, structure=True, size=size, base=place, **look)


class Road:
    """A straight street along z and what uses it."""

    def __init__(self, rng: np.random.Generator, builder: Builder, staging: Staging) -> None:
        self.rng, self.builder, self.staging = rng, builder, staging
        self.lanes, self.lane = int(rng.choice([1, 1, 2, 3])), rng.uniform(*LANE)  # on each side
        self.parking = rng.choice([0.0, 2.2]) if self.lanes < 3 else 0.0
        self.half = self.lanes * self.lane + self.parking
        self.drives_on = rng.choice([-1, 1])  # side of the road, along x
        self.is_jam = rng.random() < 0.35

    def surface(self) -> None:
        """Road, kerbs, pavements, marks."""
        rng, add = self.rng, self.builder.add
        add(
            Shape.BOX,
            structure=True,
            size=(400, 0.5, 400),
            base=(0, 0.5, 0),
            **(m.grass(rng) if rng.random() < 0.5 else m.paving(rng)),
        )
        tar = m.asphalt(rng)
        add(Shape.BOX, structure=True, size=(self.half, 0.02, 390), **tar)
        wide, pavement, kerb = rng.uniform(1.5, 4.0), m.paving(rng), m.concrete(rng)
        self.pavement = wide
        for side in (-1, 1):
            add(Shape.BOX, structure=True, size=(0.08, 0.12, 390), base=(side * (self.half + 0.08), 0, 0), **kerb)
            add(
                Shape.BOX,
                structure=True,
                size=(wide / 2, 0.11, 390),
                base=(side * (self.half + 0.16 + wide / 2), 0, 0),
                **pavement,
            )
        white = m.painted(rng, m.hsv(0.13, rng.choice([0.03, 0.03, 0.6]), rng.uniform(0.6, 0.95)))
        for x in np.arange(-self.lanes + 1, self.lanes) * self.lane:
            dashes = (
                {}
                if x == 0 and rng.random() < 0.3
                else {"cell": (50.0, 6.0), "joint": 3.0, "joint_colour": tar["colour0"]}
            )
            add(Shape.BOX, structure=True, size=(0.07, 0.023, 60), base=(x, 0, 45), **white | dashes)
        if rng.random() < 0.25:  # a zebra crossing
            z = rng.uniform(8, 30)
            bars = white | {"cell": (0.9, 50.0), "joint": 0.45, "joint_colour": np.full(3, 0.2)}
            add(Shape.BOX, structure=True, size=(self.half, 0.026, 1.6), base=(0, 0, z), **bars)

    def sides(self) -> None:
        """Houses, trees, hedges, poles, people."""
        rng, builder = self.rng, self.builder
        edge = self.half + 0.2 + self.pavement
        for side in (-1, 1):
            kind, z = rng.choice(["houses", "green", "wall"], p=[0.6, 0.25, 0.15]), rng.uniform(-12, -2)
            setback = rng.uniform(0, 5)
            while z < 75 and kind == "houses":
                half = np.array([rng.uniform(3, 7), rng.uniform(2.5, 11), rng.uniform(3, 10)])
                _house(rng, builder, np.array([side * (edge + setback + half[0]), 0, z + half[2]]), half)
                z += 2 * half[2] + rng.choice([0.0, 0.0, rng.uniform(1, 8)])
            if kind == "wall":
                look = rng.choice([m.brick, m.concrete])(rng)  # type: ignore[arg-type]
                builder.add(
                    Shape.BOX, size=(0.15, rng.uniform(0.5, 1.6), 80), base=(side * (edge + 0.3), -0.5, 0), **look
                )
            if rng.random() < 0.4 and kind != "houses":
                builder.add(
                    Shape.BOX,
                    size=(0.5, rng.uniform(0.5, 1.0), 40),
                    base=(side * (edge + 1.2), -0.5, 30),
                    **m.leaves(rng, 0.6),
                )
            for _ in range(int(rng.integers(1, 7 if kind == "green" else 4))):
                x = side * (
                    self.half + rng.uniform(0.8, self.pavement) if kind == "houses" else edge + rng.uniform(1, 12)
                )
                tree(rng, builder, np.array([x, 0, rng.uniform(3, 60)]), rng.uniform(3, 9))
            for _ in range(int(rng.integers(1, 5))):
                _pole(rng, builder, np.array([side * (self.half + 0.5), 0, rng.uniform(3, 50)]), -side)
            for _ in range(int(rng.choice([0, 1, 2, 3]))):
                place = np.array(
                    [side * (self.half + rng.uniform(0.6, max(0.7, self.pavement))), -0.1, rng.uniform(3, 25)]
                )
                walk = 0.0 if self.staging.is_still else rng.choice([-1, 1]) * rng.uniform(0.9, 1.6)
                if walk:
                    person(rng, builder, place, 0.0 if walk > 0 else np.pi, "walk", {"velocity": (0, 0, walk)})
                else:
                    person(rng, builder, place, rng.uniform(0, 6.3), "stand")
        if rng.random() < 0.12:  # a bridge over it
            builder.add(
                Shape.BOX,
                structure=True,
                size=(60, 0.9, rng.uniform(2, 6)),
                base=(0, -6.5, rng.uniform(25, 60)),
                **m.concrete(rng),
            )

    def camera(self) -> Camera:
        """In the middle of a lane, driving."""
        rng, staging = self.rng, self.staging
        camera = draw_camera(rng, height=1.5, reach=0.5, style="drive")
        lane = self.drives_on * self.lane * (rng.integers(self.lanes) + 0.5)
        speed = rng.uniform(0, 3.0) if self.is_jam else rng.uniform(3.0, 13.0)
        if staging.camera == "drive":
            speed = rng.uniform(*staging.speed)
        self.speed = 0.0 if staging.camera == "static" else float(speed)
        self.own_lane = float(lane)
        camera |= {
            "base": np.array([lane + rng.normal() * 0.2, -rng.uniform(1.2, 1.7), 0.0]),
            "velocity": np.array([0, 0, self.speed]),
        }
        camera |= {
            "sway": np.zeros(3),
            "radius": 0.0,
            "yaw_rate": 0.0,
            "yaw": rng.normal() * 0.05,
            "yaw_swing": rng.normal() * 0.03,
        }
        camera |= {"pitch": rng.normal() * 0.03 - 0.03, "roll": rng.normal() * 0.015}
        camera |= {"shake_position": rng.uniform(0, 0.012), "shake_angle": rng.uniform(0, 0.006)}
        if staging.camera == "static":
            camera |= {"shake_position": 0.0, "shake_angle": 0.0, "yaw_swing": 0.0}
        return camera

    def traffic(self, camera: Camera) -> None:
        """Vehicles in every lane, and parked ones."""
        rng = self.rng
        track = camera_track(camera, DENSE_SECONDS)
        for side in (-1, 1):
            onward = 1 if side == self.drives_on else -1
            for lane in range(self.lanes):
                x, z = side * self.lane * (lane + 0.5), rng.uniform(-6, 8) if not self.is_jam else rng.uniform(-4, 3)
                pace = self.speed if onward > 0 else rng.uniform(0, 12)
                pace = 0.0 if self.staging.is_still else max(0.0, pace + rng.normal() * (0.3 if self.is_jam else 1.5))
                for _ in range(int(rng.integers(2, 6) if self.is_jam else rng.integers(0, 4))):
                    self._vehicle(np.array([x + rng.normal() * 0.15, 0, z]), onward, pace, track)
                    z += rng.uniform(7, 13) if self.is_jam else rng.uniform(10, 35)
            if self.parking:
                z = rng.uniform(-4, 6)
                for _ in range(int(rng.integers(0, 6))):
                    self._vehicle(np.array([side * (self.half - 1.1), 0, z]), onward, 0.0, track)
                    z += rng.uniform(5.3, 12)

    def _vehicle(self, place: np.ndarray, onward: int, pace: float, track: np.ndarray) -> None:
        """One vehicle, unless it would touch the camera's car."""
        is_large = self.rng.random() < 0.28
        half = (1.4, 6.2) if is_large else (1.0, 2.5)
        path = place + np.outer(DENSE_SECONDS, [0, 0, onward * pace])
        near = np.abs(track - path)
        if ((near[:, 0] < half[0] + 0.4) & (near[:, 2] < half[1] + 1.5)).any():
            return
        yaw = 0.0 if onward > 0 else np.pi
        piece = Piece(self.builder, place, yaw, {"velocity": (0, 0, onward * pace)} if pace else {})
        (lorry if is_large else car)(self.rng, piece, pace, plain=bool(abs(place[2]) > DETAILED))


def busy_street(rng: np.random.Generator, builder: Builder, staging: Staging) -> World:
    """Seen from a car."""
    road = Road(rng, builder, staging)
    road.surface()
    road.sides()
    _backdrop(rng, builder)
    camera = road.camera()
    road.traffic(camera)
    return World("street", builder, camera, _sun(rng), extras={"half_road": road.half})


def _sun(rng: np.random.Generator) -> dict[str, np.ndarray | float]:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 1.3)
    direction = np.array([np.cos(elevation) * np.sin(azimuth), -np.sin(elevation), np.cos(elevation) * np.cos(azimuth)])
    strength = rng.choice([rng.uniform(0.0, 0.3), rng.uniform(0.5, 1.0)], p=[0.35, 0.65])  # overcast or bright
    return {
        "position": 3000.0 * direction,
        "ambient": rng.uniform(0.3, 0.55),
        "strength": strength,
        "haze": rng.uniform(0.0, 0.012),
    }


def open_ground(rng: np.random.Generator, builder: Builder, staging: Staging) -> World:
    """A garden, a park or a yard, with people and animals near by."""
    ground = rng.choice([m.grass, m.grass, m.paving, m.asphalt, m.concrete])(rng)  # type: ignore[arg-type]
    builder.add(Shape.BOX, structure=True, size=(400, 0.5, 400), base=(0, 0.5, 0), **ground)
    if rng.random() < 0.5:  # a path
        yaw = rng.uniform(0, np.pi)
        builder.add(Shape.BOX, structure=True, size=(rng.uniform(0.5, 1.5), 0.012, 60), yaw=yaw, **m.paving(rng))
    targets = [np.array([rng.normal(), -rng.uniform(0, 1), rng.normal()])]
    for _ in range(int(rng.integers(1, 5))):
        place = np.array([rng.normal() * 2.0, 0, rng.normal() * 2.0])
        walking = not staging.is_still and rng.random() < 0.6
        motion = wander(rng, rng.uniform(0.5, 2.0), rng.uniform(0.6, 1.4)) if walking else None
        if rng.random() < 0.65:
            person(rng, builder, place, rng.uniform(0, 6.3), "walk" if walking else "stand", motion)
            targets += [place - [0, 1, 0]] * 2
        else:
            tall = float(np.exp(rng.uniform(np.log(0.25), np.log(1.6))))
            animal(rng, builder, place, rng.uniform(0, 6.3), tall, motion)
            targets += [place - [0, 0.7 * tall, 0]] * 2
    for _ in range(int(rng.integers(4, 12))):
        angle, distance = rng.uniform(-np.pi, np.pi), float(np.exp(rng.uniform(np.log(3.0), np.log(30.0))))
        place = distance * np.array([np.sin(angle), 0, np.cos(angle)])
        if rng.random() < 0.55:
            tree(rng, builder, place, rng.uniform(2.5, 9))
        else:
            _bush(rng, builder, place, rng.uniform(0.5, 1.6))
    _borders(rng, builder)
    _backdrop(rng, builder)
    view = NEAR_VIEW if rng.random() < 0.4 else OUTSIDE_VIEW
    camera = look_at(rng, Obstacles(builder), targets, view, half=None, style=staging.camera, walk=8.0)
    return World("outdoor", builder, camera, _sun(rng))


def _borders(rng: np.random.Generator, builder: Builder) -> None:
    """Fences, hedges, walls and houses around, a bench."""
    for side in range(4):
        yaw, distance, kind = side * np.pi / 2, rng.uniform(6, 18), rng.random()
        out = np.array([np.sin(yaw), 0, np.cos(yaw)])
        piece = Piece(builder, distance * out, yaw)
        if kind < 0.25:
            high = rng.uniform(0.4, 1.1)
            look = m.wood(rng, along=1) | {
                "cell": (rng.uniform(0.1, 0.2), 50.0),
                "joint": rng.uniform(0.01, 0.05),
                "tone": 0.5,
            }
            piece.box((0, -high, 0), (distance, high, 0.03), look)
        elif kind < 0.45:
            piece.box((0, -0.6, 0), (distance, rng.uniform(0.5, 1.0), 0.5), m.leaves(rng, 0.6))
        elif kind < 0.8:
            half = np.array([rng.uniform(4, 10), rng.uniform(2.5, 6), 4.0])
            _house(rng, builder, (distance + 4) * out, half, yaw)
    if rng.random() < 0.4:
        angle = rng.uniform(0, 6.3)
        piece, look = (
            Piece(builder, rng.uniform(2, 5) * np.array([np.sin(angle), 0, np.cos(angle)]), rng.uniform(0, 6.3)),
            m.wood(rng),
        )
        for z in (-0.18, -0.06, 0.06, 0.18):
            piece.box((0, -0.45, z), (0.8, 0.018, 0.05), look)
        for y in (-0.62, -0.78):
            piece.box((0, y, -0.26), (0.8, 0.05, 0.018), look)
        piece.legs(0.65, 0.18, 0.43, 0.03, m.metal(rng), square=True)
