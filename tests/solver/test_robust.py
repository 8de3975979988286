"""The robust losses: the family's famous members, their derivatives, and the shape that residuals teach."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geo4d.solver.robust import GEMAN_MCCLURE, REACH, SHAPES, SIZES, SQUARE, Loss, absolute_weight, learn_loss

X = torch.linspace(0, 40, 401, dtype=torch.float64)
SHAPE = st.one_of(st.sampled_from([*SHAPES, 2.0, 1.0, -100.0]), st.floats(-20, 2))
SIZE = st.floats(0.3, 5)
MEMBERS = {
    "quadratic": (2.0, lambda x, c: x**2),
    "Charbonnier": (1.0, lambda x, c: 2 * c**2 * ((x / c) ** 2 + 1).sqrt() - 2 * c**2),
    "Cauchy": (0.0, lambda x, c: 2 * c**2 * torch.log1p((x / c) ** 2 / 2)),
    "Geman-McClure": (-2.0, lambda x, c: 4 * x**2 / ((x / c) ** 2 + 4)),
    "Welsch": (-1e7, lambda x, c: 2 * c**2 * (1 - torch.exp(-((x / c) ** 2) / 2))),
}


@pytest.mark.parametrize("size", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", MEMBERS)
def test_the_famous_members_of_the_family(name, size):
    shape, formula = MEMBERS[name]
    # twice Barron's loss times the squared size, so that it begins as the square of the residual
    torch.testing.assert_close(Loss(shape, size).value(X**2), formula(X, size), rtol=1e-5, atol=1e-6)


def test_the_default_is_cauchy_with_half_the_weight_at_four_medians():
    assert float(Loss().weight(torch.tensor(16.0, dtype=torch.float64))) == pytest.approx(0.5)
    torch.testing.assert_close(Loss(2.0).weight(X**2), torch.ones_like(X))


NAMED = {
    "square": (SQUARE, lambda square: square),
    "cauchy": (Loss.cauchy(1.4), lambda square: 1.4**2 * torch.log1p(square / 1.4**2)),
    "Geman-McClure": (GEMAN_MCCLURE, lambda square: square / (1 + square)),
    "default": (Loss(), lambda square: 16 * torch.log1p(square / 16)),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_losses_that_have_a_name(name):
    loss, formula = NAMED[name]
    square = (X**2).requires_grad_()
    torch.testing.assert_close(loss.value(square), formula(square), rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(formula(square).sum(), square)
    torch.testing.assert_close(loss.weight(X**2), slope, rtol=1e-12, atol=0)


@pytest.mark.parametrize("width", [0.3, 1.0, 6.0])
def test_cauchy_s_weight_is_one_half_at_its_width(width):
    assert float(Loss.cauchy(width).weight(torch.tensor(width**2, dtype=torch.float64))) == pytest.approx(0.5)


def test_what_is_infinitely_far_off_has_no_weight_in_any_loss_but_the_square():
    far = torch.tensor([0.0, torch.inf], dtype=torch.float64)
    for loss in (Loss(), GEMAN_MCCLURE, Loss(1.0)):
        assert loss.weight(far).tolist() == [1.0, 0.0]
    assert SQUARE.weight(far).tolist() == [1.0, 1.0]


@settings(max_examples=40, deadline=None)
@given(st.one_of(SHAPE, st.sampled_from([-2.0, 0.0, 2.0])), SIZE, st.sampled_from([np.float64, np.float32]))
def test_numpy_has_the_same_weights_as_torch(shape, size, kind):
    loss, square = Loss(shape, size), (X**2).numpy().astype(kind)
    by_numpy, by_torch = loss.weight(square), loss.weight(torch.from_numpy(square))
    assert isinstance(by_numpy, np.ndarray) and by_numpy.dtype == kind and by_torch.numpy().dtype == kind
    np.testing.assert_allclose(by_numpy, by_torch.numpy(), rtol=1e-12 if kind is np.float64 else 1e-5)


@settings(max_examples=60, deadline=None)
@given(SHAPE, SIZE)
def test_the_weight_is_the_derivative_of_the_value(shape, size):
    loss = Loss(shape, size)
    square = (X**2).requires_grad_()
    (slope,) = torch.autograd.grad(loss.value(square).sum(), square)
    torch.testing.assert_close(
        loss.weight(X**2), slope, rtol=1e-3, atol=1e-9
    )  # within a thousandth of 0 the value is Cauchy's
    # rho'(x) / x is twice that: what a reweighted least squares needs
    x, h = X[1:], 1e-5
    numeric = (loss.value((x + h) ** 2) - loss.value((x - h) ** 2)) / (2 * h) / x
    # near shape 0 the value is a difference of nearly equal numbers
    torch.testing.assert_close(2 * loss.weight(x**2), numeric, rtol=1e-3, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(SHAPE, SIZE)
def test_every_member_begins_as_the_square_and_rises_ever_more_slowly(shape, size):
    loss = Loss(shape, size)
    value, weight = loss.value(X**2), loss.weight(X**2)
    assert value[0] == 0 and weight[0] == 1
    small = torch.tensor(1e-4 * size, dtype=torch.float64) ** 2
    assert float(loss.value(small) / small) == pytest.approx(1, rel=1e-4)
    assert (
        bool((value.diff() >= 0).all())
        and bool((weight.diff() <= 0).all())
        and bool((value <= X**2 * (1 + 1e-6)).all())
    )


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.sampled_from([-1e-3, 0.0, 1e-3, 2 - 1e-3, 2.0, 1.0]), st.floats(-20, 2)), SIZE)
def test_neighbouring_shapes_are_nearly_the_same_loss(shape, size):
    one, other = Loss(shape, size), Loss(min(shape + 2e-4, 2.0), size)
    a, b = one.value(X**2), other.value(X**2)
    assert bool(((a - b).abs() <= 5e-3 * (a + size**2)).all())
    assert bool(((one.weight(X**2) - other.weight(X**2)).abs() <= 5e-3).all())


@settings(max_examples=30, deadline=None)
@given(st.floats(-10, 1.9), st.floats(0.05, 2), SIZE)
def test_lower_shapes_forgive_more(shape, more, size):
    lower, higher = Loss(shape - more, size), Loss(min(shape, 2.0), size)
    assert bool((lower.weight(X**2) <= higher.weight(X**2) + 1e-12).all())
    assert lower.value(X[-1] ** 2) < higher.value(X[-1] ** 2)


def residuals(kind, dimensions, count=6000, seed=0):
    """Squared residuals in units of their median."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    if kind == "student":
        spread = torch.randn(count, 2, generator=generator, dtype=torch.float64).square().mean(dim=1, keepdim=True)
        normal = normal / spread.sqrt()  # two degrees of freedom
    if kind == "outliers":
        far = 5 + 15 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
        normal = torch.where(torch.rand(count, 1, generator=generator) < 0.15, normal * far, normal)
    length = normal.norm(dim=1)
    return (length / length.median()).square()


