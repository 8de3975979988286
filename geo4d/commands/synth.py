"""Write procedural clips with exact ground truth, or the procedural benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d synth --out DIR`, `geo4d synth --benchmark v2 --out DIR`."""
    parser.add_argument("--out", required=True, help="folder; each clip becomes a folder in it")
    parser.add_argument("--num", type=int, default=None, help="clips; default: 4, or all of the benchmark")
    parser.add_argument(
        "--seed", type=int, default=None, help="scene split: scene i of a seed is always the same; default: 0"
    )
    parser.add_argument("--frames", type=int, default=None, help="frames a clip, at 24 a second; default: 32")
    parser.add_argument("--size", type=int, nargs=2, default=None, metavar=("H", "W"), help="pixels; default: 256 384")
    parser.add_argument(
        "--detail",
        choices=("plain", "lifelike"),
        default=None,
        help="simple bodies, or furnished rooms and traffic; default: plain",
    )
    parser.add_argument("--sheet", action="store_true", help="write contact_sheet.png of 16 scenes as well")
    group = parser.add_argument_group(
        "benchmark",
        "clips that are the same wherever they are built; v1: sixty of plain worlds, v2: 24 of lifelike ones",
    )
    group.add_argument(
        "--benchmark", default=None, metavar="VERSION", help="v1 or v2; frames, sizes and seeds are its own"
    )
    group.add_argument(
        "--only", default="*", metavar="PATTERN", help="clips of these names alone, such as '*-driving-*'"
    )
    group.add_argument(
        "--check", action="store_true", help="build nothing; compare what is in --out with what was published"
    )


def run(args: argparse.Namespace) -> None:
    """Renders and writes, clip by clip; the same clips are left alone where they are there already."""
    import logging

    from geo4d.errors import ConfigError
    from geo4d.io.output import register
    from geo4d.progress import Bars
    from geo4d.synthetic import scene_seed
    from geo4d.synthetic.files import FOLDER_KIND, SHEET, write_clip, write_contact_sheet

    out, bars = Path(args.out), Bars(hidden=args.quiet)
    seed, frames = (default if value is None else value for value, default in ((args.seed, 0), (args.frames, 32)))
    detail = args.detail or "plain"
    num, size = 4 if args.num is None and args.benchmark is None else args.num, tuple(args.size or (256, 384))
    if (num is not None and num < 1) or frames < 1 or min(size) < 8:
        raise ConfigError(f"synth needs at least 1 clip, 1 frame and 8 pixels a side; got {num}, {frames} and {size}.")
    if args.benchmark is not None:
        given = [f"--{name}" for name in ("seed", "frames", "size", "detail") if getattr(args, name) is not None] + [
            "--sheet"
        ] * args.sheet
        if given:
            raise ConfigError(f"{given[0]} would do nothing here: a benchmark has clips of its own; leave it out.")
        _benchmark(args, out, num)
        return
    if args.check or args.only != "*":
        raise ConfigError("--check and --only are for a benchmark; name it, such as --benchmark v2.")
    assert num is not None
    if args.sheet:
        register(out, FOLDER_KIND, [SHEET])
    for index in range(num):
        write_clip(out / f"{index:05d}", scene_seed(seed, index), frames=frames, size=size, detail=detail)
        bars("clips", index + 1, num)
    if args.sheet:
        write_contact_sheet(out / SHEET, [scene_seed(seed, index) for index in range(16)], detail=detail)
    logging.getLogger("geo4d").info(
        "Wrote %s: rgb.mp4, depth.npy, intrinsics.npy, cam_to_world.npy, ... for each clip", out
    )


def _benchmark(args: argparse.Namespace, out: Path, num: int | None) -> None:
    """Builds the benchmark, or says whether what is there is as published. Raises InputError if it is not."""
    import logging
    import sys

    from geo4d.errors import InputError
    from geo4d.progress import Bars
    from geo4d.synthetic.benchmark import benchmark_clips, build_benchmark
    from geo4d.synthetic.reference import check_benchmark, load_reference, reference_file

    clips, progress = benchmark_clips(args.benchmark, only=args.only, num=num), Bars(hidden=args.quiet).counter("clips")
    if not args.check:
        out.mkdir(parents=True, exist_ok=True)
        build_benchmark(args.benchmark, clips, out, progress=progress)
        logging.getLogger("geo4d").info(
            "Wrote %s: score it by geo4d evaluate procedural-%s --root %s", out, args.benchmark, out
        )
        return
    faults = check_benchmark(clips, out, load_reference(reference_file(args.benchmark)), progress=progress)
    sys.stdout.write("".join(f"{fault}\n" for fault in faults))
    if faults:
        raise InputError(
            f"{len(faults)} of {len(clips)} clips in {out} are not those of benchmark {args.benchmark}, as listed "
            "above."
        )
    sys.stdout.write(f"All {len(clips)} clips are as published.\n")
