"""Bringing recordings with clocks of their own together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from geo4d.data.frames import BadData, Problem


def nearest(times: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `times` (n,) the index (n,) of the nearest of `others` (m,), in any order, and how far it is."""
    if not len(others):
        return np.zeros(len(times), np.int64), np.full(len(times), np.inf)
    order = np.argsort(others, kind="stable")
    after = np.clip(np.searchsorted(others[order], times), 1, max(len(others) - 1, 1))
    left, right = order[after - 1], order[np.minimum(after, len(others) - 1)]
    index = np.where(np.abs(others[left] - times) <= np.abs(others[right] - times), left, right)
    return index, np.abs(others[index] - times)


def associate_greedily(times: np.ndarray, others: np.ndarray, max_gap_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (k,), (k,) of pairs less than `max_gap_s` apart, the closest first and each used once.

    In order of `times`.
    """
    near = [np.flatnonzero(np.abs(others - time) < max_gap_s) for time in times]
    first = np.repeat(np.arange(len(times)), [len(row) for row in near])
    second = np.concatenate(near) if near else np.zeros(0, np.int64)
    taken: dict[int, int] = {}
    used: set[int] = set()
    for k in np.argsort(np.abs(times[first] - others[second]), kind="stable"):
        i, j = int(first[k]), int(second[k])
        if i not in taken and j not in used:
            taken[i] = j
            used.add(j)
    pairs = np.array(sorted(taken.items()), dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def interpolate_poses(times: np.ndarray, pose_times: np.ndarray, cam_to_world: np.ndarray) -> np.ndarray:
    """Poses (n, 4, 4) at `times` between the rows of a trajectory (m,), (m, 4, 4).

    Centres on lines, rotations on great arcs. Times outside the trajectory get its first or last pose.
    """
    distinct_times, index = np.unique(pose_times, return_index=True)
    poses = cam_to_world[index]
    if len(distinct_times) == 1:
        return np.repeat(poses, len(times), axis=0)
    inside = np.clip(times, distinct_times[0], distinct_times[-1])
    result = np.tile(np.eye(4), (len(times), 1, 1))
    result[:, :3, :3] = Slerp(distinct_times, Rotation.from_matrix(poses[:, :3, :3]))(inside).as_matrix()
    result[:, :3, 3] = np.stack([np.interp(inside, distinct_times, poses[:, axis, 3]) for axis in range(3)], axis=1)
    return result


def pair_by_time(
    times: np.ndarray, names: Sequence[str], others: Mapping[str, tuple[Path, np.ndarray]], max_gap_s: float
) -> tuple[np.ndarray, dict[str, np.ndarray], list[Problem]]:
    """Frames that have everything near them in time.

    Args:
        times: (n,) seconds of the frames.
        names: what the frames are called in records.
        others: what a frame needs ("depth map", "pose"): the file or folder that has it, and its times (m,).
        max_gap_s: how far in time it may be.

    Returns:
        Indices (k,) of the frames that have all of it, the indices (k,) of what is nearest to them, and a record of
        each frame that lacks something. Raises InputError if no frame has one of the things.
    """
    keep = np.ones(len(times), dtype=bool)
    index: dict[str, np.ndarray] = {}
    problems: list[Problem] = []
    for what, (file, other_times) in others.items():
        index[what], gaps = nearest(times, other_times)
        near = gaps <= max_gap_s
        if len(times) and not near.any():
            least = f"the nearest are {gaps.min():.3f} s apart" if np.isfinite(gaps).any() else "there is none"
            reason = (
                f"holds no {what} within {max_gap_s:g} s of any frame ({least}); check that it is of the same recording"
            )
            raise BadData(file, reason)
        problems += [
            Problem(names[i], f"has no {what} within {max_gap_s:g} s (nearest: {gaps[i]:.3f} s)")
            for i in np.flatnonzero(~near)
        ]
        keep &= near
    return np.flatnonzero(keep), {what: rows[keep] for what, rows in index.items()}, problems
