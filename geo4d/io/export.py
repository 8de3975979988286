"""A reconstruction in formats that other tools read, all at the resolution of its depth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from geo4d.errors import ConfigError, InputError
from geo4d.geometry.camera import pixel_rays
from geo4d.geometry.rigid import transform_points
from geo4d.io.output import register
from geo4d.scene import Reconstruction
from geo4d.scene.atomic import whole_file
from geo4d.scene.files.reconstruction import ARRAYS, OPTIONAL

FORMATS = ("ply", "glb", "colmap", "nerfstudio", "npz")
FOLDER_FORMATS = ("colmap", "nerfstudio")
COLMAP_FILES = ("cameras.txt", "points3D.txt", "images.txt")
FOLDER_KIND = "export"
FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenCV axes <-> OpenGL axes


@dataclass(frozen=True)
class ExportConfig:
    """What goes into point clouds."""

    min_confidence: float = 0.0
    max_points: int = 1_000_000


def export(reconstruction: Reconstruction, path: str | Path, format: str, config: ExportConfig | None = None) -> None:
    """Writes `path`: a file for ply, glb and npz, a folder for colmap and nerfstudio.

    Files take their names when they are whole; of a folder those that name the others come last.
    ply: all frames' points in the world (OpenCV axes). glb: the same with camera pyramids, turned to glTF's y-up axes.
    npz: the arrays of a saved reconstruction by their names. colmap: text model with images; pixel centres at +0.5, as
    ours.
    nerfstudio: transforms.json with OpenGL camera axes.
    Raises ConfigError for an unknown format, InputError if the place cannot be written, or a file of a folder would be
    written over one that is not of an earlier export.
    """
    writers = {
        "ply": _write_ply,
        "glb": _write_glb,
        "colmap": _write_colmap,
        "nerfstudio": _write_nerfstudio,
        "npz": _write_npz,
    }
    if format not in writers:
        raise ConfigError(f"The export format must be one of {', '.join(FORMATS)}; got {format!r}.")
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[format](reconstruction, path, config or ExportConfig())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from error


def gather_points(reconstruction: Reconstruction, config: ExportConfig) -> tuple[np.ndarray, np.ndarray]:
    """World points (n, 3) and colours (n, 3) uint8 of all frames, thinned evenly to at most `max_points`."""
    points, colours = [], []
    share = max(1, config.max_points // reconstruction.num_frames)
    for frame in range(reconstruction.num_frames):
        keep = np.flatnonzero(reconstruction.valid[frame] & (reconstruction.confidence[frame] >= config.min_confidence))
        keep = keep[:: max(1, -(-len(keep) // share))]
        points.append(reconstruction.points_world(frame).reshape(-1, 3)[keep])
        colours.append(reconstruction.images[frame].reshape(-1, 3)[keep])
    if not sum(map(len, points)):
        raise InputError(
            "There is no point to export: lower --min-confidence, or look at the reconstruction's warnings."
        )
    return np.concatenate(points), np.concatenate(colours)


def _write_ply(reconstruction: Reconstruction, path: Path, config: ExportConfig) -> None:
    import trimesh

    points, colours = gather_points(reconstruction, config)
    _write_bytes(path, trimesh.PointCloud(points, colors=colours).export(file_type="ply"))


def _write_glb(reconstruction: Reconstruction, path: Path, config: ExportConfig) -> None:
    import trimesh

    points, colours = gather_points(reconstruction, config)
    scene = trimesh.Scene([trimesh.PointCloud(points, colors=colours)])
    size = 0.05 * float(np.median(np.linalg.norm(points - np.median(points, axis=0), axis=1)))
    for frame in range(0, reconstruction.num_frames, max(1, reconstruction.num_frames // 32)):
        corners, edges = camera_pyramid(reconstruction, frame, size)
        scene.add_geometry(trimesh.load_path(corners[edges]))
    scene.apply_transform(FLIP_YZ)
    _write_bytes(path, scene.export(file_type="glb"))


def camera_pyramid(reconstruction: Reconstruction, frame: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Corners (5, 3) in the world, the centre first, and edges (8, 2) of a camera's pyramid of depth `size`."""
    height, width = reconstruction.depth.shape[1:]
    pixels = torch.tensor([[0, 0], [width, 0], [width, height], [0, height]], dtype=torch.float64)
    k, cam_to_world = (
        torch.tensor(value[frame], dtype=torch.float64)
        for value in (reconstruction.intrinsics, reconstruction.cam_to_world)
    )
    corners = transform_points(
        cam_to_world, torch.cat([torch.zeros(1, 3, dtype=torch.float64), size * pixel_rays(pixels, k)])
    ).numpy()
    return corners, np.array([[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]])


