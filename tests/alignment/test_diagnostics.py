"""What is said of how a solve ended.

Whether it converged, why it stopped and after how many steps, for every kind of run.
"""

import json
from dataclasses import replace

import pytest
import torch
from scenes import camera_path, exact_windows
from test_finish import SIZE, tracks_of

from geo4d.alignment import AlignmentConfig, IncrementalAlignment, Priors, align
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.config import PaperConfig
from geo4d.alignment.joint.config import JointConfig
from geo4d.solver.lm import FLAT, NO_STEP, OUT_OF_STEPS, SHORT

FRAMES = 16
STILL = AlignmentConfig(motion=False)
CONVERGED = (FLAT, SHORT, NO_STEP)


@pytest.fixture(scope="module")
def noisy():
    """Windows with noise, and tracks of the same room."""
    predictions, (depth, poses) = exact_windows(FRAMES, length=8, stride=4, noise=0.02)
    return replace(predictions, source_size=SIZE), depth, torch.from_numpy(poses)


def check_summary(said, config_iterations):
    assert isinstance(said["converged"], bool) and isinstance(said["reason"], str)
    assert isinstance(said["iterations"], int) and isinstance(said["trials"], int)
    assert 0 <= said["iterations"] <= min(said["trials"], config_iterations)
    assert said["converged"] == (said["reason"] in CONVERGED)
    json.dumps(said)


RUNS = {
    "usual": (STILL, {}),
    "without rays and disparity": (replace(STILL, use_rays=False, use_disparity=False), {}),
    "a zoom": (replace(STILL, focal="per_frame"), {}),
    "a learnt loss": (replace(STILL, joint=JointConfig(loss="adaptive")), {}),
    "given cameras": (STILL, {"poses": True}),
    "given depth": (STILL, {"depth": True}),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_joint_solve_says_how_it_ended(noisy, name):
    predictions, depth, poses = noisy
    config, given = RUNS[name]
    priors = Priors(cam_to_world=poses.numpy() if "poses" in given else None, depth=depth if "depth" in given else None)
    result = align(predictions, config=config, priors=priors)
    said = result.diagnostics["joint"]
    check_summary(said, config.joint.iterations)
    assert said["converged"] and said["iterations"] > 0
    assert "tracks" not in result.diagnostics


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_videos_say_it_too(frames):
    said = align(exact_windows(frames)[0], config=STILL).diagnostics["joint"]
    check_summary(said, STILL.joint.iterations)
    assert said["converged"]


def test_too_few_iterations_are_not_called_convergence(noisy):
    predictions, _, _ = noisy
    said = align(predictions, config=replace(STILL, joint=JointConfig(iterations=1))).diagnostics["joint"]
    assert said == {"converged": False, "reason": OUT_OF_STEPS, "iterations": 1, "trials": said["trials"]}
    assert OUT_OF_STEPS == "the number of steps is used up"


def test_tracks_that_are_used_say_how_their_solve_ended():
    true = camera_path(FRAMES)
    bent = true.clone()
    bent[:, :3, 3] += (
        0.25 * torch.sin(torch.linspace(0, 9, FRAMES, dtype=torch.float64))[:, None] * torch.tensor([0.3, 1.0, 0.2])
    )
    predictions, _ = exact_windows(FRAMES, poses=torch.linalg.inv(bent[:1]) @ bent, stride=2, length=8)
    said = align(replace(predictions, source_size=SIZE), tracks=tracks_of(true), config=STILL).diagnostics
    check_summary(said["joint"], STILL.joint.iterations)
    check_summary(said["tracks"], BundleConfig().iterations)
    assert said["tracks"]["used"] and said["tracks"]["converged"] and "unused_because" not in said["tracks"]


def test_tracks_that_are_not_used_say_how_their_solve_ended_and_why_they_are_not(noisy):
    predictions, _, poses = noisy
    exact, _ = exact_windows(FRAMES, length=8, stride=4)
    said = align(replace(exact, source_size=SIZE), tracks=tracks_of(poses, noise=0.3), config=STILL).diagnostics[
        "tracks"
    ]
    check_summary(said, BundleConfig().iterations)
    assert not said["used"] and "explain the points about as well" in said["unused_because"]
    # with nothing to solve there is nothing to say of a solve
    given = Priors(cam_to_world=poses.numpy())
    without = align(predictions, tracks=tracks_of(poses), config=STILL, priors=given).diagnostics["tracks"]
    assert "converged" not in without and without["unused_because"] == "the cameras were given"


def test_a_growing_alignment_says_it_too(noisy):
    predictions, _, _ = noisy
    growing = IncrementalAlignment(STILL)
    growing.update(predictions)
    said = growing.reconstruct(predictions).diagnostics["joint"]
    assert said["converged"] and said["iterations"] > 0  # of the last `update`


def test_where_no_windows_are_solved_together_nothing_is_said_of_it(noisy):
    predictions, _, _ = noisy
    for config in (replace(STILL, use_points=False), replace(STILL, use_points=False, use_disparity=False)):
        assert "joint" not in align(predictions, config=config).diagnostics
    paper = align(predictions, config=replace(STILL, solver="paper", paper=PaperConfig(steps=3))).diagnostics
    assert "joint" not in paper and paper["solver"] == "paper"
