"""Predictions in our format and under the names of other projects.

All give the same arrays, and perfect ones perfect scores.
"""

import numpy as np
import pytest
from layouts import FRAMES, shoot, somewhere, write_sintel
from scipy.spatial.transform import Rotation

from geo4d.errors import ConfigError, InputError
from geo4d.evaluation.predictions import PredictionForm, read_prediction
from geo4d.evaluation.sets import open_set
from geo4d.metrics import RELEASED_PROTOCOLS, depth_metrics, pose_metrics
from geo4d.scene import Reconstruction
from geo4d.scene.files.reconstruction import format_tum

NAME = "alley_2"


def truth():
    """Depth (nan in the sky), cam_to_world and intrinsics of a perfect method."""
    clip = shoot()
    return (
        np.where(clip.valid, clip.depth, np.nan).astype(np.float32),
        somewhere(clip),
        clip.intrinsics.double().numpy(),
    )


def points():
    depth, _, k = truth()
    v, u = np.mgrid[0:48, 0:64] + 0.5
    x, y = ((c - k[0, i, 2]) / k[0, i, i] * np.nan_to_num(depth) for i, c in enumerate((u, v)))
    return np.stack([x, y, np.nan_to_num(depth)], axis=-1)


def ours(folder):
    depth, poses, k = truth()
    images = np.zeros((*depth.shape, 3), np.uint8)
    result = Reconstruction(
        depth, np.ones_like(depth), np.isfinite(depth), images, k, poses, np.arange(FRAMES) / 24, (96, 128)
    )
    result.save(folder / NAME)


def named(**names):
    def write(folder):
        depth, poses, k = truth()
        inverse = np.linalg.inv(poses)
        arrays = {
            "depth": depth,
            "batched": depth[None, ..., None],
            "disparity": 1 / depth,
            "points": points(),
            "world": points() @ poses[:, None, :3, :3].swapaxes(-1, -2) + poses[:, None, None, :3, 3],
            "mask": np.isfinite(depth),
            "c2w": poses,
            "c2w34": poses[None, :, :3],
            "w2c": inverse,
            "w2c34": inverse[:, :3],
            "k": k,
            "k1": k[0],
        }
        np.savez(folder / f"{NAME}.npz", **{name: arrays[what] for name, what in names.items()})

    return write


def npy_files(folder):
    depth, poses, k = truth()
    (folder / NAME).mkdir()
    for name, array in (("depth", depth), ("camera_poses", poses), ("intrinsics", k)):
        np.save(folder / NAME / f"{name}.npy", array)


def frame_files(folder, *, order="wxyz", name="pred_traj.txt"):
    """A map for each frame, a trajectory with the quaternion's scalar first, nine numbers a line."""
    depth, poses, k = truth()
    (folder / NAME).mkdir()
    for i, array in enumerate(depth):
        np.save(folder / NAME / f"frame_{i:04d}.npy", array)
        np.save(folder / NAME / f"conf_{i}.npy", np.ones_like(array))
    quaternions = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    quaternions = quaternions[:, [3, 0, 1, 2]] if order == "wxyz" else quaternions
    rows = np.concatenate([np.arange(FRAMES)[:, None], poses[:, :3, 3], quaternions], axis=1)
    np.savetxt(folder / NAME / name, rows)
    np.savetxt(folder / NAME / "pred_intrinsics.txt", k.reshape(-1, 9))


def camera_files(folder):
    depth, poses, k = truth()
    for kind in ("depth", "camera"):
        (folder / NAME / kind).mkdir(parents=True)
    for i, array in enumerate(depth):
        np.save(folder / NAME / "depth" / f"{i:06d}.npy", array)
        np.savez(folder / NAME / "camera" / f"{i:06d}.npz", pose=poses[i], intrinsics=k[i])


