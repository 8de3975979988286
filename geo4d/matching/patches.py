"""Points set in a distant image by their pixels, where it is known roughly how it shows their surroundings.

Patches of both images are laid out as tiles of two pictures, warped alike: Lucas-Kanade has only a small shift to find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geo4d.errors import ConfigError
from geo4d.matching.points import FlowConfig, flow_both_ways, inside


@dataclass(frozen=True)
class PatchConfig:
    """When a patch of one image is believed to be in another."""

    window: int = 15  # pixels, side of the patch that is compared: as where points are followed from frame to frame
    levels: int = 1  # of the pyramid above the image itself: the correction is smaller than half a window
    border: int = 4  # pixels from the edge of the image, within which too little of a patch is seen
    max_cycle_error: float = 0.3  # pixels, forward-backward error: a little more than between frames, for light changes
    max_correction: float = 4.0  # pixels from the prediction: mostly better; farther off other things look alike

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that cannot work."""
        if self.window < 5 or not 0 <= self.levels <= 8 or self.border < 0:
            raise ConfigError("patches need window >= 5, levels from 0 to 8 and border >= 0.")
        if not (self.max_cycle_error > 0 and 0 < self.max_correction <= 100):
            raise ConfigError("patches need max_cycle_error above 0 and max_correction from 0 to 100.")

    @property
    def tile(self) -> int:
        """Pixels a tile: the window and the shift at the pyramid's top, and what its filter reaches beyond."""
        return 2 * (2**self.levels * (self.window // 2) + int(np.ceil(self.max_correction)) + 2)


def relocate(
    source: np.ndarray, target: np.ndarray, position: np.ndarray, warp: np.ndarray, config: PatchConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Which (n,) points of one image are seen in another, and where (n, 2) float32.

    `position` (n, 2) is in the source; `warp` (n, 2, 3) takes offsets from there to predicted positions in the target.
    """
    guess = warp[:, :, 2]
    keep, places = inside(guess, target.shape, config.border), guess.astype(np.float32)
    index = np.flatnonzero(keep)
    if len(index) == 0:
        return keep, places
    # both pictures in the axes of the target, so that patches look alike
    target_tiles = _tiles(target, guess[index], np.broadcast_to(np.eye(2), (len(index), 2, 2)), config.tile)
    source_tiles = _tiles(source, position[index], np.linalg.inv(warp[index, :, :2]), config.tile)
    middle = _middles(len(index), config.tile)
    ahead, good = flow_both_ways(
        source_tiles, target_tiles, middle, FlowConfig(config.window, config.levels), config.max_cycle_error
    )
    moved = ahead - middle
    places[index] = guess[index] + moved
    good &= np.linalg.norm(moved, axis=1) < config.max_correction
    keep[index] = good
    return keep, places


def _layout(count: int) -> tuple[int, int]:
    """Columns and rows of a picture of so many tiles."""
    columns = max(1, int(np.ceil(np.sqrt(count))))
    return columns, -(-count // columns)


def _middles(count: int, tile: int) -> np.ndarray:
    """(n, 2) float32 centres of the tiles in their picture."""
    index = np.arange(count)
    columns = _layout(count)[0]
    return (np.stack([index % columns, index // columns], axis=1) * tile + tile // 2).astype(np.float32)


def _tiles(image: np.ndarray, centre: np.ndarray, linear: np.ndarray, tile: int) -> np.ndarray:
    """A picture of patches around (n, 2) positions.

    Offset d from a tile's centre shows the image at centre + linear d.
    """
    import cv2

    columns, rows = _layout(len(centre))
    grid = np.stack(np.meshgrid(*[np.arange(tile) - tile // 2] * 2), axis=-1).reshape(-1, 2)
    where = np.full((columns * rows, tile * tile, 2), -1.0)
    where[: len(centre)] = centre[:, None] + grid @ linear.swapaxes(1, 2)
    maps = (
        where.reshape(rows, columns, tile, tile, 2)
        .swapaxes(1, 2)
        .reshape(rows * tile, columns * tile, 2)
        .astype(np.float32)
    )
    return cv2.remap(image, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
