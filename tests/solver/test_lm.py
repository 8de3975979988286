"""The damped loop on small problems of its own.

Where it ends, why it says that it ends, and that a batch is its members.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch.func import jacfwd, vmap

from geo4d.solver.lm import FLAT, NO_STEP, NOT_FINITE, OUT_OF_STEPS, SHORT, SINGULAR, Damping, minimise
from geo4d.solver.robust import SQUARE, Loss


@dataclass
class Log:
    """What the loop asked for."""

    damping: list[torch.Tensor] = field(default_factory=list)
    costs: list[torch.Tensor] = field(default_factory=list)
    fixed_at: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Normal:
    """Normal equations (b, k, k) of a batch."""

    matrix: torch.Tensor
    gradient: torch.Tensor
    log: Log

    def step(self, damping):
        self.log.damping.append(damping.clone())
        diagonal = torch.diag_embed(damping[:, None] * self.matrix.diagonal(dim1=1, dim2=2))
        step, info = torch.linalg.solve_ex(self.matrix + diagonal, -self.gradient)
        return None if bool(info.any()) else step

    def size(self, step):
        return float(step.abs().max())


@dataclass(frozen=True)
class Fit:
    """Residuals (n,) of parameters (k,) and data, for each of a batch.

    `fixed` is the typical size where the loss is robust.
    """

    residuals: Callable
    data: torch.Tensor  # (b, ...)
    loss: Loss = SQUARE
    log: Log = field(default_factory=Log)

    def all(self, state):
        return vmap(self.residuals)(state, self.data)

    def fix(self, state):
        self.log.fixed_at.append(state.clone())
        size = self.all(state).abs().median(dim=1).values.clamp_min(1e-9)
        return torch.ones_like(size) if self.loss == SQUARE else size

    def cost(self, state, fixed):
        self.log.costs.append(self.loss.value((self.all(state) / fixed[:, None]).square()).sum(1))
        return self.log.costs[-1]

    def linearise(self, state, fixed):
        r, jacobian = self.all(state), vmap(jacfwd(self.residuals))(state, self.data)
        w = self.loss.weight((r / fixed[:, None]).square()) / fixed[:, None] ** 2
        pull = torch.einsum("bn,bnj,bn->bj", w, jacobian, r)
        return Normal(torch.einsum("bn,bnj,bnk->bjk", w, jacobian, jacobian), pull, self.log)

    def move(self, state, fixed, step):
        return state + step

    def choose(self, better, new, old):
        return torch.where(better[:, None], new, old)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def rosenbrock(p, data):
    """A curved valley, whose end is at (1, 1)."""
    return torch.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]]) + 0 * data


VALLEY = Fit(rosenbrock, torch.zeros(1, 1, dtype=torch.float64))
START = double([[-1.2, 1.0]])
T = torch.linspace(0, 3, 60, dtype=torch.float64)


def decay(p, y):
    return p[0] * torch.exp(-p[1] * T) + p[2] - y


TRUTHS = double([[2.0, 1.0, 0.5], [1.0, 0.4, -1.0], [3.0, 2.5, 0.0]])


def curves(noise=0.01, outliers=0.2):
    """Decays with noise, of which some points are far off on one side."""
    generator = torch.Generator().manual_seed(3)
    y = vmap(decay, in_dims=(0, None))(TRUTHS, torch.zeros_like(T))
    y = y + noise * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    wild = torch.rand(y.shape, generator=generator) < outliers
    return torch.where(wild, y + 2.0, y)


def test_a_curved_valley_is_followed_to_its_end():
    found = minimise(VALLEY, START, iterations=100, damping=Damping())
    torch.testing.assert_close(found.state, double([[1.0, 1.0]]))
    s = found.summary
    assert s.converged and s.reason in (FLAT, NO_STEP)
    assert s.first_cost == pytest.approx(24.2) and s.last_cost < 1e-12
    assert 5 < s.steps <= s.trials < 100
    assert s.as_dict() == {"converged": True, "reason": s.reason, "iterations": s.steps, "trials": s.trials}


@pytest.mark.parametrize("number", range(len(TRUTHS)))
def test_a_robust_fit_is_not_drawn_to_what_is_far_off(number):
    y = curves(outliers=0.1)[number : number + 1]
    start = torch.ones(1, 3, dtype=torch.float64)
    robust, plain = (
        minimise(Fit(decay, y, loss), start, iterations=200, damping=Damping(enough=1e-6))
        for loss in (Loss.cauchy(2.0), SQUARE)
    )
    assert robust.summary.converged and plain.summary.converged

    def off(state):
        return float(vmap(decay)(state, vmap(decay, in_dims=(0, None))(TRUTHS[number : number + 1], 0 * T)).abs().max())

    assert off(robust.state) < 0.03 < 0.1 < off(plain.state)


REASONS = {
    "flat": (Damping(enough=0.5), {}, FLAT, True),
    "short": (Damping(enough=0.0, shortest=1e-3), {}, SHORT, True),
    "no step": (Damping(enough=0.0, failures=3), {"data": double([[0.0]])}, NO_STEP, True),
    "few steps": (Damping(enough=0.0), {"iterations": 3}, OUT_OF_STEPS, False),
    "few trials": (Damping(enough=0.0, trials=3), {}, OUT_OF_STEPS, False),
    "one trial": (Damping(trials=1), {}, OUT_OF_STEPS, False),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_loop_says_why_it_ended(name):
    damping, options, reason, converged = REASONS[name]
    problem = Fit(rosenbrock, options.get("data", VALLEY.data))
    found = minimise(problem, START, iterations=options.get("iterations", 200), damping=damping)
    s = found.summary
    assert (s.reason, s.converged) == (reason, converged)
    assert reason != OUT_OF_STEPS or options.get("iterations", damping.trials) == (s.steps if options else s.trials)
    assert s.last_cost == pytest.approx(float(problem.all(found.state).square().sum()))
    assert s.last_cost <= s.first_cost


def test_few_iterations_are_not_called_convergence_in_words_either():
    s = minimise(VALLEY, START, iterations=2, damping=Damping()).summary
    assert not s.converged and s.reason == "the number of steps is used up" and s.steps == 2


def test_a_system_without_solution_says_so_and_moves_nothing():
    problem = Fit(lambda p, data: torch.stack([p[0] * 0 + data[0], p[1] - 1]), double([[1.0]]))
    found = minimise(problem, START, iterations=50, damping=Damping(failures=4))
    s = found.summary
    assert s.reason == SINGULAR == "the system cannot be solved" and not s.converged
    assert torch.equal(found.state, START) and (s.steps, s.trials) == (0, 4)


def test_a_cost_that_is_not_a_number_is_never_accepted():
    """Newton's step for log x = -2 from x = 10 leads below 0, where there is no logarithm."""
    problem = Fit(lambda p, data: p.log() - data, double([[-2.0]]))
    found = minimise(problem, double([[10.0]]), iterations=100, damping=Damping(start=1e-9, failures=20))
    assert any(bool(cost.isnan().any()) for cost in problem.log.costs)  # it was tried
    assert all(bool((state > 0).all()) for state in problem.log.fixed_at)
    torch.testing.assert_close(found.state.log(), double([[-2.0]]), rtol=0, atol=1e-6)
    assert found.summary.converged


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_start_without_a_finite_cost_has_not_converged(value):
    problem = Fit(lambda p, data: p - data, double([[value]]))
    found = minimise(problem, double([[0.0]]), iterations=10, damping=Damping())
    assert not found.summary.converged and found.summary.reason in (NOT_FINITE, SINGULAR)
    assert torch.equal(found.state, double([[0.0]]))


