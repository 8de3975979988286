"""Writes one procedural clip in the true on-disk layout of every evaluation set.

Its units, axes, encodings and numbering.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from geo4d.evaluation.sets.bonn import ROS, marker_to_camera
from geo4d.scene.files.reconstruction import format_tum
from geo4d.synthetic import SceneConfig, render_clips, scene_seed

SEED = scene_seed(77, 2)
SIZE, FRAMES = (48, 64), 6
MAX_M = 12.0  # the clips are made so small that 16 bits of 1 / 5000 metre hold them


@cache
def shoot(frames=FRAMES, fov_deg=None, size=SIZE):
    """One clip (t, h, w) with all depths within MAX_M."""
    config = SceneConfig() if fov_deg is None else SceneConfig(field_of_view_deg=(fov_deg, fov_deg))
    clip = render_clips([SEED], num_frames=frames, size=size, frame_step=2, config=config).map(lambda x: x[0])
    scale = MAX_M / float(clip.depth.max())
    poses = clip.cam_to_world.clone()
    poses[:, :3, 3] *= scale
    return replace(clip, depth=clip.depth * scale, cam_to_world=poses)


def pictures(clip):
    return clip.rgb.mul(255).round().byte().numpy()


def somewhere(clip):
    """cam_to_world (t, 4, 4) in a world that is not the first camera's."""
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = Rotation.random(random_state=7).as_matrix(), [3.0, -2.0, 5.0]
    poses = clip.cam_to_world.double().numpy()
    u, _, vt = np.linalg.svd(poses[:, :3, :3])
    poses[:, :3, :3] = u @ vt
    return world @ poses


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def text(path, rows, header=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(f"{value:.12g}" for value in row) for row in rows]
    path.write_text("\n".join([header] * bool(header) + lines) + "\n")


def stored(clip, scale, unknown=0):
    """(t, h, w) uint16, `unknown` in the sky."""
    return np.where(clip.valid, (clip.depth.numpy() * scale).round(), unknown).astype(np.uint16)


def counted_from_centre(clip):
    """Intrinsics (t, 3, 3) as most data sets have them: the centre of the first pixel is 0."""
    k = clip.intrinsics.double().numpy().copy()
    k[:, :2, 2] -= 0.5
    return k


def write_sintel(root, name="alley_2", clip=None):
    """Numbered from 1; tagged binary files; the sky unspeakably far; world-to-camera."""
    clip = clip or shoot()
    k, world_to_cam = counted_from_centre(clip), np.linalg.inv(somewhere(clip))
    tag = np.float32(202021.25).tobytes()
    for i, rgb in enumerate(pictures(clip)):
        save(root / "training" / "final" / name / f"frame_{i + 1:04d}.png", rgb)
        depth = np.where(clip.valid[i], clip.depth[i], 1e11).astype("<f4")
        for folder, ending, data in (
            ("depth", "dpt", np.array(depth.shape[::-1], "<i4").tobytes() + depth.tobytes()),
            ("camdata_left", "cam", k[i].astype("<f8").tobytes() + world_to_cam[i, :3].astype("<f8").tobytes()),
        ):
            file = root / "training" / folder / name / f"frame_{i + 1:04d}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(tag + data)
    return clip


def poses_around(times, poses, gap=0.004):
    """TUM lines just before and after each time, so that the pose at the time itself is known exactly."""
    return format_tum(np.stack([times - gap, times + gap], 1).ravel(), np.repeat(poses, 2, axis=0))


def write_bonn(root, name="balloon2", clip=None):
    """Files named by their time; depth maps have a clock of their own; poses of the markers in the axes of ROS."""
    clip = clip or shoot()
    folder = root / "rgbd_bonn_dataset" / f"rgbd_bonn_{name}"
    times = 1548266470.88 + np.arange(len(clip.depth)) / 30
    for i, rgb in enumerate(pictures(clip)):
        save(folder / "rgb" / f"{times[i]:.5f}.png", rgb)
        save(folder / "depth" / f"{times[i] + 0.007:.5f}.png", stored(clip, 5000)[i])
    markers = ROS @ somewhere(clip) @ np.linalg.inv(marker_to_camera()) @ np.linalg.inv(ROS)
    (folder / "groundtruth.txt").write_text("# timestamp tx ty tz qx qy qz qw\n" + poses_around(times, markers))
    return clip


