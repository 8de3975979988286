"""Writes one procedural clip in the true on-disk format of every data set: its units, axes, encodings and numbering."""

import csv

import cv2
import h5py
import numpy as np
import OpenEXR
from PIL import Image
from scipy.spatial.transform import Rotation

from geo4d.synthetic import SceneConfig, render_clips, scene_seed

SEED = scene_seed(77, 2)  # a street with cars, a sky, and a camera that drives
FRAMES = 6
HOLE = 8  # number of the thing that is a hole where a format has holes


def shoot(size=(48, 64), *, seed=SEED, frames=FRAMES, fov_deg=None):
    """One clip (t, h, w) of the scene; geometry does not depend on the size."""
    config = SceneConfig() if fov_deg is None else SceneConfig(field_of_view_deg=(fov_deg, fov_deg))
    return render_clips([seed], num_frames=frames, size=size, frame_step=2, config=config).map(lambda x: x[0])


def somewhere(clip, seed=5):
    """cam_to_world (t, 4, 4) in a world that is not the first camera's."""
    rng = np.random.default_rng(seed)
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = Rotation.random(random_state=7).as_matrix(), rng.normal(size=3) * 10
    return world @ clip.cam_to_world.double().numpy()


def pictures(clip):
    return clip.rgb.mul(255).round().byte().numpy()


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def text(path, rows, header=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(f"{value:.10g}" for value in row) for row in rows]
    path.write_text("\n".join([header] * bool(header) + lines) + "\n")


def write_pointodyssey(root, clip=None, *, name="train/ani", masks=True, dtype=np.float32):
    """16 bits over a kilometre, saturated at the sky.

    anno.npz holds world-to-camera matrices, and tracks that nobody reads.
    """
    clip = clip or shoot()
    folder = root / name
    depth = np.where(clip.sky, 1e10, clip.depth)
    for i, rgb in enumerate(pictures(clip)):
        save(folder / "rgbs" / f"rgb_{i:05d}.jpg", rgb)
        save(
            folder / "depths" / f"depth_{i:05d}.png", (np.minimum(depth[i] / 1000, 1) * 65535).round().astype(np.uint16)
        )
        if masks:
            save(
                folder / "masks" / f"mask_{i:05d}.png",
                np.where(clip.instance[i].numpy() == HOLE, 0, 200).astype(np.uint8),
            )
    world_to_cam = np.linalg.inv(somewhere(clip))
    tracks = np.full((len(depth), 4, 3), np.inf, np.float16)
    np.savez(
        folder / "anno.npz",
        intrinsics=clip.intrinsics.numpy().astype(dtype),
        extrinsics=world_to_cam.astype(dtype),
        trajs_3d=tracks,
        trajs_2d=tracks[..., :2],
    )
    return clip


def write_tartanair(root, clip=None, *, name="office/Easy/P000"):
    """North-east-down axes for world and camera, quaternions x y z w; 90 degrees wide."""
    clip = clip or shoot(fov_deg=90.0)
    folder = root / name
    for i, rgb in enumerate(pictures(clip)):
        save(folder / "image_left" / f"{i:06d}_left.png", rgb)
        (folder / "depth_left").mkdir(exist_ok=True)
        np.save(
            folder / "depth_left" / f"{i:06d}_left_depth.npy",
            np.where(clip.sky[i], 10000, clip.depth[i]).astype(np.float32),
        )
    poses = somewhere(clip)
    forward, right, down = 2, 0, 1  # rows of an OpenCV vector that are x, y, z of the other axes
    ned = np.eye(3)[[forward, right, down]]
    rows = [[*(ned @ pose[:3, 3]), *Rotation.from_matrix(ned @ pose[:3, :3] @ ned.T).as_quat()] for pose in poses]
    text(folder / "pose_left.txt", rows)
    return clip


def write_spring(root, clip=None, *, name="train/0001"):
    """Numbered from 1; disparity in image pixels on a grid twice as fine, nan where unknown, 0 in the sky.

    Cameras that zoom.
    """
    clip = clip or shoot((96, 128))
    fine = shoot((2 * clip.depth.shape[1], 2 * clip.depth.shape[2]))
    folder = root / name
    (folder / "disp1_left").mkdir(parents=True)
    for i, rgb in enumerate(pictures(clip)):
        save(folder / "frame_left" / f"frame_left_{i + 1:04d}.png", rgb)
        focal = float(clip.intrinsics[i, 0, 0])
        disparity = np.where(fine.sky[i], 0, focal * 0.065 / np.maximum(fine.depth[i], 1e-6)).astype(np.float32)
        disparity[fine.instance[i].numpy() == HOLE] = np.nan
        with h5py.File(folder / "disp1_left" / f"disp1_left_{i + 1:04d}.dsp5", "w") as file:
            file.create_dataset("disparity", data=disparity, compression="gzip")
    k = clip.intrinsics.numpy()
    text(folder / "cam_data" / "intrinsics.txt", np.stack([k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2]], 1))
    text(folder / "cam_data" / "extrinsics.txt", np.linalg.inv(somewhere(clip)).reshape(-1, 16))
    text(folder / "cam_data" / "focaldistance.txt", [[100.0]] * len(k))
    return clip


