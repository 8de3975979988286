"""Random surfaces: two colours, a texture, a little gloss."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from geo4d.synthetic.textures import NUM_TEXTURES


@dataclass(frozen=True)
class Look:
    """What kind of surface to draw."""

    texture_scale: tuple[float, float] = (0.3, 2.0)  # periods a metre
    contrast: float = 0.8
    specular: float = 0.2  # chance of gloss
    bright: bool = False
    earthy: bool = False


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A uniformly random rotation."""
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def paint(rng: np.random.Generator, look: Look) -> dict[str, object]:
    """Columns of a random surface."""
    hue = rng.uniform(0.05, 0.4) if look.earthy else rng.random()
    saturation = rng.uniform(0.05, 0.5) if look.earthy or look.bright else rng.random() ** 1.5 * 0.9
    value = rng.uniform(0.55, 0.95) if look.bright else rng.uniform(0.2, 0.9)
    first = np.array(colorsys.hsv_to_rgb(hue, saturation, value))
    other = np.array(colorsys.hsv_to_rgb((hue + rng.normal() * 0.15) % 1, rng.random() * 0.8, rng.uniform(0.1, 0.95)))
    second = first + (other - first) * look.contrast * rng.uniform(0.2, 1.0)
    return {
        "colour0": first,
        "colour1": second,
        "texture": rng.integers(0, NUM_TEXTURES),
        "texture_scale": np.exp(rng.uniform(*np.log(look.texture_scale))),
        "specular": rng.uniform(0.2, 0.7) if rng.random() < look.specular else 0.0,
    }
