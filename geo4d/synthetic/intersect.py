"""Rays against primitives in closed form (tori by sphere tracing), one pass a slot over the rays that come near it.

A ray is o + t d in the scene; each slot of the sorted primitives may hold a different shape in different worlds, so a
pass computes the shapes that occur in its slot and picks. Leaving out the rays that miss the ball around a primitive
changes no result: what is computed of a ray does not depend on the others.
"""

from __future__ import annotations

import torch

from geo4d._typing import Tensor
from geo4d.synthetic.primitives import Shape

NEAR = 0.02
MISS = float("inf")
TORUS_STEPS = 40
BALL_SLACK = 1e-5  # of the squared distance, so that rounding never leaves out a ray that hits
FEW_RAYS = 0.5  # share of the rays up to which picking them out is worth it

Axes = tuple[Tensor, Tensor, Tensor]  # x, y, z, each (f, p) or (f, 1)


def _interval_entry(entry: Tensor, leave: Tensor) -> Tensor:
    """First positive hit of a convex body: its entry, or its far side seen from inside."""
    t = torch.where(entry > NEAR, entry, leave)
    return torch.where((entry < leave) & (leave > NEAR), t, MISS)


def _slab(o: Tensor, d: Tensor, half: Tensor | float) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
    middle, reach = -o * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def _quadratic(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of a t^2 + 2 b t + c, an empty interval where there are none."""
    root = (b * b - a * c).clamp_min(0).sqrt()
    miss = b * b < a * c
    inverse = 1 / a.clamp_min(1e-12)
    return torch.where(miss, MISS, (-b - root) * inverse), torch.where(miss, -MISS, (-b + root) * inverse)


def hit_box(o: Axes, d: Axes, size: Axes) -> Tensor:
    """Nearest positive t."""
    intervals = [_slab(oo, dd, ss) for oo, dd, ss in zip(o, d, size, strict=True)]
    entry = torch.maximum(torch.maximum(intervals[0][0], intervals[1][0]), intervals[2][0])
    leave = torch.minimum(torch.minimum(intervals[0][1], intervals[1][1]), intervals[2][1])
    return _interval_entry(entry, leave)


def hit_ellipsoid(o: Axes, d: Axes, size: Axes) -> Tensor:
    """Nearest positive t."""
    o = tuple(oo / ss for oo, ss in zip(o, size, strict=True))  # type: ignore[assignment]
    d = tuple(dd / ss for dd, ss in zip(d, size, strict=True))  # type: ignore[assignment]
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1
    return _interval_entry(*_quadratic(a, b, c))


def _round_wall(o: Axes, d: Axes, radius: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    ox, oz, dx, dz = o[0] / radius[0], o[2] / radius[1], d[0] / radius[0], d[2] / radius[1]
    return _quadratic(dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz - 1)


def hit_cylinder(o: Axes, d: Axes, size: Axes) -> Tensor:
    """Nearest positive t, flat caps included."""
    wall, caps = _round_wall(o, d, (size[0], size[2])), _slab(o[1], d[1], size[1])
    return _interval_entry(torch.maximum(wall[0], caps[0]), torch.minimum(wall[1], caps[1]))


def hit_capsule(o: Axes, d: Axes, size: Axes) -> Tensor:
    """Nearest positive t: the union of a cylinder and two balls."""
    radius, half = size[0], size[1]
    wall, caps = _round_wall(o, d, (radius, radius)), _slab(o[1], d[1], half)
    t = _interval_entry(torch.maximum(wall[0], caps[0]), torch.minimum(wall[1], caps[1]))
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    for end in (-half, half):
        oy = o[1] - end
        b = o[0] * d[0] + oy * d[1] + o[2] * d[2]
        c = o[0] * o[0] + oy * oy + o[2] * o[2] - radius * radius
        t = torch.minimum(t, _interval_entry(*_quadratic(a, b, c)))
    return t


def hit_torus(o: Axes, d: Axes, size: Axes) -> Tensor:
    """Nearest positive t, by sphere tracing inside the bounding ball."""
    ring, tube = size[0], size[1]
    bound = ring + tube
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - bound * bound
    entry, leave = _quadratic(a, b, c)
    result = torch.full_like(a, MISS)
    rows, columns = torch.nonzero((leave > NEAR) & (entry < leave), as_tuple=True)
    if len(rows) == 0:
        return result
    px, py, pz = (oo.expand_as(a)[rows, columns] for oo in o)
    dx, dy, dz = (dd.expand_as(a)[rows, columns] for dd in d)
    ring, tube = ring.expand_as(a)[rows, columns], tube.expand_as(a)[rows, columns]
    t, speed = entry[rows, columns].clamp_min(NEAR), a[rows, columns].sqrt()
    for _ in range(TORUS_STEPS):
        x, y, z = px + t * dx, py + t * dy, pz + t * dz
        distance = (((x * x + z * z).sqrt() - ring).square() + y * y).sqrt() - tube
        t = t + distance / speed
    hit = (distance.abs() < 1e-4) & (t < leave[rows, columns]) & (t > NEAR)
    result[rows, columns] = torch.where(hit, t, MISS)
    return result


HITS = {
    Shape.BOX: hit_box,
    Shape.ELLIPSOID: hit_ellipsoid,
    Shape.CYLINDER: hit_cylinder,
    Shape.CAPSULE: hit_capsule,
    Shape.TORUS: hit_torus,
}


def _ball_radius(shape: Shape, size: Axes) -> Tensor:
    """Of a ball around the shape's centre that holds it, (f, 1)."""
    if shape == Shape.BOX:
        return (size[0] * size[0] + size[1] * size[1] + size[2] * size[2]).sqrt()
    if shape == Shape.ELLIPSOID:
        return torch.maximum(torch.maximum(size[0], size[1]), size[2])
    if shape == Shape.CYLINDER:
        return (torch.maximum(size[0], size[2]).square() + size[1] * size[1]).sqrt()
    return size[0] + size[1]


def _hit_where_near(shape: Shape, o: Axes, d: Axes, size: Axes) -> Tensor | None:
    """Nearest positive t (f, p), computed for the rays alone that meet the ball around the shape; None if none does."""
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - _ball_radius(shape, size).square()
    near = (b * b * (1 + BALL_SLACK) >= a * c) & ((b <= 0) | (c <= BALL_SLACK * b * b))
    rows, columns = torch.nonzero(near, as_tuple=True)
    if len(rows) == 0:
        return None
    if len(rows) > FEW_RAYS * a.numel():
        return HITS[shape](o, d, size)
    o, d, size = (tuple(axis.expand_as(a)[rows, columns][None] for axis in axes) for axes in (o, d, size))
    t = torch.full_like(a, MISS)
    t[rows, columns] = HITS[shape](o, d, size)[0]
    return t


def cast(
    directions: Tensor,
    origins: Tensor,
    to_world: Tensor,
    sizes: Tensor,
    shapes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Nearest hit of every ray.

    `directions` (f, p, 3), `origins` (f, 1 or p, 3), `to_world` (f, n, 4, 4), `sizes` (f, n, 3), `shapes` (f, n).
    Returns t (f, p), inf where nothing is hit, and the primitive's number (f, p).
    """
    rotation, centre = to_world[..., :3, :3], to_world[..., :3, 3]
    f, n = shapes.shape
    # rows of R^T stacked: local = R^T (x - c), all primitives at once
    turns = rotation.mT.reshape(f, n * 3, 3)
    d_local = (turns @ directions.mT).unflatten(1, (n, 3))  # (f, n, 3, p)
    o_local = (turns @ origins.mT).unflatten(1, (n, 3)) - (rotation.mT @ centre[..., None])
    best = torch.full(directions.shape[:2], MISS, device=directions.device)
    winner = torch.full(directions.shape[:2], -1, dtype=torch.int64, device=directions.device)
    for slot in range(n):
        present = shapes[:, slot]
        for shape in present.unique().tolist():
            if shape < 0:
                continue
            rows = torch.nonzero(present == shape)[:, 0]
            every = len(rows) == f
            o = o_local[:, slot] if every else o_local[rows, slot]
            d = d_local[:, slot] if every else d_local[rows, slot]
            size = (sizes[:, slot] if every else sizes[rows, slot])[..., None]
            t = _hit_where_near(Shape(shape), o.unbind(1), d.unbind(1), size.unbind(1))
            if t is None:
                continue
            old = best if every else best[rows]
            closer = t < old
            best_new, winner_new = torch.where(closer, t, old), torch.where(closer, slot, winner if every else winner[rows])
            if every:
                best, winner = best_new, winner_new
            else:
                best[rows], winner[rows] = best_new, winner_new
    return best, winner


def local_normal(points: Tensor, sizes: Tensor, shapes: Tensor) -> Tensor:
    """Outward normals (f, p, 3), not unit, of points on surfaces, all in the shapes' own frames."""
    scaled = points / sizes
    magnitude = scaled.abs()
    largest = magnitude == magnitude.amax(dim=-1, keepdim=True)
    box = torch.where(largest, scaled.sign(), 0.0)
    ellipsoid = scaled / sizes
    on_cap = (magnitude[..., 1:2] > 0.9999) & (scaled[..., :1].square() + scaled[..., 2:].square() < 0.9999)
    up = points.new_tensor([0.0, 1.0, 0.0])
    cylinder = torch.where(on_cap, up * scaled.sign(), ellipsoid * (1 - up))
    along = torch.maximum(torch.minimum(points[..., 1:2], sizes[..., 1:2]), -sizes[..., 1:2])
    capsule = points - along * up
    flat = points * (1 - up)
    torus = points - flat * (sizes[..., :1] / flat.norm(dim=-1, keepdim=True).clamp_min(1e-6))
    result = box
    for shape, normal in ((1, ellipsoid), (2, cylinder), (3, capsule), (4, torus)):
        result = torch.where((shapes == shape)[..., None], normal, result)
    return result
