"""Devices by name."""

from __future__ import annotations

import logging

import torch

from geo4d.errors import ConfigError

logger = logging.getLogger(__name__)

DEVICES = ("cpu", "cuda", "mps")


def pick_device(name: str | None) -> torch.device:
    """A device by name; "auto" (or None) takes CUDA where there is one.

    Raises ConfigError for one that is not there.
    """
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
        if device.type in DEVICES:
            torch.zeros(1, device=device)
            return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        logger.debug("device %r: %s", name, error)
    raise ConfigError(f"There is no device {name!r} here; choose auto, cpu or, where there is one, cuda.")


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether this is a CPU that computes in bfloat16, far faster than in float32; others only emulate it."""
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
