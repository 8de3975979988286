"""What is known beforehand, from the command line: every option's file format, what it changes, and what is refused."""

import argparse

import numpy as np
import pytest

from geo4d.alignment import Priors
from geo4d.alignment.finish.assemble import scaled
from geo4d.alignment.finish.metric import height_above_ground
from geo4d.cli import main
from geo4d.commands.priors import add_prior_arguments, read_priors
from geo4d.errors import ConfigError, InputError
from geo4d.scene.files.reconstruction import format_tum, load_reconstruction
from geo4d.scene.files.windows import save_windows
from geo4d.synthetic import render_clips, scene_seed
from geo4d.synthetic.windows import NoiseLaw, simulate_windows
from geo4d.windows.plan import plan_windows

FRAMES, SIZE = 16, (24, 32)
QUICK = ("motion=false", "joint.iterations=8")


@pytest.fixture(scope="module")
def clip():
    """A street in metres: ground below, a camera that travels."""
    clip = render_clips([scene_seed(31, 11)], num_frames=FRAMES, size=SIZE, frame_step=2).map(lambda values: values[0])
    poses = clip.cam_to_world.double().numpy()
    return clip, np.linalg.inv(poses[:1]) @ poses


@pytest.fixture(scope="module")
def windows(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("priors") / "windows.npz"
    save_windows(
        path, simulate_windows(clip[0], plan_windows(FRAMES, length=12, stride=4), NoiseLaw().scaled(0.3), seed=0)
    )
    return path


@pytest.fixture
def align(windows, tmp_path):
    def run(*words):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert main(["align", str(windows), *QUICK, *map(str, words), "--out", str(out), "--no-preview"]) == 0
        return load_reconstruction(out)

    return run


@pytest.fixture
def refused(windows, tmp_path, capsys):
    def run(*words):
        capsys.readouterr()
        code = main(
            ["align", str(windows), *QUICK, *map(str, words), "--out", str(tmp_path / "refused"), "--no-preview"]
        )
        error = capsys.readouterr().err.strip()
        assert code == 2 and not (tmp_path / "refused").exists()
        assert error.startswith("geo4d: error: ") and "\n" not in error and error.endswith(".")
        return error

    return run


def read(*words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_prior_arguments(parser)
    return read_priors(parser.parse_args(list(map(str, words))))


def saved(path, array):
    np.save(path, array)
    return path


def metres(result, clip):
    """How many of the true metres a metre of the result is; 1 is right."""
    valid = result.valid & clip.valid.numpy()
    return np.median(clip.depth.numpy()[valid] / result.depth[valid])


def test_without_options_nothing_is_known(align):
    assert read() == Priors()
    result = align()
    assert not result.is_metric and "metres_per_unit" not in result.diagnostics


def test_intrinsics_in_words_and_in_files(clip, align, tmp_path, recwarn):
    true = clip[0].intrinsics[0].double().numpy()
    words = ",".join(str(true[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    by_words = align("--intrinsics", words)
    np.testing.assert_allclose(by_words.intrinsics, np.tile(true, (FRAMES, 1, 1)), rtol=1e-6)
    np.testing.assert_array_equal(read("--intrinsics", saved(tmp_path / "k.npy", true)).intrinsics, true)
    zoom = np.tile(true, (FRAMES, 1, 1))
    zoom[:, :2, :2] *= np.linspace(1, 1.1, FRAMES)[:, None, None]
    np.testing.assert_allclose(align("--intrinsics", saved(tmp_path / "zoom.npy", zoom)).intrinsics, zoom, rtol=1e-6)
    assert not [warning for warning in recwarn if warning.category is UserWarning]  # files are read, not written
    other = align("--intrinsics", "40,36,15,11")
    np.testing.assert_allclose(other.intrinsics[3], [[40, 0, 15], [0, 36, 11], [0, 0, 1]], rtol=1e-6)


def test_intrinsics_that_are_not_exact_may_move(clip, align):
    true = float(clip[0].intrinsics[0, 0, 0])
    wrong = f"{1.2 * true},{1.2 * true},16,12"
    held, loose = (align("--intrinsics", wrong, "--focal-sigma", sigma).intrinsics[0, 0, 0] for sigma in (0, 0.5))
    assert held == pytest.approx(1.2 * true, rel=1e-6)
    assert abs(np.log(loose / true)) < 0.5 * np.log(1.2)
    assert read("--intrinsics", wrong, "--focal-sigma", 0.5).focal_sigma == 0.5


def test_poses_as_a_trajectory_or_an_array(clip, align, tmp_path):
    poses = clip[1]
    (tmp_path / "poses.txt").write_text("# a comment\n" + format_tum(np.arange(FRAMES) / 10, poses))
    fixed = align("--poses", tmp_path / "poses.txt")
    np.testing.assert_allclose(fixed.cam_to_world, poses, atol=1e-6)  # given in words, to nine digits
    assert not fixed.is_metric
    metric = align("--poses", saved(tmp_path / "poses.npy", poses), "--metric-poses")
    np.testing.assert_allclose(metric.cam_to_world, poses, atol=1e-9)
    assert metric.is_metric and metres(metric, clip[0]) == pytest.approx(1, abs=0.05)
    moved = np.linalg.inv(poses[5:6]) @ poses  # another world is as good, and the result begins at its own first camera
    np.testing.assert_allclose(align("--poses", saved(tmp_path / "moved.npy", moved)).cam_to_world, poses, atol=1e-6)


def test_poses_that_are_not_exact_are_weighed(clip, align, tmp_path):
    generator = np.random.default_rng(0)
    wrong = clip[1].copy()
    wrong[:, :3, 3] += 0.2 * generator.standard_normal((FRAMES, 3))
    path = saved(tmp_path / "wrong.npy", wrong)
    held = np.linalg.inv(wrong[:1]) @ wrong
    exact, firm, loose = (
        align("--poses", path, "--metric-poses", "--pose-sigma", s) for s in ("0,0", "0.1,0.01", "5,2")
    )
    off = [np.abs(result.cam_to_world - held)[:, :3, 3].max() for result in (exact, firm, loose)]
    assert off[0] < 1e-9 and off[0] < off[1] < off[2]
    path_error = [
        np.linalg.norm(np.diff(r.cam_to_world[:, :3, 3] - clip[1][:, :3, 3], axis=0), axis=1).mean()
        for r in (exact, loose)
    ]
    assert path_error[1] < 0.5 * path_error[0]
    assert (read("--poses", path, "--pose-sigma", "0.5,0.02").pose_turn_sigma_deg, loose.is_metric) == (0.5, True)


def test_depth_gives_metres(clip, align, tmp_path):
    depth = np.where(clip[0].valid.numpy(), clip[0].depth.numpy(), np.nan)
    known = saved(tmp_path / "depth.npy", depth)
    result = align("--depth", known)
    assert result.is_metric and metres(result, clip[0]) == pytest.approx(1, abs=0.02)
    assert result.diagnostics["metres_per_unit"]["depth"] > 0
    # 0 is unknown too
    doubled = align("--depth", saved(tmp_path / "doubled.npy", np.nan_to_num(2 * depth[:, ::2, ::2])))
    assert metres(doubled, clip[0]) == pytest.approx(0.5, abs=0.03)
    valid = result.valid & clip[0].valid.numpy()

    def error(found):
        return np.abs(np.log(found.depth / clip[0].depth.numpy())[valid]).mean()

    precise = align("--depth", known, "--depth-sigma", 0.001)
    assert error(precise) < 0.5 * error(align("--depth", known, "--depth-sigma", 1.0))


def test_ignored_pixels_change_cameras_and_keep_their_depth(align, tmp_path):
    plain = align()
    ignore = np.zeros((FRAMES, *SIZE), bool)
    assert np.array_equal(align("--ignore", saved(tmp_path / "none.npy", ignore)).cam_to_world, plain.cam_to_world)
    ignore[:, :, :16] = True
    half = align("--ignore", saved(tmp_path / "half.npy", ignore))
    assert np.array_equal(half.valid, plain.valid)
    assert np.abs(half.cam_to_world - plain.cam_to_world).max() > 1e-6


def test_lengths_give_metres(clip, align):
    true = clip[0]
    depth = true.depth.numpy()
    ends = []
    for u, v in ((8, 20), (24, 20)):
        ray = np.linalg.inv(true.intrinsics[0].double().numpy()) @ [u + 0.5, v + 0.5, 1]
        ends.append(ray * depth[0, v, u])
    length = np.linalg.norm(ends[0] - ends[1])
    result = align("--distance", "0:8.5,20.5", "0:24.5,20.5", length)
    assert result.is_metric and metres(result, true) == pytest.approx(1, abs=0.1)
    double = align("--distance", "0:8.5,20.5", "0:24.5,20.5", 2 * length)
    np.testing.assert_allclose(double.depth, 2 * result.depth, rtol=1e-5)
    np.testing.assert_allclose(double.cam_to_world[:, :3, 3], 2 * result.cam_to_world[:, :3, 3], rtol=1e-5)
    both = read("--distance", "0:8.5,20.5", "3:24.5,20", 2, "--distance", "0:1,1", "0:2,2", 0.5).distances
    assert len(both) == 2 and (both[0].frame_b, both[0].pixel_b, both[1].metres) == (3, (24.5, 20.0), 0.5)


def test_the_cameras_height_gives_metres(align):
    one, two = (align("--camera-height", height) for height in (1.5, 3))
    assert one.is_metric and "camera_height" in one.diagnostics["metres_per_unit"]
    np.testing.assert_allclose(two.depth, 2 * one.depth, rtol=1e-5)
    assert height_above_ground(one) == pytest.approx(1.5, rel=0.02)


def test_files_that_are_none_are_refused(refused, tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    for option in ("--depth", "--ignore", "--intrinsics", "--poses"):
        assert "cannot be read as an array" in refused(option, tmp_path / "none.npy")
        assert "cannot be read as an array" in refused(option, tmp_path / "text.npy")
    assert "holds several arrays" in refused("--depth", tmp_path / "several.npz")
    (tmp_path / "poses.txt").write_text("0 0 0\n")
    assert "has 3 columns" in refused("--poses", tmp_path / "poses.txt")
    assert "is not a TUM trajectory" in refused("--poses", tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    "option,shape,said",
    [
        ("--intrinsics", (3, 4), "(3, 3) or (T, 3, 3)"),
        ("--intrinsics", (5, 3, 3), "5 frames, the video has 16"),
        ("--poses", (16, 3, 4), "(T, 4, 4)"),
        ("--poses", (7, 4, 4), "7 frames, the video has 16"),
        ("--depth", (24, 32), "(T, h, w)"),
        ("--depth", (15, 24, 32), "15 frames, the video has 16"),
        ("--ignore", (16, 24, 32, 3), "(T, h, w)"),
        ("--ignore", (17, 24, 32), "17 frames, the video has 16"),
    ],
)
def test_arrays_of_another_shape_or_video_are_refused(refused, tmp_path, option, shape, said):
    array = np.ones(shape) if shape[-2:] != (4, 4) else np.tile(np.eye(4), (shape[0], 1, 1))
    if shape[-2:] == (3, 3):
        array = np.tile([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]], (shape[0], 1, 1))
    assert said in refused(option, saved(tmp_path / "array.npy", array))


def test_values_that_cannot_be_are_refused(refused, tmp_path):
    assert "FX,FY,CX,CY" in refused("--intrinsics", "30,30,16")
    assert "FX,FY,CX,CY" in refused("--intrinsics", "wide")
    assert "focal lengths above 0" in refused("--intrinsics=-30,30,16,12")
    assert "not finite" in refused("--poses", saved(tmp_path / "nan.npy", np.full((16, 4, 4), np.nan)))
    assert "no value above 0" in refused("--depth", saved(tmp_path / "empty.npy", np.zeros((16, 24, 32))))
    assert "FRAME:U,V FRAME:U,V METRES" in refused("--distance", "0:1", "0:2,2", "3")
    assert "FRAME:U,V FRAME:U,V METRES" in refused("--distance", "0:1,1", "0:2,2", "far")
    assert "outside the video" in refused("--distance", "0:1,1", "99:2,2", "3")
    assert "outside the video" in refused("--distance", "0:1,1", "0:40,2", "3")
    assert "both its ends at one point" in refused("--distance", "0:1.2,20.1", "0:1.3,20.2", "3")


SIGMA, LENGTH = "from 1e-06 to 10", "from 0.0001 to 100000 metres"
NOWHERE = ("nan", "inf", "1e308", "-1")
NUMBERS = {
    "--camera-height={}": (LENGTH, (*NOWHERE, "0", "1e-30")),
    "--distance 0:1,1 0:2,2 {}": (LENGTH, ("nan", "inf", "1e308", "0")),
    "--focal-sigma={}": (f"0 or {SIGMA}", NOWHERE),
    "--depth-sigma={}": (SIGMA, (*NOWHERE, "0")),
    "--pose-sigma={},0.1": ("0 or from 1e-06 to 360 degrees", NOWHERE),
    "--pose-sigma=0.1,{}": ("0 or from 1e-06 to 1e+06", NOWHERE),
    "--intrinsics={},30,16,12": ("--intrinsics", (*NOWHERE, "0")),
    "--intrinsics=30,30,{},12": ("--intrinsics", ("nan", "inf", "1e308")),
}


@pytest.mark.parametrize("option", NUMBERS)
def test_numbers_out_of_range_name_the_option_and_the_range(refused, option):
    said, numbers = NUMBERS[option]
    for number in numbers:
        error = refused(*option.format(number).split())
        assert said in error and option.split("=")[0].split()[0] in error


def test_the_ends_of_the_ranges_are_taken(align):
    for option in ("--camera-height=0.0001", "--camera-height=100000"):
        result = align(option)
        assert np.isfinite(result.cam_to_world).all() and np.isfinite(result.depth[result.valid]).all()


@pytest.mark.parametrize(
    "option,array,said",
    [
        ("--poses", np.full((16, 4, 4), "far"), "must hold numbers"),
        ("--intrinsics", np.full((3, 3), "wide"), "must hold numbers"),
        ("--depth", np.full((16, 24, 32), "deep"), "must hold numbers"),
        ("--ignore", np.full((16, 24, 32), "sky"), "must hold numbers"),
        ("--poses", np.tile(np.eye(4), (16, 1, 1)) * 1e308, "within 1e+08"),
        ("--poses", np.tile(2 * np.eye(4), (16, 1, 1)), "rigid"),
        ("--depth", np.full((16, 24, 32), 1e30), "from 0.0001 to 100000 metres"),
        ("--depth", np.full((16, 24, 32), 1e-30), "from 0.0001 to 100000 metres"),
    ],
)
def test_arrays_of_impossible_values_are_refused(refused, tmp_path, option, array, said):
    error = refused(option, saved(tmp_path / "array.npy", array))
    assert said in error and option in error


def test_lengths_that_no_scene_has_are_refused(small_reconstruction):
    for metres in (float("nan"), float("inf"), 0.0, 1e300):
        with pytest.raises(InputError, match="cannot be"):
            scaled(small_reconstruction, metres)


def test_a_pair_that_is_none_is_refused(windows, tmp_path, capsys):
    assert main(["align", str(windows), "--pose-sigma", "1", "--out", str(tmp_path / "out")]) == 2
    assert "expected two numbers such as 0.5,0.02" in capsys.readouterr().err


def test_what_the_paper_solver_does_not_know_is_refused(refused):
    assert "knows no priors" in refused("solver=paper", "--camera-height", "1.5")


def test_infer_reads_the_same_options(tmp_path, capsys):
    out = tmp_path / "out"
    code = main(["infer", str(tmp_path / "none.mp4"), "--out", str(out), "--model", "tiny", "--intrinsics", "1,2"])
    assert code == 2 and "FX,FY,CX,CY" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(ConfigError):
        read("--intrinsics", "1,2")
    with pytest.raises(InputError):
        read("--depth", tmp_path / "none.npy")
