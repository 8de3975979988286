"""The U-Net: released names and numbers, and the laws of its own options."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import keys, load, manifest, noise, weights

from geo4d.errors import ConfigError
from geo4d.models.presets import PRESETS
from geo4d.models.unet import VideoUNet, sinusoid

RELEASED_SMALL = {
    "model_channels": 64,
    "num_head_channels": 32,
    "context_dim": 64,
}
# two channels a norm group: with one, the norms would remove the time embedding altogether
SMALL = {**PRESETS["tiny"].unet, "in_channels": 20, "model_channels": 64}


@pytest.fixture(scope="module")
def released() -> VideoUNet:
    """The released architecture at the reference vectors' widths and weights."""
    unet = VideoUNet(**RELEASED_SMALL).eval()
    shapes = {key: list(value.shape) for key, value in unet.state_dict().items()}
    unet.load_state_dict(weights(shapes))
    return unet


@pytest.fixture(scope="module")
def tiny() -> VideoUNet:
    """Our options at small widths, with weights that are nowhere zero."""
    unet = VideoUNet(**SMALL).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return unet


def clip(*, batch: int = 2, frames: int = 3, height: int = 4, width: int = 6) -> torch.Tensor:
    return torch.randn(batch, 20, frames, height, width, generator=torch.Generator().manual_seed(1))


def test_keys_and_shapes_are_the_released_ones() -> None:
    with torch.device("meta"):
        unet = VideoUNet(**RELEASED_SMALL)
    assert {key: list(value.shape) for key, value in unet.state_dict().items()} == keys("unet")


def test_keys_and_shapes_of_the_full_model_are_the_released_ones() -> None:
    prefix = "model.diffusion_model."
    expected = {key.removeprefix(prefix): shape for key, shape in manifest("model").items() if key.startswith(prefix)}
    with torch.device("meta"):
        unet = VideoUNet()
    assert {key: tuple(value.shape) for key, value in unet.state_dict().items()} == expected


def test_sinusoid_is_the_released_one() -> None:
    recorded = load("timestep_embedding")
    embedding = sinusoid(torch.from_numpy(recorded["t"]), int(recorded["dim"]))
    np.testing.assert_allclose(embedding.numpy(), recorded["emb"], atol=1e-4)


CASES = {
    "y_t599_fs24": ("unet.x", (1, 20, 16, 8, 16), "unet.context", (1, 333, 64), 599, 24),
    "y_t999_fs24": ("unet.x", (1, 20, 16, 8, 16), "unet.context", (1, 333, 64), 999, 24),
    "y_t599_fs10": ("unet.x", (1, 20, 16, 8, 16), "unet.context", (1, 333, 64), 599, 10),
    "y_t599_fsNone": ("unet.x", (1, 20, 16, 8, 16), "unet.context", (1, 333, 64), 599, None),
    "y_ctx93_t599_fs24": ("unet.x", (1, 20, 16, 8, 16), "unet.context2", (1, 93, 64), 599, 24),
    "y_8f_b2_t100_fs24": ("unet.x8", (2, 20, 8, 8, 8), "unet.context8", (2, 205, 64), 100, 24),
}


@pytest.mark.parametrize("name", CASES)
def test_output_is_the_released_one(name: str, released: VideoUNet) -> None:
    expected = load("unet")[name]
    x_tag, x_shape, context_tag, context_shape, t, fps = CASES[name]
    batch = x_shape[0]
    with torch.no_grad():
        out = released(
            torch.from_numpy(noise(x_tag, x_shape)),
            torch.full((batch,), t),
            torch.from_numpy(noise(context_tag, context_shape)),
            None if fps is None else torch.full((batch,), fps),
        ).numpy()
    assert np.abs(out - expected).max() < 1e-4


def fingerprint(x: torch.Tensor) -> np.ndarray:
    """Mean, spread, largest magnitude and the first five values."""
    flat = x.flatten()
    return torch.cat([torch.stack([flat.mean(), flat.std(), flat.abs().max()]), flat[:5]]).numpy()


def test_every_block_gives_what_the_released_one_gives(released: VideoUNet) -> None:
    recorded = load("unet_fingerprints")
    blocks = {
        **{f"input_blocks.{i}": block for i, block in enumerate(released.input_blocks)},
        "init_attn": released.init_attn,
    }
    blocks |= {
        "middle_block": released.middle_block,
        **{f"output_blocks.{i}": block for i, block in enumerate(released.output_blocks)},
    }
    seen: dict[str, np.ndarray] = {}
    handles = []
    for name, stage in blocks.items():  # a stage is a list of layers; what leaves it is its last layer's output
        handles.append(
            stage[-1].register_forward_hook(lambda _, __, out, name=name: seen.update({name: fingerprint(out)}))
        )
    for name in ("time_embed", "fps_embedding"):
        module = getattr(released, name)
        handles.append(
            module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: fingerprint(out)}))
        )
    inputs = [
        torch.from_numpy(noise("unet.x", (1, 20, 16, 8, 16))),
        torch.from_numpy(noise("unet.context", (1, 333, 64))),
    ]
    with torch.no_grad():
        released(inputs[0], torch.tensor([599]), inputs[1], torch.tensor([24]))
    for handle in handles:
        handle.remove()
    assert seen.keys() == recorded.keys()
    for name, expected in recorded.items():
        np.testing.assert_allclose(seen[name], expected, atol=1e-4 * max(1.0, np.abs(expected).max()), err_msg=name)


@pytest.mark.parametrize("frames", [1, 2, 5, 16])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (8, 4)])
def test_any_number_of_frames_and_any_grid(frames: int, height: int, width: int, tiny: VideoUNet) -> None:
    x = clip(batch=1, frames=frames, height=height, width=width)
    with torch.no_grad():
        out = tiny(x, torch.tensor([999]))
    assert out.shape == (1, 16, frames, height, width)
    assert out.isfinite().all()


