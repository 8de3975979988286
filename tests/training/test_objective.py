"""The denoiser's loss: zero at the answer, weighted as told, and each option does what it says."""

from dataclasses import replace

import pytest
import torch

from geo4d.diffusion.schedule import make_schedule
from geo4d.modalities import make_layout
from geo4d.models.geometry_model import build_model
from geo4d.models.presets import PRESETS
from geo4d.training.config import ObjectiveConfig
from geo4d.training.diffusion import channel_weights, diffusion_loss
from geo4d.training.loop import Draw

LAYOUT, SCHEDULE = make_layout(normalization="asinh"), make_schedule(dynamic_rescale=False)


@pytest.fixture
def model():
    model = build_model(replace(PRESETS["tiny"], uncertainty_blocks=0)).eval()
    for index, name in enumerate(("rgb", *LAYOUT.image_names)):
        latents = (
            torch.randn(50, 4, 4, 6, generator=torch.Generator().manual_seed(index))
            * torch.tensor([4.0, 2, 1, 0.1])[:, None, None]
        )
        model.normalizer.fit(name, latents)
    return model


def batch(number=0, clips=6):
    generator = torch.Generator().manual_seed(100 + int(number))
    latents = {name: torch.randn(clips, 4, 2, 4, 6, generator=generator) for name in ("rgb", *LAYOUT.image_names)}
    latents["features"] = torch.randn(clips, 8, 2, 4, 6, generator=generator)
    return {**latents, "fps": torch.full((clips,), 24.0), "frame_index": torch.arange(2).repeat(clips, 1)}


def loss_of(model, forward=None, **settings):
    if forward is not None:
        model.unet_forward = forward
    return diffusion_loss(model, LAYOUT, SCHEDULE, ObjectiveConfig(**settings), batch)(Draw.at(3))


def answering(model, x0_of_batch=None):
    """A network that knows x0: v from it and from the input at every step."""
    x0 = LAYOUT.join({name: model.normalizer.normalize(name, batch(3)[name]) for name in LAYOUT.image_names})

    def forward(x_t, condition, t, fps, index, context=None, features=None):
        alpha = SCHEDULE.alphas_cumprod[t][:, None, None, None, None].float()
        noise = torch.where(alpha < 1, (x_t - alpha.sqrt() * x0) / (1 - alpha).clamp_min(1e-12).sqrt(), 0.0)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * x0

    return forward


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_answer_costs_nothing(model, share):
    value, numbers = loss_of(model, answering(model), zero_share=share, pixel_weight=1.0)
    assert value < 1e-5 and numbers["pixels"] < 1e-5
    assert all(numbers[f"x0_{name}"] < 1e-3 for name in LAYOUT.image_names)
    assert ("regression" in numbers) == (share > 0) and ("denoising" in numbers) == (share < 1)


def test_the_same_draw_gives_the_same_loss(model):
    assert torch.equal(loss_of(model, zero_share=0.5)[0], loss_of(model, zero_share=0.5)[0])


def test_images_weigh_as_told(model):
    def off(x_t, condition, t, fps, index, context=None, features=None):
        v = answering(model)(x_t, condition, t, fps, index)
        v[:, 12:] += 1.0  # disparity is wrong by one
        return v

    weighed = [
        loss_of(model, off, zero_share=1.0, image_weights={"disparity": weight})[0].item() for weight in (1.0, 3.0)
    ]
    assert weighed == pytest.approx([0.25, 0.75], rel=1e-4)
    squared = loss_of(model, off, zero_share=1.0, squared_images=("disparity",))[0]
    assert float(squared) == pytest.approx(0.25, rel=1e-4)
    assert loss_of(model, off, zero_share=1.0)[1]["x0_disparity"] == pytest.approx(1.0, rel=1e-4)


def test_channels_weigh_by_their_spread(model):
    assert torch.equal(channel_weights(model, LAYOUT, ObjectiveConfig()), torch.ones(16))
    weights = channel_weights(model, LAYOUT, ObjectiveConfig(channel_floor=0.15, image_weights={"points": 2.0}))
    torch.testing.assert_close(weights[:4], 2 * torch.tensor([1.0, 0.5, 0.25, 0.15]), rtol=0.1, atol=0)


def test_noisy_steps_lie_late(model):
    seen = {}

    def note(x_t, condition, t, fps, index, context=None, features=None):
        seen.setdefault(kind, []).append(t.float().mean())
        return torch.zeros_like(x_t)

    for kind in ("uniform", "noisy"):
        model.unet_forward = note
        loss = diffusion_loss(model, LAYOUT, SCHEDULE, ObjectiveConfig(timesteps=kind), batch)
        for number in range(40):
            loss(Draw.at(number))
    mean = {kind: float(torch.stack(values).mean()) for kind, values in seen.items()}
    assert mean == pytest.approx({"uniform": 499.5, "noisy": 666.0}, abs=35)


def test_pixels_reach_the_denoiser_and_nothing_else(model):
    value, _ = loss_of(model, zero_share=1.0, pixel_weight=1.0, pixel_frames=3)
    value.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.unet.parameters())
    assert all(p.grad is None for p in model.autoencoder.parameters())


def test_conditions_are_dropped(model):
    seen = []

    def note(x_t, condition, t, fps, index, context=None, features=None):
        seen.append((condition == 0).flatten(1).all(dim=1))
        assert torch.equal(seen[-1], (features == 0).flatten(1).all(dim=1))
        return torch.zeros_like(x_t)

    model.unet_forward = note
    loss = diffusion_loss(model, LAYOUT, SCHEDULE, ObjectiveConfig(drop_image=0.25), batch)
    for number in range(60):
        loss(Draw.at(number))
    assert float(torch.cat(seen).float().mean()) == pytest.approx(0.25, abs=0.08)


def test_text_tokens_are_dropped():
    spec = PRESETS["tiny"]
    unet = {**spec.unet, "learned_context_tokens": 0}
    model = build_model(replace(spec, unet=unet, uncertainty_blocks=0, context_tokens=77 + 256))
    model.get_buffer("context").fill_(1.0)
    seen = []

    def note(x_t, condition, t, fps, index, context=None, features=None):
        seen.append((context[:, :77].sum() / 77 / 8, (context[:, 77:] == 1).all(), context.shape[1]))
        return torch.zeros_like(x_t)

    model.unet_forward = note
    diffusion_loss(model, LAYOUT, SCHEDULE, ObjectiveConfig(drop_text=0.6, drop_both=0.4), batch)(Draw.at(0))
    assert seen == [(0.0, True, 77 + 16 * 2)]
    assert model.get_buffer("context").all()
