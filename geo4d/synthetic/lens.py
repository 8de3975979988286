"""What a camera's lens and sensor do to light before the film.

Focus, motion blur, vignetting, exposure and colour that drift, grain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool2d, conv2d, pad

from geo4d._typing import Float, Tensor
from geo4d.geometry.rigid import invert_rigid
from geo4d.synthetic.motion import CameraPaths, camera_to_scene

MOST_DEFOCUS = 2.2  # pixels of a frame 192 wide
METERING = 0.85  # 1: every frame is as bright as aimed at
LINE = 9  # samples along the path of a blurred point
LONGEST = 6.0  # pixels of motion blur, of a frame 192 wide


@dataclass(frozen=True)
class Lens:
    """One camera a world; (b, ...). Pixels are those of a frame 192 wide."""

    focus: Float[Tensor, "b"]  # metres
    aperture: Float[Tensor, "b"]  # pixels of blur at infinity for a focus at a metre
    aim: Float[Tensor, "b"]  # mean light of a frame that is exposed well
    vignette: Float[Tensor, "b"]  # loss of light in the corners
    drift: Float[Tensor, "b 4"]  # log exposure, and log red, green, blue
    drift_rate: Float[Tensor, "b"]
    drift_phase: Float[Tensor, "b"]
    shutter: Float[Tensor, "b"]  # seconds that a frame is exposed
    grain: Float[Tensor, "b"]  # noise that grows with the root of the light


def expose(
    colour: Float[Tensor, "b t h w 3"],
    depth: Float[Tensor, "b t h w"],
    lens: Lens,
    shot: tuple[CameraPaths, Float[Tensor, "b t"], Float[Tensor, "b t"]],
    seeds: list[int],
) -> Float[Tensor, "b t h w 3"]:
    """Linear light on the sensor.

    `shot` are the cameras, the times of the frames and focal lengths in pixels, infinite depth is sky.
    """
    cameras, time, focal = shot
    image = _defocus(colour, depth, lens)
    image = _smear(image, _path(cameras, time, lens, focal))
    b, t, h, w, _ = colour.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    fall = 1 - lens.vignette[:, None, None] * ((x * x + y * y) / 2).to(colour)  # (b, h, w)
    image = image * _metered(image, lens)
    wave = torch.sin(lens.drift_rate[:, None] * time + lens.drift_phase[:, None])[..., None] * lens.drift[:, None]
    gain = torch.exp(wave[..., :1] + wave[..., 1:])  # (b, t, 3)
    image = image * fall[:, None, :, :, None] * gain[:, :, None, None]
    noise = torch.stack(
        [torch.randn((t, h, w, 3), generator=torch.Generator().manual_seed((seed + 1) % 2**63)) for seed in seeds]
    )
    return image + noise.to(image) * image.clamp_min(0).sqrt() * lens.grain.reshape(b, 1, 1, 1, 1)


def _metered(image: Tensor, lens: Lens) -> Tensor:
    """Gain (b, t, 1, 1, 1) by which a camera brings each frame near to the brightness that it aims at."""
    middle = image.mean(-1).clamp(0, 1).mean((2, 3)).clamp_min(1e-3)
    return ((lens.aim[:, None] / middle) ** METERING).clamp(0.3, 8)[..., None, None, None]


def _defocus(colour: Tensor, depth: Tensor, lens: Lens) -> Tensor:
    """Blends with two blurred copies by how far each point is out of focus."""
    focus = lens.focus[:, None, None, None]
    away = (1 - focus / depth.clamp_min(0.05)).abs() * lens.aperture[:, None, None, None] / focus
    away = away.clamp_max(MOST_DEFOCUS)[..., None]
    unit = max(1, round(colour.shape[3] / 192))
    little = _blurred(colour, 2 * unit + 1)
    much = _blurred(little, 4 * unit + 1)
    return (
        colour
        + (little - colour) * away.clamp_max(1)
        + (much - little) * (away - 1).clamp(0, MOST_DEFOCUS - 1) / (MOST_DEFOCUS - 1)
    )


def _blurred(colour: Tensor, width: int) -> Tensor:
    image = colour.flatten(0, 1).movedim(-1, 1)
    image = avg_pool2d(image, width, stride=1, padding=width // 2, count_include_pad=False)
    return image.movedim(1, -1).unflatten(0, colour.shape[:2])


def _path(cameras: CameraPaths, time: Tensor, lens: Lens, focal: Tensor) -> Float[Tensor, "b t 2"]:
    """Pixels (x, y) that the camera's turning moves the middle of the image while the shutter is open."""
    first, last = camera_to_scene(cameras, time), camera_to_scene(cameras, time + lens.shutter[:, None])
    turn = (invert_rigid(last) @ first)[..., :3, :3]
    return focal[..., None] * turn[..., :2, 2]


def _smear(image: Tensor, path: Float[Tensor, "b t 2"]) -> Tensor:
    """Averages along each frame's path."""
    most = LONGEST * image.shape[3] / 192
    path = (path * (most / path.norm(dim=-1, keepdim=True).clamp_min(most))).flatten(0, 1)
    if float(path.abs().max()) < 0.3:
        return image
    half = int(most / 2) + 2
    kernels = torch.zeros(len(path), 2 * half + 1, 2 * half + 1, device=image.device)
    frame = torch.arange(len(path), device=image.device)
    for k in range(LINE):
        at = path * (k / (LINE - 1) - 0.5) + half
        low = at.floor().long()
        share = at - low
        for dx in (0, 1):
            for dy in (0, 1):
                weight = (share[:, 0] if dx else 1 - share[:, 0]) * (share[:, 1] if dy else 1 - share[:, 1])
                kernels.index_put_((frame, low[:, 1] + dy, low[:, 0] + dx), weight / LINE, accumulate=True)
    flat = image.flatten(0, 1).movedim(-1, 1)  # (n, 3, h, w)
    padded = pad(flat, (half,) * 4, mode="replicate").flatten(0, 1)[None]
    out = conv2d(padded, kernels.repeat_interleave(3, 0)[:, None], groups=3 * len(path))
    return out[0].unflatten(0, (len(path), 3)).movedim(1, -1).unflatten(0, image.shape[:2])
