"""Recipes: a folder of stage files, run in the order of their names, each from where it was left.

    configs/train/small/common.yaml     what all its stages share; read first
    configs/train/small/1_*.yaml        the stages

A stage names the model it begins with, so every file can also be run alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from geo4d.config import load_config, save_config
from geo4d.errors import ConfigError
from geo4d.io.output import is_list, read_listing, register
from geo4d.models.geometry_model import GeometryModel
from geo4d.models.storage import remove_folder, save_folder, save_model
from geo4d.scene.atomic import whole_file
from geo4d.training import ranks
from geo4d.training.config import StageConfig, ValidationConfig
from geo4d.training.stages import (
    Stage,
    Validate,
    run_autoencoder,
    run_denoiser,
    run_latents,
    run_point_decoder,
)
from geo4d.training.start import starting_model

logger = logging.getLogger(__name__)

COMMON, SETTINGS, MODEL, DONE = "common.yaml", "config.yaml", "model", "finished"
FOLDER_KIND = "training"
MAY_DIFFER = {
    "out",
    "device",
    "latents",
    "validation",
    "export",
}  # settings that do not make another model of a finished stage
MAY_CHANGE = MAY_DIFFER | {"loop"}  # nor of one that goes on: a run that diverged may go on more slowly
FIXED_LATENTS = {"modalities"}
TRAINED: dict[str, Callable[[Stage], GeometryModel]] = {
    "autoencoder": run_autoencoder,
    "point_decoder": run_point_decoder,
    "denoiser": run_denoiser,
}


def load_recipe(paths: Sequence[str | Path], overrides: Sequence[str] = ()) -> list[StageConfig]:
    """The stages of files and folders, in order; `key=value` words hold for all of them.

    Raises ConfigError for paths that are not there, settings that do not exist, and two stages of one name.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.glob("*.yaml") if file.name != COMMON)
            if not found:
                raise ConfigError(f"{path} holds no stage; expected files such as 1_points.yaml.")
            files += found
        else:
            files.append(path)
    if not files and not overrides:
        raise ConfigError("Nothing to train; give a folder of stages (configs/train/small) or a stage's file.")
    stages = [_load_stage(file, overrides) for file in files] or [
        _named(load_config(StageConfig, [], overrides), "stage")
    ]
    places = [Path(stage.out) / stage.name for stage in stages]
    if len(set(places)) < len(places):
        raise ConfigError(f"Two stages would write to {max(places, key=places.count)}; name them differently.")
    return stages


def _load_stage(file: Path, overrides: Sequence[str]) -> StageConfig:
    common = file.parent / COMMON
    return _named(load_config(StageConfig, [*([common] if common.exists() else []), file], overrides), file.stem)


def _named(config: StageConfig, name: str) -> StageConfig:
    return config if config.name else replace(config, name=name)


def run_recipe(
    stages: Sequence[StageConfig], make_validate: Callable[[ValidationConfig], Validate | None] | None = None
) -> None:
    """Runs the stages in order; those that are finished are passed over, one that was stopped goes on."""
    for number, config in enumerate(stages):
        logger.info("stage %d of %d: %s", number + 1, len(stages), config.name)
        run_stage(config, None if make_validate is None else make_validate(config.validation))


def run_stage(config: StageConfig, validate: Validate | None = None) -> Path:
    """Runs one stage and returns its folder.

    Raises ConfigError if it is finished or begun there, with other settings.
    """
    directory = Path(config.out) / config.name
    device = ranks.choose_device(config.device)
    if ranks.from_main(_is_finished(config, directory) if ranks.is_main() else None):
        logger.info("%s is finished", directory)
        return directory
    with ranks.main_first():
        if ranks.is_main():
            _claim(config, directory)
            save_config(config, directory / SETTINGS)
    model = starting_model(config, device)
    stage = Stage(config, directory, model, device, validate)
    if config.kind == "latents":
        run_latents(stage)
    else:
        model = TRAINED[config.kind](stage)
    ranks.wait()  # a pool is whole when all have encoded their shards
    with ranks.main_first():
        if ranks.is_main():
            _finish(config, directory, None if config.kind == "latents" else model)
    return directory


def _finish(config: StageConfig, directory: Path, model: GeometryModel | None) -> None:
    if model is not None:
        remove_folder(directory / MODEL)  # of a process that was killed here
        save_folder(model.eval(), directory / MODEL, notes={"stage": config.name})
        if config.export is not None:
            path = Path(config.export)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_model(model, path, dtype=torch.float16, notes={"stage": config.name})
            logger.info("wrote %s", path)
    with whole_file(directory / DONE, alone=True) as temporary:
        save_config(config, temporary)


def _is_finished(config: StageConfig, directory: Path) -> bool:
    """Whether the stage's result is there, made with these settings."""
    if not (directory / DONE).exists():
        return False
    changed, before = _changed(config, directory / DONE, MAY_DIFFER)
    if changed:
        raise ConfigError(
            f"The stage in {directory} is finished, with other settings of {', '.join(changed)}; remove the folder to "
            "run it anew, or choose another out."
        )
    return (
        config.kind != "latents" or before.latents.shards >= config.latents.shards
    )  # more shards are added to those there


def _claim(config: StageConfig, directory: Path) -> None:
    """Makes the folder that of the stage, or goes on with what is there.

    Raises ConfigError if the stage was begun with settings that would make another model of what is there, or something
    else is.
    """
    names = {path.name for path in directory.iterdir() if not is_list(path.name)} if directory.is_dir() else set()
    ours = read_listing(directory) is not None
    if not names or ours:
        register(directory, FOLDER_KIND, [SETTINGS, DONE])
    if not names or (ours and (SETTINGS not in names or names == {SETTINGS})):
        return
    if SETTINGS not in names:
        raise ConfigError(f"{directory} holds other files and no stage of geo4d train; choose another out.")
    changed, _ = _changed(config, directory / SETTINGS, MAY_CHANGE)
    if changed:
        raise ConfigError(
            f"The stage in {directory} was begun with other settings of {', '.join(changed)}; restore them, remove the "
            "folder to begin anew, or choose another out."
        )


def _load_settings(path: Path) -> DictConfig:
    """The settings of a stage. Raises ConfigError for a file that is something else."""
    try:
        found = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigError(
            f"{path} cannot be read as the settings of a stage; restore it, or choose another out."
        ) from error
    if not isinstance(found, DictConfig) or not isinstance(found.get("latents"), DictConfig):
        raise ConfigError(f"{path} does not hold the settings of a stage of geo4d train; choose another out.")
    return found


def _changed(config: StageConfig, path: Path, may_differ: set[str]) -> tuple[list[str], Any]:
    """Names of settings that are not what they were, and those of before."""
    before, now = _load_settings(path), OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
    for settings in (before, now):
        if "data" in settings:
            settings.data.readers = 0
    changed = sorted(key for key in map(str, now) if key not in may_differ and before.get(key) != now[key])
    changed += [
        f"latents.{key}"
        for key in map(str, now.latents)
        if key in FIXED_LATENTS and before.latents.get(key) != now.latents[key]
    ]
    return changed, before
