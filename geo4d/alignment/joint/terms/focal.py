"""The term of the focal length: near its first estimate, and smooth along time where it varies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.joint.problem import JointProblem
from geo4d.alignment.joint.terms.base import Block, Rows, acceleration
from geo4d.alignment.joint.unknowns import Columns, Unknowns
from geo4d.solver.robust import SQUARE

EXACTLY = 1e-9  # sigma that stands for 0


@dataclass(frozen=True)
class FocalTerm:
    """See the module."""

    columns: Columns
    log_focal: Float[Tensor, "t"]
    sigma: float
    zoom_sigma: float | None  # of second differences; None: one focal length
    evidence: float  # weight of the sampled pixels of a frame
    weight: float  # of the first estimate, by that
    name: str = "focal"

    @classmethod
    def of(cls, problem: JointProblem) -> FocalTerm:
        """The part of a joint problem."""
        o = problem.observations
        zoom = problem.config.zoom_acceleration_sigma if problem.zooms else None
        evidence = float(o.weight.sum()) / o.num_frames
        return cls(
            problem.columns(),
            problem.log_focal,
            max(problem.log_focal_sigma, EXACTLY),
            zoom,
            evidence,
            problem.config.focal_weight,
        )

    def fix(self, unknowns: Unknowns, before: None) -> None:
        """The sigmas are given."""

    def rows(self, unknowns: Unknowns, fixed: None) -> tuple[Rows, ...]:
        """Off the first estimate, and its second differences."""

        def given(error: Tensor, share: float, sigma: float) -> Rows:
            weight = torch.full((len(error),), share * self.evidence, dtype=torch.float64)
            return Rows(error, weight, torch.tensor(sigma, dtype=torch.float64), SQUARE)

        off = given((unknowns.log_focal - self.log_focal)[:, None], self.weight, self.sigma)
        if self.zoom_sigma is None:
            return (off,)
        return off, given(acceleration(unknowns.log_focal[:, None]), 1.0, self.zoom_sigma)

    def blocks(self, unknowns: Unknowns, fixed: None) -> Iterator[Block]:
        """By each frame's focal length, which may be one for all."""
        frames = torch.arange(len(self.log_focal))
        off, *zoom = self.rows(unknowns, fixed)
        yield Block.of(self.columns.focal(frames)[:, None], torch.ones(len(frames), 1, 1, dtype=torch.float64), off)
        for rows in zoom:
            second = torch.tensor([[1.0, -2.0, 1.0]], dtype=torch.float64).expand(len(rows.residual), 1, 3)
            yield Block.of(self.columns.focal(frames[: len(second), None] + torch.arange(3)), second, rows)
