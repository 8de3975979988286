"""Cameras that look at something: from eye height across a room, down at a table or the floor, close up, from a car."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geo4d.synthetic.motion import shape_to_world
from geo4d.synthetic.primitives import Builder, Shape, stack
from geo4d.synthetic.staging import CameraStyle
from geo4d.synthetic.world import PATH_SECONDS, Camera, camera_track, draw_camera

PITCH = np.deg2rad((-55.0, 10.0))
MOST_ROLL = np.deg2rad(15.0)
ATTEMPTS = 80


class Obstacles:
    """Boxes around all that stands and moves, at the times of a camera's path."""

    def __init__(self, builder: Builder) -> None:
        rows, shapes = builder.build()
        loose = ~np.array(builder.protected)
        self.empty = not loose.any()
        if self.empty:
            return
        parts = stack([(rows[loose], shapes[loose])])
        poses = shape_to_world(parts, torch.from_numpy(PATH_SECONDS).float()[None])[0].numpy()
        self._turn, self._centre = poses[..., :3, :3], poses[..., :3, 3]  # (t, n, ...)
        size, kind = parts["size"][0].numpy(), parts.shapes[0].numpy()
        half = size.copy()
        capsule, torus = kind == Shape.CAPSULE, kind == Shape.TORUS
        half[capsule] = np.stack([size[capsule, 0], size[capsule, 0] + size[capsule, 1], size[capsule, 0]], axis=1)
        half[torus] = np.stack(
            [size[torus, 0] + size[torus, 1], size[torus, 1], size[torus, 0] + size[torus, 1]], axis=1
        )
        self._half = half

    def distance(self, track: np.ndarray) -> float:
        """Least distance from positions (t, 3) at PATH_SECONDS to any box, metres."""
        if self.empty:
            return np.inf
        local = np.einsum("tnij,tni->tnj", self._turn, track[:, None] - self._centre)
        return float(np.linalg.norm(np.maximum(np.abs(local) - self._half, 0), axis=-1).min())


@dataclass(frozen=True)
class Vantage:
    """How far and from how high a target is looked at."""

    distance: tuple[float, float]  # horizontal, metres
    height: tuple[float, float]  # of the eye above the ground, or above the target where `above` is set
    clearance: float
    reach: float  # how far the camera travels
    above: bool = False
    roll: float = 0.05  # standard deviation, radians


ACROSS = Vantage((1.2, 4.5), (1.1, 1.8), 0.35, 0.6)
DOWN = Vantage((0.4, 1.7), (1.2, 1.75), 0.3, 0.4)
CLOSE = Vantage((0.15, 0.8), (0.15, 0.7), 0.12, 0.15, above=True, roll=0.09)


def look_at(
    rng: np.random.Generator,
    obstacles: Obstacles,
    targets: list[np.ndarray],
    view: Vantage,
    *,
    half: tuple[float, float] | None,
    style: CameraStyle | None,
    walk: float = 1.0,
) -> Camera:
    """A camera that keeps clear of everything; the one that does best if none of many does.

    Args:
        rng: of the world.
        obstacles: what it must not touch.
        targets: points of the world, one of which it looks at.
        view: from where.
        half: half width and half depth of the room around the origin, None: no walls.
        style: of the motion, None: drawn.
        walk: how far one that walks gets, metres.
    """
    best, best_score = None, -np.inf
    for attempt in range(ATTEMPTS):
        camera = _candidate(rng, targets[rng.integers(len(targets))], view, style, walk, calm=attempt > ATTEMPTS // 2)
        track = camera_track(camera)
        clear = obstacles.distance(track)
        if half is not None:
            clear = min(clear, float((np.asarray(half) - np.abs(track[:, [0, 2]])).min()))
        ahead = _ahead(camera)
        free = min(obstacles.distance(track + step * ahead) for step in (1.0 * view.clearance, 2.0 * view.clearance))
        score = min(clear / view.clearance, 1.0) + min(4 * free / view.clearance, 0.9)
        if score > best_score:
            best, best_score = camera, score
        if score >= 1.89:
            break
    assert best is not None
    return best


def _candidate(
    rng: np.random.Generator, target: np.ndarray, view: Vantage, style: CameraStyle | None, walk: float, *, calm: bool
) -> Camera:
    bearing, away = rng.uniform(-np.pi, np.pi), rng.uniform(*view.distance)
    eye_height = rng.uniform(*view.height) + (-target[1] if view.above else 0.0)
    reach = view.reach * (0.3 if calm else 1.0)
    camera = draw_camera(rng, height=eye_height, reach=reach, style=style, walk=walk)
    eye = np.array([target[0] - away * np.sin(bearing), -eye_height, target[2] - away * np.cos(bearing)])
    if float(camera["radius"]) > 0:  # it orbits the target
        camera |= {"radius": away, "base": np.array([target[0], -eye_height, target[2]])}
    else:
        camera["base"] = eye
    camera["sway"] = np.asarray(camera["sway"]) * [1, 0.6, 1]
    heading = np.array([np.sin(bearing), 0.0, np.cos(bearing)])
    camera["velocity"] = float(np.linalg.norm(camera["velocity"])) * heading
    pitch = np.arctan2(-(target[1] - eye[1]), away) + rng.normal() * 0.08
    camera |= {"yaw": bearing + rng.normal() * 0.12, "pitch": float(np.clip(pitch, *PITCH))}
    camera["roll"] = float(np.clip(rng.normal() * view.roll, -MOST_ROLL, MOST_ROLL))
    camera["shake_position"] = min(float(camera["shake_position"]), 0.3 * view.clearance)
    return camera


def _ahead(camera: Camera) -> np.ndarray:
    yaw, pitch = float(camera["yaw"]), float(camera["pitch"])
    return np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
