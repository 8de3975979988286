"""The term of given poses: cameras against them, after one similarity that brings their world to ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.joint.problem import JointProblem
from geo4d.alignment.joint.terms.base import Block, Rows
from geo4d.alignment.joint.unknowns import Columns, Unknowns
from geo4d.geometry.rotation import skew, so3_log
from geo4d.geometry.similarity import Similarity
from geo4d.solver.robust import SQUARE


@dataclass(frozen=True)
class PosesTerm:
    """See the module; sigmas are given, and the loss is not robust, since the user sets them."""

    columns: Columns
    poses: Float[Tensor, "t 4 4"]
    rotation_sigma: float  # radians
    centre_sigma: float  # in the poses' unit
    pixels: float  # sampled pixels for which each of them counts
    name: str = "poses"

    @classmethod
    def of(cls, problem: JointProblem) -> PosesTerm | None:
        """The part of a joint problem; None without given poses, or where they are exact and nothing moves."""
        given = problem.given
        if given.poses is None or given.fixes_cameras:
            return None
        return cls(
            problem.columns(), given.poses, given.rotation_sigma, given.centre_sigma, problem.config.prior_pixels
        )

    def errors(self, unknowns: Unknowns) -> tuple[Float[Tensor, "t 3"], Float[Tensor, "t 3"]]:
        """Rotation vectors (radians), and centres in the poses' unit."""
        s = _placement(unknowns)
        rotation_error = so3_log(unknowns.rotation.mT @ s.rotation @ self.poses[:, :3, :3])
        return rotation_error, (s.apply(self.poses[None, :, :3, 3])[0] - unknowns.centre) / s.scale

    def fix(self, unknowns: Unknowns, before: None) -> None:
        """The sigmas are given."""

    def rows(self, unknowns: Unknowns, fixed: None) -> tuple[Rows, ...]:
        """Rotations and centres."""
        weight = torch.full((len(self.poses),), self.pixels, dtype=torch.float64)
        sigmas = torch.tensor([self.rotation_sigma, self.centre_sigma], dtype=torch.float64)
        return tuple(
            Rows(error, weight, sigma, SQUARE) for error, sigma in zip(self.errors(unknowns), sigmas, strict=True)
        )

    def blocks(self, unknowns: Unknowns, fixed: None) -> Iterator[Block]:
        """By camera (6) and the similarity of the given poses (7)."""
        s = _placement(unknowns)
        rotations, centres = self.rows(unknowns, fixed)
        arm = s.scale * (s.rotation @ self.poses[:, :3, 3:])[..., 0]
        index = torch.cat([self.columns.camera(torch.arange(len(arm))), self.columns.poses.expand(len(arm), 7)], dim=-1)
        back = unknowns.rotation.mT
        zero, identity = torch.zeros_like(back), torch.eye(3, dtype=back.dtype).expand_as(back)
        by_rotation = torch.cat([-back, zero, zero[..., :1], back, zero], dim=-1)
        by_centre = torch.cat([zero, -identity, arm[..., None], -skew(arm), identity], dim=-1) / s.scale
        by_centre[..., 6] -= centres.residual  # the unit that the errors are counted in
        yield Block.of(index, by_rotation, rotations)
        yield Block.of(index, by_centre, centres)


def _placement(unknowns: Unknowns) -> Similarity:
    assert unknowns.poses is not None
    return unknowns.poses
