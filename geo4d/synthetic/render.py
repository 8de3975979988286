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
from geo4d.synthetic.intersect import cast
from geo4d.synthetic.lens import Lens, expose
from geo4d.synthetic.motion import CameraPaths, camera_to_scene, is_moving, shape_to_world
from geo4d.synthetic.pixels import FrameCameras, FrameScene, Group, picked, render_view
from geo4d.synthetic.primitives import Primitives, stack, stack_finishes
from geo4d.synthetic.shading import Lights
from geo4d.synthetic.studio import Studio
from geo4d.synthetic.worlds import SceneConfig, World, sample_world

FPS = 24.0
CHUNK_PIXELS = 25_000  # rendered at a time, to stay in the cache


def scene_seed(split: int, index: int) -> int:
    """The seed of scene `index` of a split: 62 well mixed bits."""
    return int(np.random.SeedSequence([split, index]).generate_state(1, np.uint64)[0] >> np.uint64(2))


def _moved(group: Group, device: torch.device | str) -> Group:
    return type(group)(**{f.name: getattr(group, f.name).to(device) for f in fields(group)})  # type: ignore[type-var]


@dataclass(frozen=True)
class Lifelike:
    """What lifelike worlds have beside the rest."""

    finish: Float[Tensor, "b n r"]
    studio: Studio
    lens: Lens

    def to(self, device: torch.device | str) -> Lifelike:
        """Moves everything."""
        return Lifelike(self.finish.to(device), _moved(self.studio, device), _moved(self.lens, device))


@dataclass(frozen=True)
class Batch:
    """Worlds stacked for rendering."""

    parts: Primitives
    cameras: CameraPaths
    lights: Lights
    style: FilmStyle
    lifelike: Lifelike | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Moves everything."""
        lifelike = None if self.lifelike is None else self.lifelike.to(device)
        return Batch(
            self.parts.to(device),
            self.cameras.to(device),
            _moved(self.lights, device),
            _moved(self.style, device),
            lifelike,
        )


def make_batch(seeds: list[int], config: SceneConfig) -> Batch:
    """Draws the worlds of the seeds; each depends on its own seed alone."""
    worlds = [sample_world(seed, config) for seed in seeds]
    looks = [_air_and_film(np.random.default_rng([seed, 1]), world) for seed, world in zip(seeds, worlds, strict=True)]
    if not config.compression:
        looks = [look | {"quantization": 0.0} for look in looks]

    def columns(rows: list[dict[str, object]], kind: type) -> dict[str, Tensor]:
        return {
            f.name: torch.tensor(np.array([row[f.name] for row in rows]), dtype=torch.float32) for f in fields(kind)
        }

    built = [world.builder.build() for world in worlds]
    lifelike = None
    if config.detail == "lifelike":
        lifelike = Lifelike(
            finish=stack_finishes([world.builder.finishes() for world in worlds], built),
            studio=Studio(**columns([world.studio for world in worlds], Studio)),
            lens=Lens(**columns([world.lens for world in worlds], Lens)),
        )
    return Batch(
        lifelike=lifelike,
        parts=stack(built),
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

    `start` and `frame_step` are in frames of 1/24 s, one number or one a clip. Geometry does not depend on `size` but
    for where pixels lie; `cam_to_world` has the first rendered camera as its world. Raises ConfigError on empty
    requests.
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
    light = pieces["colour"].reshape(*shape, 3)
    if batch.lifelike is not None:
        light = expose(light, depth, batch.lifelike.lens, (batch.cameras, time, intrinsics[..., 0, 0]), seeds)
    return Clip(
        rgb=develop(light, batch.style, seeds),
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


def _render_frames(
    batch: Batch, config: SceneConfig, placed: tuple[Tensor, Tensor, Tensor], size: tuple[int, int]
) -> dict[str, Tensor]:
    """All frames of all clips, a chunk at a time."""
    clips, frames = placed[0].shape[:2]
    clip_of = torch.arange(clips, device=placed[0].device).repeat_interleave(frames)
    intrinsics, poses, transforms = (tensor.flatten(0, 1) for tensor in placed)
    moving = is_moving(batch.parts)
    chunk = max(1, CHUNK_PIXELS // (size[0] * size[1]))
    pieces = []
    for i in range(0, clips * frames, chunk):
        own, some = clip_of[i : i + chunk], slice(i, i + chunk)
        scene = (transforms[some], batch.parts["size"][own], batch.parts.shapes[own])
        view = FrameCameras(intrinsics[some], poses[some], size, config.far, config.shadows, config.smooth_edges)
        parts = Primitives(batch.parts.rows[own], batch.parts.shapes[own])
        lifelike = None if batch.lifelike is None else (batch.lifelike.finish[own], picked(batch.lifelike.studio, own))
        pieces.append(render_view(view, FrameScene(parts, scene, moving[own], picked(batch.lights, own), lifelike)))
    return {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}
