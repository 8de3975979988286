"""Every evaluation set in its true layout, from a scene whose truth is known.

What was written comes back, in our conventions.
"""

import re

import numpy as np
import pytest
from layouts import (
    FRAMES,
    save,
    shoot,
    somewhere,
    write_bonn,
    write_davis,
    write_kitti,
    write_rgbd,
    write_scannet,
    write_seven_scenes,
    write_sintel,
    write_tum,
)

from geo4d.errors import ConfigError, InputError
from geo4d.evaluation.prepare import prepare
from geo4d.evaluation.runner import load_truth
from geo4d.evaluation.sets import SETS, open_set
from geo4d.evaluation.sets.associate import associate_greedily, interpolate_poses, nearest
from geo4d.io.video import read_video
from geo4d.metrics import RELEASED_PROTOCOLS, depth_metrics, pose_metrics

STEP = {"start": 0, "stride": 1}
# set, rule, task -> how it is written, what is set otherwise, which frames of the clip come, step of stored depth (m)
CASES = {
    ("sintel", "released", "depth"): (write_sintel, {}, slice(None), 0),
    ("sintel", "released", "pose"): (write_sintel, {}, slice(None), 0),
    ("bonn", "released", "depth"): (write_bonn, {"start": 1, "count": 4}, slice(1, 5), 1 / 5000),
    ("bonn", "right", "pose"): (write_bonn, {"start": 1, "count": 4}, slice(1, 5), 1 / 5000),
    ("kitti", "released", "depth"): (write_kitti, {}, slice(1, -1), 1 / 256),
    ("tum-dynamics", "released", "pose"): (write_tum, {"count": 90}, slice(None, None, 3), None),
    ("tum-dynamics", "right", "depth"): (write_tum, {}, slice(None, None, 3), 1 / 5000),
    ("tum", "time", "depth"): (lambda root: write_tum(root, "mine", calibrated=True), {}, slice(None), 1 / 5000),
    ("scannet", "released", "pose"): (write_scannet, {}, slice(None), 1 / 1000),
    ("scannet", "right", "depth"): (write_scannet, {}, slice(None), 1 / 1000),
    ("7scenes", "usual", "depth"): (write_seven_scenes, STEP, slice(None), 1 / 1000),
    ("7scenes", "raw", "pose"): (lambda root: write_seven_scenes(root, registered=False), STEP, slice(None), 1 / 1000),
    ("rgbd", "name", "depth"): (write_rgbd, {}, slice(None), 1 / 1000),
    ("rgbd", "order", "pose"): (lambda root: write_rgbd(root, npy=True), {}, slice(None), 0),
}
FIXED = {
    "bonn": (542.822841, 542.576870, 316.09352, 238.256098),
    "tum-dynamics": (535.4, 539.2, 320.6, 248.1),
    "7scenes": (525, 525, 320.5, 240.5),
}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_what_was_written_comes_back(case, tmp_path):
    write, changes, frames, step = CASES[case]
    name, rule, task = case
    clip = write(tmp_path)
    (sequence,) = open_set(name, tmp_path, rule=rule, task=task, **changes)
    true = clip.map(lambda x: x[frames])
    count = len(true.depth)
    pictures = true.rgb.mul(255).round().byte().numpy()
    if name == "scannet":
        assert sequence.images().shape == (count, 96, 128, 3)
        assert np.abs(sequence.images()[:, ::2, ::2].astype(int) - pictures).mean() < 8
    else:
        np.testing.assert_array_equal(sequence.images(), pictures)
    assert not sequence.left_out and np.all(np.diff(sequence.timestamps) > 0)
    if step is not None:
        depth, valid = sequence.depths()
        far_enough = true.depth.numpy() > step  # what is nearer than a step is stored as 0, which means unknown
        if name == "7scenes":
            far_enough &= true.depth.numpy() < 9.999
        assert (valid == true.valid.numpy())[far_enough | ~true.valid.numpy()].all() and valid.any()
        np.testing.assert_allclose(depth[valid], true.depth.numpy()[valid], atol=step / 2 + 1e-6, rtol=1e-6)
        score = depth_metrics(true.depth.numpy(), depth, valid, protocol=RELEASED_PROTOCOLS.get(name))
        assert score.abs_rel < 1e-3 and score.delta1 == 1
    if sequence.cam_to_world is not None:
        np.testing.assert_allclose(sequence.cam_to_world[:, 3], np.tile([0, 0, 0, 1.0], (count, 1)), atol=1e-9)
        relative = np.linalg.inv(sequence.cam_to_world[0]) @ sequence.cam_to_world
        expected = np.linalg.inv(somewhere(true)[0]) @ somewhere(true)
        np.testing.assert_allclose(relative, expected, atol=2e-6)
        score = pose_metrics(somewhere(true), sequence.cam_to_world)
        assert score.ate_sim3 < 1e-5 and score.rpe_rotation_deg < 1e-3
    else:
        assert task == "depth" and name in ("kitti", "bonn")
    if name in FIXED:
        fx, fy, cx, cy = np.array(FIXED[name]) / 10  # a tenth of 640 x 480
        np.testing.assert_allclose(sequence.intrinsics, np.tile([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], (count, 1, 1)))
    else:
        scale = np.array([2, 2, 1])[:, None] if name == "scannet" else 1
        np.testing.assert_allclose(sequence.intrinsics, scale * true.intrinsics.numpy(), atol=1e-4)


