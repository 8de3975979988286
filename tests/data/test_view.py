"""Cuts, sizes and mirrors keep cameras true to pixels; photometric augmentation changes colours and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from trees import shoot

from geo4d.data.frames import Frame, to_clip
from geo4d.data.photometric import Photometric, PhotometricConfig, draw_photometric
from geo4d.data.view import View, ViewConfig, draw_view, mirrored
from geo4d.geometry.camera import project, unproject
from geo4d.geometry.rigid import invert_rigid, transform_points

LARGE = (144, 192)


@pytest.fixture(scope="module")
def truth():
    return shoot(LARGE, frames=3)


def as_frames(clip):
    arrays = (
        clip.rgb.mul(255).round().byte(),
        clip.depth,
        clip.valid,
        clip.sky,
        clip.intrinsics.double(),
        clip.cam_to_world.double(),
    )
    return [Frame(*(array[i].numpy() for array in arrays)) for i in range(len(clip.depth))]


def look_up(image, pixels):
    column, row = pixels.floor().long().unbind(-1)
    height, width = image.shape
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    return image[row.clamp(0, height - 1), column.clamp(0, width - 1)], inside


VIEWS = [
    View((48, 64)),
    View((96, 96), zoom=0.8, across=0.9, down=0.1),
    View((40, 120), zoom=0.7, across=0.2, down=0.7, flip=True),
    View((144, 192), flip=True),
    View((250, 300), zoom=0.5),
]


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_points_of_a_view_are_found_again_in_the_next_frame(view, truth):
    clip = to_clip([view(frame) for frame in as_frames(truth)])
    assert clip.depth.shape == (3, *view.size) and clip.rgb.shape == (3, *view.size, 3)
    assert torch.linalg.det(clip.cam_to_world).allclose(torch.ones(3))
    points = unproject(clip.depth[0], clip.intrinsics[0]).flatten(0, 1)
    there = transform_points(invert_rigid(clip.cam_to_world[2]), points)
    seen, inside = look_up(clip.depth[2], project(there, clip.intrinsics[2]))
    usable = clip.valid[0].flatten() & inside & (seen > 0)
    error = ((seen - there[:, 2]).abs() / there[:, 2])[usable]
    assert usable.sum() > 800
    assert error.median() < 0.012 and (error < 0.06).float().mean() > 0.85


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_depth_of_a_view_is_that_of_its_rays(view, truth):
    """What a view says of a pixel is what the scene shows along that pixel's ray."""
    fine = as_frames(shoot((432, 576), frames=1))[0]
    cut = view(as_frames(truth)[0])
    depth = torch.from_numpy(cut.depth)
    points = unproject(depth, torch.from_numpy(cut.intrinsics).float()).flatten(0, 1)
    if view.flip:
        points = points * torch.tensor([-1.0, 1, 1])
    pixels = project(points, torch.from_numpy(fine.intrinsics).float())
    _, inside = look_up(torch.from_numpy(fine.depth), pixels)
    place = (2 * pixels / torch.tensor([576.0, 432.0]) - 1)[
        None, None
    ]  # grid_sample has pixel centres at +0.5, as we do
    disparity = torch.from_numpy(np.divide(1, fine.depth, out=np.zeros_like(fine.depth), where=fine.valid))
    seen = 1 / torch.nn.functional.grid_sample(disparity[None, None], place, align_corners=False).flatten()
    colour, _ = look_up(torch.from_numpy(fine.rgb[..., 0]).float(), pixels)
    usable = torch.from_numpy(cut.valid).flatten() & inside
    assert usable.sum() > 1500
    error = ((seen - depth.flatten()).abs() / depth.flatten().clamp_min(0.1))[usable]
    assert error.median() < 3e-4 and (error < 0.02).float().mean() > 0.85
    shade = (colour - torch.from_numpy(cut.rgb[..., 0]).flatten().float()).abs()[usable]
    assert shade.median() < 12  # the picture was cut as the depth was


