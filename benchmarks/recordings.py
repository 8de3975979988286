"""Recordings in TUM layout with true depth, and how well depth agrees with it: what the other benchmarks share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from geo4d.errors import ConfigError
from geo4d.evaluation.synthetic import TrueClip
from geo4d.evaluation.tum import read_tum_clip
from geo4d.metrics.alignment import DepthAlignment
from geo4d.metrics.depth import depth_metrics
from geo4d.metrics.protocol import DepthProtocol

DEPTH_PIXELS = 40_000  # of a frame, at most, that are scored


@dataclass(frozen=True)
class Recording:
    """A clip in TUM layout."""

    name: str
    root: Path
    scale: float  # stored depth of one metre
    near: float  # metres, from which
    far: float  # and up to which depth is believed

    @classmethod
    def read(cls, text: str) -> Recording:
        """From NAME=DIR,DEPTH_SCALE,NEAR,FAR."""
        try:
            name, rest = text.split("=", 1)
            root, scale, near, far = rest.rsplit(",", 3)
            return cls(name, Path(root), float(scale), float(near), float(far))
        except ValueError as error:
            raise ConfigError(f"A recording is given as NAME=DIR,DEPTH_SCALE,NEAR,FAR; got {text!r}.") from error

    def clip(self) -> tuple[TrueClip, np.ndarray]:
        """All of it, and its depth (t, h, w) float32, 0 where there is none to be believed."""
        clip = read_tum_clip(self.root, depth_scale=self.scale, max_frames=None)
        depth = np.where(clip.valid & (clip.depth >= self.near) & (clip.depth <= self.far), clip.depth, 0.0)
        return clip, depth.astype(np.float32)


def depth_error(guess: np.ndarray, true: np.ndarray, *, per: str) -> float:
    """Abs Rel after an L1 scale and shift in depth per "frame" or "video"; true is 0 where unknown."""
    mask = true > 0
    kept = np.random.default_rng(0).random(true.shape) < DEPTH_PIXELS / max(DEPTH_PIXELS, mask.sum() / len(mask))
    protocol = DepthProtocol(alignment=DepthAlignment("scale_shift", "l1", per=per, space="depth"))  # type: ignore[arg-type]
    metrics = depth_metrics(guess, true, mask & kept, protocol=protocol)
    if per == "frame":
        return float(np.mean([each.abs_rel for each in metrics.frames if each]))
    return metrics.abs_rel


def row_correlation(guess: np.ndarray, true: np.ndarray, *, fewest: int = 20) -> float:
    """Mean Spearman correlation within image rows that have some spread of depth.

    What is left when the vertical ramp is gone.
    """
    found = []
    for p, t in zip(guess.reshape(-1, guess.shape[-1])[::4], true.reshape(-1, true.shape[-1])[::4], strict=True):
        known = t > 0
        if known.sum() >= fewest and t[known].std() > 0.05 * t[known].mean() and p[known].std() > 0:
            found.append(np.corrcoef(rankdata(p[known]), rankdata(t[known]))[0, 1])
    return float(np.mean(found)) if found else 0.0
