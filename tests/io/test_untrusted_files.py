"""Results, tracks and window predictions that nobody meant well.

Wrong types, impossible numbers, sizes that are claimed alone.
"""

import io
import json
import os
import resource
import zipfile

import numpy as np
import pytest

from geo4d.cli import main
from geo4d.data.index import Index, cache_folder, load_index
from geo4d.errors import InputError
from geo4d.evaluation.prepare import load_frame_list
from geo4d.evaluation.store import Store
from geo4d.io.contracts import lift_tracks
from geo4d.scene import Reconstruction, Tracks
from geo4d.scene.arrays import LARGEST_JSON, UNPACKED, Unreadable, read_archive, read_json
from geo4d.scene.files.reconstruction import SUMMARY, load_reconstruction, save_reconstruction
from geo4d.scene.files.tracks import load_tracks
from geo4d.scene.files.windows import load_windows
from geo4d.synthetic.benchmark import read_entry
from geo4d.synthetic.files import write_clip

HUGE = 2**31 - 1


def says(error):
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


def refused_by_command(capsys, *words):
    """The one sentence of a command that ends with 2, having taken less than a gigabyte more."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main([str(word) for word in words]) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20
    error = capsys.readouterr().err.strip()
    assert error.startswith("geo4d: error: ") and "\n" not in error
    return error


# results


@pytest.fixture
def result(tmp_path, small_reconstruction):
    save_reconstruction(small_reconstruction, tmp_path / "r")
    return tmp_path / "r"


@pytest.mark.parametrize(
    "name,kind",
    [
        ("timestamps", "U9"),
        ("timestamps", "i8"),
        ("depth", "f2"),
        ("depth", "i4"),
        ("confidence", "c16"),
        ("valid", "u1"),
        ("images", "f4"),
        ("intrinsics", "S4"),
        ("cam_to_world", ">f8"),
        ("dynamic", "u1"),
    ],
)
def test_arrays_of_another_type(result, small_reconstruction, name, kind):
    shape = getattr(small_reconstruction, name if name != "dynamic" else "depth").shape
    np.save(result / f"{name}.npy", np.zeros(shape, kind))
    with pytest.raises(InputError, match=f"holds {name} of type") as error:
        load_reconstruction(result)
    says(error)


def test_words_in_the_place_of_times_never_reach_the_page(result, tmp_path, capsys):
    np.save(result / "timestamps.npy", np.array(["</script><script>alert(1)</script>"] * 8))
    assert "timestamps of type" in refused_by_command(capsys, "view", result, "--html", tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize(
    "name,change,said",
    [
        ("timestamps", lambda array: array * np.nan, "timestamps that are not finite"),
        ("intrinsics", lambda array: array * np.inf, "intrinsics that are not finite"),
        ("cam_to_world", lambda array: array + np.inf, "cam_to_world that are not finite"),
        ("intrinsics", lambda array: -array, "cameras that cannot be"),
        ("cam_to_world", lambda array: 0 * array, "cameras that cannot be"),
        ("cam_to_world", lambda array: 1e300 * array, "cameras that cannot be"),
        ("cam_to_world", lambda array: array * [1.0, 1, -1, 1], "cameras that cannot be"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_cameras_and_times_that_cannot_be(result, small_reconstruction, name, change, said):
    np.save(result / f"{name}.npy", change(getattr(small_reconstruction, name)))
    with pytest.raises(InputError, match=said) as error:
        load_reconstruction(result)
    says(error)


@pytest.mark.parametrize(
    "field,value",
    [
        ("source_size", [0, 72]),
        ("source_size", [48, -1]),
        ("source_size", [48.5, 72]),
        ("source_size", ["48", "72"]),
        ("source_size", [10**12, 10**12]),
        ("source_size", [48, 72, 3]),
        ("source_size", 48),
        ("source_size", {"height": 48}),
        ("size", [[24], [36]]),
        ("size", [10**400, 36]),
        ("is_metric", "yes"),
        ("is_metric", 1),
        ("diagnostics", []),
        ("diagnostics", {"expected_error": "</script>"}),
        ("frames", True),
        ("frames", "8"),
        ("frames", None),
    ],
)
def test_fields_of_another_type(result, field, value):
    summary = json.loads((result / SUMMARY).read_text())
    (result / SUMMARY).write_text(json.dumps(summary | {field: value}))
    with pytest.raises(InputError, match=f"damaged.*{field if field != 'diagnostics' else ''}") as error:
        load_reconstruction(result)
    says(error)


@pytest.mark.parametrize("text", ["[" * 100_000, "\xff", '{"frames": ' + "9" * 5000 + "}", '"text"'])
def test_summaries_that_cannot_be_read(result, text):
    (result / SUMMARY).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="damaged") as error:
        load_reconstruction(result)
    says(error)


def test_files_of_another_kind_in_the_place_of_an_array(result):
    whole = (result / "depth.npy").read_bytes()
    with (result / "depth.npy").open("wb") as file:
        np.savez(file, depth=np.zeros((8, 24, 36), np.float32))
    with pytest.raises(InputError, match="several arrays"):
        load_reconstruction(result)
    np.save(result / "depth.npy", np.array([{}] * 8), allow_pickle=True)
    with pytest.raises(InputError, match="damaged"):
        load_reconstruction(result)
    (result / "depth.npy").write_bytes(whole[:-1])
    with pytest.raises(InputError, match="damaged"):
        load_reconstruction(result)
    (result / "depth.npy").write_bytes(whole)
    assert isinstance(load_reconstruction(result).depth, np.memmap)


# tracks


def write_tracks(path, **changed):
    rows = {"track": np.array([0, 0, 1, 1]), "frame": np.array([0, 1, 0, 1]), "position": np.full((4, 2), 5.0)}
    np.savez(path, **(rows | {"source_size": np.array([48, 72]), "num_frames": np.array(8)} | changed))
    return path


TRACKS = [
    {"track": np.array([0, 0, 1, HUGE])},
    {"track": np.array([0, 0, 1, 2**32])},  # 0 as an int32
    {"frame": np.array([0, 1, 0, 2**32 + 1])},
    {"track": np.array([0, 0, 1, -1])},
    {"track": np.array([0, 0, 1, 1.5])},
    {"track": np.array(["0", "0", "1", "1"])},
    {"frame": np.array([0, 1, 0, 1], complex)},
    {"position": np.full((4, 2), "x")},
    {"position": np.full((4, 2), 1e30)},
    {"position": np.full((4, 2), np.inf)},
    {"track": np.array(0)},
    {"source_size": np.array([-48, 72])},
    {"source_size": np.array([48.0, 72.0])},
    {"source_size": np.array([2**40, 2**40])},
    {"source_size": np.array(["48", "72"])},
    {"num_frames": np.array(-8)},
    {"num_frames": np.array("8")},
    {"num_frames": np.array(2**40), "frame": np.array([0, 1, 0, 2**32 + 1])},
    {"num_frames": np.array([8, 8])},
    {"track": np.array([{}] * 4)},
]


@pytest.mark.parametrize(
    "wrong", TRACKS, ids=lambda wrong: "-".join(f"{name}-{array.flat[-1]}" for name, array in wrong.items())
)
def test_tracks_that_cannot_be(tmp_path, wrong):
    good = load_tracks(write_tracks(tmp_path / "good.npz"))
    assert [getattr(good, name).dtype.name for name in ("track", "frame", "position")] == ["int32", "int32", "float32"]
    with pytest.raises(InputError) as error:
        load_tracks(write_tracks(tmp_path / "wrong.npz", **wrong))
    says(error)


def test_dense_tracks_need_bools(tmp_path):
    dense = {"points": np.full((3, 8, 2), 5.0), "source_size": np.array([48, 72])}
    np.savez(
        tmp_path / "t.npz", visible=np.full((3, 8), 0.2), **dense
    )  # probabilities, of which none would be seen as false
    with pytest.raises(InputError, match="must be bool") as error:
        load_tracks(tmp_path / "t.npz")
    says(error)


def test_a_huge_track_number_is_refused_by_every_command(result, tmp_path, capsys):
    tracks = write_tracks(tmp_path / "t.npz", track=np.array([0, 0, 1, HUGE]))
    out = tmp_path / "out.npz"
    for contract in ("worldtrack", "syn4d"):
        words = ("export", result, "--format", contract, "--tracks", tracks, "--out", out)
        assert "number tracks from 0" in refused_by_command(capsys, *words)
    windows = tmp_path / "windows.npz"
    np.savez(windows, windows=np.array([[0, 1]]), disparity=np.ones((1, 2, 4, 5), np.float32))
    words = ("align", windows, "--tracks", tracks, "--out", tmp_path / "aligned")
    assert "number tracks from 0" in refused_by_command(capsys, *words)
    assert not out.exists() and not (tmp_path / "aligned").exists()


def test_more_points_than_the_dense_form_can_hold():
    frames, rows = 2000, 4500
    depth = np.ones((frames, 2, 2), np.float32)
    result = Reconstruction(
        depth, depth, depth > 0, np.zeros((frames, 2, 2, 3), np.uint8), np.tile(np.eye(3), (frames, 1, 1)),
        np.tile(np.eye(4), (frames, 1, 1)), np.arange(frames) / 24, (2, 2),
    )  # fmt: skip
    tracks = Tracks(
        16 * np.arange(rows, dtype=np.int32), np.zeros(rows, np.int32), np.ones((rows, 2), np.float32), (2, 2), frames
    )
    with pytest.raises(InputError, match="numbered without gaps") as error:
        lift_tracks(result, tracks)
    says(error)


# archives


def test_what_unpacks_to_far_more_than_itself_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("track.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "<i4", "fortran_order": False, "shape": (UNPACKED // 2,)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(2 * UNPACKED // 2**20):
            file.write(bytes(2**20))
    assert path.stat().st_size < UNPACKED // 100
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="claims to unpack to") as error:
        load_tracks(path)
    says(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16


@pytest.mark.parametrize("shape", [(10**15,), (2, 3), (-4,), (10**30, 10**30)], ids=str)
def test_a_claimed_shape_is_that_of_the_file(tmp_path, shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("track.npy", file.getvalue() + bytes(16))
    with pytest.raises(Unreadable, match="claims the shape"):
        read_archive(tmp_path / "a.npz", ["track"])


def test_archives_are_read_whole_or_not_at_all(tmp_path):
    rows = {"track": np.arange(1000), "frame": np.zeros((2, 0)), "name": np.array("x")}
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "a.npz", **rows, other=np.ones(9))
        found = read_archive(tmp_path / "a.npz", rows)
        assert set(found) == set(rows) and all(np.array_equal(found[name], array) for name, array in rows.items())
        data = (tmp_path / "a.npz").read_bytes()
        rubbish = data[:200] + bytes(50) + data[250:]
        for damaged in (data[:-30], data[:60], rubbish, b""):
            (tmp_path / "b.npz").write_bytes(damaged)
            with pytest.raises(Unreadable):
                read_archive(tmp_path / "b.npz", rows)
    with pytest.raises(Unreadable, match="no such file"):
        read_archive(tmp_path, rows)


# JSON

NESTED = "[" * 100_000 + "]" * 100_000  # deeper than the stack of whoever reads it


def break_json(path, fault):
    """Puts something in the place of a JSON file that no reader may stumble over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if fault == "pipe":
        os.mkfifo(path)  # would be waited for
    elif fault == "huge":
        path.touch()
        os.truncate(path, LARGEST_JSON + 1)  # of no bytes on the disk
    else:
        path.write_text(NESTED)


