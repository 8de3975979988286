"""Write procedural clips with exact ground truth."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d synth --out DIR`."""
    parser.add_argument("--out", required=True, help="folder; each clip becomes a folder in it")
    parser.add_argument("--num", type=int, default=4, help="clips")
    parser.add_argument("--seed", type=int, default=0, help="scene split: scene i of a seed is always the same")
    parser.add_argument("--frames", type=int, default=32, help="frames a clip, at 24 a second")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 384), metavar=("H", "W"), help="pixels")
    parser.add_argument("--sheet", action="store_true", help="write contact_sheet.png of 16 scenes as well")


def run(args: argparse.Namespace) -> None:
    """Renders and writes, clip by clip; clips that are there are left alone."""
    import logging
    from pathlib import Path

    from geo4d.errors import ConfigError
    from geo4d.progress import Bars
    from geo4d.synthetic import scene_seed
    from geo4d.synthetic.files import write_clip, write_contact_sheet

    if args.num < 1 or args.frames < 1 or min(args.size) < 8:
        raise ConfigError(f"synth needs at least 1 clip, 1 frame and 8 pixels a side; got {args.num}, {args.frames} and {args.size}.")
    out = Path(args.out)
    bars = Bars(hidden=args.quiet)
    for index in range(args.num):
        write_clip(out / f"{index:05d}", scene_seed(args.seed, index), frames=args.frames, size=tuple(args.size))
        bars("clips", index + 1, args.num)
    if args.sheet:
        write_contact_sheet(out / "contact_sheet.png", [scene_seed(args.seed, index) for index in range(16)])
    logging.getLogger("geo4d").info("Wrote %s: rgb.mp4, depth.npy, intrinsics.npy, cam_to_world.npy, ... for each clip", out)
