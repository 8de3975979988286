"""Windows that arrive one after the other: only what they touch is solved anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from geo4d._typing import Float, Int, Tensor
from geo4d.alignment.align import Progress, Sight, complete, draft_of
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.joint.agreement import solve_agreed, window_poses
from geo4d.alignment.joint.guess import InitialFocal
from geo4d.alignment.joint.observations import observe_points, ray_cameras
from geo4d.alignment.joint.problem import WindowMotion
from geo4d.alignment.joint.solve import assess
from geo4d.alignment.joint.steps import Joint, Prepared, prepare
from geo4d.alignment.joint.unknowns import Unknowns
from geo4d.alignment.priors import Priors
from geo4d.errors import ConfigError, InputError
from geo4d.geometry.similarity import Similarity
from geo4d.scene import Reconstruction, Tracks, WindowPredictions
from geo4d.scene.windows import OF_WINDOWS
from geo4d.solver.lm import Summary


class IncrementalAlignment:
    """An alignment that grows: `update` with all windows so far, `reconstruct` whenever depth is wanted.

    `lag` earlier windows are solved again with the new ones; what lies before them stays, and holds the rest in its
    world. Frames keep the focal length that they were solved with, so that it may differ a little between early and
    late frames.
    """

    def __init__(self, config: AlignmentConfig | None = None, *, lag: int = 8) -> None:
        """Raises ConfigError for settings that cannot grow."""
        self.config = config or AlignmentConfig()
        if self.config.solver != "fast" or not self.config.use_points or self.config.focal != "shared" or lag < 1:
            raise ConfigError(
                "Growing alignments need solver=fast, use_points=true, focal=shared and a lag of at least 1 window."
            )
        self.lag = lag
        self._summary: Summary | None = None
        self._windows: Int[Tensor, "g v"] | None = None
        self._kind = ""
        self._unknowns: Unknowns | None = None
        self._guess: InitialFocal | None = None
        self._window_motion = WindowMotion()

    @property
    def num_windows(self) -> int:
        """How many windows have been aligned."""
        return 0 if self._windows is None else len(self._windows)

    def update(self, predictions: WindowPredictions) -> int:
        """Takes in the windows beyond those already known; returns how many windows were solved.

        Raises InputError if the earlier windows are not the ones that came before, if a new one begins before an
        earlier one, or if the maps are of another size or kind than before.
        """
        self._check(predictions)
        if len(predictions.windows) == self.num_windows:
            return 0
        first = max(0, self.num_windows - self.lag)
        recent, frames = _recent(predictions, first)
        ready = prepare(recent, self.config, self._priors(recent))
        start, held = ready.start, None
        problem = ready.problem()
        if self._unknowns is not None:
            start = self._carried(ready.start, first, frames)
            held = torch.zeros(problem.columns().size, dtype=torch.bool)
            before = torch.isin(frames, predictions.windows[:first].flatten()) if first else frames == frames[0]
            held[problem.columns().camera(torch.nonzero(before)[:, 0]).flatten()] = True
            held[problem.columns().window(torch.zeros(1, dtype=torch.int64)).flatten()] = True
            problem = replace(problem, ray_log_scale=None if start.rays is None else start.rays.scale.log())
        solved, _ = solve_agreed(problem, start, held)
        self._summary = solved.summary
        self._keep(solved.unknowns, ready, first, frames)
        self._windows, self._kind = predictions.windows.clone(), _kind(predictions)
        return len(recent.windows)

    def reconstruct(
        self, predictions: WindowPredictions, *, tracks: Tracks | None = None, progress: Progress | None = None
    ) -> Reconstruction:
        """Depth of all frames, with the cameras as they are, or corrected by the points followed so far (`tracks`).

        Raises InputError before the first `update`, or for other windows.
        """
        if self._unknowns is None or self._guess is None or self._summary is None:
            raise InputError("Nothing has been aligned yet; call update with window predictions first.")
        self._check(predictions)
        if len(predictions.windows) != self.num_windows:
            raise InputError(
                f"{self.num_windows} windows are aligned, {len(predictions.windows)} were given; call update first."
            )
        predictions = self._selected(predictions)
        observations, rays = observe_points(predictions, self.config.joint), ray_cameras(predictions)
        problems = () if rays is None else rays.problems
        rays = None if rays is None or self._unknowns.rays is None or not rays.usable.any() else rays
        unknowns = self._unknowns if rays is not None else replace(self._unknowns, rays=None)
        priors = Priors()
        ready = Prepared(
            observations,
            rays,
            priors.resolve(predictions, None),
            self._guess,
            unknowns,
            [],
            self._window_motion,
            self.config,
            problems,
        )
        solved = replace(assess(ready.problem(), unknowns), summary=self._summary)  # how the last update ended
        joint = Joint(ready, solved, window_poses(observations, unknowns))
        draft = draft_of(predictions, joint, priors, self.config, progress)
        return complete(predictions, draft, tracks, priors, self.config, Sight(predictions.images, progress=progress))

    def _check(self, predictions: WindowPredictions) -> None:
        windows, before = predictions.windows, self._windows
        if predictions.points is None:
            raise InputError("Growing alignments need point maps; these predictions have none.")
        if bool((windows[:, 0].diff() < 0).any()):
            raise InputError("The windows must come in the order of their first frames.")
        if before is not None and (len(windows) < len(before) or not torch.equal(windows[: len(before)], before)):
            raise InputError(
                f"The first {len(before)} windows are not those that were aligned before; give them all, the new ones "
                "last."
            )
        if before is not None and _kind(predictions) != self._kind:
            raise InputError(
                f"These windows are {_kind(predictions)}; those that were aligned before are {self._kind}."
            )

    def _selected(self, predictions: WindowPredictions) -> WindowPredictions:
        drop: dict[str, Any] = {} if self.config.use_disparity else {"disparity": None, "disparity_weight": None}
        if not self.config.use_rays:
            drop |= {"ray_direction": None, "ray_moment": None, "ray_cam_to_win": None}
        return replace(predictions, **drop)

    def _priors(self, recent: WindowPredictions) -> Priors:
        """The focal length found so far, as firmly as the joint solve holds its first estimate."""
        if self._unknowns is None:
            return Priors()
        height, width = recent.grid_size
        focal = float(self._unknowns.log_focal[-1].exp()) * max(height, width)
        k = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return Priors(intrinsics=k, focal_sigma=self.config.joint.focal_log_sigma)

    def _carried(self, start: Unknowns, first: int, frames: Int[Tensor, "s"]) -> Unknowns:
        """A initial guess of recent windows, brought into the world of the earlier ones, which keep their places."""
        old = self._unknowns
        assert old is not None
        to_world = old.windows[first].compose(start.windows[0].inverse())
        earlier = frames < len(old.centre)
        rotation = to_world.rotation @ start.rotation
        centre = to_world.apply(start.centre)
        rotation[earlier], centre[earlier] = old.rotation[frames[earlier]], old.centre[frames[earlier]]
        windows = _overwritten(to_world.expand(len(start.windows.scale)).compose(start.windows), old.windows, first)
        rays = start.rays
        if rays is not None:
            rays = to_world.expand(len(rays.scale)).compose(rays)
            rays = rays if old.rays is None else _overwritten(rays, old.rays, first)
        log_focal = start.log_focal.clone()
        log_focal[earlier] = old.log_focal[frames[earlier]]
        return Unknowns(rotation, centre, windows, log_focal, rays)

    def _keep(self, found: Unknowns, ready: Prepared, first: int, frames: Int[Tensor, "s"]) -> None:
        """Writes a solution of the recent windows into the whole."""
        if self._unknowns is None or self._guess is None:
            self._unknowns, self._guess, self._window_motion = found, ready.guess, ready.window_motion
            return
        old, count = self._unknowns, int(frames.max()) + 1
        rotation = _grown(old.rotation, count, torch.eye(3, dtype=torch.float64))
        centre, log_focal = _grown(old.centre, count, old.centre[-1]), _grown(old.log_focal, count, old.log_focal[-1])
        rotation[frames], centre[frames], log_focal[frames] = found.rotation, found.centre, found.log_focal
        rays = None if found.rays is None or old.rays is None else old.rays[:first].then(found.rays)
        self._unknowns = Unknowns(rotation, centre, old.windows[:first].then(found.windows), log_focal, rays)
        shift = torch.cat([self._guess.shift[:first], ready.guess.shift])
        self._guess = InitialFocal(
            log_focal,
            ready.guess.sigma,
            shift,
            [*self._guess.by_window[:first], *ready.guess.by_window],
            self._guess.zooms,
        )


def _kind(predictions: WindowPredictions) -> str:
    """The size of the maps, and which there are."""
    height, width = predictions.grid_size
    return f"{width} x {height} with " + ", ".join(
        name for name in OF_WINDOWS[1:] if getattr(predictions, name) is not None
    )


def _recent(predictions: WindowPredictions, first: int) -> tuple[WindowPredictions, Int[Tensor, "s"]]:
    """The windows from `first` on, their frames numbered anew; and the frames' true numbers."""
    frames, renumbered = predictions.windows[first:].unique(return_inverse=True)
    chosen = predictions.map_windows(lambda values: values[first:])
    return replace(chosen, windows=renumbered, images=None, timestamps=None, source_size=None), frames


def _overwritten(similarities: Similarity, old: Similarity, first: int) -> Similarity:
    """The first ones replaced by the old ones from `first` on."""
    return old[first:].then(similarities[len(old.scale) - first :])


def _grown(values: Float[Tensor, "t *s"], count: int, fill: Float[Tensor, "*s"]) -> Float[Tensor, "n *s"]:
    missing = count - len(values)
    return values.clone() if missing <= 0 else torch.cat([values, fill.expand(missing, *values.shape[1:])])
