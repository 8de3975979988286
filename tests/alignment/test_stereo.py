"""Depth by near views: a room whose walls are textured, seen by known cameras."""

import time
from dataclasses import replace

import numpy as np
import pytest
import scenes
import torch

from geo4d.alignment.cameras import Cameras, FixedIntrinsics
from geo4d.alignment.depth.config import StereoConfig
from geo4d.alignment.depth.stereo import NearViews, _each_frame, refine_depth
from geo4d.errors import ConfigError
from geo4d.geometry.camera import intrinsics_from_focal
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import so3_exp

SIZE, FRAMES, FOCAL = (96, 144), 9, 120.0


def world_colour(points: torch.Tensor) -> torch.Tensor:
    """Waves in space, about a tenth of a unit long and longer."""
    waves = torch.rand(60, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    phase = points @ ((waves[:, :3].T - 0.5) * 30) + 6.28 * waves[:, 3]
    return 127 + 127 * phase.sin().mean(-1) * 2.5


def room(move=(0.9, 0.1, 0.3), turn=0.3):
    """Pictures, true log depth and cameras."""
    poses = scenes.camera_path(FRAMES, turn=turn, move=move)
    focal = torch.full((FRAMES,), FOCAL, dtype=torch.float64)
    depth, rays = scenes.render(poses, intrinsics_from_focal(focal, *SIZE), SIZE)
    world = torch.einsum("tij,thwj->thwi", poses[:, :3, :3], depth[..., None] * rays) + poses[:, None, None, :3, 3]
    grey = world_colour(world).clamp(0, 255).byte().numpy()
    cameras = Cameras(poses, focal / max(SIZE), FixedIntrinsics.ideal(FRAMES))
    return np.repeat(grey[..., None], 3, axis=-1), depth.log().float(), cameras


def spoilt(log_depth: torch.Tensor) -> torch.Tensor:
    """Depth as a network gives it: half the size, wrong by whole regions."""
    v, u = torch.meshgrid(torch.linspace(0, 6, SIZE[0]), torch.linspace(0, 8, SIZE[1]), indexing="ij")
    return (log_depth + 0.15 * (u.sin() * v.cos()))[:, ::2, ::2]


def error(log_depth: torch.Tensor, true: torch.Tensor) -> float:
    return float((log_depth - true)[:, 8:-8, 8:-8].abs().mean())


@pytest.mark.parametrize("by_flow", [False, True])
def test_near_views_correct_depth(by_flow: bool) -> None:
    pictures, true, cameras = room()
    rough = spoilt(true)
    before = error(rough.repeat_interleave(2, 1).repeat_interleave(2, 2), true)
    found = refine_depth(rough, cameras, pictures, StereoConfig(), by_flow=by_flow)
    assert found.log_depth.shape == true.shape
    assert error(found.log_depth, true) < 0.5 * before
    assert found.report["gain_in_held_out_views"] > 0
    assert found.report["views_per_frame"] > 1
    sure = found.certainty > 0.7
    wrong = (found.log_depth - true).abs()
    assert float(wrong[sure].mean()) < 0.5 * float(wrong[found.certainty < 0.3].mean())


def test_a_camera_that_stands_still_leaves_depth_but_for_its_edges() -> None:
    pictures, true, cameras = room(move=(0, 0, 0))
    rough = spoilt(true)
    found = refine_depth(rough, cameras, pictures, StereoConfig())
    before = torch.nn.functional.interpolate(rough[:, None], SIZE, mode="bilinear", align_corners=False)[:, 0]
    assert error(found.log_depth, before) < 0.02
    assert abs(error(found.log_depth, true) - error(before, true)) < 0.005
    assert found.report["views_per_frame"] == 0
    assert not found.certainty.any()


def test_cameras_of_another_video_do_little_harm() -> None:
    pictures, true, cameras = room()
    turned = so3_exp(torch.randn(FRAMES, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.05)
    poses = cameras.cam_to_world.clone()
    poses[:, :3, :3] = turned @ poses[:, :3, :3]
    found = refine_depth(true, replace(cameras, cam_to_world=poses), pictures, StereoConfig())
    assert float(found.certainty.mean()) < 0.25
    assert error(found.log_depth, true) < 0.08  # of a range of .45


def test_what_is_unknown_stays_unknown() -> None:
    pictures, true, cameras = room()
    rough = spoilt(true)
    rough[:, :4] = torch.nan
    found = refine_depth(rough, cameras, pictures, StereoConfig())
    assert found.log_depth[:, :8].isnan().all()
    assert found.log_depth[:, 8:].isfinite().all()


def test_the_same_with_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, true, cameras = room()
    found = []
    for processors in (1, 4):
        monkeypatch.setattr("os.cpu_count", lambda processors=processors: processors)
        found.append(refine_depth(spoilt(true), cameras, pictures, StereoConfig()).log_depth)
    assert torch.equal(*found)


def test_who_interrupts_does_not_wait_for_the_other_frames() -> None:
    pictures, _, cameras = room()
    views = NearViews(np.repeat(pictures[:1], 500, axis=0), cameras, 1, StereoConfig(), torch.device("cpu"))
    begun = []

    def work(frame: int) -> None:
        begun.append(frame)
        time.sleep(0.001)

    def stop(done: int) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        _each_frame(views, work, stop)
    assert len(begun) < 250


def test_the_world_frame_makes_no_difference() -> None:
    pictures, true, cameras = room()
    moved = rigid(so3_exp(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)), torch.tensor([1.0, 2, 3]).double())
    one, other = (
        refine_depth(spoilt(true), replace(cameras, cam_to_world=poses), pictures, StereoConfig()).log_depth
        for poses in (cameras.cam_to_world, moved @ cameras.cam_to_world)
    )
    assert float((one - other).abs().median()) < 1e-4


def test_numbers_that_cannot_work_are_refused() -> None:
    for wrong in ({"ranges": (0.3,)}, {"hypotheses": (2, 2)}, {"least_parallax": 5.0}, {"views": 0}):
        with pytest.raises(ConfigError):
            StereoConfig(**wrong)
