"""The acceleration prior on centres and rotations, in place of the paper's Eq. 9, which would punish motion itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.joint.observations import Observations
from geo4d.alignment.joint.problem import JointProblem, WindowMotion
from geo4d.alignment.joint.terms.base import Block, Rows, acceleration
from geo4d.alignment.joint.unknowns import Columns, Unknowns
from geo4d.geometry.rotation import so3_log

LEAST = 1e-6  # radians, and depths, a frame squared: rounding


@dataclass(frozen=True)
class SmoothnessFixed:
    """Sizes of typical accelerations."""

    centre: Float[Tensor, ""]
    rotation: Float[Tensor, ""]


@dataclass(frozen=True)
class SmoothnessTerm:
    """See the module.

    Centres count in the unit of the depth around them, which is solved for too: in the world's unit, a scene that
    shrinks along the video would move more smoothly.
    """

    observations: Observations
    columns: Columns
    centre_weight: float  # by that of a frame's sampled pixels
    rotation_weight: float
    window_motion: WindowMotion
    smoothest: float  # of the accelerations of the per-window PnP poses, below which a path does not count as smoother
    name: str = "smoothness"

    @classmethod
    def of(cls, problem: JointProblem) -> SmoothnessTerm | None:
        """The part of a joint problem; None for fewer than three frames."""
        if problem.observations.num_frames < 3:
            return None
        c = problem.config
        return cls(
            problem.observations,
            problem.columns(),
            c.smoothness,
            c.rotation_smoothness,
            problem.window_motion,
            c.smoothest,
        )

    def errors(self, unknowns: Unknowns) -> tuple[Float[Tensor, "s 3"], Float[Tensor, "s 3"]]:
        """Accelerations of the centres, in depths, and of the rotations, in radians."""
        unit = self.observations.local_unit(unknowns.windows.scale)
        return acceleration(unknowns.centre) / unit[1:-1, None], angular_acceleration(unknowns.rotation)

    def fix(self, unknowns: Unknowns, before: SmoothnessFixed | None) -> SmoothnessFixed:
        """Medians.

        Without a floor, smoothing would lower what it is scaled by, and end in a camera that does not move.
        """
        centre, rotation = (error.norm(dim=-1).median() for error in self.errors(unknowns))
        floors = (
            self.smoothest * self.window_motion.acceleration + LEAST,
            self.smoothest * self.window_motion.angular_acceleration + LEAST,
        )
        return SmoothnessFixed(centre.clamp_min(floors[0]), rotation.clamp_min(floors[1]))

    def rows(self, unknowns: Unknowns, fixed: SmoothnessFixed) -> tuple[Rows, ...]:
        """Centres and rotations."""
        centre, rotation = self.errors(unknowns)
        weight = torch.full((len(centre),), float(self.observations.weight.shape[-1]), dtype=torch.float64)
        return Rows(centre, self.centre_weight * weight, fixed.centre), Rows(
            rotation, self.rotation_weight * weight, fixed.rotation
        )

    def blocks(self, unknowns: Unknowns, fixed: SmoothnessFixed) -> Iterator[Block]:
        """By three cameras in a row.

        Derivatives by the rotations are those of small angles; the acceptance test answers for the rest.
        """
        o = self.observations
        centres, rotations = self.rows(unknowns, fixed)
        frames = torch.arange(len(centres.residual))
        cameras = torch.stack([self.columns.camera(frames + k) for k in range(3)], dim=1)  # (s, 3, 6)
        identity = torch.eye(3, dtype=torch.float64)
        second = torch.cat([identity, -2 * identity, identity], dim=-1).expand(len(frames), 3, 9)
        yield Block.of(cameras[..., :3].flatten(1), second, rotations)
        unit = o.local_unit(unknowns.windows.scale)[1:-1, None]
        jacobian = torch.cat([second / unit[..., None], -centres.residual[..., None]], dim=-1)  # (s, 3, 10)
        index = torch.cat([cameras[..., 3:].flatten(1), self.columns.window(o.nearest_window[1:-1])[:, :1]], dim=-1)
        yield Block.of(index, jacobian, centres)


def angular_acceleration(rotation: Float[Tensor, "t 3 3"]) -> Float[Tensor, "s 3"]:
    """Differences of the rotation from each frame to the next, as vectors in the world; radians."""
    return so3_log(rotation[1:] @ rotation[:-1].mT).diff(dim=0)
