"""`geo4d VERB ...`: finds the verb's module, runs it, and turns our errors into one sentence and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from importlib import import_module

from geo4d import __version__
from geo4d.errors import Geo4DError

VERBS = {
    "infer": "reconstruct a video or a folder of images",
    "demo": "reconstruct the bundled clip and compare it with the known truth",
    "view": "look at a reconstruction in the browser, or write it as one HTML page",
    "export": "write a reconstruction as PLY, GLB, COLMAP, nerfstudio, NPZ, Syn4D or WorldTrack",
    "align": "run the global alignment alone, on saved window predictions",
    "evaluate": (
        "score the pipeline, or the predictions of any method, on a data set with known truth; compare two runs"
    ),
    "ablate": "evaluate variants of the pipeline, and write one table of them",
    "synth": "write procedural clips with exact ground truth",
    "convert": "turn a released checkpoint into a geo4d model folder, or back",
    "data": "check training data on disk or encode it into latents; choose the frames of evaluation data",
    "train": "train a model on procedural scenes or on data sets, stage by stage",
}
ERROR, INTERRUPTED = 2, 130


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    # threads that wait by spinning starve one another where cores are shared: measured 130 times slower on two busy
    # ones
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(prog="geo4d", description="An ordinary video in, a 4D reconstruction out.")
    parser.add_argument("--version", action="version", version=f"geo4d {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    module = import_module(f"geo4d.commands.{chosen}") if chosen in VERBS else None
    for verb, text in VERBS.items():
        sub = verbs.add_parser(
            verb, help=text, description=text.capitalize() + ".", formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        if verb == chosen and module is not None:
            module.add_arguments(sub)
            sub.add_argument("-v", "--verbose", action="store_true", help="log details")
            sub.add_argument("-q", "--quiet", action="store_true", help="log errors alone, draw no progress bars")
    try:
        args, rest = parser.parse_known_args(words)
        # argparse fills an optional list of words before the first option and forgets the words after it
        settings = (
            [word for word in rest if "=" in word and not word.startswith("-")] if hasattr(args, "settings") else []
        )
        if rest != settings:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if settings:
            args.settings = [*args.settings, *settings]
    except SystemExit as stop:
        return int(stop.code or 0)
    _set_up_logging(verbose=args.verbose, quiet=args.quiet)
    try:
        assert module is not None
        module.run(args)
    except Geo4DError as error:
        sys.stderr.write(f"geo4d: error: {error}\n")
        return ERROR
    except KeyboardInterrupt:
        sys.stderr.write("geo4d: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    return 0


def _set_up_logging(*, verbose: bool, quiet: bool) -> None:
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("geo4d").setLevel(level)
    if not verbose:
        # other people's deprecations are of no use to someone who runs a command
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|diffusers|transformers|kornia)\b.*")


if __name__ == "__main__":
    sys.exit(main())
