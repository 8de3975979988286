"""The folder of a run: its settings, and its results.

Settings must agree; there is one file for each method and sequence, written whole or not at all.

settings.json                        what all methods share: data set, rule, protocol, code
sequences/<method>/method.json       what makes the method's results what they are
sequences/<method>/<sequence>.json   scores, failures, hashes of the truth, cost
frames/<sequence>.json               which frames, with hashes
predictions/<method>/<sequence>/     results that were to be kept
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from geo4d.errors import InputError
from geo4d.io.output import clear, is_list, read_listing, register
from geo4d.scene.arrays import Unreadable, parse_json, read_json
from geo4d.scene.atomic import is_temporary, whole_file
from geo4d.scene.files.reconstruction import FILES

SETTINGS = "settings.json"
FORMAT, VERSION = "geo4d-evaluation", 3  # 3: no fitted scale is negative, and records say where a free one would be
FOLDER_KIND, KEPT = "evaluation", "predictions"
LOOKS, PAUSE_S = 4, 0.25  # for the settings that another process may be writing: a shared folder shows new files late
KINDS = ("pipeline", "predictions", "baseline")  # order of rows in tables
Record = dict[str, Any]


class Store:
    """Reads and writes the folder of a run. Several processes may use it at once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def claim(
        self, settings: dict[str, Any], methods: Iterable[tuple[str, dict[str, Any]]], kept: Iterable[str] = ()
    ) -> None:
        """Makes the folder that of these settings; of the methods in `kept` results are kept as well.

        Raises InputError if it is that of others, or holds something else.
        """
        methods = list(methods)
        parts = [(self.folder / SETTINGS, {"format": FORMAT, "version": VERSION, **settings})]
        parts += [(self._method(name) / "method.json", described) for name, described in methods]
        try:
            if not self._can_be_ours():
                raise InputError(
                    f"{self.folder} holds something that is no run of geo4d evaluate with a list of its files; "
                    "choose an empty or new folder, or remove this one by hand."
                )
            for path, described in parts:
                if path.exists():
                    self._agree(path, described)  # before anything is changed
            self.register(_files(settings.get("sequences", ()), [name for name, _ in methods], kept))
            for path, described in parts:
                self._agree(path, described)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written ({error.strerror}); choose another --out.") from error

    def _can_be_ours(self) -> bool:
        """Whether the folder is a run, or may become one: other processes may be making it at this moment."""
        for look in range(LOOKS):
            time.sleep(PAUSE_S if look else 0)
            if not self.folder.exists():
                return True
            if not self.folder.is_dir():
                return False
            # looked through before the list is read: it is the first file of a run, so whatever the run holds is
            # younger
            foreign = [path for path in self.folder.iterdir() if not (is_temporary(path.name) or is_list(path.name))]
            if not foreign or read_listing(self.folder) is not None:
                return True
        return False

    def _agree(self, path: Path, settings: dict[str, Any]) -> None:
        """Writes settings, or compares them with those that are there."""
        wanted = parse_json(json.dumps(settings))  # tuples as the lists that a file gives back
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, wanted)
        found = _read_object(path)
        changed = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if changed:
            key = changed[0]
            more = "" if len(changed) == 1 else f" (also another {', '.join(changed[1:])})"
            raise InputError(
                f"The run in {self.folder} was made with another {key}: {_short(found.get(key))}, now "
                f"{_short(wanted.get(key))}{more}; choose another --out, or --overwrite it."
            )

    def clear(self) -> None:
        """Removes the files of the run, if the folder holds one.

        Raises InputError if it holds something else of ours.
        """
        clear(self.folder, FOLDER_KIND)

    def register(self, names: Iterable[str]) -> None:
        """Lists files, by names relative to the folder, as those of the run; to be called before they are written."""
        register(self.folder, FOLDER_KIND, names)

    def settings(self) -> dict[str, Any]:
        """What all methods share. Raises InputError if the folder holds no run."""
        if not (self.folder / SETTINGS).is_file():
            raise InputError(f"{self.folder} holds no run of geo4d evaluate ({SETTINGS} is missing).")
        settings = _read_object(self.folder / SETTINGS)
        if (settings.get("format"), settings.get("version")) != (FORMAT, VERSION):
            raise InputError(
                f"{self.folder} holds {settings.get('format')} {settings.get('version')}; expected {FORMAT} {VERSION}; "
                "evaluate it again."
            )
        return settings

    def methods(self) -> dict[str, dict[str, Any]]:
        """What makes each method's results what they are, in the order of tables."""
        found = {file.parent.name: _read_object(file) for file in self.folder.glob("sequences/*/method.json")}
        return dict(sorted(found.items(), key=lambda item: (KINDS.index(item[1]["kind"]), item[0])))

    def record(self, method: str, sequence: str) -> Record | None:
        """The result of a method on a sequence, if there is one."""
        path = self._method(method) / _file(sequence)
        return _read_object(path) if path.is_file() else None

    def write_record(self, record: Record) -> None:
        """Keeps the result of a method on a sequence."""
        write_json(self._method(record["method"]) / _file(record["sequence"]), record)

    def frames(self, sequence: str) -> dict[str, Any] | None:
        """The row of the frame list, if the sequence could be read."""
        path = self.folder / "frames" / _file(sequence)
        return _read_object(path) if path.is_file() else None

    def write_frames(self, row: dict[str, Any]) -> None:
        """Keeps a row of the frame list."""
        write_json(self.folder / "frames" / _file(row["name"]), row)

    def records(self, method: str) -> list[Record] | None:
        """The results of a method on all sequences, in order; None while one is still to come."""
        found = [self.record(method, sequence) for sequence in self.settings()["sequences"]]
        done = [record for record in found if record is not None]
        return done if len(done) == len(found) else None

    def _method(self, name: str) -> Path:
        return self.folder / "sequences" / name


def _file(sequence: str) -> str:
    """The name of a sequence's file."""
    return f"{quote(sequence, safe='')}.json"


def _files(sequences: Iterable[str], methods: Iterable[str], kept: Iterable[str]) -> list[str]:
    """What a run writes until it is finished, by names relative to its folder."""
    names = [SETTINGS, *(f"frames/{_file(sequence)}" for sequence in sequences)]
    for method in methods:
        names += [f"sequences/{method}/{name}" for name in ("method.json", *map(_file, sequences))]
    return names + [f"{KEPT}/{method}/{sequence}/{file}" for method in kept for sequence in sequences for file in FILES]


def settings_hash(*settings: dict[str, Any]) -> str:
    """A short name for what decides a result."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """In one move, and without nan."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """In one move. Raises InputError if the place cannot be written."""
    with whole_file(path) as temporary:
        temporary.write_text(text)


def _read_object(path: Path) -> dict[str, Any]:
    """Raises InputError, naming the file, if it cannot be read."""
    try:
        value = read_json(path)
        if isinstance(value, dict):
            return value
    except Unreadable as error:
        raise InputError(f"{path} cannot be read ({error}); remove it and run geo4d evaluate again.") from error
    raise InputError(f"{path} is not what geo4d evaluate writes; remove it and run again.")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."
