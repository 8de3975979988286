"""Scenes made to order: how the camera moves, how much moves before it, how long the street is.

What is added is drawn by a generator of its own, so the rest of a world stays what its seed says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from geo4d.synthetic.figures import add_car, add_figure, add_thing

if TYPE_CHECKING:
    from geo4d.synthetic.worlds import World

CameraStyle = Literal["handheld", "orbit", "dolly", "pan", "static", "walk", "drive"]
Free = Callable[[np.ndarray, float], bool]
ATTEMPTS = 20  # to find a free place for one mover


@dataclass(frozen=True)
class Staging:
    """What a world is made to hold; the defaults leave every world to its seed, bit for bit."""

    camera: CameraStyle | None = None  # None: drawn; drive is for streets, walk for the rest
    speed: tuple[float, float] = (1.0, 9.0)  # of a camera that drives, metres a second
    blocks: int = 0  # buildings and trees more on each side of a street
    is_still: bool = False  # nothing moves but the movers
    movers: int = 0  # things in front of the camera that certainly move
    mover_size: tuple[float, float] = (0.3, 0.7)  # metres
    mover_distance: tuple[float, float] = (2.5, 6.0)  # metres ahead of the camera, at its start or on its way
    pace: float = 1.0  # factor on the movers' rates


def add_movers(rng: np.random.Generator, staging: Staging, world: World, is_free: Free, track: np.ndarray) -> None:
    """Adds the movers: figures and bodies in a room or on open ground, on a street cars and figures as well.

    Args:
        rng: for the movers alone.
        staging: how many, how large, how fast.
        world: is added to.
        is_free: whether a thing at a place, with a horizontal radius, keeps clear of the camera.
        track: positions (k, 3) of the camera over 9 seconds.
    """
    for number in range(staging.movers):
        for _ in range(ATTEMPTS):
            if world.kind == "street" and number % 3 < 2:
                added = _on_the_road(rng, staging, world, track)
            else:
                added = _before_the_camera(rng, staging, world, is_free, track)
            if added:
                break


def _on_the_road(rng: np.random.Generator, staging: Staging, world: World, track: np.ndarray) -> bool:
    """A car in the other lane or ahead, or a figure on the pavement, somewhere along the camera's way.

    Whether there was room.
    """
    ahead = rng.uniform(0.0, 0.6) * track[-1, 2] + rng.uniform(*staging.mover_distance)
    half_road = world.extras["half_road"]
    if rng.random() < 0.3:
        place = np.array([rng.choice([-1, 1]) * half_road * rng.uniform(0.8, 1.2), 0.0, ahead])
        pace = rng.choice([-1, 1]) * rng.uniform(0.9, 1.6) * min(staging.pace, 1.5)
        add_figure(rng, world.builder, place, circle=0.0, walk=pace)
        return True
    lane = rng.choice([-1, 1])
    velocity = -lane * rng.uniform(2.0, 6.0) * staging.pace
    # what comes towards the camera starts farther off
    meeting = ahead * (1 + max(0.0, -velocity) / max(track[-1, 2] / 9.0, 2.0))
    return add_car(
        rng, world.builder, np.array([lane * half_road * rng.uniform(0.5, 0.7), 0.0, meeting]), velocity, track
    )


def _before_the_camera(
    rng: np.random.Generator, staging: Staging, world: World, is_free: Free, track: np.ndarray
) -> bool:
    """A figure or a body that moves within the view of the first frame; whether there was room."""
    half_view = 0.4 * float(world.camera["field_of_view"])
    angle = float(world.camera["yaw"]) + rng.uniform(-half_view, half_view)
    distance = rng.uniform(*staging.mover_distance)
    # those who travel meet some on the way
    start = track[0] + np.asarray(world.camera["velocity"]) * rng.uniform(0.0, 4.0)
    place = start * [1, 0, 1] + distance * np.array([np.sin(angle), 0.0, np.cos(angle)])
    size = rng.uniform(*staging.mover_size)
    is_figure = rng.random() < 0.45
    moving, travel = _lively(rng, staging.pace, size)
    circle = rng.uniform(0.3, 0.5 + 0.3 * staging.pace)
    reach = circle + 0.6 if is_figure else 0.75 * size + travel
    if not is_free(place, reach) or not _in_room(world, place, reach):
        return False
    if is_figure:
        add_figure(rng, world.builder, place, circle=circle)
    else:
        add_thing(rng, world.builder, place, size, moving)
    return True


def _in_room(world: World, place: np.ndarray, reach: float) -> bool:
    if world.room is None:
        return True
    from_centre = np.abs(place[[0, 2]] - [world.extras["centre_x"], world.extras["centre_z"]])
    return bool((from_centre + reach < [world.room[0], world.room[2]]).all())


def _lively(rng: np.random.Generator, pace: float, size: float) -> tuple[dict[str, object], float]:
    """Columns of a rigid motion that is never nothing, and how far it leads from the place."""
    phase, turn = rng.uniform(0, 6.3), rng.choice([-1, 1])
    spin = turn * rng.uniform(0.5, 1.5) * pace
    style = rng.choice(["sway", "bounce", "circle"])
    if style == "sway":
        heading, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.9) * (0.6 + 0.4 * pace)
        sway = far * np.array([np.sin(heading), 0.0, np.cos(heading)])
        return {"sway": sway, "sway_rate": rng.uniform(0.8, 1.8) * pace, "sway_phase": phase, "yaw_rate": spin}, far
    if style == "bounce":
        return {
            "bounce": rng.uniform(0.5, 1.2) * max(size, 0.4),
            "sway_rate": rng.uniform(1.5, 3.0) * pace,
            "yaw_rate": spin,
        }, 0.0
    radius = rng.uniform(0.3, 0.7) * (0.6 + 0.4 * pace)
    rate = turn * rng.uniform(0.6, 1.3) * pace
    return {"circle_radius": radius, "circle_rate": rate, "circle_phase": phase, "yaw_rate": spin}, radius