def test_every_set_has_rules_that_say_what_they_do():
    assert set(SETS) >= {
        "sintel",
        "bonn",
        "kitti",
        "tum-dynamics",
        "scannet",
        "davis",
        "7scenes",
        "tum",
        "rgbd",
        "procedural",
    }
    for dataset in SETS.values():
        for rule in dataset.rules.values():
            assert rule.about.endswith(".") and rule.sequences
    assert len(SETS["sintel"].rules["released"].sequences["pose"]) == 14
    assert len(SETS["kitti"].rules["released"].sequences["depth"]) == 13
    assert len(SETS["tum-dynamics"].rules["released"].sequences["pose"]) == 8


def test_the_procedural_set():
    opened = open_set("procedural", include="0000", count=3, stride=2)
    (sequence,) = opened
    assert (
        opened.rule_name == "held-out stride=2 count=3"
        and sequence.num_frames == 3
        and len(open_set("procedural").names) == 16
    )
    depth, valid = sequence.depths()
    assert depth_metrics(depth, depth, valid).abs_rel == pytest.approx(0, abs=1e-12)
    assert pose_metrics(sequence.cam_to_world, sequence.cam_to_world).ate_sim3 == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(np.diff(sequence.timestamps), 2 / 24)


def test_pictures_without_truth(tmp_path):
    write_davis(tmp_path)
    write_davis(tmp_path, "camel")
    opened = open_set("davis", tmp_path)
    assert opened.names == ("bear", "camel") and opened.task == "pictures"
    sequence = opened.sequence("camel")
    assert sequence.images().shape == (FRAMES, 48, 64, 3) and sequence.cam_to_world is None
    with pytest.raises(InputError, match="camel has no true depth"):
        sequence.depth(0)
    with pytest.raises(ConfigError, match="released of davis is for pictures; got 'depth'"):
        open_set("davis", tmp_path, task="depth")


def tiny(path, times, dtype=np.uint8):
    for value, name in enumerate(times):
        save(path / name, np.full((4, 6), 1 + value % 250, dtype))


def test_bonn_as_released_and_right(tmp_path):
    """Ten depth maps too many at the start: the usual script pairs frames with depth of a third of a second before."""
    folder = tmp_path / "rgbd_bonn_crowd2"
    tiny(folder / "rgb", [f"{500 + i / 30:.5f}.png" for i in range(150)])
    tiny(folder / "depth", [f"{500 + (i - 10) / 30 + 0.005:.5f}.png" for i in range(160)], np.uint16)
    usual = open_set("bonn", tmp_path).sequence("crowd2")
    right = open_set("bonn", tmp_path, rule="right").sequence("crowd2")
    assert usual.num_frames == right.num_frames == 110 and usual.frames == right.frames
    assert usual.frames[0] == "rgbd_bonn_crowd2/rgb/501.00000.png"
    assert usual.depth_frames[0] == "rgbd_bonn_crowd2/depth/500.67167.png" and usual.depth(0)[0][0, 0] == pytest.approx(
        31 / 5000
    )
    assert right.depth_frames[0] == "rgbd_bonn_crowd2/depth/501.00500.png" and right.depth(0)[0][0, 0] == pytest.approx(
        41 / 5000
    )
    assert usual.cam_to_world is None and usual.digest() != right.digest()
    tiny(folder / "rgb_110", [f"{i}.png" for i in range(3)])
    tiny(folder / "depth_110", [f"{i}.png" for i in range(3)], np.uint16)
    assert open_set("bonn", tmp_path, rule="gathered").missing == (
        "balloon2",
        "crowd3",
        "person_tracking2",
        "synchronous",
    )