@pytest.mark.parametrize("fault,reason", [("nested", "recursion"), ("pipe", "no such file"), ("huge", "bytes long")])
def test_json_is_small_plain_and_shallow(tmp_path, fault, reason):
    break_json(tmp_path / "a.json", fault)
    with pytest.raises(Unreadable, match=reason):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("fault", ["nested", "pipe", "huge"])
@pytest.mark.parametrize(
    "name,read",
    [
        ("list.json", load_frame_list),
        ("sequences/a/method.json", lambda path: Store(path.parents[2]).methods()),
        ("clip.json", lambda path: read_entry(path.parent)),
    ],
    ids=["frame list", "run", "clip of a benchmark"],
)
def test_json_that_nobody_meant_well_is_one_sentence(tmp_path, name, read, fault):
    break_json(tmp_path / name, fault)
    with pytest.raises(InputError) as error:
        read(tmp_path / name)
    assert str(tmp_path) in says(error)


def test_a_clip_that_does_not_say_what_it_is_stays(tmp_path):
    break_json(tmp_path / "c" / "clip.json", "nested")
    with pytest.raises(InputError, match="holds no clip of geo4d synth that can be read"):
        write_clip(tmp_path / "c", 1, frames=2, size=(8, 8))
    assert (tmp_path / "c" / "clip.json").read_text() == NESTED


