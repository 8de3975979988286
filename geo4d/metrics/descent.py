"""The fit of the released evaluation, step for step, on scales that are not negative.

To repeat published numbers where it stops early.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8
BLOCK = 50  # steps between looks at all pixels
FASTEST = 8.0  # no step of Adam with these decays is longer than this times the rate (Cauchy-Schwarz: 7.27)


@dataclass(frozen=True)
class Descent:
    """A number of steps of Adam (Kingma and Ba 2015) of this rate."""

    rate: float
    steps: int

    def fit_scale_shift(self, x: np.ndarray, y: np.ndarray, start: float) -> tuple[float, float]:
        """Scale and shift that descending sum |s x + t - y| from (start, 0) arrives at.

        In single precision as released.

        A projected descent: a step that would make the scale negative ends at scale 0. The released one may go on
        below; both are the same, bit for bit, as long as it does not. `start` is positive.

        The released rule that ends the descent when two losses in a row are equal to 1e-6 is left out: it depends on
        the order in which a machine adds, and holds only where the loss no longer changes.
        """
        x, y = x.astype(np.float32), y.astype(np.float32)
        state, mean, square = np.array([start, 0], np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32)
        for first in range(0, self.steps, BLOCK):
            # a residual too great to change its sign within the block adds the same to each gradient of the block
            residual = state[0] * x + state[1] - y
            near = np.abs(residual) <= FASTEST * self.rate * BLOCK * (np.abs(x) + 1)
            settled = _gradient(np.where(near, 0, residual), x)
            near_x, near_y = x[near], y[near]
            for step in range(first + 1, min(first + BLOCK, self.steps) + 1):
                gradient = (settled + _gradient(state[0] * near_x + state[1] - near_y, near_x)).astype(np.float32)
                mean = np.float32(MEAN_DECAY) * mean + np.float32(1 - MEAN_DECAY) * gradient
                square = np.float32(SQUARE_DECAY) * square + np.float32(1 - SQUARE_DECAY) * gradient**2
                root = np.sqrt(square) / np.float32((1 - SQUARE_DECAY**step) ** 0.5) + np.float32(EPSILON)
                state = state - np.float32(self.rate / (1 - MEAN_DECAY**step)) * mean / root
                state[0] = max(state[0], np.float32(0))
        return float(state[0]), float(state[1])


def _gradient(residual: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Of the sum of absolute residuals in scale and shift, (2,)."""
    sign = np.sign(residual)
    return np.array([np.dot(sign.astype(np.float64), x), sign.sum(dtype=np.float64)])