def test_selections_of_the_released_evaluation(tmp_path):
    drive = "2011_09_26_drive_0005_sync"
    names = [f"{i:010d}.png" for i in range(5, 125)]
    tiny(tmp_path / "val" / drive / "proj_depth" / "groundtruth" / "image_02", names, np.uint16)
    tiny(tmp_path / "2011_09_26" / drive / "image_02" / "data", names)
    kitti = open_set("kitti", tmp_path)
    assert kitti.names == (f"{drive}_02",) and len(kitti.missing) == 12
    sequence = kitti.sequence(f"{drive}_02")
    assert sequence.num_frames == 110 and sequence.frames[-1].endswith("0000000114.png") and sequence.clock == "nominal"

    tiny(tmp_path / "scene0806_00" / "color", [f"{i}.png" for i in range(300)])
    tiny(tmp_path / "scene0806_00" / "depth", [f"{i}.png" for i in range(300)], np.uint16)
    (rooms,) = open_set("scannet", tmp_path, task="depth")
    assert rooms.num_frames == 90 and [name.split("/")[-1] for name in rooms.frames[:3]] == ["0.png", "3.png", "6.png"]
    assert rooms.frames[-1].endswith("/267.png")


def test_folders_that_the_usual_scripts_write(tmp_path):
    clip = shoot(3)
    poses = somewhere(clip)
    write_tum(tmp_path, clip=clip)
    folder = tmp_path / "rgbd_dataset_freiburg3_walking_xyz"
    (folder / "rgb").rename(folder / "rgb_90")
    (folder / "groundtruth.txt").rename(folder / "groundtruth_90.txt")
    with pytest.raises(InputError, match=r"groundtruth_90\.txt: holds 6 poses for the 3 pictures"):
        open_set("tum-dynamics", tmp_path, rule="gathered").sequence(folder.name)
    lines = (folder / "groundtruth_90.txt").read_text().splitlines()
    (folder / "groundtruth_90.txt").write_text("\n".join(lines[1::2]))
    np.testing.assert_allclose(
        next(iter(open_set("tum-dynamics", tmp_path, rule="gathered"))).cam_to_world, poses, atol=1e-6
    )

    room = tmp_path / "scene0710_00"
    tiny(room / "color_90", [f"frame_{i:04d}.jpg" for i in range(3)])
    tiny(room / "depth_90", [f"frame_{i:04d}.png" for i in range(3)], np.uint16)
    (room / "pose_90.txt").write_text("\n".join(" ".join(map(str, pose.ravel())) for pose in poses))
    (sequence,) = open_set("scannet", tmp_path, rule="gathered")
    np.testing.assert_allclose(sequence.cam_to_world, poses)
    np.testing.assert_allclose(sequence.depths()[0][2], 3 / 1000)

    base = tmp_path / "depth_selection" / "val_selection_cropped"
    tiny(base / "image_gathered" / "2011_09_28_drive_0037_sync_02", ["0000000005.png"])
    tiny(base / "groundtruth_depth_gathered" / "2011_09_28_drive_0037_sync_02", ["0000000005.png"], np.uint16)
    (sequence,) = open_set("kitti", tmp_path, rule="gathered")
    assert sequence.depths()[0][0, 0, 0] == pytest.approx(1 / 256)


def test_scannet_poses_that_were_lost(tmp_path):
    write_scannet(tmp_path, lost=(3, 6, 7))
    right = open_set("scannet", tmp_path, rule="right", task="pose").sequence("scene0707_00")
    assert [name.split("/")[-1] for name in right.frames] == ["0.jpg", "9.jpg", "12.jpg", "15.jpg"]
    assert [problem.file for problem in right.left_out] == ["scene0707_00/color/3.jpg", "scene0707_00/color/6.jpg"]
    with pytest.raises(InputError, match=r"has 0 true poses; expected at least 2 \(lost 2 poses"):
        open_set("scannet", tmp_path, task="pose").sequence("scene0707_00")
    assert open_set("scannet", tmp_path, task="depth").sequence("scene0707_00").num_frames == FRAMES


