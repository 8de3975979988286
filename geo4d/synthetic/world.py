"""What a world is, what it is drawn from, and cameras on their ways.

y points down and the ground is y = 0, so "up" is negative.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from geo4d.synthetic.primitives import Builder
from geo4d.synthetic.staging import CameraStyle, Staging

Detail = Literal["plain", "lifelike"]
Camera = dict[str, "np.ndarray | float"]
CLEARANCE = 0.45  # metres between the camera and anything that is not a structure
PATH_SECONDS = np.linspace(0.0, 9.0, 19)
DENSE_SECONDS = np.linspace(0.0, 9.0, 181)  # for what is fast


@dataclass(frozen=True)
class SceneConfig:
    """The distribution of worlds."""

    indoor_share: float = 0.4
    outdoor_share: float = 0.35  # the rest are streets
    field_of_view_deg: tuple[float, float] = (35.0, 100.0)
    far: float = 80.0  # what is beyond is sky
    shadows: bool = True
    compression: bool = True  # half of the clips lose detail as a compressed video does
    staging: Staging = field(default_factory=Staging)
    detail: Detail = "plain"  # simple bodies; or furnished rooms, traffic, people, materials, a lens
    # of lifelike worlds: several rays a pixel where things meet; did not help what was learnt from them
    smooth_edges: bool = False


LIFELIKE = SceneConfig(0.6, 0.15, (40.0, 85.0), detail="lifelike")
WORLDS: dict[Detail, SceneConfig] = {"plain": SceneConfig(), "lifelike": LIFELIKE}


@dataclass
class World:
    """One scene: its primitives, camera numbers and light."""

    kind: str
    builder: Builder
    camera: dict[str, np.ndarray | float]
    light: dict[str, np.ndarray | float]
    room: tuple[float, float, float] | None = None  # half width, height, half depth
    extras: dict[str, float] = field(default_factory=dict)
    studio: dict[str, object] = field(default_factory=dict)  # columns of Studio and Lens, of lifelike worlds alone
    lens: dict[str, object] = field(default_factory=dict)


def draw_camera(
    rng: np.random.Generator, *, height: float, reach: float, style: CameraStyle | None = None, walk: float = 0.0
) -> dict[str, np.ndarray | float]:
    """A camera at the origin that looks along +z; `reach` bounds how far it travels, `walk` how far it walks ahead."""
    camera: dict[str, np.ndarray | float] = {
        "base": np.array([0.0, -height, 0.0]),
        "velocity": np.zeros(3),
        "sway": np.zeros(3),
        "sway_rate": rng.uniform(0.3, 0.9),
        "sway_phase": rng.uniform(0, 2 * np.pi),
        "radius": 0.0,
        "yaw": rng.normal() * 0.15,
        "yaw_rate": 0.0,
        "yaw_swing": 0.0,
        "pitch": rng.normal() * 0.1 - 0.06 * min(height, 3.0),
        "roll": rng.normal() * 0.02,
        "shake_position": rng.uniform(0.0, 0.03),
        "shake_angle": rng.uniform(0.0, 0.02),
        "shake_phase": rng.uniform(0, 2 * np.pi, (6, 3)),
    }
    style = style or rng.choice(["handheld", "orbit", "dolly", "pan", "static"], p=[0.3, 0.2, 0.25, 0.15, 0.1])
    if style == "handheld":
        camera |= {"sway": rng.normal(size=3) * reach * np.array([0.3, 0.08, 0.3]), "yaw_swing": rng.normal() * 0.25}
        camera |= {"shake_position": rng.uniform(0.01, 0.06), "shake_angle": rng.uniform(0.01, 0.05)}
    elif style == "orbit":
        camera |= {"radius": rng.uniform(0.5, 1.0) * reach, "yaw_rate": rng.choice([-1, 1]) * rng.uniform(0.08, 0.3)}
        camera["base"] = np.array([0.0, -height, float(camera["radius"])])
    elif style == "dolly":
        direction = rng.uniform(-np.pi, np.pi)
        camera["sway"] = (
            reach * rng.uniform(0.3, 0.9) * np.array([np.sin(direction), 0.1 * rng.normal(), np.cos(direction)])
        )
        camera["sway_phase"] = rng.choice([0.0, np.pi]) + rng.normal() * 0.4
    elif style == "pan":
        camera |= {"yaw_swing": rng.choice([-1, 1]) * rng.uniform(0.2, 0.6), "sway": rng.normal(size=3) * 0.08 * reach}
    elif style == "walk":
        camera |= {
            "velocity": np.array([0.0, 0.0, walk / PATH_SECONDS[-1] * rng.uniform(0.7, 1.0)]),
            "yaw_swing": rng.normal() * 0.2,
        }
        camera |= {"shake_position": rng.uniform(0.01, 0.04), "shake_angle": rng.uniform(0.01, 0.03)}
    else:
        camera |= {"shake_position": 0.0, "shake_angle": 0.0}
    return camera


def camera_track(camera: dict[str, np.ndarray | float], seconds: np.ndarray = PATH_SECONDS) -> np.ndarray:
    """Rough positions (k, 3) of the camera over the longest clip, without the shake."""
    t = seconds[:, None]
    yaw = camera["yaw"] + camera["yaw_rate"] * t + camera["yaw_swing"] * np.sin(camera["sway_rate"] * t)
    ahead = np.concatenate([np.sin(yaw), 0 * yaw, np.cos(yaw)], axis=1)
    wave = np.sin(camera["sway_rate"] * t + camera["sway_phase"])
    return camera["base"] + camera["velocity"] * t + camera["sway"] * wave - camera["radius"] * ahead


def keeps_clear(position: np.ndarray, radius: float, track: np.ndarray) -> bool:
    """Whether a thing of this horizontal radius keeps clear of the camera's path."""
    distance = np.linalg.norm(track[:, [0, 2]] - np.asarray(position)[[0, 2]], axis=1)
    return bool(distance.min() > radius + CLEARANCE)
