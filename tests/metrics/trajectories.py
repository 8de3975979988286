"""Random camera paths, and similarities of them."""

import numpy as np
from scipy.spatial.transform import Rotation


def path(num=12, seed=0):
    """(t, 4, 4) cam_to_world of a random walk."""
    rng = np.random.default_rng(seed)
    cameras = np.tile(np.eye(4), (num, 1, 1))
    cameras[:, :3, :3] = Rotation.from_rotvec(np.cumsum(rng.normal(size=(num, 3)) * 0.1, axis=0)).as_matrix()
    cameras[:, :3, 3] = np.cumsum(rng.normal(size=(num, 3)), axis=0)
    return cameras


def moved(cameras, *, scale=1.0, turn=(0, 0, 0), shift=(0, 0, 0)):
    """The same path after a similarity of the world."""
    rotation = Rotation.from_rotvec(turn).as_matrix()
    result = cameras.copy()
    result[:, :3, :3] = rotation @ cameras[:, :3, :3]
    result[:, :3, 3] = scale * cameras[:, :3, 3] @ rotation.T + np.asarray(shift)
    return result


def noisy(cameras, *, centre=0.2, angle=0.05, seed=0):
    """Independent errors of centre and rotation."""
    rng = np.random.default_rng(seed)
    result = cameras.copy()
    result[:, :3, 3] += centre * rng.normal(size=(len(cameras), 3))
    result[:, :3, :3] = (
        cameras[:, :3, :3] @ Rotation.from_rotvec(angle * rng.normal(size=(len(cameras), 3))).as_matrix()
    )
    return result
