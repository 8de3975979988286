"""Stages from nothing to a model that reconstructs.

Killed ones go on to the same weights; what cannot be is said in a sentence.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trees import cut_short, write_tartanair

from geo4d.cli import main
from geo4d.config import load_config
from geo4d.diffusion.schedule import make_schedule
from geo4d.errors import ConfigError, InputError
from geo4d.evaluation.synthetic import SyntheticSet, error_ratio, render_true_clip
from geo4d.models.storage import load_model, save_folder
from geo4d.pipeline import Geo4D
from geo4d.training import stages as room
from geo4d.training import validation
from geo4d.training.config import StageConfig
from geo4d.training.latents import latents_of
from geo4d.training.recipe import DONE, SETTINGS, load_recipe, run_recipe, run_stage
from geo4d.training.start import layout_of, starting_model
from geo4d.training.validation import make_validator

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"
QUICK = ["loop.steps=6", "loop.warmup_steps=2", "loop.log_every=2", "loop.checkpoint_steps=2", "loop.tensorboard=false"]
QUICK += [
    "encoder=random",
    "validation.clips=0",
    "validation.quick_clips=2",
    "autoencoder.shards=1",
    "autoencoder.clips=8",
    "device=cpu",
]
QUICK += ["latents.shards=8", "data.lengths=[{frames: 2, clips: 4, share: 0.6}, {frames: 8, clips: 2, share: 0.4}]"]


def recipe(out, *words):
    return load_recipe([CONFIGS / "tiny"], [f"out={out}", *QUICK, *words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a whole run, of six steps a stage."""
    out = tmp_path_factory.mktemp("run")
    run_recipe(recipe(out))
    return out


def test_all_stages_give_a_model_that_reconstructs(finished):
    model = load_model(finished / "tiny.safetensors")
    assert (
        model.spec.name == "tiny"
        and model.spec.modalities == ("points", "rays", "disparity")
        and model.spec.uncertainty_blocks == 1
    )
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    assert (model.decode_images("rgb", model.encode_rgb(images)) - images).abs().mean() < 0.7
    assert model.normalizer.is_fitted("points") and model.normalizer.is_fitted("disparity")
    first = load_model(finished / "1_autoencoder" / "model").frame_encoder
    assert torch.equal(first.projection, model.frame_encoder.projection) and first.mean.any()
    # biases are exported in half precision
    torch.testing.assert_close(first(images), model.frame_encoder(images), atol=0.1, rtol=0.05)
    result = Geo4D(model).reconstruct(
        np.random.default_rng(0).integers(0, 255, (4, 32, 48, 3), dtype=np.uint8), tracks=False
    )
    assert result.depth.shape == (4, 32, 48)


def test_each_stage_logs_every_modality(finished):
    lines = [json.loads(line) for line in (finished / "7_disparity" / "log.jsonl").read_text().splitlines()]
    names = set().union(*lines)
    assert {
        "x0_points",
        "x0_ray_direction",
        "x0_ray_moment",
        "x0_disparity",
        "abs_rel_points",
        "abs_rel_disparity",
    } <= names
    assert {"ray_direction_deg", "ray_moment", "samples_per_second"} <= names


def test_a_stage_grows_the_model_of_the_last(finished):
    before, after = load_model(finished / "5_sizes" / "model"), load_model(finished / "6_rays" / "model")
    assert before.spec.modalities == ("points",) and after.spec.modalities == ("points", "rays")
    (config,) = load_recipe([CONFIGS / "tiny" / "6_rays.yaml"], [f"out={finished}"])
    grown = starting_model(config, torch.device("cpu")).eval()
    x, condition, t = torch.randn(1, 4, 2, 4, 6), torch.randn(1, 4, 2, 4, 6), torch.tensor([500])
    rest = torch.tensor([24.0]), torch.tensor([[0, 1]]), None, torch.randn(1, 8, 2, 4, 6)
    with torch.no_grad():
        old = before.unet_forward(x, condition, t, *rest)
        new = grown.unet_forward(torch.cat([x, torch.randn(1, 8, 2, 4, 6)], dim=1), condition, t, *rest)
    torch.testing.assert_close(new[:, :4], old, atol=1e-5, rtol=1e-4)
    assert not new[:, 4:].any()


