"""Does the alignment know how good it is: confidence, camera covariances, quality without truth, motion masks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from alignment_cases import Case, from_arrays, maker, procedural, score
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from geo4d import Reconstruction
from geo4d.alignment import align
from geo4d.geometry.rotation import so3_log
from geo4d.synthetic.windows import NoiseLaw

BINS = 12
PIXELS = 3000  # of each case
SEED = 4


def procedural_cases(count: int) -> list[tuple[int, NoiseLaw, int]]:
    """Number, law and length of each case.

    Errors from a third to three times the usual, each kind of error by its own factor.
    """
    generator = np.random.default_rng(SEED)
    laws = []
    for index in range(count):
        overall = np.exp(generator.uniform(-1.1, 1.1))
        sizes = {
            name: value * overall * np.exp(0.4 * generator.normal())
            for name, value in vars(NoiseLaw()).items()
            if name not in ("flagged", "constant_disparity")
        }
        sizes["outliers"] = min(sizes["outliers"], 0.33)
        law = NoiseLaw(
            **sizes, flagged=float(generator.uniform(0.3, 1)), constant_disparity=bool(generator.random() < 0.5)
        )
        laws.append((index, law, int(generator.integers(18, 41))))
    return laws


def honesty(args: argparse.Namespace) -> dict[str, Any]:
    """All four, on procedural cases and (with a maker) on made ones."""
    groups: dict[str, list[dict[str, Any]]] = {"procedural": []}
    for index, law, frames in procedural_cases(args.count):
        groups["procedural"].append(examine(procedural(1000 + index, law, frames=frames, size=(48, 72))))
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{index + 1} of {args.count}")
    if args.maker is not None:
        make_case = maker(args.maker)
        groups["made"] = [
            examine(from_arrays(make_case(seed=seed, noise=noise, T=30, world="varied"), noise))
            for seed in range(20)
            for noise in ("realistic", "hard")
        ]
    summary = {name: summarise(rows) for name, rows in groups.items()}
    for name, numbers in summary.items():
        sys.stdout.write(f"\n{name}, {len(groups[name])} cases\n")
        sys.stdout.write(
            "".join(f"  {key:58s}{value:9.3f}\n" for key, value in numbers.items() if isinstance(value, float))
        )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        draw(groups, args.out / "alignment_honesty.png")
    return summary


def examine(case: Case) -> dict[str, Any]:
    """One case: its errors, what was said of them, and a sample of pixels."""
    result = align(case.predictions)
    known = case.valid & result.valid
    log_ratio = np.log(result.depth[known] / case.depth[known])
    true_error = np.abs(log_ratio - np.median(log_ratio))
    inverse = 1 / np.maximum(result.confidence, 1e-9)
    expected = inverse * result.diagnostics["expected_error"] / inverse[result.valid].mean()
    picks = np.random.default_rng(0).choice(int(known.sum()), min(PIXELS, int(known.sum())), replace=False)
    windows = result.diagnostics["windows"]
    row: dict[str, Any] = {
        **score(result, case),
        "expected": result.diagnostics["expected_error"],
        "residual_along": float(np.median([window["along"] for window in windows])),
        "residual_across": float(np.median([window["across_px"] for window in windows])),
        "error": float(true_error.mean()),
        "pixels": np.stack([expected[known][picks], true_error[picks]]),
        "covariance": normalized_errors(result, case, float(np.exp(-np.median(log_ratio)))),
    }
    if case.moving is not None and result.dynamic is not None and case.moving.any():
        row["motion"] = motion_scores(result.dynamic[case.valid], case.moving[case.valid])
    return row


def normalized_errors(result: Reconstruction, case: Case, scale: float) -> tuple[float, float]:
    """Median over frames of squared errors by their covariance, a third each: centres and rotations.

    0.79 is right for normal ones.
    """
    import torch

    assert result.pose_covariance is not None
    true = np.linalg.inv(case.cam_to_world[:1]) @ case.cam_to_world
    rotation_error = so3_log(
        torch.from_numpy(true[:, :3, :3] @ result.cam_to_world[:, :3, :3].transpose(0, 2, 1))
    ).numpy()
    shift = true[:, :3, 3] / scale - result.cam_to_world[:, :3, 3]
    covariance = result.pose_covariance

    def squared(error: np.ndarray, block: np.ndarray) -> float:
        return float(np.median(np.einsum("ti,tij,tj->t", error[1:], np.linalg.inv(block[1:]), error[1:])) / 3)

    return squared(shift, covariance[:, 3:, 3:]), squared(rotation_error, covariance[:, :3, :3])


def motion_scores(probability: np.ndarray, moving: np.ndarray) -> dict[str, float]:
    """IoU of what moves: ours, all moving (all static has 0), and a mask drawn at random with the true share."""
    said = probability > 0.5
    share = float(moving.mean())
    union = (said | moving).sum()
    return {"iou": float((said & moving).sum() / max(union, 1)), "all moving": share, "chance": share / (2 - share)}


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Correlations over the cases, reliability over their pixels, medians."""
    column = {
        key: np.array([row[key] for row in rows])
        for key in ("expected", "error", "residual_along", "residual_across", "ATE")
    }
    pixels = np.concatenate([row["pixels"] for row in rows], axis=1)
    constant = np.concatenate([np.full_like(row["pixels"][0], row["error"]) for row in rows])
    within = [spearmanr(*row["pixels"])[0] for row in rows]
    covariance = np.array([row["covariance"] for row in rows])
    summary: dict[str, Any] = {
        "rank correlation with the true depth error: expected_error": float(
            spearmanr(column["expected"], column["error"])[0]
        ),
        "    the same of the median residual along rays": float(
            spearmanr(column["residual_along"], column["error"])[0]
        ),
        "    the same of the median residual across rays": float(
            spearmanr(column["residual_across"], column["error"])[0]
        ),
        "expected by true error of a case, median": float(np.median(column["expected"] / column["error"])),
        "    tenth of the cases below": float(np.quantile(column["expected"] / column["error"], 0.1)),
        "    tenth of the cases above": float(np.quantile(column["expected"] / column["error"], 0.9)),
        "rank correlation within a case, median (a constant has 0)": float(np.median(within)),
        "mean log likelihood gained over each case's own mean error": float(
            np.mean(laplace(pixels[1], constant) - laplace(*pixels[::-1]))
        ),
        "error of the most confident half by that of the rest": half_ratio(pixels),
        "squared centre error by its covariance, median (right: 0.79)": float(np.median(covariance[:, 0])),
        "squared rotation error by its covariance, median (right: 0.79)": float(np.median(covariance[:, 1])),
    }
    for key in ("iou", "all moving", "chance"):
        found = [row["motion"][key] for row in rows if "motion" in row]
        if found:
            summary[f"motion, {key}, mean over {len(found)} cases"] = float(np.mean(found))
    return {**summary, "reliability": reliability(pixels).tolist()}


