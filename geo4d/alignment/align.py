"""All windows -> one reconstruction (METHOD section 7)."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.fuse import (
    Candidates,
    balance,
    confidence,
    disparity_candidates,
    disparity_weight,
    fit_disparity,
    fuse,
    point_candidates,
)
from geo4d.alignment.initialise import chain_windows, fit_focal, solve_pnp, window_cameras, world_cameras
from geo4d.alignment.observations import Observations, centred_pixels, observe_points, ray_cameras
from geo4d.alignment.paper import solve_paper
from geo4d.alignment.solve import Problem, Unknowns, solve
from geo4d.errors import AlignmentError
from geo4d.geometry.rigid import invert_rigid, relative_to_first, rigid
from geo4d.geometry.rotation import fit_rotation
from geo4d.geometry.similarity import Similarity
from geo4d.scene import Reconstruction, WindowPredictions

MIN_PIXELS = 10


def align(predictions: WindowPredictions, config: AlignmentConfig | None = None) -> Reconstruction:
    """Fuses window predictions into one trajectory, one focal length and one depth sequence, in the first camera's frame.

    Works with any of points, disparity and rays: points give everything; disparity alone gives depth under a static camera,
    rays alone give cameras without depth; `diagnostics` says what was used and what is missing. Raises AlignmentError if
    fewer than ten pixels carry any weight.
    """
    config = config or AlignmentConfig()
    started = time.perf_counter()
    predictions = _select(predictions, config)
    if config.solver == "paper" and predictions.points is None:
        raise AlignmentError("The paper solver works on point maps, and there are none; take solver=fast.")
    if predictions.points is not None:
        result = _align_points(predictions, config)
    elif predictions.disparity is not None:
        result = _align_disparity(predictions, config)
    else:
        result = _align_rays(predictions, config)
    return result.with_diagnostics(alignment_seconds=round(time.perf_counter() - started, 3))


def _select(predictions: WindowPredictions, config: AlignmentConfig) -> WindowPredictions:
    """Drops the modalities that are switched off, sorts the windows by their first frame."""
    drop: dict[str, Any] = {}
    if not config.use_points:
        drop |= {"points": None, "weight": None}
    if not config.use_disparity:
        drop |= {"disparity": None, "disparity_weight": None}
    if not config.use_rays:
        drop |= {"ray_direction": None, "ray_moment": None, "ray_cam_to_win": None}
    order = torch.argsort(predictions.windows[:, 0], stable=True)
    names = ("windows", "points", "weight", "disparity", "disparity_weight", "ray_direction", "ray_moment", "ray_cam_to_win")
    dense = {name: getattr(predictions, name) for name in names}
    ordered = {name: None if value is None else value[order] for name, value in dense.items()}
    return replace(predictions, **{**ordered, **drop})


def _align_points(predictions: WindowPredictions, config: AlignmentConfig) -> Reconstruction:
    observations = observe_points(predictions, config.samples)
    usable = int((observations.weight > 0).sum())
    if usable < MIN_PIXELS:
        raise AlignmentError(
            f"The point maps hold {usable} usable sampled pixels, at least {MIN_PIXELS} are needed; look at the video and the weights."
        )
    focal, shift, focals = fit_focal(observations, predictions.points_origin, config)
    cameras, residual = window_cameras(observations, focal, shift)
    windows, loose = chain_windows(observations, cameras)
    poses = world_cameras(observations, windows, cameras, residual)
    rays = ray_cameras(predictions)
    unknowns = Unknowns(
        poses[:, :3, :3], poses[:, :3, 3], windows, torch.tensor(focal).double().log(),
        None if rays is None else _ray_similarities(observations.windows, poses, rays),
    )  # fmt: skip
    if config.solver == "paper":
        return _align_as_paper(predictions, observations, unknowns, rays, config)
    unknowns, scales, steps = solve(Problem(observations, rays, config, math.log(focal)), unknowns)
    return _densify(predictions, observations, unknowns, {
        "terms": [name for name, value in (("points", True), ("disparity", predictions.disparity), ("rays", rays)) if value is not None],
        "focal_by_longer_side": float(unknowns.log_focal.exp()),
        "window_focals": [round(f, 5) for f in focals],
        "window_scales": unknowns.windows.scale.tolist(),
        "solver_steps": steps,
        "residual_across": float(scales.across),
        "residual_along": float(scales.along),
        "warnings": [
            *(f"Window {g} shares no usable frame with an earlier one; its scale and pose are guesses." for g in loose),
            *(["The ray maps are not finite or do not spread; they were not used."] if rays is None and _has_rays(predictions) else []),
        ],
    })  # fmt: skip


def _align_as_paper(
    predictions: WindowPredictions, observations: Observations, unknowns: Unknowns, rays: Tensor | None, config: AlignmentConfig
) -> Reconstruction:
    """The paper's optimisation from the same first guesses."""
    poses = rigid(unknowns.rotation, unknowns.centre)
    points = point_candidates(predictions, _own_cameras(observations, unknowns), unknowns.windows.scale)
    log_depth, precision, spread = fuse(observations.windows, [points], observations.num_frames)
    found = solve_paper(predictions, log_depth, poses, float(unknowns.log_focal), (unknowns.windows, unknowns.rays), rays, config)
    dense = torch.where(log_depth.isfinite(), found.log_depth, torch.nan), precision, spread
    terms = [name for name, value in (("points", True), ("disparity", predictions.disparity), ("rays", rays)) if value is not None]
    report = {"terms": terms, "solver": "paper", "first_loss": found.losses[0], "last_loss": found.losses[-1]}
    return _reconstruction(predictions, dense, rigid(found.rotation, found.centre), math.exp(found.log_focal), report)


