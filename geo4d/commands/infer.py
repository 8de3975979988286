"""Reconstruct a video or a folder of images."""

from __future__ import annotations

import argparse
import logging
from dataclasses import field, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo4d.commands.priors import add_prior_arguments, prior_files, read_priors

if TYPE_CHECKING:
    from geo4d.alignment import AlignmentConfig
    from geo4d.scene import Reconstruction
    from geo4d.tracks import TrackerConfig

WORK_FOLDER = ".work"  # finished windows of an unfinished run
SETTINGS = "config.yaml"
PREVIEW = ("preview.mp4", "trajectory.png")
KIND = "reconstruction"  # of folder, of infer and align
HOW_TO_RUN = ("resume", "overwrite", "quiet", "verbose", "out", "verb")  # they decide nothing of the result

logger = logging.getLogger("geo4d.infer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d infer VIDEO --out DIR`."""
    parser.add_argument("video", help="video file or folder of images")
    words = (
        "settings of the alignment, as of geo4d align (focal=per_frame), and of the followed points (tracks.window=21)"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help=words)
    parser.add_argument("--out", required=True, help="folder for the result; must be new or empty")
    add_model_arguments(parser)
    parser.add_argument("--start", type=int, default=0, help="first frame")
    parser.add_argument("--max-frames", type=int, default=None, help="at most so many frames")
    parser.add_argument("--frame-stride", type=int, default=1, help="take every N-th frame")
    parser.add_argument(
        "--stride", type=int, default=4, help="frames between windows; smaller is slower and a little better"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=None,
        help="DDIM steps, or 0 for one step from zero input; default: the model's own",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampler's noise")
    parser.add_argument(
        "--size", type=parse_size, default=None, help="WxH to work at; default: the model's nearest in aspect ratio"
    )
    parser.add_argument(
        "--compat",
        choices=("model", "exact", "released"),
        default="model",
        help="released: as the published script does (one size, 24 fps, constant context, its sampler, the last window "
        "twice); exact: the sampler's last step undone; model: the sampler as published with the model",
    )
    parser.add_argument(
        "--windows-per-batch", type=int, default=2, help="more is faster on a GPU and takes more memory"
    )
    parser.add_argument(
        "--mirrored",
        action="store_true",
        help="predict mirrored frames too and average the two: often a little better, twice the network's time",
    )
    parser.add_argument(
        "--no-tracks", dest="tracks", action="store_false", help="cameras by the network alone, without followed points"
    )
    parser.add_argument(
        "--tracks-file", default=None, metavar="FILE", help=".npz of another tracker instead of our own tracks"
    )
    add_prior_arguments(parser)
    parser.add_argument(
        "--save-windows", action="store_true", help="keep the window predictions as windows.npz, and tracks.npz"
    )
    parser.add_argument("--resume", action="store_true", help="finish an unfinished run in --out")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out; other files there stay")
    parser.add_argument("--no-preview", action="store_true", help="write no preview video and plots")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, where and how precise."""
    parser.add_argument(
        "--model",
        default="small",
        help="'small' (ships with geo4d), a geo4d file or folder, owner/name on the hub, or a released model.ckpt",
    )
    parser.add_argument("--vae", default=None, help="the vae.ckpt that belongs to a released model.ckpt")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--dtype", default="auto", help="of the networks: float32, bfloat16 or auto (bfloat16 on CUDA)")


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "WxH"."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 512x320, got {text!r}")
    return int(height), int(width)


def run(args: argparse.Namespace, kind: str = KIND, also: tuple[str, ...] = ()) -> None:
    """Checks everything that can be checked, then computes, then writes.

    The summary that makes a result whole comes last. `kind` is that of the folder, `also` what the caller will write
    into it.
    """
    from geo4d.io.output import (
        check_output_directory,
        close_output_directory,
        open_output_directory,
        refuse_inputs_inside,
    )
    from geo4d.pipeline import Geo4D, InferConfig
    from geo4d.progress import Bars
    from geo4d.scene.files.tracks import load_tracks, save_tracks
    from geo4d.scene.files.windows import save_windows
    from geo4d.windows.cache import cache_files

    names = (
        "start",
        "max_frames",
        "frame_stride",
        "stride",
        "steps",
        "seed",
        "windows_per_batch",
        "size",
        "compat",
        "tracks",
        "mirrored",
    )
    tracker, alignment = _read_settings(args)
    config = InferConfig(**{name: getattr(args, name) for name in names}, tracker=tracker)
    out, files, mode = (
        Path(args.out),
        [*result_files(args), *also],
        {"resume": args.resume, "overwrite": args.overwrite},
    )
    refuse_inputs_inside(out, _inputs(args))
    check_output_directory(out, kind, files, **mode)  # a refusal need not wait for the video to be read
    if not args.overwrite and _is_finished(out, kind, args):
        logger.info("%s is already finished.", out)
        return
    priors = read_priors(args)
    model = Geo4D.from_pretrained(args.model, vae=args.vae, device=args.device, dtype=args.dtype)
    video = model.read(args.video, config if args.tracks_file is None else replace(config, tracks=False))
    if args.tracks_file is not None:
        video = replace(video, tracks=load_tracks(args.tracks_file))
    windows = cache_files(len(model.plan(video, config)))
    open_output_directory(out, kind, [*files, *(f"{WORK_FOLDER}/{name}" for name in windows)], **mode)
    if not (out / SETTINGS).exists():
        _write_settings(out, args)
    model.open_cache(video, config, out / WORK_FOLDER)  # refuses to resume another run, whose settings must stay
    _write_settings(out, args)
    height, width = video.frames.shape[1:3]
    logger.info("%d frames, %d x %d, worked at %d x %d", len(video.frames), *video.source_size[::-1], width, height)
    result = model.reconstruct(
        video,
        config,
        alignment=alignment,
        priors=priors,
        cache_dir=out / WORK_FOLDER,
        progress=Bars(hidden=args.quiet),
        on_windows=(lambda windows: save_windows(out / "windows.npz", windows)) if args.save_windows else None,
    )
    if args.save_windows and video.tracks is not None:
        save_tracks(out / "tracks.npz", video.tracks)
    write_result(result, out, preview=not args.no_preview)
    close_output_directory(out, kind, WORK_FOLDER)
    report(out)


def write_result(result: Reconstruction, out: Path, *, preview: bool) -> None:
    """Pictures of the result, then the result itself, whose summary comes last."""
    from geo4d.scene.files.reconstruction import save_reconstruction

    if preview:
        from geo4d.viewer.preview import write_preview

        write_preview(result, out)
    save_reconstruction(result, out)


def result_files(args: argparse.Namespace) -> list[str]:
    """Names of what infer or align writes."""
    from geo4d.scene.files.reconstruction import FILES

    kept = ("windows.npz", "tracks.npz") if getattr(args, "save_windows", False) else ()
    return [SETTINGS, *FILES, *kept, *(() if args.no_preview else PREVIEW)]


def _inputs(args: argparse.Namespace) -> list[tuple[str, str | None]]:
    """(what it is, path or other word) of all that is read."""
    options = [(f"--{name.replace('_', '-')}", getattr(args, name)) for name in ("tracks_file", "model", "vae")]
    return [("the video", args.video), *options, *prior_files(args)]


def _read_settings(args: argparse.Namespace) -> tuple[TrackerConfig, AlignmentConfig]:
    """The words that begin with `tracks.` are the tracker's, the others the alignment's.

    Raises ConfigError for any that cannot work.
    """
    from geo4d.alignment import AlignmentConfig
    from geo4d.config import load_config
    from geo4d.errors import ConfigError
    from geo4d.tracks import TrackerConfig

    of_tracks = [word for word in args.settings if word.startswith("tracks.")]
    if of_tracks and (not args.tracks or args.tracks_file is not None or args.compat == "released"):
        raise ConfigError(
            f"{of_tracks[0]} does nothing with --no-tracks, --tracks-file or --compat released; leave one of them out."
        )
    prefixed = make_dataclass("Settings", [("tracks", TrackerConfig, field(default_factory=TrackerConfig))])
    others = [word for word in args.settings if word not in of_tracks]
    return load_config(prefixed, overrides=of_tracks).tracks, load_config(AlignmentConfig, overrides=others)


def report(out: Path) -> None:
    """Says where to look."""
    names = (*PREVIEW, "depth.npy", "cam_to_world.npy", "trajectory_tum.txt")
    files = [name for name in names if (out / name).exists()]
    logger.info("Wrote %s: %s, ...", out, ", ".join(files))
    logger.info("Look at it with: geo4d view %s", out)


def _is_finished(out: Path, kind: str, args: argparse.Namespace) -> bool:
    """Whether the folder holds a whole result of these settings; one of other settings is refused."""
    from geo4d.errors import InputError
    from geo4d.io.output import close_output_directory
    from geo4d.scene.files.reconstruction import SUMMARY, is_intact

    if not (out / SUMMARY).exists():
        return False
    if not (out / SETTINGS).exists() or (out / SETTINGS).read_text() != _settings(args):
        raise InputError(
            f"{out} holds a finished run with other settings (see its {SETTINGS}); choose another folder, or "
            "--overwrite it."
        )
    if not is_intact(out):
        logger.warning("Warning: The result in %s is damaged, and is computed again.", out)
        return False
    close_output_directory(out, kind, WORK_FOLDER)  # where the run was killed before it did so
    return True


def _settings(args: argparse.Namespace) -> str:
    """What decides the result, as YAML."""
    from omegaconf import OmegaConf

    plain: dict[str, Any] = {
        key: value
        for key, value in vars(args).items()
        if isinstance(value, (str, int, float, bool, tuple, list, type(None)))
    }
    plain["video"] = str(Path(args.video).resolve())
    return OmegaConf.to_yaml(OmegaConf.create({key: value for key, value in plain.items() if key not in HOW_TO_RUN}))


def _write_settings(out: Path, args: argparse.Namespace) -> None:
    from geo4d.scene.atomic import whole_file

    with whole_file(out / SETTINGS, alone=True) as temporary:
        temporary.write_text(_settings(args))
