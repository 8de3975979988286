"""Where everything is at any time: primitives and cameras as closed formulas of time in seconds."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from geo4d._typing import Float, Tensor
from geo4d.geometry.rigid import rigid
from geo4d.synthetic.primitives import Primitives

SHAKE_RATES = (1.7, 3.1, 5.3)  # rad/s of the three sines of hand shake


def _rotation_y(angle: Tensor) -> Tensor:
    """Turns +z towards +x."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, zero, s, zero, one, zero, -s, zero, c], dim=-1).unflatten(-1, (3, 3))


def _rotation_x(angle: Tensor) -> Tensor:
    """Turns +y towards +z."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([one, zero, zero, zero, c, -s, zero, s, c], dim=-1).unflatten(-1, (3, 3))


def _rotation_z(angle: Tensor) -> Tensor:
    """Turns +x towards +y."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], dim=-1).unflatten(-1, (3, 3))


def shape_to_world(parts: Primitives, time: Float[Tensor, "b t"]) -> Float[Tensor, "b t n 4 4"]:
    """Rigid transform of every primitive at every time."""
    t = time[:, :, None]  # (b, t, 1)

    def column(name: str) -> Tensor:
        return parts[name][:, None]  # (b, 1, n[, 3])

    wave = torch.sin(column("sway_rate") * t + column("sway_phase"))  # (b, t, n)
    angle = column("circle_phase") + column("circle_rate") * t
    circle = (
        torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()], dim=-1) * column("circle_radius")[..., None]
    )
    root = column("base") + column("velocity") * t[..., None] + column("sway") * wave[..., None] + circle
    lift = column("bounce") * wave.abs()
    root = torch.stack([root[..., 0], root[..., 1] - lift, root[..., 2]], dim=-1)
    turn = _rotation_y(column("yaw") + column("yaw_rate") * t + column("follow") * angle)
    swing_angle = column("swing_rate") * t
    swing_angle = swing_angle + column("swing_amplitude") * torch.sin(
        column("swing_frequency") * t + column("swing_phase")
    )
    swing = _rotation_x(swing_angle)
    arm = column("pivot") + (swing @ column("offset")[..., None])[..., 0]
    translation = root + (turn @ arm[..., None])[..., 0]
    return rigid(turn @ swing @ column("tilt").unflatten(-1, (3, 3)), translation)


def is_moving(parts: Primitives) -> Tensor:
    """(b, n) whether a primitive ever moves."""
    names = ("bounce", "circle_radius", "yaw_rate", "swing_rate", "swing_amplitude")
    moving = (parts["velocity"].abs().sum(-1) > 0) | ((parts["sway"].abs().sum(-1) > 0) & (parts["sway_rate"] != 0))
    for name in names:
        rate = (
            parts["circle_rate"] if name == "circle_radius" else parts["sway_rate"] if name == "bounce" else parts[name]
        )
        moving = moving | ((parts[name] != 0) & (rate != 0))
    return moving


@dataclass(frozen=True)
class CameraPaths:
    """Cameras of a batch of worlds; y points down, so a height is a negative y."""

    base: Float[Tensor, "b 3"]
    velocity: Float[Tensor, "b 3"]
    sway: Float[Tensor, "b 3"]  # + sway sin(sway_rate t + sway_phase)
    sway_rate: Float[Tensor, "b"]
    sway_phase: Float[Tensor, "b"]
    radius: Float[Tensor, "b"]  # orbits `base` at this distance, looking at it
    yaw: Float[Tensor, "b"]
    yaw_rate: Float[Tensor, "b"]
    yaw_swing: Float[Tensor, "b"]  # + yaw_swing sin(sway_rate t)
    pitch: Float[Tensor, "b"]  # positive looks up
    roll: Float[Tensor, "b"]
    shake_position: Float[Tensor, "b"]
    shake_angle: Float[Tensor, "b"]
    shake_phase: Float[Tensor, "b 6 3"]
    field_of_view: Float[Tensor, "b"]  # radians, of the longer side

    def to(self, device: torch.device | str) -> CameraPaths:
        """Moves every tensor."""
        return CameraPaths(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def camera_to_scene(paths: CameraPaths, time: Float[Tensor, "b t"]) -> Float[Tensor, "b t 4 4"]:
    """Pose of the camera at every time, in the frame of the scene (y down, ground at y = 0)."""
    rates = time.new_tensor(SHAKE_RATES)
    waves = torch.sin(time[:, :, None, None] * rates + paths.shake_phase[:, None]) / rates.sqrt()  # (b, t, 6, 3)
    shake = waves.sum(-1)
    turns = paths.shake_angle[:, None, None] * shake[..., 3:]
    yaw = paths.yaw[:, None] + paths.yaw_rate[:, None] * time + turns[..., 0]
    yaw = yaw + paths.yaw_swing[:, None] * torch.sin(paths.sway_rate[:, None] * time)
    rotation = (
        _rotation_y(yaw)
        @ _rotation_x(paths.pitch[:, None] + turns[..., 1])
        @ _rotation_z(paths.roll[:, None] + turns[..., 2])
    )
    wave = torch.sin(paths.sway_rate[:, None] * time + paths.sway_phase[:, None])[..., None]
    ahead = torch.stack([yaw.sin(), torch.zeros_like(yaw), yaw.cos()], dim=-1)
    position = paths.base[:, None] + paths.velocity[:, None] * time[..., None] + paths.sway[:, None] * wave
    position = position - paths.radius[:, None, None] * ahead + paths.shake_position[:, None, None] * shake[..., :3]
    return rigid(rotation, position)