FORMS = {
    "ours": (ours, {}),
    "cam_to_world": (named(depth="depth", cam_to_world="c2w", intrinsics="k"), {}),
    "extrinsics are world to camera": (named(depth="depth", conf="depth", extrinsics="w2c34", intrinsics="k"), {}),
    "batch and channel of one": (named(depth="batched", extrinsic="w2c", intrinsic="k", images="mask"), {}),
    "one camera": (named(depths="depth", cam_c2w="c2w", intrinsic="k1"), {}),
    "points": (named(local_points="points", mask="mask", camera_poses="c2w34", intrinsics="k"), {}),
    "world points": (named(world_points="world", mask="mask", camera_poses="c2w34", intrinsics="k"), {}),
    "world points, world to camera": (
        named(points="world", mask="mask", extrinsic="w2c34", K="k"),
        {"keys": {"points_world": "points", "intrinsics": "K"}},
    ),
    "points that are the cameras'": (
        named(points="points", mask="mask", cam_to_world="c2w", intrinsics="k"),
        {"keys": {"points_cam": "points"}},
    ),
    "depth beside points": (named(depth="depth", points="world", cam_to_world="c2w", intrinsics="k"), {}),
    "disparity": (named(disparity="disparity", world_to_cam="w2c", intrinsics="k"), {}),
    "depth that is disparity": (
        named(depth="disparity", cam_to_world="c2w", intrinsics="k"),
        {"depth_is_disparity": True},
    ),
    "other names": (
        named(z="depth", c2w="c2w", K="k"),
        {"keys": {"depth": "z", "cam_to_world": "c2w", "intrinsics": "K"}},
    ),
    "npy files": (npy_files, {}),
    "frame files": (frame_files, {}),
    "frame files, scalar last": (lambda folder: frame_files(folder, order="xyzw"), {"quaternions": "xyzw"}),
    "trajectory": (lambda folder: frame_files(folder, order="xyzw", name="trajectory.txt"), {}),
    "camera files": (camera_files, {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(form, tmp_path):
    write, options = FORMS[form]
    write(tmp_path)
    prediction = read_prediction(tmp_path, NAME, FRAMES, form=PredictionForm(**options))
    depth, poses, k = truth()
    np.testing.assert_allclose(prediction.depth, depth, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(prediction.cam_to_world, poses, atol=1e-9)
    np.testing.assert_allclose(prediction.intrinsics, k)


def test_a_perfect_prediction_scores_perfectly(tmp_path):
    write_sintel(tmp_path / "data")
    ours(tmp_path)
    (sequence,) = open_set("sintel", tmp_path / "data", task="depth")
    prediction = read_prediction(tmp_path, sequence.name, sequence.num_frames)
    depth, valid = sequence.depths()
    score = depth_metrics(prediction.depth_at(depth.shape[1:]), depth, valid, protocol=RELEASED_PROTOCOLS["sintel"])
    assert score.abs_rel == pytest.approx(0, abs=1e-6) and score.delta1 == 1
    assert pose_metrics(prediction.cam_to_world, sequence.cam_to_world).ate_sim3 == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(prediction.intrinsics_at((48, 64)), sequence.intrinsics, atol=1e-4)


def test_other_sizes(tmp_path):
    ours(tmp_path)
    prediction = read_prediction(tmp_path, NAME, FRAMES)
    near = prediction.depth_at((96, 128))
    np.testing.assert_array_equal(near[:, ::2, 1::2], prediction.depth)
    smooth = prediction.depth_at((96, 128), interpolation="bicubic")
    np.testing.assert_array_equal(np.isfinite(smooth), np.isfinite(near))
    good = np.isfinite(near)
    assert 0 < np.abs(smooth[good] / near[good] - 1).mean() < 0.1
    np.testing.assert_allclose(prediction.intrinsics_at((96, 128))[0, :2], 2 * prediction.intrinsics[0, :2])
    with pytest.raises(InputError, match=r"holds depth of 64 x 48 for pictures of 48 x 64; is it on its side\?"):
        prediction.depth_at((64, 48))


def test_normalised_intrinsics(tmp_path):
    depth, _, k = truth()
    normal = k / np.array([64, 48, 1])[:, None]
    np.savez(tmp_path / f"{NAME}.npz", depth=depth, intrinsics=normal)
    read = read_prediction(tmp_path, NAME, FRAMES, form=PredictionForm(normalised_intrinsics=True))
    np.testing.assert_allclose(read.intrinsics, k)
    with pytest.raises(
        InputError, match=r"holds a focal length of .* expected pixels: say so if intrinsics are normalised"
    ):
        read_prediction(tmp_path, NAME, FRAMES)


def test_cameras_alone(tmp_path):
    (tmp_path / "chess_seq-03").mkdir()
    _, poses, _ = truth()
    (tmp_path / "chess_seq-03" / "trajectory.txt").write_text(format_tum(np.arange(FRAMES), poses))
    prediction = read_prediction(tmp_path, "chess/seq-03", FRAMES)
    np.testing.assert_allclose(prediction.cam_to_world, poses, atol=1e-7)
    assert prediction.intrinsics_at((48, 64)) is None
    with pytest.raises(InputError, match="holds no depth; evaluate its cameras alone"):
        prediction.depth_at((48, 64))


DEPTH = np.ones((FRAMES, 4, 6), np.float32)
POINTS = np.ones((FRAMES, 4, 6, 3))
POSES = np.tile(np.eye(4), (FRAMES, 1, 1))
BAD = {
    "length": ({"depth": DEPTH[:-1]}, r"holds depth of 5 frames; alley_2 has 6: predict every frame"),
    "length of cameras": (
        {"depth": DEPTH, "cam_to_world": POSES[:1]},
        r"holds cam_to_world of 1 frames; alley_2 has 6",
    ),
    "zeros": ({"depth": 0 * DEPTH}, r"holds depth that is zero or not finite in every pixel"),
    "nothing known": (
        {"colour": DEPTH},
        r"holds no depth and no cameras: got colour; expected names such as depth, disparity",
    ),
    "shape": ({"depth": DEPTH[0]}, r"holds depth of float32 and shape \[4, 6\]; expected \(t, h, w\)"),
    "shape of cameras": ({"cam_to_world": POSES[:, :3, :3]}, r"shape \[6, 3, 3\]; expected \(t, 4, 4\)"),
    "both ways": ({"cam_to_world": POSES, "extrinsics": POSES}, r"holds cameras both ways"),
    "two depths": ({"depth": DEPTH, "depths": DEPTH}, r"holds depth and depths, which both mean depth"),
    "mask": (
        {"depth": DEPTH, "mask": DEPTH[:, :2] > 0},
        r"holds a mask of shape \[6, 2, 6\] for depth of shape \[6, 4, 6\]",
    ),
    "singular": ({"extrinsics": 0 * POSES}, r"is not world_to_cam matrices that have an inverse"),
    "points of which frame": (
        {"points": POINTS},
        r"holds points, which may be in their cameras' frames.*say which by --key points_cam=points",
    ),
    "points beside cameras": ({"pts3d": POINTS, "cam_to_world": POSES}, r"or --key points_world=pts3d"),
    "points of the world alone": (
        {"points_world": POINTS},
        r"holds points of 6 frames in the world; expected as many cameras.*got none",
    ),
    "points and fewer cameras": (
        {"points_world": POINTS, "cam_to_world": POSES[:5]},
        r"expected as many cameras to give depth, got 5",
    ),
    "singular cameras": (
        {"points_world": POINTS, "cam_to_world": 0 * POSES},
        r"is not cam_to_world matrices that have an inverse",
    ),
    "kind": ({"depth": DEPTH.astype(complex)}, r"holds depth of complex128"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_named(what, tmp_path):
    arrays, message = BAD[what]
    np.savez(tmp_path / f"{NAME}.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_prediction(tmp_path, NAME, FRAMES)
    assert f"{NAME}.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_folders_that_are_wrong(tmp_path):
    with pytest.raises(InputError, match="There is no folder of predictions"):
        read_prediction(tmp_path / "nowhere", NAME, FRAMES)
    with pytest.raises(
        InputError, match=r"holds no prediction for alley_2; expected the folder alley_2 or the file alley_2\.npz"
    ):
        read_prediction(tmp_path, NAME, FRAMES)
    folder = tmp_path / NAME
    frame_files(tmp_path)
    np.save(folder / "frame_0003.npy", DEPTH[0])
    with pytest.raises(InputError, match=r"frame_0003\.npy: has shape \[4, 6\], the first frame \[48, 64\]"):
        read_prediction(tmp_path, NAME, FRAMES)
    np.save(folder / "depth.npy", DEPTH)
    (folder / "frame_0003.npy").unlink()
    with pytest.raises(InputError, match="holds depth in two places; keep one"):
        read_prediction(tmp_path, NAME, FRAMES)
    (folder / "camera").mkdir()
    np.savez(folder / "camera" / "000000.npz", K=np.eye(3))
    for file in folder.glob("*.npy"):
        file.unlink()
    with pytest.raises(InputError, match=r"000000\.npz: holds no pose; got K"):
        read_prediction(tmp_path, NAME, FRAMES)
    (folder / "a.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"a\.npz: is not an \.npz file of numbers"):
        read_prediction(tmp_path, NAME, FRAMES)
    np.savez(folder / "b.npz", depth=DEPTH)
    with pytest.raises(InputError, match=r"holds 2 \.npz files; expected one"):
        read_prediction(tmp_path, NAME, FRAMES)


def test_names_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="There is no array 'pose' in a prediction"):
        PredictionForm(keys={"pose": "c2w"})
    np.savez(tmp_path / f"{NAME}.npz", depth=DEPTH)
    with pytest.raises(InputError, match="holds no array 'z' for depth; got depth"):
        read_prediction(tmp_path, NAME, FRAMES, form=PredictionForm(keys={"depth": "z"}))