def write_vkitti2(root, clip=None, *, name="Scene01/clone", archives=False):
    """Centimetres in 16 bits; two cameras by turns in the text files; principal point counted from a pixel's centre."""
    clip = clip or shoot()
    base = {part: root / f"vkitti_2.0.3_{part}" if archives else root for part in ("rgb", "depth", "textgt")}
    poses, k = somewhere(clip), clip.intrinsics.numpy()
    shift = np.eye(4)
    shift[0, 3] = 0.532725
    extrinsic, intrinsic = [], []
    for i, rgb in enumerate(pictures(clip)):
        stored = np.where(clip.sky[i], 65535, np.round(clip.depth[i].numpy() * 100)).astype(np.uint16)
        for camera in (0, 1):  # the second camera sees the same picture here, but stands elsewhere
            save(base["rgb"] / name / "frames" / "rgb" / f"Camera_{camera}" / f"rgb_{i:05d}.jpg", rgb)
            save(base["depth"] / name / "frames" / "depth" / f"Camera_{camera}" / f"depth_{i:05d}.png", stored)
            world_to_cam = np.linalg.inv(poses[i] @ (shift if camera else np.eye(4)))
            extrinsic.append([i, camera, *world_to_cam.ravel()])
            intrinsic.append([i, camera, k[i, 0, 0], k[i, 1, 1], k[i, 0, 2] - 0.5, k[i, 1, 2] - 0.5])
    header = "frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1"
    text(base["textgt"] / name / "extrinsic.txt", extrinsic, header)
    text(base["textgt"] / name / "intrinsic.txt", intrinsic, "frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]")
    text(base["textgt"] / name / "pose.txt", [[0, 0, 1, 2, 3]], "frame cameraID trackID alpha width")
    return clip


def write_bedlam(root, clip=None, *, name="20221024_10_100_suburb", leaf="seq_000003", every=1):
    """Unreal: centimetres, degrees, left-handed; the sky at 1e8; depth for every `every`-th frame alone."""
    clip = clip or shoot((45, 80))
    scene = root / name
    rows = []
    for i, (rgb, pose) in enumerate(zip(pictures(clip), somewhere(clip), strict=True)):
        save(scene / "png" / leaf / f"{leaf}_{i:04d}.png", rgb)
        depth = np.where(clip.sky[i], 1e8, clip.depth[i] * 100).astype(np.float32)
        if i % every == 0:
            (scene / "depth" / leaf).mkdir(parents=True, exist_ok=True)
            header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
            OpenEXR.File(header, {"Depth": depth}).write(str(scene / "depth" / leaf / f"{leaf}_{i:04d}_depth.exr"))
        x, y, z = (pose[:3, 3] @ np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]])) * 100  # forward, right, up
        mm = float(clip.intrinsics[i, 0, 0]) * 36 / rgb.shape[1]
        rows.append([f"{leaf}_{i:04d}.png", x, y, z, *unreal_angles(pose[:3, :3]), mm, 36.0, 20.25, 0.0])
    rows = rows[::-1]  # rows are told by their names, not by their places
    file = scene / "ground_truth" / "camera" / f"{leaf}_camera.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow("name,x,y,z,yaw,pitch,roll,focal_length,sensor_width,sensor_height,hfov".split(","))
        writer.writerows(rows)
    return clip


def unreal_angles(rotation):
    """Yaw, pitch, roll in degrees, told from where the camera's forward and right point."""
    axes = (rotation[:, 2], rotation[:, 0], -rotation[:, 1])
    forward, right, up = (np.array([axis[2], axis[0], -axis[1]]) for axis in axes)  # in x forward, y right, z up
    yaw, pitch = np.arctan2(forward[1], forward[0]), np.arctan2(forward[2], np.hypot(forward[0], forward[1]))
    level_right = np.array([-np.sin(yaw), np.cos(yaw), 0])
    roll = np.arctan2(np.dot(up, level_right), np.dot(right, level_right))  # clockwise: up leans to the right
    return np.degrees([yaw, pitch, roll])


def write_folder(root, clip=None, *, name="00000"):
    """What geo4d synth writes."""
    from geo4d.io.video import write_video
    from geo4d.synthetic.files import ARRAYS

    clip = clip or shoot()
    (root / name).mkdir(parents=True)
    write_video(root / name / "rgb.mp4", pictures(clip), 24.0, crf=10)
    for array in ARRAYS:
        np.save(root / name / f"{array}.npy", getattr(clip, array).numpy())
    return clip


WRITERS = {
    "pointodyssey": write_pointodyssey,
    "tartanair": write_tartanair,
    "spring": write_spring,
    "vkitti2": write_vkitti2,
    "bedlam": write_bedlam,
    "folder": write_folder,
}


def cut_short(path):
    """Cuts a file in half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def halve(path):
    """Half the size."""
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), array[::2, ::2])
