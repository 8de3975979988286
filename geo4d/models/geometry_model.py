"""A whole model: U-Net, autoencoder, point decoder and latent statistics, in one file on disk.

It maps names of images to latents and back, and knows nothing of what the images mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import softplus

from geo4d._typing import Float, Tensor
from geo4d.errors import CheckpointError
from geo4d.models.autoencoder import Autoencoder, PointDecoder
from geo4d.models.latents import LatentNormalizer
from geo4d.models.presets import PRESETS, ModelSpec
from geo4d.models.unet import VideoUNet

FORMAT = "geo4d-model-1"
SIGMA_FLOOR = 1e-4
WEIGHTS = Path(str(resources.files("geo4d"))) / "weights" / "small.safetensors"  # the embedded model


class GeometryModel(nn.Module):
    """The parts of a model and how they work together."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.unet = VideoUNet(**spec.unet)
        self.autoencoder = Autoencoder(**spec.autoencoder)
        self.point_decoder = PointDecoder(**spec.autoencoder, uncertainty_blocks=spec.uncertainty_blocks)
        if spec.context_tokens:  # the prompt and a zero image are constants of a checkpoint (COMPAT section 3)
            self.register_buffer("context", torch.zeros(1, spec.context_tokens, self.unet.config.context_dim))
        grid = (spec.base_size[0] // 8, spec.base_size[1] // 8)
        self.normalizer = LatentNormalizer(("rgb", *spec.image_names), grid)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.unet.parameters()).device

    def encode_rgb(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 4 y x"]:
        """Condition latents of frames in [-1, 1]."""
        return self.encode_images("rgb", images)

    def encode_images(self, name: str, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 4 y x"]:
        """Latents as the denoiser knows them (mean of the posterior)."""
        return self.normalizer.normalize(name, self.autoencoder.encode(images)[0].float())

    def decode_images(self, name: str, latents: Float[Tensor, "n 4 y x"]) -> Float[Tensor, "n 3 h w"]:
        """Images of the denoiser's latents."""
        return self.autoencoder.decode(self.normalizer.denormalize(name, latents)).float()

    def decode_points(self, latents: Float[Tensor, "n 4 y x"]) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n h w"]]:
        """Point images and the Laplace scale sigma of every pixel, in units of the channels."""
        decoded = self.point_decoder.decode_with_uncertainty(self.normalizer.denormalize("points", latents)).float()
        return decoded[:, :3], softplus(decoded[:, 3]) + SIGMA_FLOOR

    def unet_forward(
        self,
        x_t: Float[Tensor, "b c v y x"],
        condition: Float[Tensor, "b 4 v y x"],
        timesteps: Tensor,
        fps: Tensor | None,
        frame_index: Tensor | None,
    ) -> Float[Tensor, "b c v y x"]:
        """v, given noisy latents and the frames' own."""
        context = self.get_buffer("context").expand(len(x_t), -1, -1) if self.spec.context_tokens else None
        return self.unet(torch.cat([x_t, condition.to(x_t.dtype)], dim=1), timesteps, context, fps, frame_index)

    def denoiser(
        self, condition: Float[Tensor, "b 4 v y x"], fps: Tensor | None, frame_index: Tensor | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The function (x_t, timesteps) -> v of a batch of windows, for a sampler."""
        return lambda x_t, timesteps: self.unet_forward(x_t, condition, timesteps, fps, frame_index)

    def save(self, path: Path, *, dtype: torch.dtype = torch.float16, notes: dict[str, Any] | None = None) -> None:
        """Writes one safetensors file, atomically; the spec and `notes` are in its metadata."""
        tensors = {name: value.detach().to(dtype).contiguous().cpu() for name, value in self.state_dict().items()}
        metadata = {"format": FORMAT, "spec": json.dumps(asdict(self.spec)), "notes": json.dumps(notes or {})}
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary, metadata)
        temporary.replace(path)


def build_model(spec: ModelSpec, *, seed: int = 0) -> GeometryModel:
    """A model with random weights, the same for the same seed; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GeometryModel(spec)


def load_model(model: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> GeometryModel:
    """Loads "small" (ships with the package), "tiny" (random weights, for tests) or a file that `save` wrote.

    Raises CheckpointError if the file is missing, is something else, or does not hold exactly what its spec asks for.
    """
    if str(model) == "tiny":
        return build_model(PRESETS["tiny"]).to(device, dtype).eval()
    path = WEIGHTS if str(model) == "small" else Path(model)
    if not path.is_file():
        raise CheckpointError(f"There is no model at {path}; give 'small' or the path of a geo4d .safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error}); expected a file that geo4d wrote.") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a geo4d model: its metadata says {metadata.get('format')!r}, expected {FORMAT!r}.")
    result = GeometryModel(_spec_from_json(metadata["spec"]))
    own = result.state_dict()
    wrong = sorted(set(own) ^ set(tensors)) or [name for name in own if own[name].shape != tensors[name].shape]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit its own spec: {len(wrong)} tensors missing, left over or of another shape: {wrong[:10]}."
        )
    result.load_state_dict({name: value.float() for name, value in tensors.items()})
    return result.to(device, dtype).eval()


def _spec_from_json(text: str) -> ModelSpec:
    def tuples(value: Any) -> Any:
        return tuple(tuples(item) for item in value) if isinstance(value, list) else value

    def convert(value: Any) -> Any:
        return {key: convert(item) for key, item in value.items()} if isinstance(value, dict) else tuples(value)

    return ModelSpec(**convert(json.loads(text)))
