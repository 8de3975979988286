"""How the optimiser's step is made.

On one device, by DDP or FSDP, or with its state sharded by DeepSpeed (ZeRO 1 and 2).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import nn

from geo4d._typing import Tensor
from geo4d.errors import ConfigError
from geo4d.training import ranks
from geo4d.training.loop_config import LoopConfig

ZERO_STAGES = (1, 2)


class AnyForward(nn.Module):
    """Calls any function as its own forward pass.

    DDP, FSDP and DeepSpeed act on the forward of the module they wrap; wrapped in this one they serve every function
    that uses the weights inside, whichever methods it calls and wherever it holds them.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns."""
        return function(*arguments)


class Updates:
    """Gradients and steps through torch's own optimiser, which DDP and FSDP leave as it is.

    In a step: `backward` for each micro-batch inside `micro_batch`, then `clip`, then `step` unless something was not
    finite, then `clear`. `state` and `load_state` speak of whole tensors by the number of the trained weight, however
    many processes hold them.
    """

    def __init__(
        self, accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer, config: LoopConfig
    ) -> None:
        self.accelerator, self.module, self.optimizer, self.config = accelerator, module, optimizer, config
        self._wrapped, _ = accelerator.prepare(AnyForward(module), optimizer)

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns, called under the run's precision and in sight of whatever wraps the module."""
        return self._wrapped(function, *arguments)

    @contextlib.contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:
        """Forward and backward of a micro-batch: processes exchange gradients once a step, with the last one."""
        with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self._wrapped):
            yield

    def backward(self, loss: Tensor) -> None:
        """Adds the micro-batch's share to the gradients."""
        (loss / self.config.accumulate).backward()

    def clip(self) -> float:
        """The norm of the gradients of all processes, before they are clipped; not finite if one of them is not."""
        return float(ranks.to_cpu(self.accelerator.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)))

    def step(self) -> None:
        """Moves the weights."""
        self.optimizer.step()

    def clear(self) -> None:
        """Forgets the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[int, dict[str, Any]]:
        """The optimiser's state on the CPU; every process must call it."""
        return ranks.to_cpu(self.optimizer.state_dict()["state"])

    def load_state(self, state: dict[int, dict[str, Any]]) -> None:
        """Goes on from a state, after the module has its weights."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        own = {i: {key: ranks.like(value, parameters[i]) for key, value in each.items()} for i, each in state.items()}
        self.optimizer.load_state_dict({"state": own, "param_groups": self.optimizer.state_dict()["param_groups"]})


class ZeroUpdates(Updates):
    """Steps by DeepSpeed's engine.

    Every process keeps a part of the optimiser's state (stage 1) and of the gradients (2). The engine clips, steps and
    clears in one call, and leaves a step out on all processes if a gradient is not finite. So that it does the same for
    a loss, gradients of one that is not finite are made to be so too. Weights stay in fp32 as elsewhere, and bf16
    arithmetic is torch's autocast, whatever the accelerate config says of it.
    """

    def __init__(
        self, accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer, config: LoopConfig
    ) -> None:
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        check_deepspeed(settings)
        settings["train_micro_batch_size_per_gpu"] = 1  # it only counts with it, and a batch is the loss's own affair
        settings["gradient_accumulation_steps"] = accelerator.gradient_accumulation_steps = config.accumulate
        settings["gradient_clipping"] = config.clip_norm
        super().__init__(accelerator, module, optimizer, config)
        self._wrapped.optimizer.check_grad_overflow = True  # older versions look at gradients in fp16 alone

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns, called within the engine."""

        def cast(*inner: Any) -> Any:  # inside the engine, which switches autocast off around its module
            with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                return function(*inner)

        return super().forward(cast, *arguments)

    @contextlib.contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:
        """Tells the engine which micro-batch is a step's last."""
        self._wrapped.set_gradient_accumulation_boundary(is_boundary=is_last)
        yield

    def backward(self, loss: Tensor) -> None:
        """The engine's backward pass, which divides by the number of micro-batches itself."""
        is_finite = math.isfinite(float(loss.detach()))
        self._wrapped.backward(loss if is_finite else loss * torch.nan)

    def clip(self) -> float:
        """Makes the whole step. The norm is infinite if it was left out."""
        self._wrapped.step()
        return math.inf if self._wrapped.optimizer.overflow else float(self._wrapped.get_global_grad_norm())

    def step(self) -> None:
        """Nothing is left to do: `clip` has done it."""

    def clear(self) -> None:
        """Nothing is left to do: the engine forgets gradients as it steps."""

    def state(self) -> dict[int, dict[str, Any]]:
        """The state as a single process would hold it: put together weight by weight."""
        from deepspeed.utils import safe_get_full_optimizer_state

        flat = [self.optimizer.state[part] for group in self.optimizer.param_groups for part in group["params"]]
        if not any(flat):
            return {}  # all steps were left out so far
        names = [key for key, value in flat[0].items() if value.ndim]
        return {
            i: {
                "step": flat[0]["step"].cpu().clone(),
                **{key: safe_get_full_optimizer_state(weight, key).cpu() for key in names},
            }
            for i, weight in enumerate(self._trained)
        }

    def load_state(self, state: dict[int, dict[str, Any]]) -> None:
        """Gives every process its part of a state, and of the weights that the module has by now."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        for weight in self._trained:
            safe_set_full_fp32_param(weight, weight.detach())
        if not state:
            return
        first = next(iter(state.values()))
        for group in self.optimizer.param_groups:
            for part in group["params"]:
                moments = {key: torch.zeros_like(part) for key, value in first.items() if value.ndim}
                self.optimizer.state[part] = {"step": first["step"].clone(), **moments}
        self._wrapped.optimizer._lazy_init_hp_params_optimizer_state()  # shows it to the functions below
        for i, each in state.items():  # a weight that never had a gradient may have none
            for key, value in each.items():
                if value.ndim:
                    safe_set_full_optimizer_state(self._trained[i], value.to(self._trained[i].device), key)


def make_updates(
    accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer, config: LoopConfig
) -> Updates:
    """The way of stepping that fits how the processes were launched. Raises ConfigError for what cannot go together."""
    is_zero = accelerator.distributed_type == DistributedType.DEEPSPEED
    if config.optimizer == "adamw_8bit" and (is_zero or accelerator.is_fsdp2):
        raise ConfigError(
            "optimizer=adamw_8bit keeps no sharded state; with FSDP or DeepSpeed set optimizer=adamw_fused."
        )
    if accelerator.is_fsdp2:
        leave_out_absent(accelerator.state.fsdp_plugin, module)
    return (ZeroUpdates if is_zero else Updates)(accelerator, module, optimizer, config)


def leave_out_absent(plugin: Any, module: nn.Module) -> None:
    """One accelerate config serves all stages.

    Layers named in it that a stage's module does not have are not asked for.
    """
    names = {type(layer).__name__ for layer in module.modules()}
    if plugin.transformer_cls_names_to_wrap:
        plugin.transformer_cls_names_to_wrap = [name for name in plugin.transformer_cls_names_to_wrap if name in names]


def check_deepspeed(settings: dict[str, Any]) -> None:
    """Raises ConfigError for DeepSpeed settings under which weights are not whole and in fp32 on every process."""
    zero = settings.get("zero_optimization", {})
    if int(zero.get("stage", 0)) not in ZERO_STAGES:
        raise ConfigError(
            f"Under DeepSpeed the loop runs with ZeRO stage 1 or 2, got stage {zero.get('stage', 0)}; set `zero_stage: "
            "2`, or shard the weights too by FSDP version 2 (`distributed_type: FSDP`, `fsdp_version: 2`)."
        )
    for name in ("fp16", "bf16"):
        if settings.get(name, {}).get("enabled") is True:
            raise ConfigError(
                f"The DeepSpeed config holds weights in {name}; leave {name} out of it and set loop.precision=bf16."
            )
    if (zero.get("offload_optimizer") or {}).get("device", "none") != "none":
        raise ConfigError(
            "The loop does not offload the optimiser's state under DeepSpeed; set `offload_optimizer_device: none`."
        )
