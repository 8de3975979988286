"""All windows, tracks and priors -> one reconstruction.

The only place where the steps of the alignment are put in order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from geo4d.alignment.bundle.choose import adjust_cameras
from geo4d.alignment.cameras import Cameras
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.depth.dense import fuse_windows
from geo4d.alignment.depth.stereo import refine_depth
from geo4d.alignment.draft import Draft
from geo4d.alignment.fallback.disparity_only import align_disparity
from geo4d.alignment.fallback.rays_only import align_rays
from geo4d.alignment.finish.describe import finish
from geo4d.alignment.joint.steps import Joint, Prepared, prepare, solve_joint
from geo4d.alignment.priors import Priors
from geo4d.alignment.reference.paper import solve_from
from geo4d.errors import AlignmentError, ConfigError, InputError
from geo4d.scene import Reconstruction, Tracks, WindowPredictions

Progress = Callable[[str, int, int], None]


def align(
    predictions: WindowPredictions,
    *,
    tracks: Tracks | None = None,
    priors: Priors | None = None,
    frames: np.ndarray | None = None,
    config: AlignmentConfig | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """Fuses window predictions into one trajectory, one focal length and one depth, in the first camera's frame.

    Works with any of points, disparity and rays: points give everything; disparity alone gives depth (with cameras as
    `priors` its scale and shift too), rays alone give cameras without depth. Points followed through the video
    (`tracks`) then correct the cameras, the focal length and the depth, where they are worth it. `diagnostics` says
    what was used, how well it fits and what is missing; all diagnostics, metres, covariances, what moves, is of the
    cameras and the depth that are returned.

    `frames` are the pictures (t, h, w, 3) uint8 of the video at any resolution (default: those of the predictions).
    Where followed points settle cameras that see parallax, depth is found anew at their resolution (`config.detail`),
    on `device` (default: the CPU, where all else is computed).

    Raises AlignmentError if fewer than ten pixels carry any weight, InputError for priors, tracks or frames of another
    video, ConfigError for priors that these predictions cannot use.
    """
    config, priors = config or AlignmentConfig(), priors or Priors()
    started = time.perf_counter()
    predictions = select(predictions, config)
    pictures = _checked(frames, predictions)
    _refuse_unused(predictions, priors, config)
    if predictions.points is None:
        without_points = align_rays if predictions.disparity is None else align_disparity
        draft = without_points(predictions, config, priors)
    else:
        ready = prepare(predictions, config, priors)
        if config.solver == "paper":
            draft = _as_paper(predictions, ready, config)
        else:
            draft = draft_of(predictions, _solved(ready, progress), priors, config, progress)
    result = complete(predictions, draft, tracks, priors, config, Sight(pictures, device, progress))
    return result.with_diagnostics(alignment_seconds=round(time.perf_counter() - started, 3))


def draft_of(
    predictions: WindowPredictions,
    joint: Joint,
    priors: Priors,
    config: AlignmentConfig,
    progress: Progress | None = None,
) -> Draft:
    """Cameras and depth by the windows alone."""
    fused = fuse_windows(predictions, joint, priors, config.depth, progress)
    report = {"terms": terms_of(predictions, joint.ready), "solver": "fast", "joint": joint.solved.summary.as_dict()}
    return Draft(joint.cameras(), fused.dense, report, joint.ready.warnings(), joint=joint, fused=fused)


@dataclass(frozen=True)
class Sight:
    """What near views are compared by."""

    pictures: np.ndarray | None = None  # (t, h, w, 3) uint8
    device: torch.device | None = None  # None: the CPU
    progress: Progress | None = None


def complete(
    predictions: WindowPredictions,
    draft: Draft,
    tracks: Tracks | None,
    priors: Priors,
    config: AlignmentConfig,
    sight: Sight | None = None,
) -> Reconstruction:
    """What follows the windows: followed points move cameras and depth, near views sharpen it, all is described."""
    sight = sight or Sight(predictions.images)
    if tracks is not None:
        source_size = predictions.source_size or predictions.grid_size
        adjusted = adjust_cameras(draft.cameras, draft.dense.log_depth, tracks, source_size, config.bundle, priors)
        draft = draft.adjusted_by(adjusted, config.depth.correction)
        draft = _detailed(draft, sight, priors, config)
    if draft.detail is not None or predictions.images is None:
        predictions = replace(predictions, images=sight.pictures)
    return finish(predictions, draft, priors, config)


def _detailed(draft: Draft, sight: Sight, priors: Priors, config: AlignmentConfig) -> Draft:
    """With depth at the resolution of the pictures, where the cameras are good enough for it; else why it is not."""
    reason = draft.lacks_detail(config.depth.stereo)
    if config.detail == "off":
        reason = "it was not wanted"
    elif sight.pictures is None:
        reason = "there are no pictures"
    elif priors.depth is not None:
        reason = "depth was given"
    if reason or sight.pictures is None:
        return replace(draft, report={**draft.report, "detail": {"used": False, "reason": reason}})
    detail = refine_depth(
        draft.dense.log_depth,
        draft.cameras,
        sight.pictures,
        config.depth.stereo,
        by_flow=config.detail == "flow",
        device=sight.device,
        progress=sight.progress,
    )
    report = {"used": True, "size": list(detail.log_depth.shape[1:]), **detail.report}
    return replace(draft, detail=detail, report={**draft.report, "detail": report})


def _solved(ready: Prepared, progress: Progress | None) -> Joint:
    if progress is not None:
        progress("cameras", 0, 1)
    joint = solve_joint(ready)
    if progress is not None:
        progress("cameras", 1, 1)
    return joint


def _as_paper(predictions: WindowPredictions, ready: Prepared, config: AlignmentConfig) -> Draft:
    """The paper's optimisation from the same initial guesses."""
    found, dense = solve_from(predictions, ready, config)
    focal = torch.full_like(ready.start.log_focal, math.exp(found.log_focal))
    cameras = Cameras.of(found.cam_to_world, focal, ready.priors.fixed_intrinsics)
    report = {
        "terms": terms_of(predictions, ready),
        "solver": "paper",
        "first_loss": found.losses[0],
        "last_loss": found.losses[-1],
    }
    return Draft(cameras, dense, report, ready.warnings())


