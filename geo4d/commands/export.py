"""Write a reconstruction in a format that other tools read."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d export DIR --format ply --out FILE`."""
    parser.add_argument("directory", help="a finished reconstruction")
    parser.add_argument("--format", required=True, choices=["ply", "glb", "colmap", "nerfstudio", "npz"], help="what to write")
    parser.add_argument("--out", required=True, help="file (ply, glb, npz) or folder (colmap, nerfstudio)")
    parser.add_argument("--min-confidence", type=float, default=0.0, help="leave out points below")
    parser.add_argument("--max-points", type=int, default=1_000_000, help="of a point cloud, over all frames")


def run(args: argparse.Namespace) -> None:
    """Loads and writes."""
    import logging

    from geo4d.io.export import ExportConfig, export
    from geo4d.io.reconstruction import load_reconstruction

    result = load_reconstruction(args.directory)
    export(result, args.out, args.format, ExportConfig(min_confidence=args.min_confidence, max_points=args.max_points))
    logging.getLogger("geo4d").info("Wrote %s", args.out)
