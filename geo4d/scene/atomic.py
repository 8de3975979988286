"""Files that are whole or not there: written under another name beside their own, and moved when all is written."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from geo4d.errors import InputError

TEMPORARY = ".tmp"  # how names of files end that are not whole yet
OWN = re.compile(r"[\w-]*-\d+-[0-9a-f]{8}")  # host, process and a random part


def temporary_path(path: Path) -> Path:
    """The hidden name under which one writer alone prepares `path`; what a killed one left there is written over."""
    return path.with_name(f".{path.name}{TEMPORARY}")


def own_temporary_path(path: Path) -> Path:
    """A hidden name under which to prepare `path` that no other writer gets, on whatever machine."""
    own = f"{socket.gethostname().partition('.')[0]}-{os.getpid()}-{secrets.token_hex(4)}"
    return temporary_path(path.with_name(f"{path.name}.{own}"))


def is_temporary(name: str) -> bool:
    """Whether a file's name is one of those above."""
    return name.startswith(".") and name.endswith(TEMPORARY)


def names_prepared(name: str) -> set[str]:
    """Names of the files that a temporary file of this name may have been meant for; empty if it is none."""
    if not is_temporary(name):
        return set()
    whole = name[1 : -len(TEMPORARY)]
    first, _, last = whole.rpartition(".")
    return {whole, first} if OWN.fullmatch(last) else {whole}


@contextmanager
def whole_file(
    path: Path, *, alone: bool = False, subject: str | Path | None = None, remedy: str = "choose another place"
) -> Iterator[Path]:
    """A name to write to, which becomes `path` in one move when all is written, and is removed if that fails.

    The folder is made if need be. No two writers get one name, unless the caller is sure to be `alone`: then what a
    killed one left is written over. Raises InputError, in the words "`subject` cannot be written (why); `remedy`.", if
    the place cannot be written.
    """
    temporary = temporary_path(path) if alone else own_temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{subject or path} cannot be written ({error.strerror or error}); {remedy}.") from error
    finally:
        with suppress(OSError):  # gone already, or never there
            temporary.unlink()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes `folder` in one move when all is written.

    Nothing is left if anything fails. A `folder` that is there must be empty. Raises OSError if the place cannot be
    written, or holds something.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent) as place:
        temporary = Path(place) / folder.name
        temporary.mkdir()
        yield temporary
        if folder.is_dir():
            folder.rmdir()
        os.replace(temporary, folder)
