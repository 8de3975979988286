"""How fast the denoiser trains: clips a second, the share of the device's peak, memory, and where the time goes.

    python benchmarks/training_speed.py --preset small                                 # a laptop's size and batches
    python benchmarks/training_speed.py --preset geo4d --size 320 512 --checkpointing  # one GPU, until memory is full

Random weights and random latents of 16 frames, all modalities, the objective, optimiser and EMA of a run; data and
checkpoints are left out. Batches double until one does not fit. The last column is the profiler's: operations by their
own time in one step.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from geo4d._typing import Tensor
from geo4d.diffusion.schedule import make_schedule
from geo4d.models.geometry_model import GeometryModel, build_model
from geo4d.models.presets import PRESETS
from geo4d.training.config import ObjectiveConfig
from geo4d.training.diffusion import diffusion_loss
from geo4d.training.ema import Ema
from geo4d.training.loop_config import Draw, LoopConfig
from geo4d.training.optimizer import make_optimizer, switch_on_checkpointing
from geo4d.training.start import layout_of
from geo4d.training.utilisation import FlopCounter, peak_flops

FRAMES = 16
SHOWN_OPERATIONS = 6


def random_batch(model: GeometryModel, clips: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Latents of clips as the pool has them."""
    generator = torch.Generator().manual_seed(0)
    grid = (FRAMES, size[0] // 8, size[1] // 8)
    channels = dict.fromkeys(("rgb", *model.spec.image_names), model.spec.latent_channels)
    if model.spec.encoder:
        channels["features"] = model.spec.feature_channels
    latents = {
        name: torch.randn(clips, count, *grid, generator=generator).to(model.device) for name, count in channels.items()
    }
    index = torch.arange(FRAMES).expand(clips, -1).to(model.device)
    return {**latents, "frame_index": index, "fps": torch.full((clips,), 24.0, device=model.device)}


def make_step(model: GeometryModel, config: LoopConfig) -> Callable[[dict[str, Tensor], int], None]:
    """One step of training as the loop does it on one device."""
    if config.gradient_checkpointing:
        switch_on_checkpointing(model.unet)
    batch: dict[str, Tensor] = {}
    loss = diffusion_loss(
        model,
        layout_of(model),
        make_schedule(dynamic_rescale=model.spec.dynamic_rescale),
        ObjectiveConfig(),
        lambda _: batch,
    )
    optimizer, ema = make_optimizer(model.unet.parameters(), config), Ema(model.unet, config.ema_decay)

    def step(own: dict[str, Tensor], number: int) -> None:
        batch.update(own)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            value, _ = loss(Draw.at(number))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.unet.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number % config.ema_every == 0:
            ema.update()

    return step


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    model: GeometryModel, step: Callable[[dict[str, Tensor], int], None], clips: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Rates of one batch size. Raises torch.OutOfMemoryError where it does not fit."""
    device, batch = model.device, random_batch(model, clips, tuple(args.size))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with FlopCounter() as counter:
        step(batch, 0)
    for number in range(1, args.warm_up):
        step(batch, number)
    wait(device)
    started = time.perf_counter()
    for number in range(args.steps):
        step(batch, number + 1)
    wait(device)
    seconds = (time.perf_counter() - started) / args.steps
    peak, source = peak_flops(device, args.precision)
    row = {
        "clips a step": clips,
        "clips a second": clips / seconds,
        "frames a second": clips * FRAMES / seconds,
        "TFLOP a step": counter.total / 1e12,
        f"share of the {source} peak": counter.total / seconds / peak,
        "peak GB": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
    }
    return {**row, "time goes to": profile(device, lambda: step(batch, 1))}


def profile(device: torch.device, run: Callable[[], None]) -> dict[str, float]:
    """Shares of the time of the operations that take most, by the device's clock."""
    on_gpu = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, *activities]) as profiler:
        run()
        wait(device)
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    named = {key: value for key, value in times.items() if key.startswith("aten::")}
    total = sum(named.values())
    first = sorted(named, key=named.__getitem__, reverse=True)[:SHOWN_OPERATIONS]
    return {key.removeprefix("aten::"): round(named[key] / total, 3) for key in first}


def main() -> None:
    """Prints one JSON object: the device, and a row for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["tiny", "small", "geo4d"], default="small")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="pixels (default: the preset's)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128], help="clips a step, in rising order"
    )
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--optimizer", choices=["adamw", "adamw_fused", "adamw_8bit"], default="adamw_fused")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing: less memory, more work")
    parser.add_argument("--steps", type=int, default=5, help="that are timed")
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    spec = replace(PRESETS[args.preset], uncertainty_blocks=0)
    args.size = args.size or list(spec.base_size)
    model = build_model(spec).to(args.device)
    for layer in model.unet.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
    config = LoopConfig(optimizer=args.optimizer, precision=args.precision, gradient_checkpointing=args.checkpointing)
    step, rows = make_step(model, config), []
    for clips in args.batches:
        try:
            rows.append(measure(model, step, clips, args))
        except torch.OutOfMemoryError:
            rows.append({"clips a step": clips, "fits": False})
            break
    device = torch.cuda.get_device_name() if args.device != "cpu" else "cpu"
    weights = sum(parameter.numel() for parameter in model.unet.parameters())
    sys.stdout.write(
        json.dumps(
            {"device": device, "preset": args.preset, "size": args.size, "weights": weights, "rows": rows}, indent=1
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
