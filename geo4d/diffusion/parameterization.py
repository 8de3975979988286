"""v, x0 and noise, each from the others: x_t = sqrt(a) x0 + sqrt(1 - a) noise, v = sqrt(a) noise - sqrt(1 - a) x0."""

from __future__ import annotations

from geo4d._typing import Tensor


def _roots(alpha: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(a) and sqrt(1 - a), one a batch row, shaped to multiply `like`."""
    alpha = alpha.reshape(-1, *[1] * (like.ndim - 1)).to(like)
    return alpha.sqrt(), (1 - alpha).sqrt()


def add_noise(x0: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """x_t; `alpha` (b,) is alphas_cumprod at each row's step."""
    signal, spread = _roots(alpha, x0)
    return signal * x0 + spread * noise


def v_from(x0: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """V of a sample and its noise."""
    signal, spread = _roots(alpha, x0)
    return signal * noise - spread * x0


def x0_from_v(x_t: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """The sample that x_t and v stand for."""
    signal, spread = _roots(alpha, x_t)
    return signal * x_t - spread * v


def noise_from_v(x_t: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """The noise that x_t and v stand for."""
    signal, spread = _roots(alpha, x_t)
    return signal * v + spread * x_t