def test_planes_stay_planes_and_edges_stay_edges():
    v, u = np.mgrid[0:40, 0:60] + 0.5
    k = np.array([[50.0, 0, 30], [0, 50, 20], [0, 0, 1]])
    disparity = (0.2 + 0.001 * u + 0.0005 * v).astype(np.float32)
    disparity[:, 40:] = 1.0
    ones = np.ones((40, 60), bool)
    frame = Frame(np.zeros((40, 60, 3), np.uint8), 1 / disparity, ones, ~ones, k, np.eye(4))
    for size in ((20, 30), (31, 47), (80, 120)):
        view = View(size)
        top, left, tall, wide = view.box(40, 60)
        cut = view(frame)
        v, u = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
        x, y = left + u * wide / size[1], top + v * tall / size[0]
        plane = (x < 39) & (x > 1) & (y > 1) & (y < 39)
        np.testing.assert_allclose(1 / cut.depth[plane], (0.2 + 0.001 * x + 0.0005 * y)[plane], rtol=1e-4)
        assert set(np.round(1 / cut.depth[(x > 39) & (x < 41)], 3).tolist()) <= {1.0} | set(
            np.round(disparity[:, 36:40], 3).ravel().tolist()
        )
        np.testing.assert_allclose((x - 30) / 50, (u - cut.intrinsics[0, 2]) / cut.intrinsics[0, 0], atol=1e-9)


def test_a_mirror_twice_changes_nothing(truth):
    frame = as_frames(truth)[2]
    frame = replace(frame, intrinsics=frame.intrinsics + np.array([[0, 0.1, 7], [0, 0, -3], [0, 0, 0]]))
    twice = mirrored(mirrored(frame))
    for name in ("rgb", "depth", "sky", "intrinsics", "cam_to_world"):
        np.testing.assert_allclose(getattr(twice, name), getattr(frame, name))
    assert mirrored(frame).intrinsics[0, 2] == LARGE[1] - frame.intrinsics[0, 2]


def test_boxes_lie_inside_and_never_enlarge_without_need():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(100, 1100), rng.integers(100, 2000)
        view = draw_view(rng, [(384, 512), (192, 640)][rng.integers(2)], ViewConfig())
        top, left, tall, wide = view.box(int(height), int(width))
        assert 0 <= top <= height - tall and 0 <= left <= width - wide
        assert abs(wide / tall / (view.size[1] / view.size[0]) - 1) < 0.02
        largest = min(height / view.size[0], width / view.size[1])
        assert tall >= min(largest, 1.0) * view.size[0] - 1


@pytest.mark.parametrize("compression", ["none", "jpeg", "video"])
def test_colours_change_the_same_way_in_all_frames_and_leave_their_input_alone(compression, truth):
    frames = truth.rgb[:1].mul(255).byte().numpy().repeat(4, axis=0)
    before = frames.copy()
    photometric = Photometric(1.2, 0.8, 1.3, 6.0, 0.9, blur_sigma=0.7, compression=compression, quality=30)
    shot = photometric(frames)
    assert np.array_equal(frames, before) and shot.shape == frames.shape and shot.dtype == np.uint8
    assert np.abs(shot.astype(int) - frames).mean() > 2
    assert np.abs(shot[0].astype(int) - shot[3]).mean() < 1.5
    assert np.array_equal(photometric(frames), shot)


def test_an_augmentation_that_does_nothing(truth):
    frames = truth.rgb.mul(255).byte().numpy()
    assert np.array_equal(Photometric()(frames), frames)
    grey = Photometric(saturation=0.0)(frames)
    assert np.abs(grey[..., 0].astype(int) - grey[..., 2]).max() <= 3


def test_augmentations_are_drawn_from_their_ranges():
    drawn = [draw_photometric(np.random.default_rng(i), PhotometricConfig()) for i in range(400)]
    assert 0.1 < np.mean([one.compression == "video" for one in drawn]) < 0.3
    assert 0.1 < np.mean([one.brightness == 1 for one in drawn]) < 0.3
    assert all(35 <= one.quality <= 90 for one in drawn if one.compression == "jpeg")
    assert draw_photometric(np.random.default_rng(3), PhotometricConfig()) == drawn[3]
