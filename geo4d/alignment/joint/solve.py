"""The joint problem solved: all cameras, window similarities and the focal length at once, by Levenberg-Marquardt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.joint.guess import focal_bounds
from geo4d.alignment.joint.terms import (
    Evaluation,
    Problem,
    Scales,
    cost,
    evaluate,
    measure_scales,
    normal_equations,
)
from geo4d.alignment.joint.unknowns import Columns, Unknowns
from geo4d.solver.banded import NormalEquations

TRIALS = 8
ENOUGH = 1e-4  # relative gain of a step, below which the solve ends


@dataclass(frozen=True)
class Solved:
    """A finished solve."""

    unknowns: Unknowns
    evaluation: Evaluation
    scales: Scales
    steps: int
    columns: Columns
    system: NormalEquations
    free: Bool[Tensor, "n"]

    def camera_covariance(self) -> Float[Tensor, "t 6 6"]:
        """Of each camera's rotation and centre in the world, were all residuals independent; nan where it cannot be told."""
        frames = torch.arange(self.columns.frames)
        found = self.system.covariance(self.columns.camera(frames), self.free)
        if found is None:
            return torch.full((len(frames), 6, 6), torch.nan, dtype=torch.float64)
        return found


def solve(problem: Problem, unknowns: Unknowns, held: Bool[Tensor, "n"] | None = None) -> Solved:
    """Levenberg-Marquardt with an acceptance test on the robust cost; scales are measured anew after accepted steps.

    `held` unknowns stay as they are, besides those that the choice of the world leaves open.
    """
    o, columns = problem.observations, problem.columns()
    structure = columns.structure(o.windows, o.nearest_window)
    free = _free(problem, unknowns, columns)
    if held is not None:
        free &= ~held
    low, high = (torch.tensor(bound, dtype=torch.float64).log() for bound in focal_bounds(problem.config))
    e = evaluate(problem, unknowns, o.weight)
    s = measure_scales(problem, unknowns, e)
    # seen from ever farther off, points agree ever better in log depth and ever worse across the view: a scale across that
    # grew with its residuals would let cameras run away
    widest = s.across
    system = NormalEquations(structure)
    damping, steps = 1e-4, 0
    for _ in range(problem.config.iterations):
        along_weight = o.weight * s.along_loss.weight((e.along / s.along).square())
        e = evaluate(problem, unknowns, along_weight)
        before = after = cost(problem, unknowns, e, s)
        system = NormalEquations(structure)
        normal_equations(problem, unknowns, e, s, columns, system)
        for _ in range(TRIALS):
            step = system.step(damping, free)
            if step is not None:
                candidate = unknowns.moved(columns, step)
                candidate = replace(candidate, log_focal=candidate.log_focal.clamp(low, high))
                trial = evaluate(problem, candidate, along_weight)
                after = cost(problem, candidate, trial, s)
                if after < before * (1 - 1e-9):
                    break
            damping = min(damping * 10, 1e8)
        else:
            break
        unknowns, e, steps = candidate, trial, steps + 1
        damping = max(damping / 10, 1e-9)
        s = measure_scales(problem, unknowns, e)
        s = replace(s, across=s.across.clamp_max(widest))
        if 1 - after / max(before, 1e-300) < ENOUGH:
            break
    return Solved(unknowns, e, s, steps, columns, system, free)


def assess(problem: Problem, unknowns: Unknowns) -> Solved:
    """What `solve` would return if the unknowns were already what it looks for."""
    o, columns = problem.observations, problem.columns()
    e = evaluate(problem, unknowns, o.weight)
    s = measure_scales(problem, unknowns, e)
    e = evaluate(problem, unknowns, o.weight * s.along_loss.weight((e.along / s.along).square()))
    system = NormalEquations(columns.structure(o.windows, o.nearest_window))
    normal_equations(problem, unknowns, e, s, columns, system)
    return Solved(unknowns, e, s, 0, columns, system, _free(problem, unknowns, columns))


def _free(problem: Problem, unknowns: Unknowns, columns: Columns) -> Bool[Tensor, "n"]:
    """What moves: not the first camera, which is the world, nor the first window's scale, which is the unit."""
    free = torch.ones(columns.size, dtype=torch.bool)
    first, frames = torch.zeros(1, dtype=torch.int64), torch.arange(columns.frames)
    moves = bool((unknowns.centre - unknowns.centre[:1]).norm(dim=-1).max() > 1e-9)
    if problem.known.fixes_cameras:
        free[columns.camera(frames)] = False
    free[columns.camera(first)] = False
    if not (problem.known.fixes_cameras and moves):
        free[columns.window(first)[0, 0]] = False
    if problem.log_focal_sigma == 0:
        free[columns.focal(frames)] = False
    return free
