"""Plane sweeps: pictures that are shifted copies of one another."""

import pytest
import torch

from geo4d.errors import ConfigError
from geo4d.geometry.pixels import pixel_grid
from geo4d.matching.sweep import (
    OtherView,
    SweepConfig,
    best_hypothesis,
    box_mean,
    describe,
    matching_cost,
    semi_global,
)

HEIGHT, WIDTH, CONFIG = 40, 60, SweepConfig()


def texture(shift: float = 0.0) -> torch.Tensor:
    """Grey waves of many lengths, moved to the right by so many pixels."""
    generator = torch.Generator().manual_seed(0)
    waves = torch.rand(40, 4, generator=generator)
    u, v = pixel_grid(HEIGHT, WIDTH).unbind(-1)
    phase = (u - shift)[..., None] * (waves[:, 0] - 0.5) * 2 + v[..., None] * (waves[:, 1] - 0.5) * 2
    return (phase + 6.28 * waves[:, 2]).sin().mean(-1) + 0.5


def other(picture: torch.Tensor, pixels: float) -> OtherView:
    """A view in which inverse depth 1 moves a pixel by so many to the right."""
    start = torch.cat([pixel_grid(HEIGHT, WIDTH), torch.ones(HEIGHT, WIDTH, 1)], dim=-1)
    return OtherView(describe(picture, CONFIG), start, torch.tensor([pixels, 0.0, 0.0]))


def test_the_shift_of_a_picture_is_found_between_hypotheses() -> None:
    hypotheses = torch.linspace(0.2, 1.0, 17)[:, None, None].expand(-1, HEIGHT, WIDTH)
    cost = matching_cost(describe(texture(), CONFIG), [other(texture(6.3), 10.0)], hypotheses, CONFIG)
    found = 0.2 + 0.05 * best_hypothesis(semi_global(cost, CONFIG))
    assert float((found - 0.63).abs()[8:-8, 8:-16].mean()) < 0.02  # a fifth of a pixel


def test_exposure_makes_no_difference() -> None:
    assert torch.allclose(describe(texture(), CONFIG), describe(0.5 * texture() + 0.2, CONFIG), atol=0.03)


def test_outside_another_view_costs_are_neutral() -> None:
    far = torch.full((4, HEIGHT, WIDTH), 50.0)
    cost = matching_cost(describe(texture(), CONFIG), [other(texture(), 10.0)], far, CONFIG)
    assert torch.allclose(cost, torch.full_like(cost, CONFIG.unseen))


def test_a_speck_is_overruled_by_its_neighbours_and_a_step_is_kept() -> None:
    best = torch.zeros(HEIGHT, WIDTH, dtype=torch.long)
    best[:, WIDTH // 2 :] = 6
    cost = torch.ones(9, HEIGHT, WIDTH).scatter(0, best[None], 0.0)
    cost[:, 20, 15] = 0.3
    cost[8, 20, 15] = 0.2
    found = semi_global(cost, CONFIG).argmin(0)
    assert torch.equal(found, best)


def test_box_means_are_means() -> None:
    values = torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(1))
    mean = box_mean(values, 1)
    assert torch.allclose(mean[:, 3, 4], values[:, 2:5, 3:6].mean((1, 2)))
    assert torch.allclose(box_mean(torch.ones(1, 5, 5), 2), torch.ones(1, 5, 5))


def test_numbers_that_cannot_work_are_refused() -> None:
    for wrong in ({"patch": 4}, {"window": 2}, {"unseen": 2.0}, {"step_cost": 1.0}, {"spread_floor": 0.0}):
        with pytest.raises(ConfigError):
            SweepConfig(**wrong)
