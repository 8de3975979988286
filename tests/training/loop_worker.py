"""A tiny training run, as a module for the tests and as a process of its own.

`loop_worker.py FOLDER {settings as JSON}`.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from geo4d.training import loop as loop_room
from geo4d.training.loop import LoopConfig, TrainingLoop

QUICK = {
    "steps": 40,
    "warmup_steps": 5,
    "log_every": 3,
    "checkpoint_minutes": None,
    "ema_every": 2,
    "precision": "fp32",
}


class Net(nn.Module):
    """Dropout, a buffer that is an average, and a weight that nothing uses by default."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def squared(self, x):  # not forward: the loop must serve any method
        return self.last(self.drop(torch.tanh(self.first(x)))).square()


def make_loss(net, *, bad_draws=(), batch=4):
    def loss(draw):
        x = torch.from_numpy(np.random.default_rng([7, draw]).normal(size=(batch, 3))).float()
        value = (net.squared(x) - x[:, :2]).square().mean()
        net.calls.add_(1)
        return (value * torch.nan if draw in bad_draws else value), {"samples": float(batch), "x": float(x.mean())}

    return loss


def make_loop(folder, *, seed=0, **settings):
    torch.manual_seed(seed)
    return TrainingLoop(
        "s", Net(), LoopConfig(**{**QUICK, "tensorboard": False, **settings}), Path(folder), torch.device("cpu")
    )


def keep_gradients(loop, kept):
    """Collects the gradients of every step of the optimiser."""

    def note(*_):
        if all(p.grad is not None for p in loop.module.parameters()):  # DeepSpeed keeps them to itself
            kept.append([loop_room.ranks.to_cpu(p.grad).clone() for p in loop.module.parameters()])

    loop.optimizer.register_step_pre_hook(note)


def pretend(kind, name, make_plugin):
    """Lets accelerate take processes on CPUs for ones that a way of sharding runs on, which it uses on GPUs alone."""
    from accelerate import DistributedType

    make = loop_room.ranks.make_accelerator

    def sharding(*parts):
        accelerator, plugin = make(*parts), make_plugin()
        accelerator.state.distributed_type = DistributedType[kind]
        setattr(accelerator.state, name, {"default": plugin} if name.endswith("s") else plugin)
        return accelerator

    loop_room.ranks.make_accelerator = sharding


def shard_by_fsdp():
    """Weights, gradients and state in shards."""
    from accelerate import FullyShardedDataParallelPlugin

    settings = {
        "fsdp_version": 2,
        "cpu_ram_efficient_loading": False,
        "auto_wrap_policy": "size_based_wrap",
        "min_num_params": 10,
    }
    pretend("FSDP", "fsdp_plugin", lambda: FullyShardedDataParallelPlugin(**settings))


def shard_by_zero(stage):
    """The optimiser's state, and from stage 2 on gradients, in shards."""
    import deepspeed
    from accelerate import Accelerator, DeepSpeedPlugin

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled, for a minute or more

    def plugin():
        made = DeepSpeedPlugin(zero_stage=stage)
        made.set_mixed_precision("no")
        made.select(_from_accelerator_state=True)
        return made

    Accelerator.deepspeed_engine_wrapped = None  # what accelerate sets when it sees a GPU
    pretend("DEEPSPEED", "deepspeed_plugins", plugin)


def run_alone(folder, options, *, seed=0):
    """A run to its end: gradients of all steps, final weights, number of processes."""
    settings = dict(options)
    bad_draws, gradients = settings.pop("bad_draws", ()), []
    loop = make_loop(folder, seed=seed, **settings)
    keep_gradients(loop, gradients)
    loop.run(make_loss(loop.module, bad_draws=bad_draws), on_checkpoint=lambda step: {"rank": float(loop.rank)})
    return {"gradients": gradients, "state": loop_room.ranks.to_cpu(loop.module.state_dict()), "world": loop.world}


def main():
    folder, options = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(1)
    sharding = options.pop("sharding", "ddp")
    if sharding == "fsdp":
        shard_by_fsdp()
    if sharding.startswith("zero"):
        shard_by_zero(int(sharding[-1]))
    result = run_alone(folder, options, seed=options.pop("seed", 0))
    torch.save(result, Path(folder) / f"result{os.environ.get('RANK', '0')}.pt")
    loop_room.ranks.leave()
    if sharding != "ddp":
        os._exit(0)  # neither is made for gloo: their threads sometimes abort a process that has finished


if __name__ == "__main__":
    main()
