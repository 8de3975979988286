"""Score the pipeline, or anybody's predictions, on a data set with known truth; or compare two runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from geo4d.commands.infer import add_model_arguments
from geo4d.errors import ConfigError

COMPARE, SYNTHETIC, PROCEDURAL = "compare", "synthetic", "procedural"
# options that hold for some uses alone; elsewhere they would do nothing, so they are refused
OF_A_RULE = ("task", "rule", "include", "start", "frame_stride", "frames", "depth_scale")
OF_SYNTHETIC = ("seed", "num")
OF_PREDICTIONS = ("key", "disparity", "normalised_intrinsics", "quaternions")
OF_A_MODEL = ("model", "vae", "device", "dtype", "stride", "steps", "no_tracks", "keep")
OF_A_RUN = ("root", "list", "predictions", "baselines_only", "protocol", "json", "overwrite", "retry", "shard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d evaluate DATASET --root DIR ...`, `geo4d evaluate synthetic ...`, `geo4d evaluate compare A B`."""
    parser.add_argument(
        "dataset",
        help="sintel, bonn, kitti, tum-dynamics, scannet, davis, 7scenes; tum or rgbd: your own recordings; "
        "synthetic: procedural clips, or another set of our own; compare: two finished runs",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="ROOT | key=value",
        help="the folder; settings of the pipeline, such as alignment.use_rays=false",
    )
    data = parser.add_argument_group("frames")
    data.add_argument("--root", default=None, help="folder into which the data set was unpacked")
    data.add_argument("--task", default=None, help="depth, pose or pictures; default: the first that the rule is for")
    data.add_argument(
        "--rule",
        default=None,
        help="which frames; a wrong name lists the rules; default: as in the released evaluation",
    )
    data.add_argument(
        "--list", default=None, metavar="FILE", help="frame list of geo4d data prepare, instead of a rule"
    )
    data.add_argument("--include", default=None, help="pattern of sequence names; default: all")
    data.add_argument("--start", type=int, default=None, help="first frame; default: the rule's")
    data.add_argument("--frame-stride", type=int, default=None, help="frames from one to the next; default: the rule's")
    data.add_argument("--frames", type=int, default=None, help="at most so many of a sequence; default: the rule's")
    data.add_argument("--depth-scale", type=float, default=None, help="stored value of one metre; default: the rule's")
    data.add_argument("--seed", type=int, default=None, help="scene split (synthetic); default: the held-out set")
    data.add_argument("--num", type=int, default=None, help="clips (synthetic); default: 16")
    _add_method_arguments(parser)
    out = parser.add_argument_group("results")
    out.add_argument(
        "--protocol", default=None, help="a wrong name lists them; default: geo4d, or relative for your own data"
    )
    out.add_argument(
        "--out", default=None, help="folder of the run; started again, it goes on; default: the table alone is printed"
    )
    out.add_argument("--json", default=None, metavar="FILE", help="write the medians and every clip's numbers here")
    out.add_argument("--overwrite", action="store_true", help="replace the run in --out; other files there stay")
    out.add_argument("--retry", action="store_true", help="compute again what failed in the run in --out")
    out.add_argument(
        "--keep", action="store_true", help="keep the model's results below --out, to look at or to score again"
    )
    out.add_argument("--no-plots", dest="plots", action="store_false", help="draw nothing")
    out.add_argument(
        "--no-hashes", dest="hashes", action="store_false", help="leave the files' SHA-256 out of the frame list"
    )
    out.add_argument(
        "--shard",
        default=None,
        metavar="I/N",
        help="part of the sequences; default: as torchrun or SLURM say, else all",
    )
    out.add_argument(
        "--methods",
        nargs=2,
        default=None,
        metavar=("A", "B"),
        help="of the two runs (compare); default: the first of each",
    )


def _add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """What is evaluated."""
    add_model_arguments(parser)
    parser.set_defaults(model=None, device=None, dtype=None)  # what is not said is left to the settings (key=value)
    group = parser.add_argument_group("methods")
    group.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="results of any method, instead of the small model or beside --model; may be repeated",
    )
    group.add_argument(
        "--key", action="append", default=[], metavar="MEANING=NAME", help="array names in --predictions, where unusual"
    )
    group.add_argument("--disparity", action="store_true", help="what --predictions call depth is 1 / depth")
    group.add_argument(
        "--normalised-intrinsics",
        action="store_true",
        help="intrinsics of --predictions are in units of the image's size",
    )
    group.add_argument(
        "--quaternions", choices=("xyzw", "wxyz"), default=None, help="order in trajectory files of --predictions"
    )
    group.add_argument("--stride", type=int, default=None, help="frames between windows; default: 4")
    group.add_argument(
        "--steps",
        type=int,
        default=None,
        help="DDIM steps, or 0 for one step from zero input; default: the model's own",
    )
    group.add_argument("--no-tracks", action="store_true", help="cameras by the network alone")
    group.add_argument("--baselines-only", action="store_true", help="constant depth and mean map alone, no model")
    group.add_argument(
        "--no-baselines", dest="baselines", action="store_false", help="no constant depth and mean map in the table"
    )


