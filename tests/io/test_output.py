"""Lists of our own files: what is removed by them, what never is, and lists that nobody should trust."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from geo4d.errors import InputError
from geo4d.io import output
from geo4d.io.output import (
    check_output_directory,
    clear,
    close_output_directory,
    discard,
    is_list,
    open_output_directory,
    read_listing,
    refuse_inputs_inside,
    register,
)
from geo4d.scene.atomic import own_temporary_path, temporary_path

KIND = "reconstruction"
FILES = ("a.npy", "b.json", "parts/deep/c.npy")


def tree(folder):
    """Relative names of what is in a folder, but for lists; folders end in a slash."""
    paths = [path for path in folder.rglob("*") if not is_list(path.name)]
    return {str(path.relative_to(folder)) + ("/" if path.is_dir() and not path.is_symlink() else "") for path in paths}


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def write_list(folder, **changes):
    """A list as somebody else might write it."""
    entry = {"format": "geo4d-files", "version": 1, "kind": KIND, "files": [], "folders": [], **changes}
    (folder / f".geo4d-files-{'0' * 16}.json").write_text(json.dumps(entry))


def test_output_folders(tmp_path):
    new = open_output_directory(tmp_path / "new", KIND, FILES)
    assert (
        read_listing(new) == output.Listing(KIND, frozenset(FILES), frozenset({"parts", "parts/deep"}))
        and tree(new) == set()
    )
    open_output_directory(new, KIND, FILES)  # nothing was written yet
    write(new, "a.npy")
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        open_output_directory(new, KIND, FILES)
    open_output_directory(new, KIND, FILES, resume=True)
    assert tree(new) == {"a.npy"}
    for name in ("file", "config.yaml", "reconstruction.json"):
        write(tmp_path / "other", name)
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(InputError, match=r"already holds other files.*remove this one by hand\."):
                open_output_directory(tmp_path / "other", KIND, FILES, **options)
    assert (
        tree(tmp_path / "other") == {"file", "config.yaml", "reconstruction.json"}
        and read_listing(tmp_path / "other") is None
    )
    with pytest.raises(InputError, match="is a file"):
        open_output_directory(tmp_path / "other" / "file", KIND, FILES)


def test_our_files_alone_are_removed(tmp_path):
    out = open_output_directory(tmp_path / "out", KIND, FILES)
    write(out, *FILES, "notes.txt", "parts/mine.txt", "empty/x", "a.npy.bak")
    (out / "empty" / "x").unlink()
    open_output_directory(out, KIND, ["a.npy"], overwrite=True)
    assert tree(out) == {"notes.txt", "parts/", "parts/mine.txt", "empty/", "a.npy.bak"}
    assert read_listing(out) == output.Listing(KIND, frozenset({"a.npy"}), frozenset({"parts"}))
    write(out, "a.npy")
    (out / "parts" / "mine.txt").unlink()
    discard(out, KIND)
    assert sorted(path.name for path in out.iterdir()) == ["a.npy.bak", "empty", "notes.txt"]  # the list is gone too
    discard(out, KIND)
    shutil.rmtree(out)
    register(out, KIND, FILES)
    write(out, *FILES)
    discard(out, KIND)
    assert not out.exists()


def test_a_killed_run_is_ours(tmp_path):
    """Whatever was written of it, under whichever name."""
    out = open_output_directory(tmp_path / "out", KIND, FILES)
    write(out, "a.npy")
    temporary_path(out / "b.json").write_text("half")
    (out / "parts" / "deep").mkdir(parents=True)
    own_temporary_path(out / "parts" / "deep" / "c.npy").write_text("half")
    write(out, ".b.json.mine", ".notes.tmp")
    open_output_directory(out, KIND, FILES, overwrite=True)
    assert tree(out) == {".b.json.mine", ".notes.tmp"}


def test_what_a_run_leaves_listed(tmp_path):
    out = open_output_directory(tmp_path / "out", KIND, [*FILES, ".work/1", ".work/2"])
    write(out, "a.npy", ".work/1", ".work/mine", "parts/deep/c.npy")
    close_output_directory(out, KIND, ".work")
    assert (
        read_listing(out).files == {"a.npy", "parts/deep/c.npy"}
        and ".work/1" not in tree(out)
        and ".work/mine" in tree(out)
    )
    before = sorted(path.name for path in out.iterdir())
    close_output_directory(out, KIND, ".work")
    assert sorted(path.name for path in out.iterdir()) == before and sum(map(is_list, before)) == 1


def test_a_name_that_somebody_else_has_is_refused_before_anything_is_removed(tmp_path):
    out = open_output_directory(tmp_path / "out", KIND, ["a.npy"])
    write(out, "a.npy", "b.json")
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match=r"b\.json is in the way"):
            check_output_directory(out, KIND, FILES, **options)
        with pytest.raises(InputError, match=r"b\.json is in the way"):
            open_output_directory(out, KIND, FILES, **options)
    with pytest.raises(InputError, match="of another kind"):
        clear(out, "evaluation")
    with pytest.raises(InputError, match="of another kind"):
        open_output_directory(out, "demo", ["a.npy"], overwrite=True)
    assert tree(out) == {"a.npy", "b.json"}


HOSTILE = {
    "above": ["../victim.txt"],
    "above, later": ["sub/../../victim.txt"],
    "absolute": ["{victim}"],
    "itself": ["."],
    "empty": [""],
    "twice": ["sub//x"],
    "backslash": ["..\\victim.txt"],
    "drive": ["C:victim.txt"],
    "null": ["x\0"],
    "long": ["x" * 5000],
    "number": [1],
    "list": [["mine.txt"]],
}


@pytest.mark.parametrize("key", ["files", "folders"])
@pytest.mark.parametrize("names", HOSTILE.values(), ids=HOSTILE)
def test_lists_of_what_lies_outside_remove_nothing(tmp_path, names, key):
    victim, out = tmp_path / "victim.txt", tmp_path / "out"
    write(tmp_path, "victim.txt", "out/mine.txt")
    names = [name.format(victim=victim) if isinstance(name, str) else name for name in names]
    write_list(out, **{key: [*names, "mine.txt"]})
    for act in (
        lambda: clear(out, KIND),
        lambda: open_output_directory(out, KIND, ["x"], overwrite=True),
        lambda: discard(out, KIND),
    ):
        with pytest.raises(InputError, match=f"its {key} are not plain names inside the folder.*nothing was removed"):
            act()
    assert tree(tmp_path) == {"victim.txt", "out/", "out/mine.txt"}


def test_links_lead_nowhere(tmp_path):
    write(tmp_path, "victims/a.txt", "out/mine.txt")
    out = tmp_path / "out"
    (tmp_path / "victims" / "empty").mkdir()
    (out / "sub").symlink_to(tmp_path / "victims")
    for entry in ({"files": ["mine.txt", "sub/a.txt"]}, {"files": ["mine.txt"], "folders": ["sub/empty"]}):
        write_list(out, **entry)
        with pytest.raises(InputError, match="sub is a link"):
            clear(out, KIND)
    with pytest.raises(InputError, match="sub is a link"):
        register(out, KIND, ["sub/new.txt"])
    assert tree(tmp_path / "victims") == {"a.txt", "empty/"} and (out / "mine.txt").exists()
    (out / "link.txt").symlink_to(tmp_path / "victims" / "a.txt")
    write_list(out, files=["link.txt"], folders=["sub"])
    clear(out, KIND)  # the link itself was listed, not what it leads to
    assert tree(out) == {"mine.txt", "sub"} and (tmp_path / "victims" / "a.txt").read_text() == "victims/a.txt"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"format": "geo4d-files", "version": 2, "kind": "a", "files": [], "folders": []}',
    ],
)
def test_damaged_lists_are_refused(tmp_path, data):
    write(tmp_path, "mine.txt")
    (tmp_path / f".geo4d-files-{'0' * 16}.json").write_bytes(data)
    with pytest.raises(InputError, match=r"is no list of files as geo4d writes it .*nothing was removed"):
        open_output_directory(tmp_path, KIND, FILES, overwrite=True)
    assert tree(tmp_path) == {"mine.txt"}


def test_lists_that_are_no_plain_or_small_file_are_refused(tmp_path, monkeypatch):
    place = tmp_path / "out" / f".geo4d-files-{'0' * 16}.json"
    place.parent.mkdir()
    os.mkfifo(place)  # would be waited for
    with pytest.raises(InputError, match="not a plain file"):
        read_listing(place.parent)
    place.unlink()
    write_list(tmp_path, files=["mine.txt"])
    place.symlink_to(tmp_path / place.name)
    with pytest.raises(InputError, match="not a plain file"):
        read_listing(place.parent)
    monkeypatch.setattr(output, "MAX_BYTES", 50)
    with pytest.raises(InputError, match="more than 0 MiB"):
        read_listing(tmp_path)


def test_many_writers_lose_nothing(tmp_path):
    def list_some(worker):
        for number in range(10):
            register(tmp_path / "out", KIND, ["shared/settings.json", f"{worker}/{number}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(list_some, range(4)))
    listing = read_listing(tmp_path / "out")
    assert listing.files == {
        "shared/settings.json",
        *(f"{worker}/{number}" for worker in range(4) for number in range(10)),
    }
    assert listing.folders == {"shared", "0", "1", "2", "3"}


def test_inputs_inside_the_output_are_seen(tmp_path):
    write(tmp_path, "out/deep/v.mp4", "v.mp4")
    out = tmp_path / "out"
    (tmp_path / "to_out").symlink_to(out)
    (tmp_path / "to_v.mp4").symlink_to(out / "deep" / "v.mp4")
    (out / "link.mp4").symlink_to(tmp_path / "v.mp4")
    (out / "loop").symlink_to(out / "loop")
    inside = (
        "out",
        "out/deep",
        "out/deep/v.mp4",
        "to_out/deep/v.mp4",
        "to_v.mp4",
        "out/link.mp4",
        "out/../out/deep",
        "out/loop",
    )
    for place in (out, tmp_path / "to_out", out / ".." / "out"):
        for name in inside:
            with pytest.raises(
                InputError, match=r"\(the video\), which lies in --out .*; choose another --out, or move it\."
            ):
                refuse_inputs_inside(
                    place, [("--vae", None), ("--model", "small"), ("the video", f"{tmp_path}/{name}")]
                )
        refuse_inputs_inside(
            place, [("the video", tmp_path / "v.mp4"), ("the frames", tmp_path), ("--depth", out / "none.npy")]
        )
    refuse_inputs_inside(tmp_path / "new", [("the frames", tmp_path)])
