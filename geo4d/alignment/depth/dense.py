"""One depth map a frame: the windows' candidates, fused; and the correction by points that were triangulated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from geo4d._typing import Float, Int, Tensor
from geo4d.alignment.bundle.choose import Adjusted
from geo4d.alignment.depth.confidence import relative_error
from geo4d.alignment.depth.config import ConfidenceConfig, CorrectionConfig, DepthConfig
from geo4d.alignment.depth.correction import depth_field, sample_field
from geo4d.alignment.depth.fusion import SIGMA_BY_MEDIAN, Fusion
from geo4d.alignment.depth.sources import (
    DepthSource,
    DisparityFit,
    DisparitySource,
    GivenDepth,
    PointSource,
    fit_disparities,
)
from geo4d.alignment.joint.observations import Observations
from geo4d.alignment.joint.steps import Joint
from geo4d.alignment.priors import Priors
from geo4d.errors import ConfigError, InputError
from geo4d.geometry.pixels import sample_grid
from geo4d.scene import WindowPredictions

MIN_PIXELS = 10  # sampled ones at which there is given depth, from which the solve has settled its scale
GIVEN_SAMPLES = 256  # pixels with given depth that settle it otherwise, by a median

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Dense:
    """Log depth of every pixel, nan where unknown, with what its expected error follows from."""

    log_depth: Float[Tensor, "t h w"]
    precision: Float[Tensor, "t h w"]
    spread: Float[Tensor, "t h w"]  # of the candidates
    own_sigma: float = 0.05  # what the network expects of a typical pixel

    @classmethod
    def nothing(cls, frames: int, height: int, width: int) -> Dense:
        """No depth anywhere."""
        empty = torch.zeros(frames, height, width)
        return cls(torch.full_like(empty, torch.nan), empty, empty)

    def error(self, config: ConfidenceConfig) -> Float[Tensor, "t h w"]:
        """Expected |error| of log depth, nan where there is none."""
        return relative_error(self.log_depth, self.precision, self.spread, self.own_sigma, config)


@dataclass(frozen=True)
class Fused:
    """Depth of all windows, and what was found on the way."""

    dense: Dense
    disagreement: dict[str, float]  # median difference of log depth between windows, by modality
    sources: tuple[DepthSource, ...]

    @property
    def disparity_fits(self) -> list[DisparityFit] | None:
        """Scale and shift of each window's disparity; None where it takes no part."""
        return next((source.fits for source in self.sources if isinstance(source, DisparitySource)), None)


@dataclass(frozen=True)
class SourceInputs:
    """What sources of depth are made from."""

    predictions: WindowPredictions
    joint: Joint
    priors: Priors
    config: DepthConfig
    index: Int[Tensor, "p"]  # pixels at which what is shared by all frames is settled
    points: PointSource

    @property
    def own_sigma(self) -> float:
        """What the network expects of a typical pixel's log depth."""
        return self.config.confidence.default_sigma if self.predictions.weight is None else self.points.unit**-0.5


def fuse_windows(
    predictions: WindowPredictions, joint: Joint, priors: Priors, config: DepthConfig, progress: Progress | None = None
) -> Fused:
    """Depth of every pixel from all sources, given the windows' solved scales and PnP poses.

    Sources are made in the order of the configuration, each with the fusion of those before it. Raises ConfigError for
    one that is unknown or comes before the points.
    """
    height, width = predictions.grid_size
    index = sample_grid(height, width, config.samples)
    points = point_source(
        predictions,
        joint.observations,
        joint.window_poses,
        joint.unknowns.windows.scale,
        joint.ready.config.joint.most_precision,
    )
    evidence = SourceInputs(predictions, joint, priors, config, index, points)
    unknown = [name for name in config.sources if name not in SOURCES]
    if unknown or config.sources[:1] != ("points",):
        raise ConfigError(
            f"depth.sources must begin with points and be some of {', '.join(SOURCES)}; got "
            f"{', '.join(config.sources)}."
        )
    fusion = Fusion(joint.observations.windows, [], config)
    for name in config.sources:
        source = SOURCES[name](evidence, fusion)
        if source is not None:
            fusion = fusion.plus(source)
            fusion = fusion if source.modality is None else fusion.balanced(index)
    dense = Dense(*fusion.dense(height, width, progress), own_sigma=evidence.own_sigma)
    return Fused(dense, fusion.disagreements(index), tuple(fusion.sources))


def _disparity(evidence: SourceInputs, fusion: Fusion) -> DepthSource | None:
    """The windows' disparities, each brought to the depth fused so far."""
    predictions, ignore = evidence.predictions, evidence.joint.priors.ignore
    if predictions.disparity is None:
        return None
    reference = fusion.at(evidence.index)[0]
    if ignore is not None:  # what may be wrong in the points must not spoil the disparity elsewhere
        reference = reference.masked_fill(ignore.flatten(1)[:, evidence.index], torch.nan)
    return DisparitySource(
        predictions, fit_disparities(predictions, reference, evidence.index, evidence.config.line_width)
    )


