"""The dataclasses that cross rooms, each with its own form on disk.

Ground truth, video, tracks, network output, result. Conventions (method 1): OpenCV camera axes, `cam_to_world` poses
with the world at the first camera, pixel centres at +0.5, z-depth. Torch inside the package (`Clip`,
`WindowPredictions`), numpy at its edge (the others).
"""

from geo4d.scene.clip import Clip
from geo4d.scene.reconstruction import Reconstruction
from geo4d.scene.tracks import Tracks
from geo4d.scene.video import Video
from geo4d.scene.windows import WindowPredictions

__all__ = ["Clip", "Reconstruction", "Tracks", "Video", "WindowPredictions"]
