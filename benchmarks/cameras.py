"""Cameras by followed points.

Beside a camera that stands still, the network alone, and incremental mapping by pycolmap.

    python benchmarks/cameras.py recordings ROOM:1000 OFFICE:1000 [--colmap]  # folders in TUM layout: scale of depth
    python benchmarks/cameras.py sizes ROOM:1000                              # the same clip smaller and larger
    python benchmarks/cameras.py failures                                     # what is said of videos without cameras
    python benchmarks/cameras.py long --frames 50 500 2000                    # time and memory against the frames

pycolmap is in the extra `compare`; it runs in a process of its own (its libraries and PIL's do not go together in one).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from memory import peak_memory
from PIL import Image

from geo4d import Geo4D, InferConfig
from geo4d.alignment import AlignmentConfig, Priors
from geo4d.alignment.align import draft_of, select
from geo4d.alignment.bundle.choose import adjust_cameras
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.cameras import Cameras, FixedIntrinsics
from geo4d.alignment.draft import Draft
from geo4d.alignment.joint.steps import prepare, solve_joint
from geo4d.evaluation.synthetic import TrueClip
from geo4d.evaluation.tum import read_tum_clip
from geo4d.geometry.rotation import so3_exp
from geo4d.metrics.pose import pose_metrics, relative_pose_errors
from geo4d.scene import Tracks, Video
from geo4d.synthetic import SceneConfig, render_clips, scene_seed
from geo4d.synthetic.staging import Staging
from geo4d.tracks import track_points

COLMAP = """
import json, sys, time
from pathlib import Path
import numpy as np, pycolmap
folder = Path(sys.argv[1])
started = time.process_time()
pycolmap.extract_features(folder / "db", folder / "images", camera_mode=pycolmap.CameraMode.SINGLE)
pycolmap.match_sequential(folder / "db")
maps = pycolmap.incremental_mapping(folder / "db", folder / "images", folder)
seconds = time.process_time() - started
best = max(maps.values(), key=lambda found: found.num_reg_images(), default=None)
poses, focal = {}, None
if best is not None:
    focal = list(best.cameras.values())[0].params[0]
    for image in best.images.values():
        if image.has_pose:  # a pose from the world to the camera
            poses[int(Path(image.name).stem)] = np.asarray(image.cam_from_world().matrix()).tolist()
