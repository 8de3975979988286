"""Data sets on disk: `geo4d data check` and `encode` for training, `geo4d data prepare` for evaluation.

One entry of ACTIONS each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Action:
    """A verb below the verb."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d data ACTION ...`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, action in ACTIONS.items():
        text = action.help
        sub = actions.add_parser(
            name, help=text, description=text.capitalize() + ".", formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        action.add_arguments(sub)
        for flag, meaning in (("verbose", "log details"), ("quiet", "log errors alone, draw no progress bars")):
            sub.add_argument(f"-{flag[0]}", f"--{flag}", action="store_true", default=argparse.SUPPRESS, help=meaning)


def run(args: argparse.Namespace) -> None:
    """Does what was asked for."""
    ACTIONS[args.action].run(args)


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d data check ROOT`."""
    parser.add_argument("root", help="folder into which a data set was unpacked")
    parser.add_argument(
        "--kind",
        default=None,
        help="pointodyssey, tartanair, spring, vkitti2, bedlam or folder; default: by the layout",
    )
    parser.add_argument("--out", default="data_check", help="folder for report.txt, report.json and contact_sheet.png")
    parser.add_argument("--include", default="*", help="pattern of recording names, such as 'train/*'")
    parser.add_argument("--samples", type=int, default=3, help="pairs of neighbouring frames to read of each recording")
    parser.add_argument("--all", action="store_true", help="read every frame")


def run_check(args: argparse.Namespace) -> None:
    """Verifies, writes, prints; ends with an error if anything is wrong."""
    import sys

    from geo4d.data import open_data
    from geo4d.data.check import REPORTS, SHEET, check_data, write_report
    from geo4d.errors import ConfigError, InputError
    from geo4d.io.output import refuse_inputs_inside, register
    from geo4d.progress import Bars

    if args.samples < 1:
        raise ConfigError(f"--samples must be at least 1; got {args.samples}.")
    out = Path(args.out)
    refuse_inputs_inside(out, [("the data set", args.root)])
    data = open_data(args.root, args.kind, include=args.include)
    register(out, CHECK_KIND, [SHEET, *REPORTS])
    try:
        report = check_data(
            data,
            samples=None if args.all else args.samples,
            progress=Bars(hidden=args.quiet).counter("recordings"),
            sheet=out / SHEET,
        )
        write_report(report, out)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another --out.") from error
    sys.stdout.write(report.text())
    if report.problems:
        raise InputError(f"{len(report.problems)} problems in {data.root}, listed above and in {out / 'report.txt'}.")


def add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d data encode ROOT ... --out DIR`."""
    parser.add_argument(
        "roots", nargs="+", metavar="ROOT", help="folders of data sets; the mixture takes as much of each"
    )
    parser.add_argument("--out", required=True, help="folder for the latents; what is there already is kept")
    parser.add_argument("--model", default="small", help="whose autoencoder: small, a model's folder or file")
    parser.add_argument("--vae", default=None, help="the point decoder that goes with a released model.ckpt")
    parser.add_argument(
        "--windows", type=int, default=1000, help="how many to draw, each of another place, cut and colours"
    )
    parser.add_argument("--frames", type=int, default=16, help="of a window")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        action="append",
        metavar=("H", "W"),
        help="pixels; may be repeated (default: the model's)",
    )
    parser.add_argument(
        "--modalities",
        nargs="+",
        default=["points", "rays", "disparity"],
        help="whose images to encode, beside the frames",
    )
    parser.add_argument(
        "--most-bad", type=float, default=0.05, help="share of a data set that may be of no use before the work stops"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")


def run_encode(args: argparse.Namespace) -> None:
    """Encodes windows of data sets into a pool that `geo4d train ... denoiser.latents=DIR` reads."""
    import logging

    from geo4d.data import find_kind
    from geo4d.data.mixture import MixtureConfig, Size
    from geo4d.errors import ConfigError
    from geo4d.io.output import refuse_inputs_inside
    from geo4d.models.storage import load_model
    from geo4d.training.config import DataConfig, LatentsConfig, Length, SetConfig, StageConfig
    from geo4d.training.recipe import run_stage

    if min(args.windows, args.frames, args.workers) < 1:
        raise ConfigError(
            f"--windows, --frames and --workers are 1 or more; got {args.windows}, {args.frames} and {args.workers}."
        )
    out, clips = Path(args.out), min(args.windows, WINDOWS_A_SHARD)
    refuse_inputs_inside(
        out, [*(("a data set", root) for root in args.roots), ("--model", args.model), ("--vae", args.vae)]
    )
    sizes = args.size or load_model(args.model, vae=args.vae).spec.sizes
    sets = {f"{number}_{Path(root).name}": SetConfig(root, find_kind(root)) for number, root in enumerate(args.roots)}
    data = DataConfig(
        sizes=[Size(height, width) for height, width in sizes],
        lengths=[Length(args.frames, clips)],
        sets=dict(sets),
        mixture=MixtureConfig(ratios=dict.fromkeys(sets, 1.0), most_bad=args.most_bad),
    )
    latents = LatentsConfig(tuple(args.modalities), -(-args.windows // clips), args.workers)
    output = {"out": str(out.parent), "name": out.name, "device": args.device, "seed": args.seed}
    run_stage(StageConfig(kind="latents", start=args.model, vae=args.vae, data=data, latents=latents, **output))
    logging.getLogger("geo4d").info(
        "Wrote %d windows to %s: train on them with denoiser.latents=%s", latents.shards * clips, out, out
    )


def add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d data prepare DATASET ROOT`."""
    parser.add_argument(
        "dataset", help="sintel, bonn, kitti, tum-dynamics, scannet, davis, 7scenes, tum, rgbd or procedural"
    )
    parser.add_argument(
        "root", nargs="?", default=None, help="folder into which the data set was unpacked (procedural: none)"
    )
    parser.add_argument("--task", default=None, help="depth, pose or pictures; default: the first that the rule is for")
    parser.add_argument(
        "--rule",
        default=None,
        help="which frames; a wrong name lists the rules; default: as in the released evaluation",
    )
    parser.add_argument(
        "--out", default=None, metavar="FILE", help="the list of frames; default: <dataset>_<task>.json"
    )
    parser.add_argument("--include", default="*", help="pattern of sequence names")
    for name, kind, meaning in (
        ("start", int, "first frame"),
        ("stride", int, "frames from one to the next"),
        ("count", int, "at most so many frames of a sequence"),
        ("max-gap-s", float, "seconds between a frame and its depth or pose"),
        ("depth-scale", float, "stored value of one metre"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=None, help=f"{meaning}; default: the rule's")
    parser.add_argument("--no-hashes", dest="hashes", action="store_false", help="leave out the SHA-256 of every file")


def run_prepare(args: argparse.Namespace) -> None:
    """Selects, pairs, verifies, writes the list; ends with an error if a sequence cannot be used."""
    import sys

    from geo4d.errors import InputError
    from geo4d.evaluation.prepare import prepare
    from geo4d.evaluation.sets import open_set
    from geo4d.evaluation.sets.base import CHANGEABLE
    from geo4d.progress import Bars

    changes = {name: getattr(args, name) for name in CHANGEABLE}
    opened = open_set(args.dataset, args.root, task=args.task, rule=args.rule, include=args.include, **changes)
    prepared = prepare(opened, hashes=args.hashes, progress=Bars(hidden=args.quiet).counter("sequences"))
    out = Path(args.out or f"{args.dataset}_{opened.task}.json")
    prepared.save(out)
    sys.stdout.write(prepared.text())
    if prepared.problems:
        raise InputError(
            f"{len(prepared.problems)} sequences of {args.dataset} cannot be used, listed above and in {out}."
        )


WINDOWS_A_SHARD = 16
CHECK_KIND = "data check"  # of folder

ACTIONS = {
    "check": Action(
        "verify an installed data set and draw a contact sheet with reprojected points", add_check_arguments, run_check
    ),
    "encode": Action(
        "encode windows of data sets once, so that training need not wait for the autoencoder",
        add_encode_arguments,
        run_encode,
    ),
    "prepare": Action(
        "choose and pair the frames of an evaluation data set, and write them as a list",
        add_prepare_arguments,
        run_prepare,
    ),
}
