"""Robust losses of one family.

Barron's general loss (A General and Adaptive Robust Loss Function, 2019), of which Cauchy is shape 0. rho(x) = 2 c^2 |a
- 2| / a ((x^2 / (c^2 |a - 2|) + 1)^(a / 2) - 1), which is x^2 for small x whatever the shape a and the size c. The
shape can be learnt from the residuals: the one under which they are most likely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from geo4d._typing import Float, Tensor

SHAPES = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)  # that are tried: from almost redescending to almost squares
SIZES = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0)  # in median residuals
REACH = 30.0  # medians up to which residuals are counted: shapes below 0 have no likelihood without a limit
NEARLY = 1e-3  # of a shape, within which the limits at 0 and 2 are taken
QUADRATIC = 2.0  # the shape that is the square itself


@dataclass(frozen=True)
class Loss:
    """A member of the family; residuals are given in units of their median."""

    shape: float = 0.0
    size: float = 8.0**0.5  # Cauchy's weight is one half at 4 medians

    @classmethod
    def cauchy(cls, width: float) -> Loss:
        """Cauchy's, whose weight is one half at `width`: width^2 log(1 + x^2 / width^2)."""
        return cls(0.0, width / 2**0.5)

    def value(self, square: Tensor) -> Tensor:
        """Loss of squared residuals."""
        c2, b = self.size**2, max(abs(self.shape - 2), NEARLY)  # shape 2 is the square itself
        if self.shape == QUADRATIC:
            return square
        if abs(self.shape) < NEARLY:
            return 2 * c2 * torch.log1p(square / (2 * c2))
        return 2 * c2 * b / self.shape * (torch.pow(square / (c2 * b) + 1, self.shape / 2) - 1)

    def weight(self, square: Any) -> Any:
        """Weight of squared residuals (of torch or numpy) in the reweighted problem.

        The loss's derivative, 1 at zero.
        """
        shape = 0.0 if abs(self.shape) < NEARLY else self.shape
        return (square / (self.size**2 * max(abs(shape - 2), NEARLY)) + 1) ** (shape / 2 - 1)


SQUARE = Loss(shape=2.0)  # least squares: no residual is doubted
GEMAN_MCCLURE = Loss(shape=-2.0, size=0.5)  # x^2 / (1 + x^2): what is far off costs 1, however far


def absolute_weight(residual: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """Weights under which least squares becomes least absolute deviations.

    1 / |r|, rounded off below a thousandth of the mean.
    """
    size = residual.abs()
    return 1 / (size + 1e-3 * size.mean(dim=-1, keepdim=True) + 1e-12)


def learn_loss(square: Float[Tensor, "n"], weight: Float[Tensor, "n"], dimensions: int) -> Loss:
    """The shape and size under which residuals of 1 or 2 dimensions, in units of their median, are most likely.

    The likelihood is exp(-rho / 2) up to `REACH`, its normalisation a sum on a grid.
    """
    use = (weight > 0) & (square < REACH**2)
    if int(use.sum()) < 100:
        return Loss()
    square, weight = square[use], weight[use] / weight[use].sum()
    grid = torch.linspace(0, REACH, 3000, dtype=torch.float64)
    best, found = torch.inf, Loss()
    for shape in SHAPES:
        for size in SIZES:
            loss = Loss(shape, size)
            # of a scaled Gaussian core: the residuals' sigma follows from the size, the tail from the shape
            density = torch.exp(-0.5 * loss.value(grid.square()) / size**2) * grid ** (dimensions - 1)
            cost = float((weight * loss.value(square)).sum()) * 0.5 / size**2 + float(density.sum().log())
            if cost < best:
                best, found = cost, loss
    return found
