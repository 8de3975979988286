"""Video files and folders of images -> frames with true timestamps; frames -> H.264 files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from geo4d.errors import InputError
from geo4d.scene import Video
from geo4d.scene.atomic import whole_file

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"}
FOLDER_FPS = 24.0  # of a folder of images, which has no clock
MAX_SIDE = 16384
Resize = Callable[[int, int], tuple[int, int]]  # source (height, width) -> working (height, width)


@dataclass(frozen=True)
class Selection:
    """Which frames: every `stride`-th from `start`, at most `max_frames`."""

    start: int = 0
    max_frames: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        """Raises InputError if a number is out of range."""
        if self.start < 0 or self.stride < 1 or (self.max_frames is not None and self.max_frames < 1):
            raise InputError(
                "start must be at least 0, frame stride and max frames at least 1; "
                f"got start {self.start}, frame stride {self.stride}, max frames {self.max_frames}."
            )

    def wants(self, index: int) -> bool:
        """Whether to keep frame `index`."""
        return index >= self.start and (index - self.start) % self.stride == 0

    def is_over(self, index: int) -> bool:
        """Whether no frame from `index` on is wanted."""
        return self.max_frames is not None and index > self.start + (self.max_frames - 1) * self.stride


def read_video(
    path: str | Path,
    selection: Selection | None = None,
    *,
    resize: Resize | None = None,
    picture_size: Resize | None = None,
    observe: Callable[[np.ndarray], None] | None = None,
) -> Video:
    """Reads a video file, or a folder of images in natural order.

    Frames are turned as the file's rotation says and composed over black where they have alpha. With `resize` each
    frame is resampled with antialiasing as it is read, so memory holds the working size alone, and with `picture_size`
    the frames at that size beside it; `observe` is shown each frame before that, uint8 (h, w, 3). What a damaged file
    still gives is returned with a warning. Raises InputError if nothing can be read.
    """
    path, selection = Path(path), selection or Selection()
    if not path.exists():
        raise InputError(f"There is no video at {path}; give a video file or a folder of images.")
    stored: list[np.ndarray] = []
    pictures: list[np.ndarray] = []
    times: list[float] = []
    warnings: list[str] = []
    source: tuple[int, int] | None = None
    target: tuple[int, int] | None = None
    frames = _folder_frames(path, warnings) if path.is_dir() else _file_frames(path, warnings)
    for index, (time, load) in enumerate(frames):
        if selection.is_over(index):
            break
        if not selection.wants(index):
            continue
        frame = load()
        if source is None:
            source = (frame.height, frame.width)
            if max(source) > MAX_SIDE:
                raise InputError(
                    f"Frames of {path} are {frame.width} x {frame.height}; at most {MAX_SIDE} pixels a side can be "
                    "read."
                )
            target = resize(*source) if resize else source
        elif (frame.height, frame.width) != source:
            raise InputError(
                f"All frames must have one size: frame {index} of {path} is {frame.width} x {frame.height}, "
                f"the first is {source[1]} x {source[0]}; resize or remove it."
            )
        if observe is not None:
            observe(np.asarray(frame))
        if picture_size is not None:
            pictures.append(at_size(frame, picture_size(*source)))
        if target != source and target is not None:
            frame = resample(frame, target)
        stored.append(np.asarray(frame))
        times.append(time)
    if not stored or source is None:
        raise InputError(
            f"{path} gave no frame from number {selection.start} on; choose an earlier start or another file."
        )
    timestamps = np.array(times)
    span = timestamps[-1] - timestamps[0]
    fps = (len(times) - 1) / span if len(times) > 1 and span > 0 else FOLDER_FPS
    shown = np.stack(pictures) if pictures else None
    return Video(np.stack(stored), timestamps, float(fps), source, tuple(warnings), pictures=shown)


def at_size(frame: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """The frame (h, w, 3) uint8 at a (height, width), as it is if it is its own."""
    return np.asarray(frame if (frame.height, frame.width) == size else resample(frame, size))


def resample(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole frame at another (height, width), as the released script does it.

    Lanczos if it shrinks, bicubic if it grows.
    """
    shrinks = max(size) < max(frame.size)
    return frame.resize((size[1], size[0]), Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC)


