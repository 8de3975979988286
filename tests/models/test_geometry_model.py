"""A whole model: from file to file, and from images to latents and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from geo4d.errors import CheckpointError, ConfigError
from geo4d.models.geometry_model import GeometryModel, build_model
from geo4d.models.presets import PRESETS
from geo4d.models.storage import eight_bit_names, load_model, save_model


@pytest.fixture(scope="module")
def model() -> GeometryModel:
    return build_model(PRESETS["tiny"]).eval()


def test_same_seed_same_weights_and_no_global_draws(model: GeometryModel) -> None:
    state = torch.random.get_rng_state()
    again, other = build_model(PRESETS["tiny"]), build_model(PRESETS["tiny"], seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in again.state_dict().items())
    assert not all(torch.equal(own[key], value) for key, value in other.state_dict().items())


def test_file_round_trip(model: GeometryModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path, dtype=torch.float32, notes={"steps": 3})
    loaded = load_model(path)
    assert loaded.spec == model.spec
    assert not loaded.training
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["notes"]) == {"steps": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_half_precision_file_holds_the_same_model(model: GeometryModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    stored = load_file(path)
    assert all(
        value.dtype == (torch.int8 if name.endswith(".int8") else torch.float16) for name, value in stored.items()
    )
    loaded = load_model(path)
    images = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_rgb(images), model.encode_rgb(images), atol=1e-3, rtol=1e-2)


def _without_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors.popitem()
    save_file(tensors, path, metadata)


def _of_another_shape(path: Path) -> None:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    name = next(name for name, value in tensors.items() if value.ndim == 4)
    tensors[name] = tensors[name][:1].contiguous()
    save_file(tensors, path, metadata)


def _without_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def _nested_spec(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata | {"spec": "[" * 100_000})


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_a_tensor, "does not fit its own spec: 1 missing"),
        (_of_another_shape, "does not fit its own spec: 1 of the wrong shape"),
        (_without_metadata, "not a geo4d model"),
        (_nested_spec, "does not describe a geo4d model"),
        (_cut_short, "not a safetensors file"),
        (Path.unlink, "There is no model at"),
    ],
)
def test_damaged_files_are_refused(damage, message: str, model: GeometryModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    damage(path)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_images_latents_shapes(model: GeometryModel) -> None:
    images = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        for name in ("rgb", *model.spec.image_names):
            latents = model.encode_images(name, images)
            assert latents.shape == (3, 4, 4, 6)
            assert model.decode_images(name, latents).shape == images.shape
        points, sigma = model.decode_points(latents)
    assert points.shape == images.shape
    assert sigma.shape == (3, 32, 48)
    assert (sigma > 0).all()


def test_denoiser_closes_over_the_condition(model: GeometryModel) -> None:
    generator = torch.Generator().manual_seed(0)
    unet_state = {key: value.clone() for key, value in model.unet.state_dict().items()}
    with torch.no_grad():
        for parameter in model.unet.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        x, condition = torch.randn(1, 16, 2, 4, 6, generator=generator), torch.randn(1, 4, 2, 4, 6, generator=generator)
        fps, t, features = torch.tensor([24.0]), torch.tensor([999]), torch.randn(1, 8, 2, 4, 6, generator=generator)
        out = model.denoiser(condition, fps, features=features)(x, t)
        assert torch.equal(out, model.unet_forward(x, condition, t, fps, None, None, features))
        assert not torch.allclose(out, model.denoiser(-condition, fps, features=features)(x, t))
        assert not torch.allclose(out, model.denoiser(condition, fps, features=-features)(x, t))
    model.unet.load_state_dict(unet_state)


def test_stored_context_reaches_the_network(tmp_path: Path) -> None:
    """The released model's context is a constant, kept with the weights (here at small widths)."""
    unet = {
        "model_channels": 64,
        "channel_mult": (1,),
        "num_res_blocks": 1,
        "attention_resolutions": (1,),
        "num_head_channels": 32,
    }
    spec = replace(
        PRESETS["geo4d"], unet={**unet, "context_dim": 16}, autoencoder=PRESETS["tiny"].autoencoder, base_size=(32, 48)
    )
    model = build_model(spec).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.unet.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        x, condition, t = (
            torch.randn(1, 16, 2, 4, 6, generator=generator),
            torch.zeros(1, 4, 2, 4, 6),
            torch.tensor([999]),
        )
        before = model.denoiser(condition, None)(x, t)
        model.get_buffer("context").normal_(generator=generator)
        after = model.denoiser(condition, None)(x, t)
        assert not torch.allclose(before, after, atol=1e-4)
        save_model(model, tmp_path / "m.safetensors", dtype=torch.float32)
        assert torch.equal(load_model(tmp_path / "m.safetensors").denoiser(condition, None)(x, t), after)


def test_small_model_fits_its_file_size() -> None:
    """60 MiB: the frame encoder's linear layers in 8 bits, the rest in half precision."""
    with torch.device("meta"):
        model = GeometryModel(PRESETS["small"])
    eight_bit = eight_bit_names(model)
    assert len(eight_bit) == 12 * 6
    sizes = {name: value.numel() * (1 if name in eight_bit else 2) for name, value in model.state_dict().items()}
    assert sum(sizes.values()) < 60 * 2**20


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_sizes_fit_the_networks(name: str) -> None:
    spec = PRESETS[name]
    assert all(side % 8 == 0 for size in (spec.base_size, *spec.sizes) for side in size)
    read = spec.latent_channels * (len(spec.image_names) + 1) + spec.feature_channels
    assert spec.unet["in_channels"] == read
    assert spec.unet["out_channels"] == spec.latent_channels * len(spec.image_names)


def test_parts_that_do_not_fit_are_refused() -> None:
    tiny = PRESETS["tiny"]
    for changed in (
        {"encoder": {}},
        {"image_names": ("points",)},
        {"autoencoder": {**tiny.autoencoder, "latent_channels": 8}},
    ):
        with pytest.raises(ConfigError, match="reads 28 channels and writes 16; its latents and features are"):
            build_model(replace(tiny, **changed))
