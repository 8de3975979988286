"""The published size on random numbers: memory of loading, and one U-Net step or window in float32 and bfloat16.

    python benchmarks/full_size.py FOLDER          # writes 13 GB there: model.ckpt, vae.ckpt and a converted folder
    python benchmarks/full_size.py FOLDER --window # a whole 16-frame window at 512x320 too (minutes on a CPU)

Each measurement runs in a process of its own. Memory is anonymous memory (on CUDA: the allocator's peak as well); files
that are mapped do not count, since the system takes them back when it needs to.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import anonymous_gb, peak_memory

MANIFEST = Path(__file__).parents[1] / "tests" / "data" / "parity" / "manifest_full.json"
LATENT = (16, 32)  # (y, x) of the single step, as in the table of costs
WINDOW = (320, 512)


def write_release(folder: Path) -> dict[str, Any]:
    """model.ckpt and vae.ckpt in the release's layout, float32, with small random numbers."""
    manifest = json.loads(MANIFEST.read_text())
    generator = torch.Generator().manual_seed(0)
    for name, section, prefix in (("vae.ckpt", "pointmap_vae", "model."), ("model.ckpt", "model", "")):
        if (folder / name).exists():
            continue
        state = {}
        for key, (shape, _) in manifest[section].items():
            value = torch.empty(shape).normal_(0, 0.02, generator=generator)
            state[prefix + key] = value + 1 if len(shape) == 1 and key.endswith("weight") else value
        torch.save({"state_dict": state}, folder / f"{name}.partial")
        (folder / f"{name}.partial").rename(folder / name)
    return {}


def measure_load(folder: Path, dtype: str, source: str) -> dict[str, Any]:
    """Loading, from the release's files or from the converted folder."""
    from geo4d.models.storage import load_model

    _warm_up()
    started = time.perf_counter()
    with peak_memory() as memory:
        if source == "release":
            model = load_model(folder / "model.ckpt", vae=folder / "vae.ckpt", dtype=getattr(torch, dtype))
        else:
            model = load_model(folder / "converted", dtype=getattr(torch, dtype))
    size = sum(value.nbytes for value in model.state_dict().values()) / 1e9
    return {**memory, "result_gb": size, "ratio": memory["peak_gb"] / size, "seconds": time.perf_counter() - started}


def _warm_up() -> None:
    """Libraries' own memory is not the load's."""
    import open_clip

    import geo4d.models.checkpoint
    from geo4d.models.conditioner import preprocess

    open_clip.tokenize(["."])
    preprocess(torch.zeros(1, 3, 8, 8))
    torch.nn.functional.conv2d(torch.zeros(1, 3, 16, 16), torch.zeros(3, 3, 3, 3))
    assert geo4d.models.checkpoint


@torch.no_grad()
def measure_step(folder: Path, dtype: str, device: str) -> dict[str, Any]:
    """One U-Net step on a 16-frame window at a 16x32 latent."""
    from geo4d.models.storage import load_model

    model = load_model(folder / "converted", dtype=getattr(torch, dtype), device=device)
    x, condition = (
        torch.randn(1, c, 16, *LATENT, generator=torch.Generator().manual_seed(c)).to(device) for c in (16, 4)
    )
    denoise = model.denoiser(condition, torch.tensor([24.0], device=device))
    timesteps = torch.tensor([999], device=device)
    return _timed(lambda: denoise(x, timesteps), device, repeats=1 if device == "cpu" else 5)


@torch.no_grad()
def measure_window(folder: Path, dtype: str, device: str) -> dict[str, Any]:
    """A whole window of 16 frames at 512x320: encoding, five DDIM steps, decoding of all modalities."""
    import numpy as np

    from geo4d.pipeline import Geo4D, InferConfig

    model = Geo4D.from_pretrained(folder / "converted", device=device, dtype=dtype)
    frames = np.random.default_rng(0).integers(0, 256, (16, *WINDOW, 3), dtype=np.uint8)
    return _timed(lambda: model.predict(frames, InferConfig(size=WINDOW)), device, repeats=1 if device == "cpu" else 3)


def _timed(run: Callable[[], Any], device: str, *, repeats: int) -> dict[str, Any]:
    if device == "cuda":
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    with peak_memory() as memory:
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
            memory["cuda_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        seconds = (time.perf_counter() - started) / repeats
    return {**memory, "seconds": seconds, "working_set_gb": anonymous_gb()}


def alone(function: Callable[..., dict[str, Any]], *args: object) -> dict[str, Any]:
    """Runs a measurement in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def main() -> None:
    """Prints every measurement as it comes, and all of them as JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--window", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args.folder.mkdir(parents=True, exist_ok=True)
    write = sys.stdout.write
    alone(write_release, args.folder)
    results: dict[str, Any] = {"device": device, "threads": torch.get_num_threads()}
    if not (args.folder / "converted").exists():
        from geo4d.cli import main as geo4d

        words = [
            "convert",
            f"{args.folder}/model.ckpt",
            "--vae",
            f"{args.folder}/vae.ckpt",
            "--out",
            f"{args.folder}/converted",
        ]
        started = time.perf_counter()
        assert geo4d(words) == 0
        results["convert_seconds"] = time.perf_counter() - started
    jobs = [
        ("load", measure_load, (dtype, source)) for source in ("release", "folder") for dtype in ("bfloat16", "float32")
    ]
    jobs += [("step", measure_step, (dtype, device)) for dtype in ("bfloat16", "float32")]
    jobs += [("window", measure_window, (dtype, device)) for dtype in ("bfloat16", "float32")] * args.window
    for name, function, settings in jobs:
        label = " ".join((name, *settings))
        results[label] = {key: round(value, 3) for key, value in alone(function, args.folder, *settings).items()}
        write(f"{label}: {results[label]}\n")
        sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
