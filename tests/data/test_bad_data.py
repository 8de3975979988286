"""Whatever is broken is named with its file, left out and counted.

Too much of it stops the run, and no worker dies or hangs.
"""

import logging
import struct

import h5py
import numpy as np
import OpenEXR
import pytest
import torch
from trees import (
    FRAMES,
    cut_short,
    halve,
    write_bedlam,
    write_folder,
    write_pointodyssey,
    write_spring,
    write_tartanair,
    write_vkitti2,
)

from geo4d.data import BadData, BadWindows, Mixture, MixtureConfig, Size, batches, load_batch, open_data
from geo4d.data.loading import FEW
from geo4d.errors import ConfigError, InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def nan_npy(path):
    depth = np.load(path)
    depth[3, 4] = np.nan
    np.save(path, depth)


def nan_exr(path):
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"Depth": np.full((45, 80), np.nan, np.float32)}).write(str(path))


def hdf5_with(name, shape, value=1.0):
    def write(path):
        with h5py.File(path, "w") as file:
            file.create_dataset(name, data=np.full(shape, value, np.float32))

    return write


def eight_bits(path):
    from PIL import Image

    Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)


BREAKAGES = {
    "a cut-off image": (
        write_tartanair,
        "office/Easy/P000/image_left/000002_left.png",
        cut_short,
        "cannot|truncated|not an image",
    ),
    "an empty image": (
        write_vkitti2,
        "Scene01/clone/frames/rgb/Camera_0/rgb_00002.jpg",
        lambda p: p.write_bytes(b""),
        "not an image",
    ),
    "a missing image": (
        write_tartanair,
        "office/Easy/P000/image_left/000002_left.png",
        lambda p: p.unlink(),
        "is missing",
    ),
    "an image of another size": (
        write_tartanair,
        "office/Easy/P000/image_left/000002_left.png",
        halve,
        "its image 32 x 24",
    ),
    "nan": (
        write_tartanair,
        "office/Easy/P000/depth_left/000002_left_depth.npy",
        nan_npy,
        "1 depths that are not a number",
    ),
    "a cut-off array": (
        write_tartanair,
        "office/Easy/P000/depth_left/000002_left_depth.npy",
        cut_short,
        "is not a .npy file",
    ),
    "depth of another size": (
        write_vkitti2,
        "Scene01/clone/frames/depth/Camera_0/depth_00002.png",
        halve,
        "is 32 x 24, its image 64 x 48",
    ),
    "depth in 8 bits": (
        write_vkitti2,
        "Scene01/clone/frames/depth/Camera_0/depth_00002.png",
        eight_bits,
        "one channel of 16 bits",
    ),
    "cut-off depth": (write_pointodyssey, "train/ani/depths/depth_00002.png", cut_short, "16-bit image"),
    "a mask of another size": (write_pointodyssey, "train/ani/masks/mask_00002.png", halve, "is 32 x 24, its depth"),
    "no HDF5": (
        write_spring,
        "train/0001/disp1_left/disp1_left_0003.dsp5",
        lambda p: p.write_bytes(b"no"),
        "not an HDF5 file",
    ),
    "another data set": (
        write_spring,
        "train/0001/disp1_left/disp1_left_0003.dsp5",
        hdf5_with("flow", (192, 256)),
        "'disparity'",
    ),
    "disparity of one size": (
        write_spring,
        "train/0001/disp1_left/disp1_left_0003.dsp5",
        hdf5_with("disparity", (96, 128)),
        "its image",
    ),
    "only holes": (
        write_spring,
        "train/0001/disp1_left/disp1_left_0003.dsp5",
        hdf5_with("disparity", (192, 256), np.nan),
        "no pixel",
    ),
    "cut-off EXR": (
        write_bedlam,
        "20221024_10_100_suburb/depth/seq_000003/seq_000003_0002_depth.exr",
        cut_short,
        "not an OpenEXR file",
    ),
    "nan EXR": (
        write_bedlam,
        "20221024_10_100_suburb/depth/seq_000003/seq_000003_0002_depth.exr",
        nan_exr,
        "not a number",
    ),
    "a cut-off video": (write_folder, "00000/rgb.mp4", cut_short, "rgb.mp4"),
    "a short array": (
        write_folder,
        "00000/depth.npy",
        lambda p: np.save(p, np.ones((FRAMES, 24, 32), np.float32)),
        "a frame of the video",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_file_is_named(breakage, tmp_path):
    write, name, break_it, message = BREAKAGES[breakage]
    write(tmp_path)
    data = open_data(tmp_path)
    break_it(tmp_path / name)
    with pytest.raises(BadData, match=message) as caught:
        data.read(data.recordings[0], [1, 2, 3])
    assert "\n" not in str(caught.value)
    named = tmp_path / (
        name.replace("image_left", "depth_left").replace("_left.png", "_left_depth.npy") if "size" in breakage else name
    )
    assert str(named) in str(caught.value)


def broken_stream(path):
    """Its first array, compressed, begins with a block of a kind that there is not."""
    with np.load(path) as archive:
        np.savez_compressed(path, **archive)
    data = bytearray(path.read_bytes())
    data[30 + sum(struct.unpack("<HH", data[26:30]))] = 0xFF
    path.write_bytes(data)


def open_header(path):
    """The brace that closes the header is gone."""
    path.write_bytes(path.read_bytes().replace(b"}", b" ", 1))


def endless_field(path):
    with path.open("a") as file:
        file.write('"' + 200_000 * "x")


@pytest.mark.parametrize(
    ("write", "name", "break_it", "kind"),
    [
        (write_pointodyssey, "train/ani/anno.npz", broken_stream, "a .npz file with intrinsics, extrinsics"),
        (write_folder, "00000/cam_to_world.npy", open_header, "a .npy file of numbers"),
        (write_bedlam, "20221024_10_100_suburb/ground_truth/camera/seq_000003_camera.csv", endless_field, "a CSV file"),
    ],
    ids=["a damaged archive", "a damaged header", "a damaged table"],
)
def test_damaged_camera_files_are_named_by_the_index(write, name, break_it, kind, tmp_path):
    write(tmp_path)
    break_it(tmp_path / name)
    data = open_data(tmp_path)
    assert len(data.recordings) == 0 and [problem.file for problem in data.problems] == [str(tmp_path / name)]
    assert data.problems[0].reason.startswith(f"is not {kind} that can be read (")


CAMERAS = {
    "tartanair": (write_tartanair, "office/Easy/P000/pose_left.txt"),
    "spring": (write_spring, "train/0001/cam_data/extrinsics.txt"),
    "vkitti2": (write_vkitti2, "Scene01/clone/extrinsic.txt"),
    "bedlam": (write_bedlam, "20221024_10_100_suburb/ground_truth/camera/seq_000003_camera.csv"),
}


@pytest.mark.parametrize("kind", CAMERAS)
def test_a_missing_pose_divides_the_recording_and_is_reported(kind, tmp_path):
    write, name = CAMERAS[kind]
    write(tmp_path)
    file = tmp_path / name
    lines = file.read_text().splitlines()
    if kind == "vkitti2":
        lines = [line for line in lines if not line.startswith("4 0 ")]
    elif kind == "bedlam":
        lines = [line for line in lines if "_0004.png" not in line]
    else:
        words = lines[4].split()
        lines[4] = " ".join(["nan", *words[1:]])
    file.write_text("\n".join(lines) + "\n")
    data = open_data(tmp_path)
    assert [(r.first - (kind == "spring"), r.count) for r in data.recordings[:2]] == [(0, 4), (5, 1)]
    assert [problem.file for problem in data.problems] == [str(file)]
    assert "frame" in data.problems[0].reason


@pytest.mark.parametrize("kind", CAMERAS)
def test_camera_files_that_say_nothing(kind, tmp_path):
    write, name = CAMERAS[kind]
    write(tmp_path)
    (tmp_path / name).write_text("1 2 three\nfour\n")
    data = open_data(tmp_path)
    assert len(data.recordings) == 0
    assert data.problems[0].file == str(tmp_path / name)
    (tmp_path / name).unlink()
    assert open_data(tmp_path).problems[0].reason == "is missing"


def test_an_empty_recording_and_missing_depth(tmp_path):
    write_tartanair(tmp_path)
    write_tartanair(tmp_path, name="office/Easy/P001")
    (tmp_path / "office/Easy/P002/image_left").mkdir(parents=True)
    for number in (1, 3):
        (tmp_path / f"office/Easy/P001/depth_left/{number:06d}_left_depth.npy").unlink()
    data = open_data(tmp_path)
    assert next((r.name[-4:], r.first, r.step, r.count) for r in data.recordings) == ("P000", 0, 1, FRAMES)
    reasons = {problem.file.removeprefix(str(tmp_path)): problem.reason for problem in data.problems}
    assert reasons["/office/Easy/P002/image_left"] == "holds no frame"
    assert reasons["/office/Easy/P001/depth_left/000001_left_depth.npy"] == "is missing (and 1 more frames)"


def tartan_mixture(root, **settings):
    defaults = {"frames": 2, "batch": 4, "sizes": [Size(24, 32)], "film": None, "ratios": {"tartanair": 1.0}}
    return Mixture({"tartanair": open_data(root)}, MixtureConfig(**{**defaults, **settings}), seed=1)


@pytest.fixture
def tartan(tmp_path):
    truth = None
    for i in range(4):
        truth = write_tartanair(tmp_path, truth, name=f"office/Easy/P{i:03d}")
    return tmp_path


def test_bad_windows_are_replaced_and_counted(tartan, caplog):
    mixture = tartan_mixture(tartan, most_bad=0.9)
    bad = tartan / "office/Easy/P001/image_left/000003_left.png"
    cut_short(bad)
    bad_windows = BadWindows(0.9)
    with caplog.at_level(logging.WARNING, "geo4d"):
        runs = [list(batches(mixture, range(12), workers=workers, bad_windows=bad_windows)) for workers in (0, 2)]
    assert len(runs[0]) == len(runs[1]) == 12
    for one, two in zip(*runs, strict=True):
        assert torch.equal(one.clip.rgb, two.clip.rgb) and one.problems == two.problems and one.draws == two.draws
        assert one.clip.depth.shape == (4, 2, 24, 32) and one.clip.valid.flatten(1).any(1).all()
    assert bad_windows.bad["tartanair"] >= 2 and bad_windows.good["tartanair"] == 96
    assert {problem.file for problem in bad_windows.problems} == {str(bad)}
    assert str(bad) in caplog.text


def test_a_run_goes_on_in_the_middle(tartan):
    mixture = tartan_mixture(tartan)
    whole = list(batches(mixture, range(6)))
    rest = list(batches(tartan_mixture(tartan), range(4, 6)))
    assert all(torch.equal(a.clip.depth, b.clip.depth) for a, b in zip(whole[4:], rest, strict=True))
    assert torch.equal(load_batch(mixture, 5).clip.rgb, whole[5].clip.rgb)
    assert whole[0].fps.tolist() == [10 / draw.stride for draw in whole[0].draws]
    assert whole[0].frame_index.tolist() == [[0, 1]] * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_one_reading_serves_several_ranks(workers, tartan):
    mixture = tartan_mixture(tartan)
    read = list(batches(mixture, range(1, 5, 2), ranks=(2, 0), world_size=3, workers=workers))
    asked = [load_batch(mixture, step, rank, 3) for step in (1, 3) for rank in (2, 0)]
    assert [batch.draws for batch in read] == [batch.draws for batch in asked]
    assert all(torch.equal(a.clip.rgb, b.clip.rgb) for a, b in zip(read, asked, strict=True))


def test_too_many_bad_windows_stop_the_run(tartan):
    for image in (tartan / "office/Easy/P001/image_left").iterdir():
        cut_short(image)
    with pytest.raises(
        InputError, match=r"windows of tartanair cannot be read, more than the 5 % .*P001.*geo4d data check"
    ) as caught:
        list(batches(tartan_mixture(tartan), range(1000)))
    assert int(str(caught.value).split()[2]) >= FEW


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_windows_is_one_sentence_from_any_process(workers, tartan):
    mixture = tartan_mixture(tartan)
    for image in tartan.rglob("*.png"):
        image.write_bytes(b"")
    with pytest.raises(InputError, match="20 windows of tartanair in a row cannot be used") as caught:
        list(batches(mixture, range(5), workers=workers))
    assert "Traceback" not in str(caught.value)


def test_windows_of_sky_alone_give_way_without_being_bad(tartan):
    for i in range(2):
        for file in (tartan / f"office/Easy/P00{i}/depth_left").iterdir():
            np.save(file, np.full((48, 64), 1e4, np.float32))
    seen = list(batches(tartan_mixture(tartan), range(8)))
    assert all(batch.problems == () and batch.clip.valid.flatten(1).any(1).all() for batch in seen)


def test_a_killed_worker_is_a_clear_message(tartan, monkeypatch):
    import os
    import signal

    mixture = tartan_mixture(tartan)
    monkeypatch.setattr("geo4d.data.loading.load_batch", lambda *words: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(InputError, match="Reading the data stopped"):
        list(batches(mixture, range(3), workers=1))


def test_a_worker_that_hangs_is_a_clear_message(tartan, monkeypatch):
    import time

    mixture = tartan_mixture(tartan)
    monkeypatch.setattr("geo4d.data.loading.load_batch", lambda *words: time.sleep(60))
    with pytest.raises(InputError, match=r"Reading the data stopped \(.*timed out"):
        list(batches(mixture, range(3), workers=1, timeout=1.0))


def test_a_data_set_without_usable_recordings_is_refused(tartan):
    for file in tartan.rglob("pose_left.txt"):
        file.unlink()
    with pytest.raises(ConfigError, match="No recording of tartanair"):
        tartan_mixture(tartan)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    write_spring(tmp_path)
    data = open_data(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(InputError, match=r"needs the package h5py.*pip install 'geo4d\[data\]'"):
        data.read(data.recordings[0], [0])
