"""Models on disk and on the hub: one file, or a folder as users of diffusers know it.

A file is a .safetensors with the spec in its metadata. A folder holds config.json (the spec), model*.safetensors in
shards with their index, and NOTICE.md. The context tokens of a released model are among the tensors. Of a frame encoder
the weights of linear layers are in 8 bits, as NAME.int8 and NAME.scale (`eight_bit`), whatever the dtype of the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file

from geo4d.errors import CheckpointError, ConfigError
from geo4d.models.conditioner import number_positions
from geo4d.models.eight_bit import Unpacked, pack
from geo4d.models.geometry_model import GeometryModel, build_model
from geo4d.models.presets import PRESETS, ModelSpec
from geo4d.models.untrusted import SafeTensors, differences, fill, read_json
from geo4d.scene.arrays import parse_json
from geo4d.scene.atomic import whole_file, whole_folder

FORMAT = "geo4d-model-1"
CONFIG = "config.json"
NOTICE = "NOTICE.md"
WEIGHTS = Path(str(resources.files("geo4d"))) / "weights" / "small.safetensors"  # the embedded model
HUB_NAME = r"[\w.-]+/[\w.-]+"
HUB_FILES = [CONFIG, "*.safetensors", "*.safetensors.index.json", NOTICE]


def save_model(
    model: GeometryModel, path: Path, *, dtype: torch.dtype = torch.float16, notes: dict[str, Any] | None = None
) -> None:
    """Writes one safetensors file, atomically; the spec and `notes` are in its metadata."""
    state, packed = model.state_dict(), eight_bit_names(model)
    state = {name: value.detach() if name in packed else value.detach().to(dtype) for name, value in state.items()}
    tensors = {name: value.contiguous().cpu() for name, value in pack(state, packed).items()}
    metadata = {"format": FORMAT, "spec": json.dumps(asdict(model.spec)), "notes": json.dumps(notes or {})}
    with whole_file(path, alone=True) as temporary:
        save_file(tensors, temporary, metadata)


def save_folder(
    model: GeometryModel,
    directory: Path,
    *,
    notes: dict[str, Any] | None = None,
    notice: str = "",
    max_shard_size: str = "2GB",
) -> None:
    """Writes the model's folder in the dtype it has, whole or not at all.

    Raises CheckpointError if one is there already.
    """
    tensors = pack(model.state_dict(), eight_bit_names(model))
    with whole_model(directory) as temporary:
        save_torch_state_dict(tensors, temporary, max_shard_size=max_shard_size, metadata={"format": "pt"})
        config = {"format": FORMAT, "spec": asdict(model.spec), "notes": notes or {}}
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        (temporary / NOTICE).write_text(notice or DEFAULT_NOTICE)


def eight_bit_names(model: GeometryModel) -> set[str]:
    """The tensors of a model that are stored in 8 bits: weights of the frame encoder's linear layers."""
    if not model.spec.encoder:
        return set()
    state = model.frame_encoder.state_dict(prefix="frame_encoder.")
    return {name for name, value in state.items() if name.endswith(".weight") and value.ndim == 2}


def check_new(directory: Path) -> None:
    """Raises CheckpointError if a folder to be written holds something already."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(
            f"{directory} is not an empty folder; choose a new one for the model, or remove it first."
        )


@contextmanager
def whole_model(directory: Path) -> Iterator[Path]:
    """A folder to write into that takes its name when all is written; nothing is left if anything fails.

    Raises CheckpointError if `directory` holds something already, or cannot be written.
    """
    check_new(directory)
    try:
        with whole_folder(directory) as temporary:
            yield temporary
    except OSError as error:
        raise CheckpointError(
            f"The model cannot be written to {directory} ({error.strerror or error}); choose another place."
        ) from error


def remove_folder(directory: Path) -> None:
    """Removes the files of a model's folder that is there, and the folder if nothing else lies in it."""
    if directory.is_dir() and not directory.is_symlink():
        for file in {file for pattern in HUB_FILES for file in directory.glob(pattern)}:
            file.unlink()
        with suppress(OSError):
            directory.rmdir()


