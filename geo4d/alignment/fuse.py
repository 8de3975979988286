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

from geo4d._typing import Bool, Float, Int, Tensor
from geo4d.alignment.observations import MAX_PRECISION
from geo4d.scene import WindowPredictions

Progress = Callable[[str, int, int], None]

IRLS_ROUNDS = 12
MEDIAN_BY_QUARTER = 2.117  # median by quarter quantile of absolute normal errors
TRIED_LINES, TRIED_PIXELS = 100, 400  # for a start that outliers cannot spoil
OUTLYING = 2.5  # times the size of ordinary errors: where a candidate's weight is halved
SIGMA_BY_MEDIAN = 1.48  # of normal errors
SPREAD_FLOOR = 0.01  # relative depth below which candidates agree
MAX_TRUST = 9.0  # of one modality by another
ODD_WINDOW = 3.0  # times the usual disagreement, from which a window is trusted less
NEIGHBOURS = 2  # earlier windows that each is compared with


@dataclass(frozen=True)
class Candidates:
    """Log depth (r, ...) of one frame by r windows, and its precision; precision 0 where a window says nothing."""

    log_depth: Float[Tensor, "r *p"]
    precision: Float[Tensor, "r *p"]
    by_length: bool = False  # errors are lengths, so that the precision of log depth is in proportion to squared depth

    def precision_at(self, log_depth: Float[Tensor, "*p"]) -> Float[Tensor, "r *p"]:
        """Precision were the depth another one: a candidate that is far too far must not count as a precise one for that."""
        if not self.by_length:
            return self.precision
        return (self.precision * (2 * (log_depth - self.log_depth).clamp(-3, 3)).exp()).clamp_max(MAX_PRECISION)


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
        return Candidates(torch.where(ahead, world, 1.0).log(), precision, by_length=True)


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
        """See `Source`: the same from every window, which share its precision."""
        depth = self.log_depth[self.frames[rows[:, 0], rows[:, 1]]]
        depth = depth if index is None else depth.flatten(1)[:, index]
        known = depth.isfinite()
        return Candidates(torch.where(known, depth, 0.0), self.precision / len(rows) * known)


def weigh_disparity(disparity: Float[Tensor, "*p"], given: Float[Tensor, "*p"] | None) -> Float[Tensor, "*p"]:
    """Given weights, or 1 where the disparity is above 0.05 (METHOD 2.4); 0 where it is not finite."""
    weight = (disparity > 0.05).float() if given is None else given.float()
    return torch.where(disparity.isfinite(), weight, 0.0)


def fit_disparity(disparity: Float[Tensor, "n"], inverse_depth: Float[Tensor, "n"], weight: Float[Tensor, "n"]) -> DisparityFit:
    """Residuals in units of the prediction, Cauchy loss.

    The direction matters: regressing 1 / z on D would shrink a by D's own noise.
    """
    x, y = inverse_depth.double(), disparity.double()
    a, b, spread = _line_through_most(x, y)
    irls = weight / (1 + ((y - a * x - b) / (2 * spread)).square())
    for _ in range(IRLS_ROUNDS):
        total = irls.sum().clamp_min(1e-30)
        mean_x, mean_y = (irls * x).sum() / total, (irls * y).sum() / total
        a = (irls * (x - mean_x) * (y - mean_y)).sum() / (irls * (x - mean_x).square()).sum().clamp_min(1e-30)
        b = mean_y - a * mean_x
        residual = y - a * x - b
        spread = _size(residual)
        irls = weight / (1 + (residual / (2 * spread)).square())
    return DisparityFit(float(a), float(b), float(spread))


