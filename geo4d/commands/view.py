"""Look at a reconstruction in the browser, or write it as one HTML page."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d view DIR`."""
    parser.add_argument("directory", help="a finished reconstruction")
    parser.add_argument("--html", default=None, metavar="FILE", help="write one self-contained page and stop")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on, and to open in the browser (or an IP address)"
    )
    parser.add_argument("--port", type=int, default=8080, help="port to listen on")
    parser.add_argument("--max-points", type=int, default=None, help="points a frame (20000, on a page 6000)")


def run(args: argparse.Namespace) -> None:
    """Serves until interrupted, or writes the page."""
    import logging

    from geo4d.io.output import refuse_file_of
    from geo4d.scene.files.reconstruction import FILES, load_reconstruction

    if args.html:
        refuse_file_of(args.directory, args.html, FILES)
    result = load_reconstruction(args.directory)
    if args.html:
        from geo4d.viewer.page import write_page

        write_page(result, args.html, max_points=6000 if args.max_points is None else args.max_points)
        logging.getLogger("geo4d").info("Wrote %s; open it in any browser.", args.html)
        return
    from geo4d.viewer.server import serve

    max_points = 20_000 if args.max_points is None else args.max_points
    serve(result, host=args.host, port=args.port, max_points=max_points)
