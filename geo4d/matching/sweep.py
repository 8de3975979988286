"""Plane sweep: how well other views match a view, pixel by pixel, over hypotheses of inverse depth.

It knows nothing of cameras: where a pixel is seen in another view is given as a line over inverse depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import grid_sample, pad

from geo4d._typing import Float, Tensor
from geo4d.errors import ConfigError

CHUNK = 4  # hypotheses at once: what is computed of them stays in a processor's cache
NEAREST = 1e-6  # of the last homogeneous coordinate: what is behind another camera is outside its view


@dataclass(frozen=True)
class SweepConfig:
    """How views are compared; costs are from 0 to `worst`."""

    patch: int = 9  # pixels, side of the patch by whose mean and spread grey values are normalised
    spread_floor: float = 0.01  # of grey values from 0 to 1: less is noise
    worst: float = 1.0  # of one view: what is hidden there must not decide
    unseen: float = 0.5  # cost outside another view
    window: int = 3  # pixels, side of the window over which costs are averaged
    step_cost: float = 0.2  # of a neighbour whose hypothesis is the next one
    jump_cost: float = 0.8  # of a neighbour with any other: where depth jumps

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.patch < 3 or self.patch % 2 == 0 or self.window < 1 or self.window % 2 == 0:
            raise ConfigError(
                f"A sweep's patch and window are odd numbers of pixels, the patch at least 3; got {self.patch} and "
                f"{self.window}."
            )
        if not (0 < self.unseen <= self.worst and 0 < self.step_cost <= self.jump_cost and self.spread_floor > 0):
            raise ConfigError("A sweep needs 0 < unseen <= worst, 0 < step_cost <= jump_cost and spread_floor above 0.")


@dataclass(frozen=True)
class OtherView:
    """A view that is compared, and where it shows the pixels of the first: at `start` + inverse depth x `step`.

    Both are homogeneous pixels (u, v, 1), centres at +0.5.
    """

    features: Float[Tensor, "c h w"]
    start: Float[Tensor, "h w 3"]
    step: Float[Tensor, "3"]


def describe(grey: Float[Tensor, "h w"], config: SweepConfig) -> Float[Tensor, "3 h w"]:
    """What is compared of a view: grey values from 0 to 1 and their gradients, normalised by their surroundings.

    Exposure and shade drop out.
    """
    around = config.patch // 2
    image = grey[None]
    mean = box_mean(image, around)
    spread = (box_mean(image * image, around) - mean * mean).clamp_min(0).add(config.spread_floor**2).sqrt()
    across = pad(image[..., 2:] - image[..., :-2], (1, 1))
    down = pad(image[..., 2:, :] - image[..., :-2, :], (0, 0, 1, 1))
    grey_part = ((image - mean) / spread).clamp(-2.5, 2.5)
    return torch.cat([grey_part, (across / spread).clamp(-2, 2), (down / spread).clamp(-2, 2)]) / 4


def box_mean(maps: Float[Tensor, "c h w"], around: int) -> Float[Tensor, "c h w"]:
    """Means over squares of `2 around + 1` pixels; edges are repeated."""
    if around == 0:
        return maps
    height, width = maps.shape[-2:]
    padded = pad(maps[None], (around,) * 4, mode="replicate")[0]
    rows = padded[:, :height].clone()
    for k in range(1, 2 * around + 1):
        rows += padded[:, k : k + height]
    total = rows[..., :width].clone()
    for k in range(1, 2 * around + 1):
        total += rows[..., k : k + width]
    return total / (2 * around + 1) ** 2


def matching_cost(
    features: Float[Tensor, "c h w"],
    others: Sequence[OtherView],
    inverse_depth: Float[Tensor, "d h w"],
    config: SweepConfig,
) -> Float[Tensor, "d h w"]:
    """Mean over the other views of how unlike they are, of every pixel and hypothesis."""
    height, width = features.shape[-2:]
    total, mine = torch.zeros_like(inverse_depth), features[:, None]
    for other in others:
        start = other.start * other.start.new_tensor([2 / width, 2 / height, 1.0])
        across, down, ahead = start.unbind(-1)
        step = (other.step * other.step.new_tensor([2 / width, 2 / height, 1.0])).tolist()
        for k in range(0, len(inverse_depth), CHUNK):
            w = inverse_depth[k : k + CHUNK]
            nearness = (ahead + w * step[2]).clamp_min(NEAREST).reciprocal_()
            grid = torch.stack([(across + w * step[0]) * nearness - 1, (down + w * step[1]) * nearness - 1], dim=-1)
            seen = grid_sample(
                other.features[None], grid.flatten(0, 1)[None], align_corners=False, padding_mode="border"
            )
            cost = (seen[0].unflatten(1, w.shape[:2]) - mine).abs_().sum(0).clamp_max_(config.worst)
            total[k : k + CHUNK] += torch.where((grid.abs() < 1).all(-1), cost, config.unseen)
    return box_mean(total / max(len(others), 1), config.window // 2)


def semi_global(cost: Float[Tensor, "d h w"], config: SweepConfig) -> Float[Tensor, "d h w"]:
    """Costs summed along four paths to each pixel, on which neighbours' hypotheses may change at a price.

    Semi-global matching (Hirschmueller 2008).
    """
    costs = cost.permute(1, 2, 0).contiguous()
    total = _along(costs, config) + _along(costs.flip(0), config).flip(0)
    turned = costs.transpose(0, 1).contiguous()
    total += (_along(turned, config) + _along(turned.flip(0), config).flip(0)).transpose(0, 1)
    return total.permute(2, 0, 1)


def _along(costs: Float[Tensor, "n m d"], config: SweepConfig) -> Float[Tensor, "n m d"]:
    """Least costs of paths down the first axis, less what all hypotheses have in common."""
    result = torch.empty_like(costs)
    last = result[0] = costs[0]
    for k in range(1, len(costs)):
        least = last.amin(-1, keepdim=True)
        best = torch.minimum(last, least + config.jump_cost)
        best[:, 1:] = torch.minimum(best[:, 1:], last[:, :-1] + config.step_cost)
        best[:, :-1] = torch.minimum(best[:, :-1], last[:, 1:] + config.step_cost)
        last = torch.add(costs[k], best - least, out=result[k])
    return result


def best_hypothesis(cost: Float[Tensor, "d h w"]) -> Float[Tensor, "h w"]:
    """Index of the least cost, between hypotheses by the parabola through it and its neighbours."""
    index = cost.argmin(0).clamp(1, len(cost) - 2)
    before, here, after = (cost.gather(0, (index + offset)[None])[0] for offset in (-1, 0, 1))
    bend = (before + after - 2 * here).clamp_min(1e-6)
    return index + ((before - after) / (2 * bend)).clamp(-0.5, 0.5)
