"""The joint problem solved: least squares over a list of terms.

All cameras, window similarities and focal lengths are solved for at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.joint.guess import focal_bounds
from geo4d.alignment.joint.observations import Observations
from geo4d.alignment.joint.problem import JointProblem
from geo4d.alignment.joint.terms import Block, Rows, Term, build_terms
from geo4d.alignment.joint.unknowns import Columns, Unknowns
from geo4d.solver.banded import NormalEquations, Structure
from geo4d.solver.lm import Damping, Summary, minimise

# small at first, for the initial guess is near; the loop ends when a step saves less than a ten-thousandth of the cost
DAMPING = Damping(
    start=1e-4, raise_by=10.0, lower_by=10.0, least=1e-9, most=1e8, least_gain=1e-9, enough=1e-4, failures=8
)


@dataclass(frozen=True)
class Solved:
    """A finished solve, with the terms at its solution."""

    unknowns: Unknowns
    terms: tuple[Term, ...]
    fixed: tuple[Any, ...]  # of each term: its scales and losses
    summary: Summary
    columns: Columns
    system: NormalEquations
    free: Bool[Tensor, "n"]

    def term(self, name: str) -> tuple[Any, Any]:
        """A term and what is fixed of it; (None, None) if it takes no part."""
        found = ((term, fixed) for term, fixed in zip(self.terms, self.fixed, strict=True) if term.name == name)
        return next(found, (None, None))

    def rows(self, name: str) -> tuple[Rows, ...]:
        """A term's residuals at the solution; none if it takes no part."""
        term, fixed = self.term(name)
        return () if term is None else term.rows(self.unknowns, fixed)

    def camera_covariance(self) -> Float[Tensor, "t 6 6"]:
        """Of each camera's rotation and centre in the world, were all residuals independent; nan where undetermined."""
        frames = torch.arange(self.columns.frames)
        found = self.system.covariance(self.columns.camera(frames), self.free)
        if found is None:
            return torch.full((len(frames), 6, 6), torch.nan, dtype=torch.float64)
        return found


@dataclass(frozen=True)
class _State:
    """The unknowns, and what was fixed for the step that led to them.

    The weights of the points' own depths are carried on.
    """

    unknowns: Unknowns
    before: tuple[Any, ...]


@dataclass(frozen=True)
class _System:
    """Normal equations of which some unknowns are held."""

    equations: NormalEquations
    free: Bool[Tensor, "n"]

    def step(self, damping: Float[Tensor, "b"]) -> Float[Tensor, "n"] | None:
        """The damped step of the free unknowns."""
        return self.equations.step(float(damping), self.free)

    def size(self, step: Float[Tensor, "n"]) -> float:
        """The largest entry."""
        return float(step.abs().max())


@dataclass
class _LeastSquares:
    """The terms as one problem for `geo4d.solver.lm`: cost and normal equations are sums over them."""

    observations: Observations
    terms: tuple[Term, ...]
    columns: Columns
    structure: Structure
    free: Bool[Tensor, "n"]
    log_focal_bounds: tuple[float, float]

    def fix(self, state: _State) -> tuple[Any, ...]:
        """Scales and losses of every term."""
        return tuple(term.fix(state.unknowns, before) for term, before in zip(self.terms, state.before, strict=True))

    def cost(self, state: _State, fixed: tuple[Any, ...]) -> Float[Tensor, "1"]:
        """The robust objective."""
        pairs = zip(self.terms, fixed, strict=True)
        return torch.stack([rows.cost() for term, f in pairs for rows in term.rows(state.unknowns, f)]).sum()[None]

    def linearise(self, state: _State, fixed: tuple[Any, ...]) -> _System:
        """The normal equations of the reweighted problem."""
        blocks = [block for term, f in zip(self.terms, fixed, strict=True) for block in term.blocks(state.unknowns, f)]
        self._hold(blocks)
        equations = NormalEquations(self.structure)
        for block in blocks:
            equations.add(block.columns, block.matrix, block.gradient)
        return _System(equations, self.free)

    def _hold(self, blocks: list[Block]) -> None:
        """Arranges the unknowns anew if a term couples some that are not near one another, such as frames of a loop."""
        far = [self.structure.beyond(block.columns) for block in blocks]
        pairs = [
            torch.stack(torch.broadcast_tensors(c[:, :, None], c[:, None]), dim=-1).reshape(-1, 2)
            for c in far
            if len(c)
        ]
        if pairs:
            o = self.observations
            self.structure = self.columns.structure(o.windows, o.nearest_window, torch.cat(pairs))

    def move(self, state: _State, fixed: tuple[Any, ...], step: Float[Tensor, "n"]) -> _State:
        """After a step; focal lengths stay within what cameras have."""
        unknowns = state.unknowns.moved(self.columns, step)
        return _State(replace(unknowns, log_focal=unknowns.log_focal.clamp(*self.log_focal_bounds)), fixed)

    def choose(self, better: Bool[Tensor, "b"], new: _State, old: _State) -> _State:
        """A single problem is never mixed."""
        return new if bool(better.all()) else old


