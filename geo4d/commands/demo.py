"""Reconstruct the bundled clip and compare it with the known truth."""

from __future__ import annotations

import argparse

KIND, SCORES = "demo", "metrics.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d demo`."""
    parser.add_argument("--out", default="demo", help="folder for the result; an earlier demo there is replaced")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def run(args: argparse.Namespace) -> None:
    """Runs `geo4d infer` on the file like on any video, then scores it."""
    import sys
    from pathlib import Path

    from geo4d.commands import infer
    from geo4d.evaluation.demo import demo_truth, demo_video, score_demo
    from geo4d.evaluation.store import write_json
    from geo4d.evaluation.synthetic import table
    from geo4d.io.output import register
    from geo4d.scene.files.reconstruction import load_reconstruction

    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    words = [str(demo_video()), "--out", args.out, "--device", args.device, "--overwrite"]
    out = Path(args.out)
    infer.run(parser.parse_args(words, namespace=argparse.Namespace(quiet=args.quiet)), KIND, (SCORES,))
    register(out, KIND, [SCORES])
    result = score_demo(demo_truth(), load_reconstruction(out))
    write_json(out / SCORES, result)
    sys.stdout.write(
        "\nThe clip is a procedural scene that no training has seen; its truth is known.\n"
        "constant: the same depth everywhere, a static camera. mean: the average scene and path.\n\n"
        f"{table(result)}\n\nLook at {out / 'preview.mp4'} and {out / 'trajectory.png'}, or run: geo4d view {out}\n"
    )
