"""How a whole data set is scored, by name.

What is fitted before depth is compared, at which size, and what its mean is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from geo4d.errors import ConfigError
from geo4d.metrics.alignment import DepthAlignment
from geo4d.metrics.boundary import RATIOS
from geo4d.metrics.depth import HOLE_QUANTILE, MIN_DEPTH
from geo4d.metrics.points import INLIER, PointAlignment
from geo4d.metrics.pose import MOVED
from geo4d.metrics.protocol import RELEASED_PROTOCOLS, DepthProtocol

DENSE = 0.5  # share of pixels with true depth from which on boundaries are looked for
MAX_POINTS = 1_000_000  # of a video, on a regular grid of its pixels
FIXED = {  # what is the same in all protocols
    "least_scale": 0.0,  # of every fit: depth that a free one would turn upside down counts as a constant
    "least_depth_in_ratios": MIN_DEPTH,
    "quantile_of_depth_in_holes": HOLE_QUANTILE,
    "boundary_ratios": [round(float(ratio), 6) for ratio in RATIOS],
    "boundaries_from_share_of_truth": DENSE,
    "points_at_most": MAX_POINTS,
    "point_alignment": asdict(PointAlignment()),
    "point_inlier": INLIER,
    "moved_share_of_path": MOVED,
}
REPORTED = ("sintel", "bonn", "kitti", "tum-dynamics", "scannet", "davis", "7scenes")
RANGE_M = {"sintel": 70.0, "bonn": 70.0}  # true depth from here on is not scored, and aligned depth not put beyond it


@dataclass(frozen=True)
class EvaluationProtocol:
    """Everything that changes a number besides the prediction and the frames."""

    about: str  # one sentence for the user
    depth: DepthProtocol = field(default_factory=DepthProtocol)
    by_set: Mapping[str, DepthProtocol] = field(default_factory=dict)  # where a data set is scored otherwise
    interpolation: Literal["nearest", "bicubic"] = "bicubic"  # of predicted depth, to the size of the truth
    # of the videos' depth numbers; others are averaged by video, or by median
    average: Literal["pixel", "video", "median"] = "pixel"
    # unit of trajectory errors: the data set's own, or the video's median depth
    lengths: Literal["metres", "median depth"] = "metres"

    def depth_of(self, dataset: str) -> DepthProtocol:
        """How depth of this data set is scored."""
        return self.by_set.get(dataset, self.depth)

    def describe(self, dataset: str) -> dict[str, Any]:
        """Every constant, as plain data."""
        depth = self.depth_of(dataset)
        plain = {"about": self.about, "depth": asdict(depth), "alignment": str(depth.alignment)}
        return plain | {key: getattr(self, key) for key in ("interpolation", "average", "lengths")} | {"fixed": FIXED}


def _everywhere(alignment: DepthAlignment) -> dict[str, Any]:
    """One alignment for all data sets, within the range that each is scored in."""
    ranges = {name: DepthProtocol(alignment, max_depth=far, clip=far) for name, far in RANGE_M.items()}
    return {"depth": DepthProtocol(alignment), "by_set": ranges}


SCALE_SHIFT = _everywhere(DepthAlignment())
PROTOCOLS = {
    "geo4d": EvaluationProtocol(
        "One scale and shift a video by least absolute deviations, Sintel and Bonn up to 70 m, means by pixels; on "
        "KITTI the short descent of the released evaluation, which stays near the median scale.",
        by_set={**SCALE_SHIFT["by_set"], "kitti": RELEASED_PROTOCOLS["kitti_released"]},
    ),
    "monst3r": EvaluationProtocol(
        "One scale and shift a video by least absolute deviations on every data set, Sintel and Bonn up to 70 m, means "
        "by pixels.",
        **SCALE_SHIFT,
    ),
    "scale-only": EvaluationProtocol(
        "One scale a video, the ratio of the medians, Sintel and Bonn up to 70 m, means by pixels.",
        **_everywhere(DepthAlignment("median")),
    ),
    "per-frame": EvaluationProtocol(
        "One scale a frame, the ratio of the medians, as depth of single images is scored.",
        **_everywhere(DepthAlignment("median", per="frame")),
    ),
    "disparity": EvaluationProtocol(
        "One scale and shift a video in 1 / depth by least squares, for methods whose disparity is affine.",
        **_everywhere(DepthAlignment(loss="l2", space="disparity")),
    ),
    "metric": EvaluationProtocol(
        "No alignment of depth; trajectories by a rigid motion too, for methods that give metres.",
        **_everywhere(DepthAlignment("none")),
    ),
    "relative": EvaluationProtocol(
        "One scale and shift a video by least absolute deviations, the nearest pixel, trajectories in units of the "
        "video's median depth, medians over the videos.",
        interpolation="nearest",
        average="median",
        lengths="median depth",
    ),
}


def default_protocol(dataset: str) -> str:
    """That of the paper for the data sets that others report, `relative` for a user's own and for procedural ones."""
    return "geo4d" if dataset in REPORTED else "relative"


def choose_protocol(name: str | None, dataset: str) -> tuple[str, EvaluationProtocol]:
    """The protocol of this name, or the default of the data set. Raises ConfigError if there is none."""
    name = name or default_protocol(dataset)
    if name not in PROTOCOLS:
        choices = "; ".join(f"{key}: {protocol.about}" for key, protocol in PROTOCOLS.items())
        raise ConfigError(f"There is no protocol {name!r}; choose one of these: {choices}")
    return name, PROTOCOLS[name]
