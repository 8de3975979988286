"""Fields that only some rooms know: what is between carries them along, untouched.

A dataclass that crosses rooms has `extra`, a dictionary of arrays by name, such as motion, target times or readings of
a sensor. On disk each is a file or a key of its own, whose name begins with `extra_`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from geo4d.errors import InputError

PREFIX = "extra_"
NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")


def check_extra(extra: Mapping[str, Any], leading: tuple[int, ...], what: str) -> None:
    """Raises InputError unless these are arrays of numbers that a file can hold beside `what`.

    That is for names that no file can have, for what holds no numbers, or for other leading axes than `what` has.
    """
    for name, value in extra.items():
        if not NAME.fullmatch(name):
            raise InputError(
                f"The extra field {name!r} of {what} must be named in small letters, digits and underscores."
            )
        shape, kind = tuple(value.shape), str(value.dtype).removeprefix("torch.")
        if shape[: len(leading)] != leading or not kind.startswith(("float", "int", "uint", "bool")):
            raise InputError(
                f"The extra field {name!r} of {what} must be of numbers {leading} and more axes; got {kind} {shape}."
            )
