"""What is known beforehand: every kind of prior, exact and soft, right and wrong, and what it makes of the result."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import FOCAL, SIZE, H, W, camera_path, exact_windows, render

from geo4d.alignment import AlignmentConfig, Distance, Priors, align
from geo4d.errors import AlignmentError, ConfigError, InputError
from geo4d.geometry.pixels import sample_grid
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import so3_exp
from geo4d.metrics.pose import pose_metrics
from geo4d.scene import WindowPredictions
from geo4d.windows.plan import plan_windows

FRAMES = 12
CONFIG = AlignmentConfig(motion=False)
OWN_UNIT = 1 / 1.5  # of the first window of `exact_windows`, in which a result is that is not metric
ELSEWHERE = rigid(
    so3_exp(torch.tensor([0.4, -0.9, 0.2], dtype=torch.float64)), torch.tensor([7.0, -2.0, 3.0], dtype=torch.float64)
).numpy()


def scene(**settings):
    predictions, (depth, poses) = exact_windows(FRAMES, length=8, stride=4, **settings)
    return predictions, depth, poses


@pytest.fixture(scope="module")
def exact():
    """Windows without noise, shared because nothing changes them."""
    return scene()


@pytest.fixture(scope="module")
def noisy():
    return scene(noise=0.02)


def matrix(focal=FOCAL, cx=W / 2, cy=H / 2, fy=None):
    return np.array([[focal, 0, cx], [0, fy or focal, cy], [0, 0, 1.0]])


def scale_of(result, depth):
    """The unit of the result: its depth by the true one."""
    return float(np.nanmedian(result.depth / depth))


def depth_error(result, depth, scale=None):
    return float(np.nanmean(np.abs(result.depth / (scale or scale_of(result, depth)) / depth - 1)))


def relative(poses):
    return np.linalg.inv(poses[:1]) @ poses


def enlarged(poses, factor):
    larger = np.array(poses)
    larger[:, :3, 3] *= factor
    return larger


def is_one_sentence(error):
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and len(text) < 250


# intrinsics


@pytest.mark.parametrize("each", [False, True], ids=["one", "per frame"])
def test_fixed_intrinsics_are_kept_even_where_the_evidence_is_against_them(exact, each):
    predictions, _, _ = exact
    given = matrix(33.0)
    result = align(
        predictions, config=CONFIG, priors=Priors(intrinsics=np.tile(given, (FRAMES, 1, 1)) if each else given)
    )
    np.testing.assert_allclose(result.intrinsics, np.tile(given, (FRAMES, 1, 1)), rtol=1e-12)
    assert not result.is_metric


def test_a_zoom_that_is_known_is_exact():
    focals = FOCAL * np.linspace(1.0, 1.4, FRAMES)
    predictions, depth, poses = scene(focal=torch.from_numpy(focals))
    given = np.stack([matrix(focal) for focal in focals])
    result = align(predictions, config=CONFIG, priors=Priors(intrinsics=given))
    np.testing.assert_allclose(result.intrinsics, given, rtol=1e-9)
    assert depth_error(result, depth) < 1e-4
    assert pose_metrics(result.cam_to_world, relative(poses)).ate_sim3 < 1e-4
    assert depth_error(align(predictions, config=CONFIG), depth) > 1e-3  # which one focal length for all frames is not


def test_intrinsics_are_in_pixels_of_the_video(exact):
    predictions, depth, _ = exact
    video = replace(predictions, source_size=(4 * H, 3 * W))
    given = np.diag([3.0, 4.0, 1.0]) @ matrix()
    result = align(video, config=CONFIG, priors=Priors(intrinsics=given))
    np.testing.assert_allclose(result.intrinsics[0], matrix(), rtol=1e-12)
    assert depth_error(result, depth) < 1e-5
    np.testing.assert_allclose(result.at_source_resolution(0)[1], given, rtol=1e-12)


def points_of(depth, rays, poses, shift=0.0):
    """Exact windows of point maps alone."""
    windows = plan_windows(len(depth), length=8, stride=4)
    points = []
    for window in windows:
        inside = torch.linalg.inv(poses[window[0]]) @ poses[window]
        local = depth[window][..., None] * rays[window]
        points.append(torch.einsum("vij,vhwj->vhwi", inside[:, :3, :3], local) + inside[:, None, None, :3, 3])
    points = torch.stack(points).float() - torch.tensor([0.0, 0.0, shift])
    return WindowPredictions(windows=windows, points=points, weight=torch.ones_like(points[..., 0]))


def off_centre_windows():
    """A cropped video with pixels that are not square."""
    given = matrix(FOCAL, cx=0.35 * W, cy=0.6 * H, fy=1.2 * FOCAL)
    poses = camera_path(FRAMES)
    depth, rays = render(poses, torch.from_numpy(given).expand(FRAMES, 3, 3))
    return points_of(depth, rays, poses), depth.numpy(), poses.numpy(), given


def test_known_principal_points_and_pixel_shapes_make_a_crop_observable():
    predictions, depth, poses, given = off_centre_windows()
    path = np.ptp(poses[:, :3, 3], axis=0).max()
    result = align(predictions, config=CONFIG, priors=Priors(intrinsics=given))
    np.testing.assert_allclose(result.intrinsics[0], given, rtol=1e-9)
    assert depth_error(result, depth) < 1e-4
    assert pose_metrics(result.cam_to_world, relative(poses)).ate_sim3 < 1e-4 * path
    without = align(predictions, config=CONFIG)
    assert depth_error(without, depth) > 1e-2
    assert pose_metrics(without.cam_to_world, relative(poses)).ate_sim3 > 1e-2 * path


def test_a_wrong_focal_length_loses_in_proportion_to_its_sigma(exact):
    predictions, _, _ = exact
    sigmas = (0.0, 0.01, 0.03, 0.3)
    found = [
        align(predictions, config=CONFIG, priors=Priors(intrinsics=matrix(33.0), focal_sigma=s)).intrinsics[0, 0, 0]
        for s in sigmas
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(33.0, rel=1e-9) and found[1] > 31 and found[-1] == pytest.approx(FOCAL, rel=1e-3)


# cameras


@pytest.mark.parametrize("metric", [False, True])
def test_fixed_cameras_are_kept_and_give_their_unit(exact, metric):
    predictions, depth, poses = exact
    given = ELSEWHERE @ enlarged(poses, 2.5)  # a world and a unit of their own
    result = align(predictions, config=CONFIG, priors=Priors(cam_to_world=given, poses_are_metric=metric))
    np.testing.assert_allclose(result.cam_to_world, relative(given), atol=1e-9)
    assert scale_of(result, depth) == pytest.approx(2.5, rel=1e-4) and depth_error(result, depth) < 1e-4
    assert result.is_metric == metric
    assert ("metres_per_unit" in result.diagnostics) == metric


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("size", [0.2, 4.0])
def test_soft_cameras_give_metres_only_where_they_are_metric(exact, metric, size):
    predictions, depth, poses = exact
    given = ELSEWHERE @ enlarged(poses, size)
    priors = Priors(cam_to_world=given, poses_are_metric=metric, pose_turn_sigma_deg=0.5, pose_centre_sigma=0.02)
    result = align(predictions, config=CONFIG, priors=priors)
    assert result.is_metric == metric
    assert scale_of(result, depth) == pytest.approx(size if metric else OWN_UNIT, rel=1e-3)
    assert depth_error(result, depth) < 1e-4
    if metric:
        np.testing.assert_allclose(result.cam_to_world, relative(given), atol=1e-3 * size)


def test_fixed_cameras_mend_what_the_windows_get_wrong(exact):
    predictions, depth, poses = exact
    generator = torch.Generator().manual_seed(0)
    jitter = 0.03 * torch.randn(predictions.points.shape, generator=generator)
    shaken = replace(
        predictions, points=predictions.points + jitter, disparity=None, ray_direction=None, ray_moment=None
    )
    free, fixed = (
        align(shaken, config=CONFIG),
        align(shaken, config=CONFIG, priors=Priors(cam_to_world=poses, intrinsics=matrix())),
    )
    assert pose_metrics(free.cam_to_world, relative(poses)).ate_sim3 > 1e-3
    np.testing.assert_allclose(fixed.cam_to_world, relative(poses), atol=1e-9)
    assert depth_error(fixed, depth) < depth_error(free, depth)
    assert scale_of(fixed, depth) == pytest.approx(1, rel=0.03)


def shift_kept(predictions, poses, turn_sigma, centre_sigma):
    """Which share of a wrong shift of one given camera is in the result."""
    wrong = np.array(poses)
    wrong[6, :3, 3] += [0.0, 0.15, 0.0]
    priors = Priors(
        cam_to_world=wrong, poses_are_metric=True, pose_turn_sigma_deg=turn_sigma, pose_centre_sigma=centre_sigma
    )
    return float((align(predictions, config=CONFIG, priors=priors).cam_to_world - relative(poses))[6, 1, 3]) / 0.15


def test_a_wrong_camera_loses_in_proportion_to_its_sigma(noisy):
    predictions, _, poses = noisy
    kept = [shift_kept(predictions, poses, 1.0, sigma) for sigma in (1e-4, 0.01, 0.1, 1.0)]
    assert np.diff(kept).max() < 1e-3
    assert kept[0] > 0.9 and kept[-1] < 0.02
    # soft in their rotations alone: the centres are as good as fixed
    assert shift_kept(predictions, poses, 1.0, 0.0) > 0.99


def test_sigmas_of_rotations_are_in_degrees(exact):
    given = Priors(cam_to_world=EYES, pose_turn_sigma_deg=2.0, pose_centre_sigma=0.3).resolve(exact[0], None).given
    assert given.rotation_sigma == pytest.approx(np.pi / 90) and given.centre_sigma == 0.3 and not given.fixes_cameras
    assert Priors(cam_to_world=EYES).resolve(exact[0], None).given.fixes_cameras


def test_metric_cameras_that_do_not_move_give_no_metres():
    predictions, depth, poses = scene(poses=camera_path(FRAMES, turn=0.0, move=(0.0, 0.0, 0.0)))
    for soft in ({}, {"pose_turn_sigma_deg": 0.1, "pose_centre_sigma": 0.01}):
        priors = Priors(cam_to_world=poses, poses_are_metric=True, **soft)
        result = align(predictions, config=CONFIG, priors=priors)
        assert not result.is_metric and any("how large" in warning for warning in result.diagnostics["warnings"])
        known = align(predictions, config=CONFIG, priors=replace(priors, depth=depth))
        assert known.is_metric and scale_of(known, depth) == pytest.approx(1, rel=1e-4)


# depth


def sparse(depth, every, first=0):
    known = np.full_like(depth, np.nan)
    known.reshape(len(depth), -1)[:, first::every] = depth.reshape(len(depth), -1)[:, first::every]
    return known


def off_the_grid(depth):
    """Known at none of the pixels that the solver samples."""
    free = np.setdiff1d(np.arange(H * W), sample_grid(H, W, CONFIG.joint.samples).numpy())
    known = np.full_like(depth, np.nan)
    known.reshape(len(depth), -1)[:, free[::9]] = depth.reshape(len(depth), -1)[:, free[::9]]
    return known


DEPTHS = {
    "dense": lambda depth: depth,
    "finer": lambda depth: depth.repeat(2, axis=1).repeat(3, axis=2),
    "sparse": lambda depth: sparse(depth, 7),
    "zero where unknown": lambda depth: np.nan_to_num(sparse(depth, 5)),
    "in one frame": lambda depth: np.where(np.arange(FRAMES)[:, None, None] == 4, depth, np.nan),
    "off the grid": off_the_grid,
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_metric_depth_gives_metres(exact, kind):
    predictions, depth, poses = exact
    given = DEPTHS[kind](3.0 * depth)
    result = align(predictions, config=CONFIG, priors=Priors(depth=given))
    assert result.is_metric
    assert scale_of(result, depth) == pytest.approx(3.0, rel=1e-3) and depth_error(result, depth) < 1e-3
    np.testing.assert_allclose(result.cam_to_world, relative(enlarged(poses, 3.0)), atol=1e-2)
    assert result.diagnostics["metres_per_unit"]["depth"] == pytest.approx(3.0 / OWN_UNIT, rel=1e-3)


def test_precise_depth_outweighs_the_windows_and_vague_depth_does_not(noisy):
    predictions, depth, _ = noisy
    waves = 1 + 0.1 * np.sin(np.arange(W) / 3)
    for sigma, followed in ((0.001, True), (1.0, False)):
        result = align(predictions, config=CONFIG, priors=Priors(depth=depth * waves, depth_sigma=sigma))
        to_given, to_windows = depth_error(result, depth * waves), depth_error(result, depth)
        assert (to_given < 0.2 * to_windows) if followed else (to_windows < 0.2 * to_given)


# pixels to leave out


@pytest.mark.parametrize("garbage", ["nan", "far", "behind"])
def test_ignored_pixels_change_nothing_whatever_they_hold(noisy, garbage):
    predictions, _, _ = noisy
    mask = np.zeros((FRAMES, H, W), bool)
    mask[:, :, : W // 3] = True
    mask[5, : H // 2] = True
    priors = Priors(ignore=mask)
    hidden = torch.from_numpy(mask)[predictions.windows]
    points, disparity = predictions.points.clone(), predictions.disparity.clone()
    points[hidden] = {"nan": torch.nan * points[hidden], "far": 1000 * points[hidden], "behind": -points[hidden]}[
        garbage
    ]
    disparity[hidden] = torch.nan if garbage == "nan" else 0.3
    before = align(predictions, config=CONFIG, priors=priors)
    after = align(replace(predictions, points=points, disparity=disparity), config=CONFIG, priors=priors)
    np.testing.assert_array_equal(after.cam_to_world, before.cam_to_world)
    np.testing.assert_array_equal(after.intrinsics, before.intrinsics)
    np.testing.assert_array_equal(after.valid[~mask], before.valid[~mask])
    change = np.abs(np.log(after.depth / before.depth))[~mask]
    assert (
        change.mean() < 1e-3 and change.max() < 0.02
    )  # how far points and disparity are trusted is asked of all pixels


def test_without_the_mask_the_same_garbage_does_harm(exact):
    predictions, depth, _ = exact
    mask = np.zeros((FRAMES, H, W), bool)
    mask[:, :, : W // 2 + 2] = True
    hidden = torch.from_numpy(mask)[predictions.windows]
    generator = torch.Generator().manual_seed(0)
    wild = torch.randn(predictions.points.shape, generator=generator)
    broken = replace(predictions, points=torch.where(hidden[..., None], wild, predictions.points), disparity=None)
    # of any resolution
    with_mask = align(broken, config=CONFIG, priors=Priors(ignore=mask.repeat(2, axis=1).repeat(2, axis=2)))
    error, spoilt = (np.abs(np.log(r.depth / depth))[~mask] for r in (with_mask, align(broken, config=CONFIG)))
    error, spoilt = error - np.nanmedian(error), spoilt - np.nanmedian(spoilt)
    assert np.nanmean(np.abs(error)) < 1e-3 < 5e-3 < np.nanmean(np.abs(spoilt))


def test_ignored_pixels_still_get_their_depth(exact):
    predictions, depth, _ = exact
    mask = np.zeros((FRAMES, H, W), bool)
    mask[:, 6:12, 10:20] = True
    result = align(predictions, config=CONFIG, priors=Priors(ignore=mask))
    assert result.valid[mask].all() and np.abs(result.depth / OWN_UNIT / depth - 1)[mask].max() < 1e-3
    with pytest.raises(AlignmentError, match="usable sampled pixels"):
        align(predictions, config=CONFIG, priors=Priors(ignore=np.ones((FRAMES, H, W), bool)))


# lengths


def length_between(depth, poses, ends):
    points = []
    for frame, (u, v) in ends:
        at = depth[frame, int(v), int(u)]
        local = at * np.array([(int(u) + 0.5 - W / 2) / FOCAL, (int(v) + 0.5 - H / 2) / FOCAL, 1.0])
        points.append(poses[frame, :3, :3] @ local + poses[frame, :3, 3])
    return float(np.linalg.norm(points[0] - points[1]))


def test_a_known_distance_gives_metres(exact):
    predictions, depth, poses = exact
    a, b, c = (0, (5.5, 6.5)), (9, (30.5, 15.5)), (4, (20.5, 20.5))
    one = Distance(*a, *b, 3 * length_between(depth, poses, (a, b)))
    result = align(predictions, config=CONFIG, priors=Priors(distances=(one,)))
    assert result.is_metric and scale_of(result, depth) == pytest.approx(3, rel=1e-3)
    np.testing.assert_allclose(result.cam_to_world, relative(enlarged(poses, 3.0)), atol=1e-3)
    # two that contradict one another meet half way, by their ratio
    other = Distance(*b, *c, 12 * length_between(depth, poses, (b, c)))
    both = align(predictions, config=CONFIG, priors=Priors(distances=(one, other)))
    assert scale_of(both, depth) == pytest.approx(6, rel=1e-3)


def test_distances_are_in_pixels_of_the_video(exact):
    predictions, depth, poses = exact
    a, b = (0, (5.5, 6.5)), (9, (30.5, 15.5))
    metres = length_between(depth, poses, (a, b))
    large = Distance(0, (5.5 * 4, 6.5 * 4), 9, (30.5 * 4, 15.5 * 4), metres)
    result = align(replace(predictions, source_size=(4 * H, 4 * W)), config=CONFIG, priors=Priors(distances=(large,)))
    assert scale_of(result, depth) == pytest.approx(1, rel=1e-3)


def test_the_camera_s_height_gives_metres(exact):
    predictions, depth, poses = exact
    height = float(np.median(1.2 - poses[:, 1, 3]))  # the floor is at y = 1.2
    result = align(predictions, config=CONFIG, priors=Priors(camera_height=2 * height))
    assert result.is_metric and scale_of(result, depth) == pytest.approx(2, rel=0.02)
    upside_down = predictions.points * torch.tensor([-1.0, -1.0, 1.0])
    turned = replace(predictions, points=upside_down.flip((2, 3)), disparity=predictions.disparity.flip((2, 3)))
    ceiling = align(
        replace(turned, ray_direction=None, ray_moment=None), config=CONFIG, priors=Priors(camera_height=1.0)
    )
    assert ceiling.is_metric  # a level plane is a ground, whichever it is


def test_a_height_without_a_ground_is_refused():
    poses = camera_path(FRAMES, turn=0.0, move=(1.0, 0.0, 0.0))
    looks_up = rigid(so3_exp(torch.tensor([1.2, 0.0, 0.0], dtype=torch.float64)), torch.zeros(3, dtype=torch.float64))
    predictions, _, _ = scene(poses=poses @ looks_up)
    with pytest.raises(InputError, match="No ground plane") as error:
        align(predictions, config=CONFIG, priors=Priors(camera_height=1.5))
    assert is_one_sentence(error)


def test_all_that_say_how_large_the_scene_is_are_reported(exact):
    predictions, depth, poses = exact
    ends = ((0, (5.5, 6.5)), (9, (30.5, 15.5)))
    distance = Distance(*ends[0], *ends[1], 2 * length_between(depth, poses, ends))
    priors = Priors(
        cam_to_world=poses, poses_are_metric=True, depth=1.5 * depth, distances=(distance,), camera_height=1.0
    )
    result = align(predictions, config=CONFIG, priors=priors)
    found = result.diagnostics["metres_per_unit"]
    assert list(found) == ["poses", "depth", "distances", "camera_height"]
    # they contradict one another: fixed cameras count, the rest can be read off
    assert found["poses"] == 1 and scale_of(result, depth) == pytest.approx(1, rel=0.02)
    assert found["depth"] == pytest.approx(1.5, rel=0.02) and found["distances"] == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("too_large", [1.0, 1.2])
def test_metric_cameras_and_metric_depth_share_one_unit(exact, too_large):
    predictions, depth, poses = exact
    soft = {"poses_are_metric": True, "pose_turn_sigma_deg": 0.1, "pose_centre_sigma": 0.01}
    result = align(predictions, config=CONFIG, priors=Priors(cam_to_world=poses, depth=too_large * depth, **soft))
    found = result.diagnostics["metres_per_unit"]
    assert found["poses"] == pytest.approx(found["depth"], rel=1e-6)
    assert 1 - 1e-3 < scale_of(result, depth) < too_large + 1e-3


# what only a prior makes observable


def test_cameras_make_disparity_s_scale_and_shift_observable(exact):
    predictions, depth, poses = exact
    disparity = replace(predictions, points=None, weight=None, ray_direction=None, ray_moment=None)
    alone = align(disparity, config=CONFIG)
    assert depth_error(alone, depth) > 0.1 and any(
        "unknown shift" in warning for warning in alone.diagnostics["warnings"]
    )
    priors = Priors(cam_to_world=poses, poses_are_metric=True, intrinsics=matrix())
    result = align(disparity, config=CONFIG, priors=priors)
    assert result.is_metric and not result.diagnostics["warnings"]
    assert scale_of(result, depth) == pytest.approx(1, rel=0.02) and depth_error(result, depth) < 0.02
    assert not align(disparity, config=CONFIG, priors=replace(priors, poses_are_metric=False)).is_metric


def test_intrinsics_make_the_focal_length_of_disparity_known(exact):
    predictions, _, _ = exact
    disparity = replace(predictions, points=None, weight=None, ray_direction=None, ray_moment=None)
    assert align(disparity, config=CONFIG).intrinsics[0, 0, 0] == pytest.approx(CONFIG.joint.focal_prior * W)
    np.testing.assert_allclose(
        align(disparity, config=CONFIG, priors=Priors(intrinsics=matrix())).intrinsics[3], matrix()
    )


def test_intrinsics_make_the_distance_of_a_wall_observable():
    """Points with an unknown shift along z: of a wall seen straight on, that shift and the focal length are one."""
    poses = camera_path(FRAMES, turn=0.0, move=(0.6, 0.1, 0.0))
    rays = render(poses, torch.from_numpy(matrix(50.0)).expand(FRAMES, 3, 3))[1]
    wall = torch.full((FRAMES, H, W), 4.0, dtype=torch.float64)
    predictions = points_of(wall, rays, poses, shift=0.5)
    without, known = (
        align(predictions, config=CONFIG),
        align(predictions, config=CONFIG, priors=Priors(intrinsics=matrix(50.0))),
    )
    np.testing.assert_allclose(known.intrinsics[0], matrix(50.0))
    path = float(poses[-1, 0, 3] - poses[0, 0, 3])
    paths = [float((r.cam_to_world[-1, 0, 3]) / np.median(r.depth)) for r in (known, without)]
    assert paths[0] == pytest.approx(path / 4, rel=1e-3)
    assert abs(paths[1] / (path / 4) - 1) > 0.2


# what cannot be


NUMBERS = [
    {"focal_sigma": -0.1},
    {"pose_turn_sigma_deg": -1.0},
    {"pose_centre_sigma": float("nan")},
    {"focal_sigma": float("nan")},
    {"depth_sigma": 0.0},
    {"depth_sigma": float("nan")},
    {"camera_height": 0.0},
    {"camera_height": float("nan")},
    {"distances": (Distance(0, (1.0, 1.0), 0, (2.0, 2.0), -1.0),)},
    {"distances": (Distance(0, (1.0, 1.0), 0, (2.0, 2.0), float("inf")),)},
]


@pytest.mark.parametrize("wrong", NUMBERS, ids=str)
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError) as error:
        Priors(**wrong)
    assert is_one_sentence(error)


EYES = np.tile(np.eye(4), (FRAMES, 1, 1))
ARRAYS = {
    "flat intrinsics": ("intrinsics", {"intrinsics": np.ones(4)}),
    "nan intrinsics": ("not finite", {"intrinsics": matrix(np.nan)}),
    "transposed intrinsics": ("fx, 0, cx", {"intrinsics": matrix().T}),
    "skewed intrinsics": ("fx, 0, cx", {"intrinsics": matrix() + 5 * np.eye(3, k=1)}),
    "one pose": ("cam_to_world", {"cam_to_world": np.eye(4)}),
    "poses without a last row": ("cam_to_world", {"cam_to_world": EYES[:, :3]}),
    "poses for some frames": (
        "not finite",
        {"cam_to_world": np.where(np.arange(FRAMES)[:, None, None] == 3, np.nan, EYES)},
    ),
    "poses of zeros": ("rigid", {"cam_to_world": 0 * EYES}),
    "poses with a scale": ("rigid", {"cam_to_world": EYES * [2.0, 2, 2, 1]}),
    "mirrored poses": ("rigid", {"cam_to_world": EYES * [1.0, -1, 1, 1]}),
    "one depth map": ("depth", {"depth": np.ones((H, W))}),
    "one mask": ("ignore", {"ignore": np.ones((H, W), bool)}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_cannot_be_are_refused(name):
    words, wrong = ARRAYS[name]
    with pytest.raises(InputError, match=words) as error:
        Priors(**wrong)
    assert is_one_sentence(error)


OTHERS = {
    "intrinsics": {"intrinsics": np.tile(matrix(), (FRAMES - 1, 1, 1))},
    "cam_to_world": {"cam_to_world": EYES[1:]},
    "depth": {"depth": np.ones((FRAMES + 1, H, W))},
    "ignore": {"ignore": np.zeros((2, H, W), bool)},
    "focal lengths": {"intrinsics": matrix(-30.0)},
    "no value above 0": {"depth": -np.ones((FRAMES, H, W))},
    "outside the video": {"distances": (Distance(0, (1.0, 1.0), 99, (2.0, 2.0), 1.0),)},
    "36 x 24": {"distances": (Distance(0, (1.0, 1.0), 0, (W + 1.0, 2.0), 1.0),)},
    "at one point": {"distances": (Distance(2, (1.0, 1.0), 2, (1.2, 1.2), 1.0),)},
}


@pytest.mark.parametrize("words", OTHERS)
def test_priors_of_another_video_are_refused(exact, words):
    with pytest.raises(InputError, match=words) as error:
        align(exact[0], config=CONFIG, priors=Priors(**OTHERS[words]))
    assert is_one_sentence(error)


def test_lengths_and_depth_where_nothing_is_seen_are_refused(exact):
    predictions, depth, _ = exact
    weight, disparity = predictions.weight.clone(), predictions.disparity.clone()
    weight[..., :8], disparity[..., :8] = 0, 0
    blind = replace(predictions, weight=weight, disparity=disparity)
    with pytest.raises(InputError, match="no depth") as error:
        align(blind, config=CONFIG, priors=Priors(distances=(Distance(0, (2.5, 2.5), 0, (30.5, 8.5), 1.0),)))
    assert is_one_sentence(error)
    unseen = np.full_like(depth, np.nan)
    unseen[:, :, :8] = depth[:, :, :8]
    with pytest.raises(InputError, match="say nothing") as error:
        align(blind, config=CONFIG, priors=Priors(depth=unseen))
    assert is_one_sentence(error)


@pytest.mark.parametrize("known", [{"intrinsics": matrix()}, {"cam_to_world": EYES}, {"camera_height": 1.0}], ids=str)
def test_the_paper_s_solver_takes_no_priors(exact, known):
    with pytest.raises(ConfigError, match="solver=fast") as error:
        align(exact[0], config=AlignmentConfig(solver="paper"), priors=Priors(**known))
    assert is_one_sentence(error)


def test_empty_priors_are_no_priors(exact):
    predictions, _, _ = exact
    assert (
        Priors().is_empty and Priors(focal_sigma=0.1).is_empty and not Priors(ignore=np.zeros((1, 2, 2), bool)).is_empty
    )
    plain, empty = align(predictions, config=CONFIG), align(predictions, config=CONFIG, priors=Priors())
    np.testing.assert_array_equal(plain.depth, empty.depth)
    assert not plain.is_metric and plain.depth.shape[1:] == SIZE
