"""Runs methods over an evaluation set: each sequence apart, resumable, over any number of processes and machines."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from geo4d.errors import ConfigError, Geo4DError, InputError
from geo4d.evaluation.manifest import code_version
from geo4d.evaluation.methods import Meter, Method
from geo4d.evaluation.predictions import Prediction
from geo4d.evaluation.prepare import list_frames
from geo4d.evaluation.protocols import EvaluationProtocol
from geo4d.evaluation.results import counted_failures, offered_groups
from geo4d.evaluation.scores import Scores, Truth, count_failures, offers, score_prediction, statistics
from geo4d.evaluation.sets import EvaluationSequence, OpenSet
from geo4d.evaluation.sets.benchmark import PROCEDURAL_BENCHMARKS
from geo4d.evaluation.sets.procedural import PROCEDURAL
from geo4d.evaluation.store import Record, Store, settings_hash

logger = logging.getLogger(__name__)
Job = tuple[str, str]  # names of a method and a sequence
# What bad data, full memory or a library may raise; a mistake in our own code (TypeError and the like) still ends the
# run
FAILURES = (Geo4DError, ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, ValueError)
RENDERED = (PROCEDURAL.name, *(dataset.name for dataset in PROCEDURAL_BENCHMARKS))
# steps in a unit of cameras and intrinsics; half a step is no number with few decimals, which would round either way
FINE = 2**20
SHARDS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))  # torchrun; a job step of SLURM


@dataclass(frozen=True)
class Shard:
    """One of several processes that share the sequences."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that make no sense."""
        if self.count < 1 or not 0 <= self.index < self.count:
            raise ConfigError(f"A shard must be one of 1/n to n/n; got {self.index + 1}/{self.count}.")

    def pick(self, items: Sequence[str]) -> list[str]:
        """Every n-th, so that long sequences, which often have neighbouring names, are spread."""
        return list(items[self.index :: self.count])


def find_shard(text: str | None) -> Shard:
    """The shard of `i/n` (from 1), or that which torchrun or SLURM gave to this process, or the whole."""
    if text is not None:
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise ConfigError(f"--shard must be i/n such as 1/4; got {text!r}.")
        return Shard(int(index) - 1, int(count))
    for rank, size in SHARDS:
        if os.environ.get(rank, "").isdecimal() and os.environ.get(size, "").isdecimal():
            return Shard(int(os.environ[rank]), int(os.environ[size]))
    return Shard()


