"""Score the pipeline, or anybody's predictions, on a data set with known truth; or compare two runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from geo4d.commands.infer import add_model_arguments

COMPARE, SYNTHETIC = "compare", "synthetic"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d evaluate DATASET --root DIR ...`, `geo4d evaluate synthetic ...`, `geo4d evaluate compare A B`."""
    parser.add_argument(
        "dataset",
        help="sintel, bonn, kitti, tum-dynamics, scannet, davis, 7scenes; tum or rgbd: your own recordings; "
        "synthetic: procedural clips, or another set of our own; compare: two finished runs",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="ROOT | key=value", help="the folder; settings of the pipeline, such as alignment.use_rays=false"
    )
    data = parser.add_argument_group("frames")
    data.add_argument("--root", default=None, help="folder into which the data set was unpacked")
    data.add_argument("--task", default=None, help="depth, pose or pictures; default: the first that the rule is for")
    data.add_argument("--rule", default=None, help="which frames; a wrong name lists the rules; default: as in the released evaluation")
    data.add_argument("--list", default=None, metavar="FILE", help="frame list of geo4d data prepare, instead of a rule")
    data.add_argument("--include", default="*", help="pattern of sequence names")
    data.add_argument("--start", type=int, default=None, help="first frame; default: the rule's")
    data.add_argument("--frame-stride", type=int, default=None, help="frames from one to the next; default: the rule's")
    data.add_argument("--frames", type=int, default=None, help="at most so many of a sequence; default: the rule's")
    data.add_argument("--depth-scale", type=float, default=None, help="stored value of one metre; default: the rule's")
    data.add_argument("--seed", type=int, default=None, help="scene split (synthetic); default: the held-out set")
    data.add_argument("--num", type=int, default=16, help="clips (synthetic)")
    _add_method_arguments(parser)
    out = parser.add_argument_group("results")
    out.add_argument("--protocol", default=None, help="a wrong name lists them; default: geo4d, or relative for your own data")
    out.add_argument("--out", default=None, help="folder of the run; started again, it goes on; default: the table alone is printed")
    out.add_argument("--json", default=None, metavar="FILE", help="write the medians and every clip's numbers here")
    out.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    out.add_argument("--retry", action="store_true", help="compute again what failed in the run in --out")
    out.add_argument("--keep", action="store_true", help="keep the model's results below --out, to look at or to score again")
    out.add_argument("--no-plots", dest="plots", action="store_false", help="draw nothing")
    out.add_argument("--no-hashes", dest="hashes", action="store_false", help="leave the files' SHA-256 out of the frame list")
    out.add_argument("--shard", default=None, metavar="I/N", help="part of the sequences; default: as torchrun or SLURM say, else all")
    out.add_argument("--methods", nargs=2, default=None, metavar=("A", "B"), help="of the two runs (compare); default: the first of each")


def _add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """What is evaluated."""
    add_model_arguments(parser)
    parser.set_defaults(model=None)
    group = parser.add_argument_group("methods")
    group.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="results of any method, instead of the small model or beside --model; may be repeated",
    )
    group.add_argument("--key", action="append", default=[], metavar="MEANING=NAME", help="array names in --predictions, where unusual")
    group.add_argument("--disparity", action="store_true", help="what --predictions call depth is 1 / depth")
    group.add_argument("--normalised-intrinsics", action="store_true", help="intrinsics of --predictions are in units of the image's size")
    group.add_argument("--quaternions", choices=("xyzw", "wxyz"), default=None, help="order in trajectory files of --predictions")
    group.add_argument("--stride", type=int, default=4, help="frames between windows")
    group.add_argument("--steps", type=int, default=None, help="DDIM steps, or 0 for one step from zero input; default: the model's own")
    group.add_argument("--no-tracks", dest="tracks", action="store_false", help="cameras by the network alone")
    group.add_argument("--baselines-only", action="store_true", help="constant depth and mean map alone, no model")
    group.add_argument("--no-baselines", dest="baselines", action="store_false", help="no constant depth and mean map in the table")


def run(args: argparse.Namespace) -> None:
    """Scores what is not scored yet; writes and prints the tables when all of it is."""
    from tempfile import TemporaryDirectory

    from geo4d.errors import ConfigError
    from geo4d.evaluation.runner import find_shard

    if args.dataset == COMPARE:
        _compare(args)
        return
    shards = find_shard(args.shard).count
    if args.overwrite and shards > 1:
        raise ConfigError("Shards cannot --overwrite a run, for each would remove what the others have done; remove the folder first.")
    if args.out is not None:
        _evaluate(args, Path(args.out))
        return
    if args.keep or args.overwrite or args.retry or shards > 1:
        raise ConfigError("--keep, --overwrite, --retry and shards need a folder for the run; give --out.")
    with TemporaryDirectory() as folder:
        _evaluate(args, Path(folder) / "run")


