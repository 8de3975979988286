"""Each data set, written in its true format from a procedural scene, comes back.

Cameras, depth, sky, and what follows of them.
"""

import json

import numpy as np
import pytest
import torch
from trees import (
    FRAMES,
    HOLE,
    WRITERS,
    shoot,
    somewhere,
    text,
    write_bedlam,
    write_folder,
    write_pointodyssey,
    write_tartanair,
    write_vkitti2,
)

from geo4d.data import DATASETS, Bedlam, ProceduralSet, View, find_kind, open_data
from geo4d.data.bedlam import unreal_rotation
from geo4d.data.index import cache_folder, even_runs
from geo4d.data.pointodyssey import PointOdyssey
from geo4d.data.spring import at_pixel_centres
from geo4d.errors import InputError
from geo4d.geometry.camera import project, unproject
from geo4d.geometry.rigid import invert_rigid, transform_points
from geo4d.synthetic import render_clips, scene_seed

# largest relative error of depth where there is no edge within the pixel: what the encoding rounds away, and no more
DEPTH_ERROR = {
    "pointodyssey": 0.004,
    "tartanair": 1e-6,
    "spring": 0.02,
    "vkitti2": 0.003,
    "bedlam": 1e-6,
    "folder": 1e-6,
}
SAME = {"spring": 0.9}  # share of pixels that must have it, if not nearly all; Spring's finer grid sees edges elsewhere


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    roots = {kind: tmp_path_factory.mktemp(kind) for kind in WRITERS}
    return {kind: (root, WRITERS[kind](root)) for kind, root in roots.items()}


def found_again(clip, truth, i, j):
    """Share of the static points of frame i, visible in frame j, that have the same depth there."""
    points = unproject(clip.depth[i], clip.intrinsics[i]).flatten(0, 1)
    there = transform_points(invert_rigid(clip.cam_to_world[j]) @ clip.cam_to_world[i], points)
    column, row = project(there, clip.intrinsics[j]).floor().long().unbind(-1)
    height, width = clip.depth.shape[1:]
    usable = clip.valid[i].flatten() & ~truth.dynamic[i].flatten() & (there[:, 2] > 0.1)
    usable &= (column >= 0) & (row >= 0) & (column < width) & (row < height)
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    same = usable & clip.valid[j][row, column] & (truth.instance[j][row, column] == truth.instance[i].flatten())
    assert same.sum() > 500
    return float(((clip.depth[j][row, column] - there[:, 2]).abs() < 0.06 * there[:, 2])[same].float().mean())