def solve(problem: JointProblem, unknowns: Unknowns, held: Bool[Tensor, "n"] | None = None) -> Solved:
    """Levenberg-Marquardt on the robust cost; scales are measured anew after every step that is taken.

    `held` unknowns stay as they are, besides those that the choice of the world leaves open.
    """
    least_squares = _least_squares(problem, unknowns, held)
    state = _State(unknowns, (None,) * len(least_squares.terms))
    found = minimise(least_squares, state, iterations=problem.config.iterations, damping=DAMPING)
    return _solved(least_squares, found.state.unknowns, found.fixed, found.system, found.summary)


def assess(problem: JointProblem, unknowns: Unknowns) -> Solved:
    """What `solve` would return if the unknowns were already what it looks for."""
    least_squares = _least_squares(problem, unknowns, None)
    state = _State(unknowns, (None,) * len(least_squares.terms))
    fixed = least_squares.fix(state)
    cost = float(least_squares.cost(state, fixed))
    summary = Summary(
        converged=True, reason="nothing was to be solved", steps=0, trials=0, first_cost=cost, last_cost=cost
    )
    return _solved(least_squares, unknowns, fixed, least_squares.linearise(state, fixed), summary)


def _least_squares(problem: JointProblem, unknowns: Unknowns, held: Bool[Tensor, "n"] | None) -> _LeastSquares:
    o, columns = problem.observations, problem.columns()
    structure = columns.structure(o.windows, o.nearest_window)
    free = free_unknowns(problem, unknowns, columns)
    if held is not None:
        free &= ~held
    low, high = (float(torch.tensor(bound, dtype=torch.float64).log()) for bound in focal_bounds(problem.config))
    return _LeastSquares(o, build_terms(problem), columns, structure, free, (low, high))


def _solved(
    problem: _LeastSquares, unknowns: Unknowns, fixed: tuple[Any, ...], system: _System, summary: Summary
) -> Solved:
    return Solved(unknowns, problem.terms, fixed, summary, problem.columns, system.equations, problem.free)


def free_unknowns(problem: JointProblem, unknowns: Unknowns, columns: Columns) -> Bool[Tensor, "n"]:
    """What moves: not the first camera, which is the world, nor the first window's scale, which is the unit."""
    free = torch.ones(columns.size, dtype=torch.bool)
    first, frames = torch.zeros(1, dtype=torch.int64), torch.arange(columns.frames)
    moves = bool((unknowns.centre - unknowns.centre[:1]).norm(dim=-1).max() > 1e-9)
    if problem.given.fixes_cameras:
        free[columns.camera(frames)] = False
    free[columns.camera(first)] = False
    if not (problem.given.fixes_cameras and moves):
        free[columns.window(first)[0, 0]] = False
    if problem.log_focal_sigma == 0:
        free[columns.focal(frames)] = False
    return free
