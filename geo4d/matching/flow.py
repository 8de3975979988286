"""Dense optical flow between two pictures, from a guess, kept where going there and back ends where it began."""

from __future__ import annotations

import numpy as np


def dense_flow(
    here: np.ndarray, there: np.ndarray, ahead: np.ndarray, back: np.ndarray, *, most_cycle_error: float
) -> tuple[np.ndarray, np.ndarray]:
    """Flow (h, w, 2) float32 in pixels from one grey picture (h, w) uint8 to another, and where it is believed (h, w).

    `ahead` and `back` are guesses of both flows (dense inverse search, Kroeger et al. 2016, by OpenCV).
    """
    import cv2

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = search.calc(here, there, np.ascontiguousarray(ahead, np.float32))
    returning = search.calc(there, here, np.ascontiguousarray(back, np.float32))
    v, u = np.mgrid[0 : here.shape[0], 0 : here.shape[1]].astype(np.float32)
    place = np.stack([u, v], axis=-1) + flow
    cycle = flow + cv2.remap(returning, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    height, width = here.shape
    inside = np.all((place >= 0) & (place <= (width - 1, height - 1)), axis=-1)
    return flow, inside & (np.linalg.norm(cycle, axis=-1) < most_cycle_error)
