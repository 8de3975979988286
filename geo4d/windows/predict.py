"""The model over the plan: every frame encoded once, windows in batches, each finished window kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from geo4d._typing import Float, Int, Tensor
from geo4d.diffusion.sampler import ddim, one_step
from geo4d.diffusion.schedule import Schedule
from geo4d.errors import InputError
from geo4d.modalities import Layout
from geo4d.models.geometry_model import GeometryModel

Progress = Callable[[str, int, int], None]
RAY_POOL = 4  # ray maps are kept at a quarter of the working resolution: they hold one camera
IMAGES_AT_ONCE = 32
FPS_RANGE = (8.0, 24.0)  # frame rates that training draws (METHOD section 4); others count as the nearest
SAMPLES_PER_TENSOR = 4096  # of the weights, in their fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictConfig:
    """How to sample."""

    steps: int | None = None  # None: as the model was made for; 0: one step from zero input; else DDIM
    seed: int = 0
    windows_per_batch: int = 2
    dtype: torch.dtype = torch.float32  # of the networks' arithmetic; the results are float32


@dataclass(frozen=True)
class Predictor:
    """A model with what is needed to run it."""

    model: GeometryModel
    layout: Layout
    schedule: Schedule
    config: PredictConfig

    @torch.no_grad()
    def predict(
        self,
        frames: np.ndarray,
        windows: Int[Tensor, "g v"],
        fps: float,
        *,
        cache: WindowCache | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Fields of WindowPredictions for uint8 frames (t, h, w, 3) at a working resolution.

        The result does not depend on how windows are batched (to rounding), nor on what came from the cache.
        """
        results: dict[int, dict[str, Any]] = {} if cache is None else cache.load(len(windows))
        done = len(results)
        latents = self._encode(frames, progress) if done < len(windows) else None
        if progress is not None:
            progress("windows", done, len(windows))
        size = self.config.windows_per_batch
        for i in range(0, len(windows), size):
            # batches keep their places whatever is cached, so that a resumed run repeats the arithmetic of a whole one
            batch = [g for g in range(i, min(i + size, len(windows))) if g not in results]
            if not batch or latents is None:
                continue
            for g, fields in zip(batch, self._predict_batch(latents, windows[batch], fps), strict=True):
                results[g] = fields
                if cache is not None:
                    cache.store(g, fields)
            done += len(batch)
            if progress is not None:
                progress("windows", done, len(windows))
        ordered = [results.pop(g) for g in range(len(windows))]
        return {key: _stack([fields[key] for fields in ordered]) for key in ordered[0]}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, self.config.dtype, enabled=self.config.dtype != torch.float32)

    def _encode(self, frames: np.ndarray, progress: Progress | None) -> Float[Tensor, "t 4 y x"]:
        latents = []
        if progress is not None:
            progress("encode", 0, len(frames))
        for i in range(0, len(frames), IMAGES_AT_ONCE):
            rgb = torch.from_numpy(frames[i : i + IMAGES_AT_ONCE].copy()).to(self.model.device).movedim(-1, 1)
            with self._autocast():
                latents.append(self.model.encode_rgb(rgb.float() / 127.5 - 1).float())
            if progress is not None:
                progress("encode", min(i + IMAGES_AT_ONCE, len(frames)), len(frames))
        return torch.cat(latents)

    def _predict_batch(self, latents: Tensor, windows: Int[Tensor, "b v"], fps: float) -> list[dict[str, Any]]:
        condition = latents[windows].movedim(1, 2)  # (b, 4, v, y, x)
        index = (windows - windows[:, :1]).to(latents.device)
        rate = min(max(float(fps), FPS_RANGE[0]), FPS_RANGE[1])
        unet = self.model.denoiser(condition, torch.full((len(windows),), rate, device=latents.device), index)

        def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
            with self._autocast():
                return unet(x_t, timesteps).float()

        shape = (self.layout.latent_channels, *condition.shape[2:])
        steps = self.config.steps
        if steps == 0 or (steps is None and self.model.spec.sampler == "one_step"):
            x0 = one_step(denoise, condition.new_zeros(len(windows), *shape), self.schedule)
        else:
            noise = torch.stack([_noise(shape, self.config.seed, int(window[0])) for window in windows]).to(condition)
            compat = "released" if self.model.spec.dynamic_rescale else "exact"  # as the model was published
            x0 = ddim(denoise, noise, self.schedule, steps=steps or self.model.spec.steps, compat=compat)
        with self._autocast():
            return [self._decode({name: latent[b] for name, latent in self.layout.split(x0).items()}) for b in range(len(windows))]

    def _decode(self, latents: dict[str, Tensor]) -> dict[str, Any]:
        """Fields of one window, on the CPU in float32."""
        images, sigma = {}, None
        for name, latent in latents.items():
            flat = latent.movedim(1, 0)  # (v, 4, y, x)
            parts = flat.split(IMAGES_AT_ONCE)
            if name == "points":
                pairs = [self.model.decode_points(part) for part in parts]
                images[name] = torch.cat([image for image, _ in pairs])[None].float().cpu()
                sigma = torch.cat([s for _, s in pairs])[None].float().cpu()
            else:
                image = torch.cat([self.model.decode_images(name, part) for part in parts]).float().cpu()
                images[name] = (avg_pool2d(image, RAY_POOL) if name.startswith("ray_") else image)[None]
        fields = self.layout.decode(images, sigma)
        return {key: value[0] if isinstance(value, Tensor) else value for key, value in fields.items()}


