"""The normal equations, banded and dense, against a matrix written out and solved by torch."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geo4d.solver import banded as linear
from geo4d.solver.banded import NormalEquations, Structure, arrange

LAW = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**31)


class System(NamedTuple):
    """A system twice: as the solver gathers it, and as a matrix."""

    equations: NormalEquations
    matrix: torch.Tensor
    gradient: torch.Tensor
    sizes: np.ndarray
    pairs: np.ndarray

    def blocks(self):
        """Numbers of the unknowns of each block."""
        ends = np.concatenate([[0], np.cumsum(self.sizes)])
        return [torch.arange(a, b) for a, b in pairwise(ends)]


def cameras_and_windows(generator, frames, length, closures):
    """Blocks of six a frame and seven a window, in an order of their own, and which of them meet."""
    starts = list(range(0, frames - length + 1, max(1, length // 2)))
    members = [list(range(start, start + length)) for start in starts]
    for _ in range(closures):
        members.append(sorted(generator.choice(frames, 2, replace=False).tolist()))
    pairs = [(frame, frames + g) for g, member in enumerate(members) for frame in member]
    pairs += list(pairwise(range(frames)))
    sizes = np.array([6] * frames + [7] * len(members))
    return sizes, np.array(pairs)


def random_system(sizes, pairs, border, generator, *, rows=9):
    """J^T W J of residuals that each see two blocks and the border, and the same added up by hand."""
    total = int(sizes.sum()) + border
    structure = arrange(sizes, pairs, border)
    equations = NormalEquations(structure)
    matrix, gradient = torch.zeros(total, total, dtype=torch.float64), torch.zeros(total, dtype=torch.float64)
    own = np.concatenate([[0], np.cumsum(sizes)])
    every = [np.arange(own[k], own[k + 1]) for k in range(len(sizes))]
    groups = [np.concatenate([every[a], every[b]] if a != b else [every[a]]) for a, b in pairs]
    for group in groups + every:
        at = torch.from_numpy(np.concatenate([group, np.arange(total - border, total)]))
        jacobian = torch.from_numpy(generator.normal(size=(rows, len(at))))
        residual = torch.from_numpy(generator.normal(size=rows))
        block, pull = jacobian.T @ jacobian, jacobian.T @ residual
        equations.add(at[None], block[None], pull[None])
        matrix[at[:, None], at] += block
        gradient[at] += pull
    return System(equations, matrix, gradient, sizes, pairs)


@st.composite
def systems(draw):
    """Windows over a chain, loop closures, a border; or blocks of any sizes in a chain."""
    generator = np.random.default_rng(draw(SEEDS))
    border = draw(st.sampled_from([0, 1, 9]))
    if draw(st.booleans()):
        frames = draw(st.integers(6, 24))
        sizes, pairs = cameras_and_windows(generator, frames, draw(st.integers(2, 5)), draw(st.integers(0, 1)))
    else:
        count = draw(st.integers(2, 25))
        sizes = np.array(draw(st.lists(st.integers(1, 7), min_size=count, max_size=count)))
        order = generator.permutation(count)
        pairs = np.stack([order[:-1], order[1:]], axis=1)
    return random_system(sizes, pairs, border, generator)


def reference_step(system, damping, free):
    matrix = system.matrix + damping * system.matrix.diagonal().diag()
    step = torch.zeros_like(system.gradient)
    step[free] = -torch.linalg.solve(matrix[free][:, free], system.gradient[free])
    return step


@LAW
@given(systems(), st.sampled_from([0.0, 1e-6, 0.1, 10.0]), SEEDS)
def test_a_step_solves_the_damped_system_of_the_free_unknowns(system, damping, seed):
    free = torch.from_numpy(np.random.default_rng(seed).random(len(system.gradient)) < 0.8)
    step = system.equations.step(damping, free)
    torch.testing.assert_close(step, reference_step(system, damping, free), rtol=1e-6, atol=1e-8)


def banded_system(seed, *, frames=40, border=3, closures=0):
    """A system that goes by the band, as it would if it were larger."""
    generator = np.random.default_rng(seed)
    system = random_system(*cameras_and_windows(generator, frames, 4, closures), border, generator)
    assert not system.equations.structure.is_dense
    return system


@pytest.fixture(scope="module", autouse=True)
def small_bands():
    """A hundred unknowns are enough for a band here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "DENSE_UP_TO", 60)
        yield


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([0, 1, 9]), st.integers(0, 1), st.sampled_from([0.0, 1e-3, 1.0]))
def test_the_band_and_its_border_solve_the_same_system(seed, border, closures, damping):
    system = banded_system(seed, border=border, closures=closures)
    free = torch.from_numpy(np.random.default_rng(seed).random(len(system.gradient)) < 0.85)
    step = system.equations.step(damping, free)
    torch.testing.assert_close(step, reference_step(system, damping, free), rtol=1e-6, atol=1e-8)


