"""What the joint solve is given: observations, first estimates, priors."""

from __future__ import annotations

from dataclasses import dataclass, field

from geo4d._typing import Float, Tensor
from geo4d.alignment.joint.config import JointConfig
from geo4d.alignment.joint.observations import Observations, WindowRays
from geo4d.alignment.joint.unknowns import Columns


@dataclass(frozen=True)
class Given:
    """What is given beforehand; see `geo4d.alignment.priors`."""

    poses: Tensor | None = None  # (t, 4, 4) cam_to_world in their own world
    rotation_sigma: float = 0.0  # radians; 0 with centre_sigma 0: the cameras are fixed
    centre_sigma: float = 0.0  # in the poses' unit
    log_depth: Tensor | None = None  # (t, p) at the sampled pixels, nan where unknown
    log_depth_sigma: float = 0.05
    one_scale: bool = False  # poses and depth share their unit

    @property
    def fixes_cameras(self) -> bool:
        """Whether the poses are not to be moved."""
        return self.poses is not None and self.rotation_sigma == 0 and self.centre_sigma == 0


@dataclass(frozen=True)
class WindowMotion:
    """How the per-window PnP poses move and disagree; medians."""

    acceleration: float = 0.0  # of the centres, in units of the depth around them
    angular_acceleration: float = 0.0  # radians
    disagreement: float = 0.0  # angle between a window's camera and the mean of all windows', radians


@dataclass(frozen=True)
class JointProblem:
    """Observations with everything else that stays fixed during a solve; each term takes its part of it."""

    observations: Observations
    rays: WindowRays | None
    config: JointConfig
    log_focal: Float[
        Tensor, "t"
    ]  # where the windows' first frames put it: there depth noise cannot move it, so it is held there
    log_focal_sigma: float  # how firmly; 0: exactly
    given: Given = field(default_factory=Given)
    zooms: bool = False
    # (g,) initial guess, around which the scale of ray cameras that show no path is kept
    ray_log_scale: Tensor | None = None
    window_motion: WindowMotion = field(default_factory=WindowMotion)

    def columns(self) -> Columns:
        """Places of the unknowns."""
        o, given = self.observations, self.given
        softly = given.poses is not None and not given.fixes_cameras
        has_depth = given.log_depth is not None
        return Columns(
            o.num_frames,
            len(o.windows),
            self.rays is not None,
            self.zooms,
            softly,
            has_depth,
            given.one_scale and softly,
        )
