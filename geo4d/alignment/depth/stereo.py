"""Depth at the resolution of the pictures: what near views show, given the final cameras.

Every frame is compared with others on both sides, over hypotheses around the depth that the windows gave: first at half
the size over a wide range, then at full size around what was found. A pixel is believed as far as other frames find the
same depth there, and where a view that was held out is predicted better than before. Between believed pixels the change
is completed along the picture's edges; what moves agrees with no other frame, so it takes the change of its
surroundings, and nothing more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.cameras import Cameras
from geo4d.alignment.depth.config import StereoConfig
from geo4d.geometry.pixels import pixel_grid
from geo4d.matching.completion import complete
from geo4d.matching.flow import dense_flow
from geo4d.matching.sweep import OtherView, best_hypothesis, box_mean, describe, matching_cost, semi_global

GREY = (0.299, 0.587, 0.114)  # of red, green and blue
COARSE = 8  # pixels between those whose parallax is looked at
LEAST_SIDE = 120  # pixels: pictures that are smaller are not shrunk
Progress = Callable[[str, int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Detail:
    """Depth at the resolution of the pictures, nan where unknown."""

    log_depth: Float[Tensor, "t h w"]
    certainty: Float[Tensor, "t h w"]  # from 0: as before, to 1: every other frame finds the same
    report: dict[str, Any]


def refine_depth(
    log_depth: Float[Tensor, "t y x"],
    cameras: Cameras,
    pictures: np.ndarray,
    config: StereoConfig,
    *,
    by_flow: bool = False,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Detail:
    """Depth at the size of the `pictures` (t, h, w, 3) uint8, from depth (nan where unknown) at any size.

    `cameras` are taken for exact. Where no other view has parallax, depth is as it was. `by_flow` takes optical flow in
    place of a search over depths: faster, and less sharp.
    """
    known = log_depth.isfinite()
    place = device or torch.device("cpu")
    levels = 1 if by_flow else len(config.ranges)
    depth, gains, certainty = _filled(log_depth, known), list[float](), torch.zeros(1)
    for level in range(levels):
        views = NearViews(pictures, cameras, _shrink(pictures, levels - 1 - level), config, place)
        depth = _along_edges(views, depth) if level == 0 else depth
        work = _by_flow(views, depth) if by_flow else _by_sweep(views, depth, level)
        found = _each_frame(views, work, partial(_tell, progress, level * len(pictures), levels * len(pictures)))
        depth, certainty, gains = _settled(views, depth, found)
    size = depth.shape[1:]
    unknown = interpolate((~known)[:, None].float(), size, mode="nearest")[:, 0] > 0
    report = {
        "views_per_frame": round(float(np.mean([len(found.used) for found in found])), 1),
        "gain_in_held_out_views": round(float(np.mean(gains)), 4) if gains else 0.0,
        "certain": round(float(certainty.mean()), 3),
    }
    return Detail(depth.masked_fill(unknown, torch.nan), certainty, report)


def _shrink(pictures: np.ndarray, halvings: int) -> int:
    """By how much to shrink the pictures for a wide search."""
    while min(pictures.shape[1:3]) < LEAST_SIDE * 2**halvings and halvings > 0:
        halvings -= 1
    return 2**halvings


def _tell(progress: Progress | None, before: int, total: int, done: int) -> None:
    if progress is not None:
        progress("detail", before + done, total)


def _filled(log_depth: Float[Tensor, "t y x"], known: Bool[Tensor, "t y x"]) -> Float[Tensor, "t y x"]:
    """Unknown pixels as far as the farthest that are known."""
    farthest = log_depth.masked_fill(~known, -torch.inf).flatten(1).amax(1)
    return torch.where(known, log_depth, farthest.nan_to_num(neginf=0.0)[:, None, None]).float()


def _along_edges(views: NearViews, log_depth: Float[Tensor, "t y x"]) -> Float[Tensor, "t h w"]:
    """Depth whose edges are the picture's: a network gives it in coarse blocks."""
    c = views.config

    def smooth(frame: int) -> Tensor:
        depth = views.prior(log_depth, frame)
        even = torch.ones_like(depth)
        return complete(depth, even, views.colours(frame), smoothness=c.smoothness, edge=c.edge).cpu()

    return torch.stack(_each_frame(views, smooth))


class Found(NamedTuple):
    """What the sweep found for a frame."""

    log_depth: Float[Tensor, "h w"]
    used: list[int]  # the frames that it was compared with
    held_out: list[int]