def load_model(
    model: str | Path,
    *,
    vae: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> GeometryModel:
    """A model in evaluation mode.

    `model` is "small" (ships with the package), "tiny" (random weights, for tests), a geo4d file or folder, a hub
    repository ("owner/name") or a released checkpoint (with its point-map autoencoder as `vae`). Raises CheckpointError
    if it cannot be found, is something else, or does not hold exactly what its spec asks for.
    """
    if str(model) == "tiny":
        return build_model(PRESETS["tiny"]).to(device, dtype).eval()
    path = WEIGHTS if str(model) == "small" else Path(model)
    if not path.exists() and re.fullmatch(HUB_NAME, str(model)):
        path = download(str(model))
    if not path.exists():
        raise CheckpointError(
            f"There is no model at {path}; give 'small', a geo4d file or folder, a hub repository (owner/name) or a "
            "released checkpoint."
        )
    if path.is_file() and path.suffix != ".safetensors":
        from geo4d.models.checkpoint import load_released

        return load_released(path, vae, device=device, dtype=dtype)
    if vae is not None:
        raise ConfigError(
            f"{path} is a geo4d model and holds its own point decoder; vae goes with a released checkpoint alone."
        )
    return _load_folder(path, device, dtype) if path.is_dir() else _load_file(path, device, dtype)


def push_to_hub(
    model: GeometryModel, repository: str, *, private: bool | None = None, token: str | None = None, message: str = ""
) -> str:
    """Uploads the model's folder to a repository of the hub, made if need be; returns the commit's address.

    Raises CheckpointError if the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(token=token)
    try:
        name = api.create_repo(repository, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            save_folder(model, Path(folder) / "model")
            return api.upload_folder(
                folder_path=Path(folder) / "model", repo_id=name, commit_message=message or "Upload geo4d model"
            ).commit_url
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"The model was not uploaded to {repository} ({str(error).splitlines()[0]}); log in with `hf auth login`?"
        ) from error


def spec_from_json(text: str | dict[str, Any], origin: str) -> ModelSpec:
    """The spec that a file holds. Raises CheckpointError if it is none."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: convert(item) for key, item in value.items()}
        return tuple(convert(item) for item in value) if isinstance(value, list) else value

    try:
        return ModelSpec(**convert(parse_json(text) if isinstance(text, str) else text))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{origin} does not describe a geo4d model ({error}); was it made by a newer version?"
        ) from error


def build_empty(spec: ModelSpec, origin: str) -> GeometryModel:
    """A model without memory for its weights. Raises CheckpointError if the spec makes no sense."""
    try:
        with torch.device("meta"):
            return GeometryModel(spec)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError, ArithmeticError, ConfigError) as error:
        raise CheckpointError(f"{origin} does not describe a model that can be built ({error}).") from error


def _load_file(path: Path, device: torch.device | str, dtype: torch.dtype) -> GeometryModel:
    tensors = SafeTensors([path])
    if tensors.metadata.get("format") != FORMAT or "spec" not in tensors.metadata:
        raise CheckpointError(
            f"{path} is not a geo4d model: its metadata says {tensors.metadata.get('format')!r}, expected {FORMAT!r}."
        )
    return _load(tensors, spec_from_json(tensors.metadata["spec"], str(path)), str(path), device, dtype)


def _load_folder(path: Path, device: torch.device | str, dtype: torch.dtype) -> GeometryModel:
    shards = sorted(path.glob("*.safetensors"))
    if not (path / CONFIG).exists() or not shards:
        raise CheckpointError(
            f"{path} is not a geo4d model folder: it needs {CONFIG} and model*.safetensors; make one with geo4d "
            "convert."
        )
    config = read_json(path / CONFIG)
    if not isinstance(config, dict) or config.get("format") != FORMAT or not isinstance(config.get("spec"), dict):
        raise CheckpointError(f"{path / CONFIG} is not a geo4d model's; expected the format {FORMAT!r}.")
    return _load(SafeTensors(shards), spec_from_json(config["spec"], str(path / CONFIG)), str(path), device, dtype)


def _load(
    tensors: SafeTensors, spec: ModelSpec, origin: str, device: torch.device | str, dtype: torch.dtype
) -> GeometryModel:
    model = build_empty(spec, origin)
    own = Unpacked(tensors, eight_bit_names(model))
    if wrong := differences({name: tuple(value.shape) for name, value in model.state_dict().items()}, own.shapes()):
        raise CheckpointError(f"{origin} does not fit its own spec: {wrong}.")
    fill(model, own, dtype=dtype, device=device, origin=origin)
    number_positions(model)
    return model.eval()


def download(name: str) -> Path:
    """The folder of a hub repository, from the cache where it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"There is no folder {name}, and the hub repository of that name cannot be read ({reason})."
        ) from error


DEFAULT_NOTICE = """# Notice

Weights in the format of geo4d, trained by whoever published them and under the licence that they state.
"""
