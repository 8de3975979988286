"""Predictions and packs as two tracking benchmarks define them: Syn4D and WorldTrack.

Both are of OpenCV axes and z-depth, as ours are, in the unit of the reconstruction: metres if it `is_metric`, otherwise
up to one scale of the whole video, which both benchmarks fit. A reconstruction holds no tracks: followed points
(`Tracks`) are put into space by its depth and cameras at each frame in which they were seen. Where they were not seen,
or there is no depth, they are nan: nothing is guessed. Scorers that skip what is not finite then judge fewer points, so
say so beside the figures.

Syn4D (README of github.com/jzr99/Syn4D_benchmark, "Prediction contract"): one .npz a sequence, with any of
    tracking_xyz  float32 [32, 512, 3]  the benchmark's query points, in its order, in the camera of frame 0
    depth         float32 [32, h, w]    z-depth at any resolution; the scorer resamples it
    camera_c2w    float32 [32, 4, 4]    camera to world
    frame_indices int32 [32]            numbers of the frames in the video; the protocol's are 0, 6, ..., 186
The scorer looks for <predictions>/<variant>/<scene>/<sequence>.npz; that place is the caller's to give. The queries are
pixels of frame 0 with their centres at +0.5, like those of our tracks: they come with the benchmark, and some tracker
must follow them.

WorldTrack: its data sets are .npz packs, of which the keys below are read by evaluators (Syn4D_benchmark's conversion,
Open-D4RT); no file of predictions is defined, so what is written is a pack that holds the prediction.
    images_jpeg_bytes [t]      one JPEG a frame
    tracks_XYZ    [t, n, 3]    in the camera of each frame
    visibility    bool [t, n]
    fx_fy_cx_cy   [4]          in pixels of these images, the same in all frames
    extrinsics_w2c [t, 4, 4]   world to camera
Not written: depth maps, which some packs hold in a form that is stated nowhere.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from scipy.ndimage import map_coordinates
from yaml import YAMLError

from geo4d.errors import ConfigError, InputError
from geo4d.geometry.camera import pixel_rays
from geo4d.geometry.rigid import relative_to_first, transform_points
from geo4d.io.export import write_archive
from geo4d.scene import Reconstruction, Tracks

CONTRACTS = ("syn4d", "worldtrack")
SYN4D_FRAMES, SYN4D_QUERIES = 32, 512
EDGE = 0.05  # neighbours that change a pixel's 1 / depth by more belong to another surface
MOST_POINTS = 2**27  # of all tracks in all frames: 3 GB of the dense form that a contract asks for
SAME_INTRINSICS = 1e-3  # relative; how far the intrinsics of frames may differ and count as the same


def write_contract(
    reconstruction: Reconstruction,
    path: str | Path,
    contract: str,
    *,
    tracks: Tracks | None = None,
    frame_indices: np.ndarray | None = None,
) -> None:
    """Writes the file `path` as the contract says, in one move.

    Args:
        reconstruction: of the whole sequence; `syn4d` is of 32 frames.
        path: an .npz file; its folder is made if need be.
        contract: "syn4d" or "worldtrack".
        tracks: points followed through the video. `worldtrack` needs them; `syn4d` leaves out tracking_xyz without
            them, and takes track i for query i.
        frame_indices: (t,) numbers of the frames in the video, for `syn4d`; None: not known, left out.

    Raises:
        ConfigError: an unknown contract.
        InputError: what the contract needs is not there, or the place cannot be written.
    """
    if contract == "syn4d":
        arrays = syn4d_arrays(reconstruction, tracks, frame_indices)
    elif contract == "worldtrack":
        arrays = worldtrack_arrays(reconstruction, tracks)
    else:
        raise ConfigError(f"The contract must be one of {', '.join(CONTRACTS)}; got {contract!r}.")
    write_archive(Path(path), arrays)


def syn4d_arrays(
    reconstruction: Reconstruction, tracks: Tracks | None = None, frame_indices: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The arrays of Syn4D's contract (see the module). Queries that no track follows are nan.

    Raises InputError for another number of frames, more than 512 tracks, or a track that was not seen in frame 0.
    """
    frames = reconstruction.num_frames
    if frames != SYN4D_FRAMES:
        raise InputError(
            f"The Syn4D contract is of {SYN4D_FRAMES} frames, the reconstruction has {frames}: "
            f"run geo4d infer with --frame-stride 6 --max-frames {SYN4D_FRAMES} on a sequence of the benchmark."
        )
    arrays = {
        "depth": np.where(reconstruction.valid, reconstruction.depth, np.nan).astype(np.float32),
        "camera_c2w": np.asarray(reconstruction.cam_to_world).astype(np.float32),
    }
    if frame_indices is not None:
        if frame_indices.shape != (frames,):
            raise InputError(
                f"The Syn4D contract needs one frame index for each of {frames} frames; got shape "
                f"{frame_indices.shape}."
            )
        arrays["frame_indices"] = frame_indices.astype(np.int32)
    if tracks is not None:
        queries = len(np.unique(tracks.track[tracks.frame == 0]))
        if tracks.num_tracks > SYN4D_QUERIES or queries != tracks.num_tracks:
            raise InputError(
                f"The Syn4D contract is of at most {SYN4D_QUERIES} tracks, all seen in frame 0; got "
                f"{tracks.num_tracks}, of which {queries} were: give tracks of the benchmark's query points, or none."
            )
        first = _in_first_camera(reconstruction, lift_tracks(reconstruction, tracks))
        arrays["tracking_xyz"] = np.full((frames, SYN4D_QUERIES, 3), np.nan, np.float32)
        arrays["tracking_xyz"][:, : tracks.num_tracks] = first
    return arrays


