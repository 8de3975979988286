"""Frame lists: what was chosen, left out and why; the same run again, or one sentence on where the data differ."""

import json

import numpy as np
import pytest
from layouts import FRAMES, save, write_rgbd, write_sintel, write_tum

from geo4d.cli import main
from geo4d.errors import InputError
from geo4d.evaluation.prepare import load_frame_list, prepare, reopen
from geo4d.evaluation.results import Results
from geo4d.evaluation.sets import open_set
from geo4d.evaluation.store import Store


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
    with pytest.raises(
        InputError, match=r"kitchen has kitchen/rgb/0000\.png with .* as frame 0, the list kitchen/rgb/0001\.png"
    ):
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
    (folder / "groundtruth.txt").write_text(
        "\n".join(lines[:1] + lines[5:])
    )  # the first two frames have no pose any more
    depth = (folder / "depth.txt").read_text().splitlines()
    (folder / "depth.txt").write_text("\n".join(depth[:-1]))
    prepared = prepare(open_set("tum", tmp_path), hashes=False)
    (sequence,) = prepared.entries["sequences"]
    assert (
        len(sequence["frames"]) == FRAMES - 3
        and sequence["clock"] == "recorded"
        and "image_sha256" not in sequence["frames"][0]
    )
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
    for file in (tmp_path / "data" / "hall" / "depth").iterdir():
        save(file, np.zeros((48, 64), np.uint16))
    assert main(["data", "prepare", "rgbd", "data", "--out", "lists/a.json", "--no-hashes", "-q"]) == 2
    out, err = capsys.readouterr()
    assert "cannot be used: hall/depth/0000.png: and the other depth maps of hall are zero in every pixel" in out
    assert "1 sequences of rgbd cannot be used" in err and len(load_frame_list("lists/a.json")["sequences"]) == 1
    assert main(["data", "prepare", "rgbd", "data", "--rule", "?", "-q"]) == 2
    assert "rgbd has no rule '?'; choose one of these: name:" in capsys.readouterr().err


def test_pictures_of_two_sizes(tmp_path):
    write_rgbd(tmp_path)
    for kind, array in (("rgb", np.zeros((24, 32, 3), np.uint8)), ("depth", np.ones((24, 32), np.uint16))):
        save(tmp_path / "kitchen" / kind / "0004.png", array)
    (problem,) = prepare(open_set("rgbd", tmp_path)).problems
    assert problem.file == "kitchen/rgb/0004.png" and problem.reason.startswith("is 32 x 24, the first picture 64 x 48")


def evaluate(*words):
    return main(["evaluate", *map(str, words), "--baselines-only", "--no-plots", "-q"])


def statuses(out):
    return {
        record["sequence"]: (record["status"], record["failures"])
        for record in Results.load(Store(out)).rows[0].records
    }


def test_sequences_that_could_not_be_used_are_counted_in_the_run(tmp_path, capsys):
    """As they are without a list: unusable, with the same reason."""
    data, frames = tmp_path / "data", tmp_path / "list.json"
    for name in ("attic", "hall", "kitchen"):
        write_rgbd(data, name)
    for file in (data / "hall" / "depth").iterdir():
        save(file, np.zeros((48, 64), np.uint16))
    (data / "attic" / "rgb" / "0001.png").write_bytes(b"no picture")
    prepared = prepare(open_set("rgbd", data))
    prepared.save(frames)
    assert [entry["sequence"] for entry in prepared.entries["problems"]] == ["attic", "hall"]
    opened = reopen(frames, data)
    assert opened.names == ("attic", "hall", "kitchen") and set(opened.unusable) == {"attic", "hall"}
    with pytest.raises(InputError, match=r"hall/depth/0000\.png: and the other depth maps of hall are zero"):
        opened.sequence("hall")
    assert evaluate("rgbd", data, "--out", tmp_path / "plain") == 0
    assert evaluate("rgbd", data, "--list", frames, "--out", tmp_path / "listed") == 0
    assert statuses(tmp_path / "plain") == statuses(tmp_path / "listed")
    assert [status for status, _ in statuses(tmp_path / "listed").values()] == ["unusable", "unusable", "scored"]
    assert "2 of 3 sequences have no truth that can be used" in capsys.readouterr().out


def test_what_is_missing_stays_missing(tmp_path):
    write_sintel(tmp_path / "data")
    write_sintel(tmp_path / "data", "bamboo_1")
    prepare(open_set("sintel", tmp_path / "data")).save(tmp_path / "list.json")
    write_sintel(tmp_path / "data", "temple_2")
    opened = reopen(tmp_path / "list.json", tmp_path / "data")
    assert opened.names == ("alley_2", "bamboo_1") and opened.missing == ("21 of 23 sequences",)


def test_a_frame_without_known_depth_is_no_fault(tmp_path):
    """By one rule with and without a list: only where nothing is known in any frame is there nothing to score."""
    write_rgbd(tmp_path / "data")
    save(tmp_path / "data" / "kitchen" / "depth" / "0003.png", np.zeros((48, 64), np.uint16))
    prepared = prepare(open_set("rgbd", tmp_path / "data"))
    prepared.save(tmp_path / "list.json")
    assert not prepared.problems and len(prepared.entries["sequences"]) == 1
    assert evaluate("rgbd", tmp_path / "data", "--list", tmp_path / "list.json", "--out", tmp_path / "listed") == 0
    assert statuses(tmp_path / "listed") == {"kitchen": ("scored", {})}


def test_depth_that_the_task_does_not_need_may_be_broken(tmp_path):
    write_rgbd(tmp_path)
    for file in (tmp_path / "kitchen" / "depth").iterdir():
        save(file, np.zeros((48, 64), np.uint16))
    prepared = prepare(open_set("rgbd", tmp_path, task="pose"))
    (sequence,) = prepared.entries["sequences"]
    (left_out,) = sequence["left_out"]
    assert (
        not prepared.problems
        and left_out["file"] == "kitchen/depth/0000.png"
        and "are zero in every pixel" in left_out["reason"]
    )


def test_lists_of_nothing_are_refused(tmp_path, capsys):
    write_rgbd(tmp_path / "data")
    (tmp_path / "data" / "kitchen" / "rgb" / "0001.png").write_bytes(b"no picture")
    frames = tmp_path / "list.json"
    prepare(open_set("rgbd", tmp_path / "data")).save(frames)
    assert evaluate("rgbd", tmp_path / "data", "--list", frames, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "has no sequence that can be used; mend what it names under problems" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries.pop("rule"), "it has no 'rule'"),
        (lambda entries: entries.pop("problems"), "it has no 'problems'"),
        (lambda entries: entries.update(changes=[]), r"its changes is \[\]"),
        (lambda entries: entries.update(changes={"stride": "2"}), 'its stride is "2"'),
        (lambda entries: entries["sequences"][0].pop("digest"), "it has no 'digest'"),
        (lambda entries: entries["sequences"][0]["frames"].append({}), "it has no 'image'"),
        (
            lambda entries: entries["problems"].append({"file": "hall/depth/0000.png", "reason": "is missing"}),
            "it has no 'sequence'",
        ),
        (lambda entries: entries.update(sequences=["kitchen"]), 'it holds "kitchen" where a part with name'),
    ],
)
def test_lists_that_are_none(change, message, tmp_path):
    write_rgbd(tmp_path)
    path = tmp_path / "list.json"
    prepare(open_set("rgbd", tmp_path), hashes=False).save(path)
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=message) as caught:
        reopen(path, tmp_path)
    assert "is no list of frames that can be read" in str(caught.value) and "write it by geo4d data prepare" in str(
        caught.value
    )
