"""Ground truth of clips."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch

from geo4d._typing import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Clip:
    """Ground truth of one clip, or of a batch of clips (leading axes `...`).

    `depth` is z-depth in scene units and is 0 where `sky`; `valid` says where it is known (never in the sky).
    `instance` numbers the objects (0: background, -1: sky); `dynamic` is true where the surface itself moves.
    """

    rgb: Float[Tensor, "... t h w 3"]  # in [0, 1]
    depth: Float[Tensor, "... t h w"]
    valid: Bool[Tensor, "... t h w"]
    sky: Bool[Tensor, "... t h w"]
    intrinsics: Float[Tensor, "... t 3 3"]
    cam_to_world: Float[Tensor, "... t 4 4"]
    instance: Int[Tensor, "... t h w"] | None = None
    dynamic: Bool[Tensor, "... t h w"] | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)  # (..., t, ...) each, which only some rooms know

    def map(self, function: Any) -> Clip:
        """Returns the clip with `function` applied to every tensor (indexing, moving to a device, ...)."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        changed = {name: None if value is None else function(value) for name, value in tensors.items()}
        return Clip(**changed, extra={name: function(value) for name, value in self.extra.items()})

    def to(self, device: torch.device | str) -> Clip:
        """Moves every tensor to `device`."""
        return self.map(lambda tensor: tensor.to(device))
