"""Which procedural worlds teach most about real images.

A small head on frozen DINOv2 features, trained on frames of each world.

    python benchmarks/worlds_probe.py plain lifelike --encoder DINOV2 --cache CACHE --recording room=DIR,1000,0,5

DINOV2 is a folder that `transformers.Dinov2Model.from_pretrained` reads. Single frames are rendered and encoded once
each (kept in CACHE under a hash of the renderer's sources, so that frames of other code are never taken for these); the
head learns for --minutes. It is scored on held-out frames of its own world and of each other world named, and on
recordings in TUM layout (NAME=DIR,DEPTH_SCALE,NEAR,FAR: units a metre of the depth maps, and between which metres they
are believed). No recording is ever trained on; CACHE/scored.json counts how often each was scored.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kornia.enhance as photo
import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from PIL import Image
from recordings import Recording, depth_error, row_correlation
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import Dinov2Model

import geo4d.synthetic
from geo4d.errors import Geo4DError
from geo4d.synthetic import WORLDS, SceneConfig, render_clips, scene_seed

TRAINED, HELD_OUT = 77, 910077  # scene splits
HELD_OUT_FRAMES = 60
LAYERS = (3, 6, 9, 12)
PATCH, WIDTH = 14, 384
ENCODER_SIZE = (252, 336)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FRAMES_A_SCENE, BETWEEN = 2, 60  # of 1/24 s
BATCH, RATE = 8, 1e-3
SILOG = 0.85  # share of the squared mean that the loss forgives
GRADIENT_WEIGHT = 0.5


@dataclass
class Frames:
    """Encoded frames and their depth, in memory.

    Features (n, 4 * WIDTH, h, w) half precision, depth (n, y, x), 0: none.
    """

    features: Tensor
    depth: Tensor


class Head(nn.Module):
    """Log depth on a grid four times as fine as the features'; 0.6 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.GroupNorm(4, 4 * WIDTH), nn.Conv2d(4 * WIDTH, 128, 1), nn.GELU())
        self.mix = nn.Sequential(self._block(128, 128), self._block(128, 96))
        self.fine = nn.Sequential(self._block(96, 64), nn.Conv2d(64, 1, 3, padding=1))

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.GELU())

    def forward(self, features: Tensor) -> Tensor:
        """(n, 4 * WIDTH, h, w) -> (n, 4 h, 4 w)."""
        x = self.mix[0](self.reduce(features.float()))
        x = self.mix[1](interpolate(x, scale_factor=2, mode="bilinear"))
        return self.fine(interpolate(x, scale_factor=2, mode="bilinear"))[:, 0]


def loss_of(predicted: Tensor, depth: Tensor) -> Tensor:
    """Scale-invariant log loss and absolute gradients of its residual at three strides.

    Depth (n, y, x) at any size, 0: unknown.
    """
    depth = interpolate(depth[:, None], predicted.shape[1:], mode="nearest")[:, 0]
    valid = depth > 0
    count = valid.sum((1, 2)).clamp_min(1)
    residual = torch.where(valid, predicted - depth.clamp_min(1e-3).log(), 0.0)
    mean = residual.sum((1, 2)) / count
    loss = (residual.square().sum((1, 2)) / count - SILOG * mean.square() + 1e-6).sqrt().mean()
    for stride in (1, 2, 4):
        r, v = residual[:, ::stride, ::stride], valid[:, ::stride, ::stride]
        for axis in (1, 2):
            both = v.narrow(axis, 1, v.shape[axis] - 1) & v.narrow(axis, 0, v.shape[axis] - 1)
            loss = loss + GRADIENT_WEIGHT / 3 * (r.diff(dim=axis).abs() * both).sum() / both.sum().clamp_min(1)
    return loss


def train(frames: Frames, minutes: float, seed: int) -> tuple[Head, int]:
    """A head that learnt for that many minutes of this process's CPU time, and its steps."""
    torch.manual_seed(seed)
    head, generator = Head(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.01)
    start, steps, share = time.process_time(), 0, 0.0
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (steps + 1) / 50) * max(0.02, 0.5 * (1 + np.cos(np.pi * share)))
        rows = torch.randint(len(frames.depth), (BATCH,), generator=generator)
        features, depth = frames.features[rows], frames.depth[rows]
        if torch.rand((), generator=generator) < 0.5:
            features, depth = features.flip(-1), depth.flip(-1)
        loss = loss_of(head(features), depth)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        steps, share = steps + 1, (time.process_time() - start) / (60 * minutes)
    return head.eval(), steps


