"""Window predictions that stay on disk: read a piece at a time, with the result of those in memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import check, exact_windows

from geo4d.alignment import AlignmentConfig, IncrementalAlignment, align
from geo4d.errors import InputError
from geo4d.scene.files.windows import load_windows, save_windows

MAPS = ("points", "weight", "disparity", "ray_direction", "ray_moment")
STILL = AlignmentConfig(motion=False)


def coarse_rays(predictions):
    """Ray maps of a grid half as fine.

    Directions and moments are linear in one another, so means of four rays are rays.
    """

    def halved(maps):
        g, v, h, w, c = maps.shape
        return maps.reshape(g, v, h // 2, 2, w // 2, 2, c).mean((3, 5))

    return replace(
        predictions, ray_direction=halved(predictions.ray_direction), ray_moment=halved(predictions.ray_moment)
    )


@pytest.fixture(scope="module")
def windows():
    predictions, truth = exact_windows(24, noise=0.01)
    return coarse_rays(predictions), truth


@pytest.fixture(scope="module")
def folder(windows, tmp_path_factory):
    path = tmp_path_factory.mktemp("windows") / "folder"
    save_windows(path, windows[0])
    return path


def same(a, b):
    np.testing.assert_array_equal(a.depth, b.depth)
    np.testing.assert_array_equal(a.confidence, b.confidence)
    np.testing.assert_array_equal(a.cam_to_world, b.cam_to_world)
    np.testing.assert_array_equal(a.intrinsics, b.intrinsics)


def test_a_folder_is_mapped_and_not_read(folder, windows):
    loaded = load_windows(folder)
    assert {file.name for file in folder.iterdir()} == {f"{name}.npy" for name in (*MAPS, "windows", "points_origin")}
    assert torch.equal(loaded.windows, windows[0].windows) and loaded.points_origin == windows[0].points_origin
    maps = Path("/proc/self/maps")
    mapped = maps.read_text() if maps.exists() else ""  # of this process, where the system tells
    for name in MAPS:
        assert torch.equal(getattr(loaded, name), getattr(windows[0], name))
        assert not mapped or str(folder / f"{name}.npy") in mapped


def test_what_is_mapped_is_what_lies_on_disk(windows, tmp_path):
    save_windows(tmp_path, windows[0])
    loaded = load_windows(tmp_path)
    on_disk = np.load(tmp_path / "disparity.npy", mmap_mode="r+")
    on_disk[0, 0, 0, 0] = 0.123
    on_disk.flush()
    assert float(loaded.disparity[0, 0, 0, 0]) == pytest.approx(0.123)  # a copy would not know
    loaded.disparity[0, 0, 0, 0] = 0.5
    assert np.load(tmp_path / "disparity.npy")[0, 0, 0, 0] == np.float32(0.123)  # and the file is safe from us


def test_the_result_is_that_of_windows_in_memory(folder, windows):
    predictions, truth = windows
    from_disk = align(load_windows(folder), config=STILL)
    same(from_disk, align(predictions, config=STILL))
    check(from_disk, truth, depth=0.02, ate=0.02, focal=0.02)
    assert from_disk.diagnostics["terms"] == ["points", "disparity", "rays"]


def test_a_growing_alignment_reads_from_disk_as_well(folder, windows):
    predictions, _ = windows
    grown = []
    for given in (predictions, load_windows(folder)):
        growing = IncrementalAlignment(STILL)
        growing.update(replace(given, windows=given.windows[:2], **{name: getattr(given, name)[:2] for name in MAPS}))
        growing.update(given)
        grown.append(growing.reconstruct(given))
    same(*grown)


def test_an_archive_gives_the_same(windows, tmp_path):
    save_windows(tmp_path / "windows.npz", windows[0])
    loaded = load_windows(tmp_path / "windows.npz")
    for name in MAPS:
        assert torch.equal(getattr(loaded, name), getattr(windows[0], name))


def test_coarse_rays_beside_fine_maps(windows):
    """Everything dense has the points' size; the cameras of coarse rays are those of fine ones."""
    predictions, (_, poses) = windows
    assert predictions.ray_direction.shape[2:4] == (12, 18) and predictions.grid_size == (24, 36)
    result = align(predictions, config=STILL)
    assert result.depth.shape == (24, 24, 36)
    rays = align(replace(predictions, points=None, weight=None, disparity=None))
    true = np.linalg.inv(poses[:1]) @ poses
    np.testing.assert_allclose(rays.cam_to_world[:, :3, :3], true[:, :3, :3], atol=1e-4)
    assert rays.depth.shape == (24, 12, 18) and rays.intrinsics[0, 0, 0] == pytest.approx(15, rel=1e-3)


