"""Random worlds: rooms, open ground with buildings, trees and hills, streets.

Things stand, drift, bounce and walk. All draws come from the scene's own generator.
"""

from __future__ import annotations

import numpy as np

from geo4d.synthetic.figures import add_car, add_figure, add_table, add_thing, add_tree
from geo4d.synthetic.lifelike.makers import sample_lifelike
from geo4d.synthetic.looks import Look, paint
from geo4d.synthetic.primitives import Builder, Shape
from geo4d.synthetic.staging import Staging, add_movers
from geo4d.synthetic.world import (
    DENSE_SECONDS,
    PATH_SECONDS,
    SceneConfig,
    World,
    camera_track,
    draw_camera,
    keeps_clear,
)

__all__ = ["SceneConfig", "World", "sample_world"]


def sample_world(seed: int, config: SceneConfig) -> World:
    """Draws the world of a seed."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["indoor", "outdoor", "street"], p=_shares(config))
    builder = Builder()
    if config.detail == "lifelike":
        world = sample_lifelike(kind, rng, builder, config.staging)
    else:
        world = {"indoor": _indoor, "outdoor": _outdoor, "street": _street}[kind](rng, builder, config.staging)
    world.camera["field_of_view"] = np.deg2rad(rng.uniform(*config.field_of_view_deg))
    if config.staging.movers:
        track = camera_track(world.camera, DENSE_SECONDS)
        add_movers(
            np.random.default_rng([seed, 2]),
            config.staging,
            world,
            lambda place, radius: keeps_clear(place, radius, track),
            track,
        )
    return world


def _shares(config: SceneConfig) -> list[float]:
    return [config.indoor_share, config.outdoor_share, 1 - config.indoor_share - config.outdoor_share]


def _motion(rng: np.random.Generator, *, scale: float, chance: float) -> tuple[dict[str, object], float]:
    """Columns of a random rigid motion, and how far it leads from the place."""
    if rng.random() > chance:
        return {}, 0.0
    style = rng.choice(["sway", "bounce", "circle", "spin"])
    if style == "sway":
        sway = rng.normal(size=3) * np.array([1, 0, 1]) * 0.5 * scale
        return {"sway": sway, "sway_rate": rng.uniform(0.6, 2.5), "sway_phase": rng.uniform(0, 6.3)}, float(
            np.abs(sway).max()
        )
    if style == "bounce":
        return {
            "bounce": rng.uniform(0.2, 1.0) * scale,
            "sway_rate": rng.uniform(2, 5),
            "sway_phase": rng.uniform(0, 6.3),
        }, 0.0
    if style == "circle":
        radius, rate = rng.uniform(0.3, 0.8) * scale, rng.choice([-1, 1]) * rng.uniform(0.4, 1.5)
        return {"circle_radius": radius, "circle_rate": rate, "circle_phase": rng.uniform(0, 6.3)}, radius
    return {"yaw_rate": rng.choice([-1, 1]) * rng.uniform(0.5, 2.5)}, 0.0


def _indoor(rng: np.random.Generator, builder: Builder, staging: Staging) -> World:
    half_x, half_z, height = rng.uniform(1.8, 5.0), rng.uniform(2.2, 6.0), rng.uniform(2.3, 3.6)
    camera_z = -half_z * rng.uniform(0.35, 0.7)
    reach = min(1.5, 0.5 * half_x, 0.5 * (half_z + camera_z))
    camera = draw_camera(rng, height=rng.uniform(0.9, 1.8), reach=reach, style=staging.camera, walk=2 * reach)
    centre = np.array([rng.uniform(-0.25, 0.25) * half_x, 0.0, -camera_z])
    track = camera_track(camera)
    wall_look = paint(rng, Look(texture_scale=(0.15, 1.5), contrast=0.35, bright=True))
    builder.add(Shape.BOX, structure=True, size=(half_x, height, half_z), base=centre, **wall_look)
    for y, scale in ((0.0, (0.3, 2.0)), (-height, (0.2, 1.0))):
        look = paint(rng, Look(texture_scale=scale, contrast=0.5, bright=y < 0))
        builder.add(Shape.BOX, structure=True, size=(half_x, 0.02, half_z), base=centre + [0, y, 0], **look)
    for _ in range(rng.integers(1, 4)):  # pictures, windows, doors
        along, side = rng.uniform(-0.7, 0.7), rng.choice([-1, 1])
        size = np.array([rng.uniform(0.3, 0.8), rng.uniform(0.3, 1.0), 0.03])
        on_side = rng.random() < 0.4
        place = centre + ([side * half_x, -1.4, along * half_z] if on_side else [along * half_x, -1.4, half_z])
        builder.add(
            Shape.BOX,
            structure=True,
            size=size[[2, 1, 0]] if on_side else size,
            base=place,
            **paint(rng, Look(contrast=1.0)),
        )
    for _ in range(rng.integers(4, 10)):
        _furnish(rng, builder, centre, (half_x, height, half_z), track, still=staging.is_still)
    light: dict[str, np.ndarray | float] = {
        "position": centre + [rng.uniform(-0.6, 0.6) * half_x, -height + 0.25, rng.uniform(-0.6, 0.6) * half_z]
    }
    light |= {"ambient": rng.uniform(0.35, 0.6), "strength": rng.uniform(0.5, 0.8), "haze": 0.0}
    return World(
        "indoor",
        builder,
        camera,
        light,
        room=(half_x, height, half_z),
        extras={"centre_x": centre[0], "centre_z": centre[2]},
    )


def _furnish(
    rng: np.random.Generator,
    builder: Builder,
    centre: np.ndarray,
    room: tuple[float, float, float],
    track: np.ndarray,
    *,
    still: bool,
) -> None:
    """One piece of furniture, figure or toy, somewhere on the floor and clear of the camera; may give up."""
    for _ in range(6):
        size = rng.uniform(0.3, 1.2)
        moving, travel = _motion(rng, scale=0.8, chance=0.0 if still else 0.3)
        reach = size * 0.75 + travel
        if reach > min(room[0], room[2]):
            continue
        place = centre + [rng.uniform(-1, 1) * (room[0] - reach), 0, rng.uniform(-1, 1) * (room[2] - reach)]
        if not keeps_clear(place, reach, track):
            continue
        choice = rng.random()
        if choice < 0.25:
            add_table(rng, builder, place, width=size, height=rng.uniform(0.4, 0.9))
            add_thing(rng, builder, place - [0, rng.uniform(0.4, 0.9), 0], rng.uniform(0.15, 0.4), {})
        elif choice < 0.4 and not still and keeps_clear(place, 0.9, track) and min(room[0], room[2]) > 2.0:
            add_figure(rng, builder, place, circle=rng.uniform(0.3, 0.6))
        elif choice < 0.6:
            look = paint(rng, Look(contrast=0.5))
            tall = rng.uniform(0.3, 1.1)
            half = np.array([size / 2, tall, rng.uniform(0.2, 0.5)])
            builder.add(
                Shape.BOX,
                size=half,
                base=place - [0, tall, 0],
                yaw=rng.choice([0, np.pi / 2]),
                instance=builder.new_instance(),
                **look,
            )
        else:
            add_thing(rng, builder, place - [0, 0.6 * (rng.random() < 0.15), 0], size, moving)
        return


def _sun(rng: np.random.Generator) -> dict[str, np.ndarray | float]:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.3)
    direction = np.array([np.cos(elevation) * np.sin(azimuth), -np.sin(elevation), np.cos(elevation) * np.cos(azimuth)])
    return {
        "position": 3000.0 * direction,
        "ambient": rng.uniform(0.3, 0.55),
        "strength": rng.uniform(0.5, 0.9),
        "haze": rng.uniform(0.0, 0.02),
    }


def _ground(rng: np.random.Generator, builder: Builder) -> None:
    look = paint(rng, Look(texture_scale=(0.05, 0.6), contrast=0.5, earthy=True))
    builder.add(Shape.BOX, structure=True, size=(400, 0.5, 400), base=(0, 0.5, 0), **look)


def _hills(rng: np.random.Generator, builder: Builder, most: int) -> None:
    for _ in range(rng.integers(0, most + 1)):
        angle, distance = rng.uniform(-1.2, 1.2), rng.uniform(45, 90)
        size = np.array([rng.uniform(15, 35), rng.uniform(4, 16), rng.uniform(12, 25)])
        place = distance * np.array([np.sin(angle), 0, np.cos(angle)])
        look = paint(rng, Look(texture_scale=(0.03, 0.15), contrast=0.4, earthy=True))
        builder.add(Shape.ELLIPSOID, structure=True, size=size, base=place, **look)


def _building(rng: np.random.Generator, builder: Builder, place: np.ndarray, half: np.ndarray, yaw: float) -> None:
    look = paint(rng, Look(texture_scale=(0.08, 0.4), contrast=0.6))
    builder.add(
        Shape.BOX,
        structure=True,
        size=half,
        base=place - [0, half[1], 0],
        yaw=yaw,
        instance=builder.new_instance(),
        **look,
    )


def _outdoor(rng: np.random.Generator, builder: Builder, staging: Staging) -> World:
    height = rng.uniform(1.0, 2.2) if rng.random() < 0.75 else rng.uniform(2.2, 7.0)
    camera = draw_camera(rng, height=height, reach=rng.uniform(0.6, 2.5), style=staging.camera, walk=11.0)
    track = camera_track(camera)
    _ground(rng, builder)
    _hills(rng, builder, 3)
    for _ in range(rng.integers(1, 5)):
        angle, distance = rng.uniform(-1.0, 1.0), rng.uniform(12, 50)
        place = distance * np.array([np.sin(angle), 0, np.cos(angle)])
        half = np.array([rng.uniform(2, 6), rng.uniform(1.5, 6), rng.uniform(2, 6)])
        if keeps_clear(place, float(half.max()) * 1.4, track):
            _building(rng, builder, place, half, rng.uniform(0, np.pi))
    for _ in range(rng.integers(5, 12)):
        distance = float(np.exp(rng.uniform(np.log(2.0), np.log(30.0))))
        angle = rng.uniform(-0.9, 0.9)
        place = distance * np.array([np.sin(angle), 0, np.cos(angle)])
        size = rng.uniform(0.4, 1.6)
        moving, travel = _motion(rng, scale=1.5, chance=0.0 if staging.is_still else 0.35)
        if not keeps_clear(place, size * 0.75 + travel + 0.6, track):
            continue
        choice = rng.random()
        if choice < 0.28 and keeps_clear(place, 2.3, track):
            add_tree(rng, builder, place)
        elif choice < 0.5 and not staging.is_still:
            add_figure(rng, builder, place, circle=rng.uniform(0.4, 1.5) if keeps_clear(place, 2.2, track) else 0.1)
        else:
            add_thing(rng, builder, place - [0, 0.8 * (rng.random() < 0.12), 0], size, moving)
    return World("outdoor", builder, camera, _sun(rng))


def _street(rng: np.random.Generator, builder: Builder, staging: Staging) -> World:
    camera = draw_camera(rng, height=rng.uniform(1.1, 2.0), reach=0.5)
    speed = rng.uniform(*staging.speed) if rng.random() < 0.8 or staging.camera == "drive" else 0.0
    camera |= {"velocity": np.array([0, 0, speed]), "sway": np.zeros(3), "radius": 0.0, "yaw_rate": 0.0}
    camera |= {"base": np.array([rng.uniform(-1.5, 1.5), -rng.uniform(1.1, 2.0), 0.0]), "yaw": rng.normal() * 0.06}
    camera |= {
        "yaw_swing": rng.normal() * 0.05,
        "shake_position": rng.uniform(0, 0.015),
        "shake_angle": rng.uniform(0, 0.008),
    }
    camera["pitch"] = rng.normal() * 0.04 - 0.03
    if staging.camera == "static":
        camera |= {"velocity": np.zeros(3), "yaw_swing": 0.0, "shake_position": 0.0, "shake_angle": 0.0}
    track = camera_track(camera, DENSE_SECONDS if staging.camera else PATH_SECONDS)
    _ground(rng, builder)
    half_road = rng.uniform(2.8, 6.0)
    road = {"colour0": np.full(3, rng.uniform(0.15, 0.3)), "colour1": np.full(3, rng.uniform(0.3, 0.45))}
    builder.add(
        Shape.BOX,
        structure=True,
        size=(half_road, 0.02, 390),
        base=(0, 0, 0),
        texture=rng.integers(0, 6),
        texture_scale=0.4,
        **road,
    )
    white = {"colour0": np.full(3, 0.85), "colour1": np.full(3, 0.95)}
    for x in (-half_road * 0.95, half_road * 0.95):
        builder.add(Shape.BOX, structure=True, size=(0.08, 0.03, 390), base=(x, 0, 0), **white)
    for k in range(4 + 2 * staging.blocks):
        builder.add(Shape.BOX, structure=True, size=(0.08, 0.03, 1.2), base=(0, 0, 4 + 6 * k), **white)
    for side in (-1, 1):
        z, setback = rng.uniform(-5, 10), half_road + rng.uniform(2.0, 6.0)
        for _ in range(rng.integers(2, 6) + staging.blocks):
            half = np.array([rng.uniform(2, 5), rng.uniform(1.5, 7), rng.uniform(2.5, 7)])
            _building(rng, builder, np.array([side * (setback + half[0]), 0, z + half[2]]), half, 0.0)
            z += 2 * half[2] + rng.uniform(0, 8)
        for _ in range(rng.integers(0, 4) + staging.blocks):
            place = np.array([side * (half_road + rng.uniform(0.8, 1.8)), 0, rng.uniform(4, 45 + 8 * staging.blocks)])
            add_tree(rng, builder, place)
        if rng.random() < 0.5 and not staging.is_still:
            add_figure(
                rng,
                builder,
                np.array([side * (half_road + 1.2), 0, rng.uniform(5, 25)]),
                circle=0.0,
                walk=rng.choice([-1, 1]) * 1.3,
            )
    for _ in range(rng.integers(1, 4)):
        lane = rng.choice([-1, 1])
        x, z = lane * half_road * 0.55, rng.uniform(7, 45)
        velocity = -lane * rng.uniform(0, 9) if rng.random() < 0.6 and not staging.is_still else 0.0
        add_car(rng, builder, np.array([x, 0, z]), velocity, track)
    return World("street", builder, camera, _sun(rng), extras={"half_road": half_road})
