"""One depth map a frame: what the windows say, fused; and the correction by points that were triangulated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.bundle.choose import Adjusted
from geo4d.alignment.depth.confidence import DEFAULT_SIGMA, relative_error
from geo4d.alignment.depth.correction import CorrectionConfig, depth_field, sample_field
from geo4d.alignment.depth.fusion import Fusion
from geo4d.alignment.depth.sources import DisparityFit, DisparitySource, GivenDepth, PointSource, fit_disparities
from geo4d.alignment.joint.observations import Observations
from geo4d.alignment.joint.steps import Joint
from geo4d.alignment.priors import Priors
from geo4d.errors import InputError
from geo4d.geometry.pixels import sample_grid
from geo4d.scene import WindowPredictions

MIN_PIXELS = 10
FIT_SAMPLES = 256  # pixels a frame that settle disparities' scales and the trust in each modality
GIVEN_DEPTH_VOICES = 8.0  # windows that depth known beforehand outweighs, where it is as precise as theirs

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Dense:
    """Log depth of every pixel, nan where unknown, with what tells how far it is to be believed."""

    log_depth: Float[Tensor, "t h w"]
    precision: Float[Tensor, "t h w"]
    spread: Float[Tensor, "t h w"]  # of what the windows say
    own_sigma: float = DEFAULT_SIGMA  # what the network expects of a typical pixel

    @classmethod
    def nothing(cls, frames: int, height: int, width: int) -> Dense:
        """No depth anywhere."""
        empty = torch.zeros(frames, height, width)
        return cls(torch.full_like(empty, torch.nan), empty, empty)

    def error(self) -> Float[Tensor, "t h w"]:
        """Expected |error| of log depth, nan where there is none."""
        return relative_error(self.log_depth, self.precision, self.spread, self.own_sigma)


@dataclass(frozen=True)
class Fused:
    """Depth of all windows, and what was found on the way."""

    dense: Dense
    disagreement: dict[str, float]  # median difference of log depth between windows, by modality
    disparity_fits: list[DisparityFit] | None
    log_depth_scale: float  # of depth given beforehand to the alignment's unit


def fuse_windows(predictions: WindowPredictions, joint: Joint, priors: Priors, progress: Progress | None = None) -> Fused:
    """Depth of every pixel from all windows, given their solved scales and their own cameras."""
    observations, unknowns, known = joint.observations, joint.unknowns, joint.known
    height, width = predictions.grid_size
    index = sample_grid(height, width, FIT_SAMPLES)
    points = point_source(predictions, observations, joint.own, unknowns.windows.scale)
    own_sigma = DEFAULT_SIGMA if predictions.weight is None else points.unit**-0.5
    fusion, fits = Fusion(observations.windows, [points]).balanced(index), None
    if predictions.disparity is not None:
        reference = fusion.at(index)[0]
        if known.ignore is not None:  # what may be wrong in the points must not spoil the disparity elsewhere
            reference = reference.masked_fill(known.ignore.flatten(1)[:, index], torch.nan)
        fits = fit_disparities(predictions, reference, index)
        fusion = fusion.plus(DisparitySource(predictions, fits)).balanced(index)
    log_scale = unknowns.log_depth_scale
    if known.log_depth is not None:
        log_scale = _scale_of_given(joint, known.log_depth, fusion)
        # windows that agree may all be wrong in the same way
        sigma = max(1.48 * float(joint.solved.term("points")[1].along), own_sigma)
        precision = GIVEN_DEPTH_VOICES * (sigma / priors.depth_sigma) ** 2
        fusion = fusion.plus(GivenDepth(observations.windows, (known.log_depth + log_scale).float(), precision))
    dense = Dense(*fusion.dense(height, width, progress), own_sigma=own_sigma)
    return Fused(dense, fusion.disagreements(index), fits, log_scale)


def point_source(
    predictions: WindowPredictions, observations: Observations, own: Float[Tensor, "g v 4 4"], scale: Float[Tensor, "g"]
) -> PointSource:
    """The point maps as a source of depth, seen from the windows' own cameras; weights in the unit of the typical one."""
    z = ((observations.points - own[..., None, :3, 3]) * own[..., None, :3, 2]).sum(-1)
    weight = torch.ones_like(z)
    if predictions.weight is not None:
        weight = torch.stack([window.flatten(1, 2)[:, observations.index] for window in predictions.weight]).double()
    usable = (observations.weight > 0) & (z * scale[:, None, None] > 1e-4)
    unit = float((weight * z).square()[usable].median()) if usable.any() else 1.0
    return PointSource(predictions, own, scale, unit=max(unit, 1e-30))


def _scale_of_given(joint: Joint, given: Float[Tensor, "t h w"], fusion: Fusion) -> float:
    """Where given depth is known at hardly any sampled pixel, its scale follows from the fused depth at those where it is."""
    o = joint.observations
    at_samples = given.flatten(1)[:, o.index].isfinite()[o.windows] & (o.weight > 0)
    if int(at_samples.sum()) >= MIN_PIXELS:
        return joint.unknowns.log_depth_scale
    index = torch.nonzero(given.flatten(1).isfinite().any(dim=0))[:, 0]
    index = index[:: max(1, len(index) // FIT_SAMPLES)]
    ratio = fusion.at(index)[0] - given.flatten(1)[:, index]
    ratio = ratio[ratio.isfinite()]
    if len(ratio) == 0:
        raise InputError("The prior depth is known only where the predictions say nothing, so it cannot be used; leave it out.")
    return float(ratio.median())


@dataclass(frozen=True)
class Corrected:
    """Depth after the correction by triangulated points, and the scale that brings those to it."""

    dense: Dense
    log_scale: float  # by which the solution's depths exceed the windows'
    report: dict[str, Any]


def correct_depth(dense: Dense, adjusted: Adjusted, config: CorrectionConfig) -> Corrected:
    """Depth corrected by a smooth field where parallax is trusted with it; the scale of the whole stays that of the windows."""
    assert adjusted.video is not None and adjusted.solution is not None
    video = adjusted.video
    depth, known = video.network_depth
    network = np.where(known.numpy(), depth.numpy(), np.nan)
    change, log_scale, points = depth_field(video.evidence, adjusted.solution, network, video.places, video.side, config)
    corrects = change is not None and adjusted.gain > config.least_gain
    if corrects and change is not None:
        height, width = dense.log_depth.shape[1:]
        field = torch.from_numpy(sample_field(change, height, width, config)).float()
        dense = replace(dense, log_depth=dense.log_depth + field)
    return Corrected(dense, log_scale, {"corrects_depth": bool(corrects), "triangulated_per_frame": round(float(points), 1)})


def metres_by_given(given: Float[Tensor, "t h w"], fused: Fused, final: Dense) -> float:
    """Metres by unit of the final depth, by metric depth that was given: what the fit said, and what was corrected since."""
    change = (final.log_depth - fused.dense.log_depth)[given.isfinite() & fused.dense.log_depth.isfinite()]
    return math.exp(-fused.log_depth_scale - (float(change.median()) if len(change) else 0.0))
