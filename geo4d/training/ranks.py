"""The processes of a run: how they are set up through accelerate, and what they tell one another.

Distributed data parallel, FSDP (version 2) and DeepSpeed (ZeRO 1 and 2) run the same loop. Sharded tensors are put
together to be saved, so a checkpoint does not depend on how many processes wrote it.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import threading
from contextlib import AbstractContextManager
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object

from geo4d._typing import Tensor
from geo4d.errors import ConfigError
from geo4d.models.device import pick_device
from geo4d.training.loop_config import LoopConfig

WAIT = timedelta(hours=6)  # for the main process, which does some stages alone
UNSUPPORTED = (
    "The loop runs on one device, with DDP, with FSDP version 2 or with DeepSpeed, got {}; set `distributed_type: "
    "FSDP` and `fsdp_version: 2` in the accelerate config."
)


def is_deepspeed() -> bool:
    """Whether accelerate's launcher was told to use DeepSpeed, which sets up the processes itself."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def choose_device(name: str = "auto") -> torch.device:
    """The device of this process: as named, or with "auto" the GPU of its number where there is one.

    Connects the processes where a launcher started several. Raises ConfigError for a device that is not there, and
    where DeepSpeed is asked for and cannot be used.
    """
    on_cpu = name == "cpu" or (name == "auto" and not torch.cuda.is_available())
    if is_deepspeed() and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            "The accelerate config asks for DeepSpeed, which is not installed; run `pip install geo4d[deepspeed]`."
        )
    if is_deepspeed() and on_cpu:
        raise ConfigError(
            "Accelerate runs DeepSpeed on GPUs alone, and the device is the CPU; launch with `torchrun` for DDP."
        )
    device = torch.device("cpu") if on_cpu else pick_device(name)
    state = PartialState(cpu=on_cpu, timeout=WAIT)
    if on_cpu:
        return torch.device("cpu")
    return state.device if state.num_processes > 1 or name == "auto" else device


def is_main() -> bool:
    """Whether this is the process that writes; the only one, or the first of all."""
    return PartialState().is_main_process


def main_first() -> AbstractContextManager[None]:
    """A block that the main process runs before the others, which then find what it wrote."""
    return PartialState().main_process_first()


def wait() -> None:
    """Until all processes have come here."""
    PartialState().wait_for_everyone()


def leave() -> None:
    """Waits for the other processes and closes the connections to them; to be called when all work is done."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def make_accelerator(device: torch.device, config: LoopConfig) -> Accelerator:
    """An accelerator for one stage. Raises ConfigError for ways of sharding that the loop does not know."""
    AcceleratorState._reset_state()  # one state serves the whole process, and stages may differ in their precision
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        device_placement=False,
        mixed_precision="bf16" if config.precision == "bf16" and not is_deepspeed() else "no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                find_unused_parameters=config.find_unused_parameters, gradient_as_bucket_view=True
            )
        ],
    )
    kind = accelerator.distributed_type
    if kind == DistributedType.MEGATRON_LM or (kind == DistributedType.FSDP and not accelerator.is_fsdp2):
        raise ConfigError(UNSUPPORTED.format(kind.value))
    return accelerator


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds the global generators of Python, NumPy and torch, as dropout and careless code use them."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # torch.manual_seed piles up calls for devices that are never used
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def sum_over_ranks(numbers: list[float], device: torch.device) -> list[float]:
    """The same sums on every process."""
    if not torch.distributed.is_initialized():
        return numbers
    tensor = torch.tensor(numbers, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    return tensor.tolist()


def from_all_ranks(value: Any) -> list[Any]:
    """The values of all processes, in their order, on every one of them."""
    return gather_object([value])


def from_main(value: Any) -> Any:
    """What the main process holds, on every process."""
    return broadcast_object_list([value])[0]


def to_cpu(value: Any) -> Any:
    """A nested state with whole tensors on the CPU; every process must call it, for shards are put together."""
    if isinstance(value, dict):
        return {key: to_cpu(item) for key, item in value.items()}
    if not isinstance(value, Tensor):
        return value
    whole = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole.detach().cpu()


def like(value: Any, pattern: Tensor) -> Any:
    """A whole tensor on the pattern's device, cut into shards where the pattern is and has the same shape."""
    if not isinstance(value, Tensor) or not hasattr(pattern, "full_tensor") or value.shape != pattern.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(pattern.device), pattern.device_mesh, pattern.placements)


class StopRequest:
    """Turns SIGTERM, which schedulers send before they kill, into a wish that is granted at the end of the step."""

    def __init__(self) -> None:
        self.wished = False
        self._before: Any = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wished = True
