"""Points of one image found in another that differs little: corners and pyramidal Lucas-Kanade.

Images are (h, w) uint8; positions (n, 2) float32, x and y in pixels, with pixel centres at whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FlowConfig:
    """Lucas-Kanade's numbers."""

    window: int  # pixels, side of the patch that is compared
    levels: int  # of the pyramid above the image itself


def flow(
    source: np.ndarray, target: np.ndarray, points: np.ndarray, config: FlowConfig, *, guess: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Where (n, 2) points of one image lie in another, and which (n,) were found.

    The search begins at `guess` (n, 2), else at the points themselves.
    """
    import cv2

    # no least gradient: a patch that cannot be placed is told by the way back
    start, flags = (None, 0) if guess is None else (guess[:, None].copy(), cv2.OPTFLOW_USE_INITIAL_FLOW)
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        source,
        target,
        points[:, None],
        start,
        winSize=(config.window, config.window),
        maxLevel=config.levels,
        flags=flags,
        minEigThreshold=0,
    )
    return found[:, 0], status[:, 0] == 1


def flow_both_ways(
    source: np.ndarray, target: np.ndarray, points: np.ndarray, config: FlowConfig, max_error: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where points (n, 2) lie in another image, and which (n,) have a forward-backward error below `max_error`.

    Both are in pixels.
    """
    ahead, found = flow(source, target, points, config)
    back, returned = flow(target, source, ahead, config)
    return ahead, found & returned & (np.linalg.norm(back - points, axis=1) < max_error)


def set_anew(
    anchor: np.ndarray,
    image: np.ndarray,
    anchor_points: np.ndarray,
    points: np.ndarray,
    config: FlowConfig,
    max_shift: float,
) -> np.ndarray:
    """Positions (n, 2) in the image by the patches of an earlier one: errors of the steps between do not add up.

    A point that this would move by `max_shift` pixels or more stays where it is: what it shows has changed too much.
    """
    better, found = flow(anchor, image, anchor_points, config, guess=points)
    found &= np.linalg.norm(better - points, axis=1) < max_shift
    return np.where(found[:, None], better, points)


def inside(points: np.ndarray, shape: tuple[int, ...], border: int) -> np.ndarray:
    """Which (n,) of the points lie more than `border` pixels inside an image of this shape."""
    height, width = shape[:2]
    within = (points > border) & (points < (width - 1 - border, height - 1 - border))
    return np.all(within, axis=1)


def find_corners(
    image: np.ndarray,
    taken: np.ndarray,
    *,
    most: int,
    quality: float,
    min_distance: float,
    clearance: float,
    block: int,
) -> np.ndarray:
    """At most `most` corners (n, 2), the strongest first.

    They lie at least `min_distance` pixels from one another and `clearance` pixels from what is taken (m, 2);
    `quality` is the least strength relative to the strongest, `block` the side in pixels of the patch that is judged.
    """
    import cv2

    free = np.full(image.shape, 255, np.uint8)
    for x, y in taken:
        cv2.circle(free, (int(x), int(y)), int(clearance), 0, -1)
    corners = cv2.goodFeaturesToTrack(image, most, quality, min_distance, mask=free, blockSize=block)
    return np.zeros((0, 2), np.float32) if corners is None else corners[:, 0].astype(np.float32)
