"""The frame encoder: its grid, its fit, its storage in 8 bits, where its weights come from, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from geo4d.errors import CheckpointError, ConfigError
from geo4d.models.eight_bit import dequantise, quantise, rounded
from geo4d.models.encoders import DinoEncoder, build_encoder
from geo4d.models.geometry_model import GeometryModel, build_model
from geo4d.models.grow import grow_model
from geo4d.models.presets import PRESETS
from geo4d.models.pretrained import load_encoder
from geo4d.models.storage import load_model, save_folder, save_model

TINY = PRESETS["tiny"]
SHAPE = {"hidden_size": 16, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 56, "patch_size": 14}


def frames(count: int, height: int = 32, width: int = 48, seed: int = 0) -> torch.Tensor:
    """Smooth in part, so that resizing keeps something."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, height // 8, width // 8, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


@pytest.fixture(scope="module")
def encoder() -> DinoEncoder:
    """Random weights, fitted to frames of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = build_encoder(TINY.encoder)
        for parameter in encoder.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    encoder.round_weights()
    encoder.fit(encoder.hidden_states(frames(64)).flatten(0, 1))
    return encoder


@pytest.fixture(scope="module")
def model(encoder: DinoEncoder) -> GeometryModel:
    model = build_model(TINY).eval()
    model.frame_encoder = copy.deepcopy(encoder)
    return model


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)


@pytest.mark.parametrize("size", [(32, 48), (40, 24), (8, 8)])
def test_one_feature_a_latent(encoder: DinoEncoder, size: tuple[int, int]) -> None:
    features = encoder(frames(2, *size))
    assert features.shape == (2, 8, size[0] // 8, size[1] // 8)
    assert features.dtype == torch.float32 and features.isfinite().all() and not features.requires_grad


def test_patches_lie_on_latents(in_float32: None) -> None:
    """Without attention and positions a patch of the network sees the pixels of one latent."""
    network = build_encoder(TINY.encoder)
    network.network.embeddings.position_embeddings.data.zero_()
    for layer in network.network.encoder.layer:
        layer.layer_scale1.lambda1.data.zero_()
    plain = frames(1)
    marked = plain.clone()
    marked[:, :, 10:14, 26:30] += 0.5  # within the latent at row 1, column 3
    moved = (network(marked) - network(plain)).abs().amax(dim=1)[0]
    assert moved[1, 3] > 0
    moved[1, 3] = 0
    assert not moved.any()


def test_frames_do_not_hear_of_one_another(encoder: DinoEncoder, in_float32: None) -> None:
    batch = frames(5)
    torch.testing.assert_close(encoder(batch)[3:4], encoder(batch[3:4]), atol=1e-4, rtol=1e-4)


def test_bfloat16_is_near_float32(encoder: DinoEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for supported in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        assert encoder.computing_dtype() == (torch.bfloat16 if supported else torch.float32)
        results.append(encoder(frames(4)))
    low, exact = results
    assert 0 < (low - exact).norm() < 0.05 * exact.norm()


def test_a_fit_gives_unit_components_that_know_nothing_of_each_other(encoder: DinoEncoder, in_float32: None) -> None:
    fresh = copy.deepcopy(encoder)
    states = fresh.hidden_states(frames(64)).flatten(0, 1)
    fresh.fit(states)
    features = fresh(frames(64)).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(8), atol=0.02, rtol=0)
    torch.testing.assert_close(features.T @ features / len(features), torch.eye(8), atol=0.03, rtol=0)
    with pytest.raises(ConfigError, match="at least as many hidden states; got 31"):
        fresh.fit(states[:31])


def test_it_neither_trains_nor_drops_anything(model: GeometryModel) -> None:
    own = copy.deepcopy(model).train()
    assert not own.frame_encoder.training and not own.frame_encoder.network.training
    assert not any(parameter.requires_grad for parameter in own.frame_encoder.parameters())


def test_eight_bits_hold_what_was_rounded_once() -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1e-9, 1e-4, 0.02, 1.0, 30.0, 0.0]
    ).unsqueeze(1)
    integers, scale = quantise(weight)
    assert integers.dtype == torch.int8 and scale.dtype == torch.float16 and not dequantise(integers, scale)[5].any()
    once = rounded(weight)
    assert ((once - weight).abs() <= 0.51 * scale.float()[:, None]).all()
    assert torch.equal(rounded(once), once)


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_stored_model_gives_the_same_features(model: GeometryModel, tmp_path: Path, whole_folder: bool) -> None:
    if whole_folder:
        save_folder(model, tmp_path / "m")
        loaded, stored = load_model(tmp_path / "m"), load_file(tmp_path / "m" / "model.safetensors")
    else:
        save_model(model, tmp_path / "m.safetensors", dtype=torch.float32)
        loaded, stored = load_model(tmp_path / "m.safetensors"), load_file(tmp_path / "m.safetensors")
    query = "frame_encoder.network.encoder.layer.0.attention.attention.query"
    assert stored[f"{query}.weight.int8"].dtype == torch.int8 and stored[f"{query}.weight.int8"].shape == (16, 16)
    assert stored[f"{query}.weight.scale"].dtype == torch.float16 and stored[f"{query}.weight.scale"].shape == (16,)
    assert f"{query}.weight" not in stored and stored[f"{query}.bias"].dtype == torch.float32
    assert loaded.spec == model.spec and not any(p.requires_grad for p in loaded.frame_encoder.parameters())
    assert torch.equal(loaded.encode_features(frames(2)), model.encode_features(frames(2)))


def test_weights_that_are_not_in_8_bits_are_taken_too(model: GeometryModel, tmp_path: Path) -> None:
    save_folder(model, tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    tensors = load_file(path)
    for name in [name.removesuffix(".int8") for name in tensors if name.endswith(".int8")]:
        tensors[name] = dequantise(tensors.pop(f"{name}.int8"), tensors.pop(f"{name}.scale"))
    save_file(tensors, path)
    assert torch.equal(load_model(tmp_path / "m").encode_features(frames(1)), model.encode_features(frames(1)))


WEIGHT = "frame_encoder.network.encoder.layer.1.mlp.fc1.weight"


def _no_scale(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[f"{WEIGHT}.scale"]


def _short_scale(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{WEIGHT}.scale"] = tensors[f"{WEIGHT}.scale"][:3].clone()


def _wide(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{WEIGHT}.int8"] = tensors[f"{WEIGHT}.int8"].repeat(1, 2)


def _other_dtype(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{WEIGHT}.int8"] = tensors[f"{WEIGHT}.int8"].to(torch.int32)


def _infinite(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{WEIGHT}.scale"] = torch.full_like(tensors[f"{WEIGHT}.scale"], torch.inf)


def _twice(tensors: dict[str, torch.Tensor]) -> None:
    tensors[WEIGHT] = tensors[f"{WEIGHT}.int8"].float()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_scale, "1 missing .*left over"),
        (_short_scale, "1 missing .*left over"),
        (_wide, "32, 32. instead of .32, 16"),
        (_other_dtype, "torch.int32 with scales of torch.float16, expected int8 and float16"),
        (_infinite, "not finite"),
        (_twice, "left over"),
    ],
)
def test_broken_parts_are_refused(
    model: GeometryModel, tmp_path: Path, spoil: Callable[..., None], message: str
) -> None:
    save_folder(model, tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    tensors = load_file(path)
    spoil(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "clip"}, "described by kind"),
        ({"size": 3}, "described by kind"),
        ({"layers": ()}, "count from 1"),
        ({"layers": (0, 2)}, "count from 1"),
        ({"layers": (2, 10**9)}, "count from 1"),
        ({"layers": "12"}, "count from 1"),
        ({"channels": 2.5}, "count from 1"),
        ({"channels": 33}, "give 32 channels; got 33"),
        ({"config": {**SHAPE, "hidden": 4}}, "no setting 'hidden'"),
    ],
)
def test_what_is_no_encoder_is_said(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_encoder({**TINY.encoder, **changed})


def test_a_model_says_whether_it_needs_features(model: GeometryModel) -> None:
    x, condition, t = torch.zeros(1, 16, 2, 4, 6), torch.zeros(1, 4, 2, 4, 6), torch.tensor([999])
    with pytest.raises(ConfigError, match=r"needs the features of the frames .*got none"):
        model.denoiser(condition, None)(x, t)
    plain = build_model(replace(TINY, encoder={}, unet={**TINY.unet, "in_channels": 20}))
    assert not any(name.startswith("frame_encoder") for name in plain.state_dict())
    with pytest.raises(ConfigError, match="reads no features; got some"):
        plain.denoiser(condition, None, features=torch.zeros(1, 8, 2, 4, 6))(x, t)
    with pytest.raises(ConfigError, match="has no frame encoder"):
        plain.encode_features(frames(1))
    assert plain.encode_windows(frames(4).unflatten(0, (2, 2)))[1] is None
    condition, features = model.encode_windows(frames(4).unflatten(0, (2, 2)))
    assert features is not None and torch.equal(features[1, :, 0], model.encode_features(frames(4))[2])


def test_growing_keeps_the_encoder(model: GeometryModel) -> None:
    spec = replace(
        TINY, modalities=("points",), image_names=("points",), unet={**TINY.unet, "in_channels": 16, "out_channels": 4}
    )
    old = build_model(spec).eval()
    old.frame_encoder = model.frame_encoder
    with torch.no_grad():
        old.unet.out[2].weight.normal_(generator=torch.Generator().manual_seed(0))
    grown = grow_model(old, TINY.modalities, TINY.image_names)
    condition, features = grown.encode_windows(frames(2)[None])
    x = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = old.denoiser(condition, None, features=features)(x[:, :4], torch.tensor([500]))
        after = grown.denoiser(condition, None, features=features)(x, torch.tensor([500]))
    torch.testing.assert_close(after[:, :4], before, atol=1e-4, rtol=1e-4)


def published(folder: Path, **changed: Any) -> Any:
    """A folder as transformers writes it, of a network with one layer more than is read; and the network."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    network = Dinov2Model(Dinov2Config(**{**SHAPE, "num_hidden_layers": 3, **changed})).eval()
    network.save_pretrained(folder)
    return network


