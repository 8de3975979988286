"""What a solution explains, against what chance would.

Whether the points that were followed show a static world at all. Lengths of descriptions are compared (nats). Of a
track that a solution explains, all but three numbers need only be told to the follower's noise, not within all of the
track's extent; for that the cameras must be told, and which tracks are explained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.bundle.evidence import Evidence, State, residuals, track_square

EXPLAINED = 3.0  # sigmas of the follower's noise up to which a track's root mean square residual is explained
POINT = 3  # numbers by which a point is told


@dataclass(frozen=True)
class Worth:
    """Of a solution."""

    explained: float  # share of the observations that belong to tracks it explains
    # nats that it saves, by the numbers of its cameras: below 0 chance would do as well; 0 of one that stands still
    beyond_chance: float


def worth_of(evidence: Evidence, state: State, *, travels: bool) -> Worth:
    """By all tracks and the follower's noise."""
    reach = EXPLAINED * evidence.noise
    mean = track_square(evidence, residuals(evidence, state).pixel.square().sum(1))
    explains = (mean < reach**2) & (evidence.length > 0)
    share = float(evidence.length[explains].sum() / max(len(evidence.point), 1))
    extent = _extent(evidence)
    saved = (2 * evidence.length - POINT) * (extent / (2 * reach)).clamp_min(1.0).log()
    tracks, chosen = int((evidence.length > 0).sum()), int(explains.sum())
    which = _entropy(chosen / max(tracks, 1)) * tracks
    moved = (state.rotation - state.rotation[0]).flatten(1).norm(dim=1) + (state.centre - state.centre[0]).norm(dim=1)
    numbers = (6 if travels else 3) * int((moved > reach).sum())
    if numbers == 0:  # nothing is claimed but that it stands still
        return Worth(share, 0.0)
    return Worth(share, (float(saved[explains].sum()) - which) / numbers - math.log(1 / reach))


def shows_world(worth: Worth, config: BundleConfig) -> bool:
    """Whether a solution explains a static world, and not what chance would."""
    return worth.explained >= (config.surely_explained if worth.beyond_chance < 0 else config.least_explained)


def _extent(evidence: Evidence) -> Float[Tensor, "n"]:
    """How far each track reaches in the image: its root mean square distance from its mean, both axes together."""
    count = evidence.length.clamp_min(1)[:, None]
    sums = torch.zeros(len(evidence.length), 2, dtype=torch.float64).index_add_(0, evidence.point, evidence.pixel)
    away = evidence.pixel - (sums / count)[evidence.point]
    return track_square(evidence, away.square().sum(1)).sqrt()


def _entropy(share: float) -> float:
    """Of a choice, in nats."""
    return -sum(p * math.log(p) for p in (share, 1 - share) if p > 0)
