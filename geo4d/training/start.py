"""The model with which a stage begins: new, or an earlier one that grows by the modalities that are new."""

from __future__ import annotations

from dataclasses import replace

import torch

from geo4d.errors import ConfigError
from geo4d.modalities import Layout, make_layout
from geo4d.models.geometry_model import GeometryModel, build_model
from geo4d.models.grow import grow_model
from geo4d.models.presets import PRESETS, ModelSpec
from geo4d.models.pretrained import PUBLISHED, load_encoder
from geo4d.models.storage import load_model
from geo4d.training.config import StageConfig
from geo4d.training.latents import LatentPool

FITTED_SHARDS = 40  # of each length
RANDOM = "random"  # a frame encoder of no use but to try things out


def starting_model(config: StageConfig, device: torch.device) -> GeometryModel:
    """Raises ConfigError if the stage names no beginning, or modalities that do not contain the earlier ones."""
    if (config.preset is None) == (config.start is None):
        raise ConfigError("A stage begins with a model or with random weights: set either start=MODEL or preset=NAME.")
    if config.start is not None:
        model = load_model(config.start, vae=config.vae, device=device)
        return _grown(model, config.modalities) if config.modalities else model
    if config.preset not in PRESETS:
        raise ConfigError(f"There is no preset {config.preset!r}; expected one of {', '.join(PRESETS)}.")
    spec = PRESETS[config.preset]
    if config.modalities:
        spec = _spec_with(spec, config.modalities)
    model = build_model(replace(spec, uncertainty_blocks=0), seed=config.seed)  # the point decoder has its own stage
    if spec.encoder and config.encoder is None:
        raise ConfigError(
            f"The preset {config.preset!r} has a frame encoder, whose weights must come from somewhere: set "
            f"encoder={PUBLISHED}, a folder of it, a geo4d model that has one, or random."
        )
    if spec.encoder and config.encoder != RANDOM:
        model.frame_encoder = load_encoder(str(config.encoder), spec.encoder)
    return model.to(device)


def layout_of(model: GeometryModel) -> Layout:
    """What the model's images mean. Raises ConfigError for a model of frames alone."""
    if not model.spec.modalities:
        raise ConfigError("This model predicts frames and no geometry; name the modalities that it is to learn.")
    return spec_layout(model.spec, model.spec.modalities)


def spec_layout(spec: ModelSpec, modalities: tuple[str, ...]) -> Layout:
    """The layout of these modalities in the latents of a model of this kind."""
    return make_layout(modalities, normalization=spec.points_normalization, image_channels=spec.latent_channels)


def fit_statistics(model: GeometryModel, pool: LatentPool) -> list[str]:
    """Mean per position and spread per channel of the latents whose statistics are still the release's; their names."""
    names = [name for name in ("rgb", *model.spec.image_names) if not model.normalizer.is_fitted(name)]
    if names:
        sample = pool.sample(model.spec.base_size, FITTED_SHARDS)
        missing = [name for name in names if name not in sample]
        if missing:
            raise ConfigError(
                f"The latents in {pool.directory} have no {missing[0]}; encode them again with all modalities."
            )
        for name in names:
            model.normalizer.fit(name, sample[name])
    return names


def _grown(model: GeometryModel, modalities: tuple[str, ...]) -> GeometryModel:
    lost = [name for name in model.spec.modalities if name not in modalities]
    if lost:
        raise ConfigError(
            f"The model predicts {', '.join(lost)} already, which modalities {list(modalities)} leave out; name all of "
            "them."
        )
    layout = spec_layout(model.spec, modalities)
    if layout.image_names == model.spec.image_names:
        return model
    grown = grow_model(model, tuple(each.name for each in layout.modalities), layout.image_names)
    if model.spec.name == "dynamicrafter":  # grown for geometry it is the full model
        grown.spec = replace(grown.spec, name="geo4d", sizes=PRESETS["geo4d"].sizes)
    return grown.to(model.device)


def _spec_with(spec: ModelSpec, modalities: tuple[str, ...]) -> ModelSpec:
    layout = spec_layout(spec, modalities)
    read = layout.latent_channels + spec.latent_channels + spec.feature_channels
    channels = {"in_channels": read, "out_channels": layout.latent_channels}
    names = tuple(each.name for each in layout.modalities)
    return replace(spec, modalities=names, image_names=layout.image_names, unet={**spec.unet, **channels})
