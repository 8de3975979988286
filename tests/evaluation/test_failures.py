"""What a prediction offers and cannot be scored is counted, marked and named, whatever the task.

What it never has is not.
"""

import json

import numpy as np
import pytest
from layouts import write_davis, write_sintel, write_tum
from test_runner import evaluate, numbers, predict, rooms

from geo4d.evaluation.compare import compare_runs
from geo4d.evaluation.methods import Guess, SavedPredictions
from geo4d.evaluation.protocols import PROTOCOLS
from geo4d.evaluation.report import clip_summary
from geo4d.evaluation.results import Results
from geo4d.evaluation.runner import Run
from geo4d.evaluation.sets import open_set
from geo4d.evaluation.store import Store, write_json
from geo4d.evaluation.synthetic import medians, table

QUICK = ("--no-plots", "--no-hashes", "--protocol", "geo4d")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two rooms with good predictions."""
    root = tmp_path_factory.mktemp("failures")
    rooms(root / "data", 2)
    predict(open_set("rgbd", root / "data"), root / "good")
    return root


def change(made, folder, **changes):
    """The good predictions, with some arrays of some rooms changed: room=function of the arrays."""
    folder.mkdir()
    for file in (made / "good").iterdir():
        arrays = dict(np.load(file))
        changes.get(file.stem, lambda arrays: None)(arrays)
        np.savez(folder / file.name, **arrays)
    return folder


def lose_cameras(arrays):
    arrays["cam_to_world"][2] = np.nan


def test_a_group_that_fails_on_every_sequence_is_counted(made, tmp_path, capsys):
    bad = change(made, tmp_path / "bad", room_0=lose_cameras, room_1=lose_cameras)
    assert evaluate("rgbd", made / "data", bad, tmp_path / "out", *QUICK) == 0
    text = capsys.readouterr().out
    row = Results.load(Store(tmp_path / "out")).row("method")
    assert row.failed == 0 and row.cells["ate_sim3"].failures == row.cells["ate_sim3"].sequences == 2
    assert numbers(tmp_path / "out")["ate_sim3"] == numbers(tmp_path / "out", "constant")["ate_sim3"] > 0
    assert row.cells["abs_rel"].failures == 0 and row.cells["abs_rel"].value == pytest.approx(0, abs=1e-6)
    for name in ("room_0", "room_1"):
        assert f"* method on {name} (pose): The predicted trajectory must be finite" in text
    assert "†: failures are counted" in text and "| 0 of 2 |" in text
    failures = json.loads((tmp_path / "out" / "manifest.json").read_text())["failures"]["method"]
    assert failures["failed"] == 0 and [list(found) for found in failures["sequences"].values()] == [["pose"], ["pose"]]


def test_what_a_method_never_has_is_no_failure(made, tmp_path, capsys):
    def leave_depth(arrays):
        del arrays["cam_to_world"], arrays["intrinsics"]

    plain = change(made, tmp_path / "plain", room_0=leave_depth, room_1=leave_depth)
    assert evaluate("rgbd", made / "data", plain, tmp_path / "out", *QUICK) == 0
    text = capsys.readouterr().out
    row = Results.load(Store(tmp_path / "out")).row("method")
    assert row.cells.keys().isdisjoint({"ate_sim3", "focal_error", "point_rel"}) and "boundary_f1" in row.cells
    assert "## Failures" not in text and "†" not in text
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("sequences/method/room_*.json")}
    assert evaluate("rgbd", made / "data", plain, tmp_path / "out", *QUICK, "--retry") == 0
    assert all(path.stat().st_mtime_ns == time for path, time in records.items())
    some = change(made, tmp_path / "some", room_1=leave_depth)  # but where another sequence has it, it is
    assert evaluate("rgbd", made / "data", some, tmp_path / "some_out", *QUICK) == 0
    assert "* method on room_1 (pose, focal, points): room_1.npz holds no cameras" in capsys.readouterr().out


def test_retry_computes_partial_failures_again(made, tmp_path, capsys):
    predicted = change(made, tmp_path / "predicted", room_0=lose_cameras)
    words = (*QUICK, "--no-baselines")
    assert evaluate("rgbd", made / "data", predicted, tmp_path / "out", *words) == 0
    good = tmp_path / "out" / "sequences" / "method" / "room_1.json"
    before = good.stat().st_mtime_ns
    (predicted / "room_0.npz").write_bytes((made / "good" / "room_0.npz").read_bytes())
    assert evaluate("rgbd", made / "data", predicted, tmp_path / "out", *words) == 2
    assert "was made with other predictions" in capsys.readouterr().err
    assert evaluate("rgbd", made / "data", predicted, tmp_path / "out", *words, "--retry") == 0
    assert "†" not in capsys.readouterr().out and good.stat().st_mtime_ns == before
    assert numbers(tmp_path / "out")["ate_sim3"] == pytest.approx(0, abs=1e-6)


def test_centred_depth_keeps_its_numbers(made, tmp_path, capsys):
    """Affine depth whose median is 0: nothing but the column of the median scale fails."""

    def centre(arrays):
        arrays["depth"] = arrays["depth"] - np.nanmedian(arrays["depth"])
        arrays["depth_conf"] = np.ones(arrays["depth"].shape)

    centred = change(made, tmp_path / "centred", room_0=centre, room_1=centre)
    assert evaluate("rgbd", made / "data", centred, tmp_path / "out", *QUICK) == 0
    cells = Results.load(Store(tmp_path / "out")).row("method").cells
    assert cells["abs_rel"].value == pytest.approx(0, abs=1e-6) and cells["abs_rel"].failures == 0
    assert cells["abs_rel_median_scale"].failures == 2 and cells["abs_rel_trusted"].failures == 0
    assert "* method on room_0 (median scale): Median scale needs a positive median" in capsys.readouterr().out


def test_failures_of_numbers_from_depth_are_marked_in_a_comparison(made, tmp_path):
    def trust(arrays):
        arrays["depth_conf"] = np.ones(arrays["depth"].shape)

    def lose_depth(arrays):
        trust(arrays)
        arrays["depth"] = arrays["depth"][:, ::-1].transpose(0, 2, 1)  # on its side

    good = change(made, tmp_path / "sure", room_0=trust, room_1=trust)
    bad = change(made, tmp_path / "side", room_0=trust, room_1=lose_depth)
    for name, folder in (("good", good), ("bad", bad)):
        assert evaluate("rgbd", made / "data", folder, tmp_path / name, *QUICK) == 0
    failures = {found.name: found.failures for found in compare_runs(tmp_path / "good", tmp_path / "bad").differences}
    for name in ("abs_rel", "abs_rel_median_scale", "boundary_f1", "abs_rel_trusted"):
        assert failures[name] == 1, name
    assert failures["ate_sim3"] == 0


@pytest.mark.parametrize("case", ["sintel", "tum-dynamics", "davis"])
def test_medians_where_not_every_clip_has_every_number(case, tmp_path):
    if case == "sintel":
        write_sintel(tmp_path)  # alley_2, whose cameras count
        write_sintel(tmp_path, "bamboo_1")  # whose do not
    elif case == "davis":
        write_davis(tmp_path)
    else:
        write_tum(tmp_path)
    opened = open_set(case, tmp_path)
    predict(opened, tmp_path / "predicted")
    methods = [SavedPredictions("method", tmp_path / "predicted"), *([] if case == "davis" else [Guess("constant")])]
    run = Run(opened, methods, "geo4d", PROTOCOLS["geo4d"], Store(tmp_path / "out"))
    run.evaluate()
    result = clip_summary(Results.load(run.store), {})
    write_json(tmp_path / "out.json", result)
    text, median = table(result), result["median"]
    if case == "davis":
        assert median["model"] == median["ratio"] == {} and median["failures"] == 0
        return
    assert (
        median["model"]["ate_sim3"] == pytest.approx(0, abs=1e-6)
        and median["constant"]["ate_sim3"] > 0
        and "ate_sim3" in text
    )
    if case == "tum-dynamics":
        assert "abs_rel" not in median["model"] and median["ratio"] == {}
    else:
        first, second = result["clips"]
        assert "path_by_median_depth" in first["statistics"] and "path_by_median_depth" not in second["statistics"]
        assert median["statistics"]["path_by_median_depth"] == first["statistics"]["path_by_median_depth"]
        assert median["constant"]["ate_sim3"] == first["constant"]["ate_sim3"] and "ate_sim3" not in second["constant"]
        assert median["ratio"]["abs_rel_by_constant"] == pytest.approx(0, abs=1e-5)


def test_ratios_where_both_have_the_number():
    clips = [
        {"constant": {"abs_rel": 0.4}, "mean": {"ate_sim3": 1.0}, "model": {"ate_sim3": 0.1, "abs_rel": 0.1}},
        {"constant": {"abs_rel": 0.8}, "mean": {"abs_rel": 0.0}, "model": {"abs_rel": 0.1}, "failure": "nothing"},
        {"constant": {}, "model": {"abs_rel": 0.3}},
    ]
    found = medians(clips)
    assert found["constant"] == {"abs_rel": pytest.approx(0.6)} and list(found["model"]) == ["abs_rel", "ate_sim3"]
    assert found["model"] == {"abs_rel": 0.1, "ate_sim3": 0.1} and found["failures"] == 1
    assert found["ratio"] == {
        "abs_rel_by_constant": pytest.approx(0.1 / 0.6),
        "median_ratio_by_constant": pytest.approx((0.25 + 0.125) / 2),
    }
    assert medians([{"model": {"ate_sim3": 2.0}, "constant": {"abs_rel": 1.0}}])["ratio"] == {}
    assert "-" in table({"median": found, "clips": clips}).splitlines()[2]
