"""`geo4d infer` from the outside: bad input, warnings, atomic results, kill and resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from geo4d.cli import main
from geo4d.commands.infer import WORK_FOLDER
from geo4d.io.output import is_list
from geo4d.scene.files.reconstruction import ARRAYS, OPTIONAL, SUMMARY, load_reconstruction
from geo4d.scene.files.tracks import load_tracks
from geo4d.scene.files.windows import load_windows

ROOT = Path(__file__).parents[2]
RESULT = {*(f"{name}.npy" for name in (*ARRAYS, *OPTIONAL)), SUMMARY, "trajectory_tum.txt", "config.yaml"}


def make_video(path: Path, count: int, *, size: tuple[int, int] = (48, 72)) -> Path:
    """A small H.264 file with its index in front, as cameras and web sites write them."""
    v, u = np.mgrid[0 : size[0], 0 : size[1]]
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "4"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for t in range(count):
            image = np.stack(
                [127 + 120 * np.sin(u / 9 + t / 4), 127 + 120 * np.cos(v / 6), (3 * u + 5 * v + 4 * t) % 256], axis=-1
            )
            for packet in stream.encode(av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "v.mp4", 20)


def infer(source: Path, out: Path, *options: str) -> int:
    return main(
        ["infer", str(source), "--out", str(out), "--model", "tiny", "--device", "cpu", "--no-preview", *options]
    )


def names(folder: Path) -> set[str]:
    """What is in a folder, but for the list of our files."""
    return {path.name for path in folder.iterdir() if not is_list(path.name)}


def refusal(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one sentence of a failed command."""
    error = capsys.readouterr().err
    assert code == 2
    lines = error.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("geo4d: error: ") and lines[0].endswith((".", "?")), error
    return lines[0]


def assert_same_result(a: Path, b: Path) -> None:
    one, other = load_reconstruction(a), load_reconstruction(b)
    for name in (*ARRAYS, *OPTIONAL):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_a_run_writes_a_whole_result_and_nothing_else(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(video, tmp_path / "out", "--save-windows") == 0
    error = capsys.readouterr().err
    assert "20 frames, 72 x 48, worked at 48 x 32" in error and "geo4d view" in error
    assert all("focal length" in line for line in error.splitlines() if "Warning" in line)  # random weights know none
    assert names(tmp_path / "out") == {*RESULT, "windows.npz", "tracks.npz"}
    result = load_reconstruction(tmp_path / "out")
    assert result.num_frames == 20 and result.source_size == (48, 72)
    windows = load_windows(tmp_path / "out" / "windows.npz")
    assert windows.windows[:, 0].tolist() == [0, 4]
    assert windows.ray_direction is not None and windows.ray_direction.shape[2:4] == (8, 12)


def test_a_mirrored_pass_is_averaged_in(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--max-frames", "16", "--no-tracks", "--save-windows")
    assert infer(video, tmp_path / "one", *options) == 0
    assert infer(video, tmp_path / "both", *options, "--mirrored") == 0
    one, both = (load_windows(tmp_path / name / "windows.npz") for name in ("one", "both"))
    assert one.disparity is not None and both.disparity is not None
    assert one.disparity.shape == both.disparity.shape and not (one.disparity == both.disparity).all()
    assert "mirrored: true" in (tmp_path / "both" / "config.yaml").read_text()
    capsys.readouterr()
    assert "other settings" in refusal(capsys, infer(video, tmp_path / "both", *options, "--resume"))
    refused = infer(video, tmp_path / "new", "--mirrored", "--compat", "released")
    assert "predicts no mirrored frames" in refusal(capsys, refused)


def test_words_set_the_tracker_and_the_alignment(video: Path, tmp_path: Path) -> None:
    """Each finds what is its own: corners half as dense leave fewer tracks."""
    short = ("--max-frames", "8", "--save-windows")
    assert infer(video, tmp_path / "a", *short) == 0
    assert infer(video, tmp_path / "b", *short, "tracks.spacing=32", "tracks.closures=null", "use_rays=false") == 0
    few, many = (load_tracks(tmp_path / name / "tracks.npz").num_tracks for name in ("b", "a"))
    assert 0 < few < many
    written = (tmp_path / "b" / "config.yaml").read_text()
    assert "tracks.spacing=32" in written and "use_rays=false" in written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tracks.windw=21"], "did you mean 'tracks.window'"),
        (["tracks.closures.again.features.ratoi=0.7"], "did you mean 'tracks.closures.again.features.ratio'"),
        (["tracks.window=3"], "window >= 5"),
        (["tracks.window=wide"], "tracks.window"),
        (["use_ray=false"], "did you mean 'use_rays'"),
        (["tracks.window=21", "--no-tracks"], "tracks.window=21 does nothing with --no-tracks"),
    ],
)
def test_words_that_mean_nothing_are_refused(
    words: list[str], message: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, infer(video, tmp_path / "out", *words))
    assert not (tmp_path / "out").exists()


