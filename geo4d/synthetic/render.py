"""Worlds -> clips with exact ground truth: colour, z-depth, cameras, sky, instances, and where every point goes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.errors import ConfigError
from geo4d.geometry.camera import intrinsics_from_focal, pixel_rays_cam
from geo4d.geometry.rigid import invert_rigid, relative_to_first
from geo4d.scene import Clip
from geo4d.synthetic.film import FilmStyle, develop
from geo4d.synthetic.intersect import cast, local_normal
from geo4d.synthetic.motion import CameraPaths, camera_to_scene, is_moving, shape_to_world
from geo4d.synthetic.primitives import Primitives, stack
from geo4d.synthetic.shading import Lights, Surface, albedo, light_reaches, shade
from geo4d.synthetic.worlds import SceneConfig, World, sample_world

FPS = 24.0
CHUNK_PIXELS = 25_000  # rendered at a time, to stay in the cache


def scene_seed(split: int, index: int) -> int:
    """The seed of scene `index` of a split: 62 well mixed bits."""
    return int(np.random.SeedSequence([split, index]).generate_state(1, np.uint64)[0] >> np.uint64(2))


@dataclass(frozen=True)
class Batch:
    """Worlds stacked for rendering."""

    parts: Primitives
    cameras: CameraPaths
    lights: Lights
    style: FilmStyle

    def to(self, device: torch.device | str) -> Batch:
        """Moves everything."""
        lights = Lights(**{f.name: getattr(self.lights, f.name).to(device) for f in fields(Lights)})
        style = FilmStyle(**{f.name: getattr(self.style, f.name).to(device) for f in fields(FilmStyle)})
        return Batch(self.parts.to(device), self.cameras.to(device), lights, style)


def make_batch(seeds: list[int], config: SceneConfig) -> Batch:
    """Draws the worlds of the seeds; each depends on its own seed alone."""
    worlds = [sample_world(seed, config) for seed in seeds]
    looks = [_air_and_film(np.random.default_rng([seed, 1]), world) for seed, world in zip(seeds, worlds, strict=True)]
    if not config.compression:
        looks = [look | {"quantization": 0.0} for look in looks]

    def columns(rows: list[dict[str, object]], kind: type) -> dict[str, Tensor]:
        return {f.name: torch.tensor(np.array([row[f.name] for row in rows]), dtype=torch.float32) for f in fields(kind)}

    return Batch(
        parts=stack([world.builder.build() for world in worlds]),
        cameras=CameraPaths(**columns([world.camera for world in worlds], CameraPaths)),
        lights=Lights(**columns([{**world.light, **look} for world, look in zip(worlds, looks, strict=True)], Lights)),
        style=FilmStyle(**columns(looks, FilmStyle)),
    )


def _air_and_film(rng: np.random.Generator, world: World) -> dict[str, object]:
    dull = rng.random() * 0.6
    blue = np.array([0.25, 0.45, 0.85]) * rng.uniform(0.7, 1.1)
    grey = np.full(3, rng.uniform(0.5, 0.9))
    return {
        "sky_low": grey * 0.6 + np.array([0.75, 0.85, 0.95]) * 0.4,
        "sky_high": blue + (grey - blue) * dull,
        "clouds": rng.random(),
        "exposure": np.exp(rng.normal() * 0.15) * (1.15 if world.kind == "indoor" else 1.0),
        "gamma": rng.uniform(0.65, 1.0),
        "tint": 1 + 0.05 * rng.normal(size=3),
        "blur": rng.random() * 0.6,
        "noise": rng.uniform(0.0, 0.02),
        "quantization": rng.uniform(0.01, 0.04) if rng.random() < 0.5 else 0.0,
    }


def frame_times(starts: int | list[int], steps: int | list[int], clips: int, num_frames: int) -> Float[Tensor, "b t"]:
    """Seconds of every frame of every clip."""
    start = torch.as_tensor(starts if isinstance(starts, list) else [starts] * clips, dtype=torch.float32)
    step = torch.as_tensor(steps if isinstance(steps, list) else [steps] * clips, dtype=torch.float32)
    return (start[:, None] + step[:, None] * torch.arange(num_frames)) / FPS


@torch.no_grad()
def render_clips(
    seeds: list[int],
    *,
    num_frames: int,
    size: tuple[int, int],
    frame_step: int | list[int] = 1,
    start: int | list[int] = 0,
    config: SceneConfig | None = None,
    device: torch.device | str = "cpu",
) -> Clip:
    """Renders one clip a seed, batched (b, t, h, w).

    `start` and `frame_step` are in frames of 1/24 s, one number or one a clip. Geometry does not depend on `size` but for
    where pixels lie; `cam_to_world` has the first rendered camera as its world. Raises ConfigError on empty requests.
    """
    if not seeds or num_frames < 1 or min(size) < 1:
        raise ConfigError(f"render_clips needs seeds, frames and pixels; got {len(seeds)}, {num_frames} and {size}.")
    config = config or SceneConfig()
    batch = make_batch(seeds, config).to(device)
    time = frame_times(start, frame_step, len(seeds), num_frames).to(device)
    intrinsics, poses, placed = _place(batch, time, size)
    pieces = _render_frames(batch, config, (intrinsics, poses, placed), size)
    shape = (len(seeds), num_frames, *size)
    depth = pieces["depth"].reshape(shape)
    sky = ~depth.isfinite()
    return Clip(
        rgb=develop(pieces["colour"].reshape(*shape, 3), batch.style, seeds),
        depth=torch.where(sky, 0.0, depth),
        valid=~sky,
        sky=sky,
        intrinsics=intrinsics,
        cam_to_world=relative_to_first(poses.double()).float(),
        instance=pieces["instance"].reshape(shape),
        dynamic=pieces["dynamic"].reshape(shape),
    )


@torch.no_grad()
def render_motion(
    seed: int, *, size: tuple[int, int], from_frame: int, to_frames: list[int], config: SceneConfig | None = None
) -> Float[Tensor, "t h w 3"]:
    """Where the surface point seen by each pixel of `from_frame` is at other frames.

    The world is the camera of `from_frame`; sky is nan. Frames are of 1/24 s.
    """
    config = config or SceneConfig()
    batch = make_batch([seed], config)
    time = torch.tensor([[from_frame, *to_frames]], dtype=torch.float32) / FPS
    intrinsics, poses, placed = _place(batch, time, size)
    directions = pixel_rays_cam(intrinsics[:, 0], *size).flatten(1, 2) @ poses[:, 0, :3, :3].mT
    t, winner = cast(directions, poses[:, 0, None, :3, 3], placed[:, 0], batch.parts["size"], batch.parts.shapes)
    t = torch.where(t > config.far, torch.nan, t)
    points = poses[:, 0, None, :3, 3] + t[..., None] * directions
    source = placed[0, 0][winner[0].clamp_min(0)]  # (p, 4, 4)
    local = _apply(invert_rigid(source), points[0])
    back = invert_rigid(poses[0, 0])
    moved = torch.stack([_apply(placed[0, k + 1][winner[0].clamp_min(0)], local) for k in range(len(to_frames))])
    return (moved @ back[:3, :3].mT + back[:3, 3]).unflatten(1, size)


def _apply(transforms: Tensor, points: Tensor) -> Tensor:
    return (transforms[..., :3, :3] @ points[..., None])[..., 0] + transforms[..., :3, 3]


def _place(batch: Batch, time: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Intrinsics (b, t, 3, 3), camera poses (b, t, 4, 4) and primitive poses (b, t, n, 4, 4)."""
    focal = max(size) / 2 / torch.tan(batch.cameras.field_of_view / 2)
    intrinsics = intrinsics_from_focal(focal, *size)[:, None].expand(-1, time.shape[1], -1, -1)
    return intrinsics, camera_to_scene(batch.cameras, time), shape_to_world(batch.parts, time)


