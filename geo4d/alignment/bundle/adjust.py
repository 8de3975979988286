"""Bundle adjustment of tracked points: cameras, focal length and static points by what the pixels themselves show.

Residuals: reprojection (a Cauchy loss on every observation, and one on every track as a whole, so that what moves is
left out), the network's depth as a soft prior on log z of each point, a prior on the focal length, an acceleration
prior on the centres. Levenberg-Marquardt with an acceptance test; points are eliminated by their 3x3 Schur complement
(`geo4d.solver.schur`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.bundle.evidence import Evidence, Residuals, State, cost, residuals, scales
from geo4d.alignment.bundle.system import BundleSystem, Free, Step
from geo4d.solver.lm import Damping, Summary, minimise

DAMPING = Damping(start=1e-3, raise_by=8.0, lower_by=6.0, least=1e-9, most=1e7, enough=1e-4, failures=5)
QUICK = replace(DAMPING, enough=1e-3)  # for a map that still grows, or a start that is only compared


@dataclass(frozen=True)
class Solution:
    """A finished solve."""

    state: State
    sigma: float  # typical residual, in units of the longer side
    track_weight: Float[Tensor, "n"]  # near 1: static; near 0: moves, or was followed wrongly
    summary: Summary


def solve_bundle(
    evidence: Evidence, state: State, *, iterations: int, free: Free | None = None, damping: Damping = DAMPING
) -> Solution:
    """The state of least robust cost that is found from a start.

    Scales are measured anew after each step that is taken.
    """
    found = minimise(_Bundle(evidence, free or Free()), state, iterations=iterations, damping=damping)
    sigma, tracks = found.fixed
    return Solution(found.state, sigma, tracks, found.summary)


@dataclass(frozen=True)
class _Bundle:
    """Bundle adjustment as a problem for `geo4d.solver.lm`.

    Fixed are the size of a typical residual and each track's weight.
    """

    evidence: Evidence
    free: Free
    last: list[tuple[State, Residuals]] = field(default_factory=list)  # the one state that was looked at last

    def _residuals(self, state: State) -> Residuals:
        """Worked out once, where scales and costs are asked for at the same state."""
        if not self.last or self.last[0][0] is not state:
            self.last[:] = [(state, residuals(self.evidence, state))]
        return self.last[0][1]

    def fix(self, state: State) -> tuple[float, Float[Tensor, "n"]]:
        """Measured at a state."""
        return scales(self.evidence, self._residuals(state))

    def cost(self, state: State, fixed: tuple[float, Tensor]) -> Float[Tensor, "1"]:
        """The robust objective."""
        return torch.tensor([cost(self.evidence, state, *fixed, self._residuals(state))], dtype=torch.float64)

    def linearise(self, state: State, fixed: tuple[float, Tensor]) -> BundleSystem:
        """Blocks of cameras and of points."""
        return BundleSystem(self.evidence, state, *fixed, self.free)

    def move(self, state: State, fixed: tuple[float, Tensor], step: Step) -> State:
        """After a step."""
        return state.moved(*step)

    def choose(self, better: Bool[Tensor, "b"], new: State, old: State) -> State:
        """A single problem is never mixed."""
        return new if bool(better.all()) else old


def camera_covariance(
    evidence: Evidence, solution: Solution, free: Free | None = None
) -> tuple[Float[Tensor, "t 6 6"], float]:
    """Of each camera's rotation (radians, about the world's axes) and centre in the state's unit.

    Points and focal length are free. Then the sigma of the (first) log focal length. A track's observations share its
    error, so that `config.independent_frames` of them count. Directions of which nothing is known have the little that
    depth and motion priors hold; nan where the system cannot be inverted.
    """
    frames, c = len(solution.state.centre), evidence.config
    weight = solution.track_weight * (c.independent_frames / evidence.length.clamp_min(1)).clamp_max(1.0)
    evidence = replace(evidence, config=replace(c, focal_evidence=math.inf))  # observations are reduced already
    found = BundleSystem(evidence, solution.state, solution.sigma, weight, free or Free()).covariance()
    if found is None:
        return torch.full((frames, 6, 6), torch.nan, dtype=torch.float64), float("nan")
    return torch.cat([torch.zeros(1, 6, 6, dtype=torch.float64), torch.from_numpy(found[0])]), found[1]
