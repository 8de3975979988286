"""The one damped least-squares loop (Levenberg-Marquardt).

Of a single problem, or of a batch of small ones that share nothing. A problem says what its robust cost is, what its
normal equations are and how a step moves its state; the loop chooses the damping, takes the steps that lower the cost,
and says whether it converged and why it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch

from geo4d._typing import Bool, Float, Tensor

State = TypeVar("State")
Fixed = TypeVar("Fixed")
Step = TypeVar("Step", covariant=True)

NO_STEP, FLAT, SHORT, OUT_OF_STEPS, SINGULAR, NOT_FINITE = (
    "no step lowers the cost",
    "the cost no longer falls",
    "steps are below the tolerance",
    "the number of steps is used up",
    "the system cannot be solved",
    "the cost is not finite",
)


@runtime_checkable
class System(Protocol[Step]):
    """Normal equations at one state."""

    def step(self, damping: Float[Tensor, "b"]) -> Step | None:
        """The damped step of each problem of the batch; None if the system cannot be solved."""

    def size(self, step: Any) -> float:
        """The largest entry of a step, in the units of the tolerance."""


@runtime_checkable
class LeastSquaresProblem(Protocol[State, Fixed]):
    """What is minimised. `Fixed` is all that stays as it is while a step is tried: scales, robust losses, weights."""

    def fix(self, state: State) -> Fixed:
        """Measured at a state, before each step."""

    def cost(self, state: State, fixed: Fixed) -> Float[Tensor, "b"]:
        """The robust cost of each problem of the batch."""

    def linearise(self, state: State, fixed: Fixed) -> System[Any]:
        """The normal equations of the reweighted problem."""

    def move(self, state: State, fixed: Fixed, step: Any) -> State:
        """The state after a step."""

    def choose(self, better: Bool[Tensor, "b"], new: State, old: State) -> State:
        """Of each problem of the batch the new state where it is better; only asked of batches of several."""


@dataclass(frozen=True)
class Damping:
    """Of the diagonal, relative: where it begins, how it changes, and when to stop."""

    start: float = 1e-4
    raise_by: float = 10.0
    lower_by: float = 10.0
    least: float = 1e-9
    most: float = 1e8
    least_gain: float = 0.0  # of the cost, relative: a step counts if it saves more
    enough: float = 1e-4  # relative gain of a step, below which the loop ends
    shortest: float = 0.0  # largest entry of a step, below which the loop ends
    failures: int = 8  # steps in a row that do not help
    trials: int | None = None  # steps in all, taken or not; None: no limit of its own


@dataclass(frozen=True)
class Summary:
    """How a solve ended."""

    converged: bool
    reason: str
    steps: int  # that were taken
    trials: int  # that were tried
    first_cost: float  # of the whole batch, each at its own scales
    last_cost: float

    def as_dict(self) -> dict[str, Any]:
        """For `diagnostics`."""
        return {"converged": self.converged, "reason": self.reason, "iterations": self.steps, "trials": self.trials}


@dataclass(frozen=True)
class Minimum(Generic[State, Fixed]):
    """Where a solve ended, with what was fixed and linearised last."""

    state: State
    fixed: Fixed
    system: Any
    summary: Summary


def minimise(
    problem: LeastSquaresProblem[State, Fixed], state: State, *, iterations: int, damping: Damping
) -> Minimum[State, Fixed]:
    """Steps until the cost no longer falls, at most `iterations` of them.

    The problems of a batch have a damping each and end together: each keeps the best state that it has reached.
    """
    d = damping
    fixed = problem.fix(state)
    before = problem.cost(state, fixed)
    first, factor = float(before.sum()), torch.full_like(before, d.start)
    system, steps, trials, failures, reason = problem.linearise(state, fixed), 0, 0, 0, ""
    while not reason:
        trials += 1
        step = system.step(factor)
        if step is not None and system.size(step) < d.shortest:
            reason = SHORT
            break
        better = torch.zeros_like(before, dtype=torch.bool)
        if step is not None:
            candidate = problem.move(state, fixed, step)
            after = problem.cost(candidate, fixed)
            better = after < before * (1 - d.least_gain)
        factor = torch.where(better, factor / d.lower_by, factor * d.raise_by).clamp(d.least, d.most)
        if bool(better.any()):
            gain = float((1 - after / before.clamp_min(1e-300))[better].max())
            state = candidate if bool(better.all()) else problem.choose(better, candidate, state)
            steps, failures = steps + 1, 0
            reason = FLAT if gain < d.enough else OUT_OF_STEPS if steps >= iterations else ""
            fixed = problem.fix(state)
            before = problem.cost(state, fixed)
            if not reason and trials != d.trials:
                del system  # the next one takes its memory
                system = problem.linearise(state, fixed)
        else:
            failures += 1
            reason = "" if failures < d.failures else SINGULAR if step is None else NO_STEP
        if not reason and trials == d.trials:
            reason = OUT_OF_STEPS
    if reason != SINGULAR and not bool(before.isfinite().all()):  # no step counts as better than such a start
        reason = NOT_FINITE
    summary = Summary(reason in (FLAT, SHORT, NO_STEP), reason, steps, trials, first, float(before.sum()))
    return Minimum(state, fixed, system, summary)