def test_a_large_system_goes_by_the_band_of_itself():
    generator = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "DENSE_UP_TO", 700)
        system = random_system(*cameras_and_windows(generator, 100, 4, 2), 8, generator)
        assert len(system.gradient) > 708 and not system.equations.structure.is_dense
        free = torch.ones(len(system.gradient), dtype=torch.bool)
        step = system.equations.step(0.01, free)
        assert arrange(np.full(50, 7), np.array([[0, 1]]), 0).is_dense
    torch.testing.assert_close(step, reference_step(system, 0.01, free), rtol=1e-6, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([0, 1, 9]), st.integers(0, 2), st.booleans())
def test_covariances_are_blocks_of_the_inverse(seed, border, closures, dense):
    frames = 5 if dense else 40
    generator = np.random.default_rng(seed)
    system = random_system(*cameras_and_windows(generator, frames, 4, closures), border, generator)
    assert system.equations.structure.is_dense == dense
    free = torch.from_numpy(generator.random(len(system.gradient)) < 0.9)
    inverse = torch.zeros_like(system.matrix)
    at = torch.nonzero(free)[:, 0]
    inverse[at[:, None], at] = torch.linalg.inv(system.matrix[free][:, free])
    blocks = system.blocks()
    cameras, windows = (
        torch.stack(blocks[:frames]),
        torch.stack(blocks[frames : frames + len(system.sizes) - frames - closures]),
    )
    coupled = torch.stack([torch.cat([blocks[a], blocks[b]]) for a, b in system.pairs if a < frames <= b])
    for columns in (cameras, windows, coupled):
        expected = inverse[columns[:, :, None], columns[:, None, :]]
        torch.testing.assert_close(system.equations.covariance(columns, free), expected, rtol=1e-5, atol=1e-8)


@LAW
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), SEEDS, st.integers(0, 5), st.integers(0, 40))
def test_every_unknown_has_one_place_and_what_meets_is_within_the_band(sizes, seed, border, meetings):
    generator = np.random.default_rng(seed)
    sizes, count = np.array(sizes), len(sizes)
    pairs = np.concatenate([np.arange(count).repeat(2).reshape(-1, 2), generator.integers(0, count, (meetings, 2))])
    structure = arrange(sizes, pairs, border)
    place, main = structure.place.numpy(), int(sizes.sum())
    assert sorted(place) == list(range(main + border)) and structure.size == main + border
    assert (place[main:] == main + np.arange(border)).all()
    ends = np.concatenate([[0], np.cumsum(sizes)])
    blocks = [place[a:b] for a, b in pairwise(ends)]
    assert all((np.diff(block) == 1).all() for block in blocks)
    apart = [np.abs(blocks[a][:, None] - blocks[b]).max() for a, b in pairs]
    assert structure.bandwidth == max(apart)


@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_chain_becomes_narrow_again(seed):
    order = np.random.default_rng(seed).permutation(200)
    links = np.concatenate([np.stack([order[:-k], order[k:]], axis=1) for k in (1, 2, 3)])
    structure = arrange(np.full(200, 6), links, 2)
    assert structure.bandwidth <= 6 * 2 * 3 and not structure.is_dense
    alone = arrange(np.full(4, 6), np.stack([np.arange(4)] * 2, axis=1), 0)
    assert alone.bandwidth == 5


def test_everything_linked_with_everything_is_dense():
    meetings = np.stack(np.triu_indices(40), axis=1)
    assert arrange(np.full(40, 6), meetings, 1).is_dense


