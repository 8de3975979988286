"""Surfaces by name, each a draw: columns of a primitive and of its finish."""

from __future__ import annotations

import colorsys

import numpy as np

Columns = dict[str, object]
SMOOTH, ROUGH, FINE = (3, 4), (1, 2, 5), (0, 1, 5)  # noises of the texture bank by how soon their detail falls off
CRACKS, CELLS = (17, 18), (15, 16)


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """Linear-ish colour; saturation and value are kept within what things have."""
    return np.array(
        colorsys.hsv_to_rgb(hue % 1.0, float(np.clip(saturation, 0, 0.95)), float(np.clip(value, 0.02, 0.95)))
    )


def _finish(rng: np.random.Generator, base: np.ndarray, other: np.ndarray, **more: object) -> Columns:
    columns: Columns = {
        "colour0": base,
        "colour1": other,
        "seed": rng.uniform(0, 9),
        "grain_scale": (1, 1, 1),
        "mottle_scale": 1.0,
    }
    return columns | {"grain": rng.choice(FINE), "mottle": rng.choice(ROUGH + SMOOTH)} | more


def _about(rng: np.random.Generator, base: np.ndarray, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Two colours on either side of one."""
    tint = 1 + 0.3 * spread * rng.normal(size=3)
    return np.clip(base * (1 - spread) * tint, 0, 1), np.clip(base * (1 + spread), 0, 1)


def anything(rng: np.random.Generator) -> np.ndarray:
    """A colour of a made thing: mostly greys, whites, browns and blacks, sometimes a strong one."""
    kind = rng.random()
    if kind < 0.25:
        return hsv(rng.random(), rng.uniform(0, 0.1), rng.uniform(0.5, 0.95))
    if kind < 0.45:
        return hsv(rng.random(), rng.uniform(0, 0.25), rng.uniform(0.03, 0.2))
    if kind < 0.6:
        return hsv(rng.uniform(0.04, 0.13), rng.uniform(0.15, 0.6), rng.uniform(0.15, 0.7))
    return hsv(rng.random(), rng.uniform(0.3, 0.95), rng.uniform(0.15, 0.9))


def wood(rng: np.random.Generator, *, planks: tuple[float, float] | None = None, along: int = 0) -> Columns:
    """Grain along an axis; with planks (width, length) as floors and tops have them."""
    base = hsv(rng.uniform(0.045, 0.11), rng.uniform(0.25, 0.75), rng.uniform(0.12, 0.8))
    first, second = _about(rng, base, rng.uniform(0.12, 0.35))
    scale = np.full(3, rng.uniform(4, 11))
    scale[along] = rng.uniform(0.3, 1.0)
    columns = _finish(
        rng, first, second, grain_scale=scale, grain_gain=rng.uniform(0.8, 1.8), mottle_scale=rng.uniform(0.5, 2)
    )
    columns |= {
        "mottle_gain": 0.5,
        "reflection": rng.choice([0.0, 0.03, 0.06]),
        "specular": rng.choice([0.0, 0.15, 0.4]),
    }
    if planks is not None:
        cell = (planks[1], planks[0]) if along == 0 else planks
        columns |= {
            "cell": cell,
            "cell_shift": -1.0,
            "joint": rng.choice([0.0, 0.003, 0.006]),
            "joint_colour": base * 0.3,
        }
        columns |= {"tone": rng.uniform(0.1, 0.9), "hue": rng.uniform(0, 0.12)}
    return columns


def painted(rng: np.random.Generator, colour: np.ndarray | None = None) -> Columns:
    """A wall: even, a little blotchy."""
    if colour is None:
        colour = hsv(
            rng.random(), rng.choice([0.02, 0.08, 0.25, 0.5], p=[0.45, 0.3, 0.2, 0.05]), rng.uniform(0.35, 0.92)
        )
    first, second = _about(rng, colour, rng.uniform(0.01, 0.05))
    return _finish(
        rng, first, second, grain_scale=np.full(3, rng.uniform(2, 12)), grain_gain=rng.uniform(0, 0.8), mottle_gain=0.7
    )


def wallpaper(rng: np.random.Generator) -> Columns:
    """Stripes or a repeated pattern."""
    columns = painted(rng)
    size = rng.uniform(0.06, 0.3)
    tall = rng.choice([50.0, size])
    return columns | {
        "cell": (size, tall),
        "tone": rng.uniform(0.5, 4.0),
        "hue": rng.uniform(0, 0.1),
        "grain_gain": rng.uniform(0, 3),
    }


def tiles(rng: np.random.Generator, size: tuple[float, float] = (0.08, 0.6)) -> Columns:
    """Of a floor or a wall."""
    base = (
        anything(rng)
        if rng.random() < 0.4
        else hsv(rng.uniform(0.05, 0.6), rng.uniform(0, 0.15), rng.uniform(0.3, 0.9))
    )
    side = float(np.exp(rng.uniform(*np.log(size))))
    columns = _finish(
        rng, *_about(rng, base, rng.uniform(0.03, 0.2)), mottle_scale=rng.uniform(1, 4), mottle_gain=rng.uniform(0, 1.5)
    )
    columns |= {
        "cell": (side * rng.choice([1, 1, 2]), side),
        "cell_shift": rng.choice([0.0, 0.0, 0.5]),
        "joint": rng.uniform(0.002, 0.008),
    }
    grout = hsv(0.1, 0.05, rng.uniform(0.2, 0.85))
    return columns | {
        "joint_colour": grout,
        "tone": rng.uniform(0, 1),
        "reflection": rng.uniform(0, 0.12),
        "specular": rng.uniform(0, 0.6),
    }


def stone(rng: np.random.Generator) -> Columns:
    """Granite, marble or a laminate of one: worktops, floors."""
    base = hsv(rng.random(), rng.uniform(0, 0.12), rng.choice([rng.uniform(0.03, 0.15), rng.uniform(0.4, 0.9)]))
    spread, speckled = rng.uniform(0.1, 0.5), rng.random() < 0.6
    columns = _finish(
        rng, *_about(rng, base, spread), mottle_scale=rng.uniform(0.8, 3), mottle_gain=rng.uniform(0.3, 1.5)
    )
    if speckled:
        columns |= {
            "grain": rng.choice((0, 16, 18)),
            "grain_scale": np.full(3, rng.uniform(4, 14)),
            "grain_gain": rng.uniform(0.5, 2),
        }
    else:
        columns |= {
            "mottle": rng.choice(CRACKS),
            "mottle_scale": rng.uniform(0.4, 1.2),
            "mottle_gain": rng.uniform(0.5, 1.2),
        }
    return columns | {"reflection": rng.uniform(0.0, 0.15), "specular": rng.uniform(0.1, 0.9)}


def fabric(rng: np.random.Generator, colour: np.ndarray | None = None) -> Columns:
    """Plain, striped or checked cloth."""
    base = anything(rng) if colour is None else colour
    columns = _finish(rng, *_about(rng, base, rng.uniform(0.1, 0.3)), grain_scale=np.full(3, rng.uniform(6, 18)))
    columns |= {
        "grain_gain": rng.uniform(0.4, 1.6),
        "mottle_scale": rng.uniform(0.8, 3),
        "mottle_gain": rng.uniform(0.3, 1.2),
    }
    kind = rng.random()
    if kind < 0.25:
        columns |= {"cell": (rng.uniform(0.02, 0.12), 50.0), "tone": rng.uniform(1, 4), "hue": rng.uniform(0, 0.5)}
    elif kind < 0.4:
        side = rng.uniform(0.03, 0.15)
        columns |= {
            "cell": (side, side),
            "tone": rng.uniform(0.5, 3),
            "joint": rng.uniform(0, 0.2) * side,
            "joint_colour": anything(rng),
        }
    return columns


def carpet(rng: np.random.Generator) -> Columns:
    """Pile, loops or stripes underfoot."""
    base = hsv(rng.random(), rng.uniform(0.02, 0.6), rng.uniform(0.12, 0.65))
    scale = np.full(3, rng.uniform(5, 16))
    columns = _finish(
        rng, *_about(rng, base, rng.uniform(0.15, 0.5)), grain_gain=rng.uniform(0.8, 2.2), mottle_gain=0.5
    )
    columns["mottle_scale"] = rng.uniform(0.3, 2)
    if rng.random() < 0.35:  # woven lines
        scale[rng.choice([0, 2])] = rng.uniform(0.2, 1.0)
        columns["grain_gain"] = rng.uniform(1.5, 3)
    if rng.random() < 0.3:  # squares of carpet
        columns |= {"cell": (0.5, 0.5), "tone": rng.uniform(0.1, 0.6), "joint": 0.004, "joint_colour": base * 0.6}
    return columns | {"grain_scale": scale}


def rug(rng: np.random.Generator) -> Columns:
    """A patterned one."""
    columns = fabric(rng, hsv(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.7)))
    columns |= {
        "colour1": anything(rng),
        "mottle": rng.choice((7, 8, 9, 10, 15, 17, 22)),
        "mottle_scale": rng.uniform(0.5, 2),
    }
    return columns | {"mottle_gain": rng.uniform(0.3, 1.0)}


def metal(rng: np.random.Generator) -> Columns:
    """Chrome, steel, brass, black paint."""
    base = hsv(rng.uniform(0.08, 0.6), rng.choice([0.02, 0.02, 0.4]), rng.choice([0.06, rng.uniform(0.3, 0.7)]))
    return _finish(
        rng, *_about(rng, base, 0.1), reflection=rng.uniform(0.1, 0.6), specular=rng.uniform(0.4, 1.0), mottle_gain=0.4
    )


def plastic(rng: np.random.Generator, colour: np.ndarray | None = None) -> Columns:
    """Smooth, a little shiny; ceramics and lacquer too."""
    base = anything(rng) if colour is None else colour
    columns = _finish(
        rng, *_about(rng, base, rng.uniform(0.02, 0.1)), mottle_gain=rng.uniform(0, 1), mottle_scale=rng.uniform(0.5, 3)
    )
    return columns | {"reflection": rng.choice([0.0, 0.04, 0.1]), "specular": rng.choice([0.0, 0.3, 0.9])}


def leather(rng: np.random.Generator) -> Columns:
    """Of sofas, chairs, bags."""
    base = hsv(rng.uniform(0.03, 0.12), rng.uniform(0.1, 0.7), rng.uniform(0.05, 0.75))
    columns = _finish(
        rng, *_about(rng, base, 0.15), grain=rng.choice(CRACKS), grain_scale=np.full(3, rng.uniform(5, 12))
    )
    return columns | {"grain_gain": 0.6, "mottle_gain": 1.0, "reflection": 0.02, "specular": rng.uniform(0.1, 0.5)}


def printed(rng: np.random.Generator, size: float) -> Columns:
    """Paper with words, a picture, or both: covers, posters, boxes; `size` is the longer side in metres."""
    base = anything(rng)
    other = anything(rng)
    columns = _finish(
        rng,
        base,
        other,
        mottle=rng.choice(CELLS + (6, 7, 8, 9, 19, 20, 3, 22)),
        mottle_scale=rng.uniform(0.3, 1.2) / size,
    )
    columns |= {"mottle_gain": rng.uniform(0.2, 1.2), "specular": rng.choice([0.0, 0.0, 0.4])}
    if rng.random() < 0.6:
        line = size * rng.uniform(0.02, 0.12)
        columns |= {
            "cell": (line * rng.uniform(0.8, 4), line),
            "cell_shift": -1.0,
            "joint": 0.35 * line,
            "joint_colour": base,
        }
        columns |= {
            "colour0": other,
            "colour1": other * rng.uniform(0.5, 1.3),
            "blank": rng.uniform(0.2, 0.7),
            "hue": rng.choice([0, 0.5]),
        }
    return columns


def picture(rng: np.random.Generator, size: float) -> Columns:
    """A painting or a photograph."""
    columns = _finish(
        rng, anything(rng), anything(rng), mottle_scale=rng.uniform(0.4, 1.5) / size, mottle_gain=rng.uniform(0.8, 1.6)
    )
    columns |= {
        "grain": rng.choice(ROUGH + CELLS),
        "grain_scale": np.full(3, rng.uniform(1, 4) / size),
        "grain_gain": rng.uniform(0, 1.2),
    }
    cell = size * rng.uniform(0.15, 0.6)
    return columns | {
        "cell": (cell, cell * rng.uniform(0.4, 2)),
        "tone": rng.uniform(0, 1.5),
        "hue": rng.uniform(0, 0.6),
        "reflection": 0.04,
    }


def books(rng: np.random.Generator) -> Columns:
    """Backs of a row of books, across a face."""
    wide = rng.uniform(0.02, 0.05)
    columns = _finish(
        rng,
        hsv(rng.random(), 0.4, 0.25),
        hsv(rng.random(), 0.3, 0.8),
        cell=(wide, 50.0),
        joint=0.003,
        tone=1.6,
        hue=0.5,
    )
    return columns | {"joint_colour": np.full(3, 0.05), "grain_scale": (0.5, 8, 0.5), "grain_gain": 0.8}


def brick(rng: np.random.Generator) -> Columns:
    """A wall of bricks or blocks."""
    base = hsv(rng.uniform(0.0, 0.09), rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.75))
    high = rng.choice([0.075, 0.075, 0.2])
    columns = _finish(
        rng,
        *_about(rng, base, 0.3),
        cell=(3 * high, high),
        cell_shift=0.5,
        joint=rng.uniform(0.008, 0.015),
        tone=0.8,
        hue=0.1,
    )
    return columns | {
        "joint_colour": hsv(0.1, 0.1, rng.uniform(0.3, 0.75)),
        "mottle_gain": 0.8,
        "grain_scale": (6, 6, 6),
        "grain_gain": 0.8,
    }


def concrete(rng: np.random.Generator) -> Columns:
    """Plaster, concrete, render."""
    base = hsv(rng.uniform(0.05, 0.15), rng.uniform(0, 0.35), rng.uniform(0.3, 0.85))
    columns = _finish(
        rng,
        *_about(rng, base, rng.uniform(0.08, 0.25)),
        mottle_scale=rng.uniform(0.15, 1),
        mottle_gain=rng.uniform(0.5, 1.3),
    )
    return columns | {"grain_scale": np.full(3, rng.uniform(2, 8)), "grain_gain": rng.uniform(0.3, 1.2)}


def paving(rng: np.random.Generator) -> Columns:
    """Slabs or setts."""
    side = rng.choice([0.12, 0.3, 0.5])
    columns = concrete(rng)
    columns |= {
        "cell": (side * rng.choice([1, 1.5, 2]), side),
        "cell_shift": rng.choice([0, 0.5]),
        "joint": rng.uniform(0.004, 0.02),
    }
    return columns | {"joint_colour": hsv(0.1, 0.1, rng.uniform(0.1, 0.4)), "tone": rng.uniform(0.1, 1), "hue": 0.05}


def asphalt(rng: np.random.Generator) -> Columns:
    """A road, with patches."""
    base = hsv(rng.uniform(0.55, 0.65), rng.uniform(0, 0.1), rng.uniform(0.1, 0.45))
    columns = _finish(
        rng, *_about(rng, base, rng.uniform(0.1, 0.35)), mottle_scale=rng.uniform(0.05, 0.3), mottle_gain=1.0
    )
    return columns | {"grain_scale": (rng.uniform(1, 6), 1, rng.uniform(0.05, 3)), "grain_gain": rng.uniform(0.4, 1.5)}


def grass(rng: np.random.Generator) -> Columns:
    """Lawn, meadow, sand or earth."""
    base = hsv(rng.uniform(0.1, 0.32), rng.uniform(0.25, 0.75), rng.uniform(0.15, 0.55))
    columns = _finish(
        rng, base * 0.6, np.clip(base * 1.4 * (1 + 0.1 * rng.normal(size=3)), 0, 1), mottle_scale=rng.uniform(0.05, 0.5)
    )
    return columns | {"mottle_gain": 1.0, "grain_scale": np.full(3, rng.uniform(1, 5)), "grain_gain": rng.uniform(1, 2)}


def leaves(rng: np.random.Generator, size: float = 1.0) -> Columns:
    """Of trees, hedges and pot plants: dark gaps and bright leaves."""
    base = hsv(rng.uniform(0.18, 0.4), rng.uniform(0.3, 0.8), rng.uniform(0.15, 0.6))
    columns = _finish(
        rng, base * 0.12, np.clip(base * 1.3, 0, 1), mottle_scale=rng.uniform(0.5, 1.2) / size, mottle_gain=1.3
    )
    return columns | {
        "grain": rng.choice((0, 5, 16, 18)),
        "grain_scale": np.full(3, rng.uniform(1.5, 4) / size),
        "grain_gain": 1.6,
    }


def bark(rng: np.random.Generator) -> Columns:
    """Of trunks."""
    base = hsv(rng.uniform(0.05, 0.12), rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.45))
    return _finish(rng, base * 0.5, base * 1.4, grain_scale=(6, 1.5, 6), grain_gain=1.6, mottle_gain=0.6)


def skin(rng: np.random.Generator) -> Columns:
    """Of people."""
    tone = rng.uniform(0.15, 0.9)
    base = np.array([0.35 + 0.5 * tone, 0.2 + 0.45 * tone, 0.12 + 0.42 * tone])
    return _finish(rng, *_about(rng, base, 0.08), mottle_gain=0.8, mottle_scale=6.0, specular=0.1)


def fur(rng: np.random.Generator) -> Columns:
    """Of animals: plain or patched."""
    base = hsv(rng.uniform(0.04, 0.12), rng.uniform(0.05, 0.7), rng.uniform(0.05, 0.9))
    other = (
        hsv(rng.uniform(0.04, 0.12), rng.uniform(0, 0.5), rng.choice([0.05, 0.9])) if rng.random() < 0.4 else base * 1.4
    )
    columns = _finish(rng, base, np.clip(other, 0, 1), mottle_scale=rng.uniform(1, 3), mottle_gain=rng.uniform(0.5, 2))
    return columns | {"grain_scale": (9, 9, 9), "grain_gain": 0.8}


def dark(rng: np.random.Generator) -> Columns:
    """Screens that are off, windows from outside, tyres."""
    return _finish(
        rng, *_about(rng, np.full(3, rng.uniform(0.01, 0.06)), 0.2), reflection=rng.uniform(0.04, 0.2), specular=0.5
    )


def screen(rng: np.random.Generator, size: float) -> Columns:
    """One that is on."""
    return printed(rng, size) | {"glow": rng.uniform(0.5, 1.2), "reflection": 0.04}


def lit_pane(rng: np.random.Generator) -> Columns:
    """A window seen from inside by day, a lampshade: bright."""
    base = hsv(rng.uniform(0.08, 0.6), rng.uniform(0, 0.25), 0.95)
    view = hsv(rng.uniform(0.2, 0.6), rng.uniform(0, 0.4), rng.uniform(0.4, 0.95))
    return _finish(
        rng, view, base, mottle_scale=rng.uniform(0.3, 1), mottle_gain=rng.uniform(0, 1.5), glow=rng.uniform(0.6, 1.6)
    )


def facade(rng: np.random.Generator) -> Columns:
    """Windows in a wall: each cell is a pane, the joints are the wall."""
    wall = rng.choice([0, 1])
    base = (
        hsv(rng.uniform(0.02, 0.15), rng.uniform(0.02, 0.5), rng.uniform(0.25, 0.9))
        if wall
        else hsv(0.6, 0.05, rng.uniform(0.2, 0.8))
    )
    wide, high = rng.uniform(1.2, 3.5), rng.uniform(2.6, 3.4)
    pane = hsv(rng.uniform(0.5, 0.65), rng.uniform(0, 0.4), rng.uniform(0.04, 0.3))
    columns = _finish(
        rng,
        pane,
        pane * rng.uniform(1.5, 4),
        cell=(wide, high),
        joint=rng.uniform(0.7, 1.6),
        joint_colour=base,
        tone=1.2,
    )
    return columns | {"mottle_scale": 0.3, "mottle_gain": 0.8, "blank": rng.choice([0, 0.1])}


def cars_paint(rng: np.random.Generator) -> Columns:
    """Lacquer of cars: mostly white, grey, black."""
    kind = rng.random()
    base = hsv(rng.random(), rng.uniform(0, 0.08), rng.choice([0.03, 0.1, 0.3, 0.5, 0.85]))
    if kind > 0.7:
        base = hsv(
            rng.choice([0.0, 0.6, 0.58, 0.35, 0.08]) + 0.02 * rng.normal(),
            rng.uniform(0.5, 0.9),
            rng.uniform(0.15, 0.6),
        )
    return _finish(rng, *_about(rng, base, 0.05), reflection=rng.uniform(0.06, 0.15), specular=0.9, mottle_gain=0.3)
