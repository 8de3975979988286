"""Convert a released checkpoint into a geo4d model folder, or a trained model into the released layout."""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

logger = logging.getLogger("geo4d.convert")

DTYPES = {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}
NOTICE = """# Notice

Converted by geo4d from {files}.

The weights stay under the licence of whoever published them; geo4d's own licence covers its code, not these numbers.
The release of Geo4D states no licence for its weights; they derive from DynamiCrafter, from the autoencoder of Stable
Diffusion and, through the stored context tokens, from OpenCLIP ViT-H/14. Look their terms up before you share or sell
anything.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`geo4d convert MODEL.ckpt [--vae VAE.ckpt] --out DIR`."""
    parser.add_argument(
        "model", help="released model.ckpt (Geo4D or DynamiCrafter 512); with --to released: a geo4d model"
    )
    parser.add_argument("--vae", default=None, help="released vae.ckpt: the point decoder with its uncertainty")
    parser.add_argument("--out", required=True, help="folder to write; must be new or empty")
    parser.add_argument("--to", choices=("geo4d", "released"), default="geo4d", help="which layout to write")
    parser.add_argument("--dtype", default="bf16", choices=(*DTYPES, *DTYPES.values()), help="of the stored networks")
    parser.add_argument(
        "--per-frame-images",
        action="store_true",
        help="keep the image tower: every frame's own image tokens, as in the paper (+1.3 GB)",
    )
    parser.add_argument(
        "--base", default=None, help="with --to released: the released model.ckpt that training began with"
    )


def run(args: argparse.Namespace) -> None:
    """Reads, checks, writes."""
    import torch

    from geo4d.errors import ConfigError
    from geo4d.models.checkpoint import load_released, save_released
    from geo4d.models.storage import check_new, load_model, save_folder

    out = Path(args.out)
    check_new(out)
    dtype = getattr(torch, DTYPES.get(args.dtype, args.dtype))
    if args.to == "released":
        if args.base is None:
            raise ConfigError(
                "--to released needs --base: the released model.ckpt whose towers and schedule go into the file."
            )
        save_released(load_model(args.model, dtype=dtype), out, base=args.base)
    else:
        logger.info("reading %s", args.model)
        model = load_released(args.model, args.vae, per_frame=args.per_frame_images, dtype=dtype)
        files = " and ".join(Path(file).name for file in (args.model, args.vae) if file)
        save_folder(model, out, notice=NOTICE.format(files=files), notes={"source": files})
        if args.vae is None and model.spec.modalities:
            logger.warning(
                "Warning: without --vae points are decoded without uncertainty; give the release's vae.ckpt."
            )
    size = sum(file.stat().st_size for file in out.iterdir())
    logger.info("Wrote %s (%.1f GB; free on that disk: %.0f GB)", out, size / 1e9, shutil.disk_usage(out).free / 1e9)
