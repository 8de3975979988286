"""Two runs side by side, and tables of variants."""

import json

import numpy as np
import pytest
from layouts import write_rgbd
from test_runner import evaluate, predict, rooms

from geo4d.cli import main
from geo4d.config import load_config
from geo4d.errors import ConfigError
from geo4d.evaluation.ablation import AblateConfig, ablate
from geo4d.evaluation.compare import compare_runs
from geo4d.evaluation.sets import open_set
from geo4d.evaluation.store import Store


def noise(size, seed):
    def change(depth, poses):
        random = np.random.default_rng(seed)
        poses = poses.copy()
        poses[:, :3, 3] += size * random.normal(size=(len(poses), 3))
        return depth * np.exp(size * random.normal(size=depth.shape)), poses

    return change


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A good and a bad method on the same five rooms, and the good one scored otherwise."""
    root = tmp_path_factory.mktemp("runs")
    rooms(root / "data")
    opened = open_set("rgbd", root / "data")
    for number, (name, size) in enumerate({"good": 0.02, "bad": 0.2}.items()):
        predict(opened, root / "predictions" / name, noise(size, number))
        words = [
            "--predictions",
            f"{name}={root / 'predictions' / name}",
            "--no-plots",
            "--protocol",
            "geo4d",
            "--no-hashes",
        ]
        assert main(["evaluate", "rgbd", str(root / "data"), *words, "--out", str(root / name), "-q"]) == 0
    assert (
        evaluate(
            "rgbd", root / "data", root / "predictions" / "good", root / "metric", "--protocol", "metric", "--no-plots"
        )
        == 0
    )
    return root


def test_a_better_run_is_better(runs, capsys):
    compared = compare_runs(runs / "bad", runs / "good")
    assert compared.names == ("bad", "good") and not compared.only_in_one
    by_name = {difference.name: difference for difference in compared.differences}
    for name in ("abs_rel", "delta1", "ate_sim3"):
        d = by_name[name]
        assert (
            d.is_clear
            and d.second_is_better == 1
            and d.better_in == d.sequences == 5
            and d.low - 1e-12 <= d.second - d.first <= d.high + 1e-12
        )
    rows = [
        json.loads((runs / name / "summary.json").read_text())["methods"][name]["scores"]["abs_rel"]
        for name in ("bad", "good")
    ]
    assert [by_name["abs_rel"].first, by_name["abs_rel"].second] == pytest.approx(rows)
    # the interval is that of the mean of five differences, near 1.96 standard errors
    pairs = [
        [Store(runs / name).record(name, f"room_{i}")["scores"]["ate_sim3"] for name in ("bad", "good")]
        for i in range(5)
    ]
    change = np.diff(pairs, axis=1)[:, 0]
    d = by_name["ate_sim3"]
    assert d.high - d.low == pytest.approx(2 * 1.96 * change.std() / np.sqrt(5), rel=0.15)
    assert main(["evaluate", "compare", str(runs / "bad"), str(runs / "good"), "--out", str(runs / "compared.md")]) == 0
    text = capsys.readouterr().out
    assert (
        (runs / "compared.md").read_text() == text == compared.markdown()
        and "in 5 of 5, 100% of draws" in text
        and " * " in text
    )
    assert "| Abs Rel ↓ |" in text and "Paired bootstrap over sequences: 10000 draws, seed 0" in text


def test_a_run_with_itself_and_methods_of_one_run(runs):
    same = compare_runs(runs / "good", runs / "good")
    assert all(
        d.first == d.second and d.low == d.high == 0 and not d.is_clear and d.better_in == 0 for d in same.differences
    )
    assert same.names == ("good: good", "good: good")
    other = compare_runs(runs / "good", runs / "good", ("constant", "good"))
    assert other.differences[0].second_is_better == 1 and other.names == ("constant", "good")


def test_runs_that_cannot_be_compared(runs, tmp_path, capsys):
    def refused(*words):
        assert main(["evaluate", "compare", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "they have another protocol (geo4d and metric)" in refused(runs / "good", runs / "metric")
    assert "needs the folders of two runs; got" in refused(runs / "good")
    assert "holds no run of geo4d evaluate" in refused(runs / "good", tmp_path)
    assert "The run has no method 'best'; expected one of good, constant, mean" in refused(
        runs / "good", runs / "bad", "--methods", "best", "bad"
    )
    words = ["--predictions", f"good={runs / 'predictions' / 'good'}", "--protocol", "geo4d", "--no-plots"]
    for name in ("room_0", "room_9"):
        write_rgbd(tmp_path / "data", name, npy=True)
    assert main(["evaluate", "rgbd", str(tmp_path / "data"), *words, "--out", str(tmp_path / "few"), "-q"]) == 0
    capsys.readouterr()
    few = compare_runs(runs / "good", tmp_path / "few")
    assert few.only_in_one == ["room_1", "room_2", "room_3", "room_4", "room_9"] and few.differences[0].sequences == 1
    assert few.differences[0].low is None and "| – |" in few.markdown()
    (tmp_path / "data" / "room_0" / "depth" / "0001.npy").unlink()
    assert main(["evaluate", "rgbd", str(tmp_path / "data"), *words, "--out", str(tmp_path / "other"), "-q"]) == 0
    capsys.readouterr()
    assert "room_0 has other frames" in refused(runs / "good", tmp_path / "other")


def config(tmp_path, *words):
    base = [
        "dataset=rgbd",
        f"root={tmp_path / 'data'}",
        f"out={tmp_path / 'out'}",
        "pipeline.model=tiny",
        "pipeline.device=cpu",
    ]
    variants = [
        "variants.fast=[]",
        "variants.slow=[alignment.solver=paper,alignment.paper.steps=3]",
        "variants.stride 2=[stride=2]",
    ]
    return load_config(AblateConfig, overrides=[*base, *variants, *words])


@pytest.mark.slow
def test_variants_in_one_table(tmp_path, capsys):
    write_rgbd(tmp_path / "data")
    text = ablate(config(tmp_path))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[1:5]] == ["| ---", "| fast", "| slow", "| stride 2"]
    assert "* slow: `alignment.solver=paper` `alignment.paper.steps=3`" in text
    out = tmp_path / "out"
    assert (out / "table.md").read_text() == text and not (out / ".windows").exists()
    assert {"table.tex", "sequences.csv", "costs.csv", "plots", "config.yaml", "fast", "slow", "stride 2"} <= {
        p.name for p in out.iterdir()
    }
    # random weights may see the room upside down, and Abs Rel is a constant's then; by the median scale they differ
    scores = [
        Store(out / name).records(name)[0]["scores"]["abs_rel_median_scale"] for name in ("fast", "slow", "stride 2")
    ]
    assert scores[0] != scores[1] and "## Failures" not in text
    settings = json.loads((out / "slow" / "sequences" / "slow" / "method.json").read_text())
    assert settings["alignment"]["solver"] == "paper" and settings["stride"] == 4 and settings["model"] == "tiny"
    before = (out / "fast" / "sequences" / "fast" / "kitchen.json").stat().st_mtime_ns
    files = ["--shard", "2/2"]
    (tmp_path / "open").hardlink_to(out / "config.yaml")  # as another process has it open
    (tmp_path / "a.yaml").write_text(
        f"dataset: rgbd\nroot: {tmp_path / 'data'}\nout: {out}\npipeline: {{model: tiny, device: cpu}}\n"
        "variants:\n  fast: []\n"
    )
    assert main(["ablate", str(tmp_path / "a.yaml"), "-q"]) == 0
    assert (
        "| fast |" in capsys.readouterr().out
        and (out / "fast" / "sequences" / "fast" / "kitchen.json").stat().st_mtime_ns == before
    )
    assert "slow:" in (tmp_path / "open").read_text() and "slow:" not in (out / "config.yaml").read_text()
    assert (
        main(["ablate", str(tmp_path / "a.yaml"), f"out={tmp_path / 'new'}", "-q", *files]) == 0
    )  # the other half has the one room
    assert capsys.readouterr().out == "" and not (tmp_path / "new" / "table.md").exists()
    assert main(["ablate", str(tmp_path / "a.yaml"), "pipeline.stride=3", "-q"]) == 2
    assert "was made with another stride: 4, now 3" in capsys.readouterr().err


def test_variants_that_cannot_be(tmp_path):
    write_rgbd(tmp_path / "data")
    with pytest.raises(ConfigError, match="An ablation needs variants"):
        ablate(AblateConfig(root=str(tmp_path / "data"), dataset="rgbd"))
    with pytest.raises(ConfigError, match=r"There is no setting 'strid' .* did you mean 'stride'"):
        ablate(config(tmp_path, "variants.wrong=[strid=3]"))
    with pytest.raises(ConfigError, match="stride and windows per batch must be at least 1"):
        ablate(config(tmp_path, "variants.wrong=[stride=0]"))
    with pytest.raises(ConfigError, match="A variant's name must be fit for a folder; got 'a/b'"):
        AblateConfig(variants={"a/b": []})
    assert not (tmp_path / "out").exists()