def test_finished_stages_are_passed_over_and_others_refused(finished, monkeypatch):
    monkeypatch.setattr(room, "TrainingLoop", None)  # nothing may be trained
    run_recipe(recipe(finished))
    with pytest.raises(ConfigError, match="finished, with other settings of loop"):
        run_recipe(recipe(finished, "loop.learning_rate=0.5"))


def test_a_stage_goes_on_under_its_own_settings_alone(finished, tmp_path):
    config = replace(recipe(finished)[4], out=str(tmp_path), export=None)
    directory = tmp_path / config.name
    shutil.copytree(finished / config.name, directory)
    (directory / DONE).unlink()
    for name, value in (("seed", 5), ("start", str(finished / "6_rays" / "model"))):
        with pytest.raises(ConfigError, match=f"begun with other settings of {name}; restore them"):
            run_stage(replace(config, **{name: value}))
    quicker = replace(config, loop=replace(config.loop, learning_rate=1e-5), data=replace(config.data, readers=0))
    assert run_stage(quicker) == directory


def test_latents_of_another_autoencoder_are_refused(finished, tmp_path):
    shutil.copytree(finished / "2_latents", tmp_path / "2_latents")
    (tmp_path / "2_latents" / DONE).unlink()
    (tmp_path / "2_latents" / SETTINGS).unlink()
    model = load_model(finished / "1_autoencoder" / "model")
    with torch.no_grad():
        next(model.autoencoder.encoder.parameters()).mul_(1.5)
    save_folder(model, tmp_path / "other")
    pool = replace(recipe(finished)[1], out=str(tmp_path), start=str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"safetensors was encoded by another autoencoder"):
        run_stage(replace(pool, latents=replace(pool.latents, shards=9)))
    points = replace(recipe(finished)[3], out=str(tmp_path), start=str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"encoded by another autoencoder"):
        run_stage(points)


def test_a_decoder_tuned_alone_leaves_latents_as_they_are(finished, tmp_path):
    words = ["autoencoder.decoder_alone=true", f"start={finished / '7_disparity' / 'model'}", "preset=null"]
    words += ["encoder=null", "modalities=[points,rays,disparity]"]
    (config,) = load_recipe([CONFIGS / "tiny" / "1_autoencoder.yaml"], [f"out={tmp_path}", *QUICK, *words])
    before = load_model(finished / "7_disparity" / "model")
    after = load_model(run_stage(config) / "model")
    assert latents_of(after) == latents_of(before) and after.normalizer.is_fitted("disparity")
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    assert torch.equal(before.encode_rgb(images), after.encode_rgb(images))
    assert not torch.equal(*(m.decode_images("rgb", m.encode_rgb(images)) for m in (before, after)))
    with pytest.raises(ConfigError, match="set start"):
        run_stage(replace(config, name="new", start=None, preset="tiny", encoder="random"))


@pytest.mark.parametrize("frame_head", ["alone", "held"])
def test_the_frame_head_is_trained_alone_or_not_at_all(finished, tmp_path, frame_head):
    words = [
        f"out={tmp_path}",
        *QUICK,
        f"denoiser.frame_head={frame_head}",
        f"denoiser.latents={finished / '2_latents'}",
    ]
    words += [f"start={finished / '7_disparity' / 'model'}"]
    (config,) = load_recipe([CONFIGS / "tiny" / "7_disparity.yaml"], words)
    before = load_model(finished / "7_disparity" / "model").unet
    after = load_model(run_stage(config) / "model").unet
    frames = torch.randn(2, before.frame_head.enter.in_channels, 4, 6), torch.randn(2, 128)
    with torch.no_grad():
        same = torch.equal(before.frame_head(*frames), after.frame_head(*frames))
    assert same == (frame_head == "held")
    times = torch.equal(before.time_embed[0].weight, after.time_embed[0].weight)
    assert times == (frame_head == "held")
    entry = torch.equal(before.input_blocks[0][0].weight, after.input_blocks[0][0].weight)
    assert entry == (frame_head == "alone")


def test_recipes_ask_for_what_their_modules_can_do():
    for folder in ("tiny", "small", "geo4d"):
        for stage in load_recipe([CONFIGS / folder]):
            assert stage.kind == "denoiser" or not stage.loop.gradient_checkpointing, (folder, stage.name)


