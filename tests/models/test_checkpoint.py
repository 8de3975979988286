"""Released files: every name accounted for, every layout read, the whole chain to the recorded numbers, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import CLIP, PARTS, RESAMPLER, SPEC, UNET, keys, load, manifest, noise, weights, whole_model, whole_vae

from geo4d.diffusion.sampler import ddim
from geo4d.diffusion.schedule import make_schedule
from geo4d.errors import CheckpointError, ConfigError
from geo4d.models.checkpoint import ReleasedModule, load_part, load_released, read_released, save_released
from geo4d.models.conditioner import Conditioner
from geo4d.models.geometry_model import GeometryModel
from geo4d.models.latents import SD_SCALE_FACTOR
from geo4d.models.presets import PRESETS
from geo4d.models.released import BUFFERS, PREFIXES

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """model.ckpt and vae.ckpt in the release's layout, at the vectors' widths."""
    folder = tmp_path_factory.mktemp("release")
    torch.save({"state_dict": whole_model()}, folder / "model.ckpt")
    torch.save({"state_dict": {**whole_vae(), "loss.logvar": torch.zeros(())}}, folder / "vae.ckpt")
    return folder / "model.ckpt", folder / "vae.ckpt"


def video() -> torch.Tensor:
    """The recipe's 16 frames (16, 3, 64, 128)."""
    y, x, t = torch.meshgrid(torch.arange(64.0), torch.arange(128.0), torch.arange(16.0), indexing="ij")
    waves = [
        torch.sin(y / 7 + x / 11 + t / 5),
        torch.cos(y / 13 - x / 9 + t / 3),
        torch.sin(x / 8) * torch.cos(y / 6 - t / 4),
    ]
    return torch.stack(waves).permute(3, 0, 1, 2)