def _render_frames(batch: Batch, config: SceneConfig, placed: tuple[Tensor, Tensor, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """All frames of all clips, a chunk at a time."""
    clips, frames = placed[0].shape[:2]
    clip_of = torch.arange(clips, device=placed[0].device).repeat_interleave(frames)
    flat = tuple(tensor.flatten(0, 1) for tensor in placed)
    moving = is_moving(batch.parts)
    chunk = max(1, CHUNK_PIXELS // (size[0] * size[1]))
    pieces = [
        _render_chunk(batch, config, moving, clip_of[i : i + chunk], tuple(t[i : i + chunk] for t in flat), size)  # type: ignore[arg-type]
        for i in range(0, clips * frames, chunk)
    ]
    return {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}


def _render_chunk(
    batch: Batch,
    config: SceneConfig,
    moving: Tensor,
    clip_of: Tensor,
    placed: tuple[Tensor, Tensor, Tensor],
    size: tuple[int, int],
) -> dict[str, Tensor]:
    intrinsics, poses, transforms = placed
    rows, shapes, sizes = batch.parts.rows[clip_of], batch.parts.shapes[clip_of], batch.parts["size"][clip_of]
    parts = Primitives(rows, shapes)
    lights = Lights(**{f.name: getattr(batch.lights, f.name)[clip_of] for f in fields(Lights)})
    directions = pixel_rays_cam(intrinsics, *size).flatten(1, 2) @ poses[:, :3, :3].mT
    eye = poses[:, None, :3, 3]
    t, winner = cast(directions, eye, transforms, sizes, shapes)
    sky = ~(t < config.far)
    depth = torch.where(sky, torch.inf, t)
    t = torch.where(sky, config.far, t)
    points = eye + t[..., None] * directions
    pick = winner.clamp_min(0)

    def take(values: Tensor) -> Tensor:
        return torch.gather(values, 1, pick.reshape(*pick.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:]))

    rotation, centre = take(transforms[..., :3, :3].flatten(2)).unflatten(-1, (3, 3)), take(transforms[..., :3, 3])
    local = ((points - centre)[..., None, :] @ rotation)[..., 0, :]
    normal = (rotation @ local_normal(local, take(sizes), take(shapes))[..., None])[..., 0]
    normal = torch.nn.functional.normalize(normal, dim=-1)
    normal = torch.where((normal * directions).sum(-1, keepdim=True) > 0, -normal, normal)
    names = ("texture", "texture_scale", "colour0", "colour1")
    footprint = t / intrinsics[:, 0, 0, None]
    surface = Surface(
        points, normal, albedo(local, {name: take(parts[name]) for name in names}, footprint), take(parts["specular"]), t, sky
    )
    scene = (transforms, sizes, shapes)
    lit = light_reaches(surface, lights, scene, size) if config.shadows else torch.ones_like(t)
    return {
        "colour": shade(surface, eye, directions, lights, lit),
        "depth": depth,
        "instance": torch.where(sky, -1, take(parts["instance"]).long()),
        "dynamic": take(moving[clip_of]) & ~sky,
    }