def test_quick_figures_do_not_depend_on_how_many_clips_go_at_once(finished, monkeypatch):
    model = load_model(finished / "7_disparity" / "model")
    validate = make_validator(model, layout_of(model), make_schedule(dynamic_rescale=False), clips=3)
    whole = validate()
    monkeypatch.setattr(validation, "AT_ONCE", 1)
    assert validate() == pytest.approx(whole, rel=2e-2)


def test_a_quick_figure_of_a_map_that_is_upside_down_is_that_of_a_constant():
    target = torch.linspace(0.1, 1, 600).expand(2, 1, 600)[..., None]
    known = torch.ones(target.shape, dtype=torch.bool)
    for inverse in (False, True):
        flat, fallen = (
            validation._median_abs_rel(maps, target, known, inverse=inverse) for maps in (0 * target + 1, 1.1 - target)
        )
        assert fallen == flat > 0.3


@pytest.mark.slow
def test_validation_tells_the_model_how_far_to_trust_its_windows(finished, tmp_path):
    config = replace(recipe(finished)[4], out=str(tmp_path), export=None)
    directory = run_stage(config, lambda model, folder, step: {"pipeline_error_ratio": 6.0 / model.spec.error_scale})
    model = load_model(directory / "model")
    assert model.spec.error_scale == pytest.approx(6.0)
    clip = render_true_clip(SyntheticSet(810002, 1, 4, (32, 48)), 0)
    result = Geo4D(model).reconstruct(clip.frames, tracks=False)
    right = replace(result, depth=clip.depth, valid=clip.valid)
    assert error_ratio(clip, right) < 1e-5
    off = np.where(np.arange(4)[:, None, None] < 2, 1.0, np.exp(0.2)).astype(np.float32)
    assert (
        0.05 < error_ratio(clip, replace(right, depth=clip.depth * off)) * result.diagnostics["expected_error"] < 0.15
    )


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(3, id="points"),
        *(pytest.param(k, id=name, marks=pytest.mark.slow) for k, name in ((6, "disparity"), (7, "point_decoder"))),
    ],
)
def test_a_killed_stage_goes_on_to_the_same_weights(finished, tmp_path, monkeypatch, stage):
    config = replace(recipe(finished)[stage], out=str(tmp_path), export=None)
    write = room.TrainingLoop.save

    def save_and_die(loop):
        write(loop)
        if loop.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(room.TrainingLoop, "save", save_and_die)
        run_stage(config)
    run_stage(config)
    own, whole = (load_model(folder / config.name / "model").state_dict() for folder in (tmp_path, finished))
    assert own.keys() == whole.keys() and all(torch.equal(own[key], whole[key]) for key in own)
    lines = [(folder / config.name / "log.jsonl").read_text().splitlines() for folder in (tmp_path, finished)]
    mine, theirs = ([entry["loss"] for entry in map(json.loads, each) if "loss" in entry] for each in lines)
    assert mine == theirs and len(mine) == 3


def test_full_tuning_changes_how_points_are_normalised(finished, tmp_path):
    words = [
        f"out={tmp_path}",
        "name=tuned",
        "kind=autoencoder",
        f"start={finished}/5_sizes/model",
        "autoencoder.normalization=mean",
    ]
    (config,) = load_recipe([], [*QUICK, *words, "data.sizes=[{height: 32, width: 48}]"])
    tuned, before = load_model(run_stage(config) / "model"), load_model(finished / "5_sizes" / "model")
    assert tuned.spec.points_normalization == "mean"
    assert tuned.spec.uncertainty_blocks == 0 and not tuned.normalizer.is_fitted("points")
    weight = "encoder.conv_in.weight"
    assert not torch.equal(tuned.autoencoder.state_dict()[weight], before.autoencoder.state_dict()[weight])


def test_more_latents_are_added_to_those_there(finished, tmp_path):
    config = replace(recipe(tmp_path)[1], start=str(finished / "1_autoencoder" / "model"))
    run_stage(replace(config, latents=replace(config.latents, shards=1)))
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / config.name).glob("*.safetensors")}
    run_stage(replace(config, latents=replace(config.latents, shards=3)))
    paths = list((tmp_path / config.name).glob("*.safetensors"))
    assert len(paths) == 3 and all(path.stat().st_mtime_ns == time for path, time in first.items())