def laplace(error: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Negative log likelihood of errors by their expected size."""
    size = np.maximum(size, 1e-5)
    return np.log(2 * size) + error / size


def half_ratio(pixels: np.ndarray) -> float:
    """Mean error of the pixels expected to be the better half, by that of the others."""
    better = pixels[0] <= np.median(pixels[0])
    return float(pixels[1][better].mean() / pixels[1][~better].mean())


def reliability(pixels: np.ndarray) -> np.ndarray:
    """(bins, 2): mean expected and mean true error of pixels in bins of equal number."""
    order = pixels[0].argsort()
    return np.stack([[part[0].mean(), part[1].mean()] for part in np.array_split(pixels[:, order], BINS, axis=1)])


def draw(groups: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Reliability of pixels beside a constant's, and of whole cases."""
    figure = Figure(figsize=(11, 5))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, rows in groups.items():
        pixels = np.concatenate([row["pixels"] for row in rows], axis=1)
        curve = reliability(pixels)
        left.plot(curve[:, 0], curve[:, 1], "o-", label=name)
        left.plot([pixels[1].mean()], [pixels[1].mean()], "s", label=f"{name}, one constant")
        right.plot([row["expected"] for row in rows], [row["error"] for row in rows], ".", label=name)
    for axes, what in ((left, "pixels, in twelfths"), (right, "cases")):
        low, high = axes.get_xlim()
        axes.plot([max(low, 1e-3), high], [max(low, 1e-3), high], "k:", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="expected |error| of log depth", ylabel="true", title=what)
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