def test_fresh_network_answers_zero() -> None:
    with torch.no_grad():
        assert not VideoUNet(**SMALL).eval()(clip(), torch.tensor([999, 3])).any()


def test_batch_rows_are_independent(tiny: VideoUNet) -> None:
    x, t, fps = clip(), torch.tensor([999, 100]), torch.tensor([24.0, 10.0])
    index = torch.tensor([[0, 1, 2], [0, 3, 6]])
    with torch.no_grad():
        together = tiny(x, t, None, fps, index)
        alone = [tiny(x[i : i + 1], t[i : i + 1], None, fps[i : i + 1], index[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changed", [0, 2])
def test_every_frame_sees_every_other(changed: int, tiny: VideoUNet) -> None:
    x = clip(batch=1)
    other = x.clone()
    other[:, :, changed] += 1
    with torch.no_grad():
        moved = (tiny(x, torch.tensor([500])) - tiny(other, torch.tensor([500]))).abs().amax(dim=(0, 1, 3, 4))
    assert (moved > 1e-5).all()


def test_frame_index_defaults_to_counting_and_matters(tiny: VideoUNet) -> None:
    x, t = clip(batch=1), torch.tensor([500])
    with torch.no_grad():
        default = tiny(x, t)
        assert torch.equal(default, tiny(x, t, None, None, torch.tensor([[0, 1, 2]])))
        assert not torch.allclose(default, tiny(x, t, None, None, torch.tensor([[0, 2, 4]])), atol=1e-4)


def test_time_and_rate_matter(tiny: VideoUNet) -> None:
    x = clip(batch=1)
    with torch.no_grad():
        base = tiny(x, torch.tensor([500]), None, torch.tensor([24.0]))
        assert torch.equal(base, tiny(x, torch.tensor([500])))
        assert not torch.allclose(base, tiny(x, torch.tensor([900]), None, torch.tensor([24.0])), atol=1e-4)
        assert not torch.allclose(base, tiny(x, torch.tensor([500]), None, torch.tensor([5.0])), atol=1e-4)


def test_coordinates_break_the_shift_symmetry(tiny: VideoUNet) -> None:
    x = torch.zeros(1, 20, 1, 4, 8)
    with torch.no_grad():
        out = tiny(x, torch.tensor([500]))[0, :, 0]
    assert (out[..., 3] - out[..., 4]).abs().max() > 1e-4


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for use_checkpoint in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            unet = VideoUNet(**{**SMALL, "use_checkpoint": use_checkpoint}).train()
        unet(clip(batch=1), torch.tensor([500])).sub(1).square().mean().backward()
        gradients.append(unet.out[2].weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_context_is_asked_for_where_none_is_learnt() -> None:
    unet = VideoUNet(**{**SMALL, "learned_context_tokens": 0})
    with pytest.raises(ConfigError, match="give it a context"):
        unet(clip(), torch.tensor([1, 2]))


@pytest.mark.parametrize(
    "option", [{"use_linear": False}, {"use_causal_attention": True}, {"use_relative_position": True}]
)
def test_what_it_does_not_build_is_refused(option: dict[str, bool]) -> None:
    with pytest.raises(ConfigError, match="plain temporal self-attention"):
        VideoUNet(**{**SMALL, **option})


@pytest.mark.parametrize(("height", "width"), [(5, 7), (1, 3), (6, 9)])
def test_grids_that_do_not_divide_keep_their_size(height: int, width: int) -> None:
    """Three levels: 5 x 7 is worked at 3 x 4 and 2 x 2 too, and every latent still hears of every other."""
    unet = VideoUNet(**{**SMALL, "channel_mult": (1, 1, 1)}).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    x = clip(batch=1, frames=2, height=height, width=width).requires_grad_()
    out = unet(x, torch.tensor([500]))
    assert out.shape == (1, 16, 2, height, width)
    out[..., 0, 0].sum().backward()
    assert x.grad is not None and x.grad.abs().amin(dim=(0, 1, 2)).min() > 0


def test_a_level_above_repeats_each_pixel_twice_where_it_can() -> None:
    from geo4d.models.blocks import Upsample

    layer, x = Upsample(3), torch.randn(2, 3, 3, 4)
    doubled = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    assert torch.equal(layer(x, (6, 8)), layer.conv(doubled))
    assert layer(x, (5, 7)).shape == (2, 3, 5, 7)


def test_a_frame_head_reads_each_frame_by_itself_and_begins_at_zero() -> None:
    """Its share of v is minus what it knows of x0; alone it hears of no other frame, noise or context."""
    torch.manual_seed(0)
    unet = VideoUNet(**{**PRESETS["tiny"].unet, "in_channels": 30, "out_channels": 16, "frame_head_width": 32}).eval()
    x, t = torch.randn(1, 30, 3, 4, 6), torch.tensor([999])
    assert not unet(x, t).any()
    with torch.no_grad():
        unet.frame_head.leave[2].weight.normal_(0, 0.1)
        both = unet(x, t)
        unet.is_head_alone = True
        alone = unet(x, t)
    torch.testing.assert_close(both, alone)  # what the U-Net itself writes begins at zero too
    other = x.clone()
    other[:, :16] += 1  # noise
    other[:, :, 1:] += 1  # other frames
    torch.testing.assert_close(unet(other, t)[:, :, 0], alone[:, :, 0])
    assert not torch.equal(unet(other, t)[:, :, 1], alone[:, :, 1])
    unet(x, t).square().sum().backward()
    assert unet.input_blocks[0][0].weight.grad is None and unet.frame_head.enter.weight.grad is not None