@pytest.mark.parametrize("kind", WRITERS)
def test_geometry_comes_back(kind, trees):
    root, truth = trees[kind]
    assert find_kind(root) == kind
    data = open_data(root)
    recording = data.recordings[0]
    assert (recording.count, recording.step, data.problems) == (FRAMES, 1, ())
    clip = data.read(recording, list(range(FRAMES)))
    torch.testing.assert_close(clip.intrinsics, truth.intrinsics, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(clip.cam_to_world, truth.cam_to_world, atol=1e-4, rtol=0)
    both = clip.valid & truth.valid
    error = ((clip.depth - truth.depth).abs() / truth.depth.clamp_min(0.1))[both]
    assert both.float().mean() > 0.6
    assert (error < DEPTH_ERROR[kind]).float().mean() > SAME.get(kind, 0.995) and error.median() < 2e-3
    assert ((clip.rgb - truth.rgb).abs().mean() < 0.03) and clip.rgb.shape == truth.rgb.shape
    assert (clip.sky == truth.sky).float().mean() > (0.98 if kind == "spring" else 0.9999)
    assert (clip.depth[~clip.valid] == 0).all() and not (clip.valid & clip.sky).any()
    assert found_again(clip, truth, 0, 1) > 0.93 and found_again(clip, truth, 4, 1) > 0.9


@pytest.mark.parametrize("kind", ["pointodyssey", "spring"])
def test_holes_are_neither_valid_nor_sky(kind, trees):
    root, truth = trees[kind]
    data = open_data(root)
    clip = data.read(data.recordings[0], [0, 1])
    hole = truth.instance[:2] == HOLE
    assert hole.sum() > 20
    assert not (clip.valid | clip.sky)[hole].any()


def test_a_window_in_any_order_has_its_first_camera_as_the_world(trees):
    root, truth = trees["tartanair"]
    data = open_data(root)
    clip = data.read(data.recordings[0], [5, 2])
    torch.testing.assert_close(
        clip.cam_to_world, invert_rigid(truth.cam_to_world[5]) @ truth.cam_to_world[[5, 2]], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(clip.depth, truth.depth[[5, 2]], atol=1e-5, rtol=1e-6)


def test_far_things_count_as_sky(trees):
    root, truth = trees["tartanair"]
    clip = open_data(root, far=12.0).read(open_data(root).recordings[0], [0])
    assert torch.equal(clip.sky[0], truth.sky[0] | (truth.depth[0] > 12))
    assert clip.valid.any() and clip.depth.max() <= 12


def test_tartanair_axes(tmp_path):
    write_tartanair(tmp_path, name="office/office/Hard/P001")
    text(
        tmp_path / "office/office/Hard/P001/pose_left.txt",
        [[3, 1, 2, 0, 0, 0, 1], [3, 1, 2, 0, 0, np.sqrt(0.5), np.sqrt(0.5)]],
    )
    data = open_data(tmp_path)
    poses = data.cameras("office/office/Hard/P001").cam_to_world
    np.testing.assert_allclose(poses[0, :3, 3], [1, 2, 3])  # right, down, forward
    np.testing.assert_allclose(poses[1, :3, 2], [1, 0, 0], atol=1e-12)  # a turn about "down" looks to the right


def test_unreal_angles():
    quarter, zero = np.array([np.pi / 2]), np.zeros(1)
    np.testing.assert_allclose(
        unreal_rotation(quarter, zero, zero)[0] @ [1, 0, 0], [0, 1, 0], atol=1e-12
    )  # forward turns right
    np.testing.assert_allclose(
        unreal_rotation(zero, quarter, zero)[0] @ [1, 0, 0], [0, 0, 1], atol=1e-12
    )  # forward looks up
    np.testing.assert_allclose(
        unreal_rotation(zero, zero, quarter)[0] @ [0, 1, 0], [0, 0, -1], atol=1e-12
    )  # the right side sinks


def test_bedlam_takes_the_frames_that_have_depth(tmp_path):
    truth = write_bedlam(tmp_path, every=2)
    write_bedlam(tmp_path, name="20221010_3_1000_batch01hand")
    write_bedlam(tmp_path, name="20221019_1_250_closeup_b")
    data = open_data(tmp_path)
    assert [(r.count, r.step, r.fps) for r in data.recordings] == [(3, 2, 15.0)]
    torch.testing.assert_close(data.read(data.recordings[0], [0, 1, 2]).depth, truth.depth[::2], atol=1e-4, rtol=1e-5)
    assert len(open_data(tmp_path, include="*").recordings) == 3
    assert "is missing (and 2 more frames)" in data.problems[-1].reason


def test_vkitti_cameras_and_archives(tmp_path):
    truth = write_vkitti2(tmp_path, archives=True)
    data = open_data(tmp_path)
    assert [r.name for r in data.recordings] == ["Scene01/clone/Camera_0", "Scene01/clone/Camera_1"]
    left, right = (data.cameras(r.name).cam_to_world for r in data.recordings)
    baseline = np.tile(np.eye(4), (FRAMES, 1, 1))
    baseline[:, 0, 3] = 0.532725
    np.testing.assert_allclose(np.linalg.inv(left) @ right, baseline, atol=1e-6)
    np.testing.assert_allclose(left, somewhere(truth), atol=1e-6)
    assert data.cameras(data.recordings[0].name).intrinsics[0, 0, 2] == pytest.approx(32.0)


def test_pointodyssey_in_half_precision_and_filled(tmp_path):
    truth = write_pointodyssey(tmp_path / "a", dtype=np.float16)
    write_pointodyssey(tmp_path / "a", name="val/held_out")
    data = open_data(tmp_path / "a")
    assert [r.name for r in data.recordings] == ["train/ani"]
    poses = data.cameras("train/ani").cam_to_world
    np.testing.assert_allclose(
        poses[:, :3, :3] @ poses[:, :3, :3].swapaxes(1, 2), np.tile(np.eye(3), (FRAMES, 1, 1)), atol=1e-9
    )
    np.testing.assert_allclose(poses, somewhere(truth), atol=0.03)
    clip = PointOdyssey(tmp_path / "a", fill=4).read(data.recordings[0], [0])
    hole = truth.instance[0] == HOLE
    assert clip.valid[0][hole].float().mean() > 0.9
    assert torch.equal(clip.sky[0], truth.sky[0])


def test_spring_samples_lie_around_the_pixel_centre():
    v, u = np.mgrid[0:8, 0:12] / 2 + 0.25  # where the finer grid samples an image of 4 x 6 pixels
    plane = 3 + 0.1 * u + 0.05 * v
    centre_v, centre_u = np.mgrid[0:4, 0:6] + 0.5
    np.testing.assert_allclose(at_pixel_centres(plane), 3 + 0.1 * centre_u + 0.05 * centre_v)
    edge = np.array([[1.0, 5.0], [1.0, 1.0]])
    assert at_pixel_centres(edge) == 5.0  # never in between
    assert np.isnan(at_pixel_centres(np.array([[1.0, np.nan], [1.0, 1.0]])))


def test_procedural_scenes_are_rendered_when_asked_for():
    data = ProceduralSet(render_clips, lambda i: scene_seed(77, i), scenes=5, size=(24, 32))
    assert len(data.recordings) == 5 and data.counts().tolist() == [64] * 5
    clip = data.read(data.recordings[2], [0, 2, 4], view=View((48, 64), zoom=0.5))
    truth = shoot(frames=3)
    torch.testing.assert_close(clip.depth, truth.depth, atol=1e-4, rtol=1e-4)
    flipped = data.read(data.recordings[2], [0, 2, 4], view=View((48, 64), flip=True))
    torch.testing.assert_close(flipped.depth, clip.depth.flip(-1))
    assert data.read(data.recordings[1], [7]).depth.shape == (1, 24, 32)
    with pytest.raises(InputError, match="evenly spaced"):
        data.read(data.recordings[0], [0, 1, 3])


def test_an_index_is_made_once_and_again_when_the_tree_changes(tmp_path, monkeypatch):
    write_folder(tmp_path)
    first = open_data(tmp_path)
    assert [json.loads(file.read_text())["root"] for file in cache_folder().glob("*.json")] == [str(tmp_path)]
    scans = []
    kind = DATASETS["folder"]
    scan = kind.scan
    monkeypatch.setattr(kind, "scan", lambda self, name: scans.append(name) or scan(self, name))
    assert open_data(tmp_path).recordings == first.recordings and scans == []
    write_folder(tmp_path, name="00001")
    assert len(open_data(tmp_path).recordings) == 2 and scans == ["00000", "00001"]
    (tmp_path / "00001" / "depth.npy").unlink()
    again = open_data(tmp_path)
    assert len(again.recordings) == 1 and again.problems[0].reason == "is missing" and again.lost() == ["00001"]
    kept = open_data(tmp_path)
    assert (kept.recordings, kept.problems, kept.lost(), len(scans)) == (again.recordings, again.problems, ["00001"], 4)
    others = open_data(tmp_path, include="*0")  # tells nothing of what is not asked for
    assert (others.problems, others.lost(), len(others.recordings)) == ((), [], 1)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # the data set itself is left alone


def test_gaps_divide_a_recording():
    assert even_runs(np.array([0, 1, 2, 5, 6])) == [(0, 1, 3), (5, 1, 2)]
    assert even_runs(np.array([0, 5, 10, 20, 25])) == [(0, 5, 3), (20, 5, 2)]
    assert even_runs(np.array([], dtype=np.int64)) == [] and even_runs(np.array([7])) == [(7, 1, 1)]


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no folder"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(InputError, match="expected one of these layouts"):
        open_data(tmp_path)
    with pytest.raises(InputError, match="does not look like bedlam"):
        Bedlam(tmp_path)
    with pytest.raises(InputError, match="no kind of data set 'sintel'"):
        open_data(tmp_path, "sintel")