def worldtrack_arrays(reconstruction: Reconstruction, tracks: Tracks | None) -> dict[str, np.ndarray]:
    """The arrays of a WorldTrack pack (see the module), images and intrinsics at the resolution of the depth.

    A point counts as visible where its track was seen and there is depth. The JPEGs are fixed-width bytes, so that
    reading them takes no pickle. Raises InputError without tracks, or if the camera zooms.
    """
    if tracks is None:
        raise InputError(
            "The WorldTrack contract is of 3D tracks, which need followed points: give --tracks FILE, such as the "
            "tracks.npz that geo4d infer --save-windows keeps."
        )
    lenses = np.asarray(reconstruction.intrinsics)[:, [0, 1, 0, 1], [0, 1, 2, 2]]
    spread = float((np.ptp(lenses, axis=0) / lenses.max()).max())
    if spread > SAME_INTRINSICS:
        raise InputError(
            "The WorldTrack contract has one set of intrinsics for all frames; the reconstruction's differ by "
            f"{100 * spread:.2g}% of the focal length: reconstruct with one focal length."
        )
    points_cam = lift_tracks(reconstruction, tracks)
    return {
        "images_jpeg_bytes": np.array([_jpeg(image) for image in reconstruction.images]),
        "tracks_XYZ": points_cam.astype(np.float32),
        "visibility": np.isfinite(points_cam).all(-1),
        "fx_fy_cx_cy": lenses.mean(0),
        "extrinsics_w2c": np.linalg.inv(reconstruction.cam_to_world),
    }


def lift_tracks(reconstruction: Reconstruction, tracks: Tracks) -> np.ndarray:
    """(t, n, 3) points of the tracks, each in the camera of its frame.

    nan where not seen, outside the image or without depth. Between pixels 1 / depth is interpolated, which is exact on
    planes; at an edge of depth, and outside the centres of the outermost pixels, the nearest pixel's is taken. Raises
    InputError if the tracks belong to another video, are too many to write densely, or none has depth anywhere.
    """
    if tracks.num_frames != reconstruction.num_frames or tracks.source_size != reconstruction.source_size:
        ours, theirs = reconstruction.source_size[::-1], tracks.source_size[::-1]
        raise InputError(
            f"The tracks are of {tracks.num_frames} frames of {theirs[0]} x {theirs[1]} pixels, the reconstruction of "
            f"{reconstruction.num_frames} of {ours[0]} x {ours[1]}; give tracks of the same frames."
        )
    if tracks.num_tracks * tracks.num_frames > MOST_POINTS:
        raise InputError(
            f"Tracks numbered up to {tracks.num_tracks - 1} in {tracks.num_frames} frames are more than {MOST_POINTS} "
            "points; give fewer tracks, numbered without gaps."
        )
    height, width = reconstruction.depth.shape[1:]
    points_cam = np.full((tracks.num_frames, tracks.num_tracks, 3), np.nan)
    pixels = tracks.position.astype(np.float64) * [width / tracks.source_size[1], height / tracks.source_size[0]]
    inside = ((pixels >= 0) & (pixels <= [width, height])).all(1)
    order = np.flatnonzero(inside)[np.argsort(tracks.frame[inside], kind="stable")]
    starts = np.searchsorted(tracks.frame[order], np.arange(tracks.num_frames + 1))
    for frame in range(tracks.num_frames):
        rows = order[starts[frame] : starts[frame + 1]]
        depth = _depth_at(np.where(reconstruction.valid[frame], reconstruction.depth[frame], np.nan), pixels[rows])
        intrinsics = torch.tensor(reconstruction.intrinsics[frame], dtype=torch.float64)
        rays = pixel_rays(torch.from_numpy(pixels[rows]), intrinsics).numpy()
        points_cam[frame, tracks.track[rows]] = rays * depth[:, None]
    if not np.isfinite(points_cam).any():
        raise InputError(
            "No track was seen where the reconstruction has depth, so none can be put into space; give other tracks."
        )
    return points_cam


def source_frames(directory: str | Path, count: int) -> np.ndarray | None:
    """(count,) numbers in the video of the frames that `geo4d infer` used, by the settings it left in `directory`.

    None if it left none.
    """
    path = Path(directory) / "config.yaml"
    if not path.is_file():
        return None
    try:
        settings = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise InputError(f"{path} cannot be read; restore it, or delete it to go without frame numbers.") from error
    start, stride = (
        settings.get(name) if isinstance(settings, DictConfig) else None for name in ("start", "frame_stride")
    )
    return start + stride * np.arange(count) if isinstance(start, int) and isinstance(stride, int) else None


def _in_first_camera(reconstruction: Reconstruction, points_cam: np.ndarray) -> np.ndarray:
    """Points (t, n, 3) of each frame's camera, in the camera of frame 0."""
    cam_to_first = relative_to_first(torch.tensor(reconstruction.cam_to_world, dtype=torch.float64))
    return transform_points(cam_to_first, torch.from_numpy(points_cam)).numpy()


def _depth_at(depth: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Depth (m,) of a map (h, w) at pixels (m, 2), centres at +0.5; nan where the nearest pixel has none."""
    depth = np.where(depth > 0, depth, np.nan).astype(np.float64)
    places = pixels[:, ::-1].T - 0.5
    nearest, between = (map_coordinates(1 / depth, places, order=order, mode="nearest") for order in (0, 1))
    return 1 / np.where(np.abs(between / nearest - 1) <= EDGE, between, nearest)


def _jpeg(image: np.ndarray) -> bytes:
    """A JPEG ends in a byte that is not zero, so that fixed-width bytes keep it whole."""
    buffer = BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
