"""Finer surfaces than two colours and one texture.

Grain and blotches at two scales, tiles, planks, bricks, prints, gloss, glow. Every primitive has a row of numbers of
its own beside those of `primitives`; a world that has none is coloured as ever.
"""

from __future__ import annotations

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.synthetic.textures import look_up

# Name and width of every column of a finish. Lengths in metres, scales in periods a metre.
FINISH = {
    "grain": 1,  # number in the texture bank of the fine pattern
    "grain_scale": 3,  # along the shape's own axes: wood is stretched along one
    "grain_gain": 1,
    "mottle": 1,  # the same, coarser
    "mottle_scale": 1,
    "mottle_gain": 1,
    "cell": 2,  # width and height of tiles, planks, bricks, book backs, panes; 0: none
    "cell_shift": 1,  # of every second row, as a share of the width; negative: of every row at random
    "joint": 1,  # between the cells
    "joint_colour": 3,
    "blank": 1,  # share of cells in the joints' colour: gaps between words, dark panes
    "tone": 1,  # spread of the cells' brightness
    "hue": 1,  # spread of the cells' colour
    "reflection": 1,  # share of light mirrored head-on, more at grazing angles
    "glow": 1,  # light of its own, as a factor of the colour
    "seed": 1,  # so that no two objects have the same pattern
}
FINISH_STARTS = dict(zip(FINISH, np.cumsum([0, *FINISH.values()]).tolist(), strict=False))
FINISH_LENGTH = sum(FINISH.values())
NOISES = (6, 15, 19)  # in the texture bank noise and cells are those below the first, and from the second to the third
# a plane that cuts a periodic volume askew never shows the same twice
ASKEW = ((0.8138, -0.4698, 0.3420), (0.5438, 0.8232, -0.1632), (-0.2049, 0.3188, 0.9254))
FADE = 6.0  # how soon noise fades to its mean where a pixel covers much of a period


def finish_column(rows: Float[Tensor, "*s r"], name: str) -> Tensor:
    """A column of finishes: (..., width), or (...) where the width is 1."""
    start, width = FINISH_STARTS[name], FINISH[name]
    return rows[..., start] if width == 1 else rows[..., start : start + width]


def coat(
    local: Float[Tensor, "f p 3"],
    normal: Float[Tensor, "f p 3"],
    colours: tuple[Float[Tensor, "f p 3"], Float[Tensor, "f p 3"]],
    finish: Float[Tensor, "f p r"],
    footprint: Float[Tensor, "f p"],
) -> Float[Tensor, "f p 3"]:
    """Colour of surface points from their finish.

    Args:
        local: points in the shapes' own frames, metres.
        normal: outward, in the same frames, of any length.
        colours: the two between which patterns vary.
        finish: rows of FINISH.
        footprint: metres that a pixel covers there.
    """
    seed = finish_column(finish, "seed")
    value = torch.full_like(footprint, 0.5)
    shifted = local + seed[..., None] * local.new_tensor([0.731, 1.377, 2.113])
    for name in ("mottle", "grain"):
        scale = finish_column(finish, f"{name}_scale")
        scale = scale if scale.ndim == local.ndim else scale[..., None]
        gain = finish_column(finish, f"{name}_gain") * (1.4 - FADE * footprint * scale.amax(-1)).clamp(0, 1)
        pattern, at = finish_column(finish, name).long(), shifted * scale
        is_noise = ((pattern < NOISES[0]) | (pattern >= NOISES[1]) & (pattern < NOISES[2]))[..., None]
        value = value + gain * (look_up(pattern, torch.where(is_noise, at @ at.new_tensor(ASKEW), at)) - 0.5)
    joint, tone, hues = _cells(_unrolled(local, normal), finish, footprint)
    value = (value + tone).clamp(0, 1)[..., None]
    colour = (colours[0] + (colours[1] - colours[0]) * value) * hues
    return (colour + (finish_column(finish, "joint_colour") - colour) * joint[..., None]).clamp(0, 1)


def _unrolled(local: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (u, v) in metres on the face that the normal points out of.

    v is vertical where the face is upright.
    """
    face = normal.abs().argmax(-1)
    u = torch.where(face == 0, local[..., 2], local[..., 0])
    v = torch.where(face == 1, local[..., 2], local[..., 1])
    return u, v


def _hash(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Scrambles whole numbers to [0, 1)."""
    wave = torch.sin(x * 12.9898 + y * 78.233 + z * 37.719) * 4375.8547
    return wave - wave.floor()


def _cells(at: tuple[Tensor, Tensor], finish: Tensor, footprint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Share of the joint's colour (f, p), offset of the value (f, p) and factors of the colour (f, p, 3)."""
    size, shift = finish_column(finish, "cell"), finish_column(finish, "cell_shift")
    used = size[..., 0] > 0
    wide, high = torch.where(used, size[..., 0], 1e6), torch.where(used, size[..., 1], 1e6)
    seed = finish_column(finish, "seed")
    down = at[1] / high + 0.5
    row = down.floor()
    across = at[0] / wide + 0.5
    across = across + torch.where(shift < 0, _hash(row, seed, seed), shift * (row % 2))
    column = across.floor()
    x, y = across - column, down - row
    to_edge = torch.minimum(torch.minimum(x, 1 - x) * wide, torch.minimum(y, 1 - y) * high)
    clear = (1.5 - 2 * footprint / torch.minimum(wide, high)).clamp(0, 1)  # cells finer than pixels fade to their mean
    half = finish_column(finish, "joint") / 2
    edge = ((half - to_edge) / footprint + 0.5).clamp(0, 1) * (half > 0)
    mean = (2 * half / torch.minimum(wide, high)).clamp(0, 1)
    chance, blank = _hash(row, column, seed + 1), finish_column(finish, "blank")
    joint = torch.maximum(mean + (edge - mean) * clear, blank + ((chance < blank).float() - blank) * clear) * used
    tone = finish_column(finish, "tone") * (_hash(row, column, seed + 2) - 0.5) * clear * used
    spread = finish_column(finish, "hue") * clear * used
    hues = torch.stack([1 + spread * (_hash(row, column, seed + k) * 2 - 1) for k in (3, 4, 5)], dim=-1)
    return joint, tone, hues
