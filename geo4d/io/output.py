"""Folders that we write into: a list of our own files lies in each, so that replacing a result removes nothing else.

    .geo4d-files-<hash>.json    {"format", "version", "kind", "files": [...], "folders": [...]}

Names are relative to the folder, with "/" between their parts. A name is listed before its file is written, so the list
is right whenever a process is killed. A folder may hold several such lists, which count together: each is written once,
under a name made of its content, so processes that write into one folder at the same time need no lock and lose
nothing. `kind` says what the folder is, such as "reconstruction": one thing never replaces another.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from geo4d.errors import InputError
from geo4d.scene.arrays import Unreadable, parse_json
from geo4d.scene.atomic import names_prepared, whole_file

FORMAT, VERSION = "geo4d-files", 1
LIST_NAME = re.compile(r"\.geo4d-files-[0-9a-f]{16}\.json")
MAX_BYTES = 64 << 20  # of all lists in a folder
MAX_NAME = 4096  # characters


@dataclass(frozen=True)
class Listing:
    """What we wrote into a folder, by relative names."""

    kind: str
    files: frozenset[str]
    folders: frozenset[str]  # those that we made


def is_list(name: str) -> bool:
    """Whether a file of this name is a list, or is becoming one."""
    return any(LIST_NAME.fullmatch(whole) for whole in {name} | names_prepared(name))


def read_listing(directory: str | Path) -> Listing | None:
    """The lists in a folder taken together; None without any.

    Raises InputError if one is damaged or names what lies outside.
    """
    directory, left = Path(directory), MAX_BYTES
    kinds: set[str] = set()
    files: set[str] = set()
    folders: set[str] = set()
    for path in _list_files(directory):
        if path.is_symlink() or not path.is_file():
            raise _damaged(path, "not a plain file")
        with path.open("rb") as file:
            data = file.read(left + 1)
        left -= len(data)
        if left < 0:
            raise _damaged(path, f"more than {MAX_BYTES >> 20} MiB")
        entry = _parse(path, data)
        kinds.add(entry["kind"])
        files.update(entry["files"])
        folders.update(entry["folders"])
    if len(kinds) > 1:
        raise InputError(
            f"{directory} holds lists of files of {' and '.join(sorted(kinds))}; remove the folder by hand, or choose "
            "another."
        )
    return Listing(kinds.pop(), frozenset(files), frozenset(folders)) if kinds else None


def check_output_directory(
    directory: str | Path, kind: str, files: Iterable[str], *, resume: bool = False, overwrite: bool = False
) -> None:
    """Raises InputError if the folder cannot become that of a run that writes `files`; writes nothing.

    It may be new or empty. One that holds a run of this kind needs `overwrite`, or `resume`; no other one can be had.
    Files that are not ours may lie beside those of a run, unless they have a name that the run would write.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file; give a folder for the output.")
    if is_free(directory):
        return
    if read_listing(directory) is None:
        raise InputError(
            f"The output folder {directory} already holds other files, or a run without a list of its files, as "
            "earlier versions wrote it; choose an empty or new folder, or remove this one by hand."
        )
    _check_names(directory, kind, files)
    if not resume and not overwrite:
        raise InputError(
            f"The output folder {directory} already holds a run; "
            "add --resume to finish it, --overwrite to replace it, or choose another folder."
        )


def open_output_directory(
    directory: str | Path, kind: str, files: Iterable[str], *, resume: bool = False, overwrite: bool = False
) -> Path:
    """Makes the folder of a run and lists the `files` that it will write.

    With `overwrite` those of an earlier run are removed. Raises InputError as `check_output_directory` does, before
    anything is changed, or if the folder cannot be written.
    """
    directory, files = Path(directory), list(files)
    check_output_directory(directory, kind, files, resume=resume, overwrite=overwrite)
    if is_free(directory):
        for path in _list_files(directory):  # of files that somebody removed by hand
            path.unlink(missing_ok=True)
    elif overwrite:
        clear(directory, kind)
    register(directory, kind, files)
    return directory


