"""What training choices are worth, on procedural clips: every variant sees the same frames in the same order.

    python benchmarks/training.py overfit                             # four clips learnt by heart
    python benchmarks/training.py objective  --pool POOL --model MODEL  # options of the loss
    python benchmarks/training.py modalities --pool POOL --model MODEL  # points; points and rays; all
    python benchmarks/training.py decoder    --run RUN                  # decoders of point maps on one trained denoiser
    python benchmarks/training.py tuning     --run RUN                  # the whole autoencoder tuned
    python benchmarks/training.py table training_objective.json ...     # Markdown of what was measured

`overfit` compares with what the clips' exact latents decode to; `decoder` is the paper's Table 7; `tuning` is by the
normalisation of point maps. All but `overfit` and `table` are of two seeds.

RUN is the folder of a finished configs/train/small; POOL and MODEL are what its stages 2_latents and 3_point_decoder
left. Variants are trained for --steps (the denoiser: of 32 frames) and scored on clips of a split of their own; results
are kept in --out, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geo4d.evaluation.synthetic import SyntheticSet, TrueClip, render_true_clip, score_reconstruction
from geo4d.models.grow import with_point_decoder
from geo4d.models.storage import load_model
from geo4d.pipeline import Geo4D, InferConfig
from geo4d.training.config import Length
from geo4d.training.latents import encode_batch, write_shard
from geo4d.training.recipe import load_recipe, run_stage
from geo4d.training.sources import ClipBatch, Place, ProceduralSource, Size
from geo4d.training.start import layout_of, spec_layout

SPLIT = 810001  # clips of the ablations
OVERFIT_STREAM = 98
CLIPS, FRAMES = 24, 24
SEEDS = (0, 1)
SHOWN = ("abs_rel", "delta1", "abs_rel_median_scale", "ate_scale", "rotation_deg", "focal_error")
OBJECTIVE = {  # settings beside those of configs/train/small
    "hybrid, short clips first": [],
    "plain diffusion (the paper's)": ["denoiser.objective.zero_share=0", "denoiser.objective.timesteps=uniform"],
    "diffusion, noisy steps": ["denoiser.objective.zero_share=0"],
    "one-step regression": ["denoiser.objective.zero_share=1"],
    "hybrid, whole windows alone": ["denoiser.short_share=0"],
    "hybrid, pixel loss": ["denoiser.objective.pixel_weight=0.5"],
}
DECODER = {
    "image decoder": [],
    "point decoder, exact latents": ["point_decoder.predicted_share=0"],
    "point decoder, 70 % predicted latents": ["point_decoder.predicted_share=0.7"],
}
TUNING = {
    "autoencoder, asinh": ["autoencoder.normalization=asinh"],
    "autoencoder, mean distance": ["autoencoder.normalization=mean"],
    "autoencoder, min-max": ["autoencoder.normalization=minmax"],
}
MODALITIES = {
    "points": ["modalities=[points]"],
    "points, rays": ["modalities=[points,rays]"],
    "points, rays, disparity": ["modalities=[points,rays,disparity]"],
}


Run = Callable[[str, list[str], int, argparse.Namespace], dict[str, Any]]


def predictor(model: Any, *, steps: int | None = None) -> Callable[[TrueClip], Any]:
    """The pipeline without tracks: the network alone is what is compared."""
    pipeline, config = Geo4D(model), InferConfig(tracks=False, steps=steps)

    def predict(clip: TrueClip) -> Any:
        video = pipeline.read(clip.frames, config)
        return pipeline.reconstruct(
            replace(video, timestamps=clip.timestamps, fps=1 / float(np.diff(clip.timestamps).mean())), config
        )

    return predict


def score_model(model: Any, *, steps: int | None = None, clips: int = CLIPS) -> dict[str, float]:
    """Medians over the clips of the ablations."""
    dataset, predict = SyntheticSet(SPLIT, clips, FRAMES), predictor(model, steps=steps)
    scores = []
    for index in range(clips):
        clip = render_true_clip(dataset, index)
        scores.append(score_reconstruction(clip, predict(clip)))
    return {name: float(np.median([score[name] for score in scores])) for name in SHOWN}


def run_variants(variants: dict[str, list[str]], run: Run, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains and scores every variant with every seed; one JSON file each as soon as it is there."""
    out = Path(args.out) / args.part
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in args.seeds:
        for number, (name, words) in enumerate(variants.items()):
            file = out / f"{number}_{seed}.json"
            if not file.exists():
                started = time.process_time()
                scores = run(name, words, seed, args)
                seconds = round(time.process_time() - started)
                entry = {"variant": name, "seed": seed, "steps": args.steps, "cpu_seconds": seconds, **scores}
                file.write_text(json.dumps(entry, indent=1))
            results.append(json.loads(file.read_text()))
            logging.info("%s", json.dumps(results[-1]))
    return results


