"""Where a new model's frame encoder gets its weights: a published folder, the hub, or a model of ours that has one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from geo4d.errors import CheckpointError
from geo4d.models.encoders import DinoEncoder, build_encoder
from geo4d.models.storage import CONFIG, HUB_NAME, download, load_model
from geo4d.models.untrusted import SafeTensors, differences, fill, read_json

PUBLISHED = "facebook/dinov2-small"
MODEL_TYPE = "dinov2"
NETWORK = "network."  # before the names of a published file


def load_encoder(source: str | Path, spec: Mapping[str, Any]) -> DinoEncoder:
    """The encoder that `spec` describes, with weights from `source`; standardisation and projection are to be fitted.

    `source` is a folder as transformers writes it (config.json, model.safetensors), a hub repository of such
    ("facebook/dinov2-small"), or anything that `load_model` takes and that has an encoder of this shape ("small").
    Layers beyond those that the spec reads are left out. Raises CheckpointError if it is something else.
    """
    path = Path(source)
    if not path.exists() and re.fullmatch(HUB_NAME, str(source)):
        path = download(str(source))
    if path.is_dir() and (path / CONFIG).exists():
        config = read_json(path / CONFIG)
        if isinstance(config, dict) and "model_type" in config:
            return _published_encoder(path, config, spec)
    model = load_model(path if path.exists() else source)
    if not model.spec.encoder:
        raise CheckpointError(f"The model {source} has no frame encoder; give one that has, or {PUBLISHED}.")
    shape, found = (
        {key: value for key, value in each.items() if key != "channels"} for each in (spec, model.spec.encoder)
    )
    if shape != found:
        raise CheckpointError(f"The frame encoder of {source} is {found}, expected {shape}; give one of that shape.")
    encoder = build_encoder(spec)
    encoder.network.load_state_dict(model.frame_encoder.network.state_dict())
    return encoder


def _published_encoder(path: Path, config: dict[str, Any], spec: Mapping[str, Any]) -> DinoEncoder:
    if config["model_type"] != MODEL_TYPE:
        raise CheckpointError(
            f"{path} holds a model of type {config['model_type']!r}, expected {MODEL_TYPE!r}; give a folder "
            f"such as {PUBLISHED}."
        )
    wrong = [name for name, value in spec["config"].items() if name in config and config[name] != value]
    if wrong:
        raise CheckpointError(
            f"{path} has {wrong[0]} {config[wrong[0]]}, expected {spec['config'][wrong[0]]}; give a folder such "
            f"as {PUBLISHED}."
        )
    tensors, encoder = SafeTensors(sorted(path.glob("*.safetensors"))), build_encoder(spec)
    wanted = {
        name.removeprefix(NETWORK): tuple(value.shape)
        for name, value in encoder.state_dict().items()
        if name.startswith(NETWORK)
    }
    if missing := differences(wanted, {name: shape for name, shape in tensors.shapes().items() if name in wanted}):
        raise CheckpointError(f"{path} does not hold the encoder that is asked for: {missing}.")
    weights = {**encoder.state_dict(), **{NETWORK + name: tensors[name] for name in wanted}}
    fill(encoder, weights, dtype=torch.float32, device="cpu", origin=str(path))
    encoder.round_weights()
    return encoder