(folder / "found.json").write_text(json.dumps({"poses": poses, "focal": focal, "seconds": seconds}))
"""
SIZES = (0.5, 1.0, 2.0, 5.0)
HEADINGS = ("frames", "ATE Sim3", "ATE scale", "RPE-r deg", "median", "focal log", "CPU s")


def recordings(args: argparse.Namespace) -> dict[str, Any]:
    """Whole, in halves and at every second frame; worst and median of all at the end."""
    model, rows = Geo4D.from_pretrained(args.model, device="cpu"), []
    sys.stdout.write(f"{'':34s}" + "".join(f"{text:>11s}" for text in HEADINGS) + "\n")
    for name, clip in _parts(args.folders):
        tracks, draft, seconds = _by_network(model, clip)
        started = time.process_time()
        cameras, report = _by_tracks(draft, tracks, clip)
        seconds += time.process_time() - started
        still = np.tile(np.eye(4), (len(clip.frames), 1, 1))
        still[:, 0, 3] = 1e-9 * np.arange(len(still))  # a similarity needs some extent
        ways = {
            "stands still": scored(clip, still, None, 0.0),
            "network": scored(clip, draft.cameras.cam_to_world.numpy(), focal_of(draft.cameras, draft, clip), 0.0),
            "ours": scored(clip, cameras.cam_to_world.numpy(), focal_of(cameras, draft, clip), seconds),
        }
        if args.colmap:
            ways["pycolmap"] = by_colmap(clip)
        for way, row in ways.items():
            rows.append({"clip": name, "way": way, **row, **({"report": report} if way == "ours" else {})})
            sys.stdout.write(f"{name:20s}{way:14s}" + "".join(f"{row[text]:11.3f}" for text in HEADINGS) + "\n")
    for way in dict.fromkeys(row["way"] for row in rows):
        for word, of in (("median", np.nanmedian), ("worst", np.nanmax)):
            values = [of([abs(row[text]) for row in rows if row["way"] == way]) for text in HEADINGS]
            sys.stdout.write(f"{word:20s}{way:14s}" + "".join(f"{value:11.3f}" for value in values) + "\n")
    return {"rows": rows}


def sizes(args: argparse.Namespace) -> dict[str, Any]:
    """Path and turns of the same clip at other sizes, against those at its own."""
    model, rows = Geo4D.from_pretrained(args.model, device="cpu"), []
    for name, clip in _parts(args.folders, whole=True):
        draft, own = _by_network(model, clip)[1], None
        for size in sorted(SIZES, key=lambda size: size != 1):
            how = cv2.INTER_CUBIC if size > 1 else cv2.INTER_AREA
            frames = (
                clip.frames
                if size == 1
                else np.stack([cv2.resize(f, None, fx=size, fy=size, interpolation=how) for f in clip.frames])
            )
            cameras, report = _by_tracks(draft, track_points(frames), replace(clip, frames=frames))
            poses = cameras.cam_to_world.numpy()
            own = poses if own is None else own
            length, first = (float(np.linalg.norm(np.diff(p[:, :3, 3], axis=0), axis=1).sum()) for p in (poses, own))
            turn = pose_metrics(poses, own).rotation_deg
            rows.append(
                {"clip": name, "size": size, "path": length / first - 1, "turn_deg": turn, "used": report["used"]}
            )
            sys.stdout.write(
                f"{name:20s} x{size:<4g} path {length / first - 1:+.3f}  turn {turn:.3f} deg  used {report['used']}\n"
            )
    return {"rows": rows}


def failures(args: argparse.Namespace) -> dict[str, Any]:
    """Videos in which there is little or nothing to find."""
    model, rows = Geo4D.from_pretrained(args.model, device="cpu"), {}
    for name, frames in _hopeless():
        size = frames.shape[1:3]
        clip = TrueClip(frames, np.arange(len(frames)) / 24.0, *[np.zeros(0)] * 5)
        tracks, draft, _ = _by_network(model, clip)
        report = _by_tracks(draft, tracks, clip)[1]
        told = {
            k: report.get(k)
            for k in ("used", "unused_because", "camera", "explained", "beyond_chance", "focal_from", "focal_log_sigma")
        }
        rows[name] = told
        sys.stdout.write(
            f"{name:16s}{len(frames):4d} frames {size}: "
            + ", ".join(f"{k} {v}" for k, v in told.items() if v is not None)
            + "\n"
        )
    return rows


def long(args: argparse.Namespace) -> dict[str, Any]:
    """Simulated tracks along a way that goes on and on: CPU seconds a frame, memory and drift of the cameras alone."""
    rows = []
    for frames in args.frames:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure_long, (frames,)))
        sys.stdout.write("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()) + "\n")
    return {"rows": rows}


def measure_long(frames: int) -> dict[str, float]:
    """In a process of its own, for its memory."""
    torch.set_num_threads(1)
    tracks, truth = _corridor(frames)
    log_depth = torch.full((frames, 24, 32), math.log(5.0))
    cameras = Cameras.of(
        torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1),
        torch.full((frames,), 0.9, dtype=torch.float64),
        FixedIntrinsics.ideal(frames),
    )
    started = time.process_time()
    with peak_memory() as memory:
        found = adjust_cameras(cameras, log_depth, tracks, tracks.source_size, BundleConfig(), Priors())
    seconds = time.process_time() - started
    poses = (found.cameras(0.0) if found.is_used else cameras).cam_to_world.numpy()
    score, centres = pose_metrics(poses, truth), truth[:, :3, 3]
    static = math.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean())
    return {
        "frames": frames, "keyframes": found.report["keyframes"], "observations": len(tracks.track), "CPU s": seconds,
        "CPU s a frame": seconds / frames, "peak GB": memory["peak_gb"], "ATE Sim3": score.ate_sim3 / static,
        "RPE-r deg": score.rpe_rotation_deg,
    }  # fmt: skip


def _parts(folders: list[str], *, whole: bool = False) -> Iterator[tuple[str, TrueClip]]:
    for text in folders:
        path, _, scale = text.rpartition(":")
        clip = read_tum_clip(Path(path), depth_scale=float(scale), max_frames=None)
        name, half = Path(path).name, len(clip.frames) // 2
        yield name, clip
        if not whole:
            for word, part in (
                ("first half", slice(0, half)),
                ("second half", slice(half, None)),
                ("stride 2", slice(None, None, 2)),
            ):
                yield f"{name[-8:]} {word}", _cut(clip, part)


def _cut(clip: TrueClip, part: slice) -> TrueClip:
    fields = {name: getattr(clip, name)[part] for name in TrueClip.__dataclass_fields__}
    fields["cam_to_world"] = np.linalg.inv(fields["cam_to_world"][0]) @ fields["cam_to_world"]
    return TrueClip(**fields)


def _by_network(model: Any, clip: TrueClip) -> tuple[Tracks, Draft, float]:
    """Tracks, cameras and depth by the windows alone, and the CPU seconds of following."""
    read = model.read(clip.frames, InferConfig())
    started = time.process_time()
    tracks = track_points(clip.frames)
    seconds = time.process_time() - started
    config = AlignmentConfig()
    windows = select(model.predict(Video(read.frames, clip.timestamps, 24.0, read.source_size)), config)
    return tracks, draft_of(windows, solve_joint(prepare(windows, config, Priors())), Priors(), config), seconds


def _by_tracks(draft: Draft, tracks: Tracks, clip: TrueClip) -> tuple[Cameras, dict[str, Any]]:
    found = adjust_cameras(
        draft.cameras, draft.dense.log_depth, tracks, clip.frames.shape[1:3], BundleConfig(), Priors()
    )
    return (found.cameras(0.0) if found.is_used else draft.cameras), found.report


def focal_of(cameras: Cameras, draft: Draft, clip: TrueClip) -> float:
    """In pixels of the source, both axes together."""
    height, width = draft.dense.log_depth.shape[1:]
    k = cameras.intrinsics(height, width)[0]
    return math.sqrt(float(k[0, 0]) * clip.frames.shape[2] / width * float(k[1, 1]) * clip.frames.shape[1] / height)


def scored(
    clip: TrueClip, poses: np.ndarray, focal_px: float | None, seconds: float, frames: np.ndarray | None = None
) -> dict[str, float]:
    """Errors of the path by those of a camera that stands still; RPE as root mean square and median."""
    truth = clip.cam_to_world if frames is None else clip.cam_to_world[frames]
    truth = np.linalg.inv(truth[0]) @ truth
    found, centres = pose_metrics(poses, truth), truth[:, :3, 3]
    static = math.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean())
    true_focal = math.sqrt(clip.intrinsics[0, 0, 0] * clip.intrinsics[0, 1, 1])
    values = (
        len(poses),
        found.ate_sim3 / max(static, 1e-9),
        found.ate_scale / max(found.ate_static, 1e-9),
        found.rpe_rotation_deg,
        float(np.median(relative_pose_errors(poses, truth)[1])),
        float("nan") if focal_px is None else math.log(focal_px / true_focal),
        seconds,
    )
    return dict(zip(HEADINGS, map(float, values), strict=True))


def by_colmap(clip: TrueClip) -> dict[str, float]:
    """Its largest map, on the frames that it holds; nan where there is none of three frames."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for number, frame in enumerate(clip.frames):
            Image.fromarray(frame).save(folder / "images" / f"{number:05d}.png")
        subprocess.run([sys.executable, "-c", COLMAP, name], check=True, capture_output=True, timeout=600)
        found = json.loads((folder / "found.json").read_text())
    frames = np.array(sorted(map(int, found["poses"])), int)
    if len(frames) < 3:
        return dict.fromkeys(HEADINGS, float("nan")) | {"frames": float(len(frames)), "CPU s": found["seconds"]}
    poses = np.tile(np.eye(4), (len(frames), 1, 1))
    poses[:, :3] = [found["poses"][str(frame)] for frame in frames]
    poses = np.linalg.inv(poses)
    return scored(clip, np.linalg.inv(poses[0]) @ poses, found["focal"], found["seconds"], frames)


