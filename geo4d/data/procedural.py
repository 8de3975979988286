"""Procedural scenes as a data set without files.

Every window is rendered when it is asked for, at the size it is wanted in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from geo4d.data.base import DataSet
from geo4d.data.frames import ChangeColours, Frame, Recording, to_clip
from geo4d.data.view import View
from geo4d.errors import InputError
from geo4d.scene import Clip

Render = Callable[..., Clip]  # geo4d.synthetic.render_clips, which this room may not know


class ProceduralSet(DataSet):
    """`scenes` worlds of `length` frames; scene i is that of `seed_of(i)`, so it is the same in every run."""

    kind = "procedural"

    def __init__(
        self,
        render: Render,
        seed_of: Callable[[int], int],
        *,
        scenes: int = 100_000,
        length: int = 64,
        size: tuple[int, int] = (320, 512),
        fps: float = 24.0,
    ) -> None:
        """`size` (height, width) is that of a window for which no view is given."""
        self.render, self.seed_of, self.size = render, seed_of, size
        self.recordings = _Scenes(scenes, length, fps)

    def counts(self) -> np.ndarray:
        """All scenes are of one length."""
        return np.full(len(self.recordings), self.recordings[0].count, dtype=np.int64)

    def frames(self, recording: Recording, indices: Sequence[int]) -> Iterator[Frame]:
        """At `size`."""
        yield from self._render(recording, indices, self.size)

    def read(
        self,
        recording: Recording,
        indices: Sequence[int],
        *,
        view: View | None = None,
        photometric: ChangeColours | None = None,
    ) -> Clip:
        """Renders at the view's size; the view's cut falls away, for a scene has no frame to cut from."""
        rows: Any = self._render(recording, indices, self.size if view is None else view.size)
        if view is not None:
            whole = replace(view, zoom=1.0)
            rows = (whole(frame) for frame in rows)
        return to_clip(rows, photometric)

    def _render(self, recording: Recording, indices: Sequence[int], size: tuple[int, int]) -> Iterator[Frame]:
        steps = set(np.diff(indices).tolist()) or {1}
        if len(steps) > 1 or min(steps) < 1:
            raise InputError(f"Procedural windows need evenly spaced, rising frames; got {list(indices)}.")
        seed = self.seed_of(int(recording.name))
        clip = self.render([seed], num_frames=len(indices), size=size, frame_step=steps.pop(), start=int(indices[0]))
        rgb, depth, valid, sky = (getattr(clip, name)[0].cpu() for name in ("rgb", "depth", "valid", "sky"))
        pictures = rgb.mul(255).round().byte().numpy()
        intrinsics, poses = clip.intrinsics[0].double().cpu().numpy(), clip.cam_to_world[0].double().cpu().numpy()
        for i in range(len(indices)):
            yield Frame(pictures[i], depth[i].numpy(), valid[i].numpy(), sky[i].numpy(), intrinsics[i], poses[i])


class _Scenes(Sequence[Recording]):
    """Recordings that exist when they are looked at."""

    def __init__(self, scenes: int, length: int, fps: float) -> None:
        self.scenes, self.length, self.fps = scenes, length, fps

    def __len__(self) -> int:
        return self.scenes

    def __getitem__(self, index: Any) -> Any:
        if not -self.scenes <= index < self.scenes:
            raise IndexError(index)
        return Recording(str(index % self.scenes), 0, 1, self.length, self.fps)
