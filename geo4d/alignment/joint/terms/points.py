"""The term of the point maps.

Per sampled pixel three residuals: two across the viewing ray, f x / z - pixel (paper Eq. 4 seen from the camera: there
depth noise cannot move it, and a longer focal length cannot make them small), and one along it, log z against the
pixel's own log depth, which is eliminated in closed form (its scalar Schur complement). Losses are robust; scales come
from the residuals' medians.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.joint.config import JointConfig
from geo4d.alignment.joint.observations import Observations
from geo4d.alignment.joint.problem import JointProblem
from geo4d.alignment.joint.terms.base import Block, Rows, median_size
from geo4d.alignment.joint.unknowns import Columns, Unknowns
from geo4d.solver.robust import Loss, learn_loss

MIN_DEPTH = 1e-4  # in the alignment's unit: points nearer, or behind the camera, count as this near
ROWS_AT_ONCE = 2**17  # residuals whose derivatives are held at a time: memory, not accuracy


@dataclass(frozen=True)
class Seen:
    """The sampled points seen from the common cameras."""

    world: Float[Tensor, "g v p 3"]
    local: Float[Tensor, "g v p 3"]  # in the camera, z at least MIN_DEPTH
    log_z: Float[Tensor, "g v p"]
    across: Float[Tensor, "g v p 2"]  # reprojection residuals, by the longer side


@dataclass(frozen=True)
class PointsFixed:
    """Scales and losses, and the weights whose mean is each pixel's own log depth."""

    across: Float[Tensor, ""]
    along: Float[Tensor, ""]
    mean_weight: Float[Tensor, "g v p"]
    widest: Float[Tensor, ""]
    across_loss: Loss
    along_loss: Loss


