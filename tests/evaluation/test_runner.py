"""`geo4d evaluate` on miniature data sets in their true layouts.

Known answers, failures that count, shards, resuming.
"""

import csv
import json
import shutil

import numpy as np
import pytest
from layouts import FRAMES, save, write_davis, write_rgbd, write_sintel, write_tum
from scipy.spatial.transform import Rotation
from test_sets import CASES

from geo4d.cli import main
from geo4d.errors import ConfigError, InputError
from geo4d.evaluation.methods import Guess, PipelineConfig, SavedPredictions, local_device, make_methods
from geo4d.evaluation.predictions import PredictionForm
from geo4d.evaluation.protocols import PROTOCOLS, choose_protocol
from geo4d.evaluation.results import Results
from geo4d.evaluation.runner import Run, Shard, find_shard, load_truth
from geo4d.evaluation.sets import open_set
from geo4d.evaluation.store import Store

SAME = ("table.md", "table.tex", "sequences.csv", "summary.json", "settings.json")


def evaluate(dataset, root, predictions, out, *options):
    words = [] if predictions is None else ["--predictions", f"method={predictions}"]
    return main(["evaluate", dataset, "--root", str(root), *words, "--out", str(out), "-q", *options])


def numbers(out, method="method"):
    return json.loads((out / "summary.json").read_text())["methods"][method]["scores"]


def predict(opened, folder, change=lambda depth, poses: (depth, poses)):
    """Writes the truth, changed, as somebody's prediction."""
    folder.mkdir(parents=True, exist_ok=True)
    for sequence in opened:
        size = sequence.read_image(0).shape[:2]
        depth = np.ones((sequence.num_frames, *size), np.float32)
        if sequence.read_depth is not None:
            depth, valid = sequence.depths()
            depth = np.where(valid, depth, np.nan)
        depth, poses = change(depth, sequence.cam_to_world)
        arrays = {"depth": depth}
        if sequence.intrinsics is not None:
            arrays["intrinsics"] = (
                np.array([depth.shape[2] / size[1], depth.shape[1] / size[0], 1])[:, None] * sequence.intrinsics
            )
        if poses is not None:
            arrays["cam_to_world"] = poses
        np.savez(folder / f"{sequence.name.replace('/', '_')}.npz", **arrays)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_perfect_predictions_are_perfect_in_every_layout(case, tmp_path):
    write, changes, _, _ = CASES[case]
    name, rule, task = case
    write(tmp_path / "data")
    frames = tmp_path / "frames.json"
    words = [f"--{key}={value}" for key, value in changes.items()]
    assert (
        main(
            [
                "data",
                "prepare",
                name,
                str(tmp_path / "data"),
                "--task",
                task,
                "--rule",
                rule,
                "--out",
                str(frames),
                "-q",
                *words,
            ]
        )
        == 0
    )
    predict(open_set(name, tmp_path / "data", rule=rule, task=task, **changes), tmp_path / "predicted")
    assert (
        evaluate(name, tmp_path / "data", tmp_path / "predicted", tmp_path / "out", "--list", str(frames), "--no-plots")
        == 0
    )
    found = numbers(tmp_path / "out")
    if task == "depth":
        assert found["abs_rel"] == pytest.approx(0, abs=1e-6) and found["delta1"] == found["delta3"] == 1
        assert found["abs_rel_median_scale"] == pytest.approx(0, abs=1e-6) and found.get("boundary_f1", 1) == 1
        assert found.get("point_rel", 0) == pytest.approx(0, abs=1e-6)
    if task == "pose" or "ate_sim3" in found:
        assert found["ate_sim3"] == pytest.approx(0, abs=1e-6) and found["rpe_rotation_deg"] == pytest.approx(
            0, abs=1e-4
        )
        assert found["auc_30"] > 0.999 and found.get("focal_error", 0) == pytest.approx(0, abs=1e-9)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["frames"]["sequences"] == json.loads(frames.read_text())["sequences"]
    assert (
        manifest["failures"]["method"]["failed"] == 0
        and str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()
    )