def _has_rays(predictions: WindowPredictions) -> bool:
    """Whether anything was said of rays."""
    complete = predictions.ray_direction is not None and predictions.ray_moment is not None
    return complete or predictions.ray_cam_to_win is not None


def _ray_similarities(windows: Tensor, poses: Float[Tensor, "t 4 4"], rays: Float[Tensor, "g v 4 4"]) -> Similarity:
    """Start of each window's ray similarity: rotation by Procrustes on the cameras' axes, then scale and shift of centres."""
    target = poses[windows]  # (g, v, 4, 4)
    axes = rays[..., :3, :3].transpose(-1, -2).flatten(1, 2), target[..., :3, :3].transpose(-1, -2).flatten(1, 2)
    rotation = fit_rotation(*axes)
    turned = (rotation[:, None] @ rays[..., :3, 3:])[..., 0]
    centres = target[..., :3, 3]
    a, b = turned - turned.mean(1, keepdim=True), centres - centres.mean(1, keepdim=True)
    scale = ((a * b).sum((1, 2)) / a.square().sum((1, 2)).clamp_min(1e-12)).clamp_min(1e-6)
    return Similarity(scale, rotation, centres.mean(1) - scale[:, None] * turned.mean(1))


def _densify(predictions: WindowPredictions, observations: Observations, unknowns: Unknowns, diagnostics: dict[str, Any]) -> Reconstruction:
    """Depth of every pixel from all windows, given the solved cameras and scales."""
    poses = rigid(unknowns.rotation, unknowns.centre)
    points = point_candidates(predictions, _own_cameras(observations, unknowns), unknowns.windows.scale)
    frames = observations.num_frames
    log_depth, precision, spread = fuse(observations.windows, [points], frames)
    if predictions.disparity is not None:
        disparity, fits = disparity_candidates(predictions, points, log_depth)
        sources = balance(observations.windows, [points, disparity])
        log_depth, precision, spread = fuse(observations.windows, sources, frames)
        diagnostics["disparity_fits"] = fits
    return _reconstruction(predictions, (log_depth, precision, spread), poses, float(unknowns.log_focal.exp()), diagnostics)


def _own_cameras(observations: Observations, unknowns: Unknowns) -> Float[Tensor, "g v 4 4"]:
    """Each window's own idea of its cameras, started at the common one: where the two differ, depth follows the window."""
    poses, w = rigid(unknowns.rotation, unknowns.centre)[observations.windows], unknowns.windows
    centre = ((poses[..., :3, 3] - w.translation[:, None]) @ w.rotation) / w.scale[:, None, None]
    own = rigid(w.rotation.mT[:, None] @ poses[..., :3, :3], centre).flatten(0, 1)
    rays = observations.pixels / unknowns.log_focal.exp()
    own, _ = solve_pnp(own, observations.points.flatten(0, 1), observations.weight.flatten(0, 1), rays, rounds=6)
    return own.unflatten(0, observations.windows.shape)


def _reconstruction(
    predictions: WindowPredictions,
    dense: tuple[Tensor, Tensor, Tensor],
    poses: Float[Tensor, "t 4 4"],
    focal: float,
    diagnostics: dict[str, Any],
) -> Reconstruction:
    log_depth, precision, spread = dense
    frames, height, width = log_depth.shape
    valid = log_depth.isfinite()
    images = predictions.images if predictions.images is not None else np.zeros((frames, height, width, 3), np.uint8)
    if images.shape[1:3] != (height, width):
        rows = ((np.arange(height) + 0.5) * images.shape[1] / height).astype(int)
        images = images[:, rows][:, :, ((np.arange(width) + 0.5) * images.shape[2] / width).astype(int)]
    intrinsics = np.array([[focal * max(height, width), 0, width / 2], [0, focal * max(height, width), height / 2], [0, 0, 1]])
    return Reconstruction(
        depth=torch.where(valid, log_depth.exp(), torch.nan).numpy().astype(np.float32),
        confidence=confidence(precision, spread),
        valid=valid.numpy(),
        images=np.ascontiguousarray(images[:frames]),
        intrinsics=np.tile(intrinsics, (frames, 1, 1)),
        cam_to_world=relative_to_first(poses.double()).numpy(),
        timestamps=np.arange(frames) / 24.0 if predictions.timestamps is None else np.asarray(predictions.timestamps, np.float64),
        source_size=predictions.source_size or (height, width),
        diagnostics={"warnings": [], **diagnostics},
    )


