"""The loop alone, on tiny modules.

Resume after a kill, several processes, checkpoints, what is not finite, logs, schedules.
"""

import dataclasses
import importlib.util
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loop_worker import make_loop, make_loss, run_alone
from torch import nn

from geo4d.errors import CheckpointError, ConfigError, Geo4DError
from geo4d.training.checkpoints import EMA, STATE, TRAINING, Checkpoints, Snapshot, load_ema
from geo4d.training.ema import Ema
from geo4d.training.loop import Draw, LoopConfig, TrainingLoop
from geo4d.training.optimizer import learning_rate, make_optimizer
from geo4d.training.ranks import choose_device
from geo4d.training.run_log import RunLog, duration
from geo4d.training.updates import check_deepspeed, leave_out_absent
from geo4d.training.utilisation import FlopCounter, peak_flops

WORKER = Path(__file__).with_name("loop_worker.py")
TIMEOUT = 120


def start(folder, options, **environment):
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONFAULTHANDLER": "1",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(folder), json.dumps(options)],
        env=variables,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes):
    """Waits for all; nothing may hang, and nothing is left behind."""
    try:
        errors = [process.communicate(timeout=TIMEOUT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), errors


def run_two(folder, options):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    finish([start(folder, options, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(2)])
    return [torch.load(Path(folder) / f"result{rank}.pt", weights_only=True) for rank in range(2)]


def lines(folder):
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def curve(folder):
    """What must not depend on when a run was interrupted."""
    return [
        (entry["step"], entry["loss"], entry["x"], entry["gradient_norm"], entry["learning_rate"])
        for entry in lines(folder)
        if "loss" in entry
    ]


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


@pytest.mark.slow
def test_killed_at_random_moments_it_goes_on_bit_for_bit(tmp_path):
    options = {"steps": 40, "checkpoint_steps": 1, "precision": "bf16"}
    whole = make_loop(tmp_path / "whole", **options)
    whole.run(make_loss(whole.module))
    generator = random.Random()  # another moment every time
    folder, steps = tmp_path / "killed", Checkpoints(tmp_path / "killed" / "s").steps
    for earliest in (generator.randint(1, 12), generator.randint(18, 25)):
        process = start(folder, {**options, "seed": 1 + earliest} if earliest > 12 else options)
        deadline = time.monotonic() + TIMEOUT
        while (not steps() or steps()[-1] < earliest) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(generator.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=TIMEOUT)
        assert process.returncode == -signal.SIGKILL, earliest
    resumed = make_loop(folder, seed=99, **options)
    assert 0 < resumed.step < 40
    resumed.run(make_loss(resumed.module))
    assert_same_state(whole.module.state_dict(), resumed.module.state_dict())
    assert curve(tmp_path / "whole") == curve(folder)
    ends = [Checkpoints(tmp_path / name / "s").load(40) for name in ("whole", "killed")]
    assert_same_state(ends[0].module, ends[1].module)
    for one, other in zip(ends[0].optimizer.values(), ends[1].optimizer.values(), strict=True):
        assert_same_state(one, other)
    assert not list((folder / "s").glob("*.partial"))


def test_a_wish_to_stop_saves_first(tmp_path):
    loop = make_loop(tmp_path)
    inner = make_loss(loop.module)

    def loss(draw):
        if draw.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(draw)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        loop.run(loss)
    assert signal.getsignal(signal.SIGTERM) is before
    assert make_loop(tmp_path).step == 6


def test_accumulation_equals_a_large_batch(tmp_path):
    def run(folder, accumulate, micro_batch):
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        loop = TrainingLoop(
            "s", module, LoopConfig(steps=5, accumulate=accumulate, precision="fp32", tensorboard=False), folder
        )
        data = np.random.default_rng(0).normal(size=(5 * 12, 3)).astype(np.float32)

        def loss(draw):
            x = torch.from_numpy(data[draw * micro_batch : (draw + 1) * micro_batch])
            return (module(x) - x[:, :2]).square().mean(), {}

        loop.run(loss)
        return module.weight

    torch.testing.assert_close(run(tmp_path / "a", 1, 12), run(tmp_path / "b", 4, 3), rtol=1e-5, atol=1e-7)


def test_draws_are_the_same_however_they_are_split():
    one = [Draw.at(5, micro=micro, accumulate=6) for micro in range(6)]
    six = [Draw.at(5, rank=rank, world=6) for rank in range(6)]
    both = [Draw.at(5, micro=micro, rank=rank, accumulate=3, world=2) for micro in range(3) for rank in range(2)]
    assert one == six == both == list(range(30, 36))
    assert {draw.step for draw in both} == {5}
    assert len({draw.seed(base) for draw in both for base in range(3)}) == 18
    assert Draw.at(7) == 7


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp", "zero 2"])
def test_two_processes_equal_one_with_the_summed_batch(tmp_path, how):
    """Draw 15 is not finite: process 1 of 2 meets it, and both leave step 7 out.

    A sharded run begins at a checkpoint of one.
    """
    options, sharded = (
        {"steps": 12, "bad_draws": [15], "checkpoint_steps": 5, "keep_every": 5, "clip_norm": 1e6},
        how != "ddp",
    )
    one = run_alone(tmp_path / "one", {**options, "accumulate": 2})
    if sharded:
        shutil.copytree(tmp_path / "one/s/step_00000005", tmp_path / "two/s/step_00000005")
    two = run_two(tmp_path / "two", {**options, "sharding": how, "seed": 3 if sharded else 0})
    assert [each["world"] for each in (one, *two)] == [1, 2, 2]
    if "zero" not in how:
        assert (len(one["gradients"]), len(two[0]["gradients"])) == (11, 6 if sharded else 11)
        for of_one, of_two in zip(one["gradients"][5 * sharded :], two[0]["gradients"], strict=True):
            for a, b in zip(of_one, of_two, strict=True):
                assert (a - b).norm() <= 1e-5 * a.norm()
    for key in ("first.weight", "last.weight"):
        assert torch.equal(two[0]["state"][key], two[1]["state"][key])
        torch.testing.assert_close(one["state"][key], two[0]["state"][key], rtol=1e-5, atol=1e-6)
    logs = [[entry for entry in lines(tmp_path / name) if "loss" in entry] for name in ("one", "two")]
    assert [entry["step"] for entry in logs[1]] == [3, 6, 9, 12][sharded:]
    assert [entry["bad_steps"] for entry in logs[1]] == [0, 0, 1, 1][sharded:]
    for key in ("loss", "gradient_norm"):
        np.testing.assert_allclose(
            [entry[key] for entry in logs[0]][sharded:], [entry[key] for entry in logs[1]], rtol=1e-5
        )
    assert {entry["rank"] for entry in lines(tmp_path / "two") if "rank" in entry} == {0.5}
    ends = [Checkpoints(tmp_path / name / "s").load(12) for name in ("one", "two")]
    assert ends[0].module.keys() == ends[1].module.keys()
    assert ends[0].optimizer.keys() == ends[1].optimizer.keys()
    for i, state in ends[0].optimizer.items():
        assert state["step"] == ends[1].optimizer[i]["step"] == 11
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(state[key], ends[1].optimizer[i][key], rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_deepspeed_accumulates_and_resumes_as_one_process_does(tmp_path):
    """With several micro-batches, clipping and bf16 arithmetic; the last steps are repeated from its own checkpoint."""
    options = {"steps": 10, "checkpoint_steps": 4, "clip_norm": 0.05, "precision": "bf16"}
    one = run_alone(tmp_path / "one", {**options, "accumulate": 4})
    options |= {"accumulate": 2, "sharding": "zero 1"}
    two = run_two(tmp_path / "two", options)
    torch.testing.assert_close(one["state"]["last.weight"], two[0]["state"]["last.weight"], rtol=1e-2, atol=1e-4)
    Checkpoints(tmp_path / "two" / "s").path(10).rename(tmp_path / "gone")
    again = run_two(tmp_path / "two", {**options, "seed": 7})
    assert torch.equal(again[0]["state"]["last.weight"], two[0]["state"]["last.weight"])


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_steps_that_are_not_finite_are_left_out_and_counted(tmp_path, where, caplog):
    loop = make_loop(tmp_path, steps=6, log_every=6)
    inner = make_loss(loop.module)

    def loss(draw):
        value, numbers = inner(draw)
        if draw in (2, 3):
            zero = (loop.module.first.weight * 0).sum()
            value = value + (zero.sqrt() if where == "gradient" else zero + torch.inf)
        return value, numbers

    with caplog.at_level(logging.WARNING, "geo4d"):
        loop.run(loss)
    assert loop.bad_steps == 2
    assert "step 2 left out" in caplog.text
    assert all(torch.isfinite(value).all() for value in loop.module.state_dict().values())
    assert lines(tmp_path)[-1]["bad_steps"] == 2


def test_a_run_that_was_killed_before_its_last_validation_validates(tmp_path):
    loop = make_loop(tmp_path, steps=4)
    loop.run(make_loss(loop.module))
    seen = []
    again = make_loop(tmp_path, steps=4)
    again.run(make_loss(again.module), on_checkpoint=lambda step: seen.append(step) or {"x": 1.0})
    assert seen == [4]


def test_layers_that_a_stage_does_not_have_are_not_asked_for():
    plugin = SimpleNamespace(transformer_cls_names_to_wrap=["ResBlock", "Linear"])
    leave_out_absent(plugin, nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    assert plugin.transformer_cls_names_to_wrap == ["Linear"]


def test_too_many_bad_steps_stop_the_run(tmp_path):
    loop = make_loop(tmp_path / "row", steps=100, max_bad_steps=4)
    with pytest.raises(
        Geo4DError, match=r"stopped at step 14: .* not finite 4 times in a row; lower the learning rate"
    ):
        loop.run(make_loss(loop.module, bad_draws=range(10, 100)))
    loop = make_loop(tmp_path / "share", steps=100, max_bad_share=0.005)
    with pytest.raises(Geo4DError, match=r"not finite in 6 of 11 steps"):
        loop.run(make_loss(loop.module, bad_draws=range(0, 100, 2)))


def snapshot(value=0.0):
    weights = {"w": torch.full((64,), value)}
    return Snapshot(weights, {"w": torch.full((64,), -value)}, {0: {"step": torch.tensor(value)}}, {"step": value})


def test_retention(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every=20)
    for step in range(5, 60, 5):
        checkpoints.save(step, snapshot(float(step)))
    assert checkpoints.steps() == [20, 40, 50, 55]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_{step:08d}" for step in (20, 40, 50, 55)]
    assert checkpoints.load(40).counters == {"step": 40.0}


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "no state", "nested state"])
@pytest.mark.parametrize("name", [TRAINING, EMA, STATE])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage, name, caplog):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, snapshot(float(step)))
    file = checkpoints.path(2) / name
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 64
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "missing":
        file.unlink()
    else:
        (checkpoints.path(2) / STATE).write_text("" if damage == "no state" else "[" * 100_000)
    if damage == "flipped" and name == STATE:
        return  # a digit of a counter is not guarded by a checksum
    with caplog.at_level(logging.WARNING, "geo4d"):
        assert checkpoints.newest_sound() == 1
    assert (damage, name) == ("missing", STATE) or "is damaged" in caplog.text
    assert torch.equal(load_ema(tmp_path)["w"], torch.full((64,), -1.0))
    checkpoints.tidy(after=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_when_all_are_damaged_the_run_does_not_begin_anew(tmp_path):
    loop = make_loop(tmp_path, steps=3)
    loop.run(make_loss(loop.module))
    (tmp_path / "s" / "step_00000003" / TRAINING).write_bytes(b"")
    with pytest.raises(CheckpointError, match="Every checkpoint"):
        make_loop(tmp_path, steps=3)


def test_a_checkpoint_of_another_module_says_so(tmp_path):
    make_loop(tmp_path).save()
    with pytest.raises(CheckpointError, match="of another Linear"):
        TrainingLoop(
            "s", nn.Linear(3, 2), LoopConfig(precision="fp32", tensorboard=False), tmp_path, torch.device("cpu")
        )
    assert load_ema(tmp_path / "s")["first.weight"].dtype == torch.float32
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_ema(tmp_path / "elsewhere")


def test_a_finished_run_can_be_made_longer(tmp_path):
    short = make_loop(tmp_path / "a", steps=10, flat_share=1.0)
    short.run(make_loss(short.module))
    longer = make_loop(tmp_path / "a", steps=20, flat_share=1.0)
    longer.run(make_loss(longer.module))
    whole = make_loop(tmp_path / "b", steps=20, flat_share=1.0)
    whole.run(make_loss(whole.module))
    assert_same_state(whole.module.state_dict(), longer.module.state_dict())


def test_ema_against_a_plain_reference():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(torch.bfloat16)
    ema, expected = Ema(module, 0.9), module[0].weight.detach().double()
    for n in range(1, 400):
        with torch.no_grad():
            module[0].weight.normal_(generator=torch.Generator().manual_seed(n))
            module[1].num_batches_tracked.add_(1)
        ema.update()
        decay = min(0.9, (n + 1) / (n + 30))
        expected = decay * expected + (1 - decay) * module[0].weight.detach().double()
    assert ema.weights["0.weight"].dtype == torch.float32
    torch.testing.assert_close(ema.weights["0.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    assert ema.weights["1.num_batches_tracked"] == 399
    own = module[0].weight.clone()
    with ema.in_module():
        assert not module.training
        assert torch.equal(module[0].weight, ema.weights["0.weight"].bfloat16())
    assert module.training
    assert torch.equal(module[0].weight, own)


def test_schedule():
    config = LoopConfig(steps=100, learning_rate=1.0, warmup_steps=10, flat_share=0.5, final_share=0.1)
    rates = [learning_rate(config, step, step / 100) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:51], 1)
    np.testing.assert_allclose(rates[50:], np.linspace(1, 0.1, 51))
    cosine = dataclasses.replace(config, decay="cosine")
    np.testing.assert_allclose([learning_rate(cosine, s, s / 100) for s in (50, 75, 100)], [1, 0.55, 0.1])
    np.testing.assert_allclose(learning_rate(dataclasses.replace(config, flat_share=1.0), 100, 1.0), 1)


def test_a_run_by_the_clock_goes_on_from_the_time_spent(tmp_path):
    loop = make_loop(tmp_path, steps=10**6, minutes=0.5 / 60, checkpoint_steps=50)
    loop.run(make_loss(loop.module))
    again = make_loop(tmp_path, steps=10**6, minutes=0.5 / 60)
    assert again.progress == 1.0
    assert again.elapsed == loop.elapsed
    assert make_loop(tmp_path, steps=10**6, minutes=1 / 60).progress < 0.6


def test_the_log_has_no_line_twice(tmp_path):
    log = RunLog(tmp_path, "s", is_main=True, tensorboard=False)
    for step in (3, 6, 9):
        log.write(step, {"loss": 1.0 / step, "odd": float("nan")})
    RunLog(tmp_path, "other", is_main=True, tensorboard=False).write(8, {"loss": 5.0})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write("5\n" + "[" * 100_000 + '\n{"stage": "s", "st')
    RunLog(tmp_path, "s", is_main=True, tensorboard=False).rewind(6)
    assert [(entry["stage"], entry["step"]) for entry in lines(tmp_path)] == [("s", 3), ("s", 6), ("other", 8)]
    assert lines(tmp_path)[0]["odd"] is None
    assert lines(tmp_path)[0]["loss"] == 1 / 3
    RunLog(tmp_path, "s", is_main=False, tensorboard=True).write(7, {"loss": 0.0})
    assert len(lines(tmp_path)) == 3


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop = make_loop(tmp_path, steps=6, tensorboard=True)
    loop.run(make_loss(loop.module))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "s"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [3, 6]


def test_without_tensorboard_the_run_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, "geo4d"):
        loop = make_loop(tmp_path, steps=6, tensorboard=True)
        loop.run(make_loss(loop.module))
    assert caplog.text.count("TensorBoard is not installed") == 1
    assert len(lines(tmp_path)) == 2


def test_what_the_log_says(tmp_path, caplog):
    loop = make_loop(tmp_path, steps=6)
    with caplog.at_level(logging.INFO, "geo4d"):
        loop.run(
            make_loss(loop.module), on_checkpoint=lambda step: {"error": 0.5, "training": float(loop.module.training)}
        )
    entry, validation = lines(tmp_path)[0], lines(tmp_path)[-1]
    assert entry["samples_per_second"] == pytest.approx(4 * entry["steps_per_second"])
    assert 0 < entry["flops_share"] < 1
    assert (validation["error"], validation["training"], validation["step"]) == (0.5, 0.0, 6)
    assert "s 3 (50 %, " in caplog.text and " s left)" in caplog.text and "of the measured peak" in caplog.text
    assert [duration(s) for s in (45.0, 720.0, 12000.0, 187200.0)] == ["45 s", "12 min", "3 h 20 min", "2 d 4 h"]


def test_operations_are_counted_forward_and_backward():
    linear, x = nn.Linear(64, 32, bias=False), torch.randn(16, 64)
    with FlopCounter() as counter:
        linear(x).sum().backward()
    assert counter.total == 2 * (2 * 16 * 64 * 32)
    assert peak_flops(torch.device("cpu"), "fp32")[0] > 1e8


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fused_steps_as_the_plain_optimiser_does(tmp_path, precision):
    loops = [
        make_loop(tmp_path / name, optimizer=name, steps=10, precision=precision) for name in ("adamw", "adamw_fused")
    ]
    for loop in loops:
        loop.run(make_loss(loop.module))
    for a, b in zip(*(loop.module.state_dict().values() for loop in loops), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3 if precision == "bf16" else 1e-5, atol=1e-5)
    assert make_loop(tmp_path / "adamw", optimizer="adamw_fused", steps=11).step == 10


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_8_bits_say_what_to_do():
    with pytest.raises(ConfigError, match=r"pip install bitsandbytes.*adamw_fused"):
        make_optimizer(nn.Linear(2, 2).parameters(), LoopConfig(optimizer="adamw_8bit"))


def test_settings_that_deepspeed_cannot_go_with_say_so(monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no device 'foo'"):
        choose_device("foo")
    for settings, message in (
        ({"zero_optimization": {"stage": 3}}, r"got stage 3; set `zero_stage: 2`, or .* FSDP"),
        ({"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}}, r"weights in bf16; leave bf16 out"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            r"offload_optimizer_device: none",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            check_deepspeed(settings)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match=r"DeepSpeed on GPUs alone"):
        choose_device("cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install geo4d\[deepspeed\]"):
        choose_device("auto")


def test_settings_out_of_range():
    for setting in ({"steps": 0}, {"minutes": -1.0}, {"flat_share": 2.0}, {"accumulate": 0}):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            LoopConfig(**setting)
    with pytest.raises(ConfigError, match="no weight"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(requires_grad=False).parameters(), LoopConfig())


def test_gradient_checkpointing_changes_memory_and_not_the_result(tmp_path):
    from geo4d.models.geometry_model import build_model
    from geo4d.models.presets import PRESETS

    gradients = []
    for switched in (False, True):
        unet = build_model(PRESETS["tiny"], seed=0).unet
        config = LoopConfig(steps=2, precision="fp32", tensorboard=False, gradient_checkpointing=switched)
        loop = TrainingLoop(f"s{switched}", unet, config, tmp_path, torch.device("cpu"))
        assert unet.config.use_checkpoint == switched

        def loss(draw, unet=unet):
            x = torch.randn(1, unet.config.in_channels, 2, 8, 8, generator=torch.Generator().manual_seed(draw))
            return (unet(x, torch.tensor([500])) - x[:, : unet.config.out_channels]).square().mean(), {}

        loop.run(loss)
        gradients.append(unet.state_dict())
    assert_same_state(*gradients)
    with pytest.raises(ConfigError, match="Linear has no switch"):
        TrainingLoop("t", nn.Linear(2, 2), LoopConfig(gradient_checkpointing=True), tmp_path, torch.device("cpu"))
