"""The pool of a model with a frame encoder: features beside the latents, and pools of other encoders refused."""

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from geo4d.errors import ConfigError, InputError
from geo4d.models.geometry_model import build_model
from geo4d.models.presets import PRESETS
from geo4d.models.storage import load_model, save_model
from geo4d.training.autoencoder import fit_encoder
from geo4d.training.config import Length, StageConfig
from geo4d.training.latents import EncodeJob, LatentPool, encode_batch, fill_pool, latents_of
from geo4d.training.sources import Place, ProceduralSource, Size, rgb_images
from geo4d.training.start import fit_statistics, layout_of, starting_model

SOURCE, LENGTH = ProceduralSource([Size(32, 48)], 7), Length(2, 3)


@pytest.fixture(scope="module")
def model():
    model = build_model(PRESETS["tiny"]).eval()
    fit_encoder(model.frame_encoder, rgb_images(SOURCE.batch(Place(9), Length(2, 8)).clip).flatten(0, 1), seed=0)
    return model


@pytest.fixture(scope="module")
def pool(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pool")
    fill_pool(EncodeJob(directory, [LENGTH], 2), SOURCE, model, layout_of(model))
    return directory


def test_features_lie_beside_the_latents(model, pool):
    batch = SOURCE.batch(Place(1), LENGTH)
    expected = model.encode_features(rgb_images(batch.clip).flatten(0, 1)).unflatten(0, (3, 2)).movedim(1, 2)
    assert torch.equal(encode_batch(model, layout_of(model), batch)["features"], expected)
    stored = load_file(pool / "32x48x2_000001.safetensors")
    assert stored["features"].shape == (3, 8, 2, 4, 6) and torch.equal(stored["features"], expected.half())
    assert stored["rgb"].shape == stored["points"].shape == (3, 4, 2, 4, 6)


def test_a_draw_brings_the_features_of_its_clips(pool):
    shards = [load_file(path) for path in sorted(pool.glob("*.safetensors"))]
    drawn = LatentPool(pool).draw(Place(0), seed=0, frames=8, clip_frames=2)
    assert drawn["features"].shape == (4, 8, 2, 4, 6) and drawn["features"].dtype == torch.float32
    clips = {tuple(rgb.flatten().tolist()): f for s in shards for rgb, f in zip(s["rgb"], s["features"], strict=True)}
    for rgb, features in zip(drawn["rgb"], drawn["features"], strict=True):
        assert torch.equal(clips[tuple(rgb.half().flatten().tolist())].float(), features)


def test_statistics_are_of_latents_alone(model, pool):
    own = copy.deepcopy(model)
    assert fit_statistics(own, LatentPool(pool)) == ["rgb", *own.spec.image_names]
    assert "features" not in LatentPool(pool).sample((32, 48), 1)


def test_a_pool_of_another_encoder_is_refused(model, pool, tmp_path):
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    LatentPool(pool).check(latents_of(again))
    again.frame_encoder.projection[0, 0] += 1
    with pytest.raises(InputError, match="encoded by another autoencoder"):
        LatentPool(pool).check(latents_of(again))


def test_a_preset_with_an_encoder_must_be_told_where_its_weights_come_from(model, tmp_path):
    device = torch.device("cpu")
    with pytest.raises(ConfigError, match="set encoder=facebook/dinov2-small, a folder of it"):
        starting_model(StageConfig(preset="tiny"), device)
    save_model(model, tmp_path / "m.safetensors")
    started = starting_model(StageConfig(preset="tiny", encoder=str(tmp_path / "m.safetensors"), seed=3), device)
    random = starting_model(StageConfig(preset="tiny", encoder="random", seed=3), device)
    assert started.spec == replace(model.spec, uncertainty_blocks=0)
    own, other = (each.frame_encoder.network.encoder.layer[0].mlp.fc1.weight for each in (started, random))
    assert torch.equal(own, model.frame_encoder.network.encoder.layer[0].mlp.fc1.weight) and not torch.equal(own, other)
