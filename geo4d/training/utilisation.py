"""What a device could compute, to tell how much of it a training step uses.

The loop counts the matrix products, convolutions and attention of whole steps, forward and backward: with gradient
checkpointing the work done twice is counted twice, and frozen networks that a loss calls are counted too.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# dense bf16 peaks in FLOP/s as their makers state them; the first name found in the device's name counts
PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A40": 150e12,
    "A6000": 155e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


class FlopCounter(TorchDispatchMode):
    """Adds up the floating-point operations of all that runs inside the block, backward passes included.

    PyTorch's own FlopCounterMode follows the modules too, which fails where a weight is handed to a module as its
    input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(getattr(func, "_overloadpacket", None))
        if count is not None:
            self.total += int(count(*args, **(kwargs or {}), out_val=result))
        return result


@lru_cache
def peak_flops(device: torch.device, precision: str) -> tuple[float, str]:
    """FLOP/s that one device could reach and where the figure is from: "stated" by its maker, or "measured" here."""
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for known, peak in PEAKS.items():
            if known in name:
                return peak, "stated"
    return _measure(device, torch.bfloat16 if precision == "bf16" else torch.float32), "measured"


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    """The rate of the best of a few square matrix products."""
    size = 4096 if device.type == "cuda" else 384
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a number waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
