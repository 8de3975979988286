"""The stages from nothing to a model that loads, on tiny numbers; a killed run goes on to the same weights."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from geo4d.errors import Geo4DError, InputError
from geo4d.models.storage import load_model
from geo4d.training.autoencoder import fit_pca, laplace_nll
from geo4d.training.clips import Bucket, render_shard
from geo4d.training.latents import LatentPool
from geo4d.training.loop import LoopConfig, TrainingLoop
from geo4d.training.stages import DataConfig, TrainConfig, Trainer, UnetConfig

QUICK = LoopConfig(steps=6, warmup_steps=2, log_every=2, checkpoint_minutes=1e-9, ema_every=1)


def config(folder, **changes):
    data = DataConfig(buckets=[Bucket(32, 48, 2, 8, 0.5), Bucket(32, 48, 4, 4, 0.5)], autoencoder_shards=1, shards=6)
    unet = UnetConfig(loop=QUICK, batch_frames=8, long_frames=4, minimum_frames=16)
    base = TrainConfig(preset="tiny", out=str(folder), device="cpu", data=data, autoencoder=QUICK, unet=unet, points=QUICK)
    return dataclasses.replace(base, **changes)


@pytest.fixture
def quick_validation(monkeypatch):
    monkeypatch.setattr("geo4d.training.stages.make_validator", lambda *parts: lambda: {"abs_rel_points": 1.0})


def test_all_stages_give_a_model_that_loads(tmp_path, quick_validation):
    Trainer(config(tmp_path)).run()
    model = load_model(tmp_path / "tiny.safetensors")
    assert model.spec.name == "tiny"
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {entry["stage"] for entry in log} == {"autoencoder", "unet", "points"}
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    assert (model.decode_images("rgb", model.encode_rgb(images)) - images).abs().mean() < 0.7
    assert model.normalizer.std("points").max() != 1 / 0.18215


def test_a_stage_that_needs_an_earlier_one_says_so(tmp_path):
    with pytest.raises(InputError, match="autoencoder has not been run"):
        Trainer(config(tmp_path, stages=("encode",))).run()


def loop_in(folder, steps, seed=0, **changes):
    torch.manual_seed(seed)
    return TrainingLoop("s", nn.Linear(3, 2), dataclasses.replace(QUICK, steps=steps, **changes), folder, torch.device("cpu"))


def regression(module, fail_from=10**9):
    def loss(step):
        x = torch.from_numpy(np.random.default_rng(step).normal(size=(16, 3))).float()
        value = (module(x) - x[:, :2]).square().mean()
        return (value * torch.nan if step >= fail_from else value), {}

    return loss


def test_resumed_training_equals_uninterrupted(tmp_path):
    whole = loop_in(tmp_path / "a", 12)
    whole.run(regression(whole.module))

    class Killed(Exception):
        pass

    def until_seven(module):
        inner = regression(module)

        def loss(step):
            if step == 7:
                raise Killed
            return inner(step)

        return loss

    first = loop_in(tmp_path / "b", 12)
    with pytest.raises(Killed):
        first.run(until_seven(first.module))
    second = loop_in(tmp_path / "b", 12, seed=5)
    assert second.step == 7
    second.run(regression(second.module))
    for a, b in zip(whole.module.state_dict().values(), second.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_training_learns(tmp_path):
    loop = loop_in(tmp_path, 600, checkpoint_minutes=3.0)
    before = regression(loop.module)(1000)[0].item()
    loop.run(regression(loop.module))
    assert regression(loop.module)(1000)[0].item() < 0.5 * before


def test_losses_that_are_not_finite_stop_the_run(tmp_path):
    loop = loop_in(tmp_path, 100)
    with pytest.raises(Geo4DError, match="not finite 20 times"):
        loop.run(regression(loop.module, fail_from=3))


def test_pca_keeps_what_varies():
    images = torch.randn(20, 3, 1, 1).expand(20, 3, 16, 16)
    mean, basis = fit_pca(images, components=3)
    patch = images[0, :, :8, :8].flatten()
    torch.testing.assert_close(mean + basis.T @ (basis @ (patch - mean)), patch, atol=1e-4, rtol=1e-3)


def test_laplace_likelihood_is_least_at_the_true_scale():
    error = torch.distributions.Laplace(0.0, 1.0).sample((1, 1, 60, 60))
    target = torch.cat([error, torch.zeros(1, 2, 60, 60)], dim=1)

    def nll(sigma):
        logit = torch.full((1, 1, 60, 60), float(np.log(np.expm1(sigma))))
        return laplace_nll(torch.cat([torch.zeros(1, 3, 60, 60), logit], dim=1), target)[0].mean()

    best = 2**0.5 * float(error.abs().mean())
    assert nll(best) < nll(best * 1.2) and nll(best) < nll(best / 1.2)


def test_shards_are_always_the_same(tmp_path):
    bucket = Bucket(16, 24, 2, 4, 1.0)
    first, second = render_shard(bucket, 2, 5), render_shard(bucket, 2, 5)
    assert torch.equal(first.clip.depth, second.clip.depth) and torch.equal(first.frame_index, second.frame_index)
    assert (first.frame_index[:, 1] >= 1).all() and (first.frame_index[:, 1] <= 15).all()


def test_an_empty_pool_says_so(tmp_path):
    pool = LatentPool(tmp_path)
    assert pool.refresh() == 0
    with pytest.raises(InputError, match="no clips of 2 frames"):
        pool.draw(np.random.default_rng(0), frames=4, clip_frames=2)