def _line_through_most(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> tuple[Tensor, Tensor, Tensor]:
    """Of lines through pairs of points, the one that a quarter of all points lie closest to: a, b of y = a x + b, and the residual."""
    some = torch.linspace(0, len(x) - 1, min(len(x), TRIED_PIXELS)).long()
    x, y = x[some], y[some]
    generator = torch.Generator().manual_seed(0)
    i, j = torch.randint(len(x), (2, TRIED_LINES), generator=generator)
    a = (y[j] - y[i]) / (x[j] - x[i])
    a = a.where(a.isfinite(), 0.0)
    b = y[i] - a * x[i]
    residual = _size(y - a[:, None] * x - b[:, None])
    best = int(residual.argmin())
    return a[best], b[best], residual[best]


def _size(residual: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Typical size by the better quarter, which most may leave: the median of normal errors, at least 1e-9."""
    quarter = max(1, residual.shape[-1] // 4)
    return (MEDIAN_BY_QUARTER * residual.abs().kthvalue(quarter, dim=-1).values).clamp_min(1e-9)


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

    def __init__(self, windows: Int[Tensor, "g v"], sources: Sequence[Source], trust: Float[Tensor, "s g"] | None = None) -> None:
        self.windows, self.sources = windows, list(sources)
        self.trust = torch.ones(len(self.sources), len(windows)) if trust is None else trust  # factors of the precisions
        self._compared: dict[int, tuple[Source, float, Tensor]] = {}  # by the source's identity, once they have been
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
        middle = _median(values, torch.cat([s.precision for s in said]) > 0)
        weight = torch.cat([_times(s.precision_at(middle), t[rows[:, 0]]) for s, t in zip(said, self.trust, strict=True)])
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
        """Each modality trusted by how well its own windows agree with one another, the first one's typical precision being 1.

        Agreement with what all say would favour whoever says it loudest. Windows that agree with no other one are trusted less.
        """
        trust, usual = [], []
        for source in self.sources:
            typical, each = self.disagreement(source, index)
            usual.append(typical)
            least = each.nanmedian().clamp_min(SPREAD_FLOOR)
            trust.append((ODD_WINDOW * least / each.clamp_min(1e-9)).square().clamp_max(1.0).nan_to_num(1.0))
        if all(np.isfinite(size) and size > 0 for size in usual):
            shares = [min(max((usual[0] / size) ** 2, 1 / MAX_TRUST), MAX_TRUST) for size in usual]
            trust = [share * t for share, t in zip(shares, trust, strict=True)]
        return self._with(self.sources, torch.stack(trust))

    def plus(self, source: Source) -> Fusion:
        """With one more source, trusted as it says itself."""
        return self._with([*self.sources, source], torch.cat([self.trust, torch.ones(1, len(self.windows))]))

    def _with(self, sources: list[Source], trust: Tensor) -> Fusion:
        changed = Fusion(self.windows, sources, trust)
        changed._compared = self._compared
        return changed

    def disagreement(self, source: Source, index: Int[Tensor, "p"]) -> tuple[float, Float[Tensor, "g"]]:
        """Median difference of log depth between windows that see the same pixel; and of each window, from whom it differs least.

        For the first, each window is brought to the other's scale. nan without common frames.
        """
        if id(source) in self._compared:
            return self._compared[id(source)][1:]
        scaled, least = [], torch.full((len(self.windows),), torch.inf)
        for g in range(1, len(self.windows)):
            earlier = torch.isin(self.windows[:g], self.windows[g]).any(dim=1) & (self.windows[:g] != self.windows[g]).any(dim=1)
            for other in torch.nonzero(earlier)[-NEIGHBOURS:, 0].flip(0).tolist():
                mine, theirs = torch.nonzero(self.windows[g][:, None] == self.windows[other]).unbind(1)
                a = source(torch.stack([torch.full_like(mine, g), mine], dim=-1), index)
                b = source(torch.stack([torch.full_like(theirs, other), theirs], dim=-1), index)
                both = (a.precision > 0) & (b.precision > 0)
                if not both.any():
                    continue
                apart = (a.log_depth - b.log_depth)[both]
                least[[g, other]] = torch.minimum(least[[g, other]], apart.abs().median())
                scaled.append((apart - apart.median()).abs().median())
        usual = float(torch.stack(scaled).median()) if scaled else float("nan")
        least = torch.where(least.isfinite(), least, torch.nan)
        self._compared[id(source)] = source, usual, least
        return usual, least


def _median(values: Float[Tensor, "n *p"], known: Bool[Tensor, "n *p"]) -> Float[Tensor, "*p"]:
    """Lower median of the known values; 0 where there are none."""
    ordered = np.sort(np.where(known.numpy(), values.numpy(), np.inf), axis=0)
    middle = np.maximum((known.sum(0, keepdim=True).numpy() - 1) // 2, 0)
    found = np.take_along_axis(ordered, middle, axis=0)[0]
    return torch.from_numpy(np.where(np.isfinite(found), found, 0).astype(found.dtype))


def _times(maps: Float[Tensor, "r *p"], factors: Float[Tensor, "r"]) -> Float[Tensor, "r *p"]:
    return maps * factors.view(-1, *(1,) * (maps.ndim - 1))


def _robust_mean(values: Float[Tensor, "n *p"], weight: Float[Tensor, "n *p"]) -> tuple[Tensor, Tensor]:
    """Weighted median, then two reweighted means around it; and the weighted mean absolute deviation.

    The size of ordinary errors is the median deviation at the pixel itself, or that of the whole frame if it is larger: of the
    few candidates of one pixel, two may agree by chance.
    """
    centre = _weighted_median(values, weight)
    total, known = weight.sum(0).clamp_min(1e-12), weight.sum(0) > 0
    for _ in range(2):
        deviation = _weighted_median((values - centre).abs(), weight)
        usual = SIGMA_BY_MEDIAN * deviation[known].median() if known.any() else deviation.new_zeros(())
        scale = deviation.clamp_min(usual) + SPREAD_FLOOR
        w = weight / (1 + ((values - centre) / (OUTLYING * scale)).square())
        centre = (w * values).sum(0) / w.sum(0).clamp_min(1e-12)
    return centre, (weight * (values - centre).abs()).sum(0) / total


def _weighted_median(values: Float[Tensor, "n *p"], weight: Float[Tensor, "n *p"]) -> Float[Tensor, "*p"]:
    shares = weight.numpy()
    known = np.where(shares > 0, values.numpy(), np.inf)
    order = known.argsort(axis=0)  # numpy sorts short columns twice as fast as torch
    total = np.take_along_axis(shares, order, axis=0).cumsum(axis=0)
    middle = np.minimum((total < 0.5 * total[-1:]).sum(axis=0, keepdims=True), len(known) - 1)
    return torch.from_numpy(np.take_along_axis(known, np.take_along_axis(order, middle, axis=0), axis=0)[0])
