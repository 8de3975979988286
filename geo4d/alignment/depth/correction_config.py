"""Settings of the depth correction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CorrectionConfig:
    """Sizes in cells, errors in log depth."""

    columns: int = 15
    rows: int = 10
    network_sigma: float = 0.2
    space: float = 1.0  # weight of differences between neighbouring cells
    time: float = 1.0  # of one cell from frame to frame
    ridge: float = 0.3  # of the field itself
    least_pixel_error: float = 0.5  # of a track's whole path: errors of following a point are shared by its frames
    independent_frames: float = 2.0  # observations of a track that count
    worst_sigma: float = 0.15  # beyond which a point is left out
    point_floor: float = 0.1
    robust: float = 0.25
    least_points: float = 10.0  # a frame
    least_belief: float = 0.4  # in a track
    least_gain: float = 0.9  # of the misfit, saved by a camera that travels, from which parallax is trusted with the depth too