def _hopeless() -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    yield "no texture", np.full((16, 144, 192, 3), 120, np.uint8)
    yield "noise", rng.integers(0, 255, (16, 144, 192, 3), dtype=np.uint8)
    travels = _rendered("dolly")
    yield "travels", travels
    yield "turns only", _turning(travels[0])
    yield "stands still", np.clip(rng.normal(np.repeat(travels[:1], 16, axis=0), 2.0), 0, 255).astype(np.uint8)
    yield "cut", np.concatenate([travels[:12], _rendered("orbit")[:12]])
    yield "two frames", travels[:2]
    yield "all moves", _rendered("static", movers=24)


def _rendered(camera: Any, movers: int = 0) -> np.ndarray:
    config = SceneConfig(
        1.0, 0.0, (50.0, 60.0), compression=False, staging=Staging(camera=camera, is_still=movers == 0, movers=movers)
    )
    clip = render_clips([scene_seed(66, 1)], num_frames=24, size=(144, 192), frame_step=2, config=config)
    return clip.rgb[0].mul(255).round().byte().numpy()


def _turning(image: np.ndarray) -> np.ndarray:
    """What a camera of 50 degrees sees that turns where it stands, of a picture on a sphere around it."""
    height, width = image.shape[:2]
    k = np.array([[205.0, 0, width / 2], [0, 205.0, height / 2], [0, 0, 1]])
    turns = so3_exp(torch.tensor([[0.0, 0.01 * n, 0.002 * n] for n in range(16)], dtype=torch.float64)).numpy()
    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    to_large = np.array([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 1]]) @ np.array(
        [[0.7, 0, 0.15 * width], [0, 0.7, 0.15 * height], [0, 0, 1]]
    )
    maps = [to_large @ k @ turn @ np.linalg.inv(k) for turn in turns]
    return np.stack(
        [cv2.warpPerspective(large, m, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP) for m in maps]
    )


