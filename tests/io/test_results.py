"""Results, window predictions and exports survive the disk, and exports mean what their formats say."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from geo4d.errors import ConfigError, InputError
from geo4d.io.export import ExportConfig, export, gather_points
from geo4d.scene import Tracks, WindowPredictions
from geo4d.scene.files.reconstruction import load_reconstruction, read_tum, save_reconstruction
from geo4d.scene.files.windows import load_windows, save_windows


def test_save_and_load(tmp_path, small_reconstruction):
    before = small_reconstruction.with_diagnostics(odd=(np.float32(1.5), np.nan, {"a": np.arange(2)}))
    before.save(tmp_path / "r")
    after = type(before).load(tmp_path / "r")
    for name in ("depth", "confidence", "valid", "images", "intrinsics", "cam_to_world", "timestamps"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert isinstance(after.depth, np.memmap) and after.source_size == (48, 72)
    assert after.diagnostics["odd"] == [1.5, None, {"a": [0, 1]}]


def test_every_class_has_its_files(tmp_path):
    """As methods of the classes themselves, complete when `geo4d.scene` alone is imported."""
    code = "import sys; from geo4d.scene import Reconstruction, Tracks, WindowPredictions as W; "
    code += "print(*(callable(vars(c)[n].__get__(None, c)) "
    code += "for c in (Reconstruction, Tracks, W) for n in ('save', 'load'))); "
    code += "print([m for m in sys.modules if m.startswith('geo4d.io')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["True " * 5 + "True", "[]"]
    windows = WindowPredictions(torch.tensor([[0, 1], [1, 2]]), disparity=torch.rand(2, 2, 4, 6), source_size=(8, 12))
    for name in ("w.npz", "w"):
        windows.save(tmp_path / name)
        after = WindowPredictions.load(tmp_path / name)
        assert torch.equal(after.disparity, windows.disparity) and torch.equal(after.windows, windows.windows)
        assert after.source_size == (8, 12) and after.points is None
    rows = (
        np.array([0, 0, 1], np.int32),
        np.array([0, 1, 1], np.int32),
        np.array([[0.5, 1], [2, 3], [4, 5]], np.float32),
    )
    Tracks(*rows, (8, 12), 2).save(tmp_path / "t.npz")
    tracks = Tracks.load(tmp_path / "t.npz")
    for found, row in zip((tracks.track, tracks.frame, tracks.position), rows, strict=True):
        np.testing.assert_array_equal(found, row)
    assert (tracks.source_size, tracks.num_frames) == ((8, 12), 2)


def test_files_are_not_begun_where_they_cannot_be(tmp_path):
    """One sentence, and nothing left: the folder to be is a file."""
    (tmp_path / "file").write_text("mine")
    tracks = Tracks(np.zeros(1, np.int32), np.zeros(1, np.int32), np.ones((1, 2), np.float32), (8, 12), 1)
    with pytest.raises(InputError, match=r"t\.npz cannot be written"):
        tracks.save(tmp_path / "file" / "t.npz")
    with pytest.raises(InputError, match=r"w\.npz cannot be written"):
        WindowPredictions(torch.tensor([[0]]), disparity=torch.rand(1, 1, 4, 6)).save(tmp_path / "file" / "w.npz")
    assert [path.name for path in tmp_path.rglob("*")] == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_what_only_some_results_have(tmp_path, small_reconstruction):
    frames, height, width = small_reconstruction.depth.shape
    dynamic = np.linspace(0, 1, frames * height * width, dtype=np.float32).reshape(frames, height, width)
    full = replace(small_reconstruction, dynamic=dynamic, pose_covariance=np.tile(np.eye(6), (frames, 1, 1)))
    save_reconstruction(full, tmp_path / "r")
    after = load_reconstruction(tmp_path / "r")
    np.testing.assert_array_equal(after.dynamic, dynamic)
    np.testing.assert_array_equal(after.pose_covariance, full.pose_covariance)
    save_reconstruction(small_reconstruction, tmp_path / "r")
    assert load_reconstruction(tmp_path / "r").dynamic is None


def test_tum_trajectory(tmp_path, small_reconstruction):
    save_reconstruction(small_reconstruction, tmp_path / "r")
    times, poses = read_tum(tmp_path / "r" / "trajectory_tum.txt")
    np.testing.assert_allclose(times, small_reconstruction.timestamps)
    np.testing.assert_allclose(poses, small_reconstruction.cam_to_world, atol=1e-8)
    evo = pytest.importorskip("evo.tools.file_interface")
    read = evo.read_tum_trajectory_file(str(tmp_path / "r" / "trajectory_tum.txt"))
    np.testing.assert_allclose(read.positions_xyz, poses[:, :3, 3], atol=1e-8)


def test_source_resolution(small_reconstruction):
    depth, intrinsics = small_reconstruction.at_source_resolution(3)
    assert depth.shape == (48, 72) and intrinsics[0, 0] == 60 and intrinsics[1, 2] == 24
    np.testing.assert_allclose(depth[1::2, 1::2], small_reconstruction.depth[3], rtol=0.05)


def test_depth_at_the_source_resolution_follows_the_picture(small_reconstruction):
    width, (tall, wide) = small_reconstruction.depth.shape[2], small_reconstruction.source_size
    near, images = np.arange(width) < 10, np.zeros_like(small_reconstruction.images)
    images[:, :, near] = 255
    depth = np.broadcast_to(np.where(near, 1, 3).astype(np.float32), small_reconstruction.depth.shape)
    valid = np.ones_like(small_reconstruction.valid)
    valid[:, :4] = False
    result = replace(small_reconstruction, depth=depth, images=images, valid=valid)
    picture = np.zeros((tall, wide, 3), np.uint8)
    picture[:, :21] = 255  # the edge is half a pixel of the result further on
    found, _ = result.at_source_resolution(0, picture)
    assert np.isnan(found[:7]).all()
    np.testing.assert_allclose(found[9:, :21], 1)
    np.testing.assert_allclose(found[9:, 21:], 3)
    with pytest.raises(InputError, match="picture of a frame must be uint8"):
        result.at_source_resolution(0, picture[:-1])


def test_an_unfinished_folder_is_no_result(tmp_path, small_reconstruction):
    with pytest.raises(InputError, match="no finished reconstruction"):
        load_reconstruction(tmp_path)
    save_reconstruction(small_reconstruction, tmp_path / "r")
    (tmp_path / "r" / "depth.npy").write_bytes(b"x")
    with pytest.raises(InputError, match="damaged"):
        load_reconstruction(tmp_path / "r")


@pytest.mark.parametrize("name", ["w.npz", "w"])
def test_windows_come_back(tmp_path, name):
    predictions = WindowPredictions(
        windows=torch.arange(6).reshape(2, 3),
        points=torch.randn(2, 3, 4, 5, 3),
        weight=torch.rand(2, 3, 4, 5),
        ray_cam_to_win=torch.eye(4, dtype=torch.float64).expand(2, 3, 4, 4).contiguous(),
        points_origin="camera",
        timestamps=np.arange(6.0),
        source_size=(40, 50),
    )
    save_windows(tmp_path / name, predictions)
    again = load_windows(tmp_path / name)
    assert torch.equal(again.points, predictions.points) and again.disparity is None
    assert (
        again.points_origin == "camera"
        and again.source_size == (40, 50)
        and again.ray_cam_to_win.dtype == torch.float64
    )


def test_windows_that_do_not_fit(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.zeros((1, 2, 3, 4, 3)))
    np.savez(tmp_path / "b.npz", windows=np.zeros((1, 2), int), points=np.zeros((2, 2, 3, 4, 3)))
    np.savez(tmp_path / "c.npz", windows=np.zeros((1, 2), int))
    (tmp_path / "d.npz").write_text("x")
    shape = r"'points' must have the shape \(1, 2, H, W, 3\), since 'windows' is \(1, 2\); got \(2, 2, 3, 4, 3\)"
    whole = "must hold frame numbers, whole and from 0, for at least one window; got float64"
    np.savez(tmp_path / "f.npz", windows=np.full((1, 2), 0.5), points=np.zeros((1, 2, 3, 4, 3)))
    np.savez(
        tmp_path / "g.npz", windows=np.zeros((1, 2), int), weight=np.zeros((1, 2, 3)), points=np.zeros((1, 2, 3, 4, 3))
    )
    flat = r"'weight' must have the shape \(1, 2, H, W\), .* got \(1, 2, 3\) \(docs/windows_format.md"
    messages = {
        "a": "windows",
        "b": shape,
        "c": "at least one",
        "d": "not a file",
        "e": "no window",
        "f": whole,
        "g": flat,
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=message):
            load_windows(tmp_path / f"{name}.npz")


def test_ply_and_glb(tmp_path, small_reconstruction):
    points, _ = gather_points(small_reconstruction, ExportConfig())
    export(small_reconstruction, tmp_path / "a.ply", "ply")
    cloud = trimesh.load(tmp_path / "a.ply")
    np.testing.assert_allclose(cloud.vertices, points, atol=1e-4)
    export(small_reconstruction, tmp_path / "a.glb", "glb", ExportConfig(max_points=200))
    scene = trimesh.load(tmp_path / "a.glb")
    clouds = [g for g in scene.geometry.values() if isinstance(g, trimesh.PointCloud)]
    assert 0 < len(clouds[0].vertices) <= 240


def reproject(point, intrinsics, world_to_cam):
    local = world_to_cam[:3, :3] @ point + world_to_cam[:3, 3]
    return (intrinsics @ local)[:2] / local[2]


def test_colmap_reprojects(tmp_path, small_reconstruction):
    export(small_reconstruction, tmp_path / "c", "colmap")
    sparse = tmp_path / "c" / "sparse" / "0"
    camera = (sparse / "cameras.txt").read_text().splitlines()[5].split()
    fx, fy, cx, cy = map(float, camera[4:])
    image = (sparse / "images.txt").read_text().splitlines()[1 + 2 * 4].split()
    qw, qx, qy, qz, *t = map(float, image[1:8])
    world_to_cam = np.eye(4)
    world_to_cam[:3, :3], world_to_cam[:3, 3] = Rotation.from_quat([qx, qy, qz, qw]).as_matrix(), t
    point = small_reconstruction.points_world(4)[10, 20]
    pixel = reproject(point, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), world_to_cam)
    np.testing.assert_allclose(pixel, [20.5, 10.5], atol=1e-5)
    assert len(list((tmp_path / "c" / "images").glob("*.png"))) == 8


@pytest.mark.parametrize(("format", "index"), [("colmap", "sparse/0/images.txt"), ("nerfstudio", "transforms.json")])
def test_an_export_that_was_broken_off_names_no_images(tmp_path, small_reconstruction, monkeypatch, format, index):
    export(small_reconstruction, tmp_path, format)
    whole = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space"):
        patch.setattr(Image.Image, "save", disk_is_full)
        export(small_reconstruction, tmp_path, format)
    assert not (tmp_path / index).exists()
    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space"):
        patch.setattr(Path, "write_bytes", disk_is_full)
        export(small_reconstruction, tmp_path, format)
    assert not (tmp_path / index).exists()
    export(small_reconstruction, tmp_path, format)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == whole


def disk_is_full(*_):
    raise OSError(28, "No space left on device")


def test_nerfstudio_reprojects(tmp_path, small_reconstruction):
    export(small_reconstruction, tmp_path / "n", "nerfstudio")
    frame = json.loads((tmp_path / "n" / "transforms.json").read_text())["frames"][4]
    flip = np.diag([1.0, -1, -1, 1])
    camera = np.array(frame["transform_matrix"]) @ flip  # back to OpenCV camera axes, world still y up
    point = flip[:3, :3] @ small_reconstruction.points_world(4)[10, 20]
    intrinsics = np.array([[frame["fl_x"], 0, frame["cx"]], [0, frame["fl_y"], frame["cy"]], [0, 0, 1]])
    np.testing.assert_allclose(reproject(point, intrinsics, np.linalg.inv(camera)), [20.5, 10.5], atol=1e-6)


def test_npz_and_unknown_formats(tmp_path, small_reconstruction):
    export(small_reconstruction, tmp_path / "a.npz", "npz")
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["depth"].shape == (8, 24, 36) and "dynamic" not in archive
    dynamic = np.linspace(0, 1, 8 * 24 * 36, dtype=np.float32).reshape(8, 24, 36)
    export(replace(small_reconstruction, dynamic=dynamic), tmp_path / "b.npz", "npz")
    with np.load(tmp_path / "b.npz") as archive:
        np.testing.assert_array_equal(archive["dynamic"], dynamic)
    with pytest.raises(ConfigError, match="must be one of"):
        export(small_reconstruction, tmp_path / "a", "fbx")
    with pytest.raises(InputError, match="no point"):
        export(small_reconstruction, tmp_path / "a.ply", "ply", ExportConfig(min_confidence=9.0))
