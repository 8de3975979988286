"""A recording in TUM layout (rgb.txt, depth.txt, groundtruth.txt) in memory, as the held-out clips are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geo4d.errors import InputError
from geo4d.evaluation.sets import EvaluationSequence, open_set
from geo4d.evaluation.synthetic import TrueClip


def read_tum_clip(root: Path, *, depth_scale: float, max_frames: int | None) -> TrueClip:
    """Frames with the depth map nearest in time and the camera at their time (within 20 ms); others are left out.

    Focal length comes from intrinsics.txt (fx fy cx cy). Raises InputError if it or one of the lists is not there.
    """
    for name in ("rgb.txt", "depth.txt", "groundtruth.txt"):
        if not (root / name).is_file():
            raise InputError(
                f"{root / name} is missing; expected a recording in TUM layout (rgb.txt, depth.txt, groundtruth.txt)."
            )
    if not (root / "intrinsics.txt").is_file():
        raise InputError(
            f"{root / 'intrinsics.txt'} is missing; expected fx fy cx cy of the pictures, for no focal length is "
            "invented."
        )
    recording = open_set("tum", root, count=max_frames, depth_scale=depth_scale)
    return true_clip(recording.sequence(recording.names[0]))


def true_clip(sequence: EvaluationSequence) -> TrueClip:
    """A sequence that has all its truth, in memory; the world is its first camera."""
    assert sequence.cam_to_world is not None and sequence.intrinsics is not None
    depth, valid = sequence.depths()
    poses = np.linalg.inv(sequence.cam_to_world[0]) @ sequence.cam_to_world
    timestamps = sequence.timestamps - sequence.timestamps[0]
    return TrueClip(
        sequence.images(), timestamps, depth, valid, np.zeros(depth.shape, bool), sequence.intrinsics, poses
    )
