"""Tables of variants: the same pipeline on the same frames with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from geo4d.config import load_config, save_config
from geo4d.errors import ConfigError
from geo4d.evaluation.methods import WINDOWS_KIND, Pipeline, PipelineConfig
from geo4d.evaluation.plots import write_plots
from geo4d.evaluation.protocols import choose_protocol
from geo4d.evaluation.report import PLOTS, report_files, write_report, write_tables
from geo4d.evaluation.results import Results, markdown
from geo4d.evaluation.runner import Run, Shard
from geo4d.evaluation.sets import OpenSet, open_set
from geo4d.evaluation.store import Store
from geo4d.io.output import discard, register
from geo4d.scene.atomic import whole_file

FOLDER_KIND, SETTINGS = "ablation", "config.yaml"
WINDOWS = ".windows"  # predicted windows that variants share, below the folder of the ablation


@dataclass(frozen=True)
class AblateConfig:
    """A data set, and the variants: each a name and the settings (`key=value`) in which it differs."""

    title: str = ""
    dataset: str = "procedural"
    root: str | None = None
    task: str | None = None
    rule: str | None = None
    include: str = "*"
    # of the rule: first frame, frames from one to the next, at most so many, stored value of one metre
    start: int | None = None
    frame_stride: int | None = None
    count: int | None = None
    depth_scale: float | None = None
    protocol: str | None = None
    out: str = "ablation"
    # keeps the network's windows for variants that differ in the alignment alone, until the end
    share_windows: bool = True
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    variants: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ConfigError without variants, or with names that cannot be folders."""
        odd = [name for name in self.variants if "/" in name or name.startswith(".") or not name]
        if odd:
            raise ConfigError(f"A variant's name must be fit for a folder; got {odd[0]!r}.")

    def variant(self, name: str) -> PipelineConfig:
        """The pipeline of a variant. Raises ConfigError for settings that do not exist."""
        base = [f"{key}={_word(value)}" for key, value in _flat(asdict(self.pipeline)).items()]
        return load_config(PipelineConfig, overrides=[*base, *self.variants[name]])

    def open(self) -> OpenSet:
        """The data set."""
        changes = {
            "start": self.start,
            "stride": self.frame_stride,
            "count": self.count,
            "depth_scale": self.depth_scale,
        }
        return open_set(self.dataset, self.root, task=self.task, rule=self.rule, include=self.include, **changes)


def ablate(
    config: AblateConfig,
    shard: Shard | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> str | None:
    """Runs every variant into a folder of its own below `out`, and writes one table of them all.

    Returns the table, or None while other shards are still at work. Raises ConfigError for variants that cannot be,
    before any work is done, InputError for a folder that holds other files under the names of the tables.
    """
    if not config.variants:
        raise ConfigError("An ablation needs variants: a name and a list of key=value words for each.")
    if overwrite and shard is not None and shard.count > 1:
        raise ConfigError(
            "Shards cannot --overwrite a run, for each would remove what the others have done; remove the folder first."
        )
    opened, out = config.open(), Path(config.out)
    name, protocol = choose_protocol(config.protocol, opened.dataset.name)
    pipelines = {variant: config.variant(variant) for variant in config.variants}
    for pipeline in pipelines.values():
        pipeline.infer_config()
    if overwrite:
        discard(out / WINDOWS, WINDOWS_KIND)
    register(out, FOLDER_KIND, [SETTINGS, *report_files()])
    finished: list[Results] = []
    for variant, pipeline in pipelines.items():
        store = Store(out / variant)
        if overwrite:
            store.clear()
        run = Run(
            opened,
            [Pipeline(variant, pipeline, windows=out / WINDOWS if config.share_windows else None)],
            name,
            protocol,
            store,
        )
        run.evaluate(shard, None if progress is None else progress(variant))
        if run.is_complete():
            finished.append(write_report(store, opened))
    if len(finished) < len(pipelines):
        return None
    text = _write_together(config, out, finished)
    discard(out / WINDOWS, WINDOWS_KIND)
    return text


def _write_together(config: AblateConfig, out: Path, finished: list[Results]) -> str:
    """Writes the settings, and tables and plots of all variants; returns the table."""
    with whole_file(out / SETTINGS) as temporary:
        save_config(replace(config, root=None), temporary)
    together = Results(finished[0].settings, [row for results in finished for row in results.rows])
    text = markdown(together, config.title, _list_variants(config))
    write_tables(together, out, text)
    write_plots(together, out / PLOTS)
    return text


def _list_variants(config: AblateConfig) -> list[str]:
    """In which settings each differs from the defaults and the configuration."""
    return [
        "## Variants",
        "",
        *(f"* {name}: " + (" ".join(f"`{word}`" for word in words) or "-") for name, words in config.variants.items()),
    ]


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _word(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{','.join(map(_word, value))}]"
    return "null" if value is None else str(value)