def test_weights_come_from_a_published_folder(tmp_path: Path, in_float32: None) -> None:
    network = published(tmp_path / "dino")
    encoder = load_encoder(tmp_path / "dino", TINY.encoder)
    pixels = torch.nn.functional.interpolate(frames(2), size=(56, 84), mode="bicubic", antialias=True)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    with torch.no_grad():
        hidden = network(((pixels + 1) / 2 - mean) / std, output_hidden_states=True).hidden_states
    expected = torch.cat([hidden[1][:, 1:], hidden[2][:, 1:]], dim=-1)
    states = encoder.hidden_states(frames(2))
    assert states.shape == expected.shape == (2, 24, 32)
    assert (states - expected).norm() < 0.02 * expected.norm()  # 8 bits


def test_weights_come_from_a_model_of_ours(model: GeometryModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "m.safetensors")
    save_folder(model, tmp_path / "m")
    for source in (tmp_path / "m.safetensors", tmp_path / "m"):
        encoder = load_encoder(source, TINY.encoder)
        assert all(
            torch.equal(value, own)
            for value, own in zip(
                encoder.network.state_dict().values(),
                load_model(source).frame_encoder.network.state_dict().values(),
                strict=True,
            )
        )
    with pytest.raises(CheckpointError, match="give one of that shape"):
        load_encoder(tmp_path / "m", {**TINY.encoder, "layers": (1,)})


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    published(tmp_path / "wide", hidden_size=32)
    with pytest.raises(CheckpointError, match="has hidden_size 32, expected 16"):
        load_encoder(tmp_path / "wide", TINY.encoder)
    published(tmp_path / "shallow", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"missing .*encoder\.layer\.1"):
        load_encoder(tmp_path / "shallow", TINY.encoder)
    published(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    with pytest.raises(CheckpointError, match="type 'vit', expected 'dinov2'"):
        load_encoder(tmp_path / "other", TINY.encoder)
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    (tmp_path / "other" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_encoder(tmp_path / "other", TINY.encoder)
    save_folder(build_model(replace(TINY, encoder={}, unet={**TINY.unet, "in_channels": 20})), tmp_path / "plain")
    with pytest.raises(CheckpointError, match="has no frame encoder"):
        load_encoder(tmp_path / "plain", TINY.encoder)
    with pytest.raises(CheckpointError, match="There is no model"):
        load_encoder(tmp_path / "nowhere", TINY.encoder)
