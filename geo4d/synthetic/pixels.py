"""From a stage of primitives to what each pixel of some frames sees: depth, colour, instance."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch.nn.functional import normalize

from geo4d._typing import Float, Tensor
from geo4d.geometry.camera import pixel_rays_cam
from geo4d.synthetic.finish import coat
from geo4d.synthetic.intersect import Squares, cast, cast_bundle, local_normal
from geo4d.synthetic.primitives import Primitives
from geo4d.synthetic.shading import Lights, Surface, albedo, light_reaches, shade
from geo4d.synthetic.studio import Studio, corner_shade, shade_lifelike, soften

Group = TypeVar("Group")  # a dataclass of tensors
Scene = tuple[Tensor, Tensor, Tensor]  # to_world (f, n, 4, 4), sizes (f, n, 3), shapes (f, n)
SUBPIXELS = (
    (-0.35, -0.15),
    (0.15, -0.35),
    (0.35, 0.15),
    (-0.15, 0.35),
)  # where the edges of lifelike worlds are seen, beside the middle
NEIGHBOURS = (0, 1, -1)  # and a row up and down: where the light of a subpixel is looked for


@dataclass(frozen=True)
class FrameCameras:
    """Cameras (f, 3, 3) and (f, 4, 4) of some frames, height and width.

    Also where the sky begins, and what is left out to be fast.
    """

    intrinsics: Tensor
    poses: Tensor
    size: tuple[int, int]
    far: float
    shadows: bool
    smooth_edges: bool = False


@dataclass(frozen=True)
class FrameScene:
    """What the frames see, a row a frame; `lifelike` are finishes (f, n, r) and the rest of the light."""

    parts: Primitives
    scene: Scene
    moving: Tensor
    lights: Lights
    lifelike: tuple[Tensor, Studio] | None

    def frame(self, i: int) -> FrameScene:
        """One frame alone."""
        one = slice(i, i + 1)
        parts = Primitives(self.parts.rows[one], self.parts.shapes[one])
        scene = (self.scene[0][one], self.scene[1][one], self.scene[2][one])
        index = torch.tensor([i], device=self.moving.device)
        lifelike = None if self.lifelike is None else (self.lifelike[0][one], picked(self.lifelike[1], index))
        return FrameScene(parts, scene, self.moving[one], picked(self.lights, index), lifelike)


@dataclass(frozen=True)
class _Hits:
    """Where rays (f, p) end: in the scene, and in the frame of what they hit."""

    t: Tensor  # `far` for the sky
    sky: Tensor
    points: Tensor
    normal: Tensor  # unit, towards the camera
    local: Tensor
    facing: Tensor  # outward normal in the shape's frame
    footprint: Tensor
    pick: Tensor  # the primitive

    def take(self, values: Tensor) -> Tensor:
        """What each ray's primitive has, of values (f, n, ...)."""
        return _take(values, self.pick)


