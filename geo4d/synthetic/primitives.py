"""The parts of a world as arrays: one row of numbers a primitive, the same columns for every shape and motion."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from geo4d._typing import Float, Int, Tensor
from geo4d.synthetic.finish import FINISH, FINISH_LENGTH, FINISH_STARTS


class Shape(IntEnum):
    """Every shape is given by `size` in its own frame (y is the axis of revolution)."""

    BOX = 0  # half extents
    ELLIPSOID = 1  # semi-axes
    CYLINDER = 2  # radius x, half height, radius z
    CAPSULE = 3  # radius, half length of the straight part, unused
    TORUS = 4  # ring radius, tube radius, unused


# Name and width of every column of a primitive's row. Lengths in metres, angles in radians, rates per second.
COLUMNS = {
    "size": 3,
    "base": 3,  # root position at rest, world
    "velocity": 3,
    "sway": 3,  # root += sway sin(sway_rate t + sway_phase)
    "sway_rate": 1,
    "sway_phase": 1,
    "bounce": 1,  # root rises by bounce |sin(sway_rate t + sway_phase)|
    "circle_radius": 1,  # root += radius (sin a, 0, cos a) with a = circle_phase + circle_rate t
    "circle_rate": 1,
    "circle_phase": 1,
    "yaw": 1,  # about the vertical, + yaw_rate t + follow a
    "yaw_rate": 1,
    "follow": 1,
    "pivot": 3,  # of the swing, in the root's frame
    "swing_rate": 1,  # angle about x = swing_rate t + swing_amplitude sin(swing_frequency t + swing_phase)
    "swing_amplitude": 1,
    "swing_frequency": 1,
    "swing_phase": 1,
    "offset": 3,  # from the pivot to the shape's centre
    "tilt": 9,  # static rotation of the shape, row major
    "colour0": 3,
    "colour1": 3,
    "texture": 1,  # number in the texture bank
    "texture_scale": 1,  # periods a metre
    "specular": 1,
    "instance": 1,
}
_STARTS = dict(zip(COLUMNS, np.cumsum([0, *COLUMNS.values()]).tolist(), strict=False))
ROW_LENGTH = sum(COLUMNS.values())


@dataclass(frozen=True)
class Primitives:
    """Primitives of a batch of worlds, padded: rows (b, n, ROW_LENGTH) and shapes (b, n), -1 where padded."""

    rows: Float[Tensor, "b n r"]
    shapes: Int[Tensor, "b n"]

    def __getitem__(self, name: str) -> Tensor:
        """A column: (b, n, width), or (b, n) where the width is 1."""
        start, width = _STARTS[name], COLUMNS[name]
        return self.rows[..., start] if width == 1 else self.rows[..., start : start + width]

    def to(self, device: torch.device | str) -> Primitives:
        """Moves both arrays."""
        return Primitives(self.rows.to(device), self.shapes.to(device))


class Builder:
    """Collects the primitives of one world."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._finishes: list[np.ndarray] = []
        self._shapes: list[int] = []
        self.protected: list[bool] = []  # structures that the camera may come near to
        self._instances = 0

    def new_instance(self) -> int:
        """A number for the next object; 0 is the background."""
        self._instances += 1
        return self._instances

    def add(self, shape: Shape, *, structure: bool = False, **columns: object) -> None:
        """Adds one primitive.

        Columns, those of its finish too, are 0 if not named (the tilt is the identity, a texture has scale 1).
        """
        row, finish = np.zeros(ROW_LENGTH, dtype=np.float32), np.zeros(FINISH_LENGTH, dtype=np.float32)
        row[_STARTS["tilt"] : _STARTS["tilt"] + 9] = (1, 0, 0, 0, 1, 0, 0, 0, 1)
        row[_STARTS["texture_scale"]] = 1.0
        for name, value in columns.items():
            if name in FINISH:
                finish[FINISH_STARTS[name] : FINISH_STARTS[name] + FINISH[name]] = value
            else:
                row[_STARTS[name] : _STARTS[name] + COLUMNS[name]] = value
        self._rows.append(row)
        self._finishes.append(finish)
        self._shapes.append(int(shape))
        self.protected.append(structure)

    def build(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n, ROW_LENGTH) and shapes (n,)."""
        return np.stack(self._rows), np.array(self._shapes)

    def finishes(self) -> np.ndarray:
        """Rows of FINISH (n, FINISH_LENGTH), in the order of `build`."""
        return np.stack(self._finishes)


def stack(worlds: list[tuple[np.ndarray, np.ndarray]]) -> Primitives:
    """Pads worlds to the same number of primitives, shape by shape, so that a slot holds one shape in all worlds."""
    rows, padded = _pad([rows for rows, _ in worlds], [shapes for _, shapes in worlds])
    return Primitives(rows, padded)


def stack_finishes(finishes: list[np.ndarray], worlds: list[tuple[np.ndarray, np.ndarray]]) -> Float[Tensor, "b n r"]:
    """Finishes in the slots that `stack` gives their primitives."""
    return _pad(finishes, [shapes for _, shapes in worlds])[0]


def _pad(rows: list[np.ndarray], shapes: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    most = [max(int((each == shape).sum()) for each in shapes) for shape in Shape]
    starts = np.cumsum([0, *most])
    out = np.zeros((len(rows), starts[-1], rows[0].shape[1]), dtype=np.float32)
    padded = np.full((len(rows), starts[-1]), -1, dtype=np.int64)
    for i, (own, own_shapes) in enumerate(zip(rows, shapes, strict=True)):
        for shape in Shape:
            chosen = own[own_shapes == shape]
            out[i, starts[shape] : starts[shape] + len(chosen)] = chosen
            padded[i, starts[shape] : starts[shape] + len(chosen)] = int(shape)
    return torch.from_numpy(out), torch.from_numpy(padded)
