"""What the tests of some machines skip, and small things that many tests share."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(config, items):
    from geo4d.models.storage import WEIGHTS

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))
        if item.get_closest_marker("weights") and not WEIGHTS.is_file():
            item.add_marker(pytest.mark.skip(reason="the embedded weights are not in this checkout"))


@pytest.fixture(autouse=True)
def log_level():
    """Commands set the level of the package's log, which would then be that of the tests after them."""
    logging.getLogger("geo4d").setLevel(logging.NOTSET)
    yield
    logging.getLogger("geo4d").setLevel(logging.NOTSET)


@pytest.fixture
def shared():
    """The folder of reference material beside the checkout; tests that need it skip where there is none."""
    if not SHARED.is_dir():
        pytest.skip("reference material (../shared) is not here")
    return SHARED


@pytest.fixture
def frames():
    """Twenty noisy frames with a moving square."""
    video = np.random.default_rng(0).integers(0, 80, (20, 60, 90, 3), dtype=np.uint8)
    for i in range(20):
        video[i, 20:40, 3 * i : 3 * i + 20] = (200, 120, 40)
    return video


@pytest.fixture
def small_reconstruction():
    """Eight frames of a tilted plane seen by a camera that moves sideways."""
    from geo4d.scene import Reconstruction

    t, h, w = 8, 24, 36
    v, u = np.mgrid[0:h, 0:w]
    depth = np.broadcast_to(2 + 0.05 * (h - v), (t, h, w)).astype(np.float32).copy()
    valid = np.ones((t, h, w), bool)
    valid[:, :3] = False
    depth[~valid] = np.nan
    images = np.broadcast_to(np.stack([u * 6, v * 9, 0 * u + 120], -1), (t, h, w, 3)).astype(np.uint8).copy()
    images[:, 10:14, 10:20, 0] = (np.arange(t) * 30)[:, None, None]
    poses = np.tile(np.eye(4), (t, 1, 1))
    poses[:, 0, 3] = np.linspace(0, 0.5, t)
    poses[:, 2, 3] = np.linspace(0, 0.2, t) ** 2
    intrinsics = np.tile(np.array([[30.0, 0, w / 2], [0, 30.0, h / 2], [0, 0, 1]]), (t, 1, 1))
    confidence = np.where(valid, 1.0, 0.0).astype(np.float32)
    return Reconstruction(depth, confidence, valid, images, intrinsics, poses, np.arange(t) / 10, (48, 72))
