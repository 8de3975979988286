"""Pictures without truth: DAVIS, or any folder with a folder of images for each video. To look at, not to score."""

from __future__ import annotations

from pathlib import Path

from geo4d.evaluation.sets.base import EvaluationSequence, EvaluationSet, Rule, from_files, list_images
from geo4d.io.video import IMAGE_SUFFIXES


def _find(root: Path, rule: Rule) -> list[str]:
    folders = (path for path in root.iterdir() if path.is_dir())
    return sorted(
        path.name for path in folders if any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())
    )


def _load(root: Path, name: str, rule: Rule, task: str) -> EvaluationSequence:
    return from_files(root, name, rule.pick(list_images(root / name)))


DAVIS = EvaluationSet(
    name="davis",
    hint="JPEGImages/480p/<video>/00000.jpg, or <video>/00000.jpg",
    rules={"released": Rule("all frames; there is no truth.", {"pictures": ()})},
    find=_find,
    load=_load,
    inner="JPEGImages/480p",
)
