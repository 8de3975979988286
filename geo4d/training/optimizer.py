"""The optimiser by its name, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from geo4d.errors import ConfigError
from geo4d.training.loop_config import LoopConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: LoopConfig) -> torch.optim.Optimizer:
    """AdamW on the parameters that are trained: plain, as one fused kernel, or with its state in 8 bits."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ConfigError("The module has no weight that asks for a gradient; unfreeze some before training.")
    options = {"lr": config.learning_rate, "betas": (0.9, config.beta2), "weight_decay": config.weight_decay}
    if config.optimizer == "adamw_8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ConfigError(
                "optimizer=adamw_8bit needs the package bitsandbytes, which is not installed; run `pip install "
                "bitsandbytes` or set optimizer=adamw_fused."
            ) from error
        return AdamW8bit(trained, **options)
    return torch.optim.AdamW(trained, fused=config.optimizer == "adamw_fused", **options)


def learning_rate(config: LoopConfig, step: int, progress: float) -> float:
    """Linear warm-up by steps, then flat, then a fall to the final share over the rest of the run.

    `progress` goes from 0 to 1.
    """
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    fall = min(1.0, max(0.0, (progress - config.flat_share) / max(1 - config.flat_share, 1e-6)))
    if config.decay == "cosine":
        fall = 0.5 - 0.5 * math.cos(math.pi * fall)
    return config.learning_rate * warm * (1 - (1 - config.final_share) * fall)


def switch_on_checkpointing(module: nn.Module) -> None:
    """Gradient checkpointing through the switch of the networks inside.

    `use_checkpoint` in their config, or their method.
    """
    switched = 0
    for network in module.modules():
        if "use_checkpoint" in (getattr(network, "config", None) or {}) and hasattr(network, "register_to_config"):
            network.register_to_config(use_checkpoint=True)
            switched += 1
        elif getattr(network, "_supports_gradient_checkpointing", False):
            network.enable_gradient_checkpointing()
            switched += 1
    if not switched:
        raise ConfigError(
            f"gradient_checkpointing is set, but {type(module).__name__} has no switch for it; leave it off for this "
            "stage."
        )