def write_kitti(root, name="2011_09_26_drive_0002_sync", clip=None):
    """Pictures of a whole drive, depth of all but its first and last frames; a calibration and dates."""
    clip = clip or shoot()
    drive = root / name[:10] / name
    for i, rgb in enumerate(pictures(clip)):
        save(drive / "image_02" / "data" / f"{i:010d}.png", rgb)
        if 0 < i < len(clip.depth) - 1:
            save(
                root / "val" / name / "proj_depth" / "groundtruth" / "image_02" / f"{i:010d}.png", stored(clip, 256)[i]
            )
    start = datetime(2011, 9, 26, 13, 2, 25, 594360)
    dates = [(start + timedelta(seconds=0.1 * i)).isoformat(" ") + "375" for i in range(len(clip.depth))]
    (drive / "image_02" / "timestamps.txt").write_text("\n".join(dates) + "\n")
    projection = np.concatenate([counted_from_centre(clip)[0], [[44.8], [0.2], [0.002]]], axis=1)
    rows = {"calib_time": "09-Jan-2012 13:57:47", "P_rect_02": " ".join(f"{x:.9e}" for x in projection.ravel())}
    (drive.parent / "calib_cam_to_cam.txt").write_text("".join(f"{key}: {value}\n" for key, value in rows.items()))
    return clip


def write_tum(root, name="rgbd_dataset_freiburg3_walking_xyz", clip=None, *, scale=5000, calibrated=False):
    """Three lists with clocks of their own, 30, 30 and 100 times a second."""
    clip = clip or shoot()
    folder = root / name
    times = 1341846313.592 + np.arange(len(clip.depth)) / 30
    lists = {"rgb": [], "depth": []}
    for i, rgb in enumerate(pictures(clip)):
        for kind, time, image in (("rgb", times[i], rgb), ("depth", times[i] + 0.009, stored(clip, scale)[i])):
            save(folder / kind / f"{time:.6f}.png", image)
            lists[kind].append(f"{time:.6f} {kind}/{time:.6f}.png")
    for kind, lines in lists.items():
        (folder / f"{kind}.txt").write_text(f"# {kind} images\n# timestamp filename\n" + "\n".join(lines) + "\n")
    (folder / "groundtruth.txt").write_text("# ground truth trajectory\n" + poses_around(times, somewhere(clip)))
    if calibrated:
        k = clip.intrinsics[0].numpy()
        text(folder / "intrinsics.txt", [[k[0, 0], k[1, 1], k[0, 2], k[1, 2]]])
    return clip


def write_scannet(root, name="scene0707_00", clip=None, *, step=3, lost=()):
    """Numbers without zeros in front; colour twice as large as depth; every `step`-th frame shows the clip."""
    clip = clip or shoot()
    folder = root / name
    k = counted_from_centre(clip)
    for kind, scale in (("color", 2), ("depth", 1)):
        matrix = np.eye(4)
        matrix[:2, :3] = (k[0, :2] + [[0, 0, 0.5]]) * scale - [[0, 0, 0.5]]
        text(folder / "intrinsic" / f"intrinsic_{kind}.txt", matrix)
    for i in range(step * len(clip.depth)):
        j = i // step
        save(folder / "color" / f"{i}.jpg", pictures(clip)[j].repeat(2, 0).repeat(2, 1))
        save(folder / "depth" / f"{i}.png", stored(clip, 1000)[j])
        text(folder / "pose" / f"{i}.txt", np.full((4, 4), -np.inf) if i in lost else somewhere(clip)[j])
    return clip


def write_seven_scenes(root, name="chess/seq-03", clip=None, *, registered=True):
    """Millimetres; 65535 in raw depth and 0 in registered depth where nothing is known."""
    clip = clip or shoot(fov_deg=float(np.degrees(2 * np.arctan(320 / 525))))
    for i, rgb in enumerate(pictures(clip)):
        save(root / name / f"frame-{i:06d}.color.png", rgb)
        save(root / name / f"frame-{i:06d}.depth.png", stored(clip, 1000, 65535)[i])
        if registered:
            save(root / name / f"frame-{i:06d}.depth.proj.png", stored(clip, 1000)[i])
        text(root / name / f"frame-{i:06d}.pose.txt", somewhere(clip)[i])
    return clip


def write_rgbd(root, name="kitchen", clip=None, *, npy=False):
    """The plainest folder: pictures, depth maps of the same names, text files in our own conventions."""
    clip = clip or shoot()
    folder = root / name
    for i, rgb in enumerate(pictures(clip)):
        save(folder / "rgb" / f"{i:04d}.png", rgb)
        if npy:
            (folder / "depth").mkdir(exist_ok=True)
            np.save(
                folder / "depth" / f"{i:04d}.npy", np.where(clip.valid[i], clip.depth[i], np.nan).astype(np.float32)
            )
        else:
            save(folder / "depth" / f"{i:04d}.png", stored(clip, 1000)[i])
    k = clip.intrinsics.numpy()
    text(folder / "intrinsics.txt", np.stack([k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2]], 1))
    text(folder / "cam_to_world.txt", somewhere(clip).reshape(-1, 16))
    return clip


def write_davis(root, name="bear", clip=None):
    """Pictures alone."""
    clip = clip or shoot()
    for i, rgb in enumerate(pictures(clip)):
        save(root / "JPEGImages" / "480p" / name / f"{i:05d}.jpg", rgb)
    return clip
