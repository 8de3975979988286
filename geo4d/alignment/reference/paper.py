"""The paper's own objective (method 7, Eq. 4 to 10) by first-order optimisation, for reference and ablation.

Every pixel's depth, all cameras, one focal length, a similarity a window for its points, scale and shift for its
disparity, a similarity for its ray cameras; Adam. The points' and disparities' terms are means over pixels (the weights
of Eq. 10 make sense in no other way), those of cameras sums over frames. Weights are capped, as the released optimiser
caps them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.depth.dense import Dense, point_source
from geo4d.alignment.depth.fusion import Fusion
from geo4d.alignment.depth.sources import weigh_disparity
from geo4d.alignment.joint.agreement import window_poses
from geo4d.alignment.joint.observations import WindowRays
from geo4d.alignment.joint.steps import Prepared
from geo4d.geometry.pixels import centred_pixels
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import so3_exp
from geo4d.geometry.similarity import Similarity
from geo4d.scene import WindowPredictions

POINTS, DISPARITY, RAYS, SMOOTHNESS = 1.0, 2.0, 0.005, 0.015  # weights of Eq. 10
WEIGHT_CAP = 20.0  # in units of the points: 10 in the network's channels, of which a point coordinate is half a unit
SECOND_STAGE = 0.3  # share of the steps after which disparity and rays take part
FOCAL_GAIN = 20.0  # the focal length moves this much more slowly than the rest
FINAL_RATE = 0.01  # of the learning rate, at the end


@dataclass(frozen=True)
class PaperSolution:
    """What the optimisation ended with."""

    log_depth: Float[Tensor, "t h w"]
    cam_to_world: Float[Tensor, "t 4 4"]
    log_focal: float
    losses: list[float]  # of the second stage, in which all terms take part


class _Motion:
    """A batch of similarities (or rigid motions) as free parameters around a start."""

    def __init__(self, rotation: Tensor, translation: Tensor, scale: Tensor | None = None) -> None:
        self.start = rotation.float()
        self.rotation_vector = torch.zeros_like(translation, dtype=torch.float32).requires_grad_()
        self.translation = translation.float().clone().requires_grad_()
        self.log_scale = None if scale is None else scale.float().log().requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        return [p for p in (self.rotation_vector, self.translation, self.log_scale) if p is not None]

    @property
    def rotation(self) -> Tensor:
        return so3_exp(self.rotation_vector) @ self.start

    def scale(self, *, mean: float | None = None) -> Tensor:
        """With `mean` the log scales are held to it: the scale of the whole is free."""
        assert self.log_scale is not None
        return (self.log_scale if mean is None else self.log_scale - self.log_scale.mean() + mean).exp()


def solve_from(predictions: WindowPredictions, ready: Prepared, config: AlignmentConfig) -> tuple[PaperSolution, Dense]:
    """The optimisation from the initial guesses of the joint alignment, and its depth where these have any."""
    start = ready.start
    by_window = window_poses(ready.observations, start)
    points = point_source(predictions, ready.observations, by_window, start.windows.scale, config.joint.most_precision)
    fused = Dense(*Fusion(ready.observations.windows, [points], config.depth).dense(*predictions.grid_size))
    poses = rigid(start.rotation, start.centre)
    log_focal = float(start.log_focal.mean())
    found = solve_paper(predictions, fused.log_depth, poses, log_focal, (start.windows, start.rays), ready.rays, config)
    return found, replace(fused, log_depth=torch.where(fused.log_depth.isfinite(), found.log_depth, torch.nan))


def solve_paper(
    predictions: WindowPredictions,
    log_depth: Float[Tensor, "t h w"],
    poses: Float[Tensor, "t 4 4"],
    log_focal: float,
    similarities: tuple[Similarity, Similarity | None],
    rays: WindowRays | None,
    config: AlignmentConfig,
) -> PaperSolution:
    """Runs `config.paper.steps` steps from a start.

    `similarities` are those of the windows' points and of their ray cameras.
    """
    objective = _PaperObjective(predictions, log_depth, poses, log_focal, similarities, rays)
    optimizer = torch.optim.Adam(objective.parameters, lr=config.paper.learning_rate, betas=(0.9, 0.9))
    steps, losses = config.paper.steps, []
    for step in range(steps):
        for group in optimizer.param_groups:
            fall = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = config.paper.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * fall)
        if step == int(SECOND_STAGE * steps):
            objective.fit_disparity()
        optimizer.zero_grad(set_to_none=True)
        loss = objective.total(everything=step >= int(SECOND_STAGE * steps))
        loss.backward()
        optimizer.step()
        if step >= int(SECOND_STAGE * steps):
            losses.append(float(loss.detach()))
    return objective.solution(losses)


class _PaperObjective:
    def __init__(
        self,
        predictions: WindowPredictions,
        log_depth: Tensor,
        poses: Tensor,
        log_focal: float,
        similarities: tuple[Similarity, Similarity | None],
        rays: WindowRays | None,
    ) -> None:
        assert predictions.points is not None
        self.windows = predictions.windows.long()
        height, width = predictions.grid_size
        self.pixels = centred_pixels(height, width).float().unflatten(0, (height, width))
        weight = (
            torch.ones_like(predictions.points[..., 0]) if predictions.weight is None else predictions.weight.float()
        )
        usable = (weight > 0) & predictions.points.isfinite().all(-1)
        self.weight = torch.where(usable, weight.clamp_max(WEIGHT_CAP), 0.0)
        self.points = torch.where(usable[..., None], predictions.points.float(), 0.0)
        self.disparity = None if predictions.disparity is None else torch.nan_to_num(predictions.disparity.float())
        self.disparity_mask = (
            None
            if predictions.disparity is None
            else (weigh_disparity(predictions.disparity.float(), predictions.disparity_weight) > 0).float()
        )
        self.rays = None if rays is None else rays.cam_to_win.float()
        self.ray_weight = None if rays is None else rays.usable.float()
        finite = log_depth[log_depth.isfinite()]
        filled = torch.where(log_depth.isfinite(), log_depth, finite.median() if finite.numel() else torch.tensor(0.0))
        self.log_depth = filled.float().clone().requires_grad_()
        self.focal = torch.tensor(FOCAL_GAIN * log_focal, dtype=torch.float32, requires_grad=True)
        self.cameras = _Motion(poses[:, :3, :3], poses[:, :3, 3])
        start, ray_start = similarities
        self.mean_log_scale = float(start.scale.log().mean())
        self.window_motion = _Motion(start.rotation, start.translation, start.scale)
        self.ray_motion = (
            None
            if ray_start is None or rays is None
            else _Motion(ray_start.rotation, ray_start.translation, ray_start.scale)
        )
        g = len(self.windows)
        self.affine = torch.stack([torch.zeros(g), torch.zeros(g)], dim=1).requires_grad_()  # log lambda, beta of Eq. 5

    @property
    def parameters(self) -> list[Tensor]:
        rays = [] if self.ray_motion is None else self.ray_motion.parameters
        affine = [] if self.disparity is None else [self.affine]
        return [self.log_depth, self.focal, *self.cameras.parameters, *self.window_motion.parameters, *rays, *affine]

    def total(self, *, everything: bool) -> Tensor:
        """Eq. 10; the first stage has points and smoothness alone."""
        rotation, centre = self.cameras.rotation, self.cameras.translation
        loss = POINTS * self._points(rotation, centre) + SMOOTHNESS * self._smoothness(rotation, centre)
        if everything and self.disparity is not None:
            loss = loss + DISPARITY * self._disparity()
        if everything and self.ray_motion is not None:
            loss = loss + RAYS * self._rays(rotation, centre)
        return loss

    def _points(self, rotation: Tensor, centre: Tensor) -> Tensor:
        """Eq. 4."""
        z = self.log_depth.exp()
        local = torch.cat([self.pixels * z[..., None] / (self.focal / FOCAL_GAIN).exp(), z[..., None]], dim=-1)
        world = torch.einsum("tij,thwj->thwi", rotation, local) + centre[:, None, None]
        rotated = torch.einsum("gij,gvhwj->gvhwi", self.window_motion.rotation, self.points)
        placed = self.window_motion.scale(mean=self.mean_log_scale)[:, None, None, None, None] * rotated
        placed = placed + self.window_motion.translation[:, None, None, None]
        return ((world[self.windows] - placed).abs().sum(-1) * self.weight).mean()

    def _disparity(self) -> Tensor:
        """Eq. 5: the frame's disparity against the window's, scaled and shifted."""
        assert self.disparity is not None and self.disparity_mask is not None
        fitted = self.affine[:, 0].exp()[:, None, None, None] * self.disparity + self.affine[:, 1][:, None, None, None]
        return (((-self.log_depth).exp()[self.windows] - fitted).abs() * self.disparity_mask).mean()

    def _rays(self, rotation: Tensor, centre: Tensor) -> Tensor:
        """Eq. 8, read so that it is zero at the truth."""
        assert self.ray_motion is not None and self.rays is not None
        rotated = self.ray_motion.rotation[:, None] @ self.rays[..., :3, :3]
        rotation_error = rotation[self.windows].mT @ rotated - torch.eye(3)
        placed = (
            self.ray_motion.scale()[:, None, None]
            * (self.ray_motion.rotation[:, None] @ self.rays[..., :3, 3:])[..., 0]
        )
        placed = placed + self.ray_motion.translation[:, None]
        return (self.ray_weight * (_norm(rotation_error.flatten(-2)) + _norm(placed - centre[self.windows]))).sum()

    def _smoothness(self, rotation: Tensor, centre: Tensor) -> Tensor:
        """Eq. 9."""
        relative = rotation[:-1].mT @ rotation[1:] - torch.eye(3)
        return _norm(relative.flatten(1)).sum() + _norm(centre.diff(dim=0)).sum()

    @torch.no_grad()
    def fit_disparity(self) -> None:
        """Scale and shift of every window's disparity by least squares against the depth as it is then."""
        if self.disparity is None or self.disparity_mask is None:
            return
        target = (-self.log_depth).exp()[self.windows].flatten(1)
        x, w = self.disparity.flatten(1), self.disparity_mask.flatten(1)
        total = w.sum(1).clamp_min(1.0)
        mean_x, mean_y = (w * x).sum(1) / total, (w * target).sum(1) / total
        centred = w * (x - mean_x[:, None])
        slope = (centred * (target - mean_y[:, None])).sum(1) / (centred * (x - mean_x[:, None])).sum(1).clamp_min(1e-9)
        slope = slope.clamp_min(1e-4)
        self.affine[:, 0], self.affine[:, 1] = slope.log(), mean_y - slope * mean_x

    @torch.no_grad()
    def solution(self, losses: list[float]) -> PaperSolution:
        rotation, centre = self.cameras.rotation.double(), self.cameras.translation.double()
        return PaperSolution(self.log_depth.detach(), rigid(rotation, centre), float(self.focal) / FOCAL_GAIN, losses)


def _norm(x: Tensor) -> Tensor:
    """Length, with a gradient at zero."""
    return (x.square().sum(-1) + 1e-12).sqrt()