class NearViews:
    """All frames at one size, and how each is seen from the others. Features are kept for near frames alone."""

    def __init__(
        self, pictures: np.ndarray, cameras: Cameras, shrink: int, config: StereoConfig, device: torch.device
    ) -> None:
        self.pictures, self.config, self.device = pictures, config, device
        self.size = tuple(max(COARSE, -(-side // shrink)) for side in pictures.shape[1:3])
        self.count = len(pictures)
        height, width = self.size
        self.intrinsics = cameras.intrinsics(height, width)
        self.pose = cameras.cam_to_world
        self.pixels = torch.cat([pixel_grid(height, width), torch.ones(height, width, 1)], dim=-1).to(device)
        self._features: dict[int, Tensor] = {}
        self._lock = Lock()

    def colours(self, frame: int) -> Float[Tensor, "3 h w"]:
        """From 0 to 1."""
        picture = torch.from_numpy(np.ascontiguousarray(self.pictures[frame])).to(self.device)
        return interpolate(
            picture.movedim(-1, 0)[None].float() / 255, self.size, mode="bilinear", antialias=True, align_corners=False
        )[0]

    def grey(self, frame: int) -> Float[Tensor, "h w"]:
        """From 0 to 1."""
        return (self.colours(frame) * torch.tensor(GREY, device=self.device)[:, None, None]).sum(0)

    def features(self, frame: int) -> Float[Tensor, "c h w"]:
        """What is compared of a frame."""
        with self._lock:
            if frame not in self._features:
                self._features[frame] = describe(self.grey(frame), self.config.sweep)
                for far in [k for k in self._features if abs(k - frame) > 2 * self.config.reach]:
                    del self._features[far]
            return self._features[frame]

    def prior(self, log_depth: Float[Tensor, "t y x"], frame: int) -> Float[Tensor, "h w"]:
        """Depth of a frame at this size."""
        given = log_depth[frame].to(self.device)[None, None]
        return interpolate(given, self.size, mode="bilinear", align_corners=False)[0, 0]

    def line(self, frame: int, other: int) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:
        """M and b: the homogeneous pixel p with inverse depth w is seen by the other frame at M p + w b."""
        cam_to_other = torch.linalg.inv(self.pose[other]) @ self.pose[frame]
        turn = self.intrinsics[other] @ cam_to_other[:3, :3] @ torch.linalg.inv(self.intrinsics[frame])
        step = self.intrinsics[other] @ cam_to_other[:3, 3]
        return turn.float().to(self.device), step.float().to(self.device)

    def other(self, frame: int, other: int) -> OtherView:
        """Another frame, as the sweep takes it."""
        turn, step = self.line(frame, other)
        return OtherView(self.features(other), self.pixels @ turn.T, step)

    def seen_from(
        self, frame: int, other: int, log_depth: Float[Tensor, "h w"]
    ) -> tuple[Float[Tensor, "h w 2"], Float[Tensor, "h w"]]:
        """Where the other frame sees the points of this one, from -1 to 1 over its sides; and their depth there."""
        turn, step = self.line(frame, other)
        place = self.pixels @ turn.T + (-log_depth).exp()[..., None] * step
        depth = place[..., 2] * log_depth.exp()
        size = place.new_tensor([self.size[1], self.size[0]])
        return place[..., :2] / place[..., 2:].clamp_min(1e-6) * (2 / size) - 1, depth

    def predicted_flow(self, frame: int, other: int, log_depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w 2"]:
        """Pixels by which points of a frame are seen elsewhere in another, by cameras and depth."""
        place, _ = self.seen_from(frame, other, log_depth)
        size = place.new_tensor([self.size[1], self.size[0]])
        return ((place + 1) * size / 2).clamp(-size, 2 * size) - self.pixels[..., :2]

    def parallax(self, frame: int, other: int, log_depth: Float[Tensor, "h w"]) -> tuple[float, float]:
        """Median pixels by which 10 % of inverse depth move what both frames see; the share that they do."""
        turn, step = self.line(frame, other)
        start = self.pixels[::COARSE, ::COARSE] @ turn.T
        nearness = (-log_depth[::COARSE, ::COARSE]).exp()[..., None]
        here, moved = start + nearness * step, start + 1.1 * nearness * step
        here, moved = (at[..., :2] / at[..., 2:].clamp_min(1e-6) for at in (here, moved))
        inside = ((here > 0) & (here < here.new_tensor([self.size[1], self.size[0]]))).all(-1)
        if not inside.any():
            return 0.0, 0.0
        return float((moved - here).norm(dim=-1)[inside].median()), float(inside.float().mean())

    def chosen(self, frame: int, log_depth: Float[Tensor, "h w"]) -> tuple[list[list[int]], list[int]]:
        """Frames before and after that are compared with a frame, and those of them that are held out."""
        c, used, held_out = self.config, [], []
        for direction in (-1, 1):
            able = []
            for gap in range(1, c.reach + 1):
                other = frame + direction * gap
                if not 0 <= other < self.count:
                    break
                pixels, overlap = self.parallax(frame, other, log_depth)
                if overlap < c.least_overlap or pixels > 2 * c.most_parallax:
                    break
                if c.least_parallax <= pixels <= c.most_parallax:
                    able.append(other)
            kept = able if len(able) <= c.views else [able[k] for k in _spread(len(able), c.views)]
            left = [other for other in able if other not in kept]
            if not left and len(kept) >= 3:
                left = [kept.pop(len(kept) // 2)]
            held_out += left[len(left) // 2 : len(left) // 2 + 1]
            used.append(kept)
        return [side for side in used if side], held_out


def _spread(count: int, wanted: int) -> list[int]:
    return np.linspace(0, count - 1, wanted).round().astype(int).tolist()


def _by_sweep(views: NearViews, log_depth: Float[Tensor, "t y x"], level: int) -> Callable[[int], Found]:
    """Finds the depth of a frame over hypotheses around the depth that there is."""
    c = views.config
    change = torch.linspace(-c.ranges[level], c.ranges[level], c.hypotheses[level], device=views.device)

    def sweep(frame: int) -> Found:
        """Of the views on both sides, each side counting alike."""
        prior = views.prior(log_depth, frame)
        sides, held_out = views.chosen(frame, prior)
        if sides:
            inverse_depth = (-prior).exp() * change.exp()[:, None, None]
            total = torch.zeros_like(inverse_depth)
            for side in sides:
                others = [views.other(frame, other) for other in side]
                total += matching_cost(views.features(frame), others, inverse_depth, c.sweep)
            total = total / len(sides) + c.prior * (change / c.ranges[level]).square()[:, None, None]
            index = best_hypothesis(semi_global(total, c.sweep))
            prior = prior - (change[0] + (change[1] - change[0]) * index)
        return Found(prior.cpu(), [*chain(*sides)], held_out)

    return sweep


def _by_flow(views: NearViews, log_depth: Float[Tensor, "t y x"]) -> Callable[[int], Found]:
    """Finds the depth of a frame by triangulating optical flow, which begins with what depth and cameras predict."""

    def triangulate(frame: int) -> Found:
        prior = views.prior(log_depth, frame)
        sides, held_out = views.chosen(frame, prior)
        total, weight = torch.zeros_like(prior), torch.full_like(prior, views.config.flow_noise**2)
        for other in chain(*sides):
            change, precision = _flow_change(views, frame, other, prior, views.prior(log_depth, other))
            total += change * precision
            weight += precision
        return Found((prior + total / weight).cpu(), [*chain(*sides)], held_out)

    return triangulate


def _flow_change(
    views: NearViews, frame: int, other: int, log_depth: Float[Tensor, "h w"], other_depth: Float[Tensor, "h w"]
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Change of log depth by the flow to another frame, and its precision: squared pixels by unit of log depth."""
    c = views.config
    ahead, back = views.predicted_flow(frame, other, log_depth), views.predicted_flow(other, frame, other_depth)
    here, there = ((views.grey(k) * 255).byte().cpu().numpy() for k in (frame, other))
    flow, good = dense_flow(here, there, ahead.cpu().numpy(), back.cpu().numpy(), most_cycle_error=c.most_cycle_error)
    turn, step = views.line(frame, other)
    start = views.pixels @ turn.T
    seen = views.pixels[..., :2] + torch.from_numpy(flow).to(start)
    # (start + w step) is seen at `seen`: two equations, linear in inverse depth w
    left = start[..., :2] - seen * start[..., 2:]
    right = step[:2] - seen * step[2]
    inverse = -(left * right).sum(-1) / right.square().sum(-1).clamp_min(1e-12)
    ahead_of_it = (start[..., 2] + inverse * step[2]).clamp_min(1e-6)
    off = (left + inverse[..., None] * right).norm(dim=-1) / ahead_of_it
    parallax = (inverse[..., None] * right).norm(dim=-1) / ahead_of_it
    change = -inverse.clamp_min(1e-9).log() - log_depth
    believed = torch.from_numpy(good).to(start.device) & (inverse > 0) & (off < c.most_off_line)
    believed &= change.abs() < c.ranges[0]
    return torch.where(believed, change, 0.0), torch.where(believed, parallax.square(), 0.0)


def _settled(
    views: NearViews, log_depth: Float[Tensor, "t y x"], found: list[Found]
) -> tuple[Float[Tensor, "t h w"], Float[Tensor, "t h w"], list[float]]:
    """Depth that other frames confirm, completed by the picture; how certain; what held-out views gain, by frame."""
    result = torch.empty(views.count, *views.size)
    certainty = torch.zeros_like(result)

    def settle(frame: int) -> float | None:
        """Depth and certainty of a frame; what its held-out views gain, None without any."""
        prior, own = views.prior(log_depth, frame), found[frame]
        result[frame] = prior.cpu()
        if not own.used:
            return None
        mean, share = _confirmed(views, frame, own.log_depth.to(views.device), found)
        gain = None
        if own.held_out:
            gained = _gain(views, frame, own.held_out, prior, mean)
            around = max(1, round(views.config.region * max(views.size) / 2))
            share = share * (box_mean(gained[None], around)[0] > 0)
            gain = float(gained.mean())
        change, sure = _completed(mean - prior, share.square(), views.colours(frame), views.config)
        result[frame], certainty[frame] = (prior + change).cpu(), sure.cpu()
        return gain

    gains = _each_frame(views, settle)
    return result, certainty, [gain for gain in gains if gain is not None]


def _completed(
    change: Float[Tensor, "h w"], sure: Float[Tensor, "h w"], colours: Float[Tensor, "3 h w"], config: StereoConfig
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Change of log depth everywhere, and how certain it is.

    What changes far more than all around it mostly moves: its own motion looks like parallax.
    """
    around = complete(change, sure + config.least_weight, colours, smoothness=config.wide_smoothness, edge=torch.inf)
    sure = sure / (1 + ((change - around) / config.odd_change).square()).square()
    smooth = complete(change, sure + config.least_weight, colours, smoothness=config.smoothness, edge=config.edge)
    return torch.lerp(smooth, change, sure), sure


def _each_frame(views: NearViews, work: Callable[[int], T], tell: Callable[[int], None] | None = None) -> list[T]:
    """What `work` makes of every frame, in order; on a CPU several at once."""
    workers = min(8, os.cpu_count() or 1) if views.device.type == "cpu" else 1
    results = []
    with ThreadPoolExecutor(workers) as pool:  # an error in between drops the frames that have not begun
        for result in pool.map(work, range(views.count)):
            results.append(result)
            if tell is not None:
                tell(len(results))
    return results


def _confirmed(
    views: NearViews, frame: int, log_depth: Float[Tensor, "h w"], found: list[Found]
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Mean with the depths of neighbours that find the same, and the share of those that do."""
    near = [frame + sign * gap for gap in views.config.neighbours for sign in (-1, 1)]
    total, agree = torch.zeros_like(log_depth), torch.zeros_like(log_depth)
    seen = torch.zeros_like(log_depth)
    for other in near:
        if not 0 <= other < views.count:
            continue
        place, depth = views.seen_from(frame, other, log_depth)
        theirs = found[other].log_depth.to(views.device)
        there = grid_sample(theirs[None, None], place[None], mode="nearest", align_corners=False)[0, 0]
        inside = (place.abs() < 1).all(-1) & (depth > 0)
        off = there - depth.clamp_min(1e-6).log()
        same = inside & (off.abs() < views.config.agreement)
        total += torch.where(same, off, 0.0)
        agree += same
        seen += inside
    return log_depth + total / (agree + 1), agree / seen.clamp_min(2)


def _gain(
    views: NearViews, frame: int, held_out: list[int], before: Float[Tensor, "h w"], after: Float[Tensor, "h w"]
) -> Float[Tensor, "h w"]:
    """By how much the views that were held out look more like the frame, by the new depth than by the old."""
    others = [views.other(frame, other) for other in held_out]
    config = replace(views.config.sweep, window=1)
    both = matching_cost(views.features(frame), others, torch.stack([before, after]).neg().exp(), config)
    return both[0] - both[1]