@dataclass(frozen=True)
class Run:
    """What is evaluated, and how."""

    opened: OpenSet
    methods: Sequence[Method]
    protocol_name: str
    protocol: EvaluationProtocol
    store: Store
    retry: bool = False  # computes again what failed
    hashes: bool = True  # of the files in the frame list

    def settings(self) -> dict[str, Any]:
        """What all methods share; results of other settings are never mixed with these."""
        opened = self.opened
        return {
            "dataset": opened.dataset.name,
            "task": opened.task,
            "rule": opened.rule_name,
            "sequences": list(opened.names),
            "missing": list(opened.missing),
            "protocol": self.protocol_name,
            "constants": self.protocol.describe(opened.dataset.name),
            "code": code_version()["digest"],
        }

    def evaluate(self, shard: Shard | None = None, progress: Callable[[int, int], None] | None = None) -> None:
        """Computes what is not there yet of this shard.

        Raises InputError if the folder holds a run with other settings.
        """
        kept = [method.name for method in self.methods if getattr(method, "keep", None) is not None]
        self.store.claim(self.settings(), [(method.name, method.describe()) for method in self.methods], kept)
        names = (shard or Shard()).pick(self.opened.names)
        again = self._failed(names) if self.retry else set()
        for number, name in enumerate(names, 1):
            self._evaluate_sequence(name, again)
            if progress is not None:
                progress(number, len(names))

    def is_complete(self) -> bool:
        """Whether all methods have a result on all sequences, whoever computed them."""
        return all(self.store.records(method.name) is not None for method in self.methods)

    def _failed(self, names: Sequence[str]) -> set[Job]:
        """The results with failures that are counted, or without truth."""
        found: set[Job] = set()
        for method in self.methods:
            records = [
                record for name in self.opened.names if (record := self.store.record(method.name, name)) is not None
            ]
            offered = offered_groups(records, self.opened.task)
            bad = [record for record in records if record["status"] != "scored" or counted_failures(record, offered)]
            found |= {(method.name, record["sequence"]) for record in bad if record["sequence"] in names}
        return found

    def _evaluate_sequence(self, name: str, again: Container[Job]) -> None:
        """All methods on one sequence; what is there is kept, but for what is to be computed `again`."""
        try:
            sequence = self.opened.sequence(name)
        except FAILURES as error:
            waiting = self._waiting(name, "", again)
            self._require_same_data(name, "", {}, again)
            for method in waiting:
                self._unusable(method, name, self._reason(error, method))
            return
        waiting = self._waiting(name, sequence.digest(), again)
        hashes: dict[str, str] = {}
        try:
            truth = load_truth(self.opened, sequence)
            hashes = truth_hashes(self.opened, truth)
            row = list_frames(self.opened.root, sequence, hashes=self.hashes) if waiting else None
        except FAILURES as error:
            self._require_same_data(name, sequence.digest(), hashes, again)
            for method in waiting:
                self._unusable(method, name, self._reason(error, method), digest=sequence.digest())
            return
        self._require_same_data(name, sequence.digest(), hashes, again)
        if row is not None:
            self.store.write_frames(row)
        for method in waiting:
            self._evaluate_one(method, sequence, truth, hashes)

    def _evaluate_one(self, method: Method, sequence: EvaluationSequence, truth: Truth, hashes: dict[str, str]) -> None:
        scores, meter = Scores(), Meter()
        offered: list[str] = []
        try:
            with meter:
                prediction = method.predict(sequence, truth)
            offered = offers(prediction, truth.groups)
            check_prediction(prediction, truth, self.opened.task)
            scores = score_prediction(truth, prediction, self.protocol, self.opened.dataset.name)
        except FAILURES as error:
            scores.failures = dict.fromkeys(truth.groups or ("pictures",), self._reason(error, method))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        scores.failures = {group: self._plain(reason, method) for group, reason in scores.failures.items()}
        try:
            hopeless = (
                count_failures(scores, truth, self.protocol, self.opened.dataset.name, self.opened.task)
                if truth.groups
                else ()
            )
        except InputError as error:  # a guess cannot be scored either
            self._unusable(method, sequence.name, self._reason(error, method), digest=sequence.digest())
            return
        failed = self.opened.task in scores.failures or bool(
            scores.failures and not set(truth.groups) - scores.failures.keys()
        )
        if failed:
            reason = scores.failures.get(self.opened.task, next(iter(scores.failures.values())))
            logger.warning("%s failed on %s: %s", method.name, sequence.name, reason)
        self.store.write_record(
            self._record(method, sequence.name, sequence.digest())
            | {
                "status": "failed" if failed else "scored",
                "frames": sequence.num_frames,
                "groups": [group for group in truth.groups if group not in hopeless] or ["pictures"],
                "truth": hashes,
                "offers": [group for group in offered if group not in hopeless],
                "failures": scores.failures,
                "scores": scores.values,
                "pixels": scores.pixels,
                "statistics": statistics(truth),
                "per_frame": scores.per_frame,
                "path": scores.path,
                "trust": scores.trust,
                "upside_down": scores.upside_down,
                "cost": meter.cost(sequence.num_frames),
            }
        )

    def _unusable(self, method: Method, name: str, reason: str, *, digest: str = "") -> None:
        """The data set itself is at fault: no method has a number there."""
        logger.warning("%s cannot be used: %s", name, reason)
        nothing: dict[str, Any] = {
            key: {} for key in ("scores", "statistics", "per_frame", "path", "trust", "upside_down")
        }
        nothing |= {"frames": 0, "pixels": 0, "groups": [], "offers": [], "cost": None}
        self.store.write_record(
            self._record(method, name, digest)
            | {"status": "unusable", "failures": {"truth": reason}, "truth": {}, **nothing}
        )

    def _record(self, method: Method, name: str, digest: str) -> Record:
        settings = settings_hash(self.settings(), method.describe())
        return {
            "settings": settings,
            "sequence": name,
            "digest": digest,
            "method": method.name,
            "source": method.source(name),
        }

    def _require_same_data(self, name: str, digest: str, hashes: dict[str, str], again: Container[Job]) -> None:
        """Raises InputError if a result that stays, of any method in the folder, has other frames or another truth."""
        for method in self.store.methods():
            record = self.store.record(method, name)
            if record is None or record["status"] == "unusable" or (method, name) in again:
                continue
            if record["digest"] != digest or record["truth"] != hashes:
                self._refuse(method, name, "frames" if record["digest"] != digest else "ground truth")

    def _refuse(self, method: str, name: str, what: str) -> NoReturn:
        raise InputError(
            f"The result of {method} on {name} in {self.store.folder} was made with other {what}; choose another "
            "--out, or --overwrite it."
        )

    def _waiting(self, name: str, digest: str, again: Container[Job]) -> list[Method]:
        """The methods that have no result on this sequence.

        Raises InputError if frames or predictions are others than they were.
        """
        waiting = []
        for method in self.methods:
            record = self.store.record(method.name, name)
            if record is None or (method.name, name) in again:
                waiting.append(method)
                continue
            now = self._record(method, name, digest if record["status"] != "unusable" else record["digest"])
            changed = [key for key in ("settings", "digest", "source") if record[key] != now[key]]
            if changed:
                self._refuse(
                    method.name, name, {"settings": "settings", "digest": "frames", "source": "predictions"}[changed[0]]
                )
        return waiting

    def _reason(self, error: BaseException, method: Method) -> str:
        """One line, without the folders of this machine."""
        text = str(error) if isinstance(error, Geo4DError) else f"{type(error).__name__}: {error}"
        return self._plain(text.splitlines()[0] if text else type(error).__name__, method)

    def _plain(self, text: str, method: Method) -> str:
        """Folders are absolute, so no other word is taken for one."""
        for folder in (self.opened.root, getattr(method, "folder", None)):
            if folder is not None:
                text = text.replace(f"{folder}{os.sep}", "").replace(str(folder), Path(folder).name)
        return text