def _evaluate(args: argparse.Namespace, out: Path) -> None:
    import logging
    import sys
    from dataclasses import asdict

    from geo4d.evaluation.methods import make_methods
    from geo4d.evaluation.protocols import choose_protocol
    from geo4d.evaluation.report import clip_summary, write_report
    from geo4d.evaluation.results import markdown
    from geo4d.evaluation.runner import Run, find_shard
    from geo4d.evaluation.store import Store, write_json
    from geo4d.progress import Bars

    shard, opened = find_shard(args.shard), _open(args)
    name, protocol = choose_protocol(args.protocol, opened.dataset.name)
    models, config, form = _models(args, opened.task), _pipeline(args), _form(args)
    methods = make_methods(models, args.predictions, config, form, out / "predictions" if args.keep else None)
    store = Store(out)
    if args.overwrite:
        store.clear()
    run = Run(opened, methods, name, protocol, store, retry=args.retry, hashes=args.hashes and args.out is not None)
    run.evaluate(shard, Bars(hidden=args.quiet).counter("sequences"))
    if not run.is_complete():
        logging.getLogger("geo4d.evaluate").info("This part is done; the tables are written by whoever finishes last.")
        return
    results = write_report(store, opened, plots=args.plots and args.out is not None)
    sys.stdout.write(markdown(results))
    if args.json:
        about = {"root": Path(_root(args) or ".").name, "frames": results.rows[0].records[0]["frames"]}
        result = clip_summary(results, asdict(_clips(args)) if args.dataset == SYNTHETIC else about)
        result["settings"] = {key: getattr(config, key) for key in ("model", "vae", "device", "dtype", "stride", "steps", "tracks")}
        write_json(Path(args.json), result)


def _root(args: argparse.Namespace) -> str | None:
    """The folder, however it was given. Raises ConfigError if it was given twice."""
    from geo4d.errors import ConfigError

    roots = [word for word in args.settings if "=" not in word] + ([] if args.root is None else [args.root])
    if len(roots) > 1:
        raise ConfigError(f"geo4d evaluate {args.dataset} takes one folder; got {', '.join(roots)}.")
    return roots[0] if roots else None


def _clips(args: argparse.Namespace) -> Any:
    from geo4d.evaluation.synthetic import HELD_OUT_SEED, SyntheticSet

    frames = SyntheticSet().frames if args.frames is None else args.frames
    return SyntheticSet(HELD_OUT_SEED if args.seed is None else args.seed, args.num, frames)


def _open(args: argparse.Namespace) -> Any:
    from geo4d.errors import ConfigError
    from geo4d.evaluation.prepare import reopen
    from geo4d.evaluation.sets import open_set
    from geo4d.evaluation.sets.procedural import open_scenes

    root = _root(args)
    if args.dataset == SYNTHETIC:
        clips = _clips(args)
        return open_scenes(clips.seed, clips.num, clips.frames, args.include)
    if args.list is not None:
        opened = reopen(args.list, root)
        if opened.dataset.name != args.dataset:
            raise ConfigError(f"{args.list} lists frames of {opened.dataset.name}, not of {args.dataset}; name the set that it is of.")
        return opened
    changes = {"start": args.start, "stride": args.frame_stride, "count": args.frames, "depth_scale": args.depth_scale}
    return open_set(args.dataset, root, task=args.task, rule=args.rule, include=args.include, **changes)


def _models(args: argparse.Namespace, task: str) -> list[str]:
    """The model, unless there are predictions instead, and the baselines, unless there is nothing to score."""
    from geo4d.evaluation.methods import BASELINES

    wanted = [] if args.baselines_only else [args.model] if args.model else [] if args.predictions else ["small"]
    if args.baselines_only or (args.baselines and task != "pictures"):
        wanted += [name for name in BASELINES if name not in wanted]
    return wanted


def _pipeline(args: argparse.Namespace) -> Any:
    from dataclasses import asdict, replace

    from geo4d.config import load_config
    from geo4d.evaluation.methods import PipelineConfig

    given = {name: getattr(args, name) for name in ("vae", "device", "dtype", "stride", "steps", "tracks")}
    words = [word for word in args.settings if "=" in word]
    named = load_config(PipelineConfig, overrides=words)
    default = asdict(PipelineConfig())
    kept = {name: value for name, value in given.items() if value != default[name]}
    return replace(named, model=args.model or named.model, **kept)


def _form(args: argparse.Namespace) -> Any:
    from geo4d.errors import ConfigError
    from geo4d.evaluation.predictions import PredictionForm

    pairs = [entry.partition("=") for entry in args.key]
    odd = next((entry for entry, (_, equals, name) in zip(args.key, pairs, strict=True) if not equals or not name), None)
    if odd is not None:
        raise ConfigError(f"--key must be MEANING=NAME such as depth=z; got {odd!r}.")
    keys = {meaning: name for meaning, _, name in pairs}
    return PredictionForm(keys, args.disparity, args.normalised_intrinsics, args.quaternions)


def _compare(args: argparse.Namespace) -> None:
    import sys

    from geo4d.errors import ConfigError
    from geo4d.evaluation.compare import compare_runs
    from geo4d.evaluation.store import write_text

    if len(args.settings) != 2:
        raise ConfigError(f"geo4d evaluate compare needs the folders of two runs; got {' '.join(args.settings) or 'none'}.")
    text = compare_runs(*args.settings, methods=tuple(args.methods or (None, None))).markdown()
    if args.out is not None:
        write_text(Path(args.out), text)
    sys.stdout.write(text)
