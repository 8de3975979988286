"""The field of log depth by triangulated points."""

import numpy as np

from geo4d.alignment.depth.config import CorrectionConfig
from geo4d.alignment.depth.correction import fit_field

FRAMES, POINTS = 16, 60


def fitted(scale: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The field, from points in frames `seen` whose network depth is off by `scale` (t,) of its frame."""
    generator = np.random.default_rng(0)
    frame = np.repeat(np.flatnonzero(seen), POINTS)
    x, y = generator.random((2, len(frame)))
    target = scale[frame] + 0.02 * generator.normal(size=len(frame))
    config = CorrectionConfig()
    weight = np.full(len(frame), 1 / (config.point_floor**2 * FRAMES))  # as of tracks that last all along
    return fit_field(target, weight, (frame, x, y), FRAMES, config)


def test_a_scale_of_each_frame_is_found() -> None:
    scale = np.random.default_rng(1).normal(scale=0.2, size=FRAMES)
    field = fitted(scale, np.ones(FRAMES, bool))
    left = scale[:, None, None] - field
    assert np.abs(left).mean() < 0.5 * np.abs(scale).mean()  # a field without such scales leaves .83


def test_a_frame_without_points_follows_its_neighbours() -> None:
    seen = np.ones(FRAMES, bool)
    seen[7] = False
    field = fitted(np.full(FRAMES, 0.2), seen)
    assert abs(field[7].mean() - field[[6, 8]].mean()) < 0.02
