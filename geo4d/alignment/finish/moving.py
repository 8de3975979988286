"""Which pixels move: what one frame saw, other frames must see too, or something in front of it.

Every frame's points are carried into frames some way off. Where such a frame sees through the place of a point (its
surface lies behind, by more than the expected errors), the point has moved away; hidden points say nothing. The
evidence is then shared among neighbours of like depth and colour, because the inside of a large object overlaps with
itself.

Depth errs by whole regions, and what errs seems to move. Where points were followed they know better: around a track
that the cameras explain pixels stand still, around one that they do not they move.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import max_pool2d, pad

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.bundle.choose import FollowedPoints
from geo4d.alignment.finish.config import MovingConfig
from geo4d.geometry.camera import project, unproject
from geo4d.geometry.pixels import pixel_grid
from geo4d.geometry.resample import nearest_pixel
from geo4d.scene import Reconstruction

FAR = 4.0  # log depth, in units of the median depth, that stands for sky: 55 times as far


@torch.no_grad()
def find_motion(
    result: Reconstruction, config: MovingConfig | None = None, followed: FollowedPoints | None = None
) -> np.ndarray:
    """Probability (t, h, w) that what a pixel shows moves, float32; 0 where there is no depth."""
    config = config or MovingConfig()
    frames, height, width = result.depth.shape
    depth, valid = torch.from_numpy(np.asarray(result.depth)).float(), torch.from_numpy(np.asarray(result.valid))
    unit = float(depth[valid].median()) if valid.any() else 1.0
    probability = np.zeros((frames, height, width), np.float32)
    if frames <= min(config.gaps):
        return probability
    view = _Views(result, depth, valid, unit, config)
    for frame in range(frames):
        evidence = view.evidence(frame)
        image = torch.from_numpy(np.array(result.images[frame])).float() / 255
        shared = _share(evidence, view.log_depth(frame), image, config)
        odds = (shared / config.even).pow(config.steepness)
        probability[frame] = torch.where(valid[frame], odds / (1 + odds), 0.0).numpy()
    if followed is None or not len(followed.frame):
        return probability
    judge = _Judge(torch.from_numpy(probability), followed, config)
    for frame in range(frames):
        image = torch.from_numpy(np.array(result.images[frame])).float() / 255
        moves = judge.probability(frame, view.log_depth(frame), image)
        probability[frame] = torch.where(valid[frame], moves, 0.0).numpy()
    return probability


class _Judge:
    """What depth says of motion, and what followed points say.

    Each is believed as far as it is right in this video (Bayes' rule).
    """

    def __init__(self, by_depth: Float[Tensor, "t h w"], followed: FollowedPoints, config: MovingConfig) -> None:
        self.by_depth, self.followed, self.config = by_depth, followed, config
        row, column = nearest_pixel(followed.position, (1, 1), by_depth.shape[1:])
        self.row, self.column = torch.from_numpy(row), torch.from_numpy(column)
        said = by_depth[torch.from_numpy(followed.frame).long(), self.row, self.column].double()
        static = torch.from_numpy(followed.is_static).double()
        # one point more, of which depth says the one as often as the other, keeps the odds finite
        if_moves, if_static = (
            float(((weight * said).sum() + 0.5) / (weight.sum() + 1)) for weight in (1 - static, static)
        )
        self.yes, self.no = math.log(if_moves / if_static), math.log((1 - if_moves) / (1 - if_static))
        self.unexplained = float((1 - static).mean())

    def probability(
        self, frame: int, log_depth: Float[Tensor, "h w"], image: Float[Tensor, "h w 3"]
    ) -> Float[Tensor, "h w"]:
        """Of each pixel of a frame."""
        c, said = self.config, self.by_depth[frame]
        share = min(max(c.truly_moving * self.unexplained, 1e-3), 0.5)
        log_odds = math.log(share / (1 - share)) + c.depth_trust * (said * self.yes + (1 - said) * self.no)
        return torch.sigmoid(log_odds + self._by_points(frame, log_depth, image))

    def _by_points(
        self, frame: int, log_depth: Float[Tensor, "h w"], image: Float[Tensor, "h w 3"]
    ) -> Float[Tensor, "h w"]:
        """Log odds by the points around each pixel, of like depth and colour."""
        here = np.flatnonzero(self.followed.frame == frame)
        height, width = log_depth.shape
        if not len(here):
            return torch.zeros(height, width)
        c, reach = self.config, self.config.reach * max(height, width)
        row, column = self.row[here], self.column[here]
        like = torch.cat([log_depth[None] / c.like_depth, image.movedim(-1, 0) / (c.like_colour * 3**0.5)])
        pixels = torch.cat([pixel_grid(height, width).movedim(-1, 0) / reach, like]).flatten(1).T
        position = torch.from_numpy(self.followed.position[here]).float() * torch.tensor([width, height]) / reach
        near = torch.exp(-0.5 * torch.cdist(pixels, torch.cat([position, like[:, row, column].T], dim=1)).square())
        moves = 1 - torch.from_numpy(self.followed.is_static[here]).float()
        voices = near.sum(1)
        share = (near @ moves) / voices.clamp_min(1e-9)
        usual = math.log((self.unexplained + c.doubt) / (1 - self.unexplained + c.doubt))
        log_odds = ((share + c.doubt) / (1 - share + c.doubt)).log() - usual
        return (voices.clamp_max(c.most_voices) * log_odds).unflatten(0, (height, width))


class _Views:
    """Frames seen from one another."""

    def __init__(
        self,
        result: Reconstruction,
        depth: Float[Tensor, "t h w"],
        valid: Bool[Tensor, "t h w"],
        unit: float,
        config: MovingConfig,
    ) -> None:
        self.depth, self.valid, self.unit, self.config = depth, valid, unit, config
        self.confidence = torch.from_numpy(np.asarray(result.confidence))
        self.typical = float(result.diagnostics.get("typical_error", 0.05))
        self.intrinsics = torch.from_numpy(np.asarray(result.intrinsics)).float()
        poses = torch.from_numpy(np.asarray(result.cam_to_world)).float()
        self.rotation, self.centre = poses[:, :3, :3], poses[:, :3, 3] / unit
        self._bounds: dict[int, tuple[Tensor, Tensor]] = {}

    def log_depth(self, frame: int | Tensor) -> Tensor:
        """In units of the scene; far where there is none."""
        return torch.where(self.valid[frame], (self.depth[frame] / self.unit).clamp_min(1e-6).log(), FAR)

    def _error(self, frame: int | Tensor) -> Tensor:
        return (self.typical / self.confidence[frame].clamp_min(1e-3)).clamp_max(1.0)

    def evidence(self, frame: int) -> Float[Tensor, "h w"]:
        """How strongly other frames see through each pixel's place, on average over those that could see it."""
        places = [frame + sign * gap for gap in self.config.gaps for sign in (-1, 1)]
        others = torch.tensor([place for place in places if 0 <= place < len(self.depth)])
        height, width = self.depth.shape[1:]
        if len(others) == 0:
            return torch.zeros(height, width)
        seen = unproject(self.log_depth(frame).exp(), self.intrinsics[frame]).flatten(0, 1)
        world = seen @ self.rotation[frame].T + self.centre[frame]
        local = (world - self.centre[others][:, None]) @ self.rotation[others]  # (o, n, 3)
        far = local[..., 2]
        ahead = far > 1e-4
        safe = far.clamp_min(1e-4)
        x, y = project(torch.cat([local[..., :2], safe[..., None]], dim=-1), self.intrinsics[others]).unbind(-1)
        inside = ahead & (x >= 0.5) & (x < width - 0.5) & (y >= 0.5) & (y < height - 0.5)
        at = y.long().clamp(0, height - 1) * width + x.long().clamp(0, width - 1)
        nearest, furthest = (bound.gather(1, at) for bound in self._surfaces(others))
        sigma = (self._error(frame).flatten().square() + self._error(others).flatten(1).gather(1, at).square()).sqrt()
        log_z = safe.log()
        off = torch.where(log_z < nearest, log_z - nearest, (log_z - furthest).clamp_min(0)) / sigma
        counts = inside & (off < self.config.hidden)
        through = torch.where(counts, (-off - self.config.slack).clamp(0, self.config.most), 0.0)
        return (through.sum(0) / (counts.sum(0) + 1)).unflatten(0, (height, width)) * self.valid[frame]

    def _surfaces(self, frames: Tensor) -> tuple[Float[Tensor, "o n"], Float[Tensor, "o n"]]:
        """Nearest and furthest log depth around each pixel: neither it nor its neighbours may explain what is seen."""
        for frame in frames.tolist():
            if frame not in self._bounds:
                there = self.log_depth(frame)[None, None]
                self._bounds[frame] = (-max_pool2d(-there, 3, 1, 1).flatten(), max_pool2d(there, 3, 1, 1).flatten())
        oldest = int(frames.min())
        self._bounds = {frame: bounds for frame, bounds in self._bounds.items() if frame >= oldest}
        nearest, furthest = zip(*(self._bounds[frame] for frame in frames.tolist()), strict=True)
        return torch.stack(nearest), torch.stack(furthest)


def _share(
    evidence: Float[Tensor, "h w"], log_depth: Float[Tensor, "h w"], image: Float[Tensor, "h w 3"], config: MovingConfig
) -> Float[Tensor, "h w"]:
    """Means over neighbours of like depth and colour."""
    if not evidence.any():
        return evidence
    like = torch.cat([log_depth[None] / config.like_depth, image.movedim(-1, 0) / (config.like_colour * 3**0.5)])
    size = 2 * config.radius + 1
    height, width = evidence.shape

    def around(maps: Float[Tensor, "c h w"]) -> Float[Tensor, "c k h w"]:
        padded = pad(maps[None], (config.radius,) * 4, mode="replicate")[0]
        views = [padded[:, dy : dy + height, dx : dx + width] for dy in range(size) for dx in range(size)]
        return torch.stack(views, dim=1)

    weight = torch.exp(-(around(like) - like[:, None]).square().sum(0))
    weight = weight / weight.sum(0)
    for _ in range(config.rounds):
        evidence = (weight * around(evidence[None])[0]).sum(0)
    return evidence
