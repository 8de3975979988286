"""The paper's objective by first-order optimisation, beside the fast solver; equal trust in the dense fusion."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scenes import check, exact_windows

from geo4d.alignment import AlignmentConfig, align
from geo4d.alignment.config import PaperConfig
from geo4d.alignment.depth.config import DepthConfig
from geo4d.alignment.depth.fusion import Fusion
from geo4d.alignment.depth.sources import Candidates
from geo4d.errors import AlignmentError, ConfigError

PAPER = AlignmentConfig(solver="paper", paper=PaperConfig(steps=150))


def test_the_loss_falls_and_the_scene_comes_out() -> None:
    predictions, truth = exact_windows(20, noise=0.03)
    result = align(predictions, config=PAPER)
    assert result.diagnostics["solver"] == "paper"
    assert result.diagnostics["last_loss"] < result.diagnostics["first_loss"]
    check(result, truth, depth=0.05, ate=0.15, focal=0.2)
    np.testing.assert_allclose(result.cam_to_world[0], np.eye(4), atol=1e-6)


def test_fast_is_the_better_one_on_noisy_windows() -> None:
    predictions, (depth, _) = exact_windows(20, noise=0.05)
    errors = {}
    for solver in ("fast", "paper"):
        result = align(predictions, config=AlignmentConfig(solver=solver, paper=PaperConfig(steps=150)))  # type: ignore[arg-type]
        ratio = result.depth / depth
        errors[solver] = float(np.abs(ratio / np.median(ratio) - 1).mean())
    assert errors["fast"] < errors["paper"]


def test_any_terms_beside_the_points() -> None:
    predictions, truth = exact_windows(18)
    bare = dataclasses.replace(predictions, disparity=None, ray_direction=None, ray_moment=None)
    result = align(bare, config=PAPER)
    assert result.diagnostics["terms"] == ["points"]
    check(result, truth, depth=0.05, ate=0.1, focal=0.2)


def test_what_the_paper_solver_cannot_do_is_said() -> None:
    predictions, _ = exact_windows(16)
    with pytest.raises(ConfigError, match="works on points"):
        AlignmentConfig(solver="paper", use_points=False)
    with pytest.raises(ConfigError, match="paper needs at least 1 step"):
        AlignmentConfig(paper=PaperConfig(steps=0))
    with pytest.raises(AlignmentError, match="there are none"):
        align(dataclasses.replace(predictions, points=None, weight=None), config=PAPER)


def test_the_modality_that_agrees_with_itself_is_trusted_more() -> None:
    """By the square of the noise; and a window that agrees with no other one is not."""
    windows = torch.arange(8) + torch.tensor([[0], [2], [4], [6]])
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(14, 6, 8, generator=generator)

    class Said:
        modality = "said"

        def __init__(self, noise: float) -> None:
            self.values = truth[windows] + noise * torch.randn(4, 8, 6, 8, generator=generator)

        def __call__(self, rows: torch.Tensor, index: torch.Tensor | None) -> Candidates:
            values = self.values[rows[:, 0], rows[:, 1]].flatten(1)[:, index]
            return Candidates(values, torch.ones_like(values))

    sources, pixels = [Said(0.02), Said(0.04)], torch.arange(48)
    first, second = Fusion(windows, sources, DepthConfig()).balanced(pixels).trust
    assert (second / first).median() == pytest.approx(0.25, rel=0.3)
    sources[0].values[2] += 1.0
    assert (Fusion(windows, sources, DepthConfig()).balanced(pixels).trust[0] < 0.1).tolist() == [
        False,
        False,
        True,
        False,
    ]
    assert (Fusion(windows[:1], sources, DepthConfig()).balanced(pixels).trust == 1).all()
