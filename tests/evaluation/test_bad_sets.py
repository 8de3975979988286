"""Everything that can be wrong with an installed evaluation set is named in one sentence."""

import numpy as np
import pytest
from layouts import save, write_bonn, write_davis, write_kitti, write_rgbd, write_seven_scenes, write_sintel, write_tum

from geo4d.errors import ConfigError, InputError
from geo4d.evaluation.prepare import prepare
from geo4d.evaluation.sets import SETS, open_set


def damage_missing_depth(root):
    write_sintel(root)
    file = root / "training" / "depth" / "alley_2" / "frame_0003.dpt"
    file.unlink()
    return "sintel", {}, r"frame_0003\.dpt: is missing"


def damage_cut_depth(root):
    write_sintel(root)
    file = root / "training" / "depth" / "alley_2" / "frame_0002.dpt"
    file.write_bytes(file.read_bytes()[:-5])
    return "sintel", {}, r"frame_0002\.dpt: is no whole Sintel depth map.*bytes"


def damage_camera(root):
    write_sintel(root)
    (root / "training" / "camdata_left" / "alley_2" / "frame_0004.cam").write_bytes(b"\0" * 172)
    return "sintel", {"task": "pose"}, r"frame_0004\.cam: is no Sintel camera: tag 0"


def damage_size_of_depth(root):
    write_kitti(root)
    folder = root / "val" / "2011_09_26_drive_0002_sync" / "proj_depth" / "groundtruth" / "image_02"
    save(folder / "0000000002.png", np.ones((20, 30), np.uint16))
    return "kitti", {}, r"0000000002\.png: is 30 x 20, the first of .* 64 x 48"


def damage_size_of_all_depth(root):
    write_rgbd(root)
    for file in (root / "kitchen" / "depth").iterdir():
        save(file, np.ones((24, 32), np.uint16))
    return "rgbd", {}, r"depth/0000\.png: is 32 x 24, its picture 64 x 48"


def damage_zeros(root):
    write_rgbd(root)
    for file in (root / "kitchen" / "depth").iterdir():
        save(file, np.zeros((48, 64), np.uint16))
    return "rgbd", {}, r"depth/0000\.png: and the other depth maps of kitchen are zero in every pixel"


def damage_eight_bits(root):
    write_rgbd(root)
    save(root / "kitchen" / "depth" / "0001.png", np.ones((48, 64), np.uint8))
    return "rgbd", {}, r"depth/0001\.png: has pixels of kind L; expected one channel of 16 bits"


def damage_one_pose(root):
    write_tum(root)
    path = root / "rgbd_dataset_freiburg3_walking_xyz" / "groundtruth.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:2]))
    return "tum-dynamics", {}, r"walking_xyz of tum-dynamics has 1 true poses; expected at least 2"


def damage_clock(root):
    write_tum(root)
    folder = root / "rgbd_dataset_freiburg3_walking_xyz"
    lines = (folder / "groundtruth.txt").read_text().splitlines()
    (folder / "groundtruth.txt").write_text("\n".join(line if line[0] == "#" else "2" + line[1:] for line in lines))
    return (
        "tum-dynamics",
        {},
        r"groundtruth\.txt: holds no pose within 0\.02 s of any frame \(the nearest are \d+\.\d+ s apart\)",
    )


def damage_listed_file(root):
    write_tum(root, "mine")
    next((root / "mine" / "depth").iterdir()).unlink()
    return "tum", {}, r"mine/depth/\d+\.\d+\.png: is missing"


def damage_list(root):
    write_tum(root, "mine")
    (root / "mine" / "rgb.txt").write_text("1.5\n")
    return "tum", {}, r"rgb\.txt: has a line '1\.5'; expected a time and a file name"


def damage_registration(root):
    write_seven_scenes(root, registered=False)
    return (
        "7scenes",
        {},
        r"depth\.proj\.png: is missing: depth must be registered to colour first; or choose the rule raw",
    )


def damage_pose_file(root):
    write_seven_scenes(root)
    (root / "chess" / "seq-03" / "frame-000000.pose.txt").write_text("1 0 0\n")
    return "7scenes", {"task": "pose"}, r"pose\.txt: has 1 lines of 3 numbers; expected 4 a line"


def damage_number_of_poses(root):
    write_rgbd(root)
    path = root / "kitchen" / "cam_to_world.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    return "rgbd", {"task": "pose"}, r"cam_to_world\.txt: holds 5 poses for 6 pictures"


def damage_name(root):
    write_bonn(root)
    save(root / "rgbd_bonn_dataset" / "rgbd_bonn_balloon2" / "rgb" / "extra.png", np.zeros((48, 64), np.uint8))
    return "bonn", {"rule": "right", "start": 0}, r"extra\.png: has no time as its name"


def damage_picture(root):
    write_davis(root)
    (root / "JPEGImages" / "480p" / "bear" / "00002.jpg").write_bytes(b"no picture")
    return "davis", {}, r"00002\.jpg: is not an image that can be read"


DAMAGE = [value for name, value in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__.removeprefix("damage_"))
def test_what_is_wrong_is_named_in_one_sentence(damage, tmp_path):
    name, options, message = damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        for sequence in open_set(name, tmp_path, **options):
            sequence.images()
            if sequence.depth_frames is not None:
                sequence.depths()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_folder_without_the_data(tmp_path):
    with pytest.raises(InputError, match=r"There is no folder None to read sintel from; expected training/final"):
        open_set("sintel")
    for name in SETS:
        if name != "procedural":
            with pytest.raises(InputError, match=f"holds nothing of {name}"):
                open_set(name, tmp_path)
    write_sintel(tmp_path)
    assert open_set("sintel", tmp_path).missing == ("22 of 23 sequences",)
    assert len(open_set("sintel", tmp_path, task="pose").missing) == 13
    for options, message in (
        ({"rule": "wrong"}, "sintel has no rule 'wrong'; choose one of these: released: all frames"),
        ({"task": "flow"}, "A task must be one of depth, pose, pictures; got 'flow'"),
        ({"stride": 0}, "A rule needs a start from 0"),
        ({"strid": 2}, "A rule has no number 'strid'"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_set("sintel", tmp_path, **options)
    with pytest.raises(ConfigError, match="There is no evaluation set 'nyu'"):
        open_set("nyu", tmp_path)
    with pytest.raises(InputError, match="has no sequence 'cave_4'; expected one of alley_2"):
        open_set("sintel", tmp_path).sequence("cave_4")


def test_a_list_names_what_cannot_be_used_without_the_machine(tmp_path):
    write_tum(tmp_path)
    write_tum(tmp_path, "rgbd_dataset_freiburg3_walking_rpy")
    (tmp_path / "rgbd_dataset_freiburg3_walking_rpy" / "groundtruth.txt").write_text("no numbers\n")
    prepared = prepare(open_set("tum-dynamics", tmp_path))
    (problem,) = prepared.problems
    assert (
        problem.file == "rgbd_dataset_freiburg3_walking_rpy"
        and "groundtruth.txt is not a TUM trajectory" in problem.reason
    )
    assert str(tmp_path) not in problem.reason and [row["name"][-3:] for row in prepared.entries["sequences"]] == [
        "xyz"
    ]
