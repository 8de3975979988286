"""Disparity without points: depth, and its scale and shift too where cameras are known that move."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.cameras import Cameras, FixedIntrinsics
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.depth.dense import Dense
from geo4d.alignment.depth.fusion import Fusion
from geo4d.alignment.depth.sources import Candidates, DepthSource, fit_disparity, weigh_disparity
from geo4d.alignment.draft import Draft
from geo4d.alignment.fallback.config import FallbackConfig
from geo4d.alignment.fallback.rays_only import chain_cameras, ray_focal
from geo4d.alignment.joint.observations import ray_cameras
from geo4d.alignment.priors import Priors
from geo4d.errors import AlignmentError
from geo4d.geometry.camera import project
from geo4d.geometry.pixels import centred_pixels, sample_grid
from geo4d.scene import WindowPredictions
from geo4d.solver.robust import GEMAN_MCCLURE

MIN_PIXELS = 10  # that two windows, or all of them, need
TRIED = 3  # starts that are followed to the end; one or six gave the same, but the cost has more than one minimum
LEAST_PATH = 0.02  # of given cameras, by the depth that they imply, from which they determine scale
LEAST_INSIDE = 0.3  # share of the pixels that other frames must see, or things could be moved out of sight
FLAT = 1e-6  # slope of a window's disparity by the others', below which its scale is undetermined


class _Aligned:
    """Disparities brought to one scale and shift, as a source of depth."""

    modality: str | None = "disparity"

    def __init__(self, disparity: Float[Tensor, "g v h w"], weight: Float[Tensor, "g v h w"]) -> None:
        self.disparity, self.weight = disparity, weight

    def __call__(self, rows: Tensor, index: Tensor | None) -> Candidates:
        """See `DepthSource`."""
        disparity, weight = self.disparity[rows[:, 0], rows[:, 1]], self.weight[rows[:, 0], rows[:, 1]]
        if index is not None:
            disparity, weight = disparity.flatten(1)[:, index], weight.flatten(1)[:, index]
        usable = (weight > 0) & (disparity > 1e-3)
        return Candidates(-torch.where(usable, disparity, 1.0).log(), torch.where(usable, weight, 0.0))


def align_disparity(predictions: WindowPredictions, config: AlignmentConfig, priors: Priors) -> Draft:
    """Depth: windows' disparities are brought to the first one's scale and shift through common frames.

    Scale and shift of the whole follow from cameras that move, be they given or the rays'; else they stay unknown, and
    a warning says so. Raises AlignmentError if fewer than ten pixels carry any weight.
    """
    aligned, weight, fits, falling = _chain(predictions, config.depth.line_width)
    resolved = priors.resolve(predictions, None)
    frames = predictions.num_frames
    focal = (
        torch.full((frames,), config.joint.focal_prior, dtype=torch.float64)
        if resolved.log_focal is None
        else resolved.log_focal.exp()
    )
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    warnings = [f"The disparity of window {g} falls where the others' rises; it was left out." for g in falling]
    terms, is_metric = ["disparity"], False
    given = resolved.given.poses
    cameras = None if given is not None else ray_cameras(predictions)
    if cameras is not None and not cameras.usable.any():
        warnings += cameras.problems
    elif cameras is not None:
        given, problems = chain_cameras(predictions.windows.long(), cameras, frames)
        warnings += problems
        terms.append("rays")
        if resolved.log_focal is None:
            side = max(predictions.grid_size)
            both = ray_focal(predictions, *predictions.grid_size)
            focal = focal if both is None else torch.full_like(focal, (both[0] * both[1]) ** 0.5 / side)
    if given is None:
        warnings.append(
            "Disparity alone says nothing of the camera: it is static with a default focal length, and depth has an "
            "unknown shift."
        )
    else:
        poses = given
        found = _affine_by_cameras(
            predictions, (aligned, weight), poses, resolved.fixed_intrinsics, focal, config.fallback
        )
        if found is None:
            warnings.append(
                "The cameras do not move enough to say how far things are: depth has an unknown scale and shift."
            )
        else:
            aligned, is_metric = found[0] * aligned + found[1], priors.poses_are_metric
    source: DepthSource = _Aligned(aligned, weight)
    dense = Dense(*Fusion(predictions.windows.long(), [source], config.depth).dense(*predictions.grid_size))
    report: dict[str, Any] = {"terms": terms, "disparity_fits": fits}
    return Draft(
        Cameras.of(poses, focal, resolved.fixed_intrinsics), dense, report, tuple(warnings), is_metric=is_metric
    )


def _chain(predictions: WindowPredictions, width: float) -> tuple[Tensor, Tensor, list[dict[str, float]], list[int]]:
    """Disparities in the first window's scale and shift, and their weights.

    Also what was done to each window, and which are left out.

    No window is turned upside down: one whose disparity falls where the others' rises gets scale 0 and no weight. If
    that is most of them, it is rather the first one, by which they were judged.
    """
    assert predictions.disparity is not None
    disparity = torch.nan_to_num(predictions.disparity.float())
    weight = weigh_disparity(predictions.disparity.float(), predictions.disparity_weight)
    if int((weight > 0).sum()) < MIN_PIXELS:
        raise AlignmentError(
            f"The disparity maps hold fewer than {MIN_PIXELS} pixels with a weight; look at the video."
        )
    lines = _lines_to_first(predictions, disparity, weight, width)
    if 2 * sum(a == 0 for a, _ in lines) > len(lines):
        weight[0] = 0
        lines = [(0.0, 0.0), *_lines_to_first(predictions, disparity, weight, width)[1:]]
    falling = [g for g, (a, _) in enumerate(lines) if a == 0]
    weight[falling] = 0
    aligned = torch.stack([(disparity[g] - b) / (a or 1.0) for g, (a, b) in enumerate(lines)])
    return aligned, weight, [{"scale": a, "shift": b} for a, b in lines], falling


def _lines_to_first(
    predictions: WindowPredictions, disparity: Float[Tensor, "g v h w"], weight: Float[Tensor, "g v h w"], width: float
) -> list[tuple[float, float]]:
    """Each window's disparity by the earlier ones' in the frames that they share: a, b of y = a x + b.

    a = 0 where it clearly falls. A window that shares too little, or shows nothing but one distance, is taken as it is:
    (1, 0).
    """
    merged = torch.full((predictions.num_frames, *predictions.grid_size), torch.nan)
    lines = []
    for g, window in enumerate(predictions.windows.tolist()):
        reference = merged[window]
        use = (weight[g] > 0) & reference.isfinite()
        a, b = 1.0, 0.0
        if int(use.sum()) >= MIN_PIXELS:
            fit = fit_disparity(disparity[g][use], reference[use], weight[g][use], width)
            if fit.a > FLAT:
                a, b = fit.a, fit.b
            elif -fit.a * float(reference[use].std()) > fit.residual:
                a, b = 0.0, 0.0
        lines.append((a, b))
        if a > 0:
            fresh = torch.where(weight[g] > 0, (disparity[g] - b) / a, torch.nan)
            merged[window] = torch.where(reference.isfinite(), reference, fresh)
    return lines


def _affine_by_cameras(
    predictions: WindowPredictions,
    aligned: tuple[Tensor, Tensor],
    poses: Float[Tensor, "t 4 4"],
    fixed_intrinsics: FixedIntrinsics,
    focal: Float[Tensor, "t"],
    config: FallbackConfig,
) -> tuple[float, float] | None:
    """Inverse depth = p D + q under which frames, seen from one another by the given cameras, agree.

    None if undetermined.
    """
    height, width = predictions.grid_size
    disparity, weight = (torch.zeros(predictions.num_frames, height * width) for _ in range(2))
    for g, window in enumerate(predictions.windows.tolist()):
        if aligned[1][g].any():
            disparity[window], weight[window] = aligned[0][g].flatten(1), aligned[1][g].flatten(1)
    pairs = [(i, i + gap) for gap in config.gaps for i in range(0, len(poses) - gap, 2)]
    path = float((poses[:, :3, 3] - poses[:1, :3, 3]).norm(dim=-1).max())
    if not pairs or path <= 0:
        return None
    index = sample_grid(height, width, 256)
    pixels = fixed_intrinsics.normalise(centred_pixels(height, width)[index])
    rays = torch.cat([pixels / focal[:, None, None], torch.ones_like(pixels[..., :1])], dim=-1)
    k = fixed_intrinsics.intrinsics(focal, height, width)
    seen_from = _Pairs(disparity.double(), weight > 0, poses, k, rays, (index, height, width))
    typical = float(disparity[weight > 0].median().clamp_min(1e-3))
    wide, narrow = (partial(seen_from.misfit, pairs, agrees) for agrees in config.agreement)
    # how near a typical thing is, by the path, and its shift by the typical disparity; the cost has other minima
    nearness = [(np.log(share / path), shift * typical) for share in config.nearness for shift in config.shifts]
    starts = [(log_near - np.log(typical + shift), shift) for log_near, shift in nearness]
    costs = [float(np.square(wide(start)).mean()) for start in starts]
    solutions = []
    for k in np.argsort(costs)[:TRIED]:
        start = starts[k]
        for misfit in (wide, narrow):
            solution = least_squares(misfit, start, x_scale=(0.1, 0.1 * typical), diff_step=1e-4)
            start = solution.x
        solutions.append(solution)
    best = min(solutions, key=lambda solution: float(solution.cost))
    p, shift = float(np.exp(best.x[0])), float(best.x[1])
    far = float(np.square(narrow((best.x[0] - 5, shift))).sum())  # as if the cameras did not move
    is_determined = 2 * float(best.cost) < config.least_cost * far and path * p * (typical + shift) > LEAST_PATH
    return (p, p * shift) if is_determined else None


@dataclass(frozen=True)
class _Pairs:
    """Frames seen from one another, were inverse depth p (D + s)."""

    disparity: Float[Tensor, "t n"]
    usable: Bool[Tensor, "t n"]
    poses: Float[Tensor, "t 4 4"]
    intrinsics: Float[Tensor, "t 3 3"]
    rays: Float[Tensor, "t p 3"]
    grid: tuple[Tensor, int, int]  # sampled pixels, height, width

    def misfit(self, pairs: list[tuple[int, int]], agrees: float, parameters: Any) -> np.ndarray:
        """Robust residuals in units of disparity: in those of depth, all would agree infinitely far away.

        Only what falls inside counts, as if it were all: to punish what does not would favour things so far that
        nothing moves.
        """
        p, s = float(np.exp(parameters[0])), float(parameters[1])
        index, height, width = self.grid
        i, j = torch.tensor(pairs).unbind(1)
        inverse = (p * (self.disparity[i][:, index] + s)).clamp_min(1e-9)
        world = (self.rays[i] / inverse[..., None]) @ self.poses[i, :3, :3].mT + self.poses[i, None, :3, 3]
        local = (world - self.poses[j, None, :3, 3]) @ self.poses[j, :3, :3]
        z = local[..., 2].clamp_min(1e-9)
        ahead = torch.cat([local[..., :2], z[..., None]], dim=-1)
        x, y = (project(ahead, self.intrinsics[j]) - 0.5).unbind(-1)
        valid = self.usable[i][:, index]
        inside = valid & (local[..., 2] > 1e-9) & (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        left, top = x.clamp(0, width - 2).floor(), y.clamp(0, height - 2).floor()
        right, low = (x - left).clamp(0, 1), (y - top).clamp(0, 1)
        at = (top * width + left).long()
        there = torch.zeros_like(x)
        for offset, part in (
            (0, (1 - right) * (1 - low)),
            (1, right * (1 - low)),
            (width, (1 - right) * low),
            (width + 1, right * low),
        ):
            there = there + part * self.disparity[j].gather(1, at + offset)
            inside = inside & self.usable[j].gather(1, at + offset)
        residual = (1 / z / p - s - there) / agrees
        robust = GEMAN_MCCLURE.value(residual.square()).sqrt()
        share = float(inside.sum() / valid.sum().clamp_min(1))
        if share < LEAST_INSIDE:
            return torch.where(valid, 1.0 + LEAST_INSIDE - share, 0.0).flatten().numpy()
        return torch.where(inside, robust / share**0.5, 0.0).flatten().numpy()
