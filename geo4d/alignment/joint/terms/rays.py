"""The term of the ray cameras.

Their rotations and centres against the trajectory (paper Eq. 8), a similarity for each window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.joint.observations import Observations, WindowRays
from geo4d.alignment.joint.problem import JointProblem
from geo4d.alignment.joint.terms.base import Block, Rows, median_size
from geo4d.alignment.joint.unknowns import Columns, Unknowns
from geo4d.geometry.rotation import skew, so3_log
from geo4d.geometry.similarity import Similarity
from geo4d.solver.robust import SQUARE

LEAST = 1e-6  # radians, and units of the window, below which residuals do not count as smaller: rounding


@dataclass(frozen=True)
class RaysFixed:
    """Sizes of typical residuals, and what brings centres to the unit of each window's points."""

    rotation: Float[Tensor, ""]
    centre: Float[Tensor, ""]
    unit: Float[Tensor, "g"]


@dataclass(frozen=True)
class RaysTerm:
    """See the module. The scale of cameras that show no path is kept where the initial guess put it."""

    observations: Observations
    columns: Columns
    cameras: WindowRays
    log_scale: Float[Tensor, "g"] | None
    weight: float  # of one camera, by that of a frame's sampled pixels
    name: str = "rays"

    @classmethod
    def of(cls, problem: JointProblem) -> RaysTerm | None:
        """The part of a joint problem; None without ray cameras."""
        if problem.rays is None:
            return None
        return cls(
            problem.observations, problem.columns(), problem.rays, problem.ray_log_scale, problem.config.ray_weight
        )

    @property
    def _share(self) -> float:
        return self.weight * self.observations.weight.shape[-1]

    def errors(self, unknowns: Unknowns) -> tuple[Float[Tensor, "g v 3"], Float[Tensor, "g v 3"]]:
        """Rotation vectors (radians), and centres in the unit of the ray cameras.

        In the world's, a smaller world would fit better.
        """
        o, r = self.observations, _rays(unknowns)
        rotation, centre = unknowns.rotation[o.windows], unknowns.centre[o.windows]
        rotation_error = so3_log(rotation.mT @ r.rotation[:, None] @ self.cameras.cam_to_win[..., :3, :3])
        centre_error = (centre - r.translation[:, None]) @ r.rotation / r.scale[
            :, None, None
        ] - self.cameras.cam_to_win[..., :3, 3]
        return rotation_error, centre_error

    def fix(self, unknowns: Unknowns, before: RaysFixed | None) -> RaysFixed:
        """Medians of the residuals as they are."""
        rotation_error, centre_error = self.errors(unknowns)
        unit = _rays(unknowns).scale / (unknowns.windows.scale * self.observations.extent)
        usable = self.cameras.usable
        rotation_size, centre_size = (
            median_size(e.norm(dim=-1)[usable], LEAST) for e in (rotation_error, centre_error * unit[:, None, None])
        )
        return RaysFixed(rotation_size, centre_size, unit)

    def rows(self, unknowns: Unknowns, fixed: RaysFixed) -> tuple[Rows, ...]:
        """Rotations, centres, and the scales that are kept."""
        rotation_error, centre_error = self.errors(unknowns)
        share = self._share * self.cameras.usable.double()
        found = [
            Rows(rotation_error, share, fixed.rotation),
            Rows(centre_error * fixed.unit[:, None, None], share, fixed.centre),
        ]
        if self.log_scale is not None:
            off = (_rays(unknowns).scale.log() - self.log_scale)[:, None]
            found.append(
                Rows(off, torch.full_like(share[:, 0], self._share), torch.tensor(1.0, dtype=torch.float64), SQUARE)
            )
        return tuple(found)

    def blocks(self, unknowns: Unknowns, fixed: RaysFixed) -> Iterator[Block]:
        """By camera (6) and ray similarity (7)."""
        o, r = self.observations, _rays(unknowns)
        back = unknowns.rotation[o.windows].mT  # (g, v, 3, 3)
        similarity = self.columns.ray(torch.arange(len(o.windows)))
        index = torch.cat([self.columns.camera(o.windows), similarity[:, None].expand(*o.windows.shape, 7)], dim=-1)
        zero = torch.zeros_like(back)
        by_rotation = torch.cat([-back, zero, zero[..., :1], back, zero], dim=-1)
        into = (r.rotation.mT / r.scale[:, None, None])[:, None].expand_as(back)
        arm = unknowns.centre[o.windows] - r.translation[:, None]
        by_centre = (
            torch.cat([zero, into, -(into @ arm[..., None]), into @ skew(arm), -into], dim=-1)
            * fixed.unit[:, None, None, None]
        )
        rotations, centres, *scales = self.rows(unknowns, fixed)
        yield Block.of(index, by_rotation, rotations)
        yield Block.of(index, by_centre, centres)
        for kept in scales:
            yield Block.of(similarity[:, :1], torch.ones(len(similarity), 1, 1, dtype=torch.float64), kept)


def _rays(unknowns: Unknowns) -> Similarity:
    assert unknowns.rays is not None
    return unknowns.rays
