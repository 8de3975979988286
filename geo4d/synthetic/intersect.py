"""Rays against primitives in closed form (tori by sphere tracing), one pass a slot over the rays that come near it.

A ray is o + t d in the scene; each slot of the sorted primitives may hold a different shape in different worlds, so a
pass computes the shapes that occur in its slot and picks. Leaving out the rays that miss the ball around a primitive
changes no result: what is computed of a ray does not depend on the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from geo4d._typing import Tensor
from geo4d.synthetic.primitives import Shape

NEAR = 0.02
MISS = float("inf")
TORUS_STEPS = 40
BALL_SLACK = 1e-5  # of the squared distance, so that rounding never leaves out a ray that hits
FEW_RAYS = 0.5  # share of the rays up to which picking them out is worth it

SQUARE = 8  # pixels a side, of what is tried together
SPREAD = 1.25  # margin of a square's cone: rays within its pixels lie up to half a pixel off

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


def _near_rays(shape: Shape, o: Axes, d: Axes, size: Axes) -> tuple[Tensor, Tensor]:
    """Frame and number of the rays that meet the ball around the shape."""
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - _ball_radius(shape, size).square()
    squared = b * b
    near = (squared * (1 + BALL_SLACK) >= a * c) & ((b <= 0) | (c <= BALL_SLACK * squared))
    return torch.nonzero(near, as_tuple=True)


def _keep_nearest(
    found: tuple[Tensor, Tensor],
    rays: tuple[Tensor, Tensor, Tensor],
    axes: tuple[Axes, Axes, Axes],
    primitive: tuple[Shape, int],
) -> None:
    """Puts a primitive where it is the nearest yet.

    Args:
        found: t and the primitive's number so far, (f, p) each; changed in place.
        rays: the frames that hold the primitive, and of the rays that may hit it which of these frames, and which ray.
        axes: origins, directions and sizes of these frames.
        primitive: its shape and number.
    """
    (best, winner), (rows, at, ray), (shape, slot) = found, rays, primitive
    wide = torch.broadcast_shapes(axes[0][0].shape, axes[1][0].shape)
    if len(at) > FEW_RAYS * wide[0] * wide[1]:
        t, old, previous = HITS[shape](*axes), best[rows], winner[rows]
        closer = t < old
        best[rows], winner[rows] = torch.where(closer, t, old), torch.where(closer, slot, previous)
        return
    o, d, size = (tuple(axis.expand(wide)[at, ray][None] for axis in group) for group in axes)
    t, at = HITS[shape](o, d, size)[0], rows[at]
    closer = t < best[at, ray]
    at, ray = at[closer], ray[closer]
    best[at, ray], winner[at, ray] = t[closer], slot


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
    host_shapes = shapes.cpu()
    for slot in range(n):
        for shape in set(host_shapes[:, slot].tolist()) - {-1}:
            rows = torch.nonzero(host_shapes[:, slot] == shape)[:, 0].to(directions.device)
            o, d, size = (
                x if len(rows) == f else x[rows] for x in (o_local[:, slot], d_local[:, slot], sizes[:, slot, :, None])
            )
            axes = o.unbind(1), d.unbind(1), size.unbind(1)
            at, ray = _near_rays(Shape(shape), *axes)
            if len(at) == 0:
                continue
            _keep_nearest((best, winner), (rows, at, ray), axes, (Shape(shape), slot))
    return best, winner


@dataclass(frozen=True)
class Squares:
    """Which primitives the rays of each square of pixels may hit."""

    of_ray: Tensor  # (p,) the square of each ray
    may_hit: Tensor  # (f, n, squares)

    @classmethod
    def around(
        cls, rays: tuple[Tensor, Tensor], scene: tuple[Tensor, Tensor, Tensor], apex: Tensor, grid: tuple[int, int]
    ) -> Squares:
        """Compares the cone around each square's rays with the balls around the primitives.

        Args:
            rays: origins (f, 1 or p, 3) and directions (f, p, 3) of a grid of pixels, that all start or all end in one
                point.
            scene: to_world, sizes, shapes.
            apex: that point, (f, 3).
            grid: height and width.
        """
        across = -(-grid[1] // SQUARE)
        rows = torch.arange(grid[0], device=apex.device) // SQUARE * across
        of_ray = (rows[:, None] + torch.arange(grid[1], device=apex.device) // SQUARE).flatten()
        return cls(of_ray, _cones_meet_balls(rays, scene, apex, (of_ray, across * -(-grid[0] // SQUARE))))

    def of(self, frame: int, rays: Tensor) -> Squares:
        """Of some rays of one frame, or of rays within the same pixels."""
        return Squares(self.of_ray[rays], self.may_hit[frame : frame + 1])


def _cones_meet_balls(
    rays: tuple[Tensor, Tensor], scene: tuple[Tensor, Tensor, Tensor], apex: Tensor, squares: tuple[Tensor, int]
) -> Tensor:
    """(f, n, squares); in double precision, for the sun's rays are nearly parallel."""
    to_world, sizes, shapes = scene
    (of_ray, count), f = squares, len(shapes)
    start = (rays[0] - apex[:, None]).double()
    end = start + rays[1].double()
    starts_there = start.square().sum(-1, keepdim=True) < end.square().sum(-1, keepdim=True)
    unit = normalize(torch.where(starts_there, end, start), dim=-1)
    axis = normalize(unit.new_zeros(f, count, 3).index_add_(1, of_ray, unit), dim=-1)
    apart = (unit - axis[:, of_ray]).norm(dim=-1)
    spread = apart.new_zeros(f, count).scatter_reduce(1, of_ray.expand(f, -1), apart, "amax")
    gap = (to_world[..., :3, 3] - apex[:, None]).double()
    distance = gap.norm(dim=-1)
    kinds = torch.stack([_ball_radius(shape, sizes[..., None].unbind(2))[..., 0] for shape in Shape])
    radius = torch.gather(kinds, 0, shapes.clamp_min(0)[None])[0].double() * (1 + 1e-3) + 1e-4
    # lengths of chords on the unit sphere: of the ball as it is seen, and from its middle to the square's axis
    seen = 2 * torch.sin(0.5 * torch.asin((radius / distance.clamp_min(1e-9)).clamp_max(1.0)))
    far = torch.cdist(gap / distance.clamp_min(1e-9)[..., None], axis)
    near = (far <= (seen[..., None] + SPREAD * spread[:, None]) * 1.01 + 1e-7) | (distance <= radius)[..., None]
    return near & (shapes >= 0)[..., None]


