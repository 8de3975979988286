"""Numbers that compare a result with the truth: depth, points, boundaries, stability, poses and focal length.

All of it is numpy in float64. Data that cannot be scored raise `InputError`; no metric is ever nan.
"""

from geo4d.metrics.alignment import DepthAlignment, FittedDepth
from geo4d.metrics.boundary import BoundaryMetrics, boundary_metrics
from geo4d.metrics.depth import DepthErrors, DepthMetrics, average_depth, depth_metrics
from geo4d.metrics.descent import Descent
from geo4d.metrics.focal import focal_error
from geo4d.metrics.points import PointAlignment, PointMetrics, point_metrics
from geo4d.metrics.pose import (
    PoseMetrics,
    absolute_trajectory_error,
    align_trajectory,
    pose_auc,
    pose_metrics,
    relative_pose_angles,
    relative_pose_errors,
)
from geo4d.metrics.protocol import RELEASED_PROTOCOLS, DepthProtocol
from geo4d.metrics.stability import DepthStability, depth_stability

__all__ = [
    "RELEASED_PROTOCOLS",
    "BoundaryMetrics",
    "DepthAlignment",
    "DepthErrors",
    "DepthMetrics",
    "DepthProtocol",
    "DepthStability",
    "Descent",
    "FittedDepth",
    "PointAlignment",
    "PointMetrics",
    "PoseMetrics",
    "absolute_trajectory_error",
    "align_trajectory",
    "average_depth",
    "boundary_metrics",
    "depth_metrics",
    "depth_stability",
    "focal_error",
    "point_metrics",
    "pose_auc",
    "pose_metrics",
    "relative_pose_angles",
    "relative_pose_errors",
]
