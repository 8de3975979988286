"""Where the time goes, on this machine, in one run: everything as a ratio to one U-Net step on a window.

    python benchmarks/speed.py

Prints median seconds and the ratio to the U-Net's step; ratios can be compared between machines, seconds cannot.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from geo4d.alignment import align
from geo4d.evaluation.demo import demo_truth
from geo4d.models.storage import load_model
from geo4d.pipeline import Geo4D, InferConfig
from geo4d.synthetic import render_clips, scene_seed

REPEATS = 5


def seconds(function: Callable[[], object]) -> float:
    """Median of a few runs after one that warms up."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


@torch.no_grad()
def main() -> None:
    """Measures with one thread."""
    torch.set_num_threads(1)
    model = Geo4D(load_model("small"))
    network, config = model.model, InferConfig(max_frames=32)
    clip = model.read(demo_truth().frames, config)
    predictions = model.predict(clip, config)
    points_only = replace(predictions, disparity=None, disparity_weight=None, ray_direction=None, ray_moment=None)
    images = torch.zeros(16, 3, *network.spec.base_size)
    condition, features = network.encode_windows(images[None])
    x = torch.zeros(1, model.layout.latent_channels, *condition.shape[2:])
    denoise = network.denoiser(condition, torch.tensor([24.0]), features=features)
    latents = condition[0].movedim(1, 0)
    seeds = [scene_seed(77, i) for i in range(8)]
    rows = {
        "U-Net, one window of 16": seconds(lambda: denoise(x, torch.tensor([999]))),
        "encode 16 frames": seconds(lambda: network.encode_windows(images[None])),
        "decode 16 images": seconds(lambda: network.decode_images("disparity", latents)),
        "decode 16 point images": seconds(lambda: network.decode_points(latents)),
        "predict 32 frames, 5 windows": seconds(lambda: model.predict(clip, config)),
        "align 32 frames, all modalities": seconds(lambda: align(predictions)),
        "align 32 frames, points alone": seconds(lambda: align(points_only)),
        "render 16 frames of 96 x 64": seconds(lambda: render_clips(seeds, num_frames=2, size=(64, 96))),
    }
    unit = rows["U-Net, one window of 16"]
    for name, value in rows.items():
        sys.stdout.write(f"{name:34s}{value:9.3f} s{value / unit:9.2f} U-Net steps\n")


if __name__ == "__main__":
    main()
