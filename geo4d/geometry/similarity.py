"""Similarities x -> s R x + t, and the best one between two sets of points (Umeyama)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from geo4d._typing import Float, Tensor


@dataclass(frozen=True)
class Similarity:
    """One similarity, or a batch of them."""

    scale: Float[Tensor, "*b"]
    rotation: Float[Tensor, "*b 3 3"]
    translation: Float[Tensor, "*b 3"]

    def apply(self, points: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n 3"]:
        """S R x + t."""
        return self.scale[..., None, None] * points @ self.rotation.mT + self.translation[..., None, :]

    def apply_to(self, index: int, point: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
        """One point by one similarity of a batch."""
        return self.scale[index] * self.rotation[index] @ point + self.translation[index]

    def inverse(self) -> Similarity:
        """The similarity that undoes this one."""
        back = self.rotation.mT
        return Similarity(1 / self.scale, back, -(back @ self.translation[..., None])[..., 0] / self.scale[..., None])

    def __getitem__(self, index: Any) -> Similarity:
        """Some of a batch."""
        return Similarity(self.scale[index], self.rotation[index], self.translation[index])

    def expand(self, count: int) -> Similarity:
        """One similarity, or a batch of one, as a batch of `count`."""
        scale, rotation, translation = (
            self.scale.reshape(1),
            self.rotation.reshape(1, 3, 3),
            self.translation.reshape(1, 3),
        )
        return Similarity(scale.expand(count), rotation.expand(count, 3, 3), translation.expand(count, 3))

    def then(self, following: Similarity) -> Similarity:
        """A batch with another one behind it."""
        return Similarity(*(torch.cat(pair) for pair in zip(self.parts, following.parts, strict=True)))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, rotation, translation."""
        return self.scale, self.rotation, self.translation

    def compose(self, first: Similarity) -> Similarity:
        """The similarity that does `first`, then this one."""
        translation = self.scale[..., None] * (self.rotation @ first.translation[..., None])[..., 0] + self.translation
        return Similarity(self.scale * first.scale, self.rotation @ first.rotation, translation)


def fit_similarity(
    source: Float[Tensor, "*b n 3"],
    target: Float[Tensor, "*b n 3"],
    weight: Float[Tensor, "*b n"],
    *,
    symmetric: bool = False,
) -> Similarity:
    """Minimises sum w |s R source + t - target|^2 (Umeyama 1991).

    With `symmetric` the scale is the ratio of the two spreads: where both sets are noisy, the minimum's scale is too
    small.
    """
    share = (weight / weight.sum(-1, keepdim=True).clamp_min(1e-30))[..., None]
    mean_s, mean_t = (share * source).sum(-2), (share * target).sum(-2)
    s, t = source - mean_s[..., None, :], target - mean_t[..., None, :]
    u, d, vt = torch.linalg.svd((share * t).mT @ s)
    sign = torch.ones_like(d)
    sign[..., 2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vt))
    rotation = u @ (sign[..., None] * vt)
    spread = (share * s.square()).sum((-1, -2)).clamp_min(1e-30)
    scale = ((share * t.square()).sum((-1, -2)) / spread).sqrt() if symmetric else (d * sign).sum(-1) / spread
    return Similarity(scale, rotation, mean_t - scale[..., None] * (rotation @ mean_s[..., None])[..., 0])