def close_output_directory(directory: str | Path, kind: str, work: str) -> None:
    """Ends a run: removes the files that were listed below the folder `work`, and unlists what was never written."""
    directory = Path(directory)
    listing = _read_listing_of(directory, kind)
    if listing is None:
        return
    gone = {name for name in listing.files if name.startswith(f"{work}/") or not os.path.lexists(directory / name)}
    if gone:
        _remove(directory, listing, gone)


def register(directory: str | Path, kind: str, files: Iterable[str]) -> None:
    """Lists names as ours, before they are written; the folder is made if need be, and may hold other files.

    Raises InputError if a file of such a name is there and is not listed, the folder holds something of another kind,
    or it cannot be written.
    """
    directory, names = Path(directory), set(files)
    listing = _check_names(directory, kind, names)
    new = names - (frozenset() if listing is None else listing.files)
    if not new and listing is not None:
        return
    parents = {str(parent) for name in new for parent in PurePosixPath(name).parents if parent.name}
    made = {parent for parent in parents if not (directory / parent).is_dir()}
    _write_list(directory, Listing(kind, frozenset(new), frozenset(made)))


def clear(directory: str | Path, kind: str) -> None:
    """Removes what is listed in the folder, which stays ours.

    Raises InputError, having removed nothing, if the list cannot be trusted.
    """
    listing = _read_listing_of(Path(directory), kind)
    if listing is not None:
        _remove(Path(directory), listing, set(listing.files))


def discard(directory: str | Path, kind: str) -> None:
    """Removes what is listed in the folder, the list and, if nothing else is there, the folder.

    Raises InputError as `clear` does.
    """
    directory = Path(directory)
    if _read_listing_of(directory, kind) is None:
        return
    clear(directory, kind)
    for path in _list_files(directory):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # other files are there
        directory.rmdir()


def is_free(directory: Path) -> bool:
    """Whether there is no such folder, or nothing in it but lists of files that are gone."""
    try:
        return all(is_list(path.name) for path in directory.iterdir())
    except OSError:
        return not directory.exists()


def refuse_inputs_inside(out: str | Path, inputs: Iterable[tuple[str, str | Path | None]]) -> None:
    """Raises InputError if something that is to be read is the folder `out` or lies in it.

    It is given as (what it is, path). What is not there, or is no path at all (such as the name of a model), is passed
    over.
    """
    if not Path(out).is_dir():
        return
    ours = Path(out).stat()
    for what, entry in inputs:
        if entry is None:
            continue
        path = Path(entry).expanduser()
        if not os.path.lexists(path):
            continue
        # where a link leads to, and where it lies
        paths = (Path(os.path.realpath(path)), Path(os.path.realpath(path.parent)) / path.name)
        folders = {folder for lies in paths for folder in (lies, *lies.parents) if folder.exists()}
        if any(
            os.path.samestat(folder.stat(), ours) for folder in folders
        ):  # by what they are: a disk may not tell A from a
            raise InputError(
                f"Writing there could harm {path} ({what}), which lies in --out {out}; choose another --out, or move "
                "it."
            )


def refuse_file_of(directory: str | Path, path: str | Path, names: Iterable[str] = ()) -> None:
    """Raises InputError if `path`, to be written, is a file of the folder that is read.

    Such are the files that are listed there, and those of `names`.
    """
    directory, path = Path(directory), Path(path)
    if not path.exists():
        return
    listing = read_listing(directory)
    for name in {*names, *(() if listing is None else listing.files)}:
        if (directory / name).exists() and path.samefile(directory / name):
            raise InputError(f"{path} is a file of {directory}, which is to be read; give another name for the output.")


def _list_files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if LIST_NAME.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"The folder {directory} cannot be read ({error.strerror}); choose another.") from error


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    """The content of a list. Raises InputError for anything that we would not write."""
    try:
        entry = parse_json(data)
    except Unreadable as error:
        raise _damaged(path, "no JSON") from error
    if not isinstance(entry, dict) or (entry.get("format"), entry.get("version")) != (FORMAT, VERSION):
        raise _damaged(path, f"not of the format {FORMAT} {VERSION}")
    if not isinstance(entry.get("kind"), str):
        raise _damaged(path, "of no kind")
    for key in ("files", "folders"):
        names = entry.get(key)
        if not isinstance(names, list) or not all(map(_is_plain, names)):
            raise _damaged(path, f"its {key} are not plain names inside the folder")
    return entry


