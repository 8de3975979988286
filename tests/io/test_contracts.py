"""What is written for the benchmarks reads back as their contracts say.

The true trajectories are of a scene that is known exactly.

The scene: a tilted plane, seen by a camera that moves and turns, with points that stand on it and points that slide
over it. The first camera is not the origin of the world here, so that confusing the two frames shows.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from geo4d.cli import main
from geo4d.commands import export as command
from geo4d.errors import ConfigError, InputError
from geo4d.io.contracts import CONTRACTS, lift_tracks, source_frames, write_contract
from geo4d.scene import Reconstruction, Tracks
from geo4d.scene.files.reconstruction import save_reconstruction
from geo4d.scene.files.tracks import save_tracks

FRAMES, HEIGHT, WIDTH = 32, 24, 36
SOURCE = (48, 72)
NORMAL, OFFSET = np.array([0.1, -0.3, 1.0]), 4.0  # the plane: normal . x = offset
POINTS, MOVING = 40, 20  # the last ones slide
HIDDEN = 7  # a track that is not seen in frame 5


@dataclass(frozen=True)
class Scene:
    reconstruction: Reconstruction
    tracks: Tracks
    world: np.ndarray  # (t, n, 3) the true points
    seen: np.ndarray  # (t, n)


@pytest.fixture(scope="module")
def scene() -> Scene:
    time = np.linspace(0, 1, FRAMES)
    pose = np.tile(np.eye(4), (FRAMES, 1, 1))
    pose[:, :3, :3] = Rotation.from_euler("yx", np.stack([5 + 8 * time, -3 * time], axis=1), degrees=True).as_matrix()
    pose[:, :3, 3] = np.stack([0.2 + 0.5 * time, -0.1 * time, 0.3 * time], axis=1)
    k = np.array([[30.0, 0, 17.5], [0, 32.0, 12.5], [0, 0, 1]])
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], axis=-1)
    depth = (OFFSET - pose[:, :3, 3] @ NORMAL)[:, None, None] / np.einsum(
        "tij,hwj,i->thw", pose[:, :3, :3], rays, NORMAL
    )
    valid = np.ones(depth.shape, bool)
    valid[:, :3] = False
    reconstruction = Reconstruction(
        depth=np.where(valid, depth, np.nan).astype(np.float32),
        confidence=np.ones(depth.shape, np.float32),
        valid=valid,
        images=np.tile(np.linspace(0, 250, WIDTH, dtype=np.uint8)[:, None], (FRAMES, HEIGHT, 1, 3)),
        intrinsics=np.tile(k, (FRAMES, 1, 1)),
        cam_to_world=pose,
        timestamps=time,
        source_size=SOURCE,
    )
    random = np.random.default_rng(0)
    world = np.tile(np.append(random.uniform(-0.6, 0.8, (POINTS, 2)), np.zeros((POINTS, 1)), axis=1), (FRAMES, 1, 1))
    world[:, MOVING:, :2] += time[:, None, None] * random.uniform(-0.3, 0.3, (POINTS - MOVING, 2))
    world[:, :, 2] = (OFFSET - world[:, :, :2] @ NORMAL[:2]) / NORMAL[2]
    local = np.einsum("tij,tnj->tni", np.linalg.inv(pose)[:, :3, :3], world - pose[:, None, :3, 3])
    pixels = (local[..., :2] / local[..., 2:] * k[[0, 1], [0, 1]] + k[:2, 2]) * 2  # of the source
    # rows 0 to 2 have no depth; half a pixel from the border, it is not exact
    seen = ((pixels > [1, 8]) & (pixels < [71, 47])).all(-1)
    assert seen[0].all() and seen.mean() > 0.9
    seen[5, HIDDEN] = False
    frame, track = np.nonzero(seen)
    order = np.random.default_rng(1).permutation(len(frame))  # rows come in any order
    rows = [
        array[order]
        for array in (track.astype(np.int32), frame.astype(np.int32), pixels[frame, track].astype(np.float32))
    ]
    return Scene(reconstruction, Tracks(*rows, SOURCE, FRAMES), world, seen)


def read(path):
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def test_syn4d_holds_depth_cameras_and_tracks(tmp_path, scene):
    path = tmp_path / "predictions" / "og" / "space" / "seq_000000_0.npz"
    write_contract(scene.reconstruction, path, "syn4d", tracks=scene.tracks, frame_indices=6 * np.arange(32))
    file = read(path)
    assert {name: (value.dtype.name, value.shape) for name, value in file.items()} == {
        "tracking_xyz": ("float32", (32, 512, 3)),
        "depth": ("float32", (32, HEIGHT, WIDTH)),
        "camera_c2w": ("float32", (32, 4, 4)),
        "frame_indices": ("int32", (32,)),
    }
    np.testing.assert_array_equal(file["frame_indices"], range(0, 187, 6))
    np.testing.assert_array_equal(file["depth"], scene.reconstruction.depth)
    np.testing.assert_allclose(file["camera_c2w"], scene.reconstruction.cam_to_world, atol=1e-6)
    first = scene.reconstruction.cam_to_world[0]
    truth = (scene.world - first[:3, 3]) @ first[:3, :3]  # in the camera of frame 0
    found = file["tracking_xyz"][:, :POINTS]
    np.testing.assert_allclose(found[scene.seen], truth[scene.seen], atol=2e-5)
    assert np.isnan(found[~scene.seen]).all() and np.isnan(file["tracking_xyz"][:, POINTS:]).all()
    still = np.ptp(np.where(scene.seen[..., None], found, found[:1]), axis=0).max(-1)
    assert (
        still[:MOVING].max() < 4e-5 and np.median(still[MOVING:]) > 0.1
    )  # the camera's own motion is gone, the points' is not
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_syn4d_without_tracks_is_depth_and_cameras(tmp_path, scene):
    write_contract(scene.reconstruction, tmp_path / "a.npz", "syn4d")
    assert set(read(tmp_path / "a.npz")) == {"depth", "camera_c2w"}


def test_worldtrack_pack_projects_and_meets_in_the_world(tmp_path, scene):
    write_contract(scene.reconstruction, tmp_path / "a.npz", "worldtrack", tracks=scene.tracks)
    pack = read(tmp_path / "a.npz")
    assert pack["tracks_XYZ"].shape == (32, POINTS, 3) and pack["tracks_XYZ"].dtype == np.float32
    assert pack["visibility"].dtype == bool
    np.testing.assert_array_equal(pack["visibility"], scene.seen)
    np.testing.assert_array_equal(np.isfinite(pack["tracks_XYZ"]).all(-1), scene.seen)
    np.testing.assert_allclose(pack["fx_fy_cx_cy"], [30, 32, 17.5, 12.5])
    cam_to_world = np.linalg.inv(pack["extrinsics_w2c"])
    world = np.einsum("tij,tnj->tni", cam_to_world[:, :3, :3], pack["tracks_XYZ"]) + cam_to_world[:, None, :3, 3]
    np.testing.assert_allclose(world[scene.seen], scene.world[scene.seen], atol=2e-5)
    fx, fy, cx, cy = pack["fx_fy_cx_cy"]
    rows = scene.tracks
    x, y, z = pack["tracks_XYZ"][rows.frame, rows.track].T
    np.testing.assert_allclose(np.stack([fx * x / z + cx, fy * y / z + cy], 1) * 2, rows.position, atol=1e-4)
    assert len(pack["images_jpeg_bytes"]) == 32
    for encoded, image in zip(pack["images_jpeg_bytes"], scene.reconstruction.images, strict=True):
        decoded = np.asarray(Image.open(io.BytesIO(np.frombuffer(encoded, np.uint8).tobytes())))
        np.testing.assert_allclose(decoded.astype(float), image, atol=4)


def test_at_an_edge_a_point_is_on_one_side(scene):
    depth = np.full((FRAMES, HEIGHT, WIDTH), 2.0, np.float32)
    depth[:, :, 10:] = 5.0
    valid = np.ones(depth.shape, bool)
    valid[:, 20:] = False
    stage = replace(scene.reconstruction, depth=np.where(valid, depth, 9.0), valid=valid)
    position = np.array([[19.6, 20], [20.4, 20], [20.4, 39.9], [20.4, 40.1], [-0.1, 20], [72, 20]], np.float32)
    tracks = Tracks(np.arange(6, dtype=np.int32), np.full(6, 3, np.int32), position, SOURCE, FRAMES)
    z = lift_tracks(stage, tracks)[3, :, 2]
    np.testing.assert_array_equal(z, [2, 5, 5, np.nan, np.nan, 5])


def test_what_the_contracts_do_not_take(tmp_path, scene):
    def refused(message, contract, reconstruction=scene.reconstruction, **given):
        with pytest.raises(InputError, match=message) as caught:
            write_contract(reconstruction, tmp_path / "a.npz", contract, **given)
        assert "\n" not in str(caught.value)

    def part(frames):
        names = ("depth", "confidence", "valid", "images", "intrinsics", "cam_to_world", "timestamps")
        return replace(scene.reconstruction, **{name: getattr(scene.reconstruction, name)[:frames] for name in names})

    tracks = scene.tracks
    refused("32 frames, the reconstruction has 20", "syn4d", part(20))
    refused("one frame index", "syn4d", frame_indices=np.arange(31))
    later = replace(
        tracks, frame=np.where(tracks.track == 3, np.maximum(tracks.frame, 1), tracks.frame).astype(np.int32)
    )
    refused("got 40, of which 39 were", "syn4d", tracks=later)
    refused("at most 512 tracks", "syn4d", tracks=replace(tracks, track=tracks.track + 500))
    refused("give --tracks", "worldtrack")
    refused("of 32 frames of 72 x 48 pixels, the reconstruction of 20", "worldtrack", part(20), tracks=tracks)
    refused("of 144 x 96", "worldtrack", tracks=replace(tracks, source_size=(96, 144)))
    zoom = scene.reconstruction.intrinsics * np.linspace(1, 1.1, 32)[:, None, None]
    refused("one focal length", "worldtrack", replace(scene.reconstruction, intrinsics=zoom), tracks=tracks)
    refused(
        "No track was seen",
        "worldtrack",
        replace(scene.reconstruction, valid=np.zeros_like(scene.reconstruction.valid)),
        tracks=tracks,
    )
    with pytest.raises(ConfigError, match="one of syn4d, worldtrack"):
        write_contract(scene.reconstruction, tmp_path / "a.npz", "davis")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_keeps_what_it_holds(tmp_path, scene):
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_contract(scene.reconstruction, tmp_path / "a.npz", "syn4d")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_frame_numbers_come_from_the_settings_of_the_run(tmp_path):
    assert source_frames(tmp_path, 3) is None
    for text, frames in (("start: 4\nframe_stride: 6\n", [4, 10, 16]), ("focal: shared\n", None), ("- a\n", None)):
        (tmp_path / "config.yaml").write_text(text)
        found = source_frames(tmp_path, 3)
        assert found is None if frames is None else found.tolist() == frames
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match="cannot be read"):
        source_frames(tmp_path, 3)


def test_from_the_command_line(tmp_path, scene, capsys):
    assert set(CONTRACTS) == set(command.CONTRACTS)
    save_reconstruction(scene.reconstruction, tmp_path / "r")
    (tmp_path / "r" / "config.yaml").write_text("start: 0\nframe_stride: 6\n")
    save_tracks(tmp_path / "tracks.npz", scene.tracks)
    words = [
        "export",
        str(tmp_path / "r"),
        "--tracks",
        str(tmp_path / "tracks.npz"),
        "--out",
        str(tmp_path / "out.npz"),
        "--format",
    ]
    assert main([*words, "syn4d"]) == 0
    assert read(tmp_path / "out.npz")["frame_indices"][-1] == 186
    assert main([*words, "worldtrack"]) == 0
    assert read(tmp_path / "out.npz")["tracks_XYZ"].shape == (32, POINTS, 3)
    capsys.readouterr()
    for arguments, message in (
        ([*words, "ply"], "--tracks goes with"),
        ([*words[:2], *words[4:], "worldtrack"], "give --tracks"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
