"""What a term of the joint problem is, and what is written once for all of them.

Cost, reweighting, normal equations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from geo4d._typing import Float, Int, Tensor
from geo4d.alignment.joint.unknowns import Unknowns
from geo4d.solver.robust import Loss

CAUCHY = Loss()  # half the weight at four typical residuals
SCALE_FLOOR = 1e-7  # of what is measured, in its own unit: rounding


@dataclass(frozen=True)
class Rows:
    """Residuals of one kind with all that weighs them."""

    residual: Float[Tensor, "*n d"]
    weight: Float[Tensor, "*n"]  # 0 or more, in sampled pixels of the point maps
    size: Float[Tensor, ""]  # of a typical residual, in whose unit the loss is taken
    loss: Loss = CAUCHY

    def _square(self) -> Float[Tensor, "*n"]:
        return self.residual.square().sum(-1) / self.size**2

    def cost(self) -> Float[Tensor, ""]:
        """The robust cost of all of them."""
        return (self.weight * self.loss.value(self._square())).sum()

    def stiffness(self) -> Float[Tensor, "*n"]:
        """Weight of each squared residual in the reweighted problem."""
        return self.weight * self.loss.weight(self._square()) / self.size**2


@dataclass(frozen=True)
class Block:
    """A part of the normal equations: J^T W J and J^T W r at some of the unknowns, many of a kind at a time."""

    columns: Int[Tensor, "*n c"]
    matrix: Float[Tensor, "*n c c"]
    gradient: Float[Tensor, "*n c"]

    @classmethod
    def of(cls, columns: Int[Tensor, "*n c"], jacobian: Float[Tensor, "*n d c"], rows: Rows) -> Block:
        """Of residuals with their derivatives by the unknowns at `columns`."""
        weighted = rows.stiffness()[..., None, None] * jacobian
        return cls(columns, jacobian.mT @ weighted, (weighted.mT @ rows.residual[..., None])[..., 0])


@runtime_checkable
class Term(Protocol):
    """One kind of evidence: its residuals, what scales them, and its part of the normal equations."""

    @property
    def name(self) -> str:
        """In the configuration and in reports."""

    def fix(self, unknowns: Unknowns, before: Any) -> Any:
        """What stays as it is while a step is tried: scales, losses.

        `before` is what it was for the last step; None at first.
        """

    def rows(self, unknowns: Unknowns, fixed: Any) -> tuple[Rows, ...]:
        """All residuals."""

    def blocks(self, unknowns: Unknowns, fixed: Any) -> Iterator[Block]:
        """Their normal equations."""


def median_size(length: Tensor, least: float = SCALE_FLOOR) -> Float[Tensor, ""]:
    """Of a typical residual: the median length, at least `least`; 1 where there are none."""
    return length.median().clamp_min(least) if length.numel() else torch.tensor(1.0, dtype=torch.float64)


def acceleration(centre: Float[Tensor, "t c"]) -> Float[Tensor, "s c"]:
    """Second differences along time."""
    return centre[2:] - 2 * centre[1:-1] + centre[:-2]
