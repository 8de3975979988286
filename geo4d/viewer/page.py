"""One self-contained HTML page: points as numbers in the page, drawn by a few lines of WebGL; nothing is fetched."""

from __future__ import annotations

import base64
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from geo4d.errors import InputError
from geo4d.io.export import camera_pyramid
from geo4d.scene import Reconstruction
from geo4d.scene.atomic import whole_file

TEMPLATE = "page.html"
PLACEHOLDER = "/*DATA*/"


def write_page(reconstruction: Reconstruction, path: str | Path, *, max_points: int = 6000) -> None:
    """Writes the page: time slider, play, confidence threshold, point size, cameras, orbit by mouse.

    Each frame holds at most `max_points` points as 16-bit floats. Raises InputError if the file cannot be written,
    `max_points` is below 1, or cameras or times are not finite numbers.
    """
    if max_points < 1:
        raise InputError(f"The number of points a frame must be at least 1; got {max_points}.")
    frames = []
    unit = _unit(reconstruction)
    for frame in range(reconstruction.num_frames):
        keep = np.flatnonzero(np.asarray(reconstruction.valid[frame]))
        keep = keep[:: max(1, -(-len(keep) // max_points))]
        points = reconstruction.points_world(frame).reshape(-1, 3)[keep] / unit
        confidence = np.clip(np.asarray(reconstruction.confidence[frame]).reshape(-1)[keep], 0, 2) * 127.5
        colours = np.asarray(reconstruction.images[frame]).reshape(-1, 3)[keep]
        rgbc = np.concatenate([colours, confidence[:, None].round().astype(np.uint8)], axis=1)
        corners, edges = camera_pyramid(reconstruction, frame, 0.08 * unit)
        camera = (corners[edges] / unit).reshape(-1).round(4).tolist()
        frames.append({"p": _pack(points.astype(np.float32)), "c": _pack(rgbc.astype(np.uint8)), "camera": camera})
    text = (resources.files("geo4d.viewer") / TEMPLATE).read_text(encoding="utf-8")
    try:
        times = np.asarray(reconstruction.timestamps, dtype=np.float64).tolist()
        data = script_json({"frames": frames, "times": times})
    except ValueError as error:
        raise InputError(
            "The reconstruction's cameras and times must be finite numbers to be drawn; run geo4d infer again."
        ) from error
    with whole_file(Path(path), alone=True) as temporary:
        temporary.write_text(text.replace(PLACEHOLDER, f"const DATA = {data};"), encoding="utf-8")


def script_json(value: Any) -> str:
    """JSON that may stand inside a <script> element: no text in it can end the element or begin another.

    Raises ValueError for numbers that are not finite, which JSON does not have.
    """
    text = json.dumps(value, allow_nan=False)  # in ASCII, so that U+2028 and the like are escaped already
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _pack(array: np.ndarray) -> str:
    return base64.b64encode(
        array.astype(np.float16).tobytes() if array.dtype == np.float32 else array.tobytes()
    ).decode()


def _unit(reconstruction: Reconstruction) -> float:
    """The median depth, so that 16-bit floats are fine enough everywhere."""
    depth = np.asarray(reconstruction.depth)
    finite = depth[np.isfinite(depth)]
    return float(np.median(finite)) if len(finite) else 1.0
