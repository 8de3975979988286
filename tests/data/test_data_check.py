"""`geo4d data check`: says that a good tree is good, and names what is wrong with a bad one."""

import json

import numpy as np
import pytest
from PIL import Image
from trees import FRAMES, WRITERS, cut_short, text, write_folder, write_spring, write_tartanair, write_vkitti2

from geo4d.cli import main
from geo4d.data import open_data
from geo4d.data.check import check_data, reproject


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_good_tree_has_no_problem(kind, tmp_path, capsys):
    WRITERS[kind](tmp_path / "root")
    assert main(["data", "check", str(tmp_path / "root"), "--out", str(tmp_path / "out"), "--all", "-q"]) == 0
    output = capsys.readouterr().out
    assert f"{kind} in" in output and "0 problems" in output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    finding = report["findings"][0]
    assert finding["read"] == FRAMES and finding["agreement"] > 0.75 and 1 < finding["median_depth"] < 50
    sheet = Image.open(tmp_path / "out" / "contact_sheet.png")
    assert sheet.height == 150 * len(report["findings"]) and sheet.width > 700
    assert (tmp_path / "out" / "report.txt").read_text() == output


def problems(root, **settings):
    return check_data(open_data(root, include="*"), **settings).problems


def test_missing_and_unreadable_files_are_named_once(tmp_path, capsys):
    write_vkitti2(tmp_path / "a")
    broken = tmp_path / "a/Scene01/clone/frames/rgb/Camera_1/rgb_00002.jpg"
    cut_short(broken)
    (tmp_path / "a/Scene01/clone/frames/depth/Camera_0/depth_00005.png").unlink()
    assert (
        main(["data", "check", str(tmp_path / "a"), "--kind", "vkitti2", "--out", str(tmp_path / "out"), "--all", "-q"])
        == 2
    )
    output, error = capsys.readouterr()
    assert output.count("rgb_00002.jpg") == 1 and "depth_00005.png: is missing" in output
    assert "2 problems" in error and "Traceback" not in error


def test_units_and_axes_that_are_wrong_show(tmp_path):
    truth = write_tartanair(tmp_path / "axes")
    file = tmp_path / "axes/office/Easy/P000/pose_left.txt"
    poses = truth.cam_to_world.numpy()
    text(
        file, [[*pose[:3, 3] * 5, 0, 0, 0, 1] for pose in poses]
    )  # OpenCV axes in a file that should be north-east-down
    assert any("depth and cameras disagree" in problem.reason for problem in problems(tmp_path / "axes", samples=None))
    write_tartanair(tmp_path / "units")
    for file in (tmp_path / "units").rglob("*.npy"):
        np.save(file, np.load(file) / 1000)
    found = problems(tmp_path / "units", samples=1)
    assert any("absurd depth" in problem.reason for problem in found)


def test_cameras_that_jump(tmp_path):
    write_spring(tmp_path)
    file = tmp_path / "train/0001/cam_data/extrinsics.txt"
    rows = np.loadtxt(file)
    rows[4:, 3] += 30
    text(file, rows)
    found = problems(tmp_path)
    assert [problem.reason.split(":")[0] for problem in found if "jump" in problem.reason] == [
        "lets the camera jump between frames 4 and 5"
    ]


def test_a_tree_of_empty_recordings(tmp_path, capsys):
    (tmp_path / "a/00000").mkdir(parents=True)
    (tmp_path / "a/00000/rgb.mp4").write_bytes(b"")
    assert main(["data", "check", str(tmp_path / "a"), "--out", str(tmp_path / "out"), "-q"]) == 2
    assert "holds no recording that can be used" in capsys.readouterr().out


def test_usage(tmp_path, capsys):
    assert main(["data"]) == 2
    assert main(["data", "check", "--help"]) == 0
    assert "contact_sheet.png" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "nowhere"), "--out", str(tmp_path)]) == 2
    assert "There is no folder" in capsys.readouterr().err
    write_folder(tmp_path / "a")
    (tmp_path / "file").write_text("")
    assert main(["data", "check", str(tmp_path / "a"), "--out", str(tmp_path / "file")]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_points_drawn_into_the_same_frame_stay_where_they_are(tmp_path):
    write_folder(tmp_path)
    data = open_data(tmp_path)
    frame = next(iter(data.frames(data.recordings[0], [2])))
    row, column, depth, origin = reproject(frame, frame)
    places = np.argwhere(frame.valid)
    assert np.array_equal(np.stack([row, column], 1), places[origin]) and len(row) == len(places)
    np.testing.assert_allclose(depth, frame.depth[frame.valid], rtol=1e-6)