def _corridor(frames: int) -> tuple[Tracks, np.ndarray]:
    """Points along a corridor, seen with half a pixel of noise by a camera of 640 x 480 that walks and sways."""
    rng, focal, step = np.random.default_rng(0), 576.0, 0.04
    length = step * frames + 12
    count = int(60 * length)
    points = np.stack([rng.uniform(-3, 3, count), rng.uniform(-2, 2, count), rng.uniform(0.5, length, count)], axis=1)
    t = np.arange(frames)
    truth = np.tile(np.eye(4), (frames, 1, 1))
    truth[:, :3, :3] = so3_exp(
        torch.from_numpy(0.08 * np.stack([np.sin(0.11 * t), np.sin(0.07 * t), 0 * t], axis=1))
    ).numpy()
    truth[:, :3, 3] = np.stack([0.3 * np.sin(0.05 * t), 0.05 * np.sin(0.3 * t), step * t], axis=1)
    truth = np.linalg.inv(truth[0]) @ truth
    rows = []
    for frame, pose in enumerate(truth):
        near = np.flatnonzero((points[:, 2] > pose[2, 3]) & (points[:, 2] < pose[2, 3] + 10))
        local = (points[near] - pose[:3, 3]) @ pose[:3, :3]
        pixel = focal * local[:, :2] / local[:, 2:] + [320, 240] + rng.normal(size=(len(near), 2)) * 0.5
        seen = (local[:, 2] > 0.4) & (pixel > 1).all(1) & (pixel < [639, 479]).all(1)
        rows.append(np.column_stack([near[seen], np.full(seen.sum(), frame), pixel[seen]]))
    table = np.concatenate(rows)
    kept = np.bincount(table[:, 0].astype(int), minlength=count)[table[:, 0].astype(int)] > 2
    _, track = np.unique(table[kept, 0], return_inverse=True)
    tracks = Tracks(
        track.astype(np.int32), table[kept, 1].astype(np.int32), table[kept, 2:].astype(np.float32), (480, 640), frames
    )
    return tracks, truth


def main() -> None:
    """Reads what to run, and writes the figures as JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for run in (recordings, sizes, failures, long):
        sub = verbs.add_parser(run.__name__, help=(run.__doc__ or "").splitlines()[0])
        sub.set_defaults(run=run)
        sub.add_argument("--model", default="small")
        sub.add_argument("--json", type=Path)
        if run in (recordings, sizes):
            sub.add_argument(
                "folders",
                nargs="+",
                help="FOLDER:SCALE, a recording in TUM layout and what its depth PNG counts a metre",
            )
        if run is recordings:
            sub.add_argument("--colmap", action="store_true", help="pycolmap's incremental mapping beside ours")
        if run is long:
            sub.add_argument("--frames", type=int, nargs="+", default=[50, 500, 2000])
    args = parser.parse_args()
    found = args.run(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