def test_half_precision_on_disk_stays_so_and_is_nearly_as_good(windows, tmp_path):
    predictions, truth = windows
    for name in ("windows", *MAPS):
        array = getattr(predictions, name).numpy()
        np.save(tmp_path / f"{name}.npy", array.astype(np.float16) if name in MAPS else array)
    loaded = load_windows(tmp_path)
    assert all(getattr(loaded, name).dtype == torch.float16 for name in MAPS)
    result = align(loaded, config=STILL)
    full = align(predictions, config=STILL)
    assert result.depth.dtype == np.float32
    np.testing.assert_allclose(result.depth, full.depth, rtol=0.01)
    check(result, truth, depth=0.02, ate=0.02, focal=0.02)


def test_double_precision_is_read_as_single(windows, tmp_path):
    predictions, _ = windows
    for name in ("windows", "points"):
        np.save(
            tmp_path / f"{name}.npy",
            getattr(predictions, name).numpy().astype(np.float64 if name == "points" else np.int32),
        )
    loaded = load_windows(tmp_path)
    assert loaded.points.dtype == torch.float32 and loaded.windows.dtype == torch.int64
    torch.testing.assert_close(loaded.points, predictions.points)
    assert loaded.weight is None and loaded.disparity is None and loaded.points_origin == "unknown"


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(InputError, match="no window predictions at"):
        load_windows(tmp_path / "nowhere")
    with pytest.raises(InputError, match="lacks the key 'windows'"):
        load_windows(tmp_path)
    np.save(tmp_path / "windows.npy", np.arange(8).reshape(2, 4))
    with pytest.raises(InputError, match="at least one of points, disparity or rays"):
        load_windows(tmp_path)
    np.save(tmp_path / "weight.npy", np.ones((2, 4, 3, 5), np.float32))
    with pytest.raises(InputError, match="at least one of points, disparity or rays"):
        load_windows(tmp_path)


@pytest.mark.parametrize(
    "name,shape",
    [
        ("points", (2, 4, 3, 5)),
        ("points", (2, 3, 3, 5, 3)),
        ("points", (2, 4, 3, 5, 2)),
        ("weight", (2, 4, 3, 5, 1)),
        ("disparity", (1, 4, 3, 5)),
        ("disparity", (2, 4, 3, 6)),
        ("ray_moment", (2, 4, 2, 3, 2)),
        ("ray_moment", (2, 4, 2, 2, 3)),
    ],
)
def test_shapes_that_do_not_fit_are_named(tmp_path, name, shape):
    good = {
        "points": (2, 4, 3, 5, 3),
        "weight": (2, 4, 3, 5),
        "ray_direction": (2, 4, 2, 3, 3),
        "ray_moment": (2, 4, 2, 3, 3),
    }
    np.save(tmp_path / "windows.npy", np.arange(8).reshape(2, 4))
    for key, wanted in (good | {name: shape}).items():
        np.save(tmp_path / f"{key}.npy", np.ones(wanted, np.float32))
    with pytest.raises(InputError, match=rf"{name}.*\.$"):
        load_windows(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_broken_files_are_refused(tmp_path, content):
    np.save(tmp_path / "windows.npy", np.arange(8).reshape(2, 4))
    (tmp_path / "points.npy").write_bytes(content)
    with pytest.raises(InputError, match="not a file of window predictions"):
        load_windows(tmp_path)


def test_a_file_that_is_cut_off_is_refused(windows, tmp_path):
    save_windows(tmp_path, windows[0])
    data = (tmp_path / "points.npy").read_bytes()
    (tmp_path / "points.npy").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="not a file of window predictions"):
        load_windows(tmp_path)
