"""Dense depth: what every window says of a frame, from points and from disparity, merged robustly in log depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.observations import log_precision
from geo4d.scene import WindowPredictions

FIT_PIXELS = 4000  # of a window, for scale and shift of its disparity
IRLS_ROUNDS = 30
SPREAD_FLOOR = 0.01  # relative depth below which candidates agree
MAX_TRUST = 9.0  # of one modality by another


@dataclass(frozen=True)
class Candidates:
    """Log depth (g, v, h, w) and its precision by one modality; precision 0 where it says nothing."""

    log_depth: Float[Tensor, "g v h w"]
    precision: Float[Tensor, "g v h w"]


def point_candidates(predictions: WindowPredictions, cam_to_win: Float[Tensor, "g v 4 4"], scale: Float[Tensor, "g"]) -> Candidates:
    """Z of the points in each frame's camera as its own window sees it, brought to the world's scale."""
    assert predictions.points is not None
    weight = torch.ones_like(predictions.points[..., 0]) if predictions.weight is None else predictions.weight
    usable = (weight > 0) & predictions.points.isfinite().all(-1)
    points = torch.where(usable[..., None], predictions.points.float(), 0.0)
    axis = cam_to_win[..., :3, 2].float()  # the viewing direction in the window
    z = torch.einsum("gvhwi,gvi->gvhw", points, axis) - (axis * cam_to_win[..., :3, 3].float()).sum(-1)[..., None, None]
    ahead = usable & (z * scale.float()[:, None, None, None] > 1e-4)
    precision = log_precision(torch.where(ahead, z, torch.nan), weight.float())
    return Candidates(torch.where(ahead, z * scale.float()[:, None, None, None], 1.0).log(), precision)


def disparity_weight(predictions: WindowPredictions) -> Float[Tensor, "g v h w"]:
    """Given weights, or 1 where the disparity is above 0.05 (METHOD 2.4); 0 where it is not finite."""
    assert predictions.disparity is not None
    given = predictions.disparity_weight
    weight = (predictions.disparity > 0.05).float() if given is None else given.float()
    return torch.where(predictions.disparity.isfinite(), weight, 0.0)


def fit_disparity(
    disparity: Float[Tensor, "n"], inverse_depth: Float[Tensor, "n"], weight: Float[Tensor, "n"]
) -> tuple[float, float, float]:
    """a, b of D = a / z + b, residuals in units of the prediction, Cauchy loss; and the median residual.

    The direction matters: regressing 1 / z on D would shrink a by D's own noise.
    """
    x, y = inverse_depth.double(), disparity.double()
    irls = weight.double().clone()
    a = b = torch.zeros((), dtype=torch.float64)
    spread = torch.ones((), dtype=torch.float64)
    for _ in range(IRLS_ROUNDS):
        total = irls.sum().clamp_min(1e-30)
        mean_x, mean_y = (irls * x).sum() / total, (irls * y).sum() / total
        a = (irls * (x - mean_x) * (y - mean_y)).sum() / (irls * (x - mean_x).square()).sum().clamp_min(1e-30)
        b = mean_y - a * mean_x
        residual = y - a * x - b
        spread = residual.abs().median().clamp_min(1e-9)
        irls = weight / (1 + (residual / (2 * spread)).square())
    return float(a), float(b), float(spread)


def disparity_candidates(
    predictions: WindowPredictions, points: Candidates, frame_depth: Float[Tensor, "t h w"]
) -> tuple[Candidates, list[dict[str, float]]]:
    """Depth from each window's disparity, scale and shift fitted to the depth from points (log, nan where unknown).

    A window whose disparity falls with nearness (a <= 0) is left out, and its fit says so.
    """
    assert predictions.disparity is not None
    weight = disparity_weight(predictions)
    log_depth, precision, fits = torch.zeros_like(predictions.disparity), torch.zeros_like(predictions.disparity), []
    for g, window in enumerate(predictions.windows.tolist()):
        reference = frame_depth[window]
        use = (weight[g] > 0) & reference.isfinite()
        if int(use.sum()) < 10:
            fits.append({"scale": 0.0, "shift": 0.0, "residual": 0.0})
            continue
        index = torch.nonzero(use.flatten())[:, 0]
        index = index[:: max(1, len(index) // FIT_PIXELS)]
        d = predictions.disparity[g].flatten()[index]
        a, b, spread = fit_disparity(d, torch.exp(-reference.flatten()[index]), weight[g].flatten()[index])
        fits.append({"scale": a, "shift": b, "residual": spread})
        if a <= 0:
            continue
        rest = (predictions.disparity[g] - b).float()
        usable = (weight[g] > 0) & (rest > 2 * spread + 1e-4)
        log_depth[g] = torch.where(usable, a / rest.clamp_min(1e-6), 1.0).log()
        precision[g] = torch.where(usable, weight[g], 0.0)  # the same in log depth near and far: measured to be the best
    return Candidates(log_depth, precision), fits


def balance(windows: Tensor, sources: list[Candidates]) -> list[Candidates]:
    """Each modality's precision by how well its own windows agree with one another, the first one's typical precision being 1.

    Agreement with what all say would favour whoever says it loudest.
    """
    sizes = [_disagreement(windows, source) for source in sources]
    if not all(np.isfinite(size) and size > 0 for size in sizes):
        return sources
    trust = [min(max((sizes[0] / size) ** 2, 1 / MAX_TRUST), MAX_TRUST) for size in sizes]
    return [Candidates(source.log_depth, source.precision * t) for source, t in zip(sources, trust, strict=True)]


def _disagreement(windows: Tensor, source: Candidates) -> float:
    """Median difference of log depth between two windows that see the same pixel, each window brought to the other's scale."""
    found = []
    for g in range(1, len(windows)):
        others = [other for other in range(g) if not torch.equal(windows[other], windows[g])]
        if not others:
            continue
        mine, theirs = torch.nonzero(windows[g][:, None] == windows[others[-1]]).unbind(1)
        difference = source.log_depth[g, mine] - source.log_depth[others[-1], theirs]
        both = (source.precision[g, mine] > 0) & (source.precision[others[-1], theirs] > 0)
        if both.any():
            known = difference[both]
            found.append((known - known.median()).abs().median())
    return float(torch.stack(found).median()) if found else float("nan")


