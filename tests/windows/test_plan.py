"""The plan covers every frame with windows of the right length, each once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geo4d.errors import ConfigError
from geo4d.windows.plan import plan_windows


@given(frames=st.integers(1, 200), length=st.integers(1, 20), stride=st.integers(1, 20))
def test_every_frame_is_covered_and_no_window_comes_twice(frames: int, length: int, stride: int) -> None:
    if stride > length:
        with pytest.raises(ConfigError, match="leave frames out"):
            plan_windows(frames, length=length, stride=stride)
        return
    windows = plan_windows(frames, length=length, stride=stride)
    assert windows.dtype == torch.int64
    assert windows.shape[1] == min(frames, length)
    assert set(windows.flatten().tolist()) == set(range(frames))
    assert len({tuple(window) for window in windows.tolist()}) == len(windows)
    assert torch.equal(windows, windows[:, :1] + torch.arange(windows.shape[1]))
    assert (windows[1:, 0] > windows[:-1, 0]).all()


def test_the_last_window_is_clamped_to_the_end() -> None:
    assert plan_windows(25, length=16, stride=4)[:, 0].tolist() == [0, 4, 8, 9]
    assert plan_windows(24, length=16, stride=4)[:, 0].tolist() == [0, 4, 8]


@pytest.mark.parametrize("numbers", [(0, 16, 4), (5, 0, 4), (5, 16, 0), (5, 16, -1)])
def test_nonsense_is_refused(numbers: tuple[int, int, int]) -> None:
    frames, length, stride = numbers
    with pytest.raises(ConfigError, match="at least 1"):
        plan_windows(frames, length=length, stride=stride)


@pytest.mark.parametrize(
    ("frames", "starts"), [(16, [0, 0]), (18, [0, 2]), (20, [0, 4, 4]), (23, [0, 4, 7]), (24, [0, 4, 8, 8])]
)
def test_the_released_script_meets_its_last_window_twice(frames: int, starts: list[int]) -> None:
    """Where no clamping is needed (compat 6)."""
    assert plan_windows(frames, as_released=True)[:, 0].tolist() == starts


def test_the_released_script_needs_a_whole_window() -> None:
    with pytest.raises(ConfigError, match="needs at least 16 frames; got 15"):
        plan_windows(15, as_released=True)
