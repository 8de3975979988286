"""Write a reconstruction in a format that other tools read."""

from __future__ import annotations

import argparse
from pathlib import Path

FORMATS = ("ply", "glb", "colmap", "nerfstudio", "npz")
CONTRACTS = ("syn4d", "worldtrack")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d export DIR --format ply --out FILE`."""
    parser.add_argument("directory", help="a finished reconstruction")
    parser.add_argument("--format", required=True, choices=[*FORMATS, *CONTRACTS], help="what to write")
    parser.add_argument("--out", required=True, help="folder (colmap, nerfstudio) or file (all others)")
    parser.add_argument(
        "--tracks",
        default=None,
        metavar="FILE",
        help="followed points, for syn4d and worldtrack: of geo4d infer --save-windows, or any tracker's",
    )
    parser.add_argument("--min-confidence", type=float, default=0.0, help="leave out points below")
    parser.add_argument("--max-points", type=int, default=1_000_000, help="of a point cloud, over all frames")


def run(args: argparse.Namespace) -> None:
    """Loads and writes."""
    import logging

    from geo4d.errors import ConfigError
    from geo4d.io.contracts import source_frames, write_contract
    from geo4d.io.export import FOLDER_FORMATS, ExportConfig, export
    from geo4d.io.output import refuse_file_of, refuse_inputs_inside
    from geo4d.scene.files.reconstruction import FILES, load_reconstruction
    from geo4d.scene.files.tracks import load_tracks

    if args.tracks is not None and args.format not in CONTRACTS:
        raise ConfigError(f"--tracks goes with --format {' or '.join(CONTRACTS)}; got {args.format}: leave it out.")
    if args.format in FOLDER_FORMATS:
        refuse_inputs_inside(args.out, [("the reconstruction", args.directory)])
    refuse_file_of(args.directory, args.out, FILES)
    if args.tracks is not None:
        refuse_file_of(Path(args.tracks).parent, args.out, [Path(args.tracks).name])
    result = load_reconstruction(args.directory)
    if args.format in CONTRACTS:
        tracks = None if args.tracks is None else load_tracks(args.tracks)
        write_contract(
            result, args.out, args.format, tracks=tracks, frame_indices=source_frames(args.directory, result.num_frames)
        )
    else:
        export(
            result, args.out, args.format, ExportConfig(min_confidence=args.min_confidence, max_points=args.max_points)
        )
    logging.getLogger("geo4d").info("Wrote %s", args.out)
