"""No verb removes or writes over what it did not write itself, whatever folder it is pointed at."""

import argparse
import shutil

import numpy as np
import pytest
from PIL import Image

from geo4d.cli import main
from geo4d.commands import demo
from geo4d.commands import infer as infer_verb
from geo4d.io.output import register
from geo4d.models.storage import save_folder
from geo4d.pipeline import Geo4D
from geo4d.scene.files.reconstruction import load_reconstruction
from geo4d.scene.files.windows import save_windows

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)


def contents(folder):
    """Everything in a folder that somebody would miss: {relative name: bytes}, None for folders.

    Lists of our files are left out.
    """
    paths = [path for path in folder.rglob("*") if not path.name.startswith(".geo4d-files")]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def refused(capsys, words, *, keep):
    """The one sentence of a command that must fail and leave the folder as it was."""
    before = contents(keep)
    capsys.readouterr()
    code, error = main([*map(str, words), "-q"]), capsys.readouterr().err
    assert code == 2 and error.startswith("geo4d: error: ") and error.count("\n") == 1, error
    assert contents(keep) == before
    return error


def infer(source, out, *words):
    return ["infer", source, "--out", out, "--model", "tiny", "--device", "cpu", *words]


def frames(folder, count=2):
    """A folder of images, as a video."""
    folder.mkdir(parents=True)
    for number, image in enumerate(FRAMES[:count]):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A reconstruction, the windows that it was aligned from, and the images of both."""
    root = tmp_path_factory.mktemp("made")
    frames(root / "frames")
    assert main([*map(str, infer(root / "frames", root / "out", "--no-preview", "--save-windows")), "-q"]) == 0
    return root


@pytest.fixture
def result(made, tmp_path):
    """The reconstruction, with a file beside it that is not ours."""
    shutil.copytree(made / "out", tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("years of work")
    return tmp_path / "out"


@pytest.mark.parametrize("name", ["config.yaml", "reconstruction.json"])
def test_a_video_beside_a_config_is_not_removed(tmp_path, capsys, name):
    place = tmp_path / "P"
    frames(place / "v")
    for file in (name, "thesis.tex"):
        (place / file).write_text("{}")
    for out in (place, place / "v", place / ".." / "P"):
        error = refused(capsys, infer(place / "v", out, "--overwrite"), keep=place)
        assert "(the video), which lies in --out" in error
    (tmp_path / "link").symlink_to(place / "v")
    (place / "away").symlink_to(frames(tmp_path / "elsewhere"))
    for video in (tmp_path / "link", place / "away"):
        for words in ((), ("--overwrite",), ("--resume",)):
            assert "which lies in --out" in refused(capsys, infer(video, place, *words), keep=place)
    other = frames(tmp_path / "other")
    for words in ((), ("--overwrite",), ("--resume",)):
        assert "already holds other files" in refused(capsys, infer(other, place, *words), keep=place)


def test_windows_beside_a_config_are_not_removed(tmp_path, capsys):
    place = tmp_path / "Q"
    place.mkdir()
    save_windows(place / "windows.npz", Geo4D.from_pretrained("tiny", device="cpu").predict(FRAMES))
    (place / "config.yaml").write_text("{}")
    error = refused(capsys, ["align", place / "windows.npz", "--out", place, "--overwrite"], keep=place)
    assert "windows.npz (the windows), which lies in --out" in error
    shutil.copy(place / "windows.npz", tmp_path)
    assert "already holds other files" in refused(
        capsys, ["align", tmp_path / "windows.npz", "--out", place, "--overwrite"], keep=place
    )


def test_every_input_counts(made, result, tmp_path, capsys):
    words = {
        "--poses": "trajectory_tum.txt",
        "--depth": "depth.npy",
        "--ignore": "valid.npy",
        "--intrinsics": "intrinsics.npy",
    }
    align = ["align", made / "out" / "windows.npz", "--out", result, "--overwrite"]
    for option, name in {**words, "--tracks": "tracks.npz"}.items():
        assert f"{name} ({option}), which lies in" in refused(capsys, [*align, option, result / name], keep=result)
    for option, name in {**words, "--tracks-file": "tracks.npz", "--vae": "notes.txt", "--model": "depth.npy"}.items():
        error = refused(capsys, [*infer(made / "frames", result, "--overwrite"), option, result / name], keep=result)
        assert f"{name} ({option}), which lies in" in error
    assert "windows.npz (the windows)" in refused(
        capsys, ["align", result / "windows.npz", "--out", result, "--overwrite"], keep=result
    )


def test_a_run_is_replaced_and_its_neighbours_stay(made, result, capsys):
    assert (
        main([*map(str, infer(made / "frames", result, "--max-frames", "1", "--no-preview", "--overwrite")), "-q"]) == 0
    )
    assert load_reconstruction(result).num_frames == 1
    assert (result / "notes.txt").read_text() == "years of work" and not (result / "windows.npz").exists()
    (result / "preview.mp4").write_bytes(b"a film of mine")
    assert "preview.mp4 is in the way" in refused(capsys, infer(made / "frames", result, "--overwrite"), keep=result)
    align = ["align", str(made / "out" / "windows.npz"), "--out", str(result), "--no-preview", "--overwrite", "-q"]
    assert main([*align, "joint.iterations=2"]) == 0
    assert load_reconstruction(result).num_frames == 2 and "iterations: 2" in (result / "config.yaml").read_text()
    assert (result / "notes.txt").exists() and (result / "preview.mp4").read_bytes() == b"a film of mine"
    assert "already holds a run" in refused(capsys, align[:-2], keep=result)


def test_results_of_another_kind_are_not_replaced(made, result, tmp_path, capsys):
    assert "of another kind (reconstruction, not demo)" in refused(
        capsys, ["demo", "--out", result, "--device", "cpu"], keep=result
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("{}")
    assert "already holds other files" in refused(capsys, ["demo", "--out", tmp_path / "mine"], keep=tmp_path / "mine")
    data = write_kitchen(tmp_path / "data")
    words = ["evaluate", "rgbd", data, "--baselines-only", "--no-plots", "--overwrite", "--out"]
    assert "of another kind (reconstruction, not evaluation)" in refused(capsys, [*words, result], keep=result)
    assert main([*map(str, words), str(tmp_path / "run"), "-q"]) == 0
    run = tmp_path / "run"
    assert "of another kind (evaluation" in refused(capsys, infer(made / "frames", run, "--overwrite"), keep=run)


@pytest.mark.slow
def test_a_demo_replaces_a_demo(made, tmp_path):
    """As `geo4d demo` does it, with a smaller model on a shorter clip."""
    parser = argparse.ArgumentParser()
    infer_verb.add_arguments(parser)
    words = [str(word) for word in infer(made / "frames", tmp_path / "demo", "--no-preview", "--overwrite")[1:]]
    for count in (1, 2):
        args = parser.parse_args([*words, "--max-frames", str(count)], namespace=argparse.Namespace(quiet=True))
        infer_verb.run(args, demo.KIND, (demo.SCORES,))
        assert (
            load_reconstruction(tmp_path / "demo").num_frames == count
            and not (tmp_path / "demo" / demo.SCORES).exists()
        )
        register(tmp_path / "demo", demo.KIND, [demo.SCORES])
        (tmp_path / "demo" / demo.SCORES).write_text("{}")
        (tmp_path / "demo" / "notes.txt").write_text("years of work")
    assert (tmp_path / "demo" / "notes.txt").exists()


def write_kitchen(root):
    """A recording of two frames in the plainest layout."""
    for kind in ("rgb", "depth"):
        (root / "kitchen" / kind).mkdir(parents=True)
    for i in range(2):
        Image.fromarray(FRAMES[i]).save(root / "kitchen" / "rgb" / f"{i}.png")
        np.save(root / "kitchen" / "depth" / f"{i}.npy", np.linspace(1, 3 + i, 2400, dtype=np.float32).reshape(40, 60))
    return root


def test_evaluations_replace_their_own_files(tmp_path, capsys):
    data, run = write_kitchen(tmp_path / "data"), tmp_path / "run"
    words = ["evaluate", "rgbd", str(data), "--baselines-only", "--out", str(run), "-q"]
    assert main(words) == 0
    (run / "notes.txt").write_text("years of work")
    (run / "plots" / "mine.png").write_bytes(b"mine")
    (run / "frames" / "kitchen.json").unlink()
    assert main([*words, "--overwrite", "--no-plots"]) == 0
    left = contents(run)
    assert left["notes.txt"] == b"years of work" and [name for name in left if name.startswith("plots/")] == [
        "plots/mine.png"
    ]
    assert "frames/kitchen.json" in left and "sequences/mean/kitchen.json" in left
    old = tmp_path / "old"  # as earlier versions left it, or as somebody made it
    shutil.copytree(run, old, ignore=shutil.ignore_patterns(".geo4d-files*"))
    words[-2] = str(old)
    for more in ((), ("--overwrite",)):
        assert "holds something that is no run of geo4d evaluate" in refused(capsys, [*words, *more], keep=old)


@pytest.mark.slow
def test_ablations_replace_their_own_files(tmp_path, capsys):
    data, out = write_kitchen(tmp_path / "data"), tmp_path / "out"
    words = [
        "ablate",
        "dataset=rgbd",
        f"root={data}",
        f"out={out}",
        "pipeline.model=tiny",
        "pipeline.device=cpu",
        "variants.fast=[]",
    ]
    (out / ".windows").mkdir(parents=True)
    (out / ".windows" / "mine.txt").write_text("mine")
    (out / "table.md").write_text("a table of mine")
    assert "table.md is in the way" in refused(capsys, words, keep=out)
    (out / "table.md").rename(out / "mine.md")
    assert main([*words, "-q"]) == 0
    assert set(contents(out / ".windows")) == {"mine.txt"}  # the predicted windows are gone
    (out / "fast" / "notes.txt").write_text("years of work")
    assert main([*words, "-q", "--overwrite"]) == 0
    assert {"mine.md", "fast/notes.txt", "fast/table.md", "table.md", ".windows/mine.txt"} <= contents(out).keys()
    data.rename(out / "data")
    words[2] = f"root={out / 'data'}"
    assert "(the data set), which lies in --out" in refused(capsys, [*words, "--overwrite"], keep=out)


@pytest.mark.parametrize(("form", "taken"), [("colmap", "sparse/0/cameras.txt"), ("nerfstudio", "images/00001.png")])
def test_exports_write_over_their_own_files_alone(result, tmp_path, capsys, form, taken):
    export = ["export", str(result), "--format", form, "--out"]
    theirs = tmp_path / "theirs" / taken
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"an original")
    assert f"{taken} is in the way" in refused(capsys, [*export, tmp_path / "theirs"], keep=tmp_path / "theirs")
    theirs.rename(tmp_path / "theirs" / "original")
    for _ in range(2):  # the second time over the first
        assert main([*export, str(tmp_path / "theirs"), "-q"]) == 0
    assert (tmp_path / "theirs" / taken).is_file() and (tmp_path / "theirs" / "original").read_bytes() == b"an original"
    for out in (result, tmp_path):
        assert "(the reconstruction), which lies in --out" in refused(capsys, [*export, out], keep=tmp_path)


def test_a_file_of_the_result_is_not_written_over(result, tmp_path, capsys):
    export = ["export", str(result), "--format", "npz", "--out"]
    for name in ("depth.npy", "windows.npz", "../out/reconstruction.json"):
        assert "is a file of" in refused(capsys, [*export, result / name], keep=result)
        assert "is a file of" in refused(capsys, ["view", result, "--html", result / name], keep=result)
    shutil.copy(result / "tracks.npz", tmp_path / "t.npz")
    words = ["export", result, "--format", "worldtrack", "--tracks", tmp_path / "t.npz", "--out", tmp_path / "t.npz"]
    assert "is a file of" in refused(capsys, words, keep=tmp_path)
    for _ in range(2):
        assert main([*export, str(result / "all.npz"), "-q"]) == 0
    assert main(["view", str(result), "--html", str(result / "page.html"), "-q"]) == 0
    assert load_reconstruction(result).num_frames == 2


def test_data_sets_are_left_alone(tmp_path, capsys):
    words = ["synth", "--num", "1", "--frames", "2", "--size", "32", "48", "--out"]
    clips = tmp_path / "clips"
    (clips / ".00000.partial").mkdir(parents=True)
    (clips / ".00000.partial" / "mine.txt").write_text("mine")
    (clips / "contact_sheet.png").write_bytes(b"mine")
    assert "contact_sheet.png is in the way" in refused(capsys, [*words, clips, "--sheet"], keep=clips)
    assert main([*words, str(clips), "-q"]) == 0
    assert {"00000/depth.npy", ".00000.partial/mine.txt"} <= contents(clips).keys() and len(list(clips.iterdir())) == 3
    (clips / "manifest.json").write_text("[]")
    error = refused(capsys, ["synth", "--benchmark", "v1", "--num", "1", "--out", clips], keep=clips)
    assert "manifest.json is in the way" in error
    for out in (clips, tmp_path):
        assert "(the data set), which lies in --out" in refused(
            capsys, ["data", "check", clips, "--out", out], keep=tmp_path
        )
        assert "(a data set), which lies in --out" in refused(
            capsys, ["data", "encode", clips, "--out", out, "--model", "tiny"], keep=tmp_path
        )
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.txt").write_text("mine")
    error = refused(capsys, ["data", "check", clips, "--out", tmp_path / "report"], keep=tmp_path / "report")
    assert "report.txt is in the way" in error


def test_models_and_stages_are_left_alone(tmp_path, capsys):
    stage = tmp_path / "runs" / "stage"
    for name in ("model/weights.txt", "step_00000001.partial/mine.txt"):
        (stage / name).parent.mkdir(parents=True)
        (stage / name).write_text("mine")
    words = ["train", "kind=latents", "start=tiny", f"out={tmp_path / 'runs'}", "name=stage", "device=cpu"]
    assert "holds other files and no stage" in refused(capsys, words, keep=stage)
    (stage / "config.yaml").write_text("mine: 1\n")
    assert "does not hold the settings of a stage" in refused(capsys, words, keep=stage)
    for name in ("model", "step_00000001.partial"):
        shutil.rmtree(stage / name)
    assert "does not hold the settings of a stage" in refused(
        capsys, words, keep=stage
    )  # a config alone is somebody's too
    (tmp_path / ".m.partial").mkdir()
    (tmp_path / ".m.partial" / "mine.txt").write_text("mine")
    save_folder(Geo4D.from_pretrained("tiny", device="cpu").model, tmp_path / "m")
    assert (tmp_path / ".m.partial" / "mine.txt").exists() and (tmp_path / "m" / "config.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".m.partial", "m", "runs"]
    assert "is not an empty folder" in refused(
        capsys, ["convert", tmp_path / "m", "--out", tmp_path / "m"], keep=tmp_path / "m"
    )
