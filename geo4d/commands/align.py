"""Run the global alignment alone, on saved window predictions."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from geo4d.commands.priors import add_prior_arguments, prior_files, read_priors

logger = logging.getLogger("geo4d.align")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d align WINDOWS --out DIR [key=value ...]`."""
    parser.add_argument("windows", help="windows.npz of geo4d infer --save-windows, or a folder of .npy files")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="alignment settings, such as use_rays=false joint.samples=256"
    )
    parser.add_argument("--out", required=True, help="folder for the result; must be new or empty")
    parser.add_argument(
        "--tracks", default=None, metavar="FILE", help="tracks.npz of geo4d infer --save-windows, or another tracker's"
    )
    add_prior_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out; other files there stay")
    parser.add_argument("--no-preview", action="store_true", help="write no preview video and plots")


def run(args: argparse.Namespace) -> None:
    """Aligns and writes."""
    from geo4d.alignment import AlignmentConfig, align
    from geo4d.commands.infer import KIND, SETTINGS, WORK_FOLDER, report, result_files, write_result
    from geo4d.config import load_config, save_config
    from geo4d.io.output import (
        check_output_directory,
        close_output_directory,
        open_output_directory,
        refuse_inputs_inside,
    )
    from geo4d.pipeline import one_thread
    from geo4d.progress import Bars
    from geo4d.scene.files.tracks import load_tracks
    from geo4d.scene.files.windows import load_windows

    config = load_config(AlignmentConfig, overrides=args.settings)
    out, files = Path(args.out), result_files(args)
    refuse_inputs_inside(out, [("the windows", args.windows), ("--tracks", args.tracks), *prior_files(args)])
    check_output_directory(out, KIND, files, overwrite=args.overwrite)  # a refusal need not wait for the alignment
    predictions = load_windows(args.windows)
    tracks = None if args.tracks is None else load_tracks(args.tracks)
    priors = read_priors(args)
    with one_thread():
        result = align(predictions, tracks=tracks, priors=priors, config=config, progress=Bars(hidden=args.quiet))
    for warning in result.diagnostics["warnings"]:
        logger.warning("Warning: %s", warning)
    open_output_directory(out, KIND, files, overwrite=args.overwrite)
    save_config(config, out / SETTINGS)
    write_result(result, out, preview=not args.no_preview)
    close_output_directory(out, KIND, WORK_FOLDER)
    report(out)