def test_pairs_by_time():
    index, gaps = nearest(np.array([1.0, 2.0, 5.0]), np.array([4.0, 0.9, 2.2]))
    assert index.tolist() == [1, 2, 0] and np.allclose(gaps, [0.1, 0.2, 1.0])
    assert nearest(np.array([1.0]), np.array([3.0]))[1] == [2.0] and np.isinf(nearest(np.array([1.0]), np.zeros(0))[1])
    # the second time is closest to a partner that the first would take too
    first, second = associate_greedily(np.array([0.0, 0.012, 1.0]), np.array([0.01, 0.995, 2.0]), 0.02)
    assert first.tolist() == [1, 2] and second.tolist() == [0, 1]
    assert len(associate_greedily(np.array([0.0]), np.array([0.02]), 0.02)[0]) == 0


def test_poses_between_the_rows_of_a_trajectory():
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, :3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # a quarter turn
    poses[1, :3, 3] = [2, 0, 0]
    half = interpolate_poses(np.array([0.5, 9.0]), np.array([1.0, 0.0]), poses[::-1])
    np.testing.assert_allclose(half[0, :3, 3], [1, 0, 0])
    np.testing.assert_allclose(half[0, :2, 0], [np.sqrt(0.5), np.sqrt(0.5)])
    np.testing.assert_allclose(half[1], poses[1], atol=1e-12)


def unpadded(folder):
    """Names without zeros in front, as many cameras give them."""
    for file in sorted(folder.iterdir()):
        file.rename(file.with_name(f"{int(file.stem)}{file.suffix}"))


@pytest.mark.parametrize("rule", ["name", "order"])
def test_frames_come_in_the_order_of_their_numbers(rule, tmp_path):
    """2 before 10, as geo4d infer reads the folder."""
    clip = write_rgbd(tmp_path / "rgbd", clip=shoot(12))
    for kind in ("rgb", "depth"):
        unpadded(tmp_path / "rgbd" / "kitchen" / kind)
    (sequence,) = open_set("rgbd", tmp_path / "rgbd", rule=rule)
    assert [name.split("/")[-1] for name in sequence.frames] == [f"{i}.png" for i in range(12)]
    np.testing.assert_array_equal(sequence.images(), read_video(tmp_path / "rgbd" / "kitchen" / "rgb").frames)
    np.testing.assert_allclose(sequence.depths()[0], np.where(clip.valid, clip.depth, 0), atol=1e-3)
    np.testing.assert_allclose(sequence.cam_to_world, somewhere(clip), atol=1e-6)
    write_davis(tmp_path, clip=clip)
    unpadded(tmp_path / "JPEGImages" / "480p" / "bear")
    (sequence,) = open_set("davis", tmp_path)
    assert [name.split("/")[-1] for name in sequence.frames] == [f"{i}.jpg" for i in range(12)]


def test_times_as_names_come_in_the_order_of_time(tmp_path):
    names = ["1548266470.88376.png", "1548266470.9.png", "1548266471.05.png"]  # as fractions, .9 is later than .88376
    tiny(tmp_path / "rgbd_bonn_crowd2" / "rgb", names)
    tiny(tmp_path / "rgbd_bonn_crowd2" / "depth", names, np.uint16)
    sequence = open_set("bonn", tmp_path, start=0).sequence("crowd2")
    assert [name.split("/")[-1] for name in sequence.frames] == names and np.all(np.diff(sequence.timestamps) > 0)


def test_no_focal_length_is_invented(tmp_path):
    write_tum(tmp_path, "mine")
    opened = open_set("tum", tmp_path)
    (sequence,) = opened
    assert sequence.intrinsics is None and load_truth(opened, sequence).groups == ("depth", "pose")
    clip = write_tum(tmp_path, "mine", calibrated=True)
    opened = open_set("tum", tmp_path)
    (sequence,) = opened
    np.testing.assert_allclose(sequence.intrinsics, clip.intrinsics, atol=1e-5)
    assert load_truth(opened, sequence).groups == ("depth", "pose", "focal", "points")