def folder_of(name: str, seed: int) -> str:
    """A stage's name for a variant."""
    return f"{name.replace(' ', '_').replace(',', '')}_{seed}"


def run_denoiser(name: str, words: list[str], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One run of the denoiser from random weights, on the autoencoder and the pool that are given."""
    folder = folder_of(name, seed)
    loop = [f"loop.steps={args.steps}", "loop.learning_rate=1e-3", "loop.checkpoint_minutes=2", "loop.final_share=0.02"]
    base = [
        f"out={args.out}/{args.part}/runs",
        f"name={folder}",
        "kind=denoiser",
        f"start={args.model}",
        f"denoiser.latents={args.pool}",
    ]
    size = [
        "data.sizes=[{height: 64, width: 96}]",
        f"seed={seed}",
        "modalities=[points,rays,disparity]",
        "validation.clips=0",
    ]
    common = Path(__file__).parents[1] / "configs" / "train" / "small" / "common.yaml"
    (config,) = load_recipe([common], [*loop, *base, *size, "validation.quick_clips=0", *words])
    model = load_model(run_stage(config) / "model")
    scores = {"one step": score_model(model, steps=0)}
    if config.denoiser.objective.zero_share < 1:
        scores["5 DDIM steps"] = score_model(model, steps=5)
    return scores


def run_decoder(name: str, words: list[str], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """A decoder of point maps for the denoiser of a finished run.

    Without settings the image decoder serves as it is.
    """
    start = f"{args.run}/7_disparity/model"
    if not words:
        model = with_point_decoder(load_model(start), 0)
    else:
        base = [
            f"out={args.out}/{args.part}/runs",
            f"name={folder_of(name, seed)}",
            "kind=point_decoder",
            f"start={start}",
            f"seed={seed}",
        ]
        base += [f"loop.steps={args.steps}", "loop.learning_rate=3e-4", "point_decoder.blocks=1"]
        common = Path(__file__).parents[1] / "configs" / "train" / "small" / "common.yaml"
        model = load_model(run_stage(load_recipe([common], [*base, *words])[0]) / "model")
    return {"one step": {**score_model(model.eval(), steps=0), **reconstruction(model)}}


def run_tuning(name: str, words: list[str], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Tunes a finished run's autoencoder, encodes pairs with it, and trains a denoiser on them from random weights."""
    out, common = (
        f"{args.out}/{args.part}/{folder_of(name, seed)}",
        Path(__file__).parents[1] / "configs" / "train" / "small" / "common.yaml",
    )
    shared = [
        f"out={out}",
        f"seed={seed}",
        "data.sizes=[{height: 64, width: 96}]",
        "validation.clips=0",
        "validation.quick_clips=0",
    ]
    shared += ["data.lengths=[{frames: 2, clips: 128, share: 0.8}, {frames: 16, clips: 16, share: 0.2}]"]
    tune = [
        "name=tuned",
        "kind=autoencoder",
        f"start={args.run}/1_autoencoder/model",
        f"loop.steps={args.steps}",
        "loop.learning_rate=5e-4",
        "autoencoder.shards=12",
    ]
    pool = ["name=latents", "kind=latents", f"start={out}/tuned/model", "latents.shards=40"]
    train = [
        "name=denoiser",
        "kind=denoiser",
        f"start={out}/tuned/model",
        f"denoiser.latents={out}/latents",
        f"loop.steps={args.steps}",
    ]
    train += ["modalities=[points,rays,disparity]", "loop.learning_rate=1e-3"]
    for stage in ([*tune, *words], pool, train):
        directory = run_stage(load_recipe([common], [*shared, *stage])[0])
    model = load_model(directory / "model")
    return {"one step": {**score_model(model, steps=0), **reconstruction(model)}}


def reconstruction(model: Any, clips: int = 64) -> dict[str, float]:
    """Relative error of depth from point maps that are encoded and decoded.

    Mean and median over the pixels of pairs of frames.
    """
    layout = layout_of(model)
    height, width = model.spec.base_size
    batch = ProceduralSource([Size(height, width)], SPLIT).batch(Place(0), Length(2, clips))
    images = layout.encode(batch.clip)["points"].flatten(0, 1)
    with torch.no_grad():
        latents = model.normalizer.normalize("points", model.autoencoder.encode(images)[0])
        decoded = model.decode_points(latents)[0].unflatten(0, batch.frame_index.shape)
    points = spec_layout(model.spec, ("points",))
    own, true = (
        points.decode({"points": image})["points"][..., 2] for image in (decoded, layout.encode(batch.clip)["points"])
    )
    mask = batch.clip.valid & (true > 0.01)
    errors = ((own - true).abs() / true.clamp_min(0.01))[mask]
    return {"decoded_mean": float(errors.mean()), "decoded_median": float(errors.median())}


def overfit(args: argparse.Namespace) -> dict[str, Any]:
    """Four clips, all modalities.

    Abs Rel of the model that learnt them, and of their exact latents, through the whole pipeline.
    """
    out = Path(args.out) / "overfit"
    model = load_model("small")
    height, width = model.spec.base_size
    batch = ProceduralSource([Size(height, width)], OVERFIT_STREAM).batch(Place(0), Length(16, 4))
    latents = encode_batch(model, layout_of(model), batch)
    if not list((out / "pool").glob("*")):
        (out / "pool").mkdir(parents=True)
        write_shard(out / "pool", 0, batch, latents)
    words = [
        f"out={out}",
        "name=model",
        "kind=denoiser",
        "start=small",
        f"denoiser.latents={out}/pool",
        "denoiser.objective.zero_share=1",
    ]
    words += [
        "denoiser.batch_frames=64",
        f"loop.steps={args.steps}",
        "loop.learning_rate=1e-3",
        "validation.clips=0",
        "loop.flat_share=0.3",
        f"data.sizes=[{{height: {height}, width: {width}}}]",
    ]
    directory = run_stage(load_recipe([], [*words, "validation.quick_clips=0"])[0])
    clips = [true_clip(batch, index) for index in range(4)]
    own, exact = predictor(load_model(directory / "model"), steps=0), exact_predictor(model, latents)
    rows = []
    for index, clip in enumerate(clips):
        numbers = [score_reconstruction(clip, predict)["abs_rel"] for predict in (own(clip), exact(clip, index))]
        rows.append({"clip": index, "learnt": numbers[0], "exact latents": numbers[1]})
    mean = {key: float(np.mean([row[key] for row in rows])) for key in ("learnt", "exact latents")}
    return {"steps": args.steps, "clips": rows, "mean": mean, "difference": mean["learnt"] - mean["exact latents"]}


def exact_predictor(model: Any, latents: dict[str, torch.Tensor]) -> Callable[[TrueClip, int], Any]:
    """The pipeline around a denoiser that knows the answer: v = -x0 at the last step."""
    layout = layout_of(model)
    x0 = layout.join(
        {name: model.normalizer.normalize(name, latents[name].half().float()) for name in layout.image_names}
    )
    predict = predictor(model, steps=0)

    def exact(clip: TrueClip, index: int) -> Any:
        model.unet_forward = lambda x_t, *rest: -x0[index : index + 1]
        try:
            return predict(clip)
        finally:
            del model.unet_forward

    return exact


def true_clip(batch: ClipBatch, index: int) -> TrueClip:
    """One clip of a training batch as a user would have it."""
    clip = batch.clip.map(lambda value: value[index])
    return TrueClip(
        frames=clip.rgb.mul(255).round().byte().numpy(),
        timestamps=np.arange(len(clip.rgb)) / float(batch.fps[index]),
        depth=clip.depth.numpy(),
        valid=clip.valid.numpy(),
        dynamic=np.zeros(clip.valid.shape, bool),
        intrinsics=clip.intrinsics.double().numpy(),
        cam_to_world=clip.cam_to_world.double().numpy(),
    )


def table(files: list[str]) -> str:
    """Mean over the seeds and their half range, one row a variant and sampler."""
    lines = []
    for file in files:
        results = json.loads(Path(file).read_text())["results"]
        shown = list(results[0]["one step"])
        lines += ["", "| variant | sampler | " + " | ".join(shown) + " | CPU s |", "| --- " * (len(shown) + 3) + "|"]
        for name in dict.fromkeys(result["variant"] for result in results):
            own = [result for result in results if result["variant"] == name]
            for sampler in ("one step", "5 DDIM steps"):
                if sampler in own[0]:
                    values = np.array([[result[sampler][key] for key in shown] for result in own])
                    cells = [
                        f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(0), np.ptp(values, axis=0) / 2, strict=True)
                    ]
                    lines.append(
                        f"| {name} | {sampler} | {' | '.join(cells)} | {np.mean([r['cpu_seconds'] for r in own]):.0f} |"
                    )
    return "\n".join(lines)


PARTS: dict[str, tuple[dict[str, list[str]], Run]] = {
    "objective": (OBJECTIVE, run_denoiser),
    "modalities": (MODALITIES, run_denoiser),
    "decoder": (DECODER, run_decoder),
    "tuning": (TUNING, run_tuning),
}


def main() -> None:
    """Runs one part and writes training_PART.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["overfit", *PARTS, "table"])
    parser.add_argument("files", nargs="*", help="results to print (table)")
    parser.add_argument("--pool", default="runs/small/2_latents")
    parser.add_argument("--model", default="runs/small/3_point_decoder/model")
    parser.add_argument("--run", default="runs/small")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", default="runs/ablations")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    if args.part == "table":
        sys.stdout.write(table(args.files) + "\n")
        return
    if args.part == "overfit":
        result: dict[str, Any] = overfit(args)
    else:
        result = {"results": run_variants(*PARTS[args.part], args)}
    file = Path(args.out) / f"training_{args.part}.json"
    file.write_text(json.dumps(result, indent=1))
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
