"""Settings: files and words into frozen dataclasses, mistakes into one sentence."""

from dataclasses import FrozenInstanceError, dataclass, field
from typing import Literal

import pytest

from geo4d.config import load_config, save_config
from geo4d.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    learning_rate: float = 1e-3
    kind: Literal["plain", "fancy"] = "plain"


@dataclass(frozen=True)
class Outer:
    steps: int = 10
    limit: int | None = None
    names: tuple[str, ...] = ("a", "b")
    inner: Inner = field(default_factory=Inner)


def test_later_layers_win(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("steps: 20\ninner: {learning_rate: 0.5}\n")
    second.write_text("steps: 30\nlimit: 4\n")
    config = load_config(Outer, [first, second], ["inner.kind=fancy", "names=[c]"])
    assert (config.steps, config.limit, list(config.names)) == (30, 4, ["c"])
    assert config.inner == Inner(0.5, "fancy")
    with pytest.raises(FrozenInstanceError):
        config.steps = 1


def test_saved_config_loads_to_itself(tmp_path):
    config = load_config(Outer, overrides=["steps=7", "inner.learning_rate=1e-4"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Outer, [tmp_path / "config.yaml"]) == config


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("stepz=3", "did you mean 'steps'"),
        ("inner.learning_rat=3", "did you mean 'inner.learning_rate'"),
        ("steps=many", "'steps'"),
        ("inner.kind=odd", "inner.kind"),
    ],
)
def test_mistakes_are_named(word, part):
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, overrides=[word])
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "a: [1, 2"])
def test_unreadable_files_are_named(tmp_path, text):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(Outer, [file])
