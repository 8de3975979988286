"""The tracks of one video as evidence, in the units of bundle adjustment, and the cameras and points from which it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import normalize

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.bundle.adjust import Evidence, Motion, State
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.cameras import Cameras, FixedIntrinsics
from geo4d.alignment.pnp import solve_pnp
from geo4d.geometry.resample import nearest_pixel
from geo4d.geometry.rigid import invert_rigid, rigid
from geo4d.geometry.rotation import fit_rotation
from geo4d.scene import Tracks
from geo4d.solver.robust import Loss

NEAREST = 1e-3  # least depth, in median depths
ROBUST = Loss.cauchy(1.0)  # of rays against a common rotation, in median residuals


@dataclass(frozen=True)
class TrackedVideo:
    """The network's cameras and depth beside the tracks; lengths inside are in units of its median depth."""

    cameras: Cameras
    depth: Float[Tensor, "t h w"]  # z-depth in the alignment's unit, nan where there is none
    tracks: Tracks
    config: BundleConfig
    log_focal_sigma: float
    intrinsics_given: bool = False

    @cached_property
    def side(self) -> int:
        """The longer side of the source, in pixels."""
        return max(self.tracks.source_size)

    @cached_property
    def tracked_side(self) -> float:
        """The longer side in the pixels that resolve places: those of the source, or of the frame that is tracked if it is smaller."""
        return float(min(self.side, self.config.most_tracked))

    @cached_property
    def unit(self) -> float:
        """The median depth."""
        return float(np.median(self.depth[self.depth.isfinite()].numpy()))

    @cached_property
    def intrinsics(self) -> Float[Tensor, "t 3 3"]:
        """The network's, in pixels of the source, which are taken for square unless intrinsics are given."""
        height, width = self.depth.shape[1:]
        source_height, source_width = self.tracks.source_size
        scale = torch.tensor([source_width / width, source_height / height, 1.0], dtype=torch.float64)
        k = scale[:, None] * self.cameras.intrinsics(height, width)
        if not self.intrinsics_given:
            k[:, 0, 0] = k[:, 1, 1] = (k[:, 0, 0] * k[:, 1, 1]).sqrt()
        return k

    @cached_property
    def focal(self) -> float:
        """Of the first frame by the longer side of the source: the one that is solved for; others keep their ratio to it."""
        k = self.intrinsics[0]
        return float((k[0, 0] * k[1, 1]).sqrt()) / self.side

    @cached_property
    def frame(self) -> Tensor:
        """(m,) frame of each observation."""
        return torch.from_numpy(self.tracks.frame).long()

    @cached_property
    def places(self) -> np.ndarray:
        """(m, 2) of each observation in its frame, x and y from 0 to 1."""
        return self.tracks.position / np.array(self.tracks.source_size[::-1], dtype=np.float64)

    @cached_property
    def network_depth(self) -> tuple[Float[Tensor, "m"], Bool[Tensor, "m"]]:
        """Depth by the median at every observation, and whether there is one; what has none counts as far."""
        height, width = self.depth.shape[1:]
        row, column = nearest_pixel(self.tracks.position, self.tracks.source_size, (height, width))
        depth = self.depth[self.frame, torch.from_numpy(row), torch.from_numpy(column)].double()
        has_depth = depth.isfinite()
        return torch.where(has_depth, depth / self.unit, self.config.sky).clamp(NEAREST, self.config.sky), has_depth

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Observations in which each track is seen first and last; observations are in the order of the frames."""
        point, count = torch.from_numpy(self.tracks.track).long(), self.tracks.num_tracks
        rows = torch.arange(len(point))
        first = torch.full((count,), len(point)).scatter_reduce_(0, point, rows, "amin")
        return first, torch.zeros(count, dtype=torch.int64).scatter_reduce_(0, point, rows, "amax")

    @cached_property
    def evidence(self) -> Evidence:
        """The evidence of bundle adjustment."""
        c, point = self.config, torch.from_numpy(self.tracks.track).long()
        rows = torch.cat(self.ends)
        log_depth = self.network_depth[0][rows].log()
        return Evidence(
            point,
            self.frame,
            self._normalised(self.frame, torch.from_numpy(self.tracks.position).double()),
            prior_point=point[rows],
            prior_frame=self.frame[rows],
            prior_log_depth=log_depth,
            prior_sigma=torch.where(log_depth > math.log(c.far), c.far_sigma, c.depth_sigma),
            log_focal=math.log(self.focal),
            log_focal_sigma=self.log_focal_sigma,
            pixel_floor=c.pixel_floor / self.side,
            config=c,
            motion=self._network_motion(),
        )

    def _normalised(self, frame: Tensor, position: Float[Tensor, "m 2"]) -> Float[Tensor, "m 2"]:
        """Pixels as the first frame's camera would see them, had it square pixels and its principal point in the middle."""
        k = self.intrinsics[frame]
        slope = (position - k[:, :2, 2]) / torch.stack([k[:, 0, 0], k[:, 1, 1]], dim=-1)
        return self.focal * slope

    def _network_motion(self) -> Motion:
        """The network's cameras from frame to frame: a weak prior, for frames where little could be followed."""
        c, poses = self.config, self.cameras.cam_to_world
        relative = invert_rigid(poses[:-1]) @ poses[1:]
        step = relative[:, :3, 3] / self.unit
        rotation = poses[1:, :3, :3] @ poses[:-1, :3, :3].mT
        step_sigma = c.step_sigma * step.norm(dim=-1) + c.least_step
        return Motion(rotation, step, math.radians(c.turn_sigma_deg), step_sigma, Loss.cauchy(c.motion_width))

    def start(self, *, chained: bool, poses: Float[Tensor, "t 4 4"] | None = None) -> State:
        """Points lifted by the network's depth where they were first seen; cameras the network's, or chained from frame to frame."""
        e, first, depth = self.evidence, self.ends[0], self.network_depth[0]
        if poses is None:
            poses = self.cameras.cam_to_world.clone()
            poses[:, :3, 3] /= self.unit
        rays = torch.cat([e.pixel / math.exp(e.log_focal), torch.ones_like(e.pixel[:, :1])], dim=1)
        points = torch.zeros(self.tracks.num_tracks, 3, dtype=torch.float64)
        located = torch.zeros(len(points), dtype=torch.bool)
        is_first = torch.zeros(len(e.point), dtype=torch.bool)
        is_first[first] = True
        for frame in range(len(poses)):
            rows = torch.nonzero(e.frame == frame)[:, 0]
            seen = rows[located[e.point[rows]]]
            if chained and frame > 0:
                poses[frame] = poses[frame - 1]
                if len(seen) >= self.config.min_shared:
                    poses[frame] = _locate(poses[frame], points[e.point[seen]], rays[seen, :2])
            new = rows[is_first[rows]]
            points[e.point[new]] = (depth[new, None] * rays[new]) @ poses[frame, :3, :3].T + poses[frame, :3, 3]
            located[e.point[new]] = True
        return State(poses[:, :3, :3].clone(), poses[:, :3, 3].clone(), torch.tensor(e.log_focal, dtype=torch.float64), points)

    def rotations_alone(self) -> Float[Tensor, "t 3 3"]:
        """Rotations chained from frame to frame as if the camera stood still, by the rays of the points that both see."""
        e = self.evidence
        rays = normalize(torch.cat([e.pixel / math.exp(e.log_focal), torch.ones_like(e.pixel[:, :1])], dim=1), dim=1)
        world = torch.zeros(self.tracks.num_tracks, 3, dtype=torch.float64)
        seen = torch.full((self.tracks.num_tracks,), -2)
        rotation = [torch.eye(3, dtype=torch.float64)]
        for frame in range(self.tracks.num_frames):
            rows = torch.nonzero(e.frame == frame)[:, 0]
            both = rows[seen[e.point[rows]] == frame - 1]
            if frame > 0:
                enough = len(both) >= self.config.min_shared
                rotation.append(_robust_rotation(rays[both], world[e.point[both]], rotation[-1]) if enough else rotation[-1])
            world[e.point[rows]] = rays[rows] @ rotation[-1].T
            seen[e.point[rows]] = frame
        return torch.stack(rotation)

    def to_cameras(self, state: State, log_scale: float) -> Cameras:
        """Solved cameras in the alignment's unit, of which one is exp(log_scale) / `unit` of the state's."""
        pose = rigid(state.rotation, state.centre * self.unit * math.exp(-log_scale))
        height, width = self.depth.shape[1:]
        source_height, source_width = self.tracks.source_size
        factor = float(state.log_focal.exp()) / self.focal
        x, y = (factor * self.intrinsics[:, i, i] * size for i, size in ((0, width / source_width), (1, height / source_height)))
        return Cameras.of(pose, x / max(height, width), FixedIntrinsics(self.cameras.fixed_intrinsics.principal_point, y / x))


def _locate(pose: Float[Tensor, "4 4"], points: Float[Tensor, "k 3"], rays: Float[Tensor, "k 2"]) -> Float[Tensor, "4 4"]:
    """A camera from points whose positions are known, robustly."""
    return solve_pnp(pose[None], points[None], torch.ones(1, len(points), dtype=torch.float64), rays[None], rounds=20)[0][0]


def _robust_rotation(rays: Float[Tensor, "k 3"], world: Float[Tensor, "k 3"], start: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation that takes most rays to where they point in the world."""
    rotation = start
    for _ in range(10):
        error = (rays @ rotation.T - world).norm(dim=1)
        rotation = fit_rotation(rays, world, ROBUST.weight((error / error.median().clamp_min(1e-6)).square()))
    return rotation
