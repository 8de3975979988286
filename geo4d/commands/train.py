"""Train a model on procedural scenes, stage by stage; started again, it goes on where it was."""

from __future__ import annotations

import argparse
import logging


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d train FILE.yaml key=value ...`."""
    parser.add_argument("settings", nargs="*", metavar="FILE.yaml | key=value", help="differences from the defaults, the last one wins")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: PyTorch's)")


def run(args: argparse.Namespace) -> None:
    """Merges the settings, writes them beside the run, and trains."""
    import torch

    from geo4d.config import load_config, save_config
    from geo4d.training.ranks import is_main, leave
    from geo4d.training.stages import TrainConfig, Trainer

    files = [entry for entry in args.settings if "=" not in entry]
    config = load_config(TrainConfig, files, [entry for entry in args.settings if "=" in entry])
    if args.threads:
        torch.set_num_threads(args.threads)
    trainer = Trainer(config)
    trainer.directory.mkdir(parents=True, exist_ok=True)
    if not is_main():
        logging.getLogger("geo4d").setLevel(logging.WARNING)
    else:
        save_config(config, trainer.directory / "config.yaml")
    trainer.run()
    leave()
