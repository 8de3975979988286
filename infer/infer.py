"""Entry file for `python infer/infer.py VIDEO --out DIR`; the same as `geo4d infer`."""

import sys

from geo4d.cli import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