def _noise(shape: tuple[int, ...], seed: int, first_frame: int) -> Tensor:
    """Unit noise of one window: a function of the seed and its first frame alone."""
    mixed = int(np.random.SeedSequence([seed, first_frame]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.randn(shape, generator=torch.Generator().manual_seed(mixed))


def _stack(values: list[Any]) -> Any:
    return torch.stack(values) if isinstance(values[0], Tensor) else values[0]


class WindowCache:
    """Finished windows in a folder, one file each, for one video with one model and one setting."""

    def __init__(self, directory: Path, fingerprint: dict[str, Any]) -> None:
        """Raises InputError if the folder belongs to another run; says in what it differs."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        manifest = directory / "manifest.json"
        if manifest.exists():
            old = json.loads(manifest.read_text())
            changed = sorted(key for key in {*old, *fingerprint} if old.get(key) != json.loads(json.dumps(fingerprint)).get(key))
            if changed:
                raise InputError(
                    f"The unfinished run in {directory.parent} was made with another {', '.join(changed)}; "
                    "use the same settings to resume it, or --overwrite to begin anew."
                )
        else:
            temporary = manifest.with_suffix(".tmp")
            temporary.write_text(json.dumps(fingerprint))
            temporary.replace(manifest)

    def load(self, count: int) -> dict[int, dict[str, Any]]:
        """The windows that are finished; a damaged file counts as not finished."""
        results = {}
        for g in range(count):
            path = self._path(g)
            if not path.exists():
                continue
            try:
                with np.load(path, allow_pickle=False) as archive:
                    results[g] = {k: str(v) if v.dtype.kind == "U" else torch.from_numpy(v) for k, v in archive.items()}
            except (OSError, ValueError, EOFError, zipfile.BadZipFile):
                logger.warning("The cached window %s is damaged and is computed again.", path)
        return results

    def store(self, g: int, fields: dict[str, Any]) -> None:
        """Keeps one finished window."""
        temporary = self.directory / f"window_{g:05d}.tmp"
        arrays: dict[str, Any] = {k: v.numpy() if isinstance(v, Tensor) else np.array(v) for k, v in fields.items()}
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        temporary.replace(self._path(g))

    def _path(self, g: int) -> Path:
        return self.directory / f"window_{g:05d}.npz"


def fingerprint_frames(frames: np.ndarray) -> str:
    """A short hash of the working frames."""
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()[:16]


def fingerprint_model(model: GeometryModel) -> str:
    """A short hash of a sample of every tensor of the weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        flat = value.flatten()
        sample = flat[:: max(1, flat.numel() // SAMPLES_PER_TENSOR)]
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(sample.double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
