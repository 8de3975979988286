"""Light on hit points: Lambert, a hard shadow, gloss, haze, a sky with clouds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from geo4d._typing import Float, Tensor
from geo4d.synthetic.intersect import Squares, cast, cast_bundle
from geo4d.synthetic.textures import look_up

SHADOW_LIFT = 0.02  # metres along the normal
SHADOW_REACH = 60.0  # how far towards a distant light something may stand in the way


@dataclass(frozen=True)
class Lights:
    """One light a world, and its air; (b, ...)."""

    position: Float[Tensor, "b 3"]  # of a lamp, or of a sun far away
    ambient: Float[Tensor, "b"]
    strength: Float[Tensor, "b"]
    haze: Float[Tensor, "b"]  # extinction a metre
    sky_low: Float[Tensor, "b 3"]
    sky_high: Float[Tensor, "b 3"]
    clouds: Float[Tensor, "b"]


@dataclass(frozen=True)
class Surface:
    """What each pixel sees, (f, p, ...)."""

    points: Tensor  # scene
    normals: Tensor  # unit, towards the camera
    albedo: Tensor
    specular: Tensor
    depth: Tensor
    sky: Tensor


def albedo(
    local: Float[Tensor, "f p 3"],
    columns: dict[str, Tensor],
    footprint: Float[Tensor, "f p"],
) -> Float[Tensor, "f p 3"]:
    """Colour of a surface point from its texture, fading to the mean where a pixel covers a period or more."""
    scale = columns["texture_scale"]
    value = look_up(columns["texture"].long(), local * scale[..., None] * 0.5 + 0.37)
    detail = (1.5 - 3.0 * footprint * scale).clamp(0.0, 1.0)
    value = 0.5 + (value - 0.5) * detail
    return columns["colour0"] + (columns["colour1"] - columns["colour0"]) * value[..., None]


def shade(
    surface: Surface,
    eye: Float[Tensor, "f 1 3"],
    directions: Float[Tensor, "f p 3"],
    lights: Lights,
    lit: Float[Tensor, "f p"],
) -> Float[Tensor, "f p 3"]:
    """Linear colour of every pixel; `lit` is 0 in shadow."""
    to_light = torch.nn.functional.normalize(lights.position[:, None] - surface.points, dim=-1)
    lambert = (surface.normals * to_light).sum(-1).clamp_min(0) * lit
    half = torch.nn.functional.normalize(to_light - torch.nn.functional.normalize(directions, dim=-1), dim=-1)
    gloss = (half * surface.normals).sum(-1).clamp_min(0).pow(40) * surface.specular * lit
    fill = 0.75 + 0.25 * (-surface.normals[..., 1])  # more light from above
    light = lights.ambient[:, None] * fill + lights.strength[:, None] * lambert
    colour = surface.albedo * light[..., None] + gloss[..., None]
    sky = sky_colour(directions, lights)
    keep = torch.exp(-lights.haze[:, None] * surface.depth)[..., None]
    haze = lights.sky_low[:, None]
    return torch.where(surface.sky[..., None], sky, colour * keep + haze * (1 - keep))


def sky_colour(directions: Float[Tensor, "f p 3"], lights: Lights) -> Float[Tensor, "f p 3"]:
    """Gradient from the horizon up, with clouds of fractal noise."""
    unit = torch.nn.functional.normalize(directions, dim=-1)
    up = (-unit[..., 1]).clamp(0, 1)
    base = lights.sky_low[:, None] + (lights.sky_high - lights.sky_low)[:, None] * up[..., None].sqrt()
    plane = unit / (up[..., None] + 0.15)
    noise = look_up(
        torch.full_like(up, 2, dtype=torch.int64), plane * torch.tensor([0.12, 0.0, 0.12], device=up.device)
    )
    cover = ((noise - 0.5) * 4).clamp(0, 1) * lights.clouds[:, None]
    return base + (0.95 - base) * cover[..., None]


def light_reaches(
    points: Float[Tensor, "f p 3"],
    normals: Float[Tensor, "f p 3"],
    lights: Lights,
    scene: tuple[Tensor, Tensor, Tensor],
    grid: tuple[int, int],
    *,
    bundled: bool = False,
) -> Float[Tensor, "f p"]:
    """1 where the light is in view; found on every second pixel each way and spread to its neighbours."""
    height, width = grid
    lifted = (points + SHADOW_LIFT * normals).unflatten(1, grid)[:, ::2, ::2]
    small = lifted.shape[1:3]
    origins = lifted.flatten(1, 2)
    towards = lights.position[:, None] - origins
    distance = towards.norm(dim=-1, keepdim=True)
    towards = towards * (SHADOW_REACH / distance).clamp_max(1.0)
    if bundled:
        t, _ = cast_bundle(towards, origins, scene, Squares.around((origins, towards), scene, lights.position, small))
    else:
        t, _ = cast(towards, origins, *scene)
    lit = (t > 1.0).float().unflatten(1, small)[:, None]
    lit = torch.nn.functional.interpolate(lit, size=(small[0] * 2, small[1] * 2), mode="bilinear", align_corners=False)
    return lit[:, 0, :height, :width].flatten(1)
