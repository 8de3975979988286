"""Completion along the edges of a picture."""

import torch

from geo4d.matching.completion import complete


def test_what_is_known_fills_its_own_side_of_an_edge() -> None:
    picture = torch.zeros(3, 20, 30)
    picture[:, :, 15:] = 1.0
    values, weight = torch.zeros(20, 30), torch.zeros(20, 30)
    values[10, 4], weight[10, 4] = 1.0, 1.0
    values[5, 25], weight[5, 25] = -2.0, 1.0
    found = complete(values, weight, picture, smoothness=100.0, edge=0.05)
    assert float((found[:, :14] - 1).abs().max()) < 0.01
    assert float((found[:, 16:] + 2).abs().max()) < 0.01


def test_a_constant_stays_and_weights_decide() -> None:
    picture, generator = torch.rand(3, 16, 16), torch.Generator().manual_seed(0)
    weight = torch.rand(16, 16, generator=generator)
    assert torch.allclose(
        complete(torch.full((16, 16), 0.7), weight, picture, smoothness=30.0, edge=0.1),
        torch.full((16, 16), 0.7),
        atol=1e-5,
    )
    values = torch.where(torch.arange(16) % 2 == 0, 1.0, 0.0).expand(16, 16)
    sure = torch.where(values > 0, 1.0, 1e-3)
    flat = complete(values, sure, torch.zeros(3, 16, 16), smoothness=100.0, edge=0.1)
    assert float(flat.min()) > 0.95