def fuse(
    windows: Tensor, sources: list[Candidates], frames: int
) -> tuple[Float[Tensor, "t h w"], Float[Tensor, "t h w"], Float[Tensor, "t h w"]]:
    """Per frame: robust mean of log depth over all windows and modalities, its precision, and the spread of the candidates.

    Log depth is nan where nobody says anything.
    """
    height, width = sources[0].log_depth.shape[2:]
    log_depth = torch.full((frames, height, width), torch.nan)
    precision, spread = torch.zeros(frames, height, width), torch.zeros(frames, height, width)
    for frame in range(frames):
        rows = torch.nonzero(windows == frame)
        if len(rows) == 0:
            continue
        values = torch.cat([source.log_depth[rows[:, 0], rows[:, 1]] for source in sources])
        weight = torch.cat([source.precision[rows[:, 0], rows[:, 1]] for source in sources])
        mean, deviation = _robust_mean(values, weight)
        known = weight.sum(0) > 0
        log_depth[frame] = torch.where(known, mean, torch.nan)
        precision[frame], spread[frame] = weight.sum(0), torch.where(known, deviation, 0.0)
    return log_depth, precision, spread


def _robust_mean(values: Float[Tensor, "n h w"], weight: Float[Tensor, "n h w"]) -> tuple[Tensor, Tensor]:
    """Weighted median, then two reweighted means around it; and the weighted mean absolute deviation."""
    order = values.masked_fill(weight <= 0, torch.inf).argsort(dim=0)
    ordered, shares = values.gather(0, order), weight.gather(0, order).cumsum(0)
    middle = (shares < 0.5 * shares[-1:]).sum(0, keepdim=True).clamp_max(len(values) - 1)
    centre = ordered.gather(0, middle)[0]
    total = weight.sum(0).clamp_min(1e-12)
    for _ in range(2):
        deviation = (weight * (values - centre).abs()).sum(0) / total
        scale = deviation + SPREAD_FLOOR
        w = weight / (1 + ((values - centre) / (2 * scale)).square())
        centre = (w * values).sum(0) / w.sum(0).clamp_min(1e-12)
    return centre, (weight * (values - centre).abs()).sum(0) / total


def confidence(precision: Tensor, spread: Tensor) -> np.ndarray:
    """Grows with what is said and with how well it agrees; 1 for a typical pixel, 0 where nothing is known."""
    raw = precision.sqrt() / (1 + spread / 0.05)
    known = raw > 0
    typical = raw[known].median() if known.any() else torch.tensor(1.0)
    return (raw / typical).numpy().astype(np.float32)
