"""XFeat, a small network for keypoints and descriptors: kornia's implementation with the weights that ship.

Images are (h, w) uint8; positions (n, 2), x and y in pixels, with pixel centres at whole numbers.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from geo4d.errors import CheckpointError

if TYPE_CHECKING:
    from kornia.feature import XFeat

WEIGHTS = Path(str(resources.files("geo4d"))) / "weights" / "xfeat.safetensors"
XFEAT_SIZE = 64  # numbers of a descriptor
MULTIPLE = 32  # pixels: sides that the network takes
DETECTION = 0.05  # least probability of a keypoint, as published: lower ones are not found again
COUNTER = ".num_batches_tracked"  # of batch normalisation, which only training reads: not in our file


@lru_cache(maxsize=2)
def load_xfeat(path: Path) -> XFeat:
    """The network in single precision, ready to be used. Raises CheckpointError if the file is missing or broken."""
    from kornia.feature import XFeat

    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"XFeat's weights {path} cannot be read ({str(error).splitlines()[0]}); install geo4d again, or set "
            "`kind=sift` of the features."
        ) from error
    network = XFeat(detection_threshold=DETECTION)
    wanted = {k: v for k, v in network.net.state_dict().items() if not k.endswith(COUNTER)}
    wrong = sorted(k for k in wanted.keys() | found.keys() if k not in wanted or not _fits(found.get(k), wanted[k]))
    if wrong:
        raise CheckpointError(
            f"{path} does not hold XFeat's weights: {len(wrong)} tensors are missing, left over, of another shape or "
            f"not finite ({wrong[0]}, ...); install geo4d again, or set `kind=sift` of the features."
        )
    network.net.load_state_dict({k: v.float() for k, v in found.items()}, strict=False)  # all but the counters
    return network.eval()


def detect_xfeat(image: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 2) float64 of the `most` surest keypoints, and descriptors (n, 64) float16 of length one.

    Raises CheckpointError if the weights are missing or broken.
    """
    import cv2

    height, width = image.shape
    size = tuple(max(MULTIPLE, MULTIPLE * round(side / MULTIPLE)) for side in (width, height))
    smooth = cv2.INTER_AREA if size[0] <= width and size[1] <= height else cv2.INTER_LINEAR
    fitted = image if size == (width, height) else cv2.resize(image, size, interpolation=smooth)
    network = load_xfeat(WEIGHTS)
    found = network.detectAndCompute(torch.from_numpy(fitted)[None, None].float() / 255, top_k=most)[0]
    position = found["keypoints"].double().numpy() + 0.5
    return position * (width / size[0], height / size[1]) - 0.5, found["descriptors"].numpy().astype(np.float16)


def _fits(found: torch.Tensor | None, wanted: torch.Tensor) -> bool:
    return (
        found is not None and found.is_floating_point() and found.shape == wanted.shape and bool(found.isfinite().all())
    )
