"""Robust perspective-n-point: many cameras at once, each from points whose places are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from geo4d._typing import Bool, Float, Tensor
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import skew, so3_exp
from geo4d.solver.lm import Damping, minimise
from geo4d.solver.robust import Loss

ROUNDS = 12  # steps at most: short ones end it before
LOSS = Loss.cauchy(1.0)  # in median residuals: narrow, since whole regions of a window's points may be outliers
LONGEST = 0.5  # radians, and units of the points: a step beyond is cut
NEAREST = 1e-3  # depth at which a point behind the camera is held
# short steps alone (radians, and units of the points) end it early: a camera that no longer gains must not stop the
# others
DAMPING = Damping(start=1e-3, raise_by=8.0, lower_by=4.0, least=1e-9, most=1e6, enough=0.0, shortest=1e-6)


def ray_residual(
    cam_to_win: Float[Tensor, "n 4 4"], points: Float[Tensor, "n p 3"], rays: Float[Tensor, "#n p 2"]
) -> tuple[Float[Tensor, "n p 2"], Float[Tensor, "n p 3"]]:
    """X / z - ray, and the points in the camera; behind the camera the depth is held at NEAREST."""
    offset = points - cam_to_win[:, None, :3, 3]
    local = offset @ cam_to_win[:, :3, :3]
    z = local[..., 2:].clamp_min(NEAREST)
    return local[..., :2] / z - rays, torch.cat([local[..., :2], z], dim=-1)


def solve_pnp(
    cam_to_win: Float[Tensor, "n 4 4"],
    points: Float[Tensor, "n p 3"],
    weight: Float[Tensor, "n p"],
    rays: Float[Tensor, "#n p 2"],
    rounds: int = ROUNDS,
) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n"]]:
    """Poses from starts, and the median residual of each (of X / z against the rays' slopes).

    Levenberg-Marquardt with a Cauchy loss; each camera takes only the steps that help it, and none moves another.
    """
    damping = replace(DAMPING, failures=rounds, trials=rounds)
    found = minimise(_Pnp(points, weight, rays), cam_to_win, iterations=rounds, damping=damping)
    return found.state, found.fixed


@dataclass(frozen=True)
class _Pnp:
    """A batch of cameras as a problem for `geo4d.solver.lm`; fixed is each one's median residual."""

    points: Float[Tensor, "n p 3"]
    weight: Float[Tensor, "n p"]
    rays: Float[Tensor, "#n p 2"]

    def fix(self, pose: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n"]:
        """Median residuals of the points with a weight."""
        length = torch.where(self.weight > 0, ray_residual(pose, self.points, self.rays)[0].norm(dim=-1), torch.nan)
        return length.nanmedian(dim=1).values.nan_to_num(1.0).clamp_min(1e-9)

    def _square(self, residual: Float[Tensor, "n p 2"], spread: Float[Tensor, "n"]) -> Float[Tensor, "n p"]:
        return residual.square().sum(-1) / spread[:, None] ** 2

    def cost(self, pose: Float[Tensor, "n 4 4"], spread: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The robust objective."""
        residual = ray_residual(pose, self.points, self.rays)[0]
        return (self.weight * LOSS.value(self._square(residual, spread))).sum(1)

    def linearise(self, pose: Float[Tensor, "n 4 4"], spread: Float[Tensor, "n"]) -> _Normal:
        """Six unknowns each: a rotation from the left, and the centre."""
        residual, local = ray_residual(pose, self.points, self.rays)
        z = local[..., 2]
        # d(x / z) / d local, then d local / d (rotation, centre)
        to_image = torch.zeros(*z.shape, 2, 3, dtype=torch.float64)
        to_image[..., 0, 0] = to_image[..., 1, 1] = 1 / z
        to_image[..., 0, 2], to_image[..., 1, 2] = -local[..., 0] / z.square(), -local[..., 1] / z.square()
        by_rotation = pose[:, None, :3, :3].mT @ skew(self.points - pose[:, None, :3, 3])
        by_centre = -pose[:, None, :3, :3].mT.expand_as(by_rotation)
        jacobian = to_image @ torch.cat([by_rotation, by_centre], dim=-1)  # (n, p, 2, 6)
        w = self.weight * LOSS.weight(self._square(residual, spread))
        normal = torch.einsum("np,npij,npik->njk", w, jacobian, jacobian)
        return _Normal(normal, torch.einsum("np,npij,npi->nj", w, jacobian, residual))

    def move(
        self, pose: Float[Tensor, "n 4 4"], spread: Float[Tensor, "n"], step: Float[Tensor, "n 6"]
    ) -> Float[Tensor, "n 4 4"]:
        """After a step."""
        return rigid(so3_exp(step[:, :3]) @ pose[:, :3, :3], pose[:, :3, 3] + step[:, 3:])

    def choose(
        self, better: Bool[Tensor, "n"], new: Float[Tensor, "n 4 4"], old: Float[Tensor, "n 4 4"]
    ) -> Float[Tensor, "n 4 4"]:
        """The new poses where they are better."""
        return torch.where(better[:, None, None], new, old)


@dataclass(frozen=True)
class _Normal:
    """Normal equations of a batch."""

    matrix: Float[Tensor, "n 6 6"]
    gradient: Float[Tensor, "n 6"]

    def step(self, damping: Float[Tensor, "n"]) -> Float[Tensor, "n 6"]:
        """The damped steps, none longer than LONGEST in any entry."""
        diagonal = self.matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-12)
        damped = self.matrix + torch.diag_embed(damping[:, None] * diagonal + 1e-12)
        return -torch.linalg.solve(damped, self.gradient[..., None])[..., 0].clamp(-LONGEST, LONGEST)

    def size(self, step: Float[Tensor, "n 6"]) -> float:
        """The largest entry."""
        return float(step.abs().max())