def test_a_run_draws_a_preview(video: Path, tmp_path: Path) -> None:
    assert (
        main(["infer", str(video), "--out", str(tmp_path / "out"), "--model", "tiny", "--max-frames", "3", "-q"]) == 0
    )
    assert names(tmp_path / "out") == {*RESULT, "preview.mp4", "trajectory.png"}


def test_options_choose_the_frames(video: Path, tmp_path: Path) -> None:
    assert infer(video, tmp_path / "out", "--start", "2", "--frame-stride", "3", "--max-frames", "4") == 0
    np.testing.assert_allclose(
        load_reconstruction(tmp_path / "out").timestamps, np.array([2, 5, 8, 11]) / 24, atol=1e-3
    )


def test_a_missing_path_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no video at" in refusal(capsys, infer(tmp_path / "none.mp4", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_text_file_named_mp4_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v.mp4").write_text("this is not a video\n" * 50)
    assert "is not a video that can be read" in refusal(capsys, infer(tmp_path / "v.mp4", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "frames").mkdir()
    assert "holds no image" in refusal(capsys, infer(tmp_path / "frames", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_empty_file_and_a_broken_image_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v.mp4").touch()
    refusal(capsys, infer(tmp_path / "v.mp4", tmp_path / "out"))
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(b"no image")
    assert "is not an image" in refusal(capsys, infer(tmp_path / "frames", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_long_and_narrow_image_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (3000, 17)).save(tmp_path / "frames" / "1.png")
    assert "3000 x 17 pixels are too long and narrow" in refusal(capsys, infer(tmp_path / "frames", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_truncated_video_gives_what_can_be_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = make_video(tmp_path / "whole.mp4", 40)
    data = whole.read_bytes()
    (tmp_path / "v.mp4").write_bytes(data[: int(0.6 * len(data))])
    assert infer(tmp_path / "v.mp4", tmp_path / "out") == 0
    assert "damaged" in capsys.readouterr().err
    result = load_reconstruction(tmp_path / "out")
    assert 5 < result.num_frames < 40
    assert "damaged" in result.diagnostics["warnings"][0]


def test_a_video_cut_before_its_index_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_video(tmp_path / "whole.mp4", 10).read_bytes()
    (tmp_path / "v.mp4").write_bytes(data[:200])
    refusal(capsys, infer(tmp_path / "v.mp4", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("count", "warning"), [(1, "no motion"), (2, "fewer than a window"), (15, "fewer than a window")]
)
def test_short_videos_are_reconstructed_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, warning: str
) -> None:
    assert infer(make_video(tmp_path / "v.mp4", count), tmp_path / "out") == 0
    assert warning in capsys.readouterr().err
    result = load_reconstruction(tmp_path / "out")
    assert result.num_frames == count and result.valid.any()
    assert result.intrinsics[0, 0, 0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stride", "0"), "stride and windows per batch must be at least 1"),
        (("--stride", "40"), "would leave frames out"),
        (("--device", "warp9"), "There is no device 'warp9'"),
        (("--dtype", "int8"), "dtype must be auto"),
        (("--model", "none.safetensors"), "There is no model at none.safetensors"),
        (("--max-frames", "0"), "at least 1"),
        (("--steps", "-1"), "steps must be"),
        (("--start", "100"), "gave no frame"),
    ],
)
def test_options_that_cannot_work_are_refused(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert message in refusal(capsys, infer(video, tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [("--stride", "x"), ("--no-such-option",)])
def test_words_that_are_no_options_are_refused(video: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert infer(video, tmp_path / "out", *options) == 2
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written_is_refused(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert "is a file" in refusal(capsys, infer(video, tmp_path / "file"))
    assert "cannot be written" in refusal(capsys, infer(video, tmp_path / "file" / "out"))
    if Path("/proc/self").exists():
        assert "cannot be written" in refusal(capsys, infer(video, Path("/proc/geo4d_out")))
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o555)
        assert "cannot be written" in refusal(capsys, infer(video, tmp_path / "locked" / "out"))


def test_another_run_in_the_output_folder_is_left_alone(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert infer(video, out, "--max-frames", "2") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert "already holds a run" in refusal(capsys, infer(video, out))
    assert "other settings" in refusal(capsys, infer(video, out, "--resume"))
    assert "There is no video" in refusal(capsys, infer(tmp_path / "none", out, "--overwrite"))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert infer(Path(os.path.relpath(video)), out, "--max-frames", "2", "--resume") == 0
    assert "already finished" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert infer(video, out, "--max-frames", "3", "--overwrite") == 0
    assert load_reconstruction(out).num_frames == 3


def test_a_folder_of_other_files_is_never_touched(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    for options in ((), ("--overwrite",), ("--resume",)):
        assert "already holds other files" in refusal(capsys, infer(video, tmp_path / "out", *options))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_killed_run_resumes_without_repeating_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_video(tmp_path / "v.mp4", 48)
    options = ("--steps", "20", "--windows-per-batch", "1")  # 9 windows, slow enough to be killed between two
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "geo4d.cli",
        "infer",
        str(source),
        "--out",
        str(out),
        "--model",
        "tiny",
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, "--no-preview", *options], env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while (
            not (out / WORK_FOLDER / "window_00001.safetensors").exists()
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in (out / WORK_FOLDER).glob("window_*.safetensors")}
    assert 2 <= len(kept) < 9, "the run was not killed half way"
    assert not (out / SUMMARY).exists()

    assert "--resume" in refusal(capsys, infer(source, out, *options))
    assert "another seed" in refusal(capsys, infer(source, out, *options, "--seed", "1", "--resume"))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "seed: 0" in (out / "config.yaml").read_text()
    replaced = tmp_path / "replaced"
    shutil.copytree(out, replaced)
    (replaced / WORK_FOLDER / "notes.txt").write_text("not ours")
    assert infer(source, replaced, "--max-frames", "2", "--overwrite") == 0
    assert names(replaced) == {*RESULT, WORK_FOLDER} and names(replaced / WORK_FOLDER) == {"notes.txt"}

    seen: list[tuple[int, int]] = []
    import geo4d.progress

    class Spy(geo4d.progress.Bars):
        def __call__(self, stage: str, done: int, total: int) -> None:
            if stage == "windows":
                seen.append((done, total))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geo4d.progress, "Bars", Spy)
        assert infer(source, out, *options, "--resume") == 0
    assert seen == [(done, 9) for done in range(len(kept), 10)]
    assert infer(source, tmp_path / "whole", *options) == 0
    assert_same_result(out, tmp_path / "whole")
    assert names(out) == RESULT


@pytest.mark.slow
def test_a_run_killed_while_it_wrote_the_result_resumes(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert infer(video, out) == 0
    assert infer(video, tmp_path / "whole") == 0
    (out / SUMMARY).unlink()
    (out / "depth.npy").write_bytes(b"half")
    (out / "confidence.tmp").write_bytes(b"half")
    assert infer(video, out, "--resume") == 0
    assert_same_result(out, tmp_path / "whole")


@pytest.mark.parametrize(
    "name",
    [
        "depth.npy",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("cam_to_world.npy", "pose_covariance.npy", SUMMARY)),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "changed", "lost"])
def test_a_finished_result_that_is_damaged_is_computed_again(
    finished: Path, video: Path, tmp_path: Path, name: str, damage: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    content = (out / name).read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "changed": content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
        "lost": None,
    }[damage]
    (out / name).unlink()
    if damaged is not None:
        (out / name).write_bytes(damaged)
    assert infer(video, out, "--resume", "--max-frames", "6") == 0
    assert_same_result(out, finished)


@pytest.fixture(scope="module")
def finished(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    assert infer(video, out, "--max-frames", "6") == 0
    return out


def test_alignment_settings_are_taken(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a warning tells to try can be tried."""
    out, options = tmp_path / "out", ("--max-frames", "18", "--no-tracks")
    assert infer(video, out, "focal=per_frame", *options, "use_rays=false") == 0
    assert load_reconstruction(out).diagnostics["terms"] == ["points", "disparity"]
    assert "focal=per_frame" in (out / "config.yaml").read_text()
    capsys.readouterr()
    assert "other settings" in refusal(capsys, infer(video, out, *options, "--resume"))
    assert "focal" in refusal(capsys, infer(video, tmp_path / "other", "focl=per_frame"))
    assert not (tmp_path / "other").exists()


def test_the_summary_tells_how_it_was_made(video: Path, tmp_path: Path) -> None:
    assert infer(video, tmp_path / "out", "--max-frames", "5") == 0
    summary = json.loads((tmp_path / "out" / SUMMARY).read_text())
    assert summary["diagnostics"]["model"] == "tiny"
    assert summary["diagnostics"]["seconds_per_frame"] > 0
    assert "max_frames: 5" in (tmp_path / "out" / "config.yaml").read_text()
