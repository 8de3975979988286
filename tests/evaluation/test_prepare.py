"""Frame lists: what was chosen, left out and why; the same run again, or one sentence on where the data differ."""

import json

import numpy as np
import pytest
from layouts import FRAMES, save, write_rgbd, write_sintel, write_tum

from geo4d.cli import main
from geo4d.errors import InputError
from geo4d.evaluation.prepare import load_frame_list, prepare, reopen
from geo4d.evaluation.sets import open_set


def test_a_list_gives_the_same_run_again(tmp_path):
    root, path = tmp_path / "data", tmp_path / "lists" / "sintel.json"
    write_sintel(root)
    write_sintel(root, "bamboo_1")
    prepared = prepare(open_set("sintel", root, stride=2))
    prepared.save(path)
    entries = load_frame_list(path)
    assert entries["rule"] == "released stride=2" and entries["changes"] == {"stride": 2} and not prepared.problems
    frames = entries["sequences"][0]["frames"]
    assert [frame["image"][-8:] for frame in frames] == ["0001.png", "0003.png", "0005.png"]
    assert all(len(frame[key]) == 64 for frame in frames for key in ("image_sha256", "depth_sha256"))
    assert str(root) not in path.read_text()
    again = reopen(path, root, contents=True)
    assert again.names == ("alley_2", "bamboo_1") and again.digest() == entries["digest"]
    assert prepare(open_set("sintel", root, stride=2)).entries == entries
    write_sintel(root, "temple_2")  # what came later is not in the list
    assert reopen(path, root).names == ("alley_2", "bamboo_1")
    assert "alley_2: 3 frames" in prepared.text() and "21 of 23 sequences" in prepared.text()


def test_lists_that_do_not_fit(tmp_path):
    write_rgbd(tmp_path)
    path = tmp_path / "list.json"
    prepare(open_set("rgbd", tmp_path)).save(path)
    picture = tmp_path / "kitchen" / "rgb" / "0002.png"
    before = picture.read_bytes()
    save(picture, np.zeros((48, 64, 3), np.uint8))
    reopen(path, tmp_path)
    with pytest.raises(InputError, match=r"0002\.png: holds something else than when the list was made"):
        reopen(path, tmp_path, contents=True)
    picture.write_bytes(before)
    (tmp_path / "kitchen" / "depth" / "0005.png").unlink()
    with pytest.raises(InputError, match=r"list\.json does not fit the data: kitchen has 5 frames here, 6 in the list"):
        reopen(path, tmp_path)
    entries = json.loads(path.read_text())
    entries["sequences"][0]["frames"] = entries["sequences"][0]["frames"][1:]
    path.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=r"kitchen has kitchen/rgb/0000\.png with .* as frame 0, the list kitchen/rgb/0001\.png"):
        reopen(path, tmp_path)
    (tmp_path / "kitchen").rename(tmp_path / "hall")
    with pytest.raises(InputError, match="lists the sequence kitchen, which is not in"):
        reopen(path, tmp_path)
    path.write_text("{}")
    with pytest.raises(InputError, match="is no list of frames that can be read"):
        reopen(path, tmp_path)


def test_what_was_left_out_is_said(tmp_path):
    write_tum(tmp_path, "desk")
    folder = tmp_path / "desk"
    lines = (folder / "groundtruth.txt").read_text().splitlines()
    (folder / "groundtruth.txt").write_text("\n".join(lines[:1] + lines[5:]))  # the first two frames have no pose any more
    depth = (folder / "depth.txt").read_text().splitlines()
    (folder / "depth.txt").write_text("\n".join(depth[:-1]))
    prepared = prepare(open_set("tum", tmp_path), hashes=False)
    (sequence,) = prepared.entries["sequences"]
    assert len(sequence["frames"]) == FRAMES - 3 and sequence["clock"] == "recorded" and "image_sha256" not in sequence["frames"][0]
    reasons = [item["reason"] for item in sequence["left_out"]]
    assert sum("has no pose within 0.02 s" in reason for reason in reasons) == 2
    assert sum("has no depth map within 0.02 s" in reason for reason in reasons) == 1
    assert "desk: 3 frames, 3 left out" in prepared.text()
    assert len(prepare(open_set("tum", tmp_path, max_gap_s=0.2)).entries["sequences"][0]["frames"]) == FRAMES


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rgbd(tmp_path / "data")
    assert main(["data", "prepare", "rgbd", "data", "--stride", "2", "-q"]) == 0
    assert load_frame_list("rgbd_depth.json")["rule"] == "name stride=2"
    assert "kitchen: 3 frames" in capsys.readouterr().out
    write_rgbd(tmp_path / "data", "hall")
    save(tmp_path / "data" / "hall" / "depth" / "0003.png", np.zeros((48, 64), np.uint16))
    assert main(["data", "prepare", "rgbd", "data", "--out", "lists/a.json", "--no-hashes", "-q"]) == 2
    out, err = capsys.readouterr()
    assert "cannot be used: hall/depth/0003.png: has no pixel whose depth is known" in out
    assert "1 sequences of rgbd cannot be used" in err and len(load_frame_list("lists/a.json")["sequences"]) == 1
    assert main(["data", "prepare", "rgbd", "data", "--rule", "?", "-q"]) == 2
    assert "rgbd has no rule '?'; choose one of these: name:" in capsys.readouterr().err


def test_pictures_of_two_sizes(tmp_path):
    write_rgbd(tmp_path)
    for kind, array in (("rgb", np.zeros((24, 32, 3), np.uint8)), ("depth", np.ones((24, 32), np.uint16))):
        save(tmp_path / "kitchen" / kind / "0004.png", array)
    (problem,) = prepare(open_set("rgbd", tmp_path)).problems
    assert problem.file == "kitchen/rgb/0004.png" and problem.reason.startswith("is 32 x 24, the first picture 64 x 48")
