"""Released checkpoints (Geo4D, DynamiCrafter): recognised, checked name by name, read without a second copy, written.

Layouts: Lightning (`state_dict`), DeepSpeed (`module`, names behind `_forward_module.`), the point-map autoencoder's
vae.ckpt (names behind `model.`), and a bare dictionary of tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geo4d._typing import Float, Tensor
from geo4d.errors import CheckpointError, ConfigError
from geo4d.models.autoencoder import Autoencoder
from geo4d.models.conditioner import PROMPT, Conditioner, ImageTower, TextTower, TowerConfig, number_positions
from geo4d.models.geometry_model import GeometryModel
from geo4d.models.latents import LatentNormalizer
from geo4d.models.presets import PRESETS, ModelSpec
from geo4d.models.released import BUFFERS, NOT_STORED, PREFIXES, gather, sources, unused
from geo4d.models.resampler import Resampler
from geo4d.models.storage import build_empty, whole_model
from geo4d.models.unet import VideoUNet
from geo4d.models.untrusted import differences, fill, read_torch_file

DEEPSPEED_PREFIX = "_forward_module."
VAE_PREFIX = "model."
RENAMED = ("framestride_embed", "fps_embedding")  # DynamiCrafter's spelling, Geo4D's
ENCODER = r"encoder\..+|quant_conv\..+"  # of vae.ckpt: the image autoencoder's own once more
CONTEXT_TOLERANCE = 1e-2  # of tokens that were computed elsewhere, which are of order 1

Tensors = Mapping[str, Tensor]


def load_part(part: str, config: Mapping[str, Any], state_dict: Tensors) -> nn.Module:
    """One part of the released model, in evaluation mode, from its released configuration and tensors.

    `part` is "unet", "autoencoder", "resampler", "text_tower" or "image_tower" (these two with open_clip's model
    configuration); names are the part's own, without its prefix in the whole model. An autoencoder whose configuration
    has an `adaptorconfig` decodes with uncertainty. Raises ConfigError for another part or an option that is not built,
    CheckpointError if the tensors are not exactly those that the configuration asks for.
    """
    if part not in _BUILDERS:
        raise ConfigError(f"There is no part {part!r} in the released model; give one of {', '.join(_BUILDERS)}.")
    try:
        with torch.device("meta"):
            module = _BUILDERS[part](config)
    except KeyError as error:
        raise ConfigError(f"The {part}'s configuration lacks {error}; give that of the same release.") from error
    except TypeError as error:
        raise ConfigError(f"The {part}'s configuration does not have the released names ({error}).") from error
    text_layers = config["text_cfg"]["layers"] if part == "text_tower" else 0
    place = ReleasedModule(module, part, text_layers=text_layers)
    tensors = {name: torch.as_tensor(value) for name, value in state_dict.items()}
    place.check(tensors, f"The {part}'s tensors")
    fill(module, place.read(tensors), dtype=None, device="cpu", origin=part)
    number_positions(module)
    return module.eval()


def load_released(
    path: str | Path,
    vae: str | Path | None = None,
    *,
    spec: ModelSpec | None = None,
    per_frame: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> GeometryModel:
    """A released model.ckpt, with the point decoder of its vae.ckpt, as a model that needs neither of them any more.

    The context tokens are computed here, once; with `per_frame` the image tower and the query transformer are kept too.
    `spec` defaults to the release that the file's U-Net belongs to. Memory holds the result, one tensor more, and maps
    the files. Raises CheckpointError if a name or shape is missing, left over or wrong.
    """
    tensors = read_released(Path(path))
    spec = replace(spec or recognise_spec(tensors, str(path)), per_frame=per_frame)
    if vae is None:
        spec = replace(spec, uncertainty_blocks=0)
    model = build_empty(spec, str(path))
    conditioner = _empty_conditioner(spec)
    layers = conditioner.text_tower.layers
    places = [
        ReleasedModule(model.unet, "unet", PREFIXES["unet"], ours="unet."),
        ReleasedModule(model.autoencoder, "autoencoder", PREFIXES["autoencoder"], ours="autoencoder."),
        ReleasedModule(conditioner.text_tower, "text_tower", PREFIXES["text_tower"], text_layers=layers),
        ReleasedModule(conditioner.image_tower, "image_tower", PREFIXES["image_tower"], ours="image_tower."),
        ReleasedModule(conditioner.resampler, "resampler", PREFIXES["resampler"], ours="resampler."),
    ]
    _check_whole(places, tensors, str(path))
    found = {name: value for place in places for name, value in place.read(tensors).items()}
    if vae is not None:
        points = ReleasedModule(model.point_decoder, "autoencoder", VAE_PREFIX, ours="point_decoder.", ignored=ENCODER)
        decoder = {key: value for key, value in read_released(Path(vae)).items() if key.startswith(VAE_PREFIX)}
        points.check(decoder, f"The tensors of {vae}")
        found |= points.read(decoder)
    found |= _normalizer(spec)
    found["context"] = constant_context(conditioner, places[2:], tensors)
    fill(model, found, dtype=dtype, device=device, origin=str(path))
    number_positions(model)
    return model.eval()


def save_released(model: GeometryModel, directory: Path, *, base: str | Path) -> None:
    """Writes model.ckpt and, if there is a point decoder, vae.ckpt as the release lays them out, into a new folder.

    What the model does not hold (towers, schedule) is taken from `base`, the released checkpoint that training began
    with; tensors that no computation reads and `base` lacks are zeros. Raises CheckpointError if `base` has another
    context.
    """
    tensors = dict(read_released(Path(base)))
    conditioner = _empty_conditioner(model.spec)
    towers = [
        ReleasedModule(
            conditioner.text_tower, "text_tower", PREFIXES["text_tower"], text_layers=conditioner.text_tower.layers
        ),
        ReleasedModule(conditioner.image_tower, "image_tower", PREFIXES["image_tower"]),
        ReleasedModule(conditioner.resampler, "resampler", PREFIXES["resampler"]),
    ]
    for place in towers:
        place.check(tensors, f"The tensors of {base}", others_allowed=True)
    context = constant_context(conditioner, towers, tensors)
    if (context - model.get_buffer("context").cpu()).abs().max() > CONTEXT_TOLERANCE * context.abs().max():
        raise CheckpointError(
            f"{base} gives other context tokens than the model was trained with; give the checkpoint it began with."
        )
    for part, module in (("unet", model.unet), ("autoencoder", model.autoencoder)):
        tensors = {
            key: value
            for key, value in tensors.items()
            if not (key.startswith(PREFIXES[part]) and "adaptor" not in key)
        }
        tensors |= ReleasedModule(module, part, PREFIXES[part]).write()
    adaptors = _adaptors(model)
    tensors = {**{PREFIXES["autoencoder"] + key: value for key, value in adaptors.items()}, **tensors}
    with whole_model(directory) as folder:
        _save(tensors, folder / "model.ckpt")
        if model.spec.uncertainty_blocks:
            parts = [
                ReleasedModule(module, "autoencoder", VAE_PREFIX).write()
                for module in (model.autoencoder, model.point_decoder)
            ]
            _save(
                {**{VAE_PREFIX + key: value for key, value in adaptors.items()}, **parts[0], **parts[1]},
                folder / "vae.ckpt",
            )


def read_released(path: Path) -> dict[str, Tensor]:
    """The tensors of a released file under the names of the published Geo4D.

    Raises CheckpointError if it is of no known layout.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}; give the path of a released .ckpt file.")
    content = read_torch_file(path)
    inside = next(
        (content[key] for key in ("state_dict", "module") if isinstance(content, dict) and key in content), content
    )
    if not isinstance(inside, dict) or not any(isinstance(value, Tensor) for value in inside.values()):
        raise CheckpointError(
            f"{path} holds {type(content).__name__} without tensors; expected a dictionary with state_dict or module."
        )
    strange = [name for name, value in inside.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strange:
        raise CheckpointError(
            f"{path} holds things that are no tensors under {strange[:10]}; expected named tensors alone."
        )
    if "module" in content and "state_dict" not in content:
        foreign = [name for name in inside if not name.startswith(DEEPSPEED_PREFIX)]
        if foreign:
            raise CheckpointError(
                f"{path} has DeepSpeed's layout, but names without {DEEPSPEED_PREFIX!r}: {foreign[:10]}."
            )
        inside = {name.removeprefix(DEEPSPEED_PREFIX): value for name, value in inside.items()}
    return {name.replace(*RENAMED): value for name, value in inside.items()}


def recognise_spec(tensors: Tensors, origin: str) -> ModelSpec:
    """The preset of the release that a whole checkpoint belongs to, by the channels of its U-Net."""
    for preset in ("geo4d", "dynamicrafter"):
        if _unet_channels(tensors) == (
            PRESETS[preset].unet.get("in_channels", 20),
            PRESETS[preset].unet.get("out_channels", 16),
        ):
            return PRESETS[preset]
    raise CheckpointError(f"{origin} is not a released model.ckpt; it seems to be {seems_to_be(tensors)}.")


def seems_to_be(tensors: Tensors) -> str:
    """A guess at what a file is, for messages."""
    channels = _unet_channels(tensors)
    if channels is not None:
        known = {(20, 16): "Geo4D's model.ckpt", (8, 4): "DynamiCrafter's model.ckpt"}
        if not any("temopral_conv" in name for name in tensors):
            return (
                f"an image diffusion model without temporal layers ({channels[0]} input, {channels[1]} output channels)"
            )
        return known.get(
            channels, f"a video diffusion model with {channels[0]} input and {channels[1]} output channels"
        )
    if "model.decoder.conv_in.weight" in tensors:
        return "Geo4D's vae.ckpt" if "model.decoder_adaptor.conv_out.weight" in tensors else "an image autoencoder"
    if any("resblocks" in name for name in tensors):
        return "a CLIP model"
    return f"something else (its first names: {', '.join(list(tensors)[:3])})"


@torch.no_grad()
def constant_context(
    conditioner: Conditioner, towers: list[ReleasedModule], tensors: Tensors
) -> Float[Tensor, "1 m c"]:
    """The tokens of the prompt and of a zero image, computed on weights that stay in the file."""
    for place in towers:
        place.module.load_state_dict(
            {name: value.float() for name, value in place.read(tensors, bare=True).items()}, assign=True
        )
        number_positions(place.module.eval())
    return conditioner.constant_context(PROMPT).clone()


@dataclass(frozen=True)
class ReleasedModule:
    """Where one of our modules lies in a released file.

    The table of its names, and what beside it may be left unread.
    """

    module: nn.Module
    part: str
    prefix: str = ""
    ours: str = ""  # what the names of `read` begin with
    text_layers: int = 24
    ignored: str = r"(?!)"

    @property
    def table(self) -> dict[str, Any]:
        """Our names -> where each lies, with the prefix."""
        levels = len(self.module.config.block_out_channels) if self.part == "autoencoder" else 0
        own = sources(self.part, self.module.state_dict(), levels=levels)
        return {name: replace(source, key=self.prefix + source.key) for name, source in own.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the released tensors that the module needs."""
        own = self.module.state_dict()
        return {source.key: source.shape(own[name].shape) for name, source in self.table.items()}

    def may_be_unread(self, key: str) -> bool:
        """Whether a released name is known to be read by no computation."""
        inside = key.removeprefix(self.prefix)
        return key.startswith(self.prefix) and bool(
            re.fullmatch(f"{unused(self.part, text_layers=self.text_layers)}|{self.ignored}", inside)
        )

    def check(self, tensors: Tensors, what: str, *, others_allowed: bool = False) -> None:
        """Raises CheckpointError if a name or shape is missing, left over or wrong."""
        expected = self.shapes()
        found = {
            key: tuple(v.shape)
            for key, v in tensors.items()
            if key in expected or not (others_allowed or self.may_be_unread(key))
        }
        if wrong := differences(expected, found):
            raise CheckpointError(f"{what} do not fit the {self.part}: {wrong}; it seems to be {seems_to_be(tensors)}.")

    def read(self, tensors: Tensors, *, bare: bool = False) -> dict[str, Tensor]:
        """Our tensors as views of the released ones; `bare`: under the module's own names."""
        return {
            ("" if bare else self.ours) + name: source.take(tensors[source.key]) for name, source in self.table.items()
        }

    def write(self) -> dict[str, Tensor]:
        """The released tensors that hold the module's."""
        return gather(self.table, {name: value.detach().cpu() for name, value in self.module.state_dict().items()})


def _check_whole(places: list[ReleasedModule], tensors: Tensors, origin: str) -> None:
    expected = {key: shape for place in places for key, shape in place.shapes().items()}
    known = BUFFERS | NOT_STORED
    found = {
        key: tuple(value.shape)
        for key, value in tensors.items()
        if key in expected or not (key in known or any(place.may_be_unread(key) for place in places))
    }
    if wrong := differences(expected, found):
        raise CheckpointError(
            f"{origin} is not the released model.ckpt that was asked for: {wrong}; it seems to be "
            f"{seems_to_be(tensors)}."
        )


def _unet_channels(tensors: Tensors) -> tuple[int, int] | None:
    first, last = (tensors.get(f"model.diffusion_model.{name}.weight") for name in ("input_blocks.0.0", "out.2"))
    return None if first is None or last is None or first.ndim != 4 else (first.shape[1], last.shape[0])


def _empty_conditioner(spec: ModelSpec) -> Conditioner:
    with torch.device("meta"):
        return Conditioner.from_spec(spec.towers)


def _normalizer(spec: ModelSpec) -> dict[str, Tensor]:
    grid = (spec.base_size[0] // 8, spec.base_size[1] // 8)
    state = LatentNormalizer(("rgb", *spec.image_names), grid).state_dict()
    return {f"normalizer.{name}": value for name, value in state.items()}


def _adaptors(model: GeometryModel) -> dict[str, Tensor]:
    """Zeros for both adaptors of an autoencoder.

    The encoder's is read by nothing, the decoder's by the point decoder alone.
    """
    width = model.autoencoder.config.block_out_channels[0]

    def block(name: str) -> dict[str, tuple[int, ...]]:
        sizes = {"norm1": (), "conv1": (width, 3, 3), "norm2": (), "conv2": (width, 3, 3)}
        return {f"{name}.{layer}": (width, *rest) for layer, rest in sizes.items()}

    weights = {"encoder_adaptor.conv_in": (width, 3, 3, 3), **block("encoder_adaptor.down.0.block.0")}
    weights |= {"encoder_adaptor.norm_out": (width,), "encoder_adaptor.conv_out": (3, width, 3, 3)}
    weights |= {**block("decoder_adaptor.up.0.block.0"), **block("decoder_adaptor.up.0.block.1")}
    weights |= {"decoder_adaptor.norm_out": (width,), "decoder_adaptor.conv_out": (1, width, 3, 3)}
    shapes = {
        f"{name}.{kind}": shape if kind == "weight" else shape[:1]
        for name, shape in weights.items()
        for kind in ("weight", "bias")
    }
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def _save(tensors: Tensors, path: Path) -> None:
    try:
        torch.save({"state_dict": {name: value.contiguous() for name, value in tensors.items()}}, path)
    except RuntimeError as error:
        raise CheckpointError(f"{path.name} cannot be written ({error}); choose another place.") from error


def _build_unet(config: Mapping[str, Any]) -> nn.Module:
    return VideoUNet(
        **{key: tuple(value) if isinstance(value, (list, tuple)) else value for key, value in config.items()}
    )


def _build_autoencoder(config: Mapping[str, Any]) -> nn.Module:
    dd, adaptor = config["ddconfig"], config.get("adaptorconfig")
    if list(dd.get("attn_resolutions", [])) or dd["z_channels"] != 4:
        raise ConfigError(
            "The autoencoder has 4 latent channels and attention in its middle only; got another ddconfig."
        )
    return Autoencoder(
        block_out_channels=tuple(dd["ch"] * multiple for multiple in dd["ch_mult"]),
        layers_per_block=dd["num_res_blocks"],
        uncertainty_blocks=0 if adaptor is None else adaptor["num_res_blocks"] + 1,
    )


def _build_text_tower(config: Mapping[str, Any]) -> nn.Module:
    text = config["text_cfg"]
    optional = {name: text[name] for name in ("context_length", "vocab_size") if name in text}
    return TextTower(TowerConfig(width=text["width"], layers=text["layers"], heads=text["heads"], **optional))


def _build_image_tower(config: Mapping[str, Any]) -> nn.Module:
    vision = config["vision_cfg"]
    optional = {name: vision[name] for name in ("image_size", "mlp_ratio") if name in vision}
    heads = vision["width"] // vision.get("head_width", 64)
    return ImageTower(
        TowerConfig(
            width=vision["width"], layers=vision["layers"], heads=heads, patch_size=vision["patch_size"], **optional
        )
    )


_BUILDERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "unet": _build_unet,
    "autoencoder": _build_autoencoder,
    "resampler": lambda config: Resampler(**config),
    "text_tower": _build_text_tower,
    "image_tower": _build_image_tower,
}
