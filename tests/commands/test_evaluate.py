"""`geo4d evaluate` and `geo4d ablate` from the outside."""

import json
from pathlib import Path

import pytest

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
    assert evaluate("synthetic", *words, "--model", "tiny", "--device", "cpu", "alignment.samples=64") == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["set"] == {"seed": 900001, "num": 2, "frames": 4, "size": [128, 192]}
    assert set(result["median"]) == {"statistics", "constant", "mean", "model", "ratio", "failures"} and len(result["clips"]) == 2
    assert set(result["settings"]) == {"model", "vae", "device", "dtype", "stride", "steps", "tracks"}
    assert result["settings"]["model"] == "tiny" and "| tiny |" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert evaluate("synthetic", *words, "--baselines-only", "--seed", "5") == 0
    other = json.loads((tmp_path / "a.json").read_text())
    assert "model" not in other["median"] and other["set"]["seed"] == 5
    assert other["clips"][0]["constant"] != result["clips"][0]["constant"]


def test_numbers_without_baselines(tmp_path):
    words = ["--num", 1, "--frames", 3, "--model", "tiny", "--device", "cpu", "alignment.samples=64", "--no-baselines"]
    assert evaluate("synthetic", *words, "--json", tmp_path / "a.json") == 0
    median = json.loads((tmp_path / "a.json").read_text())["median"]
    assert set(median) == {"statistics", "model", "ratio", "failures"} and median["ratio"] == {}


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
    assert "There is no evaluation set 'nyu'; expected one of sintel" in refusal(capsys, evaluate("nyu", "--root", tmp_path))
    assert "There is no folder None to read sintel from" in refusal(capsys, evaluate("sintel"))
    assert "takes one folder; got a, b" in refusal(capsys, evaluate("tum", "a", "--root", "b"))
    words = ["synthetic", "--num", 1, "--baselines-only"]
    assert "need a folder for the run; give --out" in refusal(capsys, evaluate(*words, "--shard", "1/2"))
    assert "needs at least one clip of two frames; got 0 of 32" in refusal(capsys, evaluate("synthetic", "--num", 0))
    assert "There is no protocol 'x'" in refusal(capsys, evaluate(*words, "--protocol", "x"))
    assert "did you mean 'stride'" in refusal(capsys, evaluate(*words, "strides=3"))
    assert "--key must be MEANING=NAME" in refusal(capsys, evaluate(*words, "--key", "depth"))
    assert "There is no folder of predictions" in refusal(capsys, evaluate(*words, "--predictions", tmp_path / "none"))
    assert "There is no array 'pose'" in refusal(capsys, evaluate(*words, "--key", "pose=c2w"))
    assert "Shards cannot --overwrite" in refusal(capsys, evaluate(*words, "--shard", "1/2", "--overwrite", "--out", tmp_path / "out"))
    (tmp_path / "file").touch()
    assert "holds something that is no run" in refusal(capsys, evaluate(*words, "--out", tmp_path / "file"))
    assert "cannot be read" in refusal(capsys, main(["ablate", str(tmp_path / "none.yaml"), "-q"]))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_ablation_is_made_of_settings_that_exist(file):
    config = load_config(AblateConfig, [file])
    made = [config.variant(name) for name in config.variants]
    assert len(made) >= 2 and len({str(variant) for variant in made}) == len(made) and all(isinstance(m, PipelineConfig) for m in made)
    for variant in made:
        variant.infer_config()