def run(args: argparse.Namespace) -> None:
    """Scores what is not scored yet; writes and prints the tables when all of it is."""
    from tempfile import TemporaryDirectory

    from geo4d.evaluation.runner import find_shard

    _refuse_what_does_nothing(args)
    if args.dataset == COMPARE:
        _compare(args)
        return
    shards = find_shard(args.shard).count
    if args.overwrite and shards > 1:
        raise ConfigError(
            "Shards cannot --overwrite a run, for each would remove what the others have done; remove the folder first."
        )
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

    from geo4d.evaluation.methods import make_methods
    from geo4d.evaluation.protocols import choose_protocol
    from geo4d.evaluation.report import write_report
    from geo4d.evaluation.results import markdown
    from geo4d.evaluation.runner import Run, find_shard
    from geo4d.evaluation.store import KEPT, Store
    from geo4d.io.output import refuse_inputs_inside
    from geo4d.progress import Bars

    if args.overwrite:
        refuse_inputs_inside(out, _inputs(args))
    shard, opened = find_shard(args.shard), _open(args)
    name, protocol = choose_protocol(args.protocol, opened.dataset.name)
    config, form = _pipeline(args), _form(args)
    models = _models(args, config, opened.task)
    methods = make_methods(models, args.predictions, config, form, out / KEPT if args.keep else None)
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
        _write_numbers(args, results, methods, store)


def _write_numbers(args: argparse.Namespace, results: Any, methods: list[Any], store: Any) -> None:
    """Medians and clips of one method, and how that method came to them."""
    from dataclasses import asdict

    from geo4d.evaluation.methods import Pipeline
    from geo4d.evaluation.report import clip_summary
    from geo4d.evaluation.store import write_json

    about = {"root": Path(_root(args) or ".").name, "frames": results.rows[0].records[0]["frames"]}
    result = clip_summary(results, asdict(_clips(args)) if args.dataset == SYNTHETIC else about)
    # as clip_summary chooses: perhaps of another call
    name = next((row.method for row in results.rows if not row.is_baseline), None)
    ours = next((method.config for method in methods if method.name == name and isinstance(method, Pipeline)), None)
    if ours is not None:
        result["settings"] = {
            key: getattr(ours, key) for key in ("model", "vae", "device", "dtype", "stride", "steps", "tracks")
        }
    else:
        result["settings"] = {} if name is None else {"method": name, **store.methods()[name]}
    write_json(Path(args.json), result)


def _refuse_what_does_nothing(args: argparse.Namespace) -> None:
    """Raises ConfigError for an option that would be without effect."""
    if args.dataset == COMPARE:
        everything = (*OF_A_RULE, *OF_SYNTHETIC, *OF_PREDICTIONS, *OF_A_MODEL, *OF_A_RUN)
        _refuse(args, everything, "geo4d evaluate compare takes two folders, --methods and --out")
        return
    _refuse(args, ("methods",), "it is for geo4d evaluate compare")
    if args.dataset == SYNTHETIC:
        others = ("root", "list", *(name for name in OF_A_RULE if name not in ("include", "frames")))
        _refuse(args, others, "synthetic clips are rendered: give --seed, --num, --frames or --include")
    else:
        _refuse(args, OF_SYNTHETIC, "it is for geo4d evaluate synthetic (the sampler's seed is the word seed=1)")
    if args.dataset in (SYNTHETIC, PROCEDURAL):
        _refuse(args, ("depth_scale",), "depth of rendered clips is not stored")
        if (root := _root(args)) is not None:
            raise ConfigError(
                f"geo4d evaluate {args.dataset} reads no folder, so {root} would do nothing; leave it out."
            )
    if args.list is not None:
        _refuse(args, OF_A_RULE, "a frame list says which frames; prepare another one")
    if args.baselines_only and not args.baselines:
        raise ConfigError("--baselines-only and --no-baselines contradict each other; leave out one.")
    if not args.predictions:
        _refuse(args, OF_PREDICTIONS, "it says how to read --predictions")


