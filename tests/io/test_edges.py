"""What io must not get wrong quietly.

Rotation, damage, trimmed clips, long clocks, arrays that do not belong together.
"""

import json
import struct

import av
import numpy as np
import pytest

from geo4d.errors import InputError
from geo4d.io.video import read_video, write_video
from geo4d.scene.files.reconstruction import format_tum, load_reconstruction, read_tum, save_reconstruction
from geo4d.scene.files.windows import load_windows


@pytest.mark.parametrize(
    "matrix,corner",
    [((1, 0, 0, 1), (0, 0)), ((0, 1, -1, 0), (0, 1)), ((-1, 0, 0, -1), (1, 1)), ((0, -1, 1, 0), (1, 0))],
)
def test_rotation_metadata(tmp_path, matrix, corner):
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16, :32] = 255  # the stored picture is white at the top left
    write_video(tmp_path / "a.mp4", [image] * 2, 10.0)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(bytes(data))
    frame = read_video(tmp_path / "a.mp4").frames[0, :, :, 0]
    height, width = frame.shape
    assert (height, width) == ((32, 64) if matrix[0] else (64, 32))
    means = frame.reshape(2, height // 2, 2, width // 2).mean((1, 3))
    assert np.unravel_index(means.argmax(), (2, 2)) == corner


def encode(path, count=40, **options):
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "5"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for i in range(count):
            noise = np.random.default_rng(i).integers(0, 255, (96, 128, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("name,options", [("a.mkv", {}), ("a.mp4", {"movflags": "faststart"})])
def test_a_cut_file_warns(tmp_path, name, options):
    encode(tmp_path / name, **options)
    assert read_video(tmp_path / name).warnings == ()
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 6 // 10])
    video = read_video(tmp_path / name)
    assert 0 < len(video.frames) < 40 and "cut off" in video.warnings[0]


def test_a_trimmed_clip_is_not_called_damaged(tmp_path):
    encode(tmp_path / "a.mp4")
    with (
        av.open(str(tmp_path / "a.mp4")) as source,
        av.open(str(tmp_path / "b.mp4"), "w") as out,
    ):  # as `-ss -c copy` does
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        frame = int(stream.time_base.denominator / 25)
        for packet in source.demux(stream):
            if packet.dts is not None and packet.pts >= 10 * frame:
                packet.stream, packet.pts, packet.dts = copy, packet.pts - 13 * frame, packet.dts - 13 * frame
                out.mux(packet)
    video = read_video(tmp_path / "b.mp4")
    assert len(video.frames) == 27 and video.warnings == ()


def test_a_broken_off_writing_leaves_nothing(tmp_path):
    def frames():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_video(tmp_path / "a.mp4", frames(), 10.0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        write_video(tmp_path / "file" / "a.mp4", [np.zeros((16, 16, 3), np.uint8)], 10.0)


def test_long_clocks_survive(tmp_path):
    times = 1311868164.363181 + np.arange(3) / 30
    (tmp_path / "t.txt").write_text(format_tum(times, np.tile(np.eye(4), (3, 1, 1))))
    np.testing.assert_allclose(read_tum(tmp_path / "t.txt")[0], times, rtol=0, atol=1e-6)
    (tmp_path / "t.txt").write_text("0 0 0 0 0 0 0 0\n")
    with pytest.raises(InputError, match="quaternion"):
        read_tum(tmp_path / "t.txt")


@pytest.mark.parametrize(
    "name,shape", [("images", (8, 2, 2, 3)), ("cam_to_world", (1, 4, 4)), ("timestamps", (7,)), ("valid", (8, 24, 35))]
)
def test_arrays_of_another_result(tmp_path, small_reconstruction, name, shape):
    save_reconstruction(small_reconstruction, tmp_path)
    np.save(tmp_path / f"{name}.npy", np.zeros(shape, getattr(small_reconstruction, name).dtype))
    with pytest.raises(InputError, match=name):
        load_reconstruction(tmp_path)


@pytest.mark.parametrize(
    "text", ["[]", "{}", json.dumps({"version": 1, "frames": 8, "size": None, "source_size": None})]
)
def test_summaries_that_are_none(tmp_path, small_reconstruction, text):
    save_reconstruction(small_reconstruction, tmp_path)
    (tmp_path / "reconstruction.json").write_text(text)
    with pytest.raises(InputError, match="damaged"):
        load_reconstruction(tmp_path)


@pytest.mark.parametrize(
    "entries",
    [
        {"windows": np.array([[0.5, 1]])},
        {"windows": np.zeros((0, 2), int)},
        {"windows": np.array([["a", "b"]])},
        {"weight": np.ones((1, 2, 4, 5))},
        {"ray_cam_to_win": np.zeros((1, 2, 3, 4))},
        {"images": np.zeros((1, 3, 5, 3), np.uint8)},
        {"timestamps": np.zeros(1)},
        {"image_size": np.array(3)},
    ],
    ids=lambda entries: "-".join(entries),
)
def test_windows_that_do_not_belong_together(tmp_path, entries):
    np.savez(tmp_path / "w.npz", **({"windows": np.array([[0, 1]]), "disparity": np.ones((1, 2, 3, 5))} | entries))
    with pytest.raises(InputError, match=r".+\.$"):
        load_windows(tmp_path / "w.npz")


def test_an_array_named_npz(tmp_path):
    with (tmp_path / "w.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="not a file of window predictions"):
        load_windows(tmp_path / "w.npz")
