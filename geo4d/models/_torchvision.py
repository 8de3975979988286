"""Lets torchvision be imported beside a torch that its build does not match.

Beside a CPU build of torch, a CUDA build of torchvision cannot load its operators, and then nothing that imports
torchvision (diffusers, transformers, open_clip, timm) can be imported. Declaring the missing schemas is enough.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept: list[torch.library.Library] = []  # the declarations live as long as this object


def declare_missing_operators() -> None:
    """Call before importing anything that imports torchvision; does nothing where torchvision is absent or matches."""
    spec = importlib.util.find_spec("torchvision")
    if _kept or torch.version.cuda is not None or spec is None or spec.origin is None:
        return
    for library in sorted(Path(spec.origin).parent.glob("_C*.*")):
        try:
            # a build that matches brings its own declarations, and they must not be made twice
            torch.ops.load_library(str(library))
        except OSError:
            continue
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            fragment.define(schema)
    _kept.append(fragment)


declare_missing_operators()
