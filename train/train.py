"""Entry file for `accelerate launch train/train.py configs/train/RECIPE key=value ...`; the same as `geo4d train`."""

import sys

from geo4d.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
