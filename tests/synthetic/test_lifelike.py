"""Lifelike worlds: the same for every seed, true to their primitives, seen by cameras that touch nothing."""

import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from geo4d.geometry.camera import pixel_rays_cam, project, unproject
from geo4d.geometry.rigid import invert_rigid, transform_points
from geo4d.synthetic import LIFELIKE, SceneConfig, render_clips, scene_seed
from geo4d.synthetic.finish import FINISH_LENGTH, FINISH_STARTS, coat
from geo4d.synthetic.intersect import HITS, MISS, Squares, cast, cast_bundle
from geo4d.synthetic.lens import Lens, expose
from geo4d.synthetic.motion import CameraPaths, camera_to_scene, shape_to_world
from geo4d.synthetic.primitives import Shape
from geo4d.synthetic.render import frame_times, make_batch
from geo4d.synthetic.staging import Staging
from geo4d.synthetic.studio import corner_shade

SEEDS = [scene_seed(33, i) for i in range(8)]
SIZE = (48, 64)
WORLDS = "e2f7d8060eaf0c8ee66df429a40da1f51285f632c50ae4ef76278cfeb9133a54"  # of twelve scenes
KINDS = {"indoor": (1.0, 0.0), "outdoor": (0.0, 1.0), "street": (0.0, 0.0)}


def of_kind(kind, **staging):
    return replace(LIFELIKE, indoor_share=KINDS[kind][0], outdoor_share=KINDS[kind][1], staging=Staging(**staging))


@pytest.fixture(scope="module")
def clips():
    return render_clips(SEEDS, num_frames=2, size=SIZE, frame_step=6, config=LIFELIKE)


def placed(seed, config, size=SIZE):
    """Rays (1, p, 3) of the first frame, their origin (1, 1, 3), and the scene."""
    batch = make_batch([seed], config)
    time = frame_times(0, 1, 1, 1)
    pose = camera_to_scene(batch.cameras, time)[0]
    focal = max(size) / 2 / torch.tan(batch.cameras.field_of_view / 2)
    intrinsics = torch.tensor([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])
    directions = pixel_rays_cam(intrinsics[None], *size).flatten(1, 2) @ pose[:, :3, :3].mT
    scene = (shape_to_world(batch.parts, time)[0], batch.parts["size"], batch.parts.shapes)
    return directions, pose[:, None, :3, 3], scene, batch


def inside(points, shape, size):
    """Below 1 inside, 1 on the surface, by each shape's own formula; points (n, 3) in its frame."""
    x, y, z = points.T
    if shape == Shape.BOX:
        return np.abs(points / size).max(1)
    if shape == Shape.ELLIPSOID:
        return np.sqrt(((points / size) ** 2).sum(1))
    if shape == Shape.CYLINDER:
        return np.maximum(np.sqrt((x / size[0]) ** 2 + (z / size[2]) ** 2), np.abs(y) / size[1])
    if shape == Shape.CAPSULE:
        rest = y - np.clip(y, -size[1], size[1])
        return np.sqrt(x**2 + rest**2 + z**2) / size[0]
    return np.sqrt((np.sqrt(x**2 + z**2) - size[0]) ** 2 + y**2) / size[1]


@pytest.mark.parametrize("kind", KINDS)
def test_depth_is_where_rays_first_meet_a_surface(kind):
    for number in range(2):
        seed, config = scene_seed(34, number), of_kind(kind)
        directions, eye, scene, _ = placed(seed, config)
        depth = render_clips([seed], num_frames=1, size=SIZE, config=config).depth[0, 0].flatten().double().numpy()
        rays = directions[0].double().numpy()
        some = np.random.default_rng(0).permutation(np.flatnonzero(depth > 0))[:300]
        nearest, least = np.full(len(some), np.inf), np.full(len(some), np.inf)
        for pose, size, shape in zip(*(part[0].double().numpy() for part in scene), strict=True):
            centre, turn = pose[:3, 3], pose[:3, :3]
            start = (eye[0, 0].double().numpy() - centre) @ turn
            along = rays[some] @ turn
            value = inside(start + depth[some, None] * along, shape, size)
            nearest = np.minimum(nearest, np.abs(value - 1) * size[: 2 if shape == Shape.CAPSULE else 3].min())
            if inside(start[None], shape, size)[0] > 1:  # not the room itself
                for share in (0.3, 0.6, 0.9, 0.97):
                    least = np.minimum(least, inside(start + share * depth[some, None] * along, shape, size))
        assert np.quantile(nearest, 0.98) < 2e-3  # every point lies on a surface,
        assert (least < 0.98).mean() < 0.01  # and no ray came through a body before


