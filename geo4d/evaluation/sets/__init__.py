"""Benchmark data sets: which frames count, their pictures and their truth, by rules that have names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geo4d.errors import ConfigError, InputError
from geo4d.evaluation.sets.base import TASKS, EvaluationSequence, EvaluationSet, OpenSet, Rule, open_sequences
from geo4d.evaluation.sets.benchmark import PROCEDURAL_BENCHMARKS
from geo4d.evaluation.sets.bonn import BONN
from geo4d.evaluation.sets.davis import DAVIS
from geo4d.evaluation.sets.kitti import KITTI
from geo4d.evaluation.sets.procedural import PROCEDURAL
from geo4d.evaluation.sets.rgbd import RGBD
from geo4d.evaluation.sets.scannet import SCANNET
from geo4d.evaluation.sets.seven_scenes import SEVEN_SCENES
from geo4d.evaluation.sets.sintel import SINTEL
from geo4d.evaluation.sets.tum import TUM, TUM_DYNAMICS

SETS: dict[str, EvaluationSet] = {
    dataset.name: dataset
    for dataset in (
        *(SINTEL, BONN, KITTI, TUM_DYNAMICS, SCANNET, DAVIS, SEVEN_SCENES, TUM, RGBD, PROCEDURAL),
        *PROCEDURAL_BENCHMARKS,
    )
}


def open_set(
    name: str,
    root: str | Path | None = None,
    *,
    task: str | None = None,
    rule: str | None = None,
    include: str = "*",
    **changes: Any,
) -> OpenSet:
    """Opens the evaluation set in `root` (procedural needs none).

    Args:
        name: one of SETS.
        root: the folder into which it was unpacked.
        task: depth, pose or pictures; what it needs must be there. Default: the first that the rule is for.
        rule: which frames; default: the set's first rule, which is that of the released evaluation where there is one.
        include: pattern of sequence names.
        **changes: numbers of the rule to set otherwise, such as `stride=10`; the rule's name says so.

    Raises:
        ConfigError: there is no such set, rule or task.
        InputError: there is no such folder, or nothing of the set in it.
    """
    if name not in SETS:
        raise ConfigError(f"There is no evaluation set {name!r}; expected one of {', '.join(SETS)}.")
    dataset = SETS[name]
    if task is not None and task not in TASKS:
        raise ConfigError(f"A task must be one of {', '.join(TASKS)}; got {task!r}.")
    folder = Path(root or ".").expanduser().absolute()
    if dataset is not PROCEDURAL and (root is None or not folder.is_dir()):
        raise InputError(
            f"There is no folder {root} to read {name} from; expected {dataset.hint}; give the folder it was unpacked "
            "into."
        )
    rule_name, found = dataset.rule(rule)
    found = found.but(**changes)
    return open_sequences(dataset, folder, task, " ".join([rule_name, found.changed]).strip(), found, include)


__all__ = ["SETS", "EvaluationSequence", "EvaluationSet", "OpenSet", "Rule", "open_set"]
