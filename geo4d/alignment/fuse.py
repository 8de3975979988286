"""Dense depth: what every window says of a frame, by points and by disparity, merged robustly in log depth.

Everything that is shared (the scale and shift of each window's disparity, how far each modality is trusted) is settled on the
solver's sampled pixels; then one frame after the other is read, so that windows may be memory maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from geo4d._typing import Float, Int, Tensor
from geo4d.alignment.observations import MAX_PRECISION
from geo4d.scene import WindowPredictions

Progress = Callable[[str, int, int], None]

IRLS_ROUNDS = 30
SPREAD_FLOOR = 0.01  # relative depth below which candidates agree
MAX_TRUST = 9.0  # of one modality by another


@dataclass(frozen=True)
class Candidates:
    """Log depth (r, ...) of one frame by r windows, and its precision; precision 0 where a window says nothing."""

    log_depth: Float[Tensor, "r *p"]
    precision: Float[Tensor, "r *p"]


@runtime_checkable
class Source(Protocol):
    """One modality."""

    def __call__(self, rows: Int[Tensor, "r 2"], index: Int[Tensor, "p"] | None) -> Candidates:
        """What windows rows[:, 0] say at their frames rows[:, 1]: everywhere, or at chosen pixels."""


def _pixels(maps: Tensor, rows: Tensor, index: Tensor | None) -> Tensor:
    """Maps (r, h, w, ...) of some windows' frames, or (r, p, ...) at chosen pixels."""
    chosen = torch.stack([maps[g, k] for g, k in rows.tolist()])
    return chosen if index is None else chosen.flatten(1, 2)[:, index]


@dataclass(frozen=True)
class PointSource:
    """Z of the points in each frame's camera as its own window sees it, brought to the world's scale."""

    predictions: WindowPredictions
    cam_to_win: Float[Tensor, "g v 4 4"]
    scale: Float[Tensor, "g"]
    unit: float = 1.0  # the typical (weight z)^2

    def __call__(self, rows: Int[Tensor, "r 2"], index: Int[Tensor, "p"] | None) -> Candidates:
        """See `Source`."""
        assert self.predictions.points is not None
        points, camera = _pixels(self.predictions.points, rows, index).float(), self.cam_to_win[rows[:, 0], rows[:, 1]].float()
        weight = torch.ones_like(points[..., 0])
        if self.predictions.weight is not None:
            weight = _pixels(self.predictions.weight, rows, index).float()
        usable = (weight > 0) & points.isfinite().all(-1) & weight.isfinite()
        axis = camera[:, :3, 2]  # the viewing direction in the window
        z = torch.einsum("r...i,ri->r...", torch.where(usable[..., None], points, 0.0), axis)
        each = (slice(None), *(None,) * (z.ndim - 1))
        z = z - (axis * camera[:, :3, 3]).sum(-1)[each]
        world = z * self.scale[rows[:, 0]].float()[each]
        ahead = usable & (world > 1e-4)
        precision = torch.where(ahead, (weight * z).square() / self.unit, 0.0).clamp_max(MAX_PRECISION)
        return Candidates(torch.where(ahead, world, 1.0).log(), precision)


@dataclass(frozen=True)
class DisparityFit:
    """D = a / z + b of one window, and the median residual in units of D."""

    a: float
    b: float
    residual: float


@dataclass(frozen=True)
class DisparitySource:
    """Depth from each window's disparity; a window whose disparity falls with nearness (a <= 0) is left out."""

    predictions: WindowPredictions
    fits: list[DisparityFit]

    def __call__(self, rows: Int[Tensor, "r 2"], index: Int[Tensor, "p"] | None) -> Candidates:
        """See `Source`. The precision is the same in log depth near and far: measured to be the best."""
        assert self.predictions.disparity is not None
        disparity = _pixels(self.predictions.disparity, rows, index).float()
        given = None
        if self.predictions.disparity_weight is not None:
            given = _pixels(self.predictions.disparity_weight, rows, index)
        weight = weigh_disparity(disparity, given)
        fits = [self.fits[g] for g in rows[:, 0].tolist()]
        each = (slice(None), *(None,) * (disparity.ndim - 1))
        a, b, residual = (torch.tensor([getattr(fit, name) for fit in fits])[each] for name in ("a", "b", "residual"))
        rest = disparity - b
        usable = (weight > 0) & (a > 0) & (rest > 2 * residual + 1e-4)
        log_depth = torch.where(usable, a / rest.clamp_min(1e-6), 1.0).log()
        return Candidates(log_depth, torch.where(usable, weight, 0.0))


@dataclass(frozen=True)
class GivenDepth:
    """Depth that was known beforehand."""

    frames: Int[Tensor, "g v"]
    log_depth: Float[Tensor, "t h w"]  # in the world's unit, nan where unknown
    precision: float

    def __call__(self, rows: Int[Tensor, "r 2"], index: Int[Tensor, "p"] | None) -> Candidates:
        """See `Source`: it speaks once, whatever the number of windows."""
        depth = self.log_depth[self.frames[rows[0, 0], rows[0, 1]]][None]
        depth = depth if index is None else depth.flatten(1)[:, index]
        known = depth.isfinite()
        return Candidates(torch.where(known, depth, 0.0), self.precision * known)


def weigh_disparity(disparity: Float[Tensor, "*p"], given: Float[Tensor, "*p"] | None) -> Float[Tensor, "*p"]:
    """Given weights, or 1 where the disparity is above 0.05 (METHOD 2.4); 0 where it is not finite."""
    weight = (disparity > 0.05).float() if given is None else given.float()
    return torch.where(disparity.isfinite(), weight, 0.0)


