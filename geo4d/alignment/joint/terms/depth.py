"""The term of depth that was given: log z of the sampled points against it, up to one scale of the whole video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.joint.observations import Observations
from geo4d.alignment.joint.problem import JointProblem
from geo4d.alignment.joint.terms.base import Block, Rows
from geo4d.alignment.joint.terms.points import look, point_jacobian
from geo4d.alignment.joint.unknowns import Columns, Unknowns


@dataclass(frozen=True)
class DepthTerm:
    """See the module."""

    observations: Observations
    columns: Columns
    log_depth: Float[Tensor, "t p"]  # nan where unknown
    sigma: float
    name: str = "depth"

    @classmethod
    def of(cls, problem: JointProblem) -> DepthTerm | None:
        """The part of a joint problem; None without given depth."""
        given = problem.given
        if given.log_depth is None:
            return None
        return cls(problem.observations, problem.columns(), given.log_depth, given.log_depth_sigma)

    def fix(self, unknowns: Unknowns, before: None) -> None:
        """The sigma is given."""

    def rows(self, unknowns: Unknowns, fixed: None) -> tuple[Rows, ...]:
        """One a sampled pixel; 0 with no weight where the depth is unknown."""
        o = self.observations
        given = self.log_depth[o.windows]
        residual = torch.where(given.isfinite(), look(o, unknowns).log_z - given - unknowns.log_depth_scale, 0.0)
        weight = torch.where(given.isfinite(), (o.weight > 0).double(), 0.0)
        return (Rows(residual[..., None], weight, torch.tensor(self.sigma, dtype=torch.float64)),)

    def blocks(self, unknowns: Unknowns, fixed: None) -> Iterator[Block]:
        """By camera, window and the scale of the given depth, a window at a time."""
        (rows,) = self.rows(unknowns, fixed)
        seen, o = look(self.observations, unknowns), self.observations
        for g, frames in enumerate(o.windows):
            window = torch.full((len(frames), 1), g)
            jacobian = point_jacobian(unknowns, seen.local[g][:, None], seen.world[g][:, None], frames, window)
            jacobian = jacobian[:, 0, :, 2:]  # (v, p, 1, 14): of log z alone
            minus = torch.full_like(jacobian[..., :1], -1.0)
            jacobian = torch.cat([jacobian[..., :6], jacobian[..., 7:], minus], dim=-1)
            stiffness = rows.stiffness()[g][..., None, None]
            scale = torch.full((len(frames), 1), self.columns.depth)
            index = torch.cat([self.columns.camera(frames), self.columns.window(window[:, 0]), scale], dim=-1)
            matrix = ((stiffness * jacobian).mT @ jacobian).sum(1)
            yield Block(index, matrix, (stiffness * jacobian * rows.residual[g][..., None]).sum((1, 2)))
