"""The tracks of one video as evidence, in the units of bundle adjustment, and the starts of its solutions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import normalize, pad

from geo4d._typing import Bool, Float, Tensor
from geo4d.alignment.bundle.adjust import Solution, camera_covariance
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.bundle.evidence import Evidence, State
from geo4d.alignment.bundle.mapping import Map, starting_pairs, triangulate
from geo4d.alignment.bundle.motion import Motion
from geo4d.alignment.bundle.system import BundleSystem, Free
from geo4d.alignment.bundle.views import Views, choose_keyframes, tracking_noise
from geo4d.alignment.cameras import Cameras, FixedIntrinsics
from geo4d.alignment.pnp import solve_pnp
from geo4d.geometry.resample import nearest_pixel
from geo4d.geometry.rigid import invert_rigid, rigid
from geo4d.geometry.rotation import fit_rotation, so3_exp, so3_log
from geo4d.scene import Tracks
from geo4d.solver.information import bounded_covariance
from geo4d.solver.robust import Loss

AT_ONCE = 256  # cameras that are placed together
NEAREST = 1e-3  # least depth, in median depths
SKY = 20.0  # median depths, where a pixel without depth is put: half or double makes no difference
MIN_SHARED = 6  # points by which one frame is placed by others: what a pose asks for at least
ROBUST = Loss.cauchy(1.0)  # of rays against a common rotation, in median residuals


@dataclass(frozen=True)
class Uncertainty:
    """How far a solution may be off."""

    cameras: Float[Tensor, "t 6 6"]  # covariance of rotation (radians, about the world's axes) and centre
    log_focal_sigma: float


@dataclass(frozen=True)
class TrackedVideo:
    """The network's cameras and depth beside the tracks; lengths inside are in units of its median depth."""

    cameras: Cameras
    depth: Float[Tensor, "t h w"]  # z-depth in the alignment's unit, nan where there is none
    tracks: Tracks
    config: BundleConfig
    log_focal_sigma: float
    intrinsics_given: bool = False
    whole: TrackedVideo | None = None  # of which these are some frames, and
    number: np.ndarray | None = None  # (t,) the number of each there

    def at(self, frames: np.ndarray) -> TrackedVideo:
        """Some of the frames, as a video of its own in the same unit; tracks keep their numbers."""
        number = np.full(self.tracks.num_frames, -1, np.int32)
        number[frames] = np.arange(len(frames))
        kept = number[self.tracks.frame] >= 0
        rows = self.tracks.track[kept], number[self.tracks.frame[kept]], self.tracks.position[kept]
        tracks = Tracks(*rows, self.tracks.source_size, len(frames))
        cameras, depth = self.cameras.at(frames), self.depth[frames]
        return replace(self, cameras=cameras, depth=depth, tracks=tracks, whole=self, number=frames)

    @cached_property
    def side(self) -> int:
        """The longer side of the source, in pixels."""
        return max(self.tracks.source_size)

    @cached_property
    def views(self) -> Views:
        """Which track is seen where."""
        pixel = self._normalised(self.frame, torch.from_numpy(self.tracks.position).double()).numpy()
        return Views(
            self.tracks.track.astype(np.int64),
            self.tracks.frame.astype(np.int64),
            pixel,
            self.num_points,
            self.tracks.num_frames,
        )

    @cached_property
    def num_points(self) -> int:
        """Number of tracks of the whole video."""
        return self.tracks.num_tracks if self.whole is None else self.whole.num_points

    @cached_property
    def keyframes(self) -> np.ndarray:
        """Numbers of the frames by which cameras are found first."""
        return choose_keyframes(self.views, self.config.views)

    @cached_property
    def gap(self) -> Float[Tensor, "s"]:
        """Frames of the whole video from each of these to the next."""
        number = np.arange(self.tracks.num_frames) if self.number is None else self.number
        return torch.from_numpy(np.diff(number)).double()

    @cached_property
    def noise(self) -> float:
        """Sigma of one followed position, by the longer side."""
        return tracking_noise(self.views, self.keyframes, self.config.views) if self.whole is None else self.whole.noise

    @cached_property
    def unit(self) -> float:
        """The median depth."""
        return float(np.median(self.depth[self.depth.isfinite()].numpy())) if self.whole is None else self.whole.unit

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
        """Of the first frame by the longer side of the source: the one that is solved for.

        Others keep their ratio to it.
        """
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
        return torch.where(has_depth, depth / self.unit, SKY).clamp(NEAREST, SKY), has_depth

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Observations in which each track that is seen is seen first and last.

        Observations are in the order of the frames.
        """
        point, count = torch.from_numpy(self.tracks.track).long(), self.num_points
        rows = torch.arange(len(point))
        first = torch.full((count,), len(point)).scatter_reduce_(0, point, rows, "amin")
        seen = first < len(point)
        return first[seen], torch.zeros(count, dtype=torch.int64).scatter_reduce_(0, point, rows, "amax")[seen]

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
            prior_sigma=torch.full_like(log_depth, c.depth_sigma),
            log_focal=math.log(self.focal),
            log_focal_sigma=self.log_focal_sigma,
            noise=self.noise,
            num_points=self.num_points,
            config=c,
            motion=self._network_motion(),
            gap=self.gap,
        )

    def _normalised(self, frame: Tensor, position: Float[Tensor, "m 2"]) -> Float[Tensor, "m 2"]:
        """Pixels as the first frame's camera would see them with square pixels and a centred principal point."""
        k = self.intrinsics[frame]
        slope = (position - k[:, :2, 2]) / torch.stack([k[:, 0, 0], k[:, 1, 1]], dim=-1)
        return self.focal * slope

    def _network_motion(self) -> Motion:
        """The network's cameras from frame to frame: a weak prior, for frames where little could be followed.

        Turns and the least error of steps err by frames independently, so that errors add up as a random walk: sqrt(g)
        over g frames. What steps err in proportion to their length grows with it anyhow.
        """
        c, poses, walk = self.config, self.cameras.cam_to_world, self.gap.sqrt()
        relative = invert_rigid(poses[:-1]) @ poses[1:]
        step = relative[:, :3, 3] / self.unit
        turn_sigma = math.radians(c.turn_sigma_deg) * walk
        step_sigma = c.step_sigma * step.norm(dim=-1) + c.least_step * walk
        return Motion(relative[:, :3, :3], step, turn_sigma, step_sigma, Loss.cauchy(c.motion_width))

    def lifted(self, poses: Float[Tensor, "t 4 4"] | None = None, log_focal: Float[Tensor, "t"] | None = None) -> State:
        """Points at the network's depth where they are first seen; cameras the network's unless others are given."""
        e = self.evidence
        if poses is None:
            poses = self.cameras.cam_to_world.clone()
            poses[:, :3, 3] /= self.unit
        if log_focal is None:
            log_focal = torch.full((len(poses),), e.log_focal, dtype=torch.float64)
        first = self.ends[0]
        slopes = e.pixel[first] / log_focal.exp()[e.frame[first], None]
        rays = torch.cat([slopes, torch.ones(len(first), 1, dtype=torch.float64)], dim=1)
        pose = poses[e.frame[first]]
        points = torch.zeros(self.num_points, 3, dtype=torch.float64)
        local = self.network_depth[0][first, None] * rays
        points[e.point[first]] = (pose[:, :3, :3] @ local[..., None])[..., 0] + pose[:, :3, 3]
        return State(poses[:, :3, :3].clone(), poses[:, :3, 3].clone(), log_focal, points)

    def maps(self) -> Iterator[State]:
        """Cameras and points from the tracks alone, of these frames as keyframes, by several starts.

        In the network's unit.
        """
        c, e, frames = self.config, self.evidence, np.arange(self.tracks.num_frames)
        for pair in starting_pairs(self.views, frames, self.focal, self.noise, c.mapping):
            grown = Map(self.views, frames, e.log_focal, self.log_focal_sigma, self.noise, c).grow(pair)
            yield self._in_unit(grown)

    def _in_unit(self, grown: Map) -> State:
        """A map in the first camera's frame, so large that its points are as far as the network has them.

        What it lacks is lifted.
        """
        placed = np.array(sorted(grown.cam_to_world))
        nearest = placed[np.abs(placed[None] - np.arange(self.tracks.num_frames)[:, None]).argmin(axis=1)]
        poses = torch.from_numpy(np.stack([grown.cam_to_world[k] for k in nearest]))
        points = torch.from_numpy(grown.points)
        e = self.evidence
        local = (poses[e.frame, :3, :3].mT @ (points[e.point] - poses[e.frame, :3, 3])[..., None])[..., 0]
        depth, has_depth = self.network_depth
        both = has_depth & (local[:, 2] > 0)  # nan fails too
        scale = float((depth[both] / local[both, 2]).median()) if bool(both.any()) else 1.0
        to_first = invert_rigid(poses[:1])
        poses = to_first @ poses
        poses[:, :3, 3] *= scale
        state = self.lifted(poses, torch.full((len(poses),), grown.log_focal, dtype=torch.float64))
        mapped = scale * (points @ to_first[0, :3, :3].T + to_first[0, :3, 3])
        return replace(state, points=torch.where(mapped.isfinite(), mapped, state.points))

    def extended(self, solved: State, *, travels: bool) -> State:
        """A solution of the keyframes, for all frames.

        Cameras between by the points that they see, and points that they alone see. Focal lengths between by those of
        the keyframes around.
        """
        keyframes, e = self.keyframes, self.evidence
        poses = self._between(solved)
        log_focal = torch.from_numpy(np.interp(np.arange(len(poses)), keyframes, solved.log_focal.numpy()))
        seen = torch.zeros(self.num_points, dtype=torch.bool)
        seen[torch.from_numpy(self.views.point[np.isin(self.views.frame, keyframes)])] = True
        between = np.setdiff1d(np.arange(len(poses)), keyframes).tolist()
        rows = {frame: torch.from_numpy(self.views.rows[frame]) for frame in between}
        rows = {frame: some[seen[e.point[some]]] for frame, some in rows.items()}
        rows = {frame: some for frame, some in rows.items() if len(some) >= MIN_SHARED}
        if travels and rows:
            self._locate(poses, rows, solved, log_focal)
        for frame, some in rows.items() if not travels else ():
            towards = normalize(solved.points[e.point[some]] - poses[frame, :3, 3], dim=1)
            poses[frame, :3, :3] = _robust_rotation(self._rays(some, log_focal), towards, poses[frame, :3, :3])
        state = self.lifted(poses, log_focal)
        return replace(state, points=torch.where(seen[:, None], solved.points, self._triangulated(state)))

    def _rays(self, rows: Tensor, log_focal: Float[Tensor, "t"]) -> Float[Tensor, "k 3"]:
        """Unit vectors in the camera of each observation."""
        slopes = self.evidence.pixel[rows] / log_focal.exp()[self.evidence.frame[rows], None]
        return normalize(torch.cat([slopes, torch.ones_like(slopes[:, :1])], dim=1), dim=1)

    def _locate(
        self, poses: Float[Tensor, "t 4 4"], rows: dict[int, Tensor], solved: State, log_focal: Float[Tensor, "t"]
    ) -> None:
        """Sets the cameras of some frames by points that are known.

        Many frames at once, padded to the same number of points.
        """
        e = self.evidence
        numbers = list(rows)
        for begin in range(0, len(numbers), AT_ONCE):
            some = numbers[begin : begin + AT_ONCE]
            size = max(len(rows[frame]) for frame in some)
            index = torch.stack([pad(rows[frame], (0, size - len(rows[frame]))) for frame in some])
            weight = torch.stack([(torch.arange(size) < len(rows[frame])).double() for frame in some])
            frames = torch.tensor(some)
            slopes = e.pixel[index] / log_focal.exp()[frames, None, None]
            poses[frames] = solve_pnp(poses[frames], solved.points[e.point[index]], weight, slopes, rounds=20)[0]

    def uncertainty(self, solution: Solution, free: Free) -> Uncertainty:
        """Of a solution of all frames.

        In long videos it is that of the keyframes, and of each camera between against the points it sees.

        Little is lost: a track counts as the same few observations, however many frames it is seen in.
        """
        frames = len(solution.state.centre)
        if frames <= self.config.all_covariances:
            return Uncertainty(*camera_covariance(self.evidence, solution, free))
        at, state = self.keyframes, solution.state
        key = State(state.rotation[at], state.centre[at], state.log_focal[at], state.points)
        found, log_focal_sigma = camera_covariance(self.at(at).evidence, replace(solution, state=key), free)
        right = np.searchsorted(at, np.arange(frames)).clip(1, len(at) - 1)
        share = torch.from_numpy((np.arange(frames) - at[right - 1]) / (at[right] - at[right - 1]))[:, None, None]
        between = torch.lerp(found[right - 1], found[right], share)
        of_frame = BundleSystem(self.evidence, state, solution.sigma, solution.track_weight, Free()).cameras[:, :6, :6]
        alone = torch.from_numpy(bounded_covariance(of_frame.numpy(), 1.0))  # who sees nothing is off by a unit
        alone[at] = 0.0
        return Uncertainty(between + alone, log_focal_sigma)

    def _between(self, solved: State) -> Float[Tensor, "t 4 4"]:
        """Cameras of all frames, interpolated between those of the keyframes."""
        right = np.searchsorted(self.keyframes, np.arange(self.tracks.num_frames)).clip(1, len(self.keyframes) - 1)
        before, after = self.keyframes[right - 1], self.keyframes[right]
        share = torch.from_numpy((np.arange(self.tracks.num_frames) - before) / (after - before))[:, None]
        turn = so3_log(solved.rotation[right - 1].mT @ solved.rotation[right])
        rotation = solved.rotation[right - 1] @ so3_exp(share * turn)
        return rigid(rotation, torch.lerp(solved.centre[right - 1], solved.centre[right], share))

    def _triangulated(self, state: State) -> Float[Tensor, "n 3"]:
        """Points by the rays of all cameras where these say how far they are, else as they are in the state."""
        order = np.lexsort((self.views.frame, self.views.point))
        present, point = np.unique(self.views.point[order], return_inverse=True)
        poses, focal = rigid(state.rotation, state.centre).numpy(), state.log_focal.exp().numpy()
        frame, common = self.views.frame[order], focal.mean()
        rows = point, frame, self.views.pixel[order] * (common / focal)[frame, None]  # as of one focal length
        c = self.config.mapping
        points, angle, worst = triangulate(*rows, poses, float(common), count=len(present))
        good = (angle > math.radians(c.least_angle_deg)) & (worst < 2 * c.agreement * self.noise)
        found = state.points.clone()
        found[torch.from_numpy(present[good])] = torch.from_numpy(points[good])
        return found

    def rotations_alone(self) -> Float[Tensor, "t 3 3"]:
        """Rotations chained from frame to frame as if the camera stood still.

        By the rays of the points that both see.
        """
        e = self.evidence
        focal = torch.full((self.tracks.num_frames,), e.log_focal, dtype=torch.float64)
        rays = self._rays(torch.arange(len(e.pixel)), focal)
        world = torch.zeros(self.num_points, 3, dtype=torch.float64)
        seen = torch.full((self.num_points,), -2)
        rotation = [torch.eye(3, dtype=torch.float64)]
        for frame in range(self.tracks.num_frames):
            rows = torch.from_numpy(self.views.rows[frame])
            both = rows[seen[e.point[rows]] == frame - 1]
            if frame > 0:
                enough = len(both) >= MIN_SHARED
                rotation.append(
                    _robust_rotation(rays[both], world[e.point[both]], rotation[-1]) if enough else rotation[-1]
                )
            world[e.point[rows]] = rays[rows] @ rotation[-1].T
            seen[e.point[rows]] = frame
        return torch.stack(rotation)

    def to_cameras(self, state: State, log_scale: float) -> Cameras:
        """Solved cameras in the alignment's unit, of which one is exp(log_scale) / `unit` of the state's."""
        pose = rigid(state.rotation, state.centre * self.unit * math.exp(-log_scale))
        height, width = self.depth.shape[1:]
        source_height, source_width = self.tracks.source_size
        factor = state.log_focal.exp() / self.focal
        x, y = (
            factor * self.intrinsics[:, i, i] * size
            for i, size in ((0, width / source_width), (1, height / source_height))
        )
        return Cameras.of(
            pose, x / max(height, width), FixedIntrinsics(self.cameras.fixed_intrinsics.principal_point, y / x)
        )


def _robust_rotation(
    rays: Float[Tensor, "k 3"], world: Float[Tensor, "k 3"], start: Float[Tensor, "3 3"]
) -> Float[Tensor, "3 3"]:
    """The rotation that takes most rays to where they point in the world."""
    rotation = start
    for _ in range(10):
        error = (rays @ rotation.T - world).norm(dim=1)
        rotation = fit_rotation(rays, world, ROBUST.weight((error / error.median().clamp_min(1e-6)).square()))
    return rotation