def test_every_recipe_ends_with_all_modalities():
    for folder in CONFIGS.iterdir():
        stages = load_recipe([folder])
        denoisers = [stage for stage in stages if stage.kind == "denoiser"]
        grown = list(dict.fromkeys(stage.modalities for stage in denoisers))
        assert grown == [("points",), ("points", "rays"), ("points", "rays", "disparity")]
        places = {f"{stage.out}/{stage.name}/model" for stage in stages}
        assert all(stage.start is None or stage.start in places or stage is stages[0] for stage in stages)
        assert len(denoisers[-1].data.sizes) > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["preset=tiny", "start=small"], "either start=MODEL or preset=NAME"),
        (["preset=huge"], "no preset 'huge'"),
        (["start=small", "modalities=[points]"], "predicts rays, disparity already"),
        (["preset=tiny", "denoiser.latents=nowhere"], "no latents in nowhere"),
        (["preset=tiny", "denoiser.fit_statistics=true"], "needs a pool"),
        (["preset=tiny", "denoiser.objective.image_weights={normals: 1}"], "no image 'normals'"),
        (["preset=tiny", "denoiser.objective.drop_text=0.1"], "no text tokens"),
        (["preset=tiny", "data.sets={spring: {kind: spring}}"], "data.sets.spring.root=FOLDER"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, words, message):
    (config,) = load_recipe([], [f"out={tmp_path}", *QUICK, *words])
    with pytest.raises((ConfigError, InputError), match=message):
        run_stage(config)


def test_paths_that_hold_no_stage(tmp_path):
    with pytest.raises(ConfigError, match="holds no stage"):
        load_recipe([tmp_path])
    with pytest.raises(ConfigError, match="Nothing to train"):
        load_recipe([])
    with pytest.raises(ConfigError, match="Two stages would write"):
        load_recipe([CONFIGS / "tiny"], ["name=same"])
    with pytest.raises(ConfigError, match="did you mean"):
        load_config(StageConfig, overrides=["denoiser.short_shares=1"])


def test_the_command_lists_a_recipe(capsys):
    assert main(["train", str(CONFIGS / "small"), "--list"]) == 0
    out = capsys.readouterr().out
    assert "runs/small/5_rays  denoiser  from runs/small/4_frame_head/model  modalities points rays" in out


@pytest.mark.slow
def test_the_tiny_recipe_learns_within_minutes(tmp_path):
    assert main(["train", str(CONFIGS / "tiny"), f"out={tmp_path}", "device=cpu"]) == 0
    for stage in ("4_points", "7_disparity"):
        losses = [json.loads(line).get("loss") for line in (tmp_path / stage / "log.jsonl").read_text().splitlines()]
        losses = [loss for loss in losses if loss is not None]
        assert losses[-1] < losses[0]
    assert (tmp_path / "7_disparity" / "validation").is_dir()
    assert (
        load_model(tmp_path / "7_disparity" / "model").spec.error_scale > 1.5
    )  # its windows agree more than they are right


def on_the_fly(out, root, *words):
    own = [
        f"out={out}",
        "preset=tiny",
        "modalities=[points]",
        f"data.sets={{tartan: {{root: {root}, kind: tartanair}}}}",
    ]
    own += [
        "data.sizes=[{height: 32, width: 48}]",
        "data.mixture.film=null",
        "data.mixture.strides=[1]",
        "denoiser.long_frames=3",
    ]
    return load_recipe([], [*QUICK, *own, "denoiser.batch_frames=6", "validation.quick_clips=0", *words])[0]


def test_a_broken_file_is_named_and_left_out(tmp_path, caplog):
    for number in range(6):
        write_tartanair(tmp_path / "data", name=f"office/Easy/P00{number}")
    cut_short(tmp_path / "data/office/Easy/P001/image_left/000002_left.png")
    config = on_the_fly(tmp_path, tmp_path / "data", "data.mixture.most_bad=1.0", "loop.steps=8")
    assert load_model(run_stage(config) / "model").spec.modalities == ("points",)
    assert any("000002_left.png" in record.message and "left out" in record.message for record in caplog.records)


@pytest.mark.parametrize("readers", [0, 1])
def test_a_data_set_that_is_broken_throughout_ends_the_stage(tmp_path, readers):
    write_tartanair(tmp_path / "data")
    for path in (tmp_path / "data/office/Easy/P000/image_left").glob("*.png"):
        cut_short(path)
    with pytest.raises(InputError, match=r"_left\.png"):
        run_stage(on_the_fly(tmp_path, tmp_path / "data", f"data.readers={readers}"))
