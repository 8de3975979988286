"""The last step: arrays, metres, what moves, covariances and diagnostics, all on the final cameras and depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.draft import Draft
from geo4d.alignment.finish.assemble import assemble, at_size
from geo4d.alignment.finish.covariance import camera_covariance
from geo4d.alignment.finish.metric import in_metres
from geo4d.alignment.finish.moving import find_motion
from geo4d.alignment.finish.report import across_by_frame, describe_windows, fit_of_windows, suspect_frames, suspects
from geo4d.alignment.joint.steps import Joint
from geo4d.alignment.priors import Priors
from geo4d.geometry.resample import resize_smoothly
from geo4d.scene import Reconstruction, WindowPredictions


def finish(predictions: WindowPredictions, draft: Draft, priors: Priors, config: AlignmentConfig) -> Reconstruction:
    """The reconstruction that a draft amounts to. Raises InputError for known lengths that cannot be measured in it."""
    joint, fused, adjusted, c = draft.joint, draft.fused, draft.adjusted, config.finish
    if joint is not None and draft.has_moved:
        joint = joint.with_cameras(draft.cameras)
    report: dict[str, Any] = {
        **draft.report,
        "focal_by_longer_side": float(draft.cameras.focal.mean()),
        "warnings": list(draft.warnings),
    }
    covariance = across = None
    if joint is not None and fused is not None:
        fit = fit_of_windows(joint, max(predictions.grid_size), fused.disparity_fits)
        report |= {
            "disagreement": fused.disagreement,
            "windows": describe_windows(joint, fit),
            "suspect_windows": suspects(fit, c),
        }
        report["warnings"] += _warnings(joint, has_moved=draft.has_moved)
        covariance, across = camera_covariance(joint, c.correlated_frames), across_by_frame(joint)
    if adjusted is not None:
        report["tracks"] = {**adjusted.report, **({} if draft.corrected is None else draft.corrected.report)}
        if draft.corrected is not None:
            covariance, across = adjusted.covariance(draft.corrected.log_scale), adjusted.residual_by_frame()
    log_depth, error = draft.final_depth(config.depth)
    result = assemble(predictions, log_depth, error, draft.cameras, report, covariance)
    result = in_metres(result, draft, priors, c.metric)
    if across is not None:
        result = result.with_diagnostics(suspect_frames=suspect_frames(result, across, c))
    if not config.motion or joint is None:
        return result
    followed = adjusted.followed() if adjusted is not None and draft.has_moved else None
    small = at_size(result, *predictions.grid_size)  # what moves is large beside a pixel
    dynamic = resize_smoothly(find_motion(small, c.moving, followed), *result.depth.shape[1:])
    return replace(result, dynamic=np.where(result.valid, dynamic, np.float32(0)))


def _warnings(joint: Joint, *, has_moved: bool) -> list[str]:
    """What can be told only once it is known whose cameras are returned."""
    ready = joint.ready
    # followed points settle one focal length of their own: how the network's drifts is then of no use to anyone
    one_focal = len(set(ready.guess.log_focal.tolist())) == 1 and ready.priors.log_focal is None and not has_moved
    if ready.guess.zooms and one_focal:
        return [
            "The focal length seems to change along the video, and one was used for all frames: try focal=per_frame."
        ]
    return []