@pytest.mark.parametrize("dimensions", [1, 2])
def test_ordinary_residuals_teach_a_nearly_quadratic_loss_and_wild_ones_a_forgiving_one(dimensions):
    one = torch.ones(6000, dtype=torch.float64)
    gentle, heavy, wild = (
        learn_loss(residuals(kind, dimensions), one, dimensions) for kind in ("normal", "student", "outliers")
    )
    ordinary, far = torch.tensor(2.0**2, dtype=torch.float64), torch.tensor(10.0**2, dtype=torch.float64)
    # of the shapes that are tried, none is the square itself: what lies beyond reach must stay bounded
    assert gentle.shape >= 1 and gentle.weight(ordinary) > 0.4
    for loss in (heavy, wild):
        assert loss.shape < gentle.shape
        assert loss.weight(far) < 0.5 * gentle.weight(far)


def test_the_likeliest_of_all_shapes_is_found():
    square = residuals("student", 1)
    found = learn_loss(square, torch.ones(len(square), dtype=torch.float64), 1)
    grid = torch.linspace(0, REACH, 3000, dtype=torch.float64)

    def surprise(loss):
        """Mean negative log likelihood."""
        mass = torch.exp(-loss.value(grid**2) / (2 * loss.size**2)).sum().log()
        return float(loss.value(square[square < REACH**2]).mean()) / (2 * loss.size**2) + float(mass)

    every = [surprise(Loss(shape, size)) for shape in SHAPES for size in SIZES]
    assert surprise(found) == pytest.approx(min(every), abs=1e-9)


def test_pixels_without_weight_and_without_end_teach_nothing():
    square = residuals("normal", 2)
    weight = torch.ones(len(square), dtype=torch.float64)
    expected = learn_loss(square, weight, 2)
    bad = torch.cat(
        [
            square,
            torch.full((9000,), 400.0, dtype=torch.float64),
            torch.tensor([torch.nan, torch.inf], dtype=torch.float64),
        ]
    )
    none = torch.zeros(9002, dtype=torch.float64)
    assert learn_loss(bad, torch.cat([weight, none]), 2) == expected
    bad[-9002:] = (2 * REACH) ** 2  # beyond reach, whatever their weight
    assert learn_loss(bad, torch.ones(len(bad), dtype=torch.float64), 2) == expected
    # weights count as repetitions do
    heavy = residuals("student", 2)
    both, first = torch.cat([square, heavy]), torch.cat([weight, 1e-9 * weight])
    assert learn_loss(both, first, 2) == expected != learn_loss(both, first.flip(0), 2)


def test_few_residuals_leave_the_loss_as_it_is():
    assert learn_loss(residuals("normal", 1, count=99), torch.ones(99, dtype=torch.float64), 1) == Loss()


def test_weights_of_least_absolute_deviations_lead_to_the_median():
    values = torch.tensor([[0.0, 1.0, 2.0, 50.0, 90.0], [3.0, 3.5, 4.0, -70.0, 9.0]], dtype=torch.float64)
    middle = values.mean(dim=1)
    for _ in range(200):
        weight = absolute_weight(values - middle[:, None])
        middle = (weight * values).sum(1) / weight.sum(1)
    torch.testing.assert_close(middle, values.median(dim=1).values, rtol=0, atol=0.1)
    assert bool(absolute_weight(torch.zeros(1, 3, dtype=torch.float64)).isfinite().all())