def _align_disparity(predictions: WindowPredictions, config: AlignmentConfig) -> Reconstruction:
    """Depth alone: windows' disparities are brought to the first one's scale and shift through common frames."""
    assert predictions.disparity is not None
    weight = disparity_weight(predictions)
    if int((weight > 0).sum()) < MIN_PIXELS:
        raise AlignmentError(f"The disparity maps hold fewer than {MIN_PIXELS} pixels with a weight; look at the video.")
    windows, frames = predictions.windows.long(), predictions.num_frames
    aligned = torch.zeros_like(predictions.disparity)
    known = torch.full((frames, *predictions.grid_size), torch.nan)
    fits = []
    for g, window in enumerate(windows.tolist()):
        reference = known[window]
        use = (weight[g] > 0) & reference.isfinite()
        a, b = 1.0, 0.0
        if int(use.sum()) >= MIN_PIXELS:
            a, b, _ = fit_disparity(predictions.disparity[g][use], reference[use], weight[g][use])
            a = a if a > 1e-6 else 1.0
        fits.append({"scale": a, "shift": b})
        aligned[g] = (predictions.disparity[g] - b) / a
        fresh = torch.where(weight[g] > 0, aligned[g], torch.nan)
        known[window] = torch.where(reference.isfinite(), reference, fresh)
    usable = (weight > 0) & (aligned > 1e-3)
    source = Candidates(-torch.where(usable, aligned, 1.0).log(), torch.where(usable, weight, 0.0))
    dense = fuse(windows, [source], frames)
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    warning = "Disparity alone says nothing of the camera: it is static with a default focal length, and depth has an unknown shift."
    return _reconstruction(
        predictions, dense, poses, config.focal_prior, {"terms": ["disparity"], "disparity_fits": fits, "warnings": [warning]}
    )


def _align_rays(predictions: WindowPredictions, config: AlignmentConfig) -> Reconstruction:
    """Cameras alone: windows are chained through the cameras that they share."""
    cameras = ray_cameras(predictions)
    if cameras is None:
        raise AlignmentError(
            "The ray maps are incomplete, not finite or do not spread, and there is no other modality to align; look at the predictions."
        )
    windows, frames = predictions.windows.long(), predictions.num_frames
    poses: list[Tensor | None] = [None] * frames
    loose = []
    for g, window in enumerate(windows.tolist()):
        shared = [k for k, frame in enumerate(window) if poses[frame] is not None]
        placed = cameras[g]
        if g > 0 and shared:
            target = torch.stack([poses[window[k]] for k in shared])  # type: ignore[misc]
            link = _ray_similarities(torch.arange(len(shared))[None], target, placed[shared][None])
            centres = link.apply(placed[None, :, :3, 3])[0]
            placed = rigid(link.rotation[0] @ placed[:, :3, :3], centres)
        elif g > 0:
            loose.append(g)
        for k, frame in enumerate(window):
            if poses[frame] is None:
                poses[frame] = placed[k]
    path = torch.stack([torch.eye(4, dtype=torch.float64) if pose is None else pose for pose in poses])
    height, width = predictions.grid_size if predictions.ray_direction is not None else (8, 8)
    empty = torch.full((frames, height, width), torch.nan), torch.zeros(frames, height, width), torch.zeros(frames, height, width)
    warnings = ["Ray maps alone give cameras; there is no depth."] + [f"Window {g} shares no frame with an earlier one." for g in loose]
    return _reconstruction(
        predictions, empty, invert_rigid(path[:1]) @ path, _ray_focal(predictions, config), {"terms": ["rays"], "warnings": warnings}
    )


def _ray_focal(predictions: WindowPredictions, config: AlignmentConfig) -> float:
    """Focal length by the longer side from the first frames' directions: u d_z = f d_x, by a weighted median."""
    if predictions.ray_direction is None:
        return config.focal_prior
    first = predictions.ray_direction[:, 0].double()  # (g, y, x, 3)
    height, width = first.shape[1:3]
    u = centred_pixels(height, width).flatten()
    x, z = first[..., :2].reshape(len(first), -1), first[..., 2].reshape(len(first), -1).repeat_interleave(2, dim=1)
    ratio = (u * z / x).flatten()
    return float(ratio[ratio.isfinite() & (x.abs().flatten() > 0.05)].median())
