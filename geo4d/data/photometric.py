"""Photometric augmentation: colour, blur and compression, the same for all frames of a window."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from geo4d.io.video import read_video, write_video

TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
VIDEO_FPS = 24.0


@dataclass(frozen=True)
class PhotometricConfig:
    """Ranges to draw from; a share is the chance that a window gets any of it."""

    colour_share: float = 0.8
    brightness: float = 0.25  # largest change of the exposure, of one
    contrast: float = 0.25
    saturation: float = 0.3
    hue_deg: float = 8.0
    gamma: float = 0.2
    blur_share: float = 0.25
    blur_sigma: tuple[float, float] = (0.3, 1.2)  # pixels of the result
    jpeg_share: float = 0.2
    jpeg_quality: tuple[int, int] = (35, 90)
    video_share: float = 0.2
    video_crf: tuple[int, int] = (18, 34)


@dataclass(frozen=True)
class Photometric:
    """One photometric augmentation of a window; call it with uint8 frames (t, h, w, 3)."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue_deg: float = 0.0
    gamma: float = 1.0
    blur_sigma: float = 0.0
    compression: Literal["none", "jpeg", "video"] = "none"
    quality: int = 0  # of JPEG, or the constant rate factor of H.264

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """The frames with other colours: a new array."""
        frames = self._colour(frames)
        if self.blur_sigma > 0:
            frames = np.stack([cv2.GaussianBlur(frame, (0, 0), self.blur_sigma) for frame in frames])
        if self.compression == "jpeg":
            frames = np.stack([_through_jpeg(frame, self.quality) for frame in frames])
        elif self.compression == "video":
            frames = _through_video(frames, self.quality)
        return frames

    def _colour(self, frames: np.ndarray) -> np.ndarray:
        """Exposure and contrast about the window's own mean, then hue and saturation, then gamma."""
        if (self.brightness, self.contrast, self.saturation, self.hue_deg, self.gamma) == (1, 1, 1, 0, 1):
            return frames.copy()
        image = frames.astype(np.float32) * np.float32(self.brightness / 255)
        mean = image.mean(dtype=np.float64)
        angle = np.deg2rad(self.hue_deg)
        chroma_rotation = self.saturation * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        chroma = np.block([[np.ones((1, 1)), np.zeros((1, 2))], [np.zeros((2, 1)), chroma_rotation]])
        mix = np.linalg.inv(TO_YIQ) @ chroma @ TO_YIQ * self.contrast
        image = image @ mix.T.astype(np.float32) + np.float32(mean * (1 - self.contrast))
        return (np.clip(image, 0, 1) ** np.float32(self.gamma) * 255).round().astype(np.uint8)


def draw_photometric(generator: np.random.Generator, config: PhotometricConfig) -> Photometric:
    """A random augmentation."""
    colour, blur, compression, quality = generator.random(4).tolist()
    changes = generator.uniform(-1, 1, 5).tolist()
    sigma = float(generator.uniform(*config.blur_sigma))
    if colour >= config.colour_share:
        changes = [0.0] * 5
    kind: Literal["none", "jpeg", "video"] = "none"
    if compression < config.jpeg_share + config.video_share:
        kind = "jpeg" if compression < config.jpeg_share else "video"
    low, high = config.jpeg_quality if kind == "jpeg" else config.video_crf
    return Photometric(
        brightness=1 + config.brightness * changes[0],
        contrast=1 + config.contrast * changes[1],
        saturation=1 + config.saturation * changes[2],
        hue_deg=config.hue_deg * changes[3],
        gamma=1 + config.gamma * changes[4],
        blur_sigma=sigma if blur < config.blur_share else 0.0,
        compression=kind,
        quality=round(low + (high - low) * quality),
    )


def _through_jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def _through_video(frames: np.ndarray, crf: int) -> np.ndarray:
    """H.264 and back, by way of a temporary file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "window.mp4"
        write_video(file, frames, VIDEO_FPS, crf=crf)
        return read_video(file).frames[:, : frames.shape[1], : frames.shape[2]]
