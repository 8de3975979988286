"""geo4d: an ordinary video in, a 4D reconstruction out.

Names are loaded when they are first used, so that `import geo4d` is quick and imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "AlignmentConfig": "geo4d.alignment",
    "Clip": "geo4d.scene",
    "Distance": "geo4d.alignment",
    "Geo4D": "geo4d.pipeline",
    "Geo4DError": "geo4d.errors",
    "IncrementalAlignment": "geo4d.alignment",
    "InferConfig": "geo4d.pipeline",
    "Priors": "geo4d.alignment",
    "Reconstruction": "geo4d.scene",
    "Tracks": "geo4d.scene",
    "WindowPredictions": "geo4d.scene",
    "align": "geo4d.alignment",
    "export": "geo4d.io.export",
    "load_reconstruction": "geo4d.scene.files.reconstruction",
    "load_tracks": "geo4d.scene.files.tracks",
    "load_windows": "geo4d.scene.files.windows",
    "read_video": "geo4d.io.video",
    "render_clips": "geo4d.synthetic",
    "save_reconstruction": "geo4d.scene.files.reconstruction",
    "save_tracks": "geo4d.scene.files.tracks",
    "save_windows": "geo4d.scene.files.windows",
    "track_points": "geo4d.tracks",
}
__all__ = ["__version__", *sorted(_WHERE)]  # noqa: PLE0604

if TYPE_CHECKING:
    from geo4d.alignment import AlignmentConfig, Distance, IncrementalAlignment, Priors, align
    from geo4d.errors import Geo4DError
    from geo4d.io.export import export
    from geo4d.io.video import read_video
    from geo4d.pipeline import Geo4D, InferConfig
    from geo4d.scene import Clip, Reconstruction, Tracks, WindowPredictions
    from geo4d.scene.files.reconstruction import load_reconstruction, save_reconstruction
    from geo4d.scene.files.tracks import load_tracks, save_tracks
    from geo4d.scene.files.windows import load_windows, save_windows
    from geo4d.synthetic import render_clips
    from geo4d.tracks import track_points


def __getattr__(name: str) -> Any:
    """Loads a public name from where it lives (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module 'geo4d' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted(__all__)