@dataclass
class PointsTerm:
    """See the module."""

    observations: Observations
    columns: Columns
    config: JointConfig
    disagreement: float  # of the per-window PnP poses, radians
    name: str = "points"
    _last: tuple[Unknowns, Seen] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, problem: JointProblem) -> PointsTerm:
        """The part of a joint problem."""
        return cls(problem.observations, problem.columns(), problem.config, problem.window_motion.disagreement)

    def seen(self, unknowns: Unknowns) -> Seen:
        """From the cameras of the unknowns.

        Kept until others are asked for, since each state is looked at several times.
        """
        if self._last is None or self._last[0] is not unknowns:
            self._last = unknowns, look(self.observations, unknowns)
        return self._last[1]

    def along(self, unknowns: Unknowns, fixed: PointsFixed) -> Float[Tensor, "g v p"]:
        """Log z against each pixel's own log depth, the weighted mean over the windows that see it."""
        log_z = self.seen(unknowns).log_z
        return log_z - pixel_mean(self.observations, log_z, fixed.mean_weight)[self.observations.windows]

    def fix(self, unknowns: Unknowns, before: PointsFixed | None) -> PointsFixed:
        """Medians of the residuals as they are, and with an adaptive loss its shapes.

        Seen from ever farther off, points agree ever better in log depth and ever worse across the view: a scale across
        that grew with its residuals would let cameras run away, so it only falls.
        """
        o, seen = self.observations, self.seen(unknowns)
        weight, log_z = o.weight, seen.log_z
        along = log_z - pixel_mean(o, log_z, weight if before is None else before.mean_weight)[o.windows]
        # a camera can fit one of few windows exactly: residuals that vanish must not raise that window's weight above
        # all others
        across_size = median_size(seen.across.norm(dim=-1)[weight > 0]).clamp_min(
            self.config.least_residual * self.disagreement
        )
        # against the plain mean: the robust one may choose one of two windows at every pixel, and half of all residuals
        # would be 0
        plain = log_z - pixel_mean(o, log_z, weight)[o.windows]
        # a pixel that one window alone sees has no residual, but for rounding
        along_size = median_size(plain.abs()[o.shared])
        across_loss, along_loss = Loss(size=self.config.across_width), Loss(size=self.config.along_width)
        if self.config.loss == "adaptive":
            across_loss = learn_loss((seen.across.square().sum(-1) / across_size**2).flatten(), weight.flatten(), 2)
            along_loss = learn_loss((plain / along_size).square().flatten(), (weight * o.shared).flatten(), 1)
        widest = across_size if before is None else before.widest
        mean_weight = weight * along_loss.weight((along / along_size).square())
        return PointsFixed(across_size.clamp_max(widest), along_size, mean_weight, widest, across_loss, along_loss)

    def rows(self, unknowns: Unknowns, fixed: PointsFixed) -> tuple[Rows, ...]:
        """Across and along the viewing rays."""
        weight = self.observations.weight
        along = Rows(self.along(unknowns, fixed)[..., None], weight, fixed.along, fixed.along_loss)
        return Rows(self.seen(unknowns).across, weight, fixed.across, fixed.across_loss), along

    def blocks(self, unknowns: Unknowns, fixed: PointsFixed) -> Iterator[Block]:
        """Frame by frame: frames seen by equally many windows go together, in pieces."""
        o = self.observations
        across, along = self.rows(unknowns, fixed)
        stiffness = across.stiffness(), along.stiffness()
        flat = o.windows.flatten()
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=o.num_frames)
        first = counts.cumsum(0) - counts
        for count in counts.unique().tolist():
            if count == 0:
                continue
            frames = torch.nonzero(counts == count)[:, 0]
            size = max(1, ROWS_AT_ONCE // (3 * count * o.points.shape[2]))
            for some in frames.split(size):
                rows = order[first[some][:, None] + torch.arange(count)]  # (f, r): which window and place, flattened
                yield from self._frames(unknowns, (across.residual, along.residual), stiffness, some, rows)

    def _frames(
        self,
        unknowns: Unknowns,
        residuals: tuple[Tensor, Tensor],
        stiffness: tuple[Tensor, Tensor],
        frames: Tensor,
        rows: Tensor,
    ) -> Iterator[Block]:
        """Of frames (f,), each seen by the same number of windows: rows (f, r)."""
        columns, seen = self.columns, self.seen(unknowns)
        window = rows // self.observations.windows.shape[1]

        def take(values: Tensor) -> Tensor:
            return values.flatten(0, 1)[rows]

        residual = torch.cat([take(values) for values in residuals], dim=-1)  # (f, r, p, 3)
        w_across, w_along = (take(values) for values in stiffness)
        jacobian = point_jacobian(unknowns, take(seen.local), take(seen.world), frames, window)  # (f, r, p, 3, 14)
        weights = torch.stack([w_across, w_across, w_along], dim=-1)
        flat, flat_weighted = jacobian.flatten(2, 3), (jacobian * weights[..., None]).flatten(2, 3)
        camera = columns.camera(frames)
        each = (
            camera[:, None].expand(-1, rows.shape[1], -1),
            columns.focal(frames)[:, None, None].expand(-1, rows.shape[1], 1),
        )
        gradient = (flat_weighted.mT @ residual.flatten(2, 3)[..., None])[..., 0]
        yield Block(torch.cat([*each, columns.window(window)], dim=-1), flat.mT @ flat_weighted, gradient)
        # log depth of each pixel: its coupling to the camera and to every window that sees it
        pull = w_along[..., None] * jacobian[..., 2, :]
        cross = torch.cat([pull[..., :6].sum(1), pull[..., 7:].movedim(1, 2).flatten(2)], dim=-1)  # (f, p, 6 + 7 r)
        scaled = cross / w_along.sum(1).clamp_min(1e-30)[..., None]
        both = torch.cat([camera, columns.window(window).flatten(1)], dim=-1)
        left = (w_along * residual[..., 2]).sum(1)[..., None]
        yield Block(both, -cross.mT @ scaled, -(scaled.mT @ left)[..., 0])


def look(observations: Observations, unknowns: Unknowns) -> Seen:
    """The sampled points in the common cameras; those before MIN_DEPTH count as there."""
    o, w = observations, unknowns.windows
    world = w.scale[:, None, None, None] * o.points @ w.rotation.mT[:, None] + w.translation[:, None, None]
    rotation, centre = unknowns.rotation[o.windows], unknowns.centre[o.windows]
    local = (world - centre[:, :, None]) @ rotation
    local = torch.cat([local[..., :2], local[..., 2:].clamp_min(MIN_DEPTH)], dim=-1)
    focal = unknowns.log_focal.exp()[o.windows][..., None, None]
    return Seen(world, local, local[..., 2].log(), focal * local[..., :2] / local[..., 2:] - o.pixels[o.windows])


def pixel_mean(
    observations: Observations, values: Float[Tensor, "g v p"], weight: Float[Tensor, "g v p"]
) -> Float[Tensor, "t p"]:
    """Weighted mean over all windows that see a pixel of a frame."""
    t, p = observations.num_frames, values.shape[-1]
    frames = observations.windows.flatten()
    total = torch.zeros(t, p, dtype=values.dtype).index_add_(0, frames, (weight * values).flatten(0, 1))
    return total / torch.zeros(t, p, dtype=values.dtype).index_add_(0, frames, weight.flatten(0, 1)).clamp_min(1e-30)


def point_jacobian(
    unknowns: Unknowns, local: Tensor, world: Tensor, frames: Tensor, window: Tensor
) -> Float[Tensor, "f r p 3 14"]:
    """Derivatives of the residuals across (2) and of log z by camera (6), log focal (1) and window (7).

    Each residual changes with the world point by some vector a; by a turn about a centre at arm d, by a x d.
    """
    rotation, focal = unknowns.rotation[frames], unknowns.log_focal.exp()[frames]
    z = local[..., 2:]
    slope = local[..., :2] / z
    axes = rotation.mT[:, None, None]  # rows: the camera's axes in the world
    image = focal[:, None, None, None, None] * (axes[..., :2, :] - slope[..., None] * axes[..., 2:, :]) / z[..., None]
    a = torch.cat([image, axes[..., 2:, :] / z[..., None]], dim=-2)  # (f, r, p, 3, 3)
    from_camera = (world - unknowns.centre[frames][:, None, None])[..., None, :].expand_as(a)
    arm = (world - unknowns.windows.translation[window][:, :, None])[..., None, :].expand_as(a)
    by_focal = torch.cat([focal[:, None, None, None] * slope, torch.zeros_like(z)], dim=-1)[..., None]
    by_scale = (a * arm).sum(-1, keepdim=True)
    return torch.cat(
        [torch.linalg.cross(a, from_camera), -a, by_focal, by_scale, -torch.linalg.cross(a, arm), a], dim=-1
    )