def _write_colmap(reconstruction: Reconstruction, path: Path, config: ExportConfig) -> None:
    sparse, names = path / "sparse" / "0", _image_names(reconstruction)
    register(path, FOLDER_KIND, [*(f"images/{name}" for name in names), *(f"sparse/0/{name}" for name in COLMAP_FILES)])
    for name in COLMAP_FILES:
        (sparse / name).unlink(missing_ok=True)  # of an earlier export, while its images are written over
    _write_images(reconstruction, path / "images")
    sparse.mkdir(parents=True, exist_ok=True)
    height, width = reconstruction.depth.shape[1:]
    cameras, images = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"], ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"]
    for i, name in enumerate(names):
        k = reconstruction.intrinsics[i]
        cameras.append(f"{i + 1} PINHOLE {width} {height} {k[0, 0]:.9g} {k[1, 1]:.9g} {k[0, 2]:.9g} {k[1, 2]:.9g}")
        world_to_cam = np.linalg.inv(reconstruction.cam_to_world[i])
        x, y, z, w = Rotation.from_matrix(world_to_cam[:3, :3]).as_quat()
        numbers = " ".join(f"{value:.9g}" for value in (w, x, y, z, *world_to_cam[:3, 3]))
        images += [f"{i + 1} {numbers} {i + 1} {name}", ""]
    points, colours = gather_points(
        reconstruction, ExportConfig(config.min_confidence, min(config.max_points, 100_000))
    )
    rows = ["# POINT3D_ID X Y Z R G B ERROR TRACK[]"]
    rows += [
        f"{n + 1} {p[0]:.7g} {p[1]:.7g} {p[2]:.7g} {c[0]} {c[1]} {c[2]} 0"
        for n, (p, c) in enumerate(zip(points, colours, strict=True))
    ]
    for name, lines in zip(COLMAP_FILES, (cameras, rows, images), strict=True):
        _write_bytes(sparse / name, ("\n".join(lines) + "\n").encode())


def _write_nerfstudio(reconstruction: Reconstruction, path: Path, config: ExportConfig) -> None:
    names = _image_names(reconstruction)
    register(path, FOLDER_KIND, [*(f"images/{name}" for name in names), "transforms.json"])
    (path / "transforms.json").unlink(missing_ok=True)  # of an earlier export, while its images are written over
    _write_images(reconstruction, path / "images")
    height, width = reconstruction.depth.shape[1:]
    frames = []
    for i, name in enumerate(names):
        k = reconstruction.intrinsics[i]
        # world and camera both with y up, z backwards
        cam_to_world = FLIP_YZ @ reconstruction.cam_to_world[i] @ FLIP_YZ
        entry = {"file_path": f"images/{name}", "transform_matrix": cam_to_world.tolist(), "w": width, "h": height}
        entry |= {
            "fl_x": float(k[0, 0]),
            "fl_y": float(k[1, 1]),
            "cx": float(k[0, 2]),
            "cy": float(k[1, 2]),
            "time": float(reconstruction.timestamps[i]),
        }
        frames.append(entry)
    _write_bytes(path / "transforms.json", json.dumps({"camera_model": "OPENCV", "frames": frames}, indent=1).encode())


def _write_npz(reconstruction: Reconstruction, path: Path, config: ExportConfig) -> None:
    found = {name: getattr(reconstruction, name) for name in (*ARRAYS, *OPTIONAL)}
    write_archive(path, {name: value for name, value in found.items() if value is not None})


def write_archive(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a compressed .npz under exactly this name, in one move; if that fails nothing is left.

    Raises InputError.
    """
    with whole_file(path, alone=True) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _image_names(reconstruction: Reconstruction) -> list[str]:
    return [f"{i:05d}.png" for i in range(reconstruction.num_frames)]


def _write_images(reconstruction: Reconstruction, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(_image_names(reconstruction), reconstruction.images, strict=True):
        Image.fromarray(np.asarray(image)).save(folder / name)


def _write_bytes(path: Path, data: bytes) -> None:
    with whole_file(path, alone=True) as temporary:
        temporary.write_bytes(data)
