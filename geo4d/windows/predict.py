"""The model over the plan: every frame encoded once, windows in batches, each finished window kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from geo4d._typing import Float, Int, Tensor
from geo4d.diffusion.sampler import ddim, one_step
from geo4d.diffusion.schedule import Schedule
from geo4d.modalities import Layout
from geo4d.models.geometry_model import GeometryModel
from geo4d.windows.cache import WindowCache
from geo4d.windows.mirrored import average_fields, mirror_fields, mirror_frames

Progress = Callable[[str, int, int], None]
RAY_POOL = 4  # ray maps are kept at a quarter of the working resolution: they hold one camera
PIXELS_AT_ONCE = 2**18  # through the autoencoder: 32 frames of the small model, two of the full one
FPS_RANGE = (8.0, 24.0)  # frame rates that training draws (method 4); others count as the nearest
RELEASED_FPS = 24.0  # what the released script says of every video


@dataclass(frozen=True)
class PredictConfig:
    """How to sample."""

    steps: int | None = None  # None: as the model was made for; 0: one step from zero input; else DDIM
    seed: int = 0
    windows_per_batch: int = 2
    sampler_compat: Literal["exact", "released"] = "exact"  # DDIM's arithmetic (compat 4)
    as_released: bool = False  # the released script's inputs: posterior samples, 24 fps, constant context
    is_mixed: bool = False  # whether weights of float32 compute in bfloat16 where torch's autocast does
    mirrored: bool = False  # whether every window is also predicted from mirrored frames, and the two are averaged


@dataclass(frozen=True)
class Conditions:
    """What the network is told of every frame."""

    mean: Float[Tensor, "t c y x"]
    std: Float[Tensor, "t c y x"] | None = None  # of the posterior, where samples of it are drawn
    tokens: Float[Tensor, "t k d"] | None = None  # of the image tower, where every frame has its own
    features: Float[Tensor, "t f y x"] | None = None  # of the frame encoder, in half precision


class _Counter:
    """Tells how much of one kind of work is done."""

    def __init__(self, progress: Progress | None, stage: str, total: int) -> None:
        self._progress, self._stage, self._total, self._done = progress, stage, total, 0

    def add(self, number: int) -> None:
        self._done += number
        if self._progress is not None:
            self._progress(self._stage, self._done, self._total)


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

        The result depends on how windows are batched by rounding alone, and not at all on what came from the cache: a
        batch of which any window is missing there is computed whole, since a window's last bits depend on what it is
        computed with.
        """
        results: dict[int, dict[str, Any]] = {} if cache is None else cache.load(len(windows))
        numbers = range(len(windows))
        batches = [
            list(numbers[i : i + self.config.windows_per_batch]) for i in numbers[:: self.config.windows_per_batch]
        ]
        missing = [batch for batch in batches if not all(g in results for g in batch)]
        passes = self._encode(frames, progress) if missing else []
        count = _Counter(progress, "windows", self._num_passes * len(windows))
        count.add(self._num_passes * (len(windows) - sum(map(len, missing))))
        for batch in missing:
            for g, fields in zip(batch, self._predict_passes(passes, windows, batch, fps, count), strict=True):
                if cache is not None and g not in results:
                    cache.store(g, fields)
                results[g] = fields
        ordered = [results.pop(g) for g in numbers]
        return {key: _stack([fields[key] for fields in ordered]) for key in ordered[0]}

    @property
    def _num_passes(self) -> int:
        return 2 if self.config.mirrored else 1

    def _encode(self, frames: np.ndarray, progress: Progress | None) -> list[Conditions]:
        """The conditions of each pass: of the frames, and of the mirrored ones where they are asked for."""
        count = _Counter(progress, "encode", self._num_passes * len(frames))
        count.add(0)
        return [self._encode_pass(frames, count, mirrored=number > 0) for number in range(self._num_passes)]

    def _encode_pass(self, frames: np.ndarray, count: _Counter, *, mirrored: bool) -> Conditions:
        mean, std, tokens, features = [], [], [], []
        released, size = self.config.as_released, _images_at_once(*frames.shape[1:3])
        for i in range(0, len(frames), size):
            some = mirror_frames(frames[i : i + size]) if mirrored else frames[i : i + size].copy()
            rgb = torch.from_numpy(some).to(self.model.device).movedim(-1, 1).float() / 127.5 - 1
            with self._arithmetic():
                if released:
                    posterior = self.model.encode_posterior(rgb)
                    mean.append(posterior[0])
                    std.append(posterior[1])
                else:
                    mean.append(self.model.encode_rgb(rgb))
                if self.model.spec.per_frame and not released:
                    tokens.append(self.model.image_tokens(rgb))
                if self.model.spec.encoder:
                    # in half precision as in training: those of a long video fill memory
                    features.append(self.model.encode_features(rgb).half())
            count.add(len(some))
        optional = (torch.cat(parts) if parts else None for parts in (std, tokens, features))
        return Conditions(torch.cat(mean), *optional)

    def _predict_passes(
        self, passes: list[Conditions], windows: Int[Tensor, "g v"], batch: list[int], fps: float, count: _Counter
    ) -> list[dict[str, Any]]:
        """Fields of the windows of a batch, those of mirrored frames brought back and averaged in."""
        found = self._predict_batch(passes[0], windows, batch, fps)
        count.add(len(batch))
        for conditions in passes[1:]:
            other = self._predict_batch(conditions, windows, batch, fps)
            found = [average_fields(a, mirror_fields(b)) for a, b in zip(found, other, strict=True)]
            count.add(len(batch))
        return found

    def _predict_batch(
        self, conditions: Conditions, windows: Int[Tensor, "g v"], batch: list[int], fps: float
    ) -> list[dict[str, Any]]:
        config, picked = self.config, windows[batch]
        # the released script meets its last window twice, each time with noise of its own
        keys = batch if config.as_released else picked[:, 0].tolist()
        latents = conditions.mean[picked]  # (b, v, c, y, x)
        if conditions.std is not None:
            noise = torch.stack([_noise(latents.shape[1:], config.seed, key, 1) for key in keys]).to(latents)
            latents = latents + conditions.std[picked] * noise
        condition = latents.movedim(1, 2)
        context = None if conditions.tokens is None else self.model.frame_context(conditions.tokens[picked])
        index = (picked - picked[:, :1]).to(condition.device)
        rate = RELEASED_FPS if config.as_released else min(max(float(fps), FPS_RANGE[0]), FPS_RANGE[1])
        features = None if conditions.features is None else conditions.features[picked].movedim(1, 2)
        rates = torch.full((len(batch),), rate, device=condition.device)
        denoise = self.model.denoiser(condition, rates, index, context, features)
        with self._arithmetic():
            x0 = self._sampled(denoise, condition, keys)
        return [
            self._decode({name: latent[b] for name, latent in self.layout.split(x0).items()}) for b in range(len(batch))
        ]

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.config.is_mixed)

    def _sampled(self, denoise: Callable[[Tensor, Tensor], Tensor], condition: Tensor, keys: list[int]) -> Tensor:
        """Latents of all images (b, c, v, y, x), from zero or from the noise of each window's key."""
        config, shape = self.config, (self.layout.latent_channels, *condition.shape[2:])
        if config.steps == 0 or (config.steps is None and self.model.spec.sampler == "one_step"):
            return one_step(denoise, condition.new_zeros(len(keys), *shape), self.schedule)
        start = torch.stack([_noise(shape, config.seed, key) for key in keys]).to(condition)
        steps = config.steps or self.model.spec.steps
        return ddim(denoise, start, self.schedule, steps=steps, compat=config.sampler_compat)

    def _decode(self, latents: dict[str, Tensor]) -> dict[str, Any]:
        """Fields of one window, on the CPU in float32."""
        images, sigma = {}, None
        with self._arithmetic():
            for name, latent in latents.items():
                flat = latent.movedim(1, 0)  # (v, c, y, x)
                parts = flat.split(_images_at_once(8 * flat.shape[2], 8 * flat.shape[3]))
                if name == "points":
                    pairs = [self.model.decode_points(part) for part in parts]
                    images[name] = torch.cat([image for image, _ in pairs])[None].float().cpu()
                    sigma = torch.cat([s for _, s in pairs])[None].float().cpu()
                else:
                    image = torch.cat([self.model.decode_images(name, part) for part in parts]).float().cpu()
                    images[name] = (avg_pool2d(image, RAY_POOL) if name.startswith("ray_") else image)[None]
        fields = self.layout.decode(images, sigma)  # geometry is never in half precision
        return {key: value[0] if isinstance(value, Tensor) else value for key, value in fields.items()}


def _images_at_once(height: int, width: int) -> int:
    """How many images go through the autoencoder together."""
    return max(1, PIXELS_AT_ONCE // (height * width))


def _noise(shape: tuple[int, ...], *key: int) -> Tensor:
    """Unit noise: a function of the key alone, which is the seed and the window's first frame or number."""
    mixed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.randn(shape, generator=torch.Generator().manual_seed(mixed))


def _stack(values: list[Any]) -> Any:
    return torch.stack(values) if isinstance(values[0], Tensor) else values[0]