def test_one_of_a_batch_without_a_finite_cost_leaves_the_others_alone():
    y = torch.cat([curves(outliers=0.0), torch.full((1, len(T)), torch.nan, dtype=torch.float64)])
    start = torch.ones(4, 3, dtype=torch.float64)
    found = minimise(Fit(decay, y), start, iterations=60, damping=Damping(enough=0.0))
    torch.testing.assert_close(found.state[:3], TRUTHS, rtol=0.05, atol=0.05)
    assert torch.equal(found.state[3], start[3]) and not found.summary.converged


SO_MANY = Damping(enough=0.0, failures=30, trials=30)  # trials, whatever they bring: alone as in a batch


def test_a_batch_is_what_each_of_it_is_alone():
    y, start = curves(), torch.ones(3, 3, dtype=torch.float64)
    loss = Loss.cauchy(2.0)
    together = minimise(Fit(decay, y, loss), start, iterations=30, damping=SO_MANY)
    alone = [
        minimise(Fit(decay, y[k : k + 1], loss), start[k : k + 1], iterations=30, damping=SO_MANY) for k in range(3)
    ]
    torch.testing.assert_close(together.state, torch.cat([found.state for found in alone]), rtol=0, atol=1e-12)
    torch.testing.assert_close(together.fixed, torch.cat([found.fixed for found in alone]), rtol=1e-12, atol=0)
    assert together.summary.first_cost == pytest.approx(sum(found.summary.first_cost for found in alone), rel=1e-12)


