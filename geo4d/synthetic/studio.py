"""Light as rooms and streets have it.

A coloured lamp that fades, light from a window or the sky, corners in shade, reflections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool2d, normalize

from geo4d._typing import Float, Tensor
from geo4d.synthetic.finish import finish_column
from geo4d.synthetic.shading import Lights, Surface, sky_colour
from geo4d.synthetic.textures import look_up

CORNER_REACH = 0.35  # metres within which surfaces shade each other
CORNER_BIAS = 0.01  # of the depth, below which a neighbour is the same surface
DIRECTIONS, RINGS = 8, (0.25, 0.6, 1.0)  # where neighbours are looked at, in shares of the reach
GLOSS_POWER = 60.0


@dataclass(frozen=True)
class Studio:
    """What a lifelike world's light has beside `Lights`; (b, ...)."""

    light_colour: Float[Tensor, "b 3"]
    ambient_colour: Float[Tensor, "b 3"]
    fill_direction: Float[Tensor, "b 3"]  # unit, towards a window or the brighter half of the sky
    fill_colour: Float[Tensor, "b 3"]  # its strength included
    fading: Float[Tensor, "b"]  # of the lamp: 1 / square metres; 0 for the sun
    corners: Float[Tensor, "b"]  # how dark they are, 0 to 1
    penumbra: Float[Tensor, "b"]  # 0: sharp shadows, 1: soft ones
    open_sky: Float[Tensor, "b"]  # 1: reflections show the sky, 0: a room


def corner_shade(
    points: Float[Tensor, "f p 3"],
    normals: Float[Tensor, "f p 3"],
    depth: Float[Tensor, "f p"],
    focal: Tensor,
    grid: tuple[int, int],
) -> Tensor:
    """Share of ambient light (f, p) that reaches each point past what else is seen near it."""
    height, width = grid
    rows = torch.arange(height, device=points.device).repeat_interleave(width)
    columns = torch.arange(width, device=points.device).repeat(height)
    reach = (focal[:, None] * CORNER_REACH / depth.clamp_min(0.05)).clamp(2.0, 0.25 * width)  # pixels
    blocked = torch.zeros_like(depth)
    for k in range(DIRECTIONS * len(RINGS)):
        angle, share = 2 * math.pi * (k + 0.33 * (k // DIRECTIONS)) / DIRECTIONS, RINGS[k // DIRECTIONS]
        row = (rows + (reach * share * math.sin(angle)).round().long()).clamp(0, height - 1)
        column = (columns + (reach * share * math.cos(angle)).round().long()).clamp(0, width - 1)
        there = torch.gather(points, 1, (row * width + column)[..., None].expand(-1, -1, 3)) - points
        squared = there.square().sum(-1)
        rise = (there * normals).sum(-1) - CORNER_BIAS * depth
        blocked = blocked + rise.clamp_min(0) / (squared + 0.1 * CORNER_REACH**2).sqrt() / (
            1 + squared / CORNER_REACH**2
        )
    return (1 - 2.2 * blocked / (DIRECTIONS * len(RINGS))).clamp(0.1, 1)


def soften(lit: Float[Tensor, "f p"], penumbra: Float[Tensor, "f"], grid: tuple[int, int]) -> Float[Tensor, "f p"]:
    """Shadows with soft edges."""
    width = 2 * max(1, round(0.012 * grid[1])) + 1
    image = lit.unflatten(1, grid)[:, None]
    for _ in range(2):
        image = avg_pool2d(image, width, stride=1, padding=width // 2, count_include_pad=False)
    return lit + (image[:, 0].flatten(1) - lit) * penumbra[:, None]


def _surroundings(mirrored: Tensor, surface: Surface, lights: Lights, studio: Studio) -> Tensor:
    """Colour that a mirror shows in a direction: the sky, or a vague room with a bright window."""
    up = -mirrored[..., 1:2]
    room = studio.ambient_colour[:, None] * (0.45 + 0.35 * up) * lights.ambient[:, None, None]
    blotches = look_up(torch.full_like(surface.depth, 3, dtype=torch.int64), 0.35 * mirrored + 0.15 * surface.points)
    room = room * (0.3 + 1.4 * blotches[..., None])
    window = ((mirrored * studio.fill_direction[:, None]).sum(-1, keepdim=True) * 6 - 4.6).clamp(0, 1)
    room = room + window * (2.0 * studio.fill_colour[:, None] + 0.2)
    sky = torch.where(up > 0, sky_colour(mirrored, lights), 0.25 * studio.ambient_colour[:, None])
    return room + (sky - room) * studio.open_sky[:, None, None]


def shade_lifelike(
    surface: Surface,
    directions: Float[Tensor, "f p 3"],
    lights: tuple[Lights, Studio],
    finish: Float[Tensor, "f p r"],
    light: tuple[Float[Tensor, "f p"], Float[Tensor, "f p"]],
) -> Float[Tensor, "f p 3"]:
    """Linear colour of every pixel.

    Args:
        surface: what is seen.
        directions: of the rays from the camera, of any length.
        lights: the lamp or sun, and the rest.
        finish: rows of FINISH.
        light: the lamp's share that arrives (0 in shadow), and the share of the ambient light.
    """
    (lamp, studio), (lit, open_share) = lights, light
    gap = lamp.position[:, None] - surface.points
    to_light, distance = normalize(gap, dim=-1), gap.norm(dim=-1)
    lit = lit / (1 + studio.fading[:, None] * distance.square())
    lambert = (surface.normals * to_light).sum(-1).clamp_min(0) * lit
    fill = (0.35 + 0.65 * (surface.normals * studio.fill_direction[:, None]).sum(-1)).clamp_min(0) * open_share
    ambient = lamp.ambient[:, None] * (0.75 - 0.25 * surface.normals[..., 1]) * open_share
    arriving = studio.ambient_colour[:, None] * ambient[..., None] + studio.fill_colour[:, None] * fill[..., None]
    arriving = arriving + studio.light_colour[:, None] * (lamp.strength[:, None] * lambert)[..., None]
    unit = normalize(directions, dim=-1)
    facing = -(unit * surface.normals).sum(-1, keepdim=True)
    mirrored = unit + 2 * facing * surface.normals
    reflection = finish_column(finish, "reflection")[..., None]
    mirror = reflection + (0.6 * (reflection * 8).clamp_max(1.0) - reflection).clamp_min(0) * (
        1 - facing.clamp(0, 1)
    ).pow(5)
    half = normalize(to_light - unit, dim=-1)
    gloss = (half * surface.normals).sum(-1).clamp_min(0).pow(GLOSS_POWER) * surface.specular * lit
    seen = mirror * _surroundings(mirrored, surface, lamp, studio) * (0.4 + 0.6 * open_share[..., None])
    colour = surface.albedo * (arriving + finish_column(finish, "glow")[..., None]) * (1 - mirror) + seen
    colour = colour + gloss[..., None] * studio.light_colour[:, None]
    keep = torch.exp(-lamp.haze[:, None] * surface.depth)[..., None]
    colour = colour * keep + lamp.sky_low[:, None] * (1 - keep)
    return torch.where(surface.sky[..., None], sky_colour(directions, lamp), colour)