def select(predictions: WindowPredictions, config: AlignmentConfig) -> WindowPredictions:
    """Drops the modalities that are switched off, brings the others to the CPU, sorts the windows by their first frame.

    The solve is made of many small systems, which a CPU solves fastest. Windows that are in order on the CPU are not
    copied.
    """
    drop: dict[str, Any] = {}
    if not config.use_points:
        drop |= {"points": None, "weight": None}
    if not config.use_disparity:
        drop |= {"disparity": None, "disparity_weight": None}
    if not config.use_rays:
        drop |= {"ray_direction": None, "ray_moment": None, "ray_cam_to_win": None}
    chosen = replace(predictions, **drop).map_windows(lambda values: values.cpu())
    order = torch.argsort(chosen.windows[:, 0], stable=True)
    if bool((order == torch.arange(len(order))).all()):
        return chosen
    return chosen.map_windows(lambda values: values[order])


def _checked(frames: np.ndarray | None, predictions: WindowPredictions) -> np.ndarray | None:
    """The video's pictures. Raises InputError if they are not its."""
    if frames is None:
        return predictions.images
    wanted = (predictions.num_frames, *frames.shape[1:3], 3)
    if frames.dtype != np.uint8 or frames.shape != wanted:
        raise InputError(
            f"Frames must be uint8 (t, h, w, 3), one for each of the video's {predictions.num_frames}; got "
            f"{frames.dtype} {frames.shape}."
        )
    return frames


def _refuse_unused(predictions: WindowPredictions, priors: Priors, config: AlignmentConfig) -> None:
    """Raises for a solver or for priors that these modalities cannot use, rather than dropping them."""
    if config.solver == "paper" and predictions.points is None:
        raise AlignmentError("The paper solver works on point maps, and there are none; take solver=fast.")
    if config.solver == "paper" and not priors.is_empty:
        raise ConfigError("The paper solver knows no priors; take solver=fast.")
    if predictions.points is not None:
        return
    given = {
        "depth": priors.depth is not None,
        "distances": bool(priors.distances),
        "camera_height": priors.camera_height is not None,
    }
    if predictions.disparity is None:
        given["cam_to_world"] = priors.cam_to_world is not None
    unused = [name for name, there in given.items() if there]
    if unused:
        raise ConfigError(
            f"Without point maps the priors {', '.join(unused)} cannot be used here; leave them out, or use_points."
        )


def terms_of(predictions: WindowPredictions, ready: Prepared) -> list[str]:
    """The modalities that take part."""
    given = (("points", predictions.points), ("disparity", predictions.disparity), ("rays", ready.rays))
    return [name for name, value in given if value is not None]