def fit_disparity(disparity: Float[Tensor, "n"], inverse_depth: Float[Tensor, "n"], weight: Float[Tensor, "n"]) -> DisparityFit:
    """Residuals in units of the prediction, Cauchy loss.

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
    return DisparityFit(float(a), float(b), float(spread))


def fit_disparities(predictions: WindowPredictions, frame_depth: Float[Tensor, "t p"], index: Int[Tensor, "p"]) -> list[DisparityFit]:
    """Scale and shift of every window's disparity against the log depth (nan where unknown) of the frames at sampled pixels."""
    assert predictions.disparity is not None
    fits = []
    for g, window in enumerate(predictions.windows.tolist()):
        disparity = predictions.disparity[g].flatten(1, 2)[:, index].float()
        given = None if predictions.disparity_weight is None else predictions.disparity_weight[g].flatten(1, 2)[:, index]
        weight, reference = weigh_disparity(disparity, given), frame_depth[window]
        use = (weight > 0) & reference.isfinite()
        enough = int(use.sum()) >= 10
        fits.append(fit_disparity(disparity[use], torch.exp(-reference[use]), weight[use]) if enough else DisparityFit(0.0, 0.0, 0.0))
    return fits


class Fusion:
    """Merges what the sources say, frame by frame."""

    def __init__(self, windows: Int[Tensor, "g v"], sources: Sequence[Source], trust: Sequence[float] | None = None) -> None:
        self.windows, self.sources = windows, list(sources)
        self.trust = [1.0] * len(self.sources) if trust is None else list(trust)  # factors of the sources' precisions
        self.frames = int(windows.max()) + 1
        flat = windows.flatten()
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=self.frames)
        v = windows.shape[1]
        self._rows = [torch.stack([rows // v, rows % v], dim=-1) for rows in order.split(counts.tolist())]

    def frame(self, frame: int, index: Int[Tensor, "p"] | None = None) -> tuple[Tensor, Tensor, Tensor] | None:
        """Robust mean of log depth (nan where nobody says anything), its precision, the spread of the candidates.

        None for a frame that is in no window.
        """
        rows = self._rows[frame]
        if len(rows) == 0:
            return None
        said = [source(rows, index) for source in self.sources]
        values = torch.cat([s.log_depth for s in said])
        weight = torch.cat([t * s.precision for s, t in zip(said, self.trust, strict=True)])
        mean, deviation = _robust_mean(values, weight)
        known = weight.sum(0) > 0
        return torch.where(known, mean, torch.nan), weight.sum(0), torch.where(known, deviation, 0.0)

    def at(self, index: Int[Tensor, "p"]) -> tuple[Tensor, Tensor, Tensor]:
        """The same of all frames at chosen pixels, (t, p) each."""
        return self._all((len(index),), index)

    def dense(self, height: int, width: int, progress: Progress | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The same of all frames and pixels, (t, h, w) each."""
        return self._all((height, width), None, progress)

    def _all(self, shape: tuple[int, ...], index: Tensor | None, progress: Progress | None = None) -> tuple[Tensor, Tensor, Tensor]:
        log_depth = torch.full((self.frames, *shape), torch.nan)
        precision, spread = torch.zeros(self.frames, *shape), torch.zeros(self.frames, *shape)
        for frame in range(self.frames):
            found = self.frame(frame, index)
            if found is not None:
                log_depth[frame], precision[frame], spread[frame] = found
            if progress is not None:
                progress("depth", frame + 1, self.frames)
        return log_depth, precision, spread

    def balanced(self, index: Int[Tensor, "p"]) -> Fusion:
        """Each modality trusted by how well its own windows agree with one another."""
        trust = self.trusts(index)
        return self if trust is None else Fusion(self.windows, self.sources, trust)

    def plus(self, source: Source) -> Fusion:
        """With one more source, trusted as it says itself."""
        return Fusion(self.windows, [*self.sources, source], [*self.trust, 1.0])

    def trusts(self, index: Int[Tensor, "p"]) -> list[float] | None:
        """How far each source is to be trusted, the first one's typical precision being 1; None without common frames.

        Agreement with what all say would favour whoever says it loudest.
        """
        sizes = [self.disagreement(source, index) for source in self.sources]
        if not all(np.isfinite(size) and size > 0 for size in sizes):
            return None
        return [min(max((sizes[0] / size) ** 2, 1 / MAX_TRUST), MAX_TRUST) for size in sizes]

    def disagreement(self, source: Source, index: Tensor) -> float:
        """Median difference of log depth between windows that see the same pixel, each window brought to the other's scale."""
        found = []
        for g in range(1, len(self.windows)):
            earlier = torch.isin(self.windows[:g], self.windows[g]).any(dim=1) & (self.windows[:g] != self.windows[g]).any(dim=1)
            if not earlier.any():
                continue
            other = int(torch.nonzero(earlier)[-1])
            mine, theirs = torch.nonzero(self.windows[g][:, None] == self.windows[other]).unbind(1)
            a = source(torch.stack([torch.full_like(mine, g), mine], dim=-1), index)
            b = source(torch.stack([torch.full_like(theirs, other), theirs], dim=-1), index)
            both = (a.precision > 0) & (b.precision > 0)
            if both.any():
                known = (a.log_depth - b.log_depth)[both]
                found.append((known - known.median()).abs().median())
        return float(torch.stack(found).median()) if found else float("nan")


def _robust_mean(values: Float[Tensor, "n *p"], weight: Float[Tensor, "n *p"]) -> tuple[Tensor, Tensor]:
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