@pytest.mark.parametrize("damping", [Damping(enough=0.0, shortest=1e-8, failures=40, trials=40), Damping(enough=1e-6)])
def test_a_member_that_is_at_its_end_does_not_stop_the_others(damping):
    y = curves(outliers=0.0, noise=0.0)
    start = torch.cat([TRUTHS[:1], torch.ones(2, 3, dtype=torch.float64)])
    found = minimise(Fit(decay, y), start, iterations=60, damping=damping)
    assert found.summary.converged
    assert torch.equal(found.state[0], start[0])  # nothing to gain
    torch.testing.assert_close(found.state, TRUTHS, rtol=1e-5, atol=1e-5)


def test_each_member_keeps_its_best_state():
    y = curves()
    problem = Fit(decay, y)
    minimise(problem, torch.ones(3, 3, dtype=torch.float64), iterations=60, damping=Damping(enough=1e-9))
    kept = torch.stack([problem.all(state).square().sum(1) for state in problem.log.fixed_at])
    assert bool((kept.diff(dim=0) <= 0).all()) and bool((kept[-1] < kept[0]).all())


def test_damping_rises_with_failures_and_falls_with_steps_within_its_bounds():
    d = Damping(start=1e-2, raise_by=7.0, lower_by=3.0, least=1e-4, most=0.5, enough=0.0, failures=12)
    problem = Fit(rosenbrock, VALLEY.data)
    found = minimise(problem, START, iterations=200, damping=d)
    used = torch.cat(problem.log.damping)
    assert used[0] == d.start and float(used.min()) == d.least and float(used.max()) == d.most
    ratio = used[1:] / used[:-1]
    bounded = (used[1:] == d.least) | (used[1:] == d.most)
    assert bool((bounded | ((ratio - d.raise_by).abs() < 1e-9) | ((ratio - 1 / d.lower_by).abs() < 1e-9)).all())
    assert len(used) == found.summary.trials and int((ratio > 1).sum()) >= 2
    # scales are measured at the start and after every step that is taken
    assert len(problem.log.fixed_at) == found.summary.steps + 1


def test_a_step_that_saves_next_to_nothing_is_not_taken():
    problem = Fit(lambda p, data: torch.stack([p[0] - 1, 10 + 0 * p[0]]), double([[0.0]]))
    start = double([[0.9]])  # of a cost of 100.01 a step can save 0.01
    assert minimise(problem, start, iterations=10, damping=Damping()).summary.steps > 0
    held = minimise(problem, start, iterations=10, damping=replace(Damping(), least_gain=1e-3))
    assert torch.equal(held.state, start) and held.summary.reason == NO_STEP
