"""Beside a CPU build of torch, a CUDA build of torchvision cannot load its operators, and then nothing that imports
torchvision (diffusers, transformers, open_clip, timm) can be imported. Declaring the missing schemas is enough."""

from __future__ import annotations

import importlib.util

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: torch.library.Library | None = None  # the declarations live as long as this object


def declare_missing_operators() -> None:
    """Call before importing anything that imports torchvision; does nothing where torchvision is absent or matches."""
    global _library
    if _library is not None or torch.cuda.is_available() or importlib.util.find_spec("torchvision") is None:
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            _library.define(schema)


declare_missing_operators()
