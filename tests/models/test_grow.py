"""Growing: old weights bit for bit, old outputs unmoved, new ones silent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from parity import SPEC, noise

from geo4d.errors import ConfigError
from geo4d.modalities import ORDER, make_layout
from geo4d.models.geometry_model import GeometryModel, build_model
from geo4d.models.grow import FIRST, LAST, grow_model, grow_unet
from geo4d.models.presets import PRESETS

TINY = replace(PRESETS["tiny"], encoder={})
STAGES = [("points",), ("points", "rays"), ("points", "rays", "disparity")]


def shaken(model: GeometryModel) -> GeometryModel:
    """Weights that are nowhere zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def starting_points() -> dict[str, GeometryModel]:
    """DynamiCrafter's channels at the vectors' widths, and a small model of ours that knows points alone."""
    video = replace(
        SPEC,
        name="dynamicrafter",
        unet={**SPEC.unet, "in_channels": 8, "out_channels": 4},
        modalities=(),
        image_names=("video",),
        uncertainty_blocks=0,
    )
    tiny = TINY
    points = replace(
        tiny, unet={**tiny.unet, "in_channels": 8, "out_channels": 4}, modalities=("points",), image_names=("points",)
    )
    return {"dynamicrafter": shaken(build_model(video)), "tiny": shaken(build_model(points))}


def run(model: GeometryModel, x: torch.Tensor) -> torch.Tensor:
    frames = x.shape[2]
    condition = torch.from_numpy(noise("condition", (1, 4, frames, 8, 8)))
    with torch.no_grad():
        return model.denoiser(condition, torch.tensor([24.0]))(x, torch.tensor([700]))


@pytest.mark.parametrize("start", ["dynamicrafter", "tiny"])
def test_one_modality_after_the_other(start: str) -> None:
    model = starting_points()[start]
    inputs = torch.from_numpy(noise("x", (1, 16, 3, 8, 8)))
    before = run(model, inputs[:, :4])
    for names in STAGES if start == "dynamicrafter" else STAGES[1:]:
        images = make_layout(names).image_names
        grown = grow_model(model, names, images)
        old, new = model.unet.state_dict(), grown.unet.state_dict()
        for name, value in old.items():
            if name == FIRST or name in LAST:
                continue
            assert torch.equal(new[name], value), name
        channels = 4 * len(images)
        after = run(grown, inputs[:, :channels])
        assert after.shape[1] == channels
        # the first convolution sums more (zero) products, so it may round otherwise: 1e-5 of the outputs' size
        tolerance = 1e-5 * max(1.0, float(before.abs().max()))
        torch.testing.assert_close(after[:, : before.shape[1]], before, atol=tolerance, rtol=0)
        assert not after[:, before.shape[1] :].any()
        assert grown.spec.image_names == images
        assert grown.spec.modalities == names
        model = shaken_new_outputs(grown, before.shape[1])
        before = run(model, inputs[:, :channels])


def shaken_new_outputs(model: GeometryModel, first: int) -> GeometryModel:
    """As if the new images had been trained."""
    with torch.no_grad():
        model.unet.out[2].weight[first:] += 0.1
    return model


def test_an_image_may_come_between_others() -> None:
    """Points and disparity first, rays later: old channels move, their values do not."""
    tiny = TINY
    unet = {**tiny.unet, "in_channels": 12, "out_channels": 8}
    spec = replace(tiny, unet=unet, modalities=("points", "disparity"), image_names=("points", "disparity"))
    model = shaken(build_model(spec))
    grown = grow_model(model, ORDER, make_layout(ORDER).image_names)
    x = torch.from_numpy(noise("x", (1, 16, 3, 8, 8)))
    old_places = [*range(4), *range(12, 16)]
    before, after = run(model, x[:, old_places]), run(grown, x)
    torch.testing.assert_close(after[:, old_places], before, atol=1e-5, rtol=0)
    assert not after[:, 4:12].any()
    assert torch.equal(grown.unet.out[2].weight[12:], model.unet.out[2].weight[4:])


def test_latents_of_more_channels_grow_too() -> None:
    tiny, channels = TINY, 6
    unet = {**tiny.unet, "in_channels": 2 * channels, "out_channels": channels}
    wide = {**tiny.autoencoder, "latent_channels": channels}
    spec = replace(tiny, unet=unet, autoencoder=wide, modalities=("rays",), image_names=("ray_direction",))
    model = shaken(build_model(spec))
    grown = grow_model(model, ("points", "rays"), ("points", "ray_direction"))
    x, condition = torch.randn(1, 12, 2, 4, 4), torch.randn(1, channels, 2, 4, 4)
    with torch.no_grad():
        before = model.denoiser(condition, None)(x[:, channels:], torch.tensor([700]))
        after = grown.denoiser(condition, None)(x, torch.tensor([700]))
    torch.testing.assert_close(after[:, channels:], before, atol=1e-5 * float(before.abs().max()), rtol=0)
    assert not after[:, :channels].any()
    assert grown.decode_images("points", x[0, :channels].movedim(1, 0)).shape == (2, 3, 32, 32)


def test_new_weights_learn_and_old_ones_may_too() -> None:
    grown = grow_model(starting_points()["tiny"], ORDER, make_layout(ORDER).image_names)
    x = torch.from_numpy(noise("x", (1, 16, 3, 8, 8)))
    condition = torch.from_numpy(noise("condition", (1, 4, 3, 8, 8)))
    grown.unet_forward(x, condition, torch.tensor([700]), torch.tensor([24.0]), None).sub(1).square().mean().backward()
    first, last = grown.unet.input_blocks[0][0].weight.grad, grown.unet.out[2].weight.grad
    assert first is not None and first[:, :16].abs().amax(dim=(0, 2, 3)).gt(0).all()
    assert last is not None and last.abs().amax(dim=(1, 2, 3)).gt(0).all()


def test_statistics_of_old_images_are_kept() -> None:
    model = starting_points()["tiny"]
    model.normalizer.std("points").fill_(3.0)
    grown = grow_model(model, ORDER, make_layout(ORDER).image_names)
    assert (grown.normalizer.std("points") == 3).all()
    assert (grown.normalizer.std("disparity") == 1 / torch.tensor(0.18215)).all()


def test_nothing_may_be_lost() -> None:
    unet = starting_points()["tiny"].unet
    for slots in ([], [None], [0, 0], [1]):
        with pytest.raises(ConfigError, match="keeps each of the 1 old images once"):
            grow_unet(unet, slots)
