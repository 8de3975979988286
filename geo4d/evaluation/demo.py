"""The bundled clip: a held-out scene as an H.264 file, whose truth is rendered again from its seed."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from geo4d.evaluation.scores import statistics
from geo4d.evaluation.synthetic import (
    SyntheticSet,
    TrueClip,
    medians,
    render_true_clip,
    score_baselines,
    score_reconstruction,
    truth_of,
)
from geo4d.io.video import write_video
from geo4d.scene import Reconstruction
from geo4d.synthetic import FPS

DEMO = SyntheticSet(seed=910001, num=1, frames=50, size=(256, 384))
DEMO_SCENE = 8  # open ground with trees, a house and a hill, seen from a moving camera
DEMO_FILE = "demo.mp4"


def demo_video() -> Path:
    """Where the bundled clip is."""
    return Path(str(resources.files("geo4d") / "assets" / DEMO_FILE))


def make_demo_video(path: Path) -> None:
    """Renders the clip anew."""
    write_video(path, render_true_clip(DEMO, DEMO_SCENE).frames, FPS, crf=23)


def demo_truth() -> TrueClip:
    """The clip with its truth."""
    return render_true_clip(DEMO, DEMO_SCENE)


def score_demo(clip: TrueClip, result: Reconstruction) -> dict[str, Any]:
    """Metrics of the result beside the baselines, in the form of `evaluate_synthetic`'s."""
    entry: dict[str, Any] = {
        "index": DEMO_SCENE,
        "statistics": statistics(truth_of(clip)),
        **score_baselines(clip),
        "model": score_reconstruction(clip, result),
    }
    return {"set": {"demo": DEMO_FILE}, "median": medians([entry]), "clips": [entry]}
