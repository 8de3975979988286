"""v, x0 and noise determine each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geo4d.diffusion.parameterization import add_noise, noise_from_v, v_from, x0_from_v


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), shape=st.sampled_from([(), (3,), (4, 2, 3, 5)]), batch=st.integers(1, 3))
def test_round_trip(seed: int, shape: tuple[int, ...], batch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, batch, *shape, generator=generator, dtype=torch.float64)
    alpha = torch.rand(batch, generator=generator, dtype=torch.float64)
    x_t, v = add_noise(x0, noise, alpha), v_from(x0, noise, alpha)
    torch.testing.assert_close(x0_from_v(x_t, v, alpha), x0, atol=1e-12, rtol=0)
    torch.testing.assert_close(noise_from_v(x_t, v, alpha), noise, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("alpha", "expected_x", "expected_v"), [(1.0, "x0", "noise"), (0.0, "noise", "-x0")])
def test_ends_of_the_schedule(alpha: float, expected_x: str, expected_v: str) -> None:
    x0, noise = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])
    known = {"x0": x0, "noise": noise, "-x0": -x0}
    assert torch.equal(add_noise(x0, noise, torch.tensor([alpha])), known[expected_x])
    assert torch.equal(v_from(x0, noise, torch.tensor([alpha])), known[expected_v])


def test_dtype_stays() -> None:
    x0 = torch.ones(2, 3, dtype=torch.float64)
    assert add_noise(x0, x0, torch.tensor([0.5, 0.2])).dtype == torch.float64