def _take(values: Tensor, pick: Tensor) -> Tensor:
    return torch.gather(
        values, 1, pick.reshape(*pick.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    )


def picked(group: Group, rows: Tensor) -> Group:
    """Rows of every tensor of a dataclass."""
    return type(group)(**{f.name: getattr(group, f.name)[rows] for f in fields(group)})  # type: ignore[arg-type]


def render_view(view: FrameCameras, stage: FrameScene) -> dict[str, Tensor]:
    """Linear colour (f, p, 3), depth (f, p), instance, and whether a pixel's object ever moves.

    Where there is sky, depth is infinite and the instance -1.
    """
    directions = pixel_rays_cam(view.intrinsics, *view.size).flatten(1, 2) @ view.poses[:, :3, :3].mT
    if stage.lifelike is None:
        hits = _end_of_rays(view, stage, directions, *cast(directions, view.poses[:, None, :3, 3], *stage.scene))
        colour = _plain_colour(view, stage, hits, directions)
    else:
        eye = view.poses[:, None, :3, 3]
        squares = Squares.around((eye, directions), stage.scene, eye[:, 0], view.size)
        hits = _end_of_rays(view, stage, directions, *cast_bundle(directions, eye, stage.scene, squares))
        light = _light(view, stage, hits)
        colour = _lifelike_colour(stage, hits, directions, light)
        for i in range(len(colour) if view.smooth_edges else 0):
            colour[i] = _smooth_edges(i, view, stage, (directions, squares), (hits, light, colour))
    return {
        "colour": colour,
        "depth": torch.where(hits.sky, torch.inf, hits.t),
        "instance": torch.where(hits.sky, -1, hits.take(stage.parts["instance"]).long()),
        "dynamic": hits.take(stage.moving) & ~hits.sky,
    }


def _end_of_rays(view: FrameCameras, stage: FrameScene, directions: Tensor, t: Tensor, winner: Tensor) -> _Hits:
    transforms, sizes, shapes = stage.scene
    sky = ~(t < view.far)
    t = torch.where(sky, view.far, t)
    points = view.poses[:, None, :3, 3] + t[..., None] * directions
    pick = winner.clamp_min(0)
    rotation, centre = (
        _take(transforms[..., :3, :3].flatten(2), pick).unflatten(-1, (3, 3)),
        _take(transforms[..., :3, 3], pick),
    )
    local = ((points - centre)[..., None, :] @ rotation)[..., 0, :]
    facing = local_normal(local, _take(sizes, pick), _take(shapes, pick))
    normal = normalize((rotation @ facing[..., None])[..., 0], dim=-1)
    normal = torch.where((normal * directions).sum(-1, keepdim=True) > 0, -normal, normal)
    return _Hits(t, sky, points, normal, local, facing, t / view.intrinsics[:, 0, 0, None], pick)


def _plain_colour(view: FrameCameras, stage: FrameScene, hits: _Hits, directions: Tensor) -> Tensor:
    names = ("texture", "texture_scale", "colour0", "colour1")
    painted = albedo(hits.local, {name: hits.take(stage.parts[name]) for name in names}, hits.footprint)
    surface = Surface(hits.points, hits.normal, painted, hits.take(stage.parts["specular"]), hits.t, hits.sky)
    lit = (
        light_reaches(surface.points, surface.normals, stage.lights, stage.scene, view.size)
        if view.shadows
        else torch.ones_like(hits.t)
    )
    return shade(surface, view.poses[:, None, :3, 3], directions, stage.lights, lit)


def _light(view: FrameCameras, stage: FrameScene, hits: _Hits) -> tuple[Tensor, Tensor]:
    """Shares of the lamp's and of the ambient light that arrive, (f, p) each."""
    assert stage.lifelike is not None
    studio, lit = stage.lifelike[1], torch.ones_like(hits.t)
    if view.shadows:
        lit = light_reaches(hits.points, hits.normal, stage.lights, stage.scene, view.size, bundled=True)
        lit = soften(lit, studio.penumbra, view.size)
    shaded = corner_shade(hits.points, hits.normal, hits.t, view.intrinsics[:, 0, 0], view.size)
    return lit, 1 + (shaded - 1) * studio.corners[:, None]


def _lifelike_colour(stage: FrameScene, hits: _Hits, directions: Tensor, light: tuple[Tensor, Tensor]) -> Tensor:
    assert stage.lifelike is not None
    finish = hits.take(stage.lifelike[0])
    painted = coat(
        hits.local,
        hits.facing,
        (hits.take(stage.parts["colour0"]), hits.take(stage.parts["colour1"])),
        finish,
        hits.footprint,
    )
    surface = Surface(hits.points, hits.normal, painted, hits.take(stage.parts["specular"]), hits.t, hits.sky)
    return shade_lifelike(surface, directions, (stage.lights, stage.lifelike[1]), finish, light)


def _smooth_edges(
    i: int,
    view: FrameCameras,
    stage: FrameScene,
    rays: tuple[Tensor, Squares],
    seen: tuple[_Hits, tuple[Tensor, Tensor], Tensor],
) -> Float[Tensor, "p 3"]:
    """Colour of frame `i`, where two things meet the mean over some rays within the pixel."""
    (directions, squares), (hits, light, colour), (height, width) = rays, seen, view.size
    thing = torch.where(hits.sky[i], -1, hits.pick[i])
    grid, differs = thing.unflatten(0, view.size), torch.zeros(view.size, dtype=torch.bool, device=thing.device)
    for axis in (0, 1):
        step = grid.diff(dim=axis) != 0
        differs.narrow(axis, 0, step.shape[axis]).logical_or_(step)
        differs.narrow(axis, 1, step.shape[axis]).logical_or_(step)
    pixel = torch.nonzero(differs.flatten())[:, 0].repeat(len(SUBPIXELS))
    if len(pixel) == 0:
        return colour[i]
    shift = torch.tensor(SUBPIXELS, device=thing.device).repeat_interleave(len(pixel) // len(SUBPIXELS), 0)
    focal = torch.stack([view.intrinsics[i, 0, 0], view.intrinsics[i, 1, 1]])
    d = (directions[i, pixel] + (shift / focal) @ view.poses[i, :3, :2].mT)[None]
    alone = FrameCameras(view.intrinsics[i : i + 1], view.poses[i : i + 1], view.size, view.far, view.shadows)
    one = stage.frame(i)
    ends = _end_of_rays(alone, one, d, *cast_bundle(d, alone.poses[:, None, :3, 3], one.scene, squares.of(i, pixel)))
    found = torch.where(ends.sky[0], -1, ends.pick[0])
    source = pixel
    for down in NEIGHBOURS:
        for across in NEIGHBOURS:
            other = (pixel + down * width + across).clamp(0, height * width - 1)
            source = torch.where((thing[source] != found) & (thing[other] == found), other, source)
    more = _lifelike_colour(one, ends, d, (light[0][i, source][None], light[1][i, source][None]))[0]
    total = colour[i].index_add(0, pixel, more)
    edge = differs.flatten()[:, None]
    return torch.where(edge, total / (1 + len(SUBPIXELS)), total)