def test_files_outside_the_folder(tmp_path):
    """A list may name files anywhere; nothing of the machine's folders comes into a frame list."""
    write_tum(tmp_path / "data", "mine")
    folder = tmp_path / "data" / "mine"
    (folder / "rgb").rename(tmp_path / "elsewhere")
    (folder / "rgb.txt").write_text((folder / "rgb.txt").read_text().replace("rgb/", f"{tmp_path}/elsewhere/"))
    (sequence,) = open_set("tum", tmp_path / "data")
    assert sequence.num_frames == FRAMES and sequence.images().shape == (FRAMES, 48, 64, 3)
    assert not any("/" in name for name in sequence.frames)
    prepared = prepare(open_set("tum", tmp_path / "data"))
    assert not prepared.problems and str(tmp_path) not in str(prepared.entries)


def break_sintel(root):
    write_sintel(root)
    (root / "training" / "camdata_left" / "alley_2" / "frame_0003.cam").unlink()
    return r"training/camdata_left/alley_2/frame_0003\.cam: is missing"


def break_seven_scenes(root):
    write_seven_scenes(root)
    (root / "chess" / "seq-03" / "frame-000000.pose.txt").unlink()
    return r"chess/seq-03/frame-000000\.pose\.txt: is missing"


def break_scannet(root):
    write_scannet(root)
    (root / "scene0707_00" / "pose" / "9.txt").unlink()
    return r"scene0707_00/pose/9\.txt: is missing"


def break_rgbd(root):
    write_rgbd(root)
    (root / "kitchen" / "cam_to_world.txt").write_text("1 2 3\n")
    return r"kitchen/cam_to_world\.txt: has 1 lines of 3 numbers"


def break_trajectory(root):
    write_rgbd(root)
    (root / "kitchen" / "cam_to_world.txt").unlink()
    (root / "kitchen" / "trajectory.txt").write_text("no numbers\n")
    return r"trajectory\.txt is not a TUM trajectory"


BROKEN = {"sintel": break_sintel, "7scenes": break_seven_scenes, "scannet": break_scannet, "rgbd": break_rgbd}


@pytest.mark.parametrize(("name", "break_cameras"), [*BROKEN.items(), ("rgbd", break_trajectory)])
def test_depth_counts_where_cameras_are_broken(name, break_cameras, tmp_path):
    message = break_cameras(tmp_path)
    changes = STEP if name == "7scenes" else {}
    opened = open_set(name, tmp_path, task="depth", **changes)
    (sequence,) = opened
    (problem,) = sequence.left_out
    assert sequence.cam_to_world is None and re.search(message, f"{problem.file}: {problem.reason}")
    assert str(tmp_path) not in f"{problem.file}: {problem.reason}"
    groups = load_truth(opened, sequence).groups
    assert "depth" in groups and "pose" not in groups
    with pytest.raises(InputError, match=message):
        next(iter(open_set(name, tmp_path, task="pose", **changes)))


def test_broken_intrinsics_leave_depth_and_cameras(tmp_path):
    write_rgbd(tmp_path)
    (tmp_path / "kitchen" / "intrinsics.txt").write_text("1 2 3\n")
    opened = open_set("rgbd", tmp_path)
    (sequence,) = opened
    assert load_truth(opened, sequence).groups == ("depth", "pose")
    assert [problem.file for problem in sequence.left_out] == ["kitchen/intrinsics.txt"]
    write_tum(tmp_path, "mine")
    (tmp_path / "mine" / "intrinsics.txt").write_text("1 2 3\n")
    opened = open_set("tum", tmp_path)
    (sequence,) = opened
    assert load_truth(opened, sequence).groups == ("depth", "pose")
    assert [problem.file for problem in sequence.left_out] == ["mine/intrinsics.txt"]
    write_kitti(tmp_path)
    (tmp_path / "2011_09_26" / "calib_cam_to_cam.txt").write_text("P_rect_02: 1 2 3\n")
    opened = open_set("kitti", tmp_path)
    (sequence,) = opened
    assert load_truth(opened, sequence).groups == ("depth",)
    assert [problem.file for problem in sequence.left_out] == ["2011_09_26/calib_cam_to_cam.txt"]
