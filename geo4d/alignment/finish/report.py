"""Diagnostics of an alignment: how well each window fits, which are to be looked at, and how good the whole may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.depth.sources import DisparityFit
from geo4d.alignment.finish.config import FinishConfig
from geo4d.alignment.finish.covariance import disagreement_of_cameras
from geo4d.alignment.joint.steps import Joint
from geo4d.alignment.joint.terms import Rows
from geo4d.scene import Reconstruction

# misfits of a window, by name and in the unit that it says, up to which none is suspect
NEGLIGIBLE = {
    "turn_deg": 0.01,
    "shift": 1e-3,
    "across_px": 0.01,
    "along": 1e-3,
    "rays_deg": 0.01,
    "disparity": 1e-3,
}
NEGLIGIBLE_ACROSS = 3e-5  # the same of a frame: misfit across the line of sight, by the longer side


@dataclass(frozen=True)
class WindowFit:
    """How one window fits the result; lists over the windows."""

    turn_deg: Float[Tensor, "g"]  # of its PnP poses against the common cameras, medians
    shift: Float[Tensor, "g"]  # by the extent of its scene
    across_px: Float[Tensor, "g"]
    along: Float[Tensor, "g"]  # log depth against the other windows
    rays_deg: Float[Tensor, "g"] | None
    disparity: (
        Float[Tensor, "g"] | None
    )  # median residual of its disparities, by their slope: in inverse depths of the unit


def fit_of_windows(joint: Joint, side: int, fits: list[DisparityFit] | None) -> WindowFit:
    """Residuals window by window; `side` is the longer one of the working frames."""
    observations, rays = joint.observations, joint.solved.rows("rays")
    across, along = (rows.residual.norm(dim=-1) for rows in joint.solved.rows("points"))
    rotation_error, shift = disagreement_of_cameras(joint)
    used = observations.weight > 0

    def median(values: Tensor) -> Tensor:
        return torch.where(used, values, torch.nan).flatten(1).nanmedian(dim=1).values

    rays_deg = _angle_of_rays(rays[0]) if rays else None
    disparity = (
        None if fits is None else torch.tensor([fit.residual / fit.a if fit.a > 0 else torch.nan for fit in fits])
    )
    size = joint.unknowns.windows.scale * observations.extent
    return WindowFit(
        rotation_error.norm(dim=-1).median(dim=1).values.rad2deg(),
        shift.norm(dim=-1).median(dim=1).values / size,
        side * median(across),
        median(along),
        rays_deg,
        disparity,
    )


def _angle_of_rays(rows: Rows) -> Float[Tensor, "g"]:
    """Median angle of each window's usable ray cameras off the common ones, degrees; nan where there are none."""
    angle = torch.where(rows.weight > 0, rows.residual.norm(dim=-1), torch.nan)
    return angle.nanmedian(dim=1).values.rad2deg()


def describe_windows(joint: Joint, fit: WindowFit) -> list[dict[str, Any]]:
    """One entry a window."""
    columns = {name: values for name, values in vars(fit).items() if values is not None}
    return [
        {
            "frames": [int(window.min()), int(window.max())],
            "focal_by_longer_side": round(joint.ready.guess.by_window[g], 5),
            "scale": float(joint.unknowns.windows.scale[g]),
            **{name: round(float(values[g]), 6) for name, values in columns.items()},
        }
        for g, window in enumerate(joint.observations.windows)
    ]


def suspects(fit: WindowFit, config: FinishConfig) -> list[dict[str, Any]]:
    """Windows that fit far worse than the others, the worst first, and in what."""
    found: dict[int, tuple[float, str]] = {}
    for name, values in vars(fit).items():
        if values is None:
            continue
        for g, times in _outliers(values, NEGLIGIBLE[name], config).items():
            if times > found.get(g, (0.0, ""))[0]:
                found[g] = (times, name)
    worst = sorted(found.items(), key=lambda item: -item[1][0])[: config.most_suspects]
    return [{"window": g, "by": name, "times_the_usual": round(times, 1)} for g, (times, name) in worst]


def suspect_frames(result: Reconstruction, across: Float[Tensor, "t"], config: FinishConfig) -> list[int]:
    """Frames whose depth has far less confidence, or whose cameras fit far worse, than the others'."""
    confidence = torch.tensor([float(_median_of(result, frame)) for frame in range(result.num_frames)])
    found: dict[int, float] = {}
    for values, least in ((1 / confidence.clamp_min(1e-6), 0.0), (across, NEGLIGIBLE_ACROSS)):
        for frame, times in _outliers(values, least, config).items():
            found[frame] = max(times, found.get(frame, 0.0))
    return sorted(sorted(found, key=lambda frame: -found[frame])[: config.most_suspects])


def _median_of(result: Reconstruction, frame: int) -> Tensor:
    confidence = torch.from_numpy(result.confidence[frame][result.valid[frame]])
    return confidence.median() if len(confidence) else torch.tensor(0.0)


def _outliers(values: Float[Tensor, "n"], least: float, config: FinishConfig) -> dict[int, float]:
    """Numbers of values far above the others and above `least`, and how many times the median they are."""
    finite = values[values.isfinite()]
    if len(finite) < 4:
        return {}
    middle = finite.median()
    sigma = 1.48 * (finite - middle).abs().median()
    limit = torch.maximum(middle + config.suspect * sigma, config.least_excess * middle).clamp_min(least)
    return {int(k): float(values[k] / middle.clamp_min(1e-12)) for k in torch.nonzero(~(values <= limit))[:, 0]}


def across_by_frame(joint: Joint) -> Float[Tensor, "t"]:
    """Mean residual across the rays of every frame, robustly."""
    observations = joint.observations
    length = joint.solved.rows("points")[0].residual.norm(dim=-1)
    length = torch.where(observations.weight > 0, length, torch.nan).nanmedian(dim=-1).values.flatten()
    valid = length.isfinite()
    frames = observations.windows.flatten()[valid]
    count = torch.bincount(frames, minlength=observations.num_frames).clamp_min(1)
    return torch.zeros(observations.num_frames, dtype=torch.float64).index_add_(0, frames, length[valid]) / count
