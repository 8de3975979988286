"""Pictures of a result: RGB beside depth as a video, the trajectory as a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from geo4d.io.export import camera_pyramid
from geo4d.io.video import write_video
from geo4d.scene import Reconstruction

PANEL_HEIGHT = 320
INVALID_COLOUR = 40  # grey


def colour_depth(reconstruction: Reconstruction, frame: int, limits: tuple[float, float] | None = None) -> np.ndarray:
    """(h, w, 3) uint8: near is warm, far is cold, by disparity between `limits`; no depth is dark grey."""
    low, high = limits or disparity_limits(reconstruction)
    depth = np.asarray(reconstruction.depth[frame])
    valid = np.asarray(reconstruction.valid[frame]) & np.isfinite(depth)
    share = np.clip((1 / np.where(valid, depth, 1.0) - low) / max(high - low, 1e-12), 0, 1)
    colours = (matplotlib.colormaps["turbo"](share)[..., :3] * 255).round().astype(np.uint8)
    return np.where(valid[..., None], colours, np.uint8(INVALID_COLOUR))


def disparity_limits(reconstruction: Reconstruction) -> tuple[float, float]:
    """2nd and 98th percentile of disparity over the whole video, so that colours do not flicker."""
    sample = np.asarray(reconstruction.depth[:: max(1, reconstruction.num_frames // 16)])
    sample = sample[np.isfinite(sample)]
    if len(sample) == 0:
        return 0.0, 1.0
    low, high = np.quantile(1 / np.maximum(sample, 1e-9), [0.02, 0.98])
    return float(low), float(high)


def write_preview(reconstruction: Reconstruction, directory: str | Path) -> None:
    """Writes preview.mp4 (RGB | depth) and trajectory.png into `directory`."""
    directory = Path(directory)
    times = reconstruction.timestamps
    fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 24.0
    write_video(directory / "preview.mp4", _panels(reconstruction), float(fps))
    write_trajectory_plot(reconstruction, directory / "trajectory.png")


def _panels(reconstruction: Reconstruction) -> Iterator[np.ndarray]:
    """RGB beside depth, in the video's own aspect."""
    source_height, source_width = reconstruction.source_size
    size = max(2, round(PANEL_HEIGHT * source_width / source_height / 2) * 2), PANEL_HEIGHT
    if size[0] > 4 * PANEL_HEIGHT:  # a strip: bound the width instead
        size = 4 * PANEL_HEIGHT, max(2, round(4 * PANEL_HEIGHT * source_height / source_width / 2) * 2)
    limits = disparity_limits(reconstruction)
    for frame in range(reconstruction.num_frames):
        rgb = Image.fromarray(np.asarray(reconstruction.images[frame])).resize(size, Image.Resampling.BICUBIC)
        depth = Image.fromarray(colour_depth(reconstruction, frame, limits)).resize(size, Image.Resampling.NEAREST)
        yield np.concatenate([np.asarray(rgb), np.asarray(depth)], axis=1)


def write_trajectory_plot(reconstruction: Reconstruction, path: str | Path) -> None:
    """The camera's way from above and from the side, coloured by time, with a pyramid for the first and last frame."""
    centres = reconstruction.cam_to_world[:, :3, 3]
    span = max(float(np.ptp(centres, axis=0).max()), 1e-6)
    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    views = (("from above", 0, 2, "x (right)", "z (forward)"), ("from the side", 2, 1, "z (forward)", "y (down)"))
    for axes, (title, a, b, x_label, y_label) in zip(figure.subplots(1, 2), views, strict=True):
        axes.plot(centres[:, a], centres[:, b], color="0.7", linewidth=1)
        marks = axes.scatter(centres[:, a], centres[:, b], c=reconstruction.timestamps, cmap="viridis", s=14, zorder=3)
        for frame, colour in ((0, "tab:green"), (reconstruction.num_frames - 1, "tab:red")):
            corners, edges = camera_pyramid(reconstruction, frame, 0.2 * span)
            for start, end in edges:
                axes.plot(corners[[start, end], a], corners[[start, end], b], color=colour, linewidth=1)
        axes.set(title=title, xlabel=x_label, ylabel=y_label, aspect="equal")
        axes.margins(0.1)
        axes.grid(alpha=0.3)
        if b == 1:
            axes.invert_yaxis()
    figure.colorbar(marks, ax=figure.axes, label="time (s)")
    k, size = reconstruction.intrinsics[0], max(reconstruction.depth.shape[1:])
    view = np.degrees(2 * np.arctan(size / 2 / k[0, 0]))
    unit = "m" if reconstruction.is_metric else "scene units"
    figure.suptitle(f"{reconstruction.num_frames} frames, field of view {view:.0f} degrees, path in {unit}")
    figure.savefig(path, dpi=110)