def cast_bundle(
    directions: Tensor, origins: Tensor, scene: tuple[Tensor, Tensor, Tensor], squares: Squares
) -> tuple[Tensor, Tensor]:
    """The same as `cast` but for rounding, and many times as fast.

    Only the squares that may hit a primitive are tried against it. `origins` are (f, 1 or p, 3), `scene` is (to_world,
    sizes, shapes).
    """
    shapes = scene[2].cpu()
    hits = [
        _cast_frame(
            directions[i].mT.contiguous(),
            origins[i].mT.contiguous(),
            (scene[0][i], scene[1][i], shapes[i]),
            Squares(squares.of_ray, squares.may_hit[i : i + 1]),
        )
        for i in range(len(shapes))
    ]
    return torch.stack([t for t, _ in hits]), torch.stack([winner for _, winner in hits])


def _cast_frame(
    directions: Tensor, origins: Tensor, scene: tuple[Tensor, Tensor, Tensor], squares: Squares
) -> tuple[Tensor, Tensor]:
    """Nearest hits (p,) of one frame's rays (3, p); origins are (3, p) or (3, 1)."""
    to_world, sizes, shapes = scene
    wide = directions.shape[1]
    best = torch.full((wide,), MISS, device=directions.device)
    winner = torch.full((wide,), -1, dtype=torch.int64, device=directions.device)
    may_hit = squares.may_hit[0]
    some = may_hit.any(1).tolist()
    for slot, shape in enumerate(shapes.tolist()):
        if not some[slot]:
            continue
        ray = torch.nonzero(may_hit[slot].index_select(0, squares.of_ray))[:, 0]
        turn, centre = to_world[slot, :3, :3].mT.contiguous(), to_world[slot, :3, 3:]
        d = turn @ directions.index_select(1, ray)
        o = turn @ ((origins if origins.shape[1] == 1 else origins.index_select(1, ray)) - centre)
        t = HITS[Shape(shape)](o[:, None].unbind(0), d[:, None].unbind(0), sizes[slot, :, None, None].unbind(0))[0]  # type: ignore[arg-type]
        closer = t < best.index_select(0, ray)
        ray, t = ray[closer], t[closer]
        best.index_copy_(0, ray, t)
        winner.index_fill_(0, ray, slot)
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
