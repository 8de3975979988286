"""A lifelike world of a kind: its things and camera, then its light and lens."""

from __future__ import annotations

import numpy as np

from geo4d.synthetic.lifelike.outside import busy_street, open_ground
from geo4d.synthetic.lifelike.rooms import lived_in_room
from geo4d.synthetic.primitives import Builder
from geo4d.synthetic.staging import Staging
from geo4d.synthetic.world import World

MAKERS = {"indoor": lived_in_room, "outdoor": open_ground, "street": busy_street}


def sample_lifelike(kind: str, rng: np.random.Generator, builder: Builder, staging: Staging) -> World:
    """Draws the world; all draws come from `rng`."""
    world = MAKERS[kind](rng, builder, staging)
    world.studio, world.lens = _studio(rng, is_room=kind == "indoor"), _lens(rng, kind)
    return world


def _tinted(rng: np.random.Generator, warmth: float) -> np.ndarray:
    """White light, warmer (positive) or cooler."""
    return np.array([1 + 0.25 * warmth, 1.0, 1 - 0.35 * warmth]) * (1 + 0.03 * rng.normal(size=3))


def _studio(rng: np.random.Generator, *, is_room: bool) -> dict[str, object]:
    angle, up = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.7)
    direction = np.array([np.sin(angle) * np.cos(up), -np.sin(up), np.cos(angle) * np.cos(up)])
    warmth = rng.normal() * 0.5 + 0.3
    return {
        "light_colour": _tinted(rng, warmth),
        "ambient_colour": _tinted(rng, 0.3 * warmth + rng.normal() * 0.15),
        "fill_direction": direction,
        "fill_colour": _tinted(rng, rng.normal() * 0.4 - 0.2) * rng.uniform(0.05, 0.4),
        "fading": rng.uniform(0.0, 0.15) if is_room else 0.0,
        "corners": rng.uniform(0.5, 1.0),
        "penumbra": rng.uniform(0.3, 1.0) if is_room else rng.uniform(0.0, 0.5),
        "open_sky": 0.0 if is_room else 1.0,
    }


def _lens(rng: np.random.Generator, kind: str) -> dict[str, object]:
    is_phone = rng.random() < 0.6  # a small sensor: all in focus
    return {
        "focus": rng.uniform(8, 30) if kind == "street" else float(np.exp(rng.uniform(np.log(0.5), np.log(4.0)))),
        "aperture": rng.uniform(0.0, 0.15) if is_phone else rng.uniform(0.3, 2.0),
        "aim": float(np.exp(rng.uniform(np.log(0.2), np.log(0.45)))),
        "vignette": rng.uniform(0.0, 0.4),
        "drift": rng.normal(size=4) * [0.12, 0.03, 0.01, 0.04],
        "drift_rate": rng.uniform(0.3, 2.0),
        "drift_phase": rng.uniform(0, 6.3),
        "shutter": rng.choice([0.002, 1 / 60, 1 / 30]),
        "grain": rng.choice([0.003, 0.01, 0.025]),
    }
