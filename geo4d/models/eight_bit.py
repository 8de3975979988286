"""Weights of linear layers in 8 bits: whole numbers from -127 to 127 and one scale an output channel.

On disk a weight NAME (o, i) is NAME.int8 (o, i) and NAME.scale (o,) in float16: weight = int8 * scale. Weights that
were rounded once (`rounded`) are held exactly, so that a model is the same before it is stored and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from geo4d._typing import Float, Int, Tensor
from geo4d.errors import CheckpointError
from geo4d.models.untrusted import SafeTensors

LARGEST = 127
INTEGERS, SCALE = ".int8", ".scale"


def quantise(weight: Float[Tensor, "o i"]) -> tuple[Int[Tensor, "o i"], Float[Tensor, "o"]]:
    """The nearest whole numbers in int8, and the scale of each row in float16."""
    weight = weight.detach().float()
    # a scale below the smallest normal number would be coarse itself
    scale = (weight.abs().amax(dim=1) / LARGEST).clamp_min(torch.finfo(torch.float16).tiny).half()
    integers = (weight / scale.float()[:, None]).round().clamp(-LARGEST, LARGEST)
    return integers.to(torch.int8), scale


def dequantise(integers: Int[Tensor, "o i"], scale: Float[Tensor, "o"]) -> Float[Tensor, "o i"]:
    """The weight in float32."""
    return integers.float() * scale.float()[:, None]


def rounded(weight: Float[Tensor, "o i"]) -> Float[Tensor, "o i"]:
    """The nearest weight that 8 bits hold exactly."""
    return dequantise(*quantise(weight)).to(weight)


def pack(state: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """The tensors of a model as they are stored, those of `names` in 8 bits."""
    packed = {}
    for name, value in state.items():
        if name in names:
            packed[name + INTEGERS], packed[name + SCALE] = quantise(value)
        else:
            packed[name] = value
    return packed


class Unpacked(Mapping[str, Tensor]):
    """The tensors of a file by the names of the model: what is in 8 bits is put together when it is asked for."""

    def __init__(self, stored: SafeTensors, names: set[str]) -> None:
        """`names` are those that may be in 8 bits; a file may also hold them as they are, but not both ways."""
        self._stored = stored
        self._packed = {name for name in names if name + INTEGERS in stored and name not in stored}

    def __getitem__(self, name: str) -> Tensor:
        """Reads the tensor. Raises CheckpointError if its parts are of other dtypes than documented."""
        if name not in self._packed:
            return self._stored[name]
        integers, scale = self._stored[name + INTEGERS], self._stored[name + SCALE]
        if integers.dtype != torch.int8 or scale.dtype != torch.float16:
            raise CheckpointError(
                f"{name} is stored as {integers.dtype} with scales of {scale.dtype}, expected int8 and float16; "
                "download the file again."
            )
        return dequantise(integers, scale)

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self.shapes())

    def __len__(self) -> int:
        """How many."""
        return len(self.shapes())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor; parts that do not fit each other stand under their own names."""
        shapes = self._stored.shapes()
        for name in self._packed:
            rows, scale = shapes[name + INTEGERS], shapes.get(name + SCALE)
            if len(rows) == 2 and scale == rows[:1]:
                shapes[name] = rows
                del shapes[name + INTEGERS], shapes[name + SCALE]
        return shapes
