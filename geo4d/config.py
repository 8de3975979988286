"""YAML files and key=value words -> frozen dataclasses, with every misspelt key an error."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from geo4d.errors import ConfigError

Schema = TypeVar("Schema")


def load_config(schema: type[Schema], files: Sequence[str | Path] = (), overrides: Sequence[str] = ()) -> Schema:
    """Merges the defaults of a dataclass, YAML files and `a.b=value` words, in that order.

    Raises ConfigError, in one sentence, for files that are missing or not YAML, unknown keys and values of a wrong
    type.
    """
    merged = OmegaConf.structured(schema)
    for source, layer in [*((str(file), _read(file)) for file in files), *((word, _parse(word)) for word in overrides)]:
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            raise ConfigError(_explain(schema, source, error)) from error
    try:
        result: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(schema, "the settings", error)) from error
    return result


def save_config(config: Any, path: str | Path) -> None:
    """Writes a config with all its values as YAML."""
    Path(path).write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))


def _read(file: str | Path) -> Any:
    try:
        return OmegaConf.load(file)
    except (OSError, YAMLError) as error:
        reason = getattr(error, "strerror", None) or "not YAML"
        raise ConfigError(f"The config file {file} cannot be read ({reason}); give the path of a YAML file.") from error


def _parse(word: str) -> Any:
    try:
        return OmegaConf.from_dotlist([word])
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{word!r} is not a setting; expected key=value.") from error


def _explain(schema: type, source: str, error: OmegaConfBaseException) -> str:
    """What is wrong in which source, with the nearest known key where one is misspelt."""
    key = str(getattr(error, "full_key", None) or getattr(error, "key", None) or "")
    reason = str(getattr(error, "msg", None) or error).splitlines()[0]
    near = difflib.get_close_matches(key, _keys(schema), n=1, cutoff=0.6)
    if "not in" in reason and near and near[0] != key:
        return f"There is no setting {key!r} ({source}); did you mean {near[0]!r}?"
    return f"The setting {key!r} cannot be used ({source}): {reason.rstrip('.')}."


def _keys(schema: type, prefix: str = "") -> list[str]:
    keys = []
    for item in dataclasses.fields(schema):
        keys.append(prefix + item.name)
        factory = item.default_factory
        value = factory() if factory is not dataclasses.MISSING else item.default
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            keys += _keys(type(value), f"{prefix}{item.name}.")
    return keys
