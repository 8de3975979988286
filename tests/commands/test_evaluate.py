"""`geo4d evaluate` and `geo4d ablate` from the outside."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geo4d.cli import main
from geo4d.config import load_config
from geo4d.evaluation.ablation import AblateConfig
from geo4d.evaluation.methods import PipelineConfig

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "ablate").glob("*.yaml"))


def evaluate(*words):
    return main(["evaluate", *map(str, words), "-q"])


def refusal(capsys, code):
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and error.startswith("geo4d: error: "), error
    return error


def test_held_out_clips_as_before(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--num", "2", "--frames", "4", "--json", "a.json"]
    assert evaluate("synthetic", *words, "--model", "tiny", "--device", "cpu", "alignment.joint.samples=64") == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["set"] == {"seed": 900001, "num": 2, "frames": 4, "size": [128, 192], "world": "plain"}
    assert (
        set(result["median"]) == {"statistics", "constant", "mean", "model", "ratio", "failures"}
        and len(result["clips"]) == 2
    )
    assert set(result["settings"]) == {"model", "vae", "device", "dtype", "stride", "steps", "tracks"}
    assert result["settings"]["model"] == "tiny" and "| tiny |" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert evaluate("synthetic", *words, "--baselines-only", "--seed", "5") == 0
    other = json.loads((tmp_path / "a.json").read_text())
    assert "model" not in other["median"] and other["set"]["seed"] == 5
    assert other["clips"][0]["constant"] != result["clips"][0]["constant"]


@pytest.mark.slow
def test_numbers_without_baselines(tmp_path):
    words = [
        "--num",
        1,
        "--frames",
        3,
        "--model",
        "tiny",
        "--device",
        "cpu",
        "alignment.joint.samples=64",
        "--no-baselines",
    ]
    assert evaluate("synthetic", *words, "--json", tmp_path / "a.json") == 0
    median = json.loads((tmp_path / "a.json").read_text())["median"]
    assert set(median) == {"statistics", "model", "ratio", "failures"} and median["ratio"] == {}


@pytest.mark.slow
def test_committed_numbers_of_the_held_out_set(tmp_path):
    committed = json.loads((Path(__file__).parents[2] / "benchmarks" / "held_out_v1.json").read_text())["clips"][0]
    assert evaluate("synthetic", "--num", 1, "--baselines-only", "--json", tmp_path / "a.json") == 0
    (clip,) = json.loads((tmp_path / "a.json").read_text())["clips"]
    for group in ("constant", "mean"):
        shared = clip[group].keys() & committed[group].keys()
        assert {"abs_rel", "delta1", "ate_sim3", "focal_error"} <= shared
        assert {key: clip[group][key] for key in shared} == pytest.approx(
            {key: committed[group][key] for key in shared}, rel=1e-3, abs=1e-6
        )


def test_what_is_refused(tmp_path, capsys):
    assert "There is no evaluation set 'nyu'; expected one of sintel" in refusal(
        capsys, evaluate("nyu", "--root", tmp_path)
    )
    assert "There is no folder None to read sintel from" in refusal(capsys, evaluate("sintel"))
    assert "takes one folder; got a, b" in refusal(capsys, evaluate("tum", "a", "--root", "b"))
    words = ["synthetic", "--num", 1, "--baselines-only"]
    assert "need a folder for the run; give --out" in refusal(capsys, evaluate(*words, "--shard", "1/2"))
    assert "needs at least one clip of two frames; got 0 of 32" in refusal(capsys, evaluate("synthetic", "--num", 0))
    assert "There is no protocol 'x'" in refusal(capsys, evaluate(*words, "--protocol", "x"))
    assert "did you mean 'stride'" in refusal(capsys, evaluate(*words, "strides=3"))
    theirs = [*words, "--predictions", tmp_path]
    assert "--key must be MEANING=NAME" in refusal(capsys, evaluate(*theirs, "--key", "depth"))
    assert "There is no folder of predictions" in refusal(capsys, evaluate(*words, "--predictions", tmp_path / "none"))
    assert "There is no array 'pose'" in refusal(capsys, evaluate(*theirs, "--key", "pose=c2w"))
    assert "Shards cannot --overwrite" in refusal(
        capsys, evaluate(*words, "--shard", "1/2", "--overwrite", "--out", tmp_path / "out")
    )
    (tmp_path / "file").touch()
    assert "holds something that is no run" in refusal(capsys, evaluate(*words, "--out", tmp_path / "file"))
    assert "cannot be read" in refusal(capsys, main(["ablate", str(tmp_path / "none.yaml"), "-q"]))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_ablation_is_made_of_settings_that_exist(file):
    config = load_config(AblateConfig, [file])
    made = [config.variant(name) for name in config.variants]
    assert (
        len(made) >= 2
        and len({str(variant) for variant in made}) == len(made)
        and all(isinstance(m, PipelineConfig) for m in made)
    )
    for variant in made:
        variant.infer_config()


def write_kitchen(root):
    """A recording of two frames in the plainest layout, and a perfect prediction of it."""
    generator = np.random.default_rng(1)
    depth = generator.uniform(1, 4, (2, 32, 48)).astype(np.float32)
    for kind in ("rgb", "depth"):
        (root / "data" / "kitchen" / kind).mkdir(parents=True)
    for i, values in enumerate(depth):
        Image.fromarray(generator.integers(0, 255, (32, 48, 3), np.uint8)).save(
            root / "data" / "kitchen" / "rgb" / f"{i}.png"
        )
        np.save(root / "data" / "kitchen" / "depth" / f"{i}.npy", values)
    (root / "predicted").mkdir()
    np.savez(root / "predicted" / "kitchen.npz", depth=depth)
    return root / "data", root / "predicted"


def test_the_model_that_is_named_is_scored(tmp_path, capsys):
    """However it is named: model=tiny is --model tiny."""
    words = ["synthetic", "--num", 1, "--frames", 3, "alignment.joint.samples=64", "--json", tmp_path / "a.json"]
    assert evaluate(*words, "model=tiny", "device=cpu") == 0
    settings = json.loads((tmp_path / "a.json").read_text())["settings"]
    assert settings["model"] == "tiny" and settings["device"] == "cpu"
    table = capsys.readouterr().out
    assert "| tiny |" in table and "small" not in table
    assert "model is given twice: small as an option, tiny as a word" in refusal(
        capsys, evaluate(*words, "model=tiny", "--model", "small")
    )
    assert "stride is given twice: 4 as an option, 8 as a word" in refusal(
        capsys, evaluate(*words, "stride=8", "--stride", 4)
    )
    assert "tracks is given twice: False as an option, True" in refusal(
        capsys, evaluate(*words, "tracks=true", "--no-tracks")
    )


def test_numbers_of_predictions_name_no_model(tmp_path):
    data, predicted = write_kitchen(tmp_path)
    assert evaluate("rgbd", data, "--predictions", f"peer={predicted}", "--json", tmp_path / "a.json") == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert (
        found["settings"]["method"] == "peer"
        and found["settings"]["kind"] == "predictions"
        and "model" not in found["settings"]
    )
    assert found["median"]["model"]["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert evaluate("rgbd", data, "--baselines-only", "--json", tmp_path / "b.json") == 0
    assert json.loads((tmp_path / "b.json").read_text())["settings"] == {}


def test_numbers_name_the_method_that_they_are_of(tmp_path):
    """A run may hold methods of other calls; the numbers are of one, and so are the settings."""
    data, predicted = write_kitchen(tmp_path)
    words = ["rgbd", data, "--out", tmp_path / "out", "--no-plots"]
    assert evaluate(*words, "--predictions", f"a={predicted}") == 0
    assert evaluate(*words, "--predictions", f"b={predicted}", "--disparity", "--json", tmp_path / "b.json") == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["settings"]["method"] == "a" and found["settings"]["form"]["depth_is_disparity"] is False


def test_overwriting_never_removes_what_is_to_be_read(tmp_path, capsys, monkeypatch):
    data, predicted = write_kitchen(tmp_path)
    out = tmp_path / "out"
    assert evaluate("rgbd", data, "--baselines-only", "--out", out, "--no-plots") == 0
    predicted.rename(out / "predictions")
    words = ["rgbd", data, "--no-plots", "--overwrite"]
    monkeypatch.chdir(tmp_path)
    for folder in (f"mine={out}/predictions", "out/../out/predictions"):
        error = refusal(capsys, evaluate(*words, "--predictions", folder, "--out", "out"))
        assert "could harm" in error and "which lies in --out out; choose another --out" in error
    assert (out / "predictions" / "kitchen.npz").is_file() and (out / "settings.json").is_file()
    assert main(["data", "prepare", "rgbd", str(data), "--out", str(out / "frames.json"), "-q"]) == 0
    capsys.readouterr()
    assert "frames.json (--list)" in refusal(
        capsys, evaluate(*words, "--baselines-only", "--list", out / "frames.json", "--out", out)
    )
    assert (out / "frames.json").is_file()
    assert (
        evaluate("rgbd", data, "--no-plots", "--predictions", out / "predictions", "--out", out) == 0
    )  # beside what is there


IDLE = {  # words -> what is said of them
    ("synthetic", "--task", "pose"): "--task would do nothing here: synthetic clips are rendered",
    ("synthetic", "--rule", "x"): "--rule would do nothing here",
    ("synthetic", "--start", "0"): "--start would do nothing here",
    ("synthetic", "--frame-stride", "2"): "--frame-stride would do nothing here",
    ("synthetic", "--list", "x.json"): "--list would do nothing here",
    ("synthetic", "--depth-scale", "2"): "--depth-scale would do nothing here",
    ("synthetic", "--root", "x"): "--root would do nothing here",
    ("synthetic", "x"): "reads no folder, so x would do nothing",
    ("procedural", "x"): "reads no folder, so x would do nothing",
    ("procedural", "--seed", "0"): "--seed would do nothing here: it is for geo4d evaluate synthetic",
    ("rgbd", "x", "--num", "3"): "--num would do nothing here",
    ("rgbd", "x", "--methods", "a", "b"): "--methods would do nothing here: it is for geo4d evaluate compare",
    (
        "rgbd",
        "x",
        "--list",
        "l.json",
        "--include",
        "a*",
    ): "--include would do nothing here: a frame list says which frames",
    ("rgbd", "x", "--list", "l.json", "--frames", "3"): "--frames would do nothing here",
    ("rgbd", "x", "--list", "l.json", "--task", "pose"): "--task would do nothing here",
    ("rgbd", "x", "--list", "l.json", "--depth-scale", "1"): "--depth-scale would do nothing here",
    ("rgbd", "x", "--disparity"): "--disparity would do nothing here: it says how to read --predictions",
    ("synthetic", "--num", "1", "--baselines-only", "--no-baselines"): "contradict each other",
    (
        "synthetic",
        "--num",
        "1",
        "--baselines-only",
        "--model",
        "tiny",
    ): "--model would do nothing here: no model is scored",
    ("synthetic", "--num", "1", "--baselines-only", "steps=3"): "steps=3 would do nothing here: no model is scored",
    (
        "synthetic",
        "--num",
        "1",
        "--predictions",
        ".",
        "--steps",
        "0",
    ): "--steps would do nothing here: no model is scored",
    ("compare", "a", "b", "--json", "x.json"): "--json would do nothing here: geo4d evaluate compare takes two folders",
    ("compare", "a", "b", "--frames", "3"): "--frames would do nothing here",
    ("compare", "a", "b", "--protocol", "geo4d"): "--protocol would do nothing here",
}


@pytest.mark.parametrize("words", IDLE, ids=" ".join)
def test_options_that_would_do_nothing_are_refused(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert IDLE[words] in refusal(capsys, evaluate(*words))
    assert list(tmp_path.iterdir()) == []