def test_an_index_that_cannot_be_read_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Index(("a",), (), (), ())
    assert load_index(tmp_path, "spring", lambda: made) == made
    (kept,) = cache_folder().iterdir()
    assert load_index(tmp_path, "spring", lambda: pytest.fail("it is kept")) == made
    kept.write_text(NESTED)
    assert load_index(tmp_path, "spring", lambda: made) == made
    assert json.loads(kept.read_text())["names"] == ["a"]


# window predictions

WINDOWS = [
    {"windows": np.array([[0, HUGE]])},
    {"windows": np.array([[1000, 1001]])},
    {"windows": np.array([[0, 2**63]], np.uint64)},
    {"disparity": np.full((1, 2, 3, 5), "x")},
    {"disparity": np.ones((1, 2, 3, 5), complex)},
    {"disparity": np.ones((1, 2, 0, 5))},
    {"images": np.zeros((2, 3, 5, 3))},
    {"images": np.zeros((2, 3, 5), np.uint8)},
    {"img": np.zeros((2, 0, 0, 3), np.uint8)},
    {"timestamps": np.array(["</script>", "b"])},
    {"timestamps": np.array([0, np.nan])},
    {"timestamps": np.zeros((2, 2))},
    {"image_size": np.array([0, 5])},
    {"image_size": np.array([2**40, 2**40])},
    {"image_size": np.array([3.5, 5.0])},
    {"image_size": np.array(["3", "5"])},
]


@pytest.mark.parametrize("folder", [False, True], ids=["archive", "folder"])
@pytest.mark.parametrize(
    "wrong", WINDOWS, ids=lambda wrong: "-".join(f"{name}-{array.dtype}" for name, array in wrong.items())
)
def test_windows_that_cannot_be(tmp_path, wrong, folder):
    good = {"windows": np.array([[0, 1]]), "disparity": np.ones((1, 2, 3, 5))}
    path = tmp_path / ("w" if folder else "w.npz")
    for arrays in (good, good | wrong):
        if folder:
            path.mkdir(exist_ok=True)
            for name, array in arrays.items():
                np.save(path / f"{name}.npy", array)
        else:
            np.savez(path, **arrays)
        if arrays is good:
            assert load_windows(path).num_frames == 2
    with pytest.raises(InputError) as error:
        load_windows(path)
    says(error)


def test_frames_that_no_window_holds_are_no_fault(tmp_path):
    np.savez(tmp_path / "w.npz", windows=np.array([[0, 20]]), disparity=np.ones((1, 2, 3, 5)))
    assert load_windows(tmp_path / "w.npz").num_frames == 21
