"""A thing of several parts in a frame of its own: x to its right, y down, z ahead, its foot in the origin."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from geo4d.synthetic.lifelike.materials import Columns
from geo4d.synthetic.primitives import Builder, Shape

SIDEWAYS = (0, -1, 0, 1, 0, 0, 0, 0, 1)  # a shape's axis along x
AHEAD = (1, 0, 0, 0, 0, -1, 0, 1, 0)  # along z
FLAT_RING = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def tilted(x: float | int = 0, y: float | int = 0, z: float | int = 0) -> np.ndarray:
    """Rotation about the axes in turn, radians; row major (9,)."""
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return (about_y @ about_x @ about_z).ravel()


def _upright_to(direction: np.ndarray) -> np.ndarray:
    """Rotation that takes +y to a direction; row major (9,)."""
    y = direction / max(float(np.linalg.norm(direction)), 1e-9)
    x = np.cross(y, [0.0, 0.0, 1.0] if abs(y[2]) < 0.9 else [1.0, 0.0, 0.0])
    x = x / np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)], axis=1).ravel()


@dataclass
class Piece:
    """Adds parts to a world; all of them share one instance, one place and one motion."""

    builder: Builder
    place: np.ndarray  # world, of the foot
    yaw: float | int = 0
    motion: Columns = field(default_factory=dict)
    instance: int | None = None

    def __post_init__(self) -> None:
        if self.instance is None:
            self.instance = self.builder.new_instance()

    def add(self, shape: Shape, at: object, size: object, look: Columns, tilt: object = None, **more: object) -> None:
        """One part, its centre at `at`; with `hinge` it swings about that point."""
        columns = {"base": self.place, "yaw": self.yaw, "instance": self.instance, **self.motion}
        hinge = more.pop("hinge", None)
        if hinge is None:
            columns |= {"pivot": at}
        else:
            columns |= {"pivot": hinge, "offset": np.asarray(at, float) - np.asarray(hinge, float)}
        if tilt is not None:
            columns["tilt"] = tilt
        self.builder.add(shape, size=size, **columns, **look, **more)

    def box(self, at: object, half: object, look: Columns, tilt: object = None, **more: object) -> None:
        """By half extents."""
        self.add(Shape.BOX, at, half, look, tilt, **more)

    def cylinder(
        self, at: object, radius: float, half: float, look: Columns, tilt: object = None, **more: object
    ) -> None:
        """Upright unless tilted."""
        self.add(Shape.CYLINDER, at, (radius, half, radius), look, tilt, **more)

    def ball(self, at: object, radii: object, look: Columns, tilt: object = None, **more: object) -> None:
        """An ellipsoid by its semi-axes."""
        self.add(Shape.ELLIPSOID, at, np.broadcast_to(np.asarray(radii, float), 3), look, tilt, **more)

    def rod(self, a: object, b: object, radius: float, look: Columns, **more: object) -> None:
        """A capsule between two points."""
        a, b = np.asarray(a, float), np.asarray(b, float)
        self.add(
            Shape.CAPSULE,
            (a + b) / 2,
            (radius, max(float(np.linalg.norm(b - a)) / 2, 1e-3), 1),
            look,
            _upright_to(b - a),
            **more,
        )

    def ring(self, at: object, radius: float, tube: float, look: Columns, tilt: object = None) -> None:
        """A torus about the vertical unless tilted."""
        self.add(Shape.TORUS, at, (radius, tube, 1), look, tilt)

    def legs(self, half_x: float, half_z: float, top: float, radius: float, look: Columns, *, square: bool) -> None:
        """Four legs from the floor up to a height `top`."""
        for x in (-half_x, half_x):
            for z in (-half_z, half_z):
                if square:
                    self.box((x, -top / 2, z), (radius, top / 2, radius), look)
                else:
                    self.cylinder((x, -top / 2, z), radius, top / 2, look)

    def there(self, at: object) -> np.ndarray:
        """A point of the piece's frame in the world, at rest."""
        x, y, z = np.asarray(at, float)
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.asarray(self.place, float) + [c * x + s * z, y, -s * x + c * z]
