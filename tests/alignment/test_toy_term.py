"""A term of one's own: a class and a name are enough for the joint solve to take it; nothing else has to know of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scenes import camera_path, check, exact_windows

from geo4d.alignment import AlignmentConfig, Priors, align
from geo4d.alignment.joint.config import JointConfig
from geo4d.alignment.joint.problem import JointProblem
from geo4d.alignment.joint.solve import assess
from geo4d.alignment.joint.steps import prepare
from geo4d.alignment.joint.terms import TERMS, Block, Rows, Term, build_terms, register
from geo4d.alignment.joint.unknowns import Columns, Unknowns
from geo4d.errors import ConfigError
from geo4d.solver import banded
from geo4d.solver.robust import SQUARE

FRAMES = 24
USUAL = JointConfig().terms


@dataclass(frozen=True)
class SamePlace:
    """Two frames whose cameras are known to stand in one place: a loop that is closed."""

    columns: Columns
    first: int
    last: int
    sigma: float = 1e-3  # in the alignment's unit
    name: str = "same_place"

    @classmethod
    def of(cls, problem: JointProblem):
        """Of the first and the last frame."""
        columns = problem.columns()
        return cls(columns, 0, columns.frames - 1)

    def fix(self, unknowns: Unknowns, before: None) -> None:
        """The sigma is given."""

    def rows(self, unknowns: Unknowns, fixed: None) -> tuple[Rows, ...]:
        difference = unknowns.centre[self.last] - unknowns.centre[self.first]
        return (
            Rows(
                difference[None],
                torch.ones(1, dtype=torch.float64),
                torch.tensor(self.sigma, dtype=torch.float64),
                SQUARE,
            ),
        )

    def blocks(self, unknowns: Unknowns, fixed: None) -> Iterator[Block]:
        index = self.columns.camera(torch.tensor([self.first, self.last]))[:, 3:].reshape(1, 6)
        identity = torch.eye(3, dtype=torch.float64)
        yield Block.of(index, torch.cat([-identity, identity], dim=1)[None], *self.rows(unknowns, fixed))


@pytest.fixture
def same_place() -> Iterator[AlignmentConfig]:
    """The term under a name, for as long as a test runs."""
    register("same_place", SamePlace.of)
    yield AlignmentConfig(motion=False, joint=JointConfig(terms=(*USUAL, "same_place")))
    del TERMS["same_place"]


@pytest.fixture(scope="module")
def loop():
    """A camera that comes back to where it began; windows of noise that drift."""
    path = camera_path(FRAMES)
    t = torch.linspace(0, 2 * torch.pi, FRAMES, dtype=torch.float64)
    path[:, :3, 3] = 0.8 * torch.stack([t.sin(), 0.2 * (2 * t).sin(), 1 - t.cos()], dim=-1)
    predictions, truth = exact_windows(FRAMES, poses=path, noise=0.1, length=6, stride=3)
    return replace(predictions, ray_direction=None, ray_moment=None), truth  # exact rays would leave no drift


def gap(result) -> float:
    return float(np.linalg.norm(result.cam_to_world[-1, :3, 3] - result.cam_to_world[0, :3, 3]))


def test_a_term_that_only_a_test_knows_closes_a_loop(loop, same_place):
    predictions, truth = loop
    without, closed = align(predictions, config=AlignmentConfig(motion=False)), align(predictions, config=same_place)
    assert gap(closed) < 0.15 * gap(without) and gap(without) > 0.01
    loose = {"depth": 0.1, "ate": 1.0, "focal": 0.05}
    errors = [check(result, truth, **loose)[1].ate_sim3 for result in (without, closed)]
    assert errors[1] < errors[0]
    assert closed.diagnostics["joint"]["converged"]


def test_a_term_that_is_not_listed_changes_nothing(loop, same_place):
    predictions, _ = loop
    listed = align(predictions, config=AlignmentConfig(motion=False))
    torch.testing.assert_close(
        listed.cam_to_world, align(predictions, config=AlignmentConfig(motion=False)).cam_to_world
    )


def toy_problem(terms=USUAL, frames=FRAMES, **options):
    config = AlignmentConfig(motion=False, joint=JointConfig(samples=16, terms=terms))
    predictions, _ = exact_windows(frames, **options)
    ready = prepare(predictions, config, Priors())
    return ready, ready.problem()


def test_terms_come_in_the_order_that_is_listed_and_without_those_that_have_nothing(same_place):
    _, problem = toy_problem(("same_place", "focal", "poses", "points"))
    terms = build_terms(problem)
    assert [term.name for term in terms] == ["same_place", "focal", "points"]  # no poses were given
    assert all(isinstance(term, Term) for term in terms)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (("points", "gravity"), "There is no term 'gravity'; expected some of points, rays"),
        (("rays", "smoothness", "focal"), "terms must list 'points'"),
        (("points", "focal", "points"), "lists 'points' twice"),
    ],
)
def test_lists_of_terms_that_cannot_work_are_refused(terms, message):
    predictions, _ = exact_windows(6, length=4, stride=2)
    with pytest.raises(ConfigError, match=message):
        align(predictions, config=AlignmentConfig(joint=JointConfig(terms=terms)))


def test_a_name_is_given_once():
    with pytest.raises(ConfigError, match="There is a term 'points' already"):
        register("points", SamePlace.of)


def test_a_term_may_couple_frames_far_apart_in_a_long_video(same_place, monkeypatch):
    """There the system is a band, which must be wide enough for what the term couples."""
    ready, problem = toy_problem(same_place.joint.terms, 60, length=6, stride=3, noise=0.02)
    dense = assess(problem, ready.start)
    assert dense.system.structure.is_dense
    expected = dense.system.step(1e-3, dense.free)
    monkeypatch.setattr(banded, "DENSE_UP_TO", 0)
    band = assess(problem, ready.start)
    usual = assess(replace(problem, config=replace(problem.config, terms=USUAL)), ready.start)
    assert not band.system.structure.is_dense and band.system.structure.bandwidth > usual.system.structure.bandwidth
    torch.testing.assert_close(band.system.step(1e-3, band.free), expected, rtol=1e-5, atol=1e-8)
