"""Run the global alignment alone, on saved window predictions."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from geo4d.commands.priors import add_prior_arguments, read_priors

logger = logging.getLogger("geo4d.align")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d align WINDOWS --out DIR [key=value ...]`."""
    parser.add_argument("windows", help="windows.npz of geo4d infer --save-windows, or a folder of .npy files")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="alignment settings, such as use_rays=false samples=256")
    parser.add_argument("--out", required=True, help="folder for the result; must be new or empty")
    parser.add_argument("--tracks", default=None, metavar="FILE", help="tracks.npz of geo4d infer --save-windows, or another tracker's")
    add_prior_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    parser.add_argument("--no-preview", action="store_true", help="write no preview video and plots")


def run(args: argparse.Namespace) -> None:
    """Aligns and writes."""
    from geo4d.alignment import AlignmentConfig, align
    from geo4d.commands.infer import report
    from geo4d.config import load_config, save_config
    from geo4d.io.reconstruction import open_output_directory, save_reconstruction
    from geo4d.io.tracks import load_tracks
    from geo4d.io.windows import load_windows
    from geo4d.pipeline import one_thread
    from geo4d.progress import Bars

    config = load_config(AlignmentConfig, overrides=args.settings)
    out = Path(args.out)
    if out.exists() and not args.overwrite:
        open_output_directory(out)  # a refusal need not wait for the alignment
    predictions = load_windows(args.windows)
    tracks = None if args.tracks is None else load_tracks(args.tracks)
    priors = read_priors(args)
    with one_thread():
        result = align(predictions, tracks=tracks, priors=priors, config=config, progress=Bars(hidden=args.quiet))
    for warning in result.diagnostics["warnings"]:
        logger.warning("Warning: %s", warning)
    open_output_directory(out, overwrite=args.overwrite)
    save_config(config, out / "config.yaml")
    if not args.no_preview:
        from geo4d.viewer.preview import write_preview

        write_preview(result, out)
    save_reconstruction(result, out)
    report(out)
