"""Results that were scored with different truth are never mixed, nor compared."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from layouts import write_rgbd
from test_runner import evaluate, numbers, predict

from geo4d.cli import main
from geo4d.evaluation.compare import compare_runs
from geo4d.evaluation.runner import load_truth, truth_hashes
from geo4d.evaluation.sets import open_set
from geo4d.evaluation.sets.procedural import open_scenes
from geo4d.evaluation.store import Store

QUICK = ("--no-plots", "--no-baselines", "--no-hashes")
PARTS = ["depth", "cameras", "intrinsics"]


def hashes(opened, **changes):
    (sequence,) = opened
    truth = load_truth(opened, sequence)
    return truth_hashes(
        opened, replace(truth, **{name: change(getattr(truth, name)) for name, change in changes.items()})
    )


def test_every_part_of_the_truth_has_a_hash_of_its_own(tmp_path):
    write_rgbd(tmp_path)
    opened = open_set("rgbd", tmp_path)
    first = hashes(opened)
    assert list(first) == PARTS and len(set(first.values())) == 3 and hashes(opened) == first

    def one_pixel(depth):
        depth = depth.copy()
        depth[0, 0, 0] += 1e-3
        return depth

    assert [part for part, found in hashes(opened, depth=one_pixel).items() if found != first[part]] == ["depth"]
    for name, part in (("cam_to_world", "cameras"), ("intrinsics", "intrinsics")):
        assert [key for key, found in hashes(opened, **{name: lambda x: x + 1e-5}).items() if found != first[key]] == [
            part
        ]
        assert hashes(opened, **{name: lambda x: x * (1 + 2e-16)}) == first  # another machine may round otherwise
    assert list(hashes(opened, depth=lambda x: None, valid=lambda x: None)) == PARTS[1:]
    assert hashes(open_scenes(5, 1, 2)) == {}  # rendered, on each machine with last bits of its own


@pytest.fixture
def run(tmp_path):
    """A finished run of one method on one room, whose prediction is perfect."""
    write_rgbd(tmp_path / "data", npy=True)
    predict(open_set("rgbd", tmp_path / "data"), tmp_path / "predicted")
    assert evaluate("rgbd", tmp_path / "data", tmp_path / "predicted", tmp_path / "out", *QUICK) == 0
    return tmp_path


def bend(data):
    """Rewrites all depth maps under the same names."""
    for file in (data / "kitchen" / "depth").iterdir():
        depth = np.load(file)
        np.save(file, depth * np.linspace(1, 3, depth.shape[1], dtype=np.float32))


def test_a_run_does_not_go_on_with_another_truth(run, capsys):
    data, out = run / "data", run / "out"
    record = Store(out).record("method", "kitchen")
    assert list(record["truth"]) == PARTS
    bend(data)
    shutil.copytree(run / "predicted", run / "again")
    capsys.readouterr()
    words = ["evaluate", "rgbd", str(data), "--out", str(out), "-q", *QUICK]
    # the same predictions would stand in one table with an error of 0 and with another
    assert main([*words, "--predictions", f"again={run / 'again'}"]) == 2
    error = capsys.readouterr().err
    assert (
        "The result of method on kitchen in" in error
        and "was made with other ground truth; choose another --out" in error
    )
    assert error.count("\n") == 1 and Store(out).record("again", "kitchen") is None
    assert evaluate("rgbd", data, run / "predicted", out, *QUICK) == 2  # nor would the table be that of these data
    assert "was made with other ground truth" in capsys.readouterr().err
    assert evaluate("rgbd", data, run / "predicted", out, *QUICK, "--overwrite") == 0
    assert numbers(out)["abs_rel"] > 0.1
    for file in (data / "kitchen" / "depth").iterdir():
        np.save(file, np.zeros((48, 64), np.float32))
    assert evaluate("rgbd", data, run / "predicted", out, *QUICK) == 2
    assert "was made with other ground truth" in capsys.readouterr().err and numbers(out)["abs_rel"] > 0.1


def test_a_method_that_joins_a_run_has_its_frames(run, capsys):
    last = run / "data" / "kitchen" / "depth" / "0005.npy"
    last.rename(run / "kept.npy")
    assert (
        main(["evaluate", "rgbd", str(run / "data"), "--baselines-only", "--out", str(run / "out"), "-q", *QUICK[:1]])
        == 2
    )
    assert (
        "The result of method on kitchen in" in (error := capsys.readouterr().err)
        and "was made with other frames" in error
    )
    (run / "kept.npy").rename(last)
    assert (
        main(["evaluate", "rgbd", str(run / "data"), "--baselines-only", "--out", str(run / "out"), "-q", *QUICK[:1]])
        == 0
    )


def test_runs_with_another_truth_are_not_compared(run, capsys):
    assert evaluate("rgbd", run / "data", run / "predicted", run / "same", *QUICK) == 0
    assert compare_runs(run / "out", run / "same").differences
    bend(run / "data")
    assert evaluate("rgbd", run / "data", run / "predicted", run / "bent", *QUICK) == 0
    capsys.readouterr()
    assert main(["evaluate", "compare", str(run / "out"), str(run / "bent")]) == 2
    assert "cannot be compared: kitchen has other true depth; evaluate both with one copy" in capsys.readouterr().err
    shutil.rmtree(run / "data")
    write_rgbd(run / "data")  # 16 bits a pixel
    for scale in (1000, 10000):
        assert (
            evaluate("rgbd", run / "data", run / "predicted", run / str(scale), *QUICK, "--depth-scale", str(scale))
            == 0
        )
    assert main(["evaluate", "compare", str(run / "1000"), str(run / "10000")]) == 2
    assert "kitchen has other true depth" in capsys.readouterr().err
