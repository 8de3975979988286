"""Weight files from anywhere.

Read without running anything, without trusting any size, without a second copy in memory.
"""

from __future__ import annotations

import logging
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from geo4d._typing import Tensor
from geo4d.errors import CheckpointError
from geo4d.scene import arrays

logger = logging.getLogger(__name__)

MAX_STRUCTURE = 64 * 2**20  # bytes of a file's table of contents; a real one has about one
HARMLESS = (
    "pytorch_lightning.",
    "lightning.",
    "lightning_fabric.",
    "omegaconf.",
    "deepspeed.",
    "numpy.",
    "typing.",
    "collections.",
    "pathlib.",
)
SHOWN = 10
# statistics and constants, whatever the networks' dtype
KEPT_FLOAT32 = ("normalizer.", "context", "frame_encoder.mean", "frame_encoder.std", "frame_encoder.projection")
_BROKEN = (
    RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, OSError, OverflowError,
    MemoryError, AssertionError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


class Inert:
    """Takes the place of a trainer's own objects in a checkpoint; does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def __setstate__(self, state: Any) -> None:
        """Forgets the state."""


def read_torch_file(path: Path) -> Any:
    """What `torch.save` wrote, its tensors mapped from the file rather than read.

    Objects of training frameworks become `Inert`. Raises CheckpointError for a file that is damaged, that holds
    anything else than data, or whose sizes do not add up.
    """
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        _check_archive(path)
    else:
        logger.info("%s is in torch's old format, which has to be read as a whole.", path.name)
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_zip else []
            if not names or not all(name.startswith(HARMLESS) for name in names):
                raise
            with torch.serialization.safe_globals([(Inert, name) for name in names]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, which was not run ({_first_line(error)}); expected its publisher's file "
            "of weights."
        ) from error
    except _BROKEN as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({_first_line(error)}); expected a file that torch.save wrote: "
            "download it again."
        ) from error


def _check_archive(path: Path) -> None:
    """A torch file stores everything uncompressed.

    What claims to be larger than the file is refused before it is opened.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _BROKEN as error:
        raise CheckpointError(f"{path} is a damaged archive ({_first_line(error)}); download it again.") from error
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    claimed = sum(entry.file_size for entry in entries)
    structure = max((entry.file_size for entry in entries if entry.filename.endswith("data.pkl")), default=0)
    if compressed or claimed > path.stat().st_size or structure > MAX_STRUCTURE:
        raise CheckpointError(
            f"{path} is not what torch.save writes: it claims to unpack to {claimed} bytes from {path.stat().st_size}; "
            "download it again."
        )


class SafeTensors(Mapping[str, Tensor]):
    """The tensors of one or more safetensors files, each read when it is asked for."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Raises CheckpointError for a file that is damaged or something else."""
        self._where: dict[str, Any] = {}
        self.metadata: dict[str, str] = {}
        for path in paths:
            try:
                file = safe_open(path, framework="pt")
                names = list(file.keys())
                self.metadata |= file.metadata() or {}
            except (SafetensorError, OSError, ValueError) as error:
                raise CheckpointError(
                    f"{path} is not a safetensors file ({_first_line(error)}); expected a file that geo4d wrote."
                ) from error
            self._where.update(dict.fromkeys(names, file))

    def __getitem__(self, name: str) -> Tensor:
        """Reads the tensor."""
        return self._where[name].get_tensor(name)

    def __iter__(self) -> Any:
        """Names."""
        return iter(self._where)

    def __len__(self) -> int:
        """How many."""
        return len(self._where)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, without reading any."""
        return {name: tuple(file.get_slice(name).get_shape()) for name, file in self._where.items()}


def differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """What is missing, left over or of the wrong shape, the first ten of each; empty if nothing is."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    wrong = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    said = [(missing, "missing"), (extra, "left over"), (wrong, "of the wrong shape")]
    return "; ".join(
        f"{len(names)} {what} ({', '.join(map(str, names[:SHOWN]))}{', ...' * (len(names) > SHOWN)})"
        for names, what in said
        if names
    )


def fill(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None,
    device: torch.device | str,
    origin: str,
) -> None:
    """Gives a module that was built without memory its weights, one tensor after the other; names and shapes must fit.

    `dtype` None keeps each tensor's own. Raises CheckpointError if a value is not a finite number.
    """
    state = {}
    for name in module.state_dict():
        kept = torch.float32 if name.startswith(KEPT_FLOAT32) else dtype
        value = tensors[name].detach()
        if value.layout != torch.strided or not value.is_floating_point():
            raise CheckpointError(
                f"{origin}: {name} is {value.dtype} ({value.layout}), expected plain floating-point numbers."
            )
        state[name] = value.to(device=device, dtype=kept or value.dtype, copy=True).contiguous()
        if not all(bound.isfinite() for bound in state[name].float().aminmax()):
            raise CheckpointError(
                f"{origin}: {name} holds values that are not finite; download it again, or use another dtype."
            )
    module.load_state_dict(state, assign=True)


def read_json(path: Path) -> Any:
    """A small JSON file. Raises CheckpointError if it is missing, huge or something else."""
    try:
        return arrays.read_json(path, MAX_STRUCTURE)
    except arrays.Unreadable as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); expected a few kilobytes of JSON that geo4d wrote."
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch's own message begins with advice on how to run the file after all, which is not ours to give
    reason = next((line for line in lines if "GLOBAL" in line), lines[0] if lines else type(error).__name__)
    return reason.split(". Please use")[0][:200]