def _is_plain(name: object) -> bool:
    """Whether it names a file or folder below the one it is relative to, in one way alone."""
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= MAX_NAME
        or "\\" in name
        or "\0" in name
        or PureWindowsPath(name).drive
    ):
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _damaged(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} is no list of files as geo4d writes it ({why}), so nothing was removed; remove the folder by hand, or "
        "choose another."
    )


def _read_listing_of(directory: Path, kind: str) -> Listing | None:
    listing = read_listing(directory)
    if listing is not None and listing.kind != kind:
        raise InputError(
            f"{directory} holds files of geo4d of another kind ({listing.kind}, not {kind}); choose another folder."
        )
    return listing


def _check_names(directory: Path, kind: str, files: Iterable[str]) -> Listing | None:
    """Raises InputError if what is to be written would write over what is not ours; returns the list."""
    names = set(files)
    odd = next((name for name in names if not _is_plain(name)), None)
    if odd is not None:
        raise InputError(f"{odd!r} is no name of a file below {directory}; choose plain names.")
    _refuse_links(directory, names)
    # before the list is read: another process lists its names first, so whatever is there by now is listed
    there = sorted(name for name in names if os.path.lexists(directory / name))
    listing = _read_listing_of(directory, kind)
    foreign = next((name for name in there if listing is None or name not in listing.files), None)
    if foreign is not None:
        raise InputError(
            f"{directory / foreign} is in the way, and is not listed as a file that geo4d wrote; move it, or choose "
            "another folder."
        )
    return listing


def _refuse_links(directory: Path, names: Iterable[str]) -> None:
    """Raises InputError if a folder below `directory`, in which one of these names lies, is a link to elsewhere."""
    for parent in {parent for name in names for parent in PurePosixPath(name).parents if parent.name}:
        if (directory / parent).is_symlink():
            raise InputError(
                f"{directory / parent} is a link, through which geo4d writes and removes nothing; choose another "
                "folder."
            )


def _remove(directory: Path, listing: Listing, names: set[str]) -> None:
    """Removes listed files and what a killed process left of them, then the folders that are empty.

    Rewrites the list.
    """
    _refuse_links(directory, {*names, *listing.folders})
    old = _list_files(directory)
    by_folder: dict[Path, set[str]] = {}
    for name in names:
        by_folder.setdefault((directory / name).parent, set()).add((directory / name).name)
    try:
        for folder, ours in by_folder.items():
            for path in list(folder.iterdir()) if folder.is_dir() else []:
                if ours & ({path.name} | names_prepared(path.name)) and (path.is_symlink() or path.is_file()):
                    path.unlink(missing_ok=True)
        for name in sorted(listing.folders, key=len, reverse=True):
            with suppress(OSError):  # something that is not ours lies in it, or it is gone
                (directory / name).rmdir()
    except OSError as error:
        raise InputError(f"{directory} cannot be cleared ({error.strerror}); choose another folder.") from error
    kept = frozenset(name for name in listing.folders if (directory / name).is_dir())
    new = _write_list(directory, Listing(listing.kind, listing.files - names, kept))
    for path in old:
        if path != new:
            path.unlink(missing_ok=True)


def _write_list(directory: Path, listing: Listing) -> Path:
    """Writes a list in one move, under a name made of its content."""
    entry = {
        "format": FORMAT,
        "version": VERSION,
        "kind": listing.kind,
        "files": sorted(listing.files),
        "folders": sorted(listing.folders),
    }
    data = json.dumps(entry, indent=1).encode()
    path = directory / f".geo4d-files-{hashlib.sha256(data).hexdigest()[:16]}.json"
    with whole_file(path, subject=f"The output folder {directory}", remedy="choose another --out") as temporary:
        temporary.write_bytes(data)
    return path