def umeyama(p, t):
    """RMSE after the best similarity, written down again."""
    x, y = p - p.mean(0), t - t.mean(0)
    u, s, vt = np.linalg.svd(y.T @ x)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = np.trace(np.diag(s) @ sign) / (x**2).sum()
    return np.sqrt(((scale * x @ (u @ sign @ vt).T - y) ** 2).sum(1).mean())


def test_known_changes_give_known_numbers(tmp_path):
    write_rgbd(tmp_path / "data", npy=True)
    opened = open_set("rgbd", tmp_path / "data")
    (sequence,) = opened
    true, valid = sequence.depths()
    t = true[valid].astype(np.float64)
    checker = np.where(np.indices(true.shape).sum(0) % 2, 0.1, -0.1)
    offset = 0.05 * np.random.default_rng(3).normal(size=(FRAMES, 3))
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = Rotation.random(random_state=1).as_matrix(), [1, 2, 3]

    def similar(depth, poses):
        poses = world @ poses
        poses[:, :3, 3] *= 7.0
        return 2.5 * depth + 0.7, poses

    def noisy(depth, poses):
        poses = poses.copy()
        poses[:, :3, 3] += offset
        return depth * (1 + checker), poses

    predict(opened, tmp_path / "similar", similar)
    predict(opened, tmp_path / "noisy", noisy)
    found = {}
    for protocol in ("geo4d", "scale-only", "metric"):
        words = ["--protocol", protocol, "--predictions", f"noisy={tmp_path / 'noisy'}", "--no-plots", "--no-baselines"]
        assert evaluate("rgbd", tmp_path / "data", tmp_path / "similar", tmp_path / protocol, *words) == 0
        for method in ("method", "noisy"):
            found[protocol, method] = numbers(tmp_path / protocol, method)
    assert found["geo4d", "method"]["abs_rel"] == pytest.approx(0, abs=1e-6) and found["geo4d", "method"]["delta1"] == 1
    p = 2.5 * t + 0.7
    by_median = np.abs(np.sort(t)[(len(t) - 1) // 2] / np.sort(p)[(len(t) - 1) // 2] * p - t) / t
    assert found["scale-only", "method"]["abs_rel"] == pytest.approx(by_median.mean(), rel=1e-5)
    assert found["geo4d", "method"]["abs_rel_median_scale"] == pytest.approx(by_median.mean(), rel=1e-5)
    assert found["metric", "method"]["abs_rel"] == pytest.approx((np.abs(p - t) / t).mean(), rel=1e-5)
    assert found["metric", "method"]["rmse"] == pytest.approx(np.sqrt(((p - t) ** 2).mean()), rel=1e-5)
    assert (
        found["metric", "noisy"]["abs_rel"] == pytest.approx(0.1, rel=1e-5) and found["metric", "noisy"]["delta1"] == 1
    )
    assert found["geo4d", "method"]["ate_sim3"] == pytest.approx(0, abs=1e-6)
    assert found["geo4d", "method"]["rpe_rotation_deg"] == pytest.approx(0, abs=1e-4)
    centres = sequence.cam_to_world[:, :3, 3]
    assert found["geo4d", "noisy"]["ate_sim3"] == pytest.approx(umeyama(centres + offset, centres), rel=1e-4)
    assert (
        found["metric", "noisy"]["ate_se3"] >= found["geo4d", "noisy"]["ate_sim3"]
        and "ate_se3" not in found["geo4d", "noisy"]
    )


def test_what_is_upside_down_is_told_in_tables_and_data(tmp_path):
    write_rgbd(tmp_path / "data", npy=True)
    opened = open_set("rgbd", tmp_path / "data")
    predict(opened, tmp_path / "wrong", lambda depth, poses: (np.nanmax(depth) + np.nanmin(depth) - depth, poses))
    predict(opened, tmp_path / "right", lambda depth, poses: (2 * depth + 1, poses))
    words = ["--predictions", f"right={tmp_path / 'right'}", "--no-plots", "--json", str(tmp_path / "numbers.json")]
    assert evaluate("rgbd", tmp_path / "data", tmp_path / "wrong", tmp_path / "out", *words) == 0
    assert numbers(tmp_path / "out")["abs_rel"] == pytest.approx(
        numbers(tmp_path / "out", "constant")["abs_rel"], rel=1e-9
    )
    assert numbers(tmp_path / "out", "right")["abs_rel"] == pytest.approx(0, abs=1e-6)
    methods = json.loads((tmp_path / "out" / "summary.json").read_text())["methods"]
    flips = {name: methods[name]["upside_down"]["depth"] for name in ("method", "right", "constant")}
    none = {"sequences": 0, "frames": 0}
    assert flips == {"method": {"sequences": 1, "frames": FRAMES}, "right": none, "constant": none}
    assert (
        json.loads((tmp_path / "numbers.json").read_text())["upside_down"]["model"] == methods["method"]["upside_down"]
    )
    assert f"scored at scale 0: method on 1 of 1 ({FRAMES} frames)." in (tmp_path / "out" / "table.md").read_text()
    (record,) = Store(tmp_path / "out").records("method")
    assert record["upside_down"] == {"depth": FRAMES, "points": 0}
    assert evaluate("rgbd", tmp_path / "data", tmp_path / "right", tmp_path / "fine", "--no-plots") == 0
    assert "Upside down" not in (tmp_path / "fine" / "table.md").read_text()


def test_confidence_that_knows_where_the_errors_are(tmp_path):
    """Half of the pixels are off by a fiftieth, the others by a fifth, and the method knows which."""
    write_rgbd(tmp_path / "data", npy=True)
    (sequence,) = open_set("rgbd", tmp_path / "data")
    true, valid = sequence.depths()
    good = np.indices(true.shape).sum(0) % 2 == 0
    arrays = {
        "depth": np.where(valid, true * np.where(good, 1.02, 1.2), np.nan),
        "depth_conf": np.where(good, 3.0, 0.5)[None],
    }
    (tmp_path / "knows").mkdir()
    np.savez(tmp_path / "knows" / "kitchen.npz", **arrays)
    assert evaluate("rgbd", tmp_path / "data", tmp_path / "knows", tmp_path / "out", "--protocol", "metric") == 0
    (record,) = Store(tmp_path / "out").records("method")
    share = good[valid].mean()
    assert record["scores"]["abs_rel"] == pytest.approx(0.02 * share + 0.2 * (1 - share), rel=1e-4)
    assert record["scores"]["abs_rel_trusted"] == pytest.approx(0.02, rel=1e-2) and len(record["trust"]["error"]) == 10
    assert record["trust"]["error"][0] == pytest.approx(0.2, rel=1e-3) and record["trust"]["error"][
        -1
    ] == pytest.approx(0.02, rel=1e-3)
    assert "expected" not in record["trust"] and (tmp_path / "out" / "plots" / "reliability.png").stat().st_size > 5000
    assert set(record["failures"]) == {"pose", "focal", "points"} and record["status"] == "scored"
    row = Results.load(Store(tmp_path / "out")).row("method")
    assert "ate_sim3" not in row.cells and row.failed == 0 and not any(cell.failures for cell in row.cells.values())


def test_cameras_of_a_depth_run_are_those_of_the_rule(tmp_path):
    write_sintel(tmp_path)
    write_sintel(tmp_path, "bamboo_1")  # whose camera hardly moves: for depth alone
    opened = open_set("sintel", tmp_path)
    groups = {sequence.name: load_truth(opened, sequence).groups for sequence in opened}
    assert "pose" in groups["alley_2"] and "pose" not in groups["bamboo_1"] and "depth" in groups["bamboo_1"]
    predict(opened, tmp_path / "predicted")
    assert evaluate("sintel", tmp_path, tmp_path / "predicted", tmp_path / "out", "--no-plots") == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "ATE ↓ (1)" in table and "Abs Rel ↓ |" in table and "not there: 21 of 23 sequences" in table


def rooms(root, count=5):
    names = [f"room_{i}" for i in range(count)]
    for name in names:
        write_rgbd(root, name, npy=True)
    return names


def damage(data, predicted):
    """Ten rooms, in most of which something else is wrong with the prediction or with the truth."""
    names = rooms(data, 10)
    predict(open_set("rgbd", data), predicted)
    arrays = {name: dict(np.load(predicted / f"{name}.npz")) for name in names}
    (predicted / "room_1.npz").unlink()
    arrays["room_2"] = {key: value[:-1] for key, value in arrays["room_2"].items()}
    arrays["room_3"]["depth"] = 0 * arrays["room_3"]["depth"]
    arrays["room_4"]["cam_to_world"] = arrays["room_4"]["cam_to_world"][:1]
    arrays["room_5"]["depth"] = arrays["room_5"]["depth"].transpose(0, 2, 1)
    arrays["room_6"]["cam_to_world"][3] = np.nan
    for name in ("room_2", "room_3", "room_4", "room_5", "room_6"):
        np.savez(predicted / f"{name}.npz", **arrays[name])
    for file in (data / "room_7" / "depth").iterdir():
        np.save(file, np.zeros((48, 64), np.float32))
    save(data / "room_8" / "rgb" / "0002.png", np.zeros((24, 32, 3), np.uint8))
    shutil.rmtree(data / "room_9" / "depth")


REASONS = {
    "room_1": ("failed", "holds no prediction for room_1"),
    "room_2": ("failed", "room_2.npz: holds depth of 5 frames; room_2 has 6"),
    "room_3": ("failed", "room_3.npz: holds depth that is zero or not finite in every pixel"),
    "room_4": ("failed", "room_4.npz: holds cam_to_world of 1 frames; room_4 has 6"),
    "room_5": ("failed", "holds depth of 48 x 64 for pictures of 64 x 48; is it on its side?"),
    "room_6": ("scored", "must be finite; got nan or infinity in frame 3"),
    "room_7": ("unusable", "are zero in every pixel"),
    "room_8": ("unusable", "room_8/rgb/0002.png: is 32 x 24, the first of room_8 64 x 48"),
    "room_9": ("unusable", "room_9/depth: holds no depth map"),
}


def test_what_fails_is_named_and_counted(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    damage(data, tmp_path / "predicted")
    assert evaluate("rgbd", data, tmp_path / "predicted", out, "--no-plots", "--protocol", "geo4d") == 0
    table = capsys.readouterr().out
    results = Results.load(Store(out))
    rows = {row.method: {record["sequence"]: record for record in row.records} for row in results.rows}
    for name, (status, reason) in REASONS.items():
        record = rows["method"][name]
        assert record["status"] == status and any(reason in text for text in record["failures"].values()), record[
            "failures"
        ]
        assert reason in table
        assert rows["constant"][name]["status"] == ("unusable" if status == "unusable" else "scored")
    assert str(tmp_path) not in table and "5 of 10" in table and "* method on room_6 (pose): " in table
    assert "3 of 10 sequences have no truth that can be used" in table
    constant = rows["constant"]["room_2"]["scores"]
    for name in ("abs_rel", "ate_sim3", "focal_error", "point_rel"):
        assert rows["method"]["room_2"]["scores"][name] == constant[name] > 0
    assert rows["method"]["room_2"]["scores"]["delta1"] == rows["method"]["room_2"]["scores"]["auc_30"] == 0
    assert rows["method"]["room_2"]["pixels"] == rows["constant"]["room_2"]["pixels"]
    assert rows["method"]["room_6"]["scores"]["ate_sim3"] == rows["constant"]["room_6"]["scores"]["ate_sim3"]
    assert rows["method"]["room_6"]["scores"]["abs_rel"] == pytest.approx(0, abs=1e-6)
    # depth is perfect in two of the seven rooms with truth, which have as many pixels each
    cells = results.row("method").cells
    assert cells["abs_rel"].sequences == 7 and cells["abs_rel"].failures == 5 and cells["ate_sim3"].failures == 5
    assert cells["abs_rel"].value == pytest.approx(5 / 7 * constant["abs_rel"], rel=1e-5)
    assert cells["delta1"].value == pytest.approx(2 / 7) and results.best("abs_rel") == set()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["failures"]["method"] == {
        "failed": 5,
        "of": 10,
        "unusable": 3,
        "sequences": {
            name: rows["method"][name]["failures"] for name, (status, _) in REASONS.items() if status != "unusable"
        },
    }
    assert len(manifest["frames"]["problems"]) == 3 and len(manifest["frames"]["sequences"]) == 7
    with (out / "sequences.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 30 and {line["status"] for line in lines} == {"scored", "failed", "unusable"}


def test_recordings_whose_clocks_do_not_fit(tmp_path, capsys):
    data = tmp_path / "data"
    names = [f"rgbd_dataset_freiburg3_{what}" for what in ("sitting_xyz", "walking_rpy", "walking_xyz")]
    for name in names:
        write_tum(data, name)
    predict(open_set("tum-dynamics", data), tmp_path / "predicted")
    for name, change in zip(
        names, (lambda lines: lines[:2], lambda lines: lines[:1] + ["2" + line[1:] for line in lines[1:]]), strict=False
    ):
        file = data / name / "groundtruth.txt"
        file.write_text("\n".join(change(file.read_text().splitlines())))
    assert evaluate("tum-dynamics", data, tmp_path / "predicted", tmp_path / "out", "--no-plots") == 0
    results = Results.load(Store(tmp_path / "out"))
    reasons = [record["failures"].get("truth", "") for record in results.row("method").records]
    assert "has 1 true poses; expected at least 2" in reasons[0] and reasons[1].startswith(
        "rgbd_dataset_freiburg3_walking_rpy/groundtruth.txt"
    )
    assert "holds no pose within 0.02 s of any frame" in reasons[1] and reasons[2] == ""
    assert (
        results.row("method").cells["ate_sim3"].sequences == 1
        and "2 of 3 sequences have no truth" in capsys.readouterr().out
    )


def test_truth_that_the_task_does_not_need_may_be_broken(tmp_path):
    data = tmp_path / "data"
    rooms(data, 3)
    predict(open_set("rgbd", data), tmp_path / "predicted")
    file = data / "room_1" / "cam_to_world.txt"
    file.write_text("\n".join(["nan " * 16, *file.read_text().splitlines()[1:]]))
    assert evaluate("rgbd", data, tmp_path / "predicted", tmp_path / "depth", "--no-plots") == 0
    row = Results.load(Store(tmp_path / "depth")).row("method")
    assert row.failed == row.unusable == 0 and "pose" not in row.records[1]["groups"]
    assert (
        row.cells["abs_rel"].sequences == 3
        and row.cells["ate_sim3"].sequences == 2
        and row.cells["ate_sim3"].failures == 0
    )
    assert evaluate("rgbd", data, tmp_path / "predicted", tmp_path / "pose", "--no-plots", "--task", "pose") == 0
    row = Results.load(Store(tmp_path / "pose")).row("method")
    assert row.unusable == 1 and "The true trajectory must be finite" in row.records[1]["failures"]["truth"]
    for path in (data / "room_2" / "depth").iterdir():
        np.save(path, np.zeros((48, 64), np.float32))
    assert evaluate("rgbd", data, tmp_path / "predicted", tmp_path / "zeros", "--no-plots", "--task", "pose") == 0
    row = Results.load(Store(tmp_path / "zeros")).row("method")
    assert row.unusable == 2 and "choose a protocol in metres" in row.records[2]["failures"]["truth"]
    assert (
        evaluate(
            "rgbd",
            data,
            tmp_path / "predicted",
            tmp_path / "metres",
            "--no-plots",
            "--task",
            "pose",
            "--protocol",
            "geo4d",
        )
        == 0
    )
    cells = Results.load(Store(tmp_path / "metres")).row("method").cells
    assert cells["ate_sim3"].sequences == 2 and cells["abs_rel"].sequences == 1


class Moody:
    """A method that fails as libraries do."""

    name, folder = "moody", None

    def describe(self):
        return {"kind": "predictions", "form": {}}

    def source(self, sequence):
        return ""

    def predict(self, sequence, truth):
        if sequence.name == "room_0":
            raise RuntimeError("CUDA out of memory.\nTried to allocate")
        if sequence.name == "room_1":
            raise TypeError("a mistake in the code")
        return Guess("mean").predict(sequence, truth)


def test_a_library_that_fails_does_not_end_the_run_but_a_mistake_does(tmp_path):
    rooms(tmp_path / "data", 3)
    opened = open_set("rgbd", tmp_path / "data", include="room_[02]")
    run = Run(opened, [Moody()], "relative", PROTOCOLS["relative"], Store(tmp_path / "out"))
    run.evaluate()
    first, second = run.store.records("moody")
    assert first["status"] == "failed" and set(first["failures"].values()) == {"RuntimeError: CUDA out of memory."}
    assert second["status"] == "scored" and run.is_complete()
    other = Run(
        open_set("rgbd", tmp_path / "data"), [Moody()], "relative", PROTOCOLS["relative"], Store(tmp_path / "other")
    )
    with pytest.raises(TypeError, match="a mistake"):
        other.evaluate()
    assert other.store.record("moody", "room_0") is not None and not other.is_complete()
    with pytest.raises(InputError, match="is not finished; start the same command again"):
        Results.load(other.store)


def contents(out):
    return {
        path.relative_to(out): path.read_bytes()
        for path in [out / name for name in SAME] + sorted(out.glob("frames/*"))
    }


@pytest.mark.slow
def test_two_ranks_write_the_same_tables_as_one(tmp_path, capsys, monkeypatch):
    data, predicted = tmp_path / "data", tmp_path / "predicted"
    damage(data, predicted)
    assert evaluate("rgbd", data, predicted, tmp_path / "one") == 0
    table = capsys.readouterr().out
    assert evaluate("rgbd", data, predicted, tmp_path / "two", "--shard", "2/2") == 0
    assert capsys.readouterr().out == "" and not (tmp_path / "two" / "table.md").exists()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert evaluate("rgbd", data, predicted, tmp_path / "two") == 0
    assert capsys.readouterr().out == table
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two"))
    assert one.pop("cost").keys() == two.pop("cost").keys() and one == two
    plots = sorted(path.name for path in (tmp_path / "two" / "plots").iterdir())
    assert plots == ["frames_abs_rel.png", "frames_position.png", "trajectories.png"]
    for name in plots:
        assert (tmp_path / "one" / "plots" / name).read_bytes() == (tmp_path / "two" / "plots" / name).read_bytes()


def test_a_run_goes_on_where_it_was_and_refuses_to_mix(tmp_path, capsys):
    data, predicted, out = tmp_path / "data", tmp_path / "predicted", tmp_path / "out"
    rooms(data, 3)
    predict(open_set("rgbd", data), predicted)
    (predicted / "room_1.npz").rename(tmp_path / "later.npz")
    words = ["--no-plots", "--no-baselines"]
    assert evaluate("rgbd", data, predicted, out, *words) == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("sequences/method/room_*.json")}
    (out / "sequences" / "method" / "room_2.json").unlink()
    assert evaluate("rgbd", data, predicted, out, *words) == 0
    after = {path: path.stat().st_mtime_ns for path in out.glob("sequences/method/room_*.json")}
    assert [path.stem for path in before if before[path] != after[path]] == ["room_2"]
    assert "1 of 3" in capsys.readouterr().out
    shutil.copy(tmp_path / "later.npz", predicted / "room_1.npz")
    assert evaluate("rgbd", data, predicted, out, *words) == 2
    assert (
        "The result of method on room_1" in (error := capsys.readouterr().err)
        and "was made with other predictions" in error
    )
    assert evaluate("rgbd", data, predicted, out, *words, "--retry") == 0
    assert "0 of 3" in capsys.readouterr().out
    assert evaluate("rgbd", data, predicted, out, *words, "--protocol", "metric") == 2
    error = capsys.readouterr().err
    assert "was made with another constants" in error and "--overwrite" in error and error.count("\n") == 1
    assert evaluate("rgbd", data, predicted, out, *words, "--disparity") == 2
    assert "was made with another form" in capsys.readouterr().err
    assert (
        evaluate("rgbd", data, None, out, "--baselines-only", "--no-plots") == 0
    )  # more methods beside those that are there
    assert [row.method for row in Results.load(Store(out)).rows] == ["method", "constant", "mean"]
    np.save(data / "room_0" / "depth" / "0006.npy", np.ones((48, 64), np.float32))
    save(data / "room_0" / "rgb" / "0006.png", np.zeros((48, 64, 3), np.uint8))
    (data / "room_0" / "cam_to_world.txt").unlink()
    (data / "room_0" / "intrinsics.txt").unlink()
    assert evaluate("rgbd", data, predicted, out, *words) == 2
    assert "was made with other frames" in capsys.readouterr().err
    assert evaluate("rgbd", data, predicted, out, *words, "--overwrite", "--protocol", "metric") == 0
    assert Results.load(Store(out)).settings["protocol"] == "metric"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    assert evaluate("rgbd", data, predicted, tmp_path / "mine", *words, "--overwrite") == 2
    assert (
        "holds something that is no run of geo4d evaluate" in capsys.readouterr().err
        and (tmp_path / "mine" / "thesis.txt").exists()
    )


def test_pictures_without_truth_are_predicted_and_kept(tmp_path):
    write_davis(tmp_path / "data")
    words = ["--model", "tiny", "--device", "cpu", "--keep"]
    assert evaluate("davis", tmp_path / "data", None, tmp_path / "out", *words) == 0
    assert (tmp_path / "out" / "predictions" / "tiny" / "bear" / "reconstruction.json").is_file()
    (record,) = Store(tmp_path / "out").records("tiny")
    assert record["status"] == "scored" and record["scores"] == {} and record["cost"]["seconds"] > 0
    # what was kept can be read as predictions
    assert (
        evaluate(
            "davis", tmp_path / "data", tmp_path / "out" / "predictions" / "tiny", tmp_path / "again", "--no-plots"
        )
        == 0
    )
    assert Results.load(Store(tmp_path / "again")).row("method").failed == 0


def test_shards():
    assert find_shard(None) == Shard() and find_shard("2/3") == Shard(1, 3)
    assert [Shard(i, 3).pick("abcdefg") for i in range(3)] == [list("adg"), list("be"), list("cf")]
    for text in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(ConfigError, match=r"shard must be"):
            find_shard(text)


def test_ranks_of_slurm(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "4")  # of the job: its script itself is no task of a step
    assert find_shard(None) == Shard()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert find_shard(None) == Shard(3, 4)
    assert local_device("auto") == "auto" and local_device("cpu") == "cpu"


def test_names_that_do_not_fit(tmp_path):
    with pytest.raises(
        ConfigError, match="There is no protocol 'best'; choose one of these: geo4d: One scale and shift"
    ):
        choose_protocol("best", "sintel")
    assert choose_protocol(None, "sintel")[0] == "geo4d" and choose_protocol(None, "procedural")[0] == "relative"
    assert (
        PROTOCOLS["geo4d"].depth_of("kitti").alignment.descent is not None
        and PROTOCOLS["monst3r"].depth_of("kitti").max_depth is None
    )
    with pytest.raises(ConfigError, match="two called 'mean'"):
        make_methods(["mean", "mean"], [], PipelineConfig(), PredictionForm(), None)
    with pytest.raises(InputError, match="There is no folder of predictions"):
        make_methods([], [f"x={tmp_path / 'nowhere'}"], PipelineConfig(), PredictionForm(), None)
    assert make_methods([], [str(tmp_path)], PipelineConfig(), PredictionForm(), None) == [
        SavedPredictions(tmp_path.name, tmp_path)
    ]
