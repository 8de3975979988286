"""Candidates for depth: by the windows' points, by their disparities, and given depth.

Each is a source that fusion asks. A source is asked for one frame after the other, so that windows may be memory maps;
what is shared by all frames (the scale and shift of a window's disparity) is settled before on the solver's sampled
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from geo4d._typing import Float, Int, Tensor
from geo4d.scene import WindowPredictions
from geo4d.solver.robust import Loss

MIN_PIXELS = 10  # of a window, below which its disparity is left out
IRLS_ROUNDS = 12  # by which the line moves no more
MEDIAN_BY_QUARTER = 2.117  # median by quarter quantile of absolute normal errors
TRIED_LINES, TRIED_PIXELS = 100, 400  # for a start that outliers cannot spoil


@dataclass(frozen=True)
class Candidates:
    """Log depth (r, ...) of one frame by r windows, and its precision; precision 0 where a window has no depth."""

    log_depth: Float[Tensor, "r *p"]
    precision: Float[Tensor, "r *p"]
    by_length: bool = False  # errors are lengths, so that the precision of log depth is in proportion to squared depth
    most: float = float("inf")  # precision of one pixel

    def precision_at(self, log_depth: Float[Tensor, "*p"]) -> Float[Tensor, "r *p"]:
        """Precision were the depth another one.

        A candidate that is far too far must not count as a precise one for that.
        """
        if not self.by_length:
            return self.precision
        return (self.precision * (2 * (log_depth - self.log_depth).clamp(-3, 3)).exp()).clamp_max(self.most)


@runtime_checkable
class DepthSource(Protocol):
    """One modality of the windows, or another source of depth."""

    @property
    def modality(self) -> str | None:
        """Its name in `diagnostics["disagreement"]`; None: it does not differ between windows."""

    def __call__(self, rows: Int[Tensor, "r 2"], index: Int[Tensor, "p"] | None) -> Candidates:
        """Candidates of windows rows[:, 0] at their frames rows[:, 1]: everywhere, or at chosen pixels."""


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
    most: float = float("inf")  # precision of one pixel, by the typical one
    modality: str | None = "point"

    def __call__(self, rows: Int[Tensor, "r 2"], index: Int[Tensor, "p"] | None) -> Candidates:
        """See `DepthSource`."""
        assert self.predictions.points is not None
        points, camera = (
            _pixels(self.predictions.points, rows, index).float(),
            self.cam_to_win[rows[:, 0], rows[:, 1]].float(),
        )
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
        precision = torch.where(ahead, (weight * z).square() / self.unit, 0.0).clamp_max(self.most)
        return Candidates(torch.where(ahead, world, 1.0).log(), precision, by_length=True, most=self.most)


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
    modality: str | None = "disparity"

    def __call__(self, rows: Int[Tensor, "r 2"], index: Int[Tensor, "p"] | None) -> Candidates:
        """See `DepthSource`. The precision is the same in log depth near and far: measured to be the best."""
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
    """Depth that was given beforehand."""

    frames: Int[Tensor, "g v"]
    log_depth: Float[Tensor, "t h w"]  # as given, nan where unknown
    log_scale: float  # from its own unit, as it was given, to the world's
    precision: float
    modality: str | None = None

    def __call__(self, rows: Int[Tensor, "r 2"], index: Int[Tensor, "p"] | None) -> Candidates:
        """See `DepthSource`: the same from every window, which share its precision."""
        depth = (self.log_depth[self.frames[rows[:, 0], rows[:, 1]]] + self.log_scale).float()
        depth = depth if index is None else depth.flatten(1)[:, index]
        has_depth = depth.isfinite()
        return Candidates(torch.where(has_depth, depth, 0.0), self.precision / len(rows) * has_depth)


def weigh_disparity(disparity: Float[Tensor, "*p"], given: Float[Tensor, "*p"] | None) -> Float[Tensor, "*p"]:
    """Given weights, or 1 where the disparity is above 0.05 (method 2.4); 0 where it is not finite."""
    weight = (disparity > 0.05).float() if given is None else given.float()
    return torch.where(disparity.isfinite(), weight, 0.0)


def fit_disparity(
    disparity: Float[Tensor, "n"], inverse_depth: Float[Tensor, "n"], weight: Float[Tensor, "n"], width: float
) -> DisparityFit:
    """Residuals in units of the prediction, Cauchy loss of that `width` in sizes of ordinary errors.

    The direction matters: regressing 1 / z on D would shrink a by D's own noise.
    """
    x, y = inverse_depth.double(), disparity.double()
    (a, b, spread), robust = _line_through_most(x, y), Loss.cauchy(width)
    irls = weight * robust.weight(((y - a * x - b) / spread).square())
    for _ in range(IRLS_ROUNDS):
        total = irls.sum().clamp_min(1e-30)
        mean_x, mean_y = (irls * x).sum() / total, (irls * y).sum() / total
        a = (irls * (x - mean_x) * (y - mean_y)).sum() / (irls * (x - mean_x).square()).sum().clamp_min(1e-30)
        b = mean_y - a * mean_x
        residual = y - a * x - b
        spread = _size(residual)
        irls = weight * robust.weight((residual / spread).square())
    return DisparityFit(float(a), float(b), float(spread))


def _line_through_most(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> tuple[Tensor, Tensor, Tensor]:
    """Of lines through pairs of points, the one that a quarter of all points lie closest to.

    a, b of y = a x + b, and the residual.
    """
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


def fit_disparities(
    predictions: WindowPredictions, frame_depth: Float[Tensor, "t p"], index: Int[Tensor, "p"], width: float
) -> list[DisparityFit]:
    """Scale and shift of every window's disparity against the log depth of the frames at sampled pixels.

    The log depth is nan where it is unknown.
    """
    assert predictions.disparity is not None
    fits = []
    for g, window in enumerate(predictions.windows.tolist()):
        disparity = predictions.disparity[g].flatten(1, 2)[:, index].float()
        given = (
            None if predictions.disparity_weight is None else predictions.disparity_weight[g].flatten(1, 2)[:, index]
        )
        weight, reference = weigh_disparity(disparity, given), frame_depth[window]
        use = (weight > 0) & reference.isfinite()
        enough = int(use.sum()) >= MIN_PIXELS
        fit = (
            fit_disparity(disparity[use], torch.exp(-reference[use]), weight[use], width)
            if enough
            else DisparityFit(0.0, 0.0, 0.0)
        )
        fits.append(fit)
    return fits
