"""Files that are whole or not there: written under another name beside their own, and moved when all is written."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` in one move when all is written, and is removed if that fails.

    No two writers get one name. Raises InputError if the place cannot be written.
    """
    temporary = own_temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
    finally:
        with suppress(OSError):  # gone already, or never there
            temporary.unlink()