def _file_frames(path: Path, warnings: list[str]) -> Iterator[tuple[float, Callable[[], Image.Image]]]:
    """Decoded frames with their times; damage ends the sequence and leaves a warning."""
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"{path} is not a video that can be read ({_reason(error)}); expected a video file or a folder of images."
        ) from error
    with container:
        if not container.streams.video:
            raise InputError(f"{path} has no video stream; expected a video file or a folder of images.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or FOLDER_FPS)
        end = (container.start_time or 0) / av.time_base + (container.duration or 0) / av.time_base
        alone = not container.streams.audio  # the file's duration is the video's
        expected = stream.frames or (round((end - (container.start_time or 0) / av.time_base) * rate) if alone else 0)
        count, last = 0, -1.0
        try:
            for frame in container.decode(stream):
                time = float(frame.time) if frame.time is not None else count / float(stream.average_rate or FOLDER_FPS)
                time = max(time, last + 1e-6)  # a clock that stands still or runs backwards is of no use to anyone
                last, count = time, count + 1
                yield time, lambda frame=frame: _picture(frame)
        except av.FFmpegError as error:
            if count == 0:
                raise InputError(
                    f"{path} holds no frame that can be decoded ({_reason(error)}); expected a video file."
                ) from error
            warnings.append(f"{path.name} is damaged: decoding stopped after {count} frames ({_reason(error)}).")
            return
        if (
            count and count < expected - 2 and last + 2.5 / rate < end
        ):  # an edit list may hide frames that nothing is missing of
            warnings.append(f"{path.name} is damaged or cut off: {count} of {expected} frames could be decoded.")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).split(":")[0].strip().lower()


def _picture(frame: av.VideoFrame) -> Image.Image:
    """RGB, upright."""
    has_alpha = "a" in frame.format.name and any(component.is_alpha for component in frame.format.components)
    image = Image.fromarray(frame.to_ndarray(format="rgba" if has_alpha else "rgb24"))
    image = _flatten(image)
    turns = round((frame.rotation or 0) / 90) % 4
    return image.rotate(90 * turns, expand=True) if turns else image


def _flatten(image: Image.Image) -> Image.Image:
    """Over black where there is alpha; 16-bit grey to 8 bits."""
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image.convert("RGB")


def _folder_frames(folder: Path, warnings: list[str]) -> Iterator[tuple[float, Callable[[], Image.Image]]]:
    """The folder's images in natural order, at FOLDER_FPS."""
    files = sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")),
        key=natural_order,
    )
    if not files:
        raise InputError(
            f"The folder {folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); give another folder or a video "
            "file."
        )
    for index, file in enumerate(files):
        yield index / FOLDER_FPS, lambda file=file: _open_image(file)


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Sorts files by name, 2 before 10: the order of frames in every folder that is read."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.split(r"(\d+)", path.name) if part
    ]


def _open_image(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return _flatten(ImageOps.exif_transpose(image))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{file} is not an image that can be read; remove it from the folder or replace it."
        ) from error


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float, *, crf: int = 20) -> None:
    """Writes (h, w, 3) uint8 frames as H.264 (yuv420p, which every player takes); odd sides are padded by a pixel."""
    path = Path(path)
    try:
        with whole_file(path, alone=True) as temporary:
            _encode(temporary, path, frames, Fraction(fps).limit_denominator(1001), crf)
    except av.FFmpegError as error:  # those of its errors that are none of the system's
        raise InputError(f"{path} cannot be written ({_reason(error)}); choose another place.") from error


def _encode(temporary: Path, path: Path, frames: Iterable[np.ndarray], rate: Fraction, crf: int) -> None:
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = None
        for frame in frames:
            padded = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
                stream.height, stream.width, stream.pix_fmt = padded.shape[0], padded.shape[1], "yuv420p"
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")):
                container.mux(packet)
        if stream is None:
            raise InputError(f"{path} was not written: a video needs at least one frame.")
        for packet in stream.encode():
            container.mux(packet)
