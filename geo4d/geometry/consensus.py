"""Geometry of matches of which many are wrong.

Sampled hypotheses and what agrees with them (OpenCV's MAGSAC and RANSAC). Pixels are (n, 2) numpy arrays in whatever
unit, the threshold in the same. What has no geometry at all gives None. The same input gives the same answer.
"""

from __future__ import annotations

import numpy as np

SCALE = 1000.0  # pixels by which the unit is multiplied: OpenCV's tolerances are made for pixels
CONFIDENCE = 0.999  # that a sample without a wrong match was drawn: samples are cheap
SAMPLES = 2000  # at most: a cap on time where few matches agree
FARTHEST = 1e4  # baselines: OpenCV's own limit of 50 would take far points for points behind
# matches, of a fundamental matrix (the eight-point algorithm), of a homography (two equations each for eight numbers),
# of a camera (no fewer show that they agree: any three fit one)
LEAST_EPIPOLAR, LEAST_PLANE, LEAST_CAMERA = 8, 4, 6


def consensus_fundamental(
    source: np.ndarray, target: np.ndarray, *, threshold: float, scale: float = SCALE, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray] | None:
    """F (3, 3) with target^T F source = 0, and which matches (n,) agree to `threshold`.

    `scale` makes pixels of the unit.
    """
    import cv2

    if len(source) < LEAST_EPIPOLAR:
        return None
    try:
        found, agree = cv2.findFundamentalMat(
            scale * source, scale * target, cv2.USAC_MAGSAC, scale * threshold, confidence, SAMPLES
        )
    except cv2.error:  # raised where no sample of the matches has a geometry
        return None
    if found is None or found.shape != (3, 3):
        return None
    unit = np.diag([scale, scale, 1.0])
    return unit @ found @ unit, agree[:, 0] == 1


def consensus_camera(
    source: np.ndarray, target: np.ndarray, focal: float, *, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Rotation (3, 3) and unit translation (3,) of source_to_target by the essential matrix.

    Pixels are around the principal point. Then which matches (n,) agree with it, and which of them also lie before both
    cameras.
    """
    import cv2

    if len(source) < LEAST_EPIPOLAR:
        return None
    intrinsics = np.diag([SCALE * focal, SCALE * focal, 1.0])
    options = {"method": cv2.USAC_MAGSAC, "prob": CONFIDENCE, "threshold": SCALE * threshold, "maxIters": SAMPLES}
    try:
        essential, agree = cv2.findEssentialMat(SCALE * source, SCALE * target, intrinsics, **options)
    except cv2.error:
        return None
    if essential is None or essential.shape != (3, 3):
        return None
    both = SCALE * source, SCALE * target
    _, rotation, translation, ahead, _ = cv2.recoverPose(
        essential, *both, intrinsics, distanceThresh=FARTHEST, mask=agree.copy()
    )
    return rotation, translation[:, 0], agree[:, 0] > 0, ahead[:, 0] > 0


def consensus_homography(
    source: np.ndarray, target: np.ndarray, *, threshold: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """H (3, 3) from source to target, and which matches (n,) agree.

    Those of one plane, or of a camera that turns where it stands.
    """
    import cv2

    if len(source) < LEAST_PLANE:
        return None
    found, agree = cv2.findHomography(
        SCALE * source, SCALE * target, cv2.USAC_MAGSAC, SCALE * threshold, maxIters=SAMPLES, confidence=CONFIDENCE
    )
    if found is None:
        return None
    return np.diag([1 / SCALE, 1 / SCALE, 1.0]) @ found @ np.diag([SCALE, SCALE, 1.0]), agree[:, 0] > 0


def consensus_pose(points: np.ndarray, rays: np.ndarray, *, threshold: float) -> tuple[np.ndarray, np.ndarray] | None:
    """cam_to_world (4, 4) from points (n, 3) seen along rays (n, 2), and which of them (n,) agree.

    Rays are slopes x / z and y / z.
    """
    import cv2

    if len(points) < LEAST_CAMERA:
        return None
    intrinsics = np.diag([SCALE, SCALE, 1.0])
    try:
        found, rotation, translation, agree = cv2.solvePnPRansac(
            points,
            SCALE * rays,
            intrinsics,
            None,
            iterationsCount=SAMPLES // 10,
            reprojectionError=SCALE * threshold,
            confidence=CONFIDENCE,
            flags=cv2.SOLVEPNP_SQPNP,
        )
        if not found or agree is None or len(agree) < LEAST_CAMERA:
            return None
        inside = np.zeros(len(points), bool)
        inside[agree[:, 0]] = True
        rotation, translation = cv2.solvePnPRefineLM(
            points[inside], SCALE * rays[inside], intrinsics, None, rotation, translation
        )
    except cv2.error:
        return None
    cam_to_world = np.eye(4)
    cam_to_world[:3, :3] = cv2.Rodrigues(rotation)[0].T
    cam_to_world[:3, 3] = -cam_to_world[:3, :3] @ translation[:, 0]
    return (cam_to_world, inside) if np.isfinite(cam_to_world).all() else None