def augmented(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture (h, w, 3) uint8 as another camera might have taken it."""
    image = torch.from_numpy(picture).movedim(-1, 0)[None].float() / 255
    image = photo.adjust_gamma(image, float(np.exp(rng.normal() * 0.25)), gain=float(np.exp(rng.normal() * 0.1)))
    image = (image * torch.from_numpy(np.exp(rng.normal(size=(3, 1, 1)) * 0.06)).float()).clamp(0, 1)
    image = photo.adjust_contrast(image, float(np.exp(rng.normal() * 0.2)))
    image = photo.adjust_saturation(image, float(rng.uniform(0.3, 1.5)))
    image = photo.adjust_hue(image, float(rng.uniform(-0.3, 0.3)))  # radians
    if rng.random() < 0.4:
        image = gaussian_blur2d(image, 5, (float(rng.uniform(0.3, 1.2)),) * 2)
    image = image + rng.uniform(0, 0.03) * torch.from_numpy(rng.normal(size=image.shape)).float()
    out = image[0].clamp(0, 1).mul(255).round().byte().movedim(0, -1).numpy()
    if rng.random() < 0.5:
        file = io.BytesIO()
        Image.fromarray(out).save(file, "jpeg", quality=int(rng.integers(30, 95)))
        out = np.asarray(Image.open(file).convert("RGB"))
    return out


def renderer_hash(config: SceneConfig) -> str:
    """Of the renderer's sources and the configuration."""
    digest = hashlib.sha256(repr(config).encode())
    for file in sorted(Path(geo4d.synthetic.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def render(config: SceneConfig, split: int, count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, h, w, 3) uint8 and depth (n, h, w), 0: sky, of `count` frames, few of each scene."""
    pictures, depths = [], []
    for index in range(-(-count // FRAMES_A_SCENE)):
        clip = render_clips(
            [scene_seed(split, index)], num_frames=FRAMES_A_SCENE, size=size, frame_step=BETWEEN, config=config
        )
        pictures.append(clip.rgb[0].mul(255).round().byte().numpy())
        depths.append(clip.depth[0].numpy())
    return np.concatenate(pictures)[:count], np.concatenate(depths)[:count]


def cached(file: Path, make: Any) -> dict[str, np.ndarray]:
    """Arrays of a file, made if it is not there."""
    if not file.exists():
        arrays = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file.with_suffix(".part.npz"), **arrays)
        file.with_suffix(".part.npz").rename(file)
    with np.load(file, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


class Encoder:
    """DINOv2, frozen."""

    def __init__(self, folder: Path) -> None:
        self.model = Dinov2Model.from_pretrained(folder, torch_dtype=torch.float32).eval()

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray, size: tuple[int, int]) -> Tensor:
        """(n, h, w, 3) uint8 -> (n, 4 * WIDTH, size / PATCH) half precision; the images are resized to `size`."""
        made = []
        for picture in pictures:
            image = torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0)[None].float() / 255
            image = interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
            states = self.model(
                photo.normalize(image, torch.tensor(MEAN), torch.tensor(DEVIATION)), output_hidden_states=True
            ).hidden_states
            grid = (size[0] // PATCH, size[1] // PATCH)
            layers = [self.model.layernorm(states[layer])[:, 1:].mT.unflatten(-1, grid) for layer in LAYERS]
            made.append(torch.cat(layers, dim=1).half())
        return torch.cat(made)


def encoder_size(height: int, width: int) -> tuple[int, int]:
    """Multiples of the patch, about as many pixels as ENCODER_SIZE, near to the picture's aspect."""
    rows = (ENCODER_SIZE[0] * ENCODER_SIZE[1] * height / width) ** 0.5 / PATCH
    return max(1, round(rows)) * PATCH, max(1, round(rows * width / height)) * PATCH


def world_frames(
    name: str, config: SceneConfig, args: argparse.Namespace, encoder: Encoder, *, held_out: bool
) -> Frames:
    """Of a world; those for training are augmented before they are encoded."""
    split, count = (HELD_OUT, HELD_OUT_FRAMES) if held_out else (TRAINED + args.seed, args.frames)
    size = tuple(args.size)
    stem = f"{name}-{renderer_hash(config)}-{split}-{count}-{size[0]}x{size[1]}"

    def draw() -> dict[str, np.ndarray]:
        start = time.process_time()
        pictures, depth = render(config, split, count, size)
        sys.stderr.write(f"{name}: {1e3 * (time.process_time() - start) / count:.0f} ms a frame\n")
        return {"rgb": pictures, "depth": depth}

    frames = cached(args.cache / f"{stem}.npz", draw)
    rng = np.random.default_rng([split, 5])
    rgb = frames["rgb"] if held_out else np.stack([augmented(picture, rng) for picture in frames["rgb"]])
    features = cached(args.cache / f"{stem}-features.npz", lambda: {"features": encoder(rgb, ENCODER_SIZE).numpy()})[
        "features"
    ]
    return Frames(torch.from_numpy(features), torch.from_numpy(frames["depth"]))


def recording_frames(recording: Recording, args: argparse.Namespace, encoder: Encoder) -> Frames:
    """Of a recording; depth at the pixels of its own maps, thinned out."""
    clip, depth = recording.clip()
    size = encoder_size(*clip.frames.shape[1:3])
    file = args.cache / f"{recording.name}-{len(clip.frames)}-{size[0]}x{size[1]}-features.npz"
    features = cached(file, lambda: {"features": encoder(clip.frames, size).numpy()})["features"]
    return Frames(torch.from_numpy(features), torch.from_numpy(depth))


@torch.no_grad()
def score(head: Head | None, frames: Frames, *, is_video: bool) -> dict[str, float]:
    """Abs Rel per frame (and per video) after an L1 scale and shift in depth, and rank correlation in image rows.

    None: constant depth.
    """
    size = frames.depth.shape[1:]
    predicted = torch.ones_like(frames.depth)
    if head is not None:
        maps = [interpolate(head(features[None])[:, None], size, mode="bilinear")[0, 0] for features in frames.features]
        predicted = torch.stack(maps).clamp(-5, 7).exp()
    true, guess = frames.depth.numpy(), predicted.numpy()
    found = {per: depth_error(guess, true, per=per) for per in ("frame", "video")[: 1 + is_video]}
    if head is not None:
        found["rows"] = row_correlation(guess, true)
    return found


def count_scoring(cache: Path, names: list[str]) -> dict[str, int]:
    """How often each recording was scored, this time included."""
    file = cache / "scored.json"
    counts = json.loads(file.read_text()) if file.exists() else {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    file.write_text(json.dumps(counts))
    return counts


def probe(args: argparse.Namespace) -> dict[str, Any]:
    """Every world's head on every set."""
    torch.set_num_threads(1)
    encoder = Encoder(args.encoder)
    recordings = [Recording.read(text) for text in args.recording]
    sets = {r.name: recording_frames(r, args, encoder) for r in recordings}
    held_out = {
        name: world_frames(name, WORLDS[name], args, encoder, held_out=True) for name in {*args.worlds, *args.held_out}
    }
    sets |= {f"held-out {name}": frames for name, frames in held_out.items()}
    videos = {r.name for r in recordings}
    rows: dict[str, Any] = {
        "constant": {name: score(None, frames, is_video=name in videos) for name, frames in sets.items()}
    }
    show("constant", rows["constant"])
    for world in args.worlds:
        frames = world_frames(world, WORLDS[world], args, encoder, held_out=False)
        head, steps = train(frames, args.minutes, args.seed)
        rows[world] = {name: score(head, frames, is_video=name in videos) for name, frames in sets.items()}
        rows[world] |= {"steps": steps, "scored_so_far": count_scoring(args.cache, sorted(videos))}
        show(world, rows[world])
        if args.keep:
            torch.save(head.state_dict(), args.cache / f"{world}-{renderer_hash(WORLDS[world])}.pt")
    return {"frames": args.frames, "minutes": args.minutes, "seed": args.seed, "size": args.size, "worlds": rows}


def show(title: str, row: dict[str, Any]) -> None:
    """One line on the terminal."""
    numbers = [
        f"{name}: " + " ".join(f"{k} {v:.3f}" for k, v in each.items())
        for name, each in row.items()
        if isinstance(each, dict)
    ]
    sys.stdout.write(f"{title:12} " + " | ".join(numbers) + "\n")
    sys.stdout.flush()


def main(words: list[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="+", choices=sorted(WORLDS), help="each trains a head")
    parser.add_argument("--held-out", nargs="*", default=[], choices=sorted(WORLDS), help="more worlds to be scored on")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of DINOv2 ViT-S/14")
    parser.add_argument("--cache", type=Path, required=True, help="folder for rendered and encoded frames")
    parser.add_argument(
        "--recording", action="append", default=[], metavar="NAME=DIR,SCALE,NEAR,FAR", help="may be repeated"
    )
    parser.add_argument("--frames", type=int, default=600, help="to train on")
    parser.add_argument("--minutes", type=float, default=10.0, help="of CPU time, for each head")
    parser.add_argument("--size", type=int, nargs=2, default=(144, 192), metavar=("H", "W"), help="of rendered frames")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the heads in the cache")
    parser.add_argument("--json", type=Path, default=None, help="figures as a file")
    args = parser.parse_args(words)
    args.cache.mkdir(parents=True, exist_ok=True)
    try:
        found = probe(args)
    except Geo4DError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