def _given(evidence: SourceInputs, fusion: Fusion) -> DepthSource | None:
    """Depth that was given beforehand."""
    joint, given = evidence.joint, evidence.joint.priors.log_depth
    if given is None:
        return None
    # windows that agree may all be wrong in the same way
    sigma = max(SIGMA_BY_MEDIAN * float(joint.solved.term("points")[1].along), evidence.own_sigma)
    precision = evidence.config.given_weight * (sigma / evidence.priors.depth_sigma) ** 2
    return GivenDepth(joint.observations.windows, given, _scale_of_given(joint, given, fusion), precision)


Factory = Callable[[SourceInputs, Fusion], DepthSource | None]  # None: there is nothing of it

SOURCES: dict[str, Factory] = {
    "points": lambda evidence, fusion: evidence.points,
    "disparity": _disparity,
    "given": _given,
}


def register(name: str, factory: Factory) -> None:
    """Makes a source of depth known under a name that the configuration can list.

    Raises ConfigError if the name is taken.
    """
    if name in SOURCES:
        raise ConfigError(f"There is a source of depth {name!r} already; choose another name.")
    SOURCES[name] = factory


def point_source(
    predictions: WindowPredictions,
    observations: Observations,
    poses: Float[Tensor, "g v 4 4"],
    scale: Float[Tensor, "g"],
    most: float,
) -> PointSource:
    """The point maps as a source of depth, seen from the per-window PnP poses.

    Weights in the unit of the typical one.
    """
    z = ((observations.points - poses[..., None, :3, 3]) * poses[..., None, :3, 2]).sum(-1)
    weight = torch.ones_like(z)
    if predictions.weight is not None:
        weight = torch.stack([window.flatten(1, 2)[:, observations.index] for window in predictions.weight]).double()
    usable = (observations.weight > 0) & (z * scale[:, None, None] > 1e-4)
    unit = float((weight * z).square()[usable].median()) if usable.any() else 1.0
    return PointSource(predictions, poses, scale, unit=max(unit, 1e-30), most=most)


def _scale_of_given(joint: Joint, given: Float[Tensor, "t h w"], fusion: Fusion) -> float:
    """Where given depth is known at hardly any sampled pixel, its scale follows from the fused depth there."""
    o = joint.observations
    at_samples = given.flatten(1)[:, o.index].isfinite()[o.windows] & (o.weight > 0)
    if int(at_samples.sum()) >= MIN_PIXELS:
        return joint.unknowns.log_depth_scale
    index = torch.nonzero(given.flatten(1).isfinite().any(dim=0))[:, 0]
    index = index[:: max(1, len(index) // GIVEN_SAMPLES)]
    ratio = fusion.at(index)[0] - given.flatten(1)[:, index]
    ratio = ratio[ratio.isfinite()]
    if len(ratio) == 0:
        raise InputError(
            "The prior depth is known only where the predictions say nothing, so it cannot be used; leave it out."
        )
    return float(ratio.median())


@dataclass(frozen=True)
class Corrected:
    """Depth after the correction by triangulated points, and the scale that brings those to it."""

    dense: Dense
    log_scale: float  # by which the solution's depths exceed the windows'
    report: dict[str, Any]


def correct_depth(dense: Dense, adjusted: Adjusted, config: CorrectionConfig) -> Corrected:
    """Depth corrected by a smooth field where parallax is trusted with it.

    The scale of the whole stays that of the windows.
    """
    assert adjusted.video is not None and adjusted.solution is not None
    video = adjusted.video
    depth, has_depth = video.network_depth
    network = np.where(has_depth.numpy(), depth.numpy(), np.nan)
    change, log_scale, points = depth_field(video.evidence, adjusted.solution, network, video.places, config)
    corrects = change is not None and adjusted.gain > config.least_gain
    if corrects and change is not None:
        height, width = dense.log_depth.shape[1:]
        field = torch.from_numpy(sample_field(change, height, width, config)).float()
        dense = replace(dense, log_depth=dense.log_depth + field)
    return Corrected(
        dense, log_scale, {"corrects_depth": bool(corrects), "triangulated_per_frame": round(float(points), 1)}
    )


def metres_by_given(fused: Fused, final: Float[Tensor, "t h w"]) -> float | None:
    """Metres by unit of the final depth, by metric depth that was given: from the fit, and what was corrected since."""
    given = next((source for source in fused.sources if isinstance(source, GivenDepth)), None)
    if given is None:
        return None
    change = (final - fused.dense.log_depth)[given.log_depth.isfinite() & fused.dense.log_depth.isfinite()]
    return math.exp(-given.log_scale - (float(change.median()) if len(change) else 0.0))