def _refuse(args: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    """Raises ConfigError if one of these options was given."""
    values = {name: getattr(args, name) for name in names}
    given = next(
        (name for name, value in values.items() if value is not None and value is not False and value != []), None
    )
    if given is not None:
        raise ConfigError(f"--{given.replace('_', '-')} would do nothing here: {reason}.")


def _inputs(args: argparse.Namespace) -> list[tuple[str, str | None]]:
    """(what it is, path or other word) of all that is read."""
    read = [("--predictions", entry.partition("=")[2] or entry) for entry in args.predictions]
    read += [("the data set", _root(args)), ("--list", args.list), ("--model", args.model), ("--vae", args.vae)]
    return read + [
        (key, word.partition("=")[2].strip()) for word in args.settings if (key := _key(word)) in ("model", "vae")
    ]


def _root(args: argparse.Namespace) -> str | None:
    """The folder, however it was given. Raises ConfigError if it was given twice."""
    roots = [word for word in args.settings if "=" not in word] + ([] if args.root is None else [args.root])
    if len(roots) > 1:
        raise ConfigError(f"geo4d evaluate {args.dataset} takes one folder; got {', '.join(roots)}.")
    return roots[0] if roots else None


def _clips(args: argparse.Namespace) -> Any:
    from geo4d.evaluation.synthetic import HELD_OUT_SEED, SyntheticSet

    frames = SyntheticSet().frames if args.frames is None else args.frames
    num = SyntheticSet().num if args.num is None else args.num
    return SyntheticSet(HELD_OUT_SEED if args.seed is None else args.seed, num, frames)


def _open(args: argparse.Namespace) -> Any:
    from geo4d.evaluation.prepare import reopen
    from geo4d.evaluation.sets import open_set
    from geo4d.evaluation.sets.procedural import open_scenes

    root, include = _root(args), "*" if args.include is None else args.include
    if args.dataset == SYNTHETIC:
        clips = _clips(args)
        return open_scenes(clips.seed, clips.num, clips.frames, include)
    if args.list is not None:
        opened = reopen(args.list, root)
        if opened.dataset.name != args.dataset:
            raise ConfigError(
                f"{args.list} lists frames of {opened.dataset.name}, not of {args.dataset}; name the set that it is of."
            )
        return opened
    changes = {"start": args.start, "stride": args.frame_stride, "count": args.frames, "depth_scale": args.depth_scale}
    return open_set(args.dataset, root, task=args.task, rule=args.rule, include=include, **changes)


def _models(args: argparse.Namespace, config: Any, task: str) -> list[str]:
    """The model, unless there are predictions instead, and the baselines, unless there is nothing to score.

    Raises ConfigError for settings of a model where none is scored.
    """
    from geo4d.evaluation.methods import BASELINES

    words = [word for word in args.settings if "=" in word]
    asked = args.model is not None or any(_key(word) == "model" for word in words)
    wanted = [] if args.baselines_only or (args.predictions and not asked) else [config.model]
    if not wanted:
        reason = "no model is scored; give --model beside --predictions, or leave out --baselines-only"
        _refuse(args, OF_A_MODEL, reason)
        if words:
            raise ConfigError(f"{words[0]} would do nothing here: {reason}.")
    if args.baselines_only or (args.baselines and task != "pictures"):
        wanted += [name for name in BASELINES if name not in wanted]
    return wanted


def _pipeline(args: argparse.Namespace) -> Any:
    from dataclasses import replace

    from geo4d.config import load_config
    from geo4d.evaluation.methods import PipelineConfig

    words = [word for word in args.settings if "=" in word]
    named, given_keys = load_config(PipelineConfig, overrides=words), {_key(word) for word in words}
    options = {name: getattr(args, name) for name in ("model", "vae", "device", "dtype", "stride", "steps")}
    given = {name: value for name, value in options.items() if value is not None} | (
        {"tracks": False} if args.no_tracks else {}
    )
    twice = next((name for name, value in given.items() if name in given_keys and getattr(named, name) != value), None)
    if twice is not None:
        raise ConfigError(
            f"The setting {twice} is given twice: {given[twice]} as an option, {getattr(named, twice)} as a word; keep "
            "one."
        )
    return replace(named, **given)


def _key(word: str) -> str:
    """Of a word key=value."""
    return word.partition("=")[0].strip()


def _form(args: argparse.Namespace) -> Any:
    from geo4d.evaluation.predictions import PredictionForm

    pairs = [entry.partition("=") for entry in args.key]
    odd = next(
        (entry for entry, (_, equals, name) in zip(args.key, pairs, strict=True) if not equals or not name), None
    )
    if odd is not None:
        raise ConfigError(f"--key must be MEANING=NAME such as depth=z; got {odd!r}.")
    keys = {meaning: name for meaning, _, name in pairs}
    return PredictionForm(keys, args.disparity, args.normalised_intrinsics, args.quaternions)


def _compare(args: argparse.Namespace) -> None:
    import sys

    from geo4d.evaluation.compare import compare_runs
    from geo4d.evaluation.store import write_text

    if len(args.settings) != 2:
        raise ConfigError(
            f"geo4d evaluate compare needs the folders of two runs; got {' '.join(args.settings) or 'none'}."
        )
    text = compare_runs(*args.settings, methods=tuple(args.methods or (None, None))).markdown()
    if args.out is not None:
        write_text(Path(args.out), text)
    sys.stdout.write(text)