def run_chain(model: GeometryModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Condition latents (16, 4, y, x) and the 11 output channels (16, 11, h, w) of the recipe's video."""
    with torch.no_grad():
        mean, std = model.encode_posterior(video())
        latents = mean + std * torch.from_numpy(noise("e2e.posterior", (16, 4, 8, 16)))
        denoise = model.denoiser(latents.transpose(0, 1)[None], torch.tensor([24.0]))
        start = torch.from_numpy(noise("e2e.xT", (1, 16, 16, 8, 16)))
        out = ddim(denoise, start, make_schedule(dynamic_rescale=True), steps=5, compat="released")[0].transpose(0, 1)
        points = model.point_decoder.decode_with_uncertainty((out[:, :4] / SD_SCALE_FACTOR).to(model.dtype)).float()
        rays, moments, disparity = (
            model.decode_images(model.spec.image_names[i // 4], out[:, i : i + 4]) for i in (4, 8, 12)
        )
    return latents, torch.cat([points, rays, moments, disparity.mean(dim=1, keepdim=True)], dim=1)


def test_video_to_images_is_the_released_chain(files: tuple[Path, Path]) -> None:
    """From a file in the release's layout: autoencoder, context, sampler and decoders, one after the other."""
    recorded = load("e2e")
    model = load_released(*files, spec=SPEC)
    latents, out = run_chain(model)
    np.testing.assert_allclose(latents.numpy(), recorded["z_cond"], atol=1e-4)
    np.testing.assert_allclose(model.get_buffer("context").numpy(), recorded["context"], atol=1e-4)
    np.testing.assert_allclose(out[[0, 9]].transpose(0, 1).numpy(), recorded["out_frames_0_9"][0], atol=1e-4)
    np.testing.assert_allclose(out.mean(dim=(2, 3)).T.numpy(), recorded["out_mean"], atol=1e-4)
    np.testing.assert_allclose(out.std(dim=(2, 3)).T.numpy(), recorded["out_std"], atol=1e-4)


def test_every_frame_may_have_image_tokens_of_its_own(files: tuple[Path, Path]) -> None:
    """The paper's conditioning; the constant one stays beside it."""
    recorded = load("e2e")
    model = load_released(*files, spec=SPEC, per_frame=True)
    with torch.no_grad():
        context = model.frame_context(model.image_tokens(video())[None])
        short = model.frame_context(model.image_tokens(video()[:3])[None])
    np.testing.assert_allclose(context.numpy(), recorded["context_if_cross_attention_true"], atol=1e-4)
    np.testing.assert_allclose(model.get_buffer("context").numpy(), recorded["context"], atol=1e-4)
    torch.testing.assert_close(short, context[:, : 77 + 3 * 16], atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match="stored without its image tower"):
        load_released(*files, spec=SPEC).image_tokens(video())


# every name, both ways


def full_places() -> list[ReleasedModule]:
    """Our full-size modules, without memory, and where they lie in the published model."""
    with torch.device("meta"):
        model, conditioner = GeometryModel(PRESETS["geo4d"]), Conditioner.from_spec({})
    modules = {"unet": model.unet, "autoencoder": model.autoencoder, **dict(conditioner.named_children())}
    return [ReleasedModule(module, part, PREFIXES[part]) for part, module in modules.items()]


def test_every_tensor_of_the_published_model_has_its_place() -> None:
    published = manifest("model")
    places = full_places()
    read = {key: shape for place in places for key, shape in place.shapes().items()}
    assert len(read) == sum(len(place.shapes()) for place in places)
    missing = {key for key in read if published.get(key) != read[key]}
    unread = {key for key in published if key not in read}
    known = {key for key in unread if key in BUFFERS or any(place.may_be_unread(key) for place in places)}
    assert not missing
    assert unread == known
    assert len(published) == 2554
    # all that is known not to be read: schedule, adaptors, the last text block, the projections, the image tower's text
    # half
    assert len(known) == 13 + 34 + 14 + 7
    for place in places:  # and every tensor of ours is read from somewhere, q, k and v from one
        own = place.module.state_dict()
        assert set(place.table) == set(own)
        assert {source.key for source in place.table.values()} == set(place.shapes())


def test_every_tensor_of_the_published_point_decoder_has_its_place() -> None:
    published = manifest("pointmap_vae")
    with torch.device("meta"):
        decoder = GeometryModel(PRESETS["geo4d"]).point_decoder
    place = ReleasedModule(decoder, "autoencoder", ignored=r"encoder\..+|quant_conv\..+")
    read = place.shapes()
    assert all(published[key] == shape for key, shape in read.items())
    assert all(place.may_be_unread(key) for key in published if key not in read)


def test_sizes_of_the_published_parts() -> None:
    """The numbers of values of compat 1."""
    sizes = {place.part: sum(int(np.prod(shape)) for shape in place.shapes().values()) for place in full_places()}
    assert sizes["unet"] == 1_438_924_112
    assert sizes["resampler"] == 48_787_456
    assert sizes["image_tower"] == 632_076_800 - 1280 * 1024  # without its projection


# layouts


def deepspeed(state: Tensors) -> Any:
    return {
        "module": {f"_forward_module.{key}": value for key, value in state.items()},
        "ds_version": "0.9",
        "global_steps": 3,
    }


def dynamicrafter_spelling(state: Tensors) -> Any:
    return {
        "state_dict": {key.replace("fps_embedding", "framestride_embed"): value for key, value in state.items()},
        "epoch": 1,
    }


def bare(state: Tensors) -> Any:
    return state


@pytest.mark.parametrize("layout", [deepspeed, dynamicrafter_spelling, bare])
def test_every_layout_gives_the_same_tensors(layout: Callable[[Tensors], Any], tmp_path: Path) -> None:
    state = {
        key: whole_model()[key] for key in keys("latent_visual_diffusion") if "fps_embedding" in key or "adaptor" in key
    }
    torch.save(layout(state), tmp_path / "model.ckpt")
    loaded = read_released(tmp_path / "model.ckpt")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_the_old_file_format_is_read_too(files: tuple[Path, Path], tmp_path: Path) -> None:
    torch.save({"state_dict": whole_vae()}, tmp_path / "vae.ckpt", _use_new_zipfile_serialization=False)
    model = load_released(files[0], tmp_path / "vae.ckpt", spec=SPEC)
    assert torch.equal(
        model.point_decoder.decoder.conv_in.weight,
        load_released(*files, spec=SPEC).point_decoder.decoder.conv_in.weight,
    )


def test_half_precision_files_and_results(files: tuple[Path, Path], tmp_path: Path) -> None:
    torch.save({"state_dict": {key: value.half() for key, value in whole_model().items()}}, tmp_path / "model.ckpt")
    model = load_released(tmp_path / "model.ckpt", files[1], spec=SPEC, dtype=torch.bfloat16)
    assert model.dtype == model.point_decoder.dtype == torch.bfloat16
    assert model.get_buffer("context").dtype == model.normalizer.std("rgb").dtype == torch.float32
    np.testing.assert_allclose(model.get_buffer("context").numpy(), load("e2e")["context"], atol=5e-3)
    _, out = run_chain(model)
    exact = load("e2e")["out_frames_0_9"][0].transpose(1, 0, 2, 3)
    assert (out[[0, 9]] - torch.from_numpy(exact)).abs().mean() < 0.06 * np.abs(exact).mean()


def test_without_a_point_decoder_sigma_is_one(files: tuple[Path, Path]) -> None:
    model = load_released(files[0], spec=SPEC)
    latents = torch.from_numpy(noise("some", (1, 4, 8, 16)))
    with torch.no_grad():
        points, sigma = model.decode_points(latents)
        assert torch.equal(points, model.decode_images("points", latents))
    assert (sigma == 1).all()


# refusals


def changed(change: Callable[[Tensors], Any]) -> Tensors:
    state = dict(whole_model())
    change(state)
    return state


REFUSED: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "missing": (
        lambda s: s.pop("first_stage_model.quant_conv.bias"),
        r"1 missing \(first_stage_model\.quant_conv\.bias\)",
    ),
    "left over": (lambda s: s.update({"embedder.extra": torch.zeros(1)}), r"1 left over \(embedder\.extra\)"),
    "wrong shape": (
        lambda s: s.update({"image_proj_model.latents": torch.zeros(1, 8, 64)}),
        r"1 of the wrong shape \(image_proj_model\.latents \[1, 8, 64\] instead of \[1, 256, 64\]\)",
    ),
    "many": (
        lambda s: [s.pop(key) for key in keys("latent_visual_diffusion") if "init_attn" in key],
        r"missing \(.*, \.\.\.\)",
    ),
    "seems": (lambda s: [s.pop("betas"), s.pop("image_proj_model.latents")], "it seems to be Geo4D's model.ckpt"),
    "nan": (lambda s: s.update({"model.diffusion_model.out.2.bias": torch.full((16,), torch.nan)}), "not finite"),
    "inf": (lambda s: s.update({"first_stage_model.quant_conv.bias": torch.full((8,), torch.inf)}), "not finite"),
    "integers": (
        lambda s: s.update({"model.diffusion_model.out.2.bias": torch.zeros(16, dtype=torch.int64)}),
        "expected plain floating",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named(name: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    change, message = REFUSED[name]
    torch.save({"state_dict": changed(change)}, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=message):
        load_released(tmp_path / "model.ckpt", files[1], spec=SPEC)


def test_files_in_each_others_place_are_recognised(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"seems to be Geo4D's vae\.ckpt"):
        load_released(files[1])
    with pytest.raises(CheckpointError, match=r"seems to be Geo4D's model\.ckpt"):
        load_released(files[0], files[0], spec=SPEC)
    torch.save(
        {"state_dict": {f"model.visual.resblocks.{i}": torch.zeros(1) for i in range(3)}}, tmp_path / "clip.ckpt"
    )
    with pytest.raises(CheckpointError, match="seems to be a CLIP model"):
        load_released(tmp_path / "clip.ckpt")
    shapes = {"input_blocks.0.0.weight": (320, 4, 3, 3), "out.2.weight": (4, 320, 3, 3)}
    torch.save(
        {"state_dict": {f"model.diffusion_model.{k}": torch.zeros(v) for k, v in shapes.items()}}, tmp_path / "sd.ckpt"
    )
    with pytest.raises(CheckpointError, match="seems to be an image diffusion model without temporal layers"):
        load_released(tmp_path / "sd.ckpt")
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        load_released(tmp_path / "none.ckpt")


# single parts


@pytest.mark.parametrize("part", PARTS)
def test_parts_are_ready_to_use(part: str) -> None:
    config, listed = PARTS[part]
    module = load_part(part, config, weights(keys(listed)))
    assert not module.training
    assert not any(value.is_meta for value in [*module.parameters(), *module.buffers()])


def test_a_part_does_not_share_memory_with_its_source() -> None:
    state = weights(keys("resampler"))
    module = load_part("resampler", RESAMPLER, state)
    state["latents"].zero_()
    assert module.get_parameter("latents").any()


def test_wrong_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="no part 'vae'"):
        load_part("vae", {}, {})
    with pytest.raises(CheckpointError, match=r"The resampler's tensors do not fit the resampler: 29 missing"):
        load_part("resampler", RESAMPLER, {})
    with pytest.raises(ConfigError, match="does not have the released names"):
        load_part("resampler", {"width": 3}, {})
    with pytest.raises(ConfigError, match="lacks 'text_cfg'"):
        load_part("text_tower", {}, {})
    with pytest.raises(CheckpointError, match="1 left over"):
        load_part("text_tower", CLIP, {**weights(keys("clip_text")), "model.more": torch.zeros(1)})
    with pytest.raises(ConfigError, match="plain temporal self-attention"):
        load_part("unet", {**UNET, "use_causal_attention": True}, {})


# back to the released layout


def test_to_the_released_layout_and_back(files: tuple[Path, Path], tmp_path: Path) -> None:
    """As after training: the networks have changed, the towers have not."""
    model = load_released(*files, spec=SPEC)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    save_released(model, tmp_path / "r", base=files[0])
    tmp_path = tmp_path / "r"
    published = {**keys("latent_visual_diffusion")}
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert {key: list(value.shape) for key, value in content["state_dict"].items()} == published
    decoder = torch.load(tmp_path / "vae.ckpt", weights_only=True)["state_dict"]
    assert {key: list(value.shape) for key, value in decoder.items()} == {
        f"model.{key}": shape for key, shape in keys("vae").items()
    }
    again = load_released(tmp_path / "model.ckpt", tmp_path / "vae.ckpt", spec=SPEC)
    for (name, one), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert torch.equal(run_chain(model)[1], run_chain(again)[1])


def test_another_base_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = {key: value * 1.5 if key.startswith("image_proj_model") else value for key, value in whole_model().items()}
    torch.save({"state_dict": other}, tmp_path / "base.ckpt")
    with pytest.raises(CheckpointError, match="gives other context tokens"):
        save_released(load_released(*files, spec=SPEC), tmp_path / "out", base=tmp_path / "base.ckpt")
    assert not (tmp_path / "out").exists()


def test_a_model_may_start_from_dynamicrafter(tmp_path: Path) -> None:
    """Its file has no adaptors, 8 input and 4 output channels, and another spelling."""
    first, last = "model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2."
    state = {
        key.replace("fps_embedding", "framestride_embed"): v for key, v in whole_model().items() if "adaptor" not in key
    }
    state[first] = state[first][:, :8]
    state |= {last + kind: state[last + kind][:4] for kind in ("weight", "bias")}
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    spec = replace(
        SPEC,
        name="dynamicrafter",
        unet={**SPEC.unet, "in_channels": 8, "out_channels": 4},
        modalities=(),
        image_names=("video",),
    )
    model = load_released(tmp_path / "model.ckpt", spec=spec)
    assert model.unet.config.in_channels == 8
    with pytest.raises(CheckpointError, match=r"3 of the wrong shape .* it seems to be DynamiCrafter's model\.ckpt"):
        load_released(tmp_path / "model.ckpt", spec=SPEC)
