"""Any video that people have: rotation, odd sizes, alpha, 10 bits, variable rate, damage."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from geo4d.errors import InputError
from geo4d.io.video import Selection, read_video, write_video


def gradient(frames, height, width):
    v, u = np.mgrid[0:height, 0:width]
    base = np.stack([u * 255 // width, v * 255 // height, 0 * u], axis=-1).astype(np.uint8)
    return [np.roll(base, 4 * i, axis=1) for i in range(frames)]


def encode(path, frames, *, pix_fmt="yuv420p", codec="libx264", times=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = frames[0].shape[0], frames[0].shape[1], pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (int(1000 * times[i]) if times else 40 * i), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_write_and_read(tmp_path):
    frames = gradient(6, 31, 45)  # odd sizes are padded
    write_video(tmp_path / "a.mp4", frames, 10.0, crf=10)
    video = read_video(tmp_path / "a.mp4")
    assert video.frames.shape == (6, 32, 46, 3) and video.warnings == ()
    assert np.abs(video.frames[0, :31, :40].astype(int) - frames[0][:, :40]).mean() < 10
    np.testing.assert_allclose(video.timestamps, np.arange(6) / 10, atol=1e-3)
    assert video.fps == pytest.approx(10, rel=1e-3)


def test_variable_frame_rate(tmp_path):
    times = [0.0, 0.04, 0.2, 0.24, 0.5]
    encode(tmp_path / "v.mkv", gradient(5, 32, 48), times=times)
    np.testing.assert_allclose(read_video(tmp_path / "v.mkv").timestamps, times, atol=2e-3)


def test_ten_bits_and_grey(tmp_path):
    encode(tmp_path / "ten.mkv", gradient(2, 32, 48), pix_fmt="yuv420p10le")
    encode(tmp_path / "grey.mkv", gradient(2, 32, 48), pix_fmt="gray", codec="ffv1")
    assert read_video(tmp_path / "ten.mkv").frames.shape == (2, 32, 48, 3)
    grey = read_video(tmp_path / "grey.mkv").frames
    assert (grey[..., 0] == grey[..., 1]).all()


def test_selection(tmp_path):
    write_video(tmp_path / "a.mp4", gradient(12, 32, 48), 12.0)
    video = read_video(tmp_path / "a.mp4", Selection(start=2, max_frames=3, stride=4))
    np.testing.assert_allclose(video.timestamps, np.array([2, 6, 10]) / 12, atol=1e-3)
    assert video.fps == pytest.approx(3, rel=1e-2)
    with pytest.raises(InputError, match="no frame from number 50"):
        read_video(tmp_path / "a.mp4", Selection(start=50))
    with pytest.raises(InputError, match="at least 1"):
        Selection(stride=0)


def test_resize_on_the_way_in(tmp_path):
    write_video(tmp_path / "a.mp4", gradient(3, 64, 96), 12.0)
    video = read_video(tmp_path / "a.mp4", resize=lambda h, w: (h // 2, w // 2))
    assert video.frames.shape == (3, 32, 48, 3) and video.source_size == (64, 96)


def test_folder_of_images_in_natural_order(tmp_path):
    for number in (10, 9, 1):
        Image.fromarray(np.full((8, 12, 3), number * 10, np.uint8)).save(tmp_path / f"f{number}.png")
    video = read_video(tmp_path)
    assert video.frames[:, 0, 0, 0].tolist() == [10, 90, 100] and video.fps == pytest.approx(24)


def test_alpha_is_put_over_black_and_sixteen_bits_are_scaled(tmp_path):
    rgba = np.full((8, 12, 4), 200, np.uint8)
    rgba[..., 3] = 0
    Image.fromarray(rgba).save(tmp_path / "1.png")
    Image.fromarray(np.full((8, 12), 40000, np.uint16)).save(tmp_path / "2.png")
    frames = read_video(tmp_path).frames
    assert (frames[0] == 0).all() and (frames[1] == 40000 >> 8).all()


def test_exif_orientation(tmp_path):
    image = Image.fromarray(np.zeros((8, 12, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "1.jpg", exif=exif)
    assert read_video(tmp_path).source_size == (12, 8)


def test_a_truncated_file_gives_what_it_holds(tmp_path):
    encode(
        tmp_path / "whole.mkv",
        [np.random.default_rng(i).integers(0, 255, (64, 96, 3), dtype=np.uint8) for i in range(30)],
    )
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    assert 0 < len(read_video(tmp_path / "cut.mkv").frames) < 30


@pytest.mark.parametrize("make", ["missing", "text", "empty folder", "mixed sizes", "broken image"])
def test_what_is_not_a_video(tmp_path, make):
    path = tmp_path / "in"
    if make == "text":
        path = tmp_path / "a.mp4"
        path.write_text("this is no video")
    elif make != "missing":
        path.mkdir()
    if make == "mixed sizes":
        for i, size in enumerate(((8, 8), (8, 9))):
            Image.new("RGB", size).save(path / f"{i}.png")
    elif make == "broken image":
        (path / "1.png").write_text("x")
    with pytest.raises(InputError, match=r".+\.$") as error:
        read_video(path)
    assert "\n" not in str(error.value)