def test_a_seed_is_always_the_same_world(clips):
    again = render_clips(SEEDS, num_frames=2, size=SIZE, frame_step=6, config=LIFELIKE)
    for name in ("rgb", "depth", "instance", "cam_to_world", "intrinsics"):
        assert torch.equal(getattr(again, name), getattr(clips, name))
    alone = render_clips(SEEDS[3:4], num_frames=2, size=SIZE, frame_step=6, config=LIFELIKE)
    same = (alone.depth[0] - clips.depth[3]).abs() < 1e-3 * clips.depth[3].clamp_min(1)
    assert same.float().mean() > 0.999 and (alone.rgb[0] - clips.rgb[3]).abs().mean() < 0.01


def test_the_scene_itself_stays_the_same_between_frames(clips):
    agreeing = total = 0
    for b in range(len(SEEDS)):
        points = unproject(clips.depth[b, 0], clips.intrinsics[b, 0]).flatten(0, 1)
        there = transform_points(invert_rigid(clips.cam_to_world[b, 1]), points)
        column, row = project(there, clips.intrinsics[b, 1]).floor().long().unbind(-1)
        static = clips.valid[b, 0].flatten() & ~clips.dynamic[b, 0].flatten() & (there[:, 2] > 0.1)
        static &= (column >= 0) & (row >= 0) & (column < SIZE[1]) & (row < SIZE[0])
        column, row = column.clamp(0, SIZE[1] - 1), row.clamp(0, SIZE[0] - 1)
        static &= clips.instance[b, 1][row, column] == clips.instance[b, 0].flatten()
        seen = clips.depth[b, 1][row, column]
        agreeing += int((static & ((seen - there[:, 2]).abs() < 0.08 * there[:, 2])).sum())
        total += int(static.sum())
    assert total > 5000 and agreeing / total > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_touch_nothing_and_look_as_people_look(kind):
    seeds = [scene_seed(35, i) for i in range(12)]
    config = of_kind(kind)
    clips = render_clips(seeds, num_frames=3, size=(18, 24), frame_step=40, config=config)
    near = torch.where(clips.valid, clips.depth, torch.inf).amin(dim=(2, 3))
    assert near.min() > 0.05 and near.median() > 0.2
    cameras = make_batch(seeds, config).cameras
    assert (cameras.pitch >= np.deg2rad(-55.01)).all() and (cameras.pitch <= np.deg2rad(10.01)).all()
    assert (cameras.roll.abs() <= np.deg2rad(15.01)).all()
    assert (cameras.field_of_view >= np.deg2rad(39.9)).all() and (cameras.field_of_view <= np.deg2rad(85.1)).all()
    medians = torch.stack([clip[ok].median() for clip, ok in zip(clips.depth, clips.valid, strict=True)])
    assert medians.median() < {"indoor": 3.0, "outdoor": 20.0, "street": 25.0}[kind]
    assert (clips.rgb.mean(dim=(1, 2, 3, 4)) > 0.1).all() and (clips.rgb.std(dim=(1, 2, 3, 4)) > 0.04).all()


