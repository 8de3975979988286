"""Dense depth: the candidates of all windows, by points and by disparity, fused robustly in log depth.

Everything that is shared (the scale and shift of each window's disparity, how far each modality is trusted) is settled
on the solver's sampled pixels; then one frame after the other is read, so that windows may be memory maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from geo4d._typing import Bool, Float, Int, Tensor
from geo4d.alignment.depth.config import DepthConfig
from geo4d.alignment.depth.sources import DepthSource
from geo4d.solver.robust import Loss

Progress = Callable[[str, int, int], None]

SIGMA_BY_MEDIAN = 1.48  # of normal errors: sigma by the median of their absolute values


class Fusion:
    """Fuses the candidates of the sources, frame by frame."""

    def __init__(
        self,
        windows: Int[Tensor, "g v"],
        sources: Sequence[DepthSource],
        config: DepthConfig,
        trust: Float[Tensor, "s g"] | None = None,
    ) -> None:
        self.windows, self.sources, self.config = windows, list(sources), config
        # factors of the precisions
        self.trust = torch.ones(len(self.sources), len(windows)) if trust is None else trust
        self._compared: dict[
            int, tuple[DepthSource, float, Tensor]
        ] = {}  # by the source's identity, once they have been
        self.frames = int(windows.max()) + 1
        flat = windows.flatten()
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=self.frames)
        v = windows.shape[1]
        self._rows = [torch.stack([rows // v, rows % v], dim=-1) for rows in order.split(counts.tolist())]

    def frame(self, frame: int, index: Int[Tensor, "p"] | None = None) -> tuple[Tensor, Tensor, Tensor] | None:
        """Robust mean of log depth (nan without candidates), its precision, the spread of the candidates.

        None for a frame that is in no window.
        """
        rows = self._rows[frame]
        if len(rows) == 0:
            return None
        candidates = [source(rows, index) for source in self.sources]
        values = torch.cat([s.log_depth for s in candidates])
        middle = _median(values, torch.cat([s.precision for s in candidates]) > 0)
        weight = torch.cat(
            [_times(s.precision_at(middle), t[rows[:, 0]]) for s, t in zip(candidates, self.trust, strict=True)]
        )
        mean, deviation = _robust_mean(values, weight, self.config)
        valid = weight.sum(0) > 0
        return torch.where(valid, mean, torch.nan), weight.sum(0), torch.where(valid, deviation, 0.0)

    def at(self, index: Int[Tensor, "p"]) -> tuple[Tensor, Tensor, Tensor]:
        """The same of all frames at chosen pixels, (t, p) each."""
        return self._all((len(index),), index)

    def dense(self, height: int, width: int, progress: Progress | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The same of all frames and pixels, (t, h, w) each."""
        return self._all((height, width), None, progress)

    def _all(
        self, shape: tuple[int, ...], index: Tensor | None, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
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
        """Each modality trusted by how well its windows agree with one another.

        The first one's typical precision is 1. Agreement with the fused depth would favour the source of most weight.
        Windows that agree with no other one are trusted less. What is no modality of the windows keeps its own trust.
        """
        trust, usual, places = (
            self.trust.clone(),
            [],
            [k for k, source in enumerate(self.sources) if source.modality is not None],
        )
        for k in places:
            typical, each = self.disagreement(self.sources[k], index)
            usual.append(typical)
            least = each.nanmedian().clamp_min(self.config.spread_floor)
            trust[k] = (self.config.odd_window * least / each.clamp_min(1e-9)).square().clamp_max(1.0).nan_to_num(1.0)
        if all(np.isfinite(size) and size > 0 for size in usual):
            most = self.config.most_trust
            for k, size in zip(places, usual, strict=True):
                trust[k] *= min(max((usual[0] / size) ** 2, 1 / most), most)
        return self._with(self.sources, trust)

    def plus(self, source: DepthSource) -> Fusion:
        """With one more source, trusted by its own precision."""
        return self._with([*self.sources, source], torch.cat([self.trust, torch.ones(1, len(self.windows))]))

    def _with(self, sources: list[DepthSource], trust: Tensor) -> Fusion:
        changed = Fusion(self.windows, sources, self.config, trust)
        changed._compared = self._compared
        return changed

    def disagreement(self, source: DepthSource, index: Int[Tensor, "p"]) -> tuple[float, Float[Tensor, "g"]]:
        """Median difference of log depth between windows that see the same pixel.

        Also, of each window, from whom it differs least. For the first, each window is brought to the other's scale.
        nan without common frames.
        """
        if id(source) in self._compared:
            return self._compared[id(source)][1:]
        scaled, least = [], torch.full((len(self.windows),), torch.inf)
        for g in range(1, len(self.windows)):
            earlier = torch.isin(self.windows[:g], self.windows[g]).any(dim=1) & (
                self.windows[:g] != self.windows[g]
            ).any(dim=1)
            for other in torch.nonzero(earlier)[-self.config.neighbours :, 0].flip(0).tolist():
                mine, theirs = torch.nonzero(self.windows[g][:, None] == self.windows[other]).unbind(1)
                a = source(torch.stack([torch.full_like(mine, g), mine], dim=-1), index)
                b = source(torch.stack([torch.full_like(theirs, other), theirs], dim=-1), index)
                both = (a.precision > 0) & (b.precision > 0)
                if not both.any():
                    continue
                difference = (a.log_depth - b.log_depth)[both]
                least[[g, other]] = torch.minimum(least[[g, other]], difference.abs().median())
                scaled.append((difference - difference.median()).abs().median())
        usual = float(torch.stack(scaled).median()) if scaled else float("nan")
        least = torch.where(least.isfinite(), least, torch.nan)
        self._compared[id(source)] = source, usual, least
        return usual, least

    def disagreements(self, index: Int[Tensor, "p"]) -> dict[str, float]:
        """The first of `disagreement` for each modality of the windows."""
        return {
            source.modality: self.disagreement(source, index)[0]
            for source in self.sources
            if source.modality is not None
        }


def _median(values: Float[Tensor, "n *p"], valid: Bool[Tensor, "n *p"]) -> Float[Tensor, "*p"]:
    """Lower median of the valid values; 0 where there are none."""
    ordered = np.sort(np.where(valid.numpy(), values.numpy(), np.inf), axis=0)
    middle = np.maximum((valid.sum(0, keepdim=True).numpy() - 1) // 2, 0)
    found = np.take_along_axis(ordered, middle, axis=0)[0]
    return torch.from_numpy(np.where(np.isfinite(found), found, 0).astype(found.dtype))


def _times(maps: Float[Tensor, "r *p"], factors: Float[Tensor, "r"]) -> Float[Tensor, "r *p"]:
    return maps * factors.view(-1, *(1,) * (maps.ndim - 1))


def _robust_mean(
    values: Float[Tensor, "n *p"], weight: Float[Tensor, "n *p"], config: DepthConfig
) -> tuple[Tensor, Tensor]:
    """Weighted median, then two reweighted means around it; and the weighted mean absolute deviation.

    The size of ordinary errors is the median deviation at the pixel itself, or that of the whole frame if it is larger:
    of the few candidates of one pixel, two may agree by chance.
    """
    centre, robust = _weighted_median(values, weight), Loss.cauchy(config.outlier_width)
    total, valid = weight.sum(0).clamp_min(1e-12), weight.sum(0) > 0
    for _ in range(2):
        deviation = _weighted_median((values - centre).abs(), weight)
        usual = SIGMA_BY_MEDIAN * deviation[valid].median() if valid.any() else deviation.new_zeros(())
        scale = deviation.clamp_min(usual) + config.spread_floor
        w = weight * robust.weight(((values - centre) / scale).square())
        centre = (w * values).sum(0) / w.sum(0).clamp_min(1e-12)
    return centre, (weight * (values - centre).abs()).sum(0) / total


def _weighted_median(values: Float[Tensor, "n *p"], weight: Float[Tensor, "n *p"]) -> Float[Tensor, "*p"]:
    shares = weight.numpy()
    ranked = np.where(shares > 0, values.numpy(), np.inf)
    order = ranked.argsort(axis=0)  # numpy sorts short columns twice as fast as torch
    total = np.take_along_axis(shares, order, axis=0).cumsum(axis=0)
    middle = np.minimum((total < 0.5 * total[-1:]).sum(axis=0, keepdims=True), len(ranked) - 1)
    return torch.from_numpy(np.take_along_axis(ranked, np.take_along_axis(order, middle, axis=0), axis=0)[0])