def load_truth(opened: OpenSet, sequence: EvaluationSequence) -> Truth:
    """Truth of a sequence in memory, and what of it this run scores.

    Depth and cameras count where the rule names the sequence for them: in a depth run over all of Sintel, cameras of
    the 14 sequences in which they move. Raises InputError if a picture, or truth that the task needs, is broken.
    """
    size = sequence.images().shape[1:3]
    depth = valid = moving = None
    if opened.task != "pictures" and _is_for(opened, "depth", sequence.name) and sequence.read_depth is not None:
        try:
            depth, valid = sequence.depths()
        except InputError as error:
            if opened.task == "depth":
                raise
            logger.warning("The depth of %s cannot be used, and is not scored: %s", sequence.name, error)
        if depth is not None and sequence.read_moving is not None:
            moving = np.stack([sequence.read_moving(i) for i in range(sequence.num_frames)])
    poses = sequence.cam_to_world if opened.task != "pictures" and _is_for(opened, "pose", sequence.name) else None
    if poses is not None and sequence.num_frames < 2:
        poses = None
    intrinsics = None if opened.task == "pictures" else sequence.intrinsics
    has = {
        "depth": depth is not None,
        "pose": poses is not None,
        "focal": intrinsics is not None,
        "points": depth is not None and intrinsics is not None,
    }
    return Truth(
        size=(int(size[0]), int(size[1])),
        frames=sequence.num_frames,
        groups=tuple(group for group, there in has.items() if there),
        depth=depth,
        valid=valid,
        intrinsics=intrinsics,
        cam_to_world=poses,
        moving=moving,
    )


def truth_hashes(opened: OpenSet, truth: Truth) -> dict[str, str]:
    """SHA-256 of what was read from files of depth, cameras and intrinsics, as far as they are known and scored.

    None of truth that is rendered: the scene's name decides it, but its last bits are those of the machine that
    rendered it. Cameras and intrinsics, which are computed from what the files hold, count to a millionth.
    """
    if opened.dataset.name in RENDERED:
        return {}
    found = {}
    for name, array in (("depth", truth.depth), ("cameras", truth.cam_to_world), ("intrinsics", truth.intrinsics)):
        if array is not None:
            exact = array if name == "depth" else np.round(array.astype(np.float64) * FINE) + 0.0  # no -0
            found[name] = hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(exact).tobytes()).hexdigest()
    return found


def check_prediction(prediction: Prediction, truth: Truth, task: str) -> None:
    """Raises InputError for a prediction of another length, or, where there is nothing to score, of nothing."""
    for what in ("depth", "cam_to_world"):
        array = getattr(prediction, what)
        if array is not None and len(array) != truth.frames:
            raise InputError(f"{prediction.source} holds {what} of {len(array)} frames; expected {truth.frames}.")
    if task == "pictures" and prediction.depth is None and prediction.cam_to_world is None:
        raise InputError(f"{prediction.source} holds neither depth nor cameras.")


def _is_for(opened: OpenSet, task: str, name: str) -> bool:
    """Whether the rule counts the sequence for depth or cameras."""
    if task == opened.task:
        return True
    patterns = opened.rule.sequences.get(task)
    return patterns is not None and (not patterns or any(fnmatchcase(name, pattern) for pattern in patterns))