@pytest.mark.parametrize("kind", KINDS)
def test_still_worlds_and_cameras_stand_still(kind):
    clip = render_clips(
        SEEDS[:3], num_frames=2, size=(18, 24), frame_step=30, config=of_kind(kind, is_still=True, camera="static")
    )
    assert not clip.dynamic.any()
    torch.testing.assert_close(clip.cam_to_world[:, 1], clip.cam_to_world[:, 0])
    assert torch.equal(clip.depth[:, 0], clip.depth[:, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_trying_squares_of_rays_finds_what_trying_all_finds(kind):
    for number in range(3):
        directions, eye, scene, batch = placed(scene_seed(36, number), of_kind(kind), (37, 51))
        t, winner = cast(directions, eye, *scene)
        fast_t, fast_winner = cast_bundle(
            directions, eye, scene, Squares.around((eye, directions), scene, eye[:, 0], (37, 51))
        )
        assert (winner == fast_winner).float().mean() > 0.999
        same = winner == fast_winner
        torch.testing.assert_close(fast_t[same], t[same], rtol=2e-3, atol=1e-4)
        origins = eye + 0.97 * t.clamp_max(50.0)[..., None] * directions
        lamp = batch.lights.position
        gap = lamp[:, None] - origins
        towards = gap * (60 / gap.norm(dim=-1, keepdim=True)).clamp_max(1)
        t, _ = cast(towards, origins, *scene)
        fast_t, _ = cast_bundle(towards, origins, scene, Squares.around((origins, towards), scene, lamp, (37, 51)))
        assert ((t > 1) == (fast_t > 1)).float().mean() > 0.999


def test_leaving_out_rays_that_miss_changes_no_bit_of_plain_worlds():
    for number in range(6):
        directions, eye, (to_world, sizes, shapes), _ = placed(scene_seed(31, number), SceneConfig())
        t, winner = cast(directions, eye, to_world, sizes, shapes)
        rotation, centre = to_world[..., :3, :3], to_world[..., :3, 3]
        turns = rotation.mT.reshape(1, -1, 3)
        d = (turns @ directions.mT).unflatten(1, (-1, 3))
        o = (turns @ eye.mT).unflatten(1, (-1, 3)) - (rotation.mT @ centre[..., None])
        best, first = torch.full_like(t, MISS), torch.full_like(winner, -1)
        for slot in range(shapes.shape[1]):  # every ray against every primitive
            found = HITS[Shape(int(shapes[0, slot]))](
                o[:, slot].unbind(1), d[:, slot].unbind(1), sizes[:, slot, :, None].unbind(1)
            )
            closer = found < best
            best, first = torch.where(closer, found, best), torch.where(closer, slot, first)
        assert torch.equal(t, best) and torch.equal(winner, first)


def finish_row(**columns):
    row = torch.zeros(FINISH_LENGTH)
    for name, value in columns.items():
        value = torch.as_tensor(value, dtype=torch.float32).flatten()
        row[FINISH_STARTS[name] : FINISH_STARTS[name] + len(value)] = value
    return row


def test_tiles_have_joints():
    x = torch.linspace(-1, 1, 401)
    points = torch.stack([x, torch.full_like(x, 0.5), torch.full_like(x, 0.03)], dim=-1)[None]
    finish = finish_row(cell=(0.2, 0.2), joint=0.02, joint_colour=(1.0, 0.0, 0.0), grain_scale=(1, 1, 1)).expand(
        1, 401, -1
    )
    grey = torch.full((1, 401, 3), 0.4)
    up = torch.tensor([0.0, 1.0, 0.0]).expand(1, 401, 3)
    colour = coat(points, up, (grey, grey), finish, torch.full((1, 401), 1e-3))[0]
    is_joint = (colour - torch.tensor([1.0, 0.0, 0.0])).norm(dim=-1) < 1e-3
    assert 0.07 < is_joint.float().mean() < 0.13  # a tenth
    torch.testing.assert_close(colour[x.abs() < 0.05], torch.full_like(colour[x.abs() < 0.05], 0.4))
    edges = x[is_joint]
    assert (((edges - 0.1) / 0.2 - ((edges - 0.1) / 0.2).round()).abs() * 0.2 < 0.011).all()


def test_corners_are_darker_than_walls():
    size, focal = (40, 60), torch.tensor([50.0])
    directions = pixel_rays_cam(torch.tensor([[[50.0, 0, 30], [0, 50, 20], [0, 0, 1]]]), *size).flatten(1, 2)
    floor = 1.0 / directions[..., 1].clamp_min(1e-6)
    t = torch.minimum(floor, torch.tensor(4.0))  # a floor a metre below, a wall four metres ahead
    normal = torch.where((floor < 4.0)[..., None], torch.tensor([0.0, -1.0, 0.0]), torch.tensor([0.0, 0.0, -1.0]))
    shade = corner_shade(t[..., None] * directions, normal, t, focal, size).unflatten(1, size)[0]
    corner = int((floor.unflatten(1, size)[0, :, 30] > 4.0).sum())
    assert shade[5:15].min() > 0.98 and shade[corner].mean() < 0.95 and shade[-4:].mean() > 0.98


def lens(**numbers):
    calm = dict.fromkeys((f.name for f in fields(Lens)), torch.zeros(1)) | {"focus": torch.ones(1)}
    calm |= {"aim": torch.full((1,), 0.3), "drift": torch.zeros(1, 4)}
    return Lens(**(calm | {name: torch.tensor([value]) for name, value in numbers.items()}))


def shot(turning=0.0):
    calm = {f.name: torch.zeros(1) for f in fields(CameraPaths)}
    calm |= {name: torch.zeros(1, 3) for name in ("base", "velocity", "sway")} | {"shake_phase": torch.zeros(1, 6, 3)}
    calm |= {"yaw_rate": torch.tensor([turning]), "field_of_view": torch.ones(1)}
    return CameraPaths(**calm), torch.tensor([[0.0]]), torch.tensor([[200.0]])


def test_a_lens_meters_blurs_and_darkens():
    image, depth = torch.zeros(1, 1, 64, 192, 3), torch.ones(1, 1, 64, 192)
    image[:, :, :, 96:] = 0.05
    calm = expose(image, depth, lens(), shot(), [0])
    assert 0.15 < calm.mean() < 0.35  # a dark scene is exposed longer
    step = calm[0, 0, 32, :, 0].diff()
    assert int((step > 1e-4).sum()) == 1
    turned = expose(image, depth, lens(shutter=1 / 30), shot(turning=0.6), [0])[0, 0, 32, :, 0].diff()
    assert 3 <= int((turned > 1e-3).sum()) <= 6  # 0.6 rad/s * 1/30 s * 200 pixels = 4
    soft = expose(image, 4 * depth, lens(aperture=2.0), shot(), [0])[0, 0, 32, :, 0].diff()
    assert int((soft > 1e-3).sum()) >= 3  # behind what is focused on
    even = expose(torch.full_like(image, 0.3), depth, lens(vignette=0.4), shot(), [0])[0, 0, :, :, 0]
    assert even[0, 0] < 0.7 * even[32, 96]


def test_smooth_edges_change_colours_at_edges_alone():
    seed, config = scene_seed(33, 1), replace(of_kind("street"), compression=False)
    hard, smooth = (
        render_clips([seed], num_frames=1, size=(96, 128), config=replace(config, smooth_edges=flag))
        for flag in (False, True)
    )
    assert torch.equal(hard.depth, smooth.depth)  # depth is never mixed
    changed = (hard.rgb - smooth.rgb).abs().amax(-1)[0, 0] > 0.05
    edge = torch.zeros_like(changed)
    step = (hard.depth[0, 0].diff(dim=1).abs() > 0.5) | (hard.instance[0, 0].diff(dim=1) != 0)
    edge[:, :-1] |= step
    edge[:, 1:] |= step
    assert changed[edge].float().mean() > 3 * changed[~edge].float().mean()


def test_lifelike_worlds_are_what_they_were():
    digest = hashlib.sha256()
    batch = make_batch([scene_seed(37, index) for index in range(12)], LIFELIKE)
    for group in (batch.parts, batch.cameras, batch.lights, batch.style, batch.lifelike.studio, batch.lifelike.lens):
        for field in fields(group):
            digest.update(getattr(group, field.name).numpy().tobytes())
    digest.update(batch.lifelike.finish.numpy().tobytes())
    assert digest.hexdigest() == WORLDS
