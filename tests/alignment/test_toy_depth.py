"""A source of depth of one's own: a class, a factory and a name; nothing else has to know of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scenes import exact_windows

from geo4d.alignment import AlignmentConfig, align
from geo4d.alignment.depth.config import DepthConfig
from geo4d.alignment.depth.dense import SOURCES, SourceInputs, register
from geo4d.alignment.depth.fusion import Fusion
from geo4d.alignment.depth.sources import Candidates, DepthSource
from geo4d.errors import ConfigError

FRAMES = 20


@dataclass(frozen=True)
class Wall:
    """Something that knows how far all is, such as stereo would: log depth (t, h, w) in the unit of the windows."""

    log_depth: torch.Tensor
    frames: torch.Tensor
    modality: str | None = None

    def __call__(self, rows: torch.Tensor, index: torch.Tensor | None) -> Candidates:
        depth = self.log_depth[self.frames[rows[:, 0], rows[:, 1]]]
        depth = depth if index is None else depth.flatten(1)[:, index]
        return Candidates(depth, torch.full_like(depth, 50.0))


@pytest.fixture
def known(scene) -> Iterator[AlignmentConfig]:
    """The source under a name, for as long as a test runs; it is brought to the unit of what was fused before it."""
    _, (depth, _) = scene
    log_depth = torch.from_numpy(depth).log().float()

    def make(evidence: SourceInputs, fusion: Fusion) -> DepthSource | None:
        offset = (fusion.at(evidence.index)[0] - log_depth.flatten(1)[:, evidence.index]).nanmedian()
        return Wall(log_depth + offset, fusion.windows)

    register("wall", make)
    yield AlignmentConfig(motion=False, depth=DepthConfig(sources=("points", "disparity", "wall")))
    del SOURCES["wall"]


@pytest.fixture(scope="module")
def scene():
    predictions, truth = exact_windows(FRAMES, noise=0.1)
    return replace(predictions, disparity=None), truth


def error(result, depth) -> float:
    ratio = np.log(result.depth / depth)
    return float(np.abs(ratio - np.median(ratio)).mean())


def test_a_source_that_only_a_test_knows_is_fused(scene, known) -> None:
    predictions, (depth, _) = scene
    without, result = align(predictions, config=AlignmentConfig(motion=False)), align(predictions, config=known)
    assert error(result, depth) < 0.3 * error(without, depth)
    np.testing.assert_array_equal(result.cam_to_world, without.cam_to_world)


@pytest.mark.parametrize("sources", [("disparity", "points"), ("points", "sonar"), ()])
def test_lists_of_sources_that_cannot_work_are_refused(scene, sources) -> None:
    with pytest.raises(ConfigError, match=r"depth\.sources must begin with points"):
        align(scene[0], config=AlignmentConfig(depth=DepthConfig(sources=sources)))


def test_a_name_is_given_once() -> None:
    with pytest.raises(ConfigError, match="a source of depth 'points' already"):
        register("points", lambda evidence, fusion: None)