def blocks_of_six(fill, *, dense):
    """Thirty blocks in a chain (three if dense), of which each adds fill(number)."""
    count = 3 if dense else 30
    own = np.arange(count)
    equations = NormalEquations(arrange(np.full(count, 6), np.stack([own[:-1], own[1:]], axis=1), 2))
    assert equations.structure.is_dense == dense
    for k in range(count):
        at = torch.cat([torch.arange(6 * k, 6 * k + 6), 6 * count + torch.arange(2)])
        equations.add(at[None], fill(k)[None].double(), torch.ones(1, 8, dtype=torch.float64))
    return equations, torch.ones(6 * count + 2, dtype=torch.bool)


def test_parts_of_a_step_can_be_held():
    equations, free = blocks_of_six(lambda k: torch.eye(8), dense=False)
    free[7] = False
    step = equations.step(0.0, free)
    assert step[7] == 0 and step[6] == pytest.approx(-1.0)
    covariance = equations.covariance(torch.arange(12).reshape(2, 6), free)
    expected = torch.eye(6, dtype=torch.float64).repeat(2, 1, 1)
    expected[1, 1, 1] = 0
    torch.testing.assert_close(covariance, expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("value", [-1.0, torch.nan], ids=["negative", "nan"])
def test_what_is_not_positive_or_not_finite_has_no_step_and_no_covariance(value, dense):
    equations, free = blocks_of_six(lambda k: torch.eye(8) * (value if k == 1 else 1.0), dense=dense)
    assert equations.step(0.0, free) is None and equations.step(1e-3, free) is None
    assert equations.covariance(torch.arange(6)[None], free) is None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dense", [True, False])
def test_an_unknown_without_evidence_needs_damping(dense):
    equations, free = blocks_of_six(lambda k: torch.eye(8) * (k != 1), dense=dense)
    assert equations.step(0.0, free) is None
    assert bool(equations.step(1e-3, free).isfinite().all())
    covariance = equations.covariance(torch.arange(12).reshape(2, 6), free)
    assert covariance[0].diagonal().max() < 2 < 1e6 < covariance[1].diagonal().min()
    nothing, free = blocks_of_six(lambda _: torch.zeros(8, 8), dense=dense)
    assert nothing.step(1e-3, free) is None
    assert nothing.covariance(torch.arange(6)[None], free) is None


def test_what_is_added_twice_counts_twice():
    once, free = blocks_of_six(lambda k: torch.eye(8), dense=False)
    twice, _ = blocks_of_six(lambda k: 2 * torch.eye(8), dense=False)
    twice.gradient *= 2
    torch.testing.assert_close(twice.step(0.0, free), once.step(0.0, free))
    at = torch.arange(6)[None]
    torch.testing.assert_close(2 * twice.covariance(at, free), once.covariance(at, free))
    structure = Structure(torch.arange(3), 0, 2)
    equations = NormalEquations(structure)
    block = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    # in one call as in several: blocks at the same place must not overwrite one another
    equations.add(
        torch.tensor([[0, 2], [0, 2], [1, 1]]),
        torch.stack([block, block, block]),
        torch.ones(3, 2, dtype=torch.float64),
    )
    assert equations.gradient.tolist() == [2.0, 2.0, 2.0]
    expected = torch.linalg.solve(
        torch.tensor([[4.0, 0, 2], [0, 7, 0], [2, 0, 6]], dtype=torch.float64), -equations.gradient
    )
    torch.testing.assert_close(equations.step(0.0, torch.ones(3, dtype=torch.bool)), expected)


def test_the_band_knows_what_lies_beyond_it():
    structure = banded_system(0, border=3).equations.structure
    near = torch.arange(6)[None].repeat(2, 1)
    far = torch.tensor([[0, 6 * 39, 1], [0, 1, 2]])  # the first camera with the last
    beside = torch.arange(structure.size - 3, structure.size)
    assert len(structure.beyond(near)) == 0 and len(structure.beyond(beside[None])) == 0
    assert structure.beyond(far).tolist() == far[:1].tolist()
    touching = torch.cat([near, beside.expand(2, 3)], dim=1)
    assert len(structure.beyond(touching)) == 0  # what touches all is not in the band
    pairs = np.concatenate([np.stack([np.arange(39), np.arange(1, 40)], axis=1), [[0, 39]]])
    assert len(arrange(np.full(40, 6), pairs, 0).beyond(far)) == 0
