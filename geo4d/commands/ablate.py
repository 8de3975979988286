"""Run the variants of a configuration on one data set, and write one table of them."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d ablate FILE.yaml key=value ...`."""
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="FILE.yaml | key=value",
        help="such as configs/ablate/stride.yaml dataset=sintel root=DIR out=DIR",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the variants in the folder; other files there stay"
    )
    parser.add_argument(
        "--shard",
        default=None,
        metavar="I/N",
        help="part of the sequences; default: as torchrun or SLURM say, else all",
    )


def run(args: argparse.Namespace) -> None:
    """Computes what is not there yet, and prints the table when all of it is."""
    import logging
    import sys

    from geo4d.config import load_config
    from geo4d.evaluation.ablation import AblateConfig, ablate
    from geo4d.evaluation.runner import find_shard
    from geo4d.io.output import refuse_inputs_inside
    from geo4d.progress import Bars

    files = [entry for entry in args.settings if "=" not in entry]
    config = load_config(AblateConfig, files, [entry for entry in args.settings if "=" in entry])
    if args.overwrite:
        pipelines = [config.variant(name) for name in config.variants]
        models = [(what, getattr(pipeline, what)) for pipeline in pipelines for what in ("model", "vae")]
        refuse_inputs_inside(
            config.out, [("the settings", file) for file in files] + [("the data set", config.root), *models]
        )
    bars = Bars(hidden=args.quiet)
    text = ablate(config, find_shard(args.shard), overwrite=args.overwrite, progress=bars.counter)
    if text is None:
        logging.getLogger("geo4d.ablate").info("This part is done; the table is written by whoever finishes last.")
    else:
        sys.stdout.write(text)
