"""Training data: readers of published data sets, changes of how a window looks, and the mixture of them all."""

from __future__ import annotations

from pathlib import Path

from geo4d.data.base import DataSet, DiskSet, FrameFiles
from geo4d.data.bedlam import Bedlam
from geo4d.data.folder import ClipFolder
from geo4d.data.frames import BadData, Frame, Problem, Recording
from geo4d.data.loading import BadWindows, WindowBatch, batches, load_batch
from geo4d.data.mixture import PAPER_RATIOS, Mixture, MixtureConfig, PlannedWindow, Size
from geo4d.data.photometric import Photometric, PhotometricConfig
from geo4d.data.pointodyssey import PointOdyssey
from geo4d.data.procedural import ProceduralSet
from geo4d.data.spring import Spring
from geo4d.data.tartanair import TartanAir
from geo4d.data.view import View, ViewConfig
from geo4d.data.vkitti2 import VirtualKitti2
from geo4d.errors import ConfigError, InputError

DATASETS: dict[str, type[DiskSet]] = {
    data.kind: data for data in (PointOdyssey, TartanAir, Spring, VirtualKitti2, Bedlam, ClipFolder)
}


def find_kind(root: str | Path) -> str:
    """The kind of data set that lies in `root`, by its layout. Raises InputError if it is none, or not one alone."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InputError(f"There is no folder {root}; give the folder into which a data set was unpacked.")
    found = [kind for kind, data in DATASETS.items() if next(data.find(root), None) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{root} looks like {' and '.join(found)}; say which it is.")
    layouts = "; ".join(f"{kind}: {data.hint}" for kind, data in DATASETS.items())
    raise InputError(f"{root} holds no data set that geo4d knows; expected one of these layouts: {layouts}.")


def open_data(
    root: str | Path,
    kind: str | None = None,
    *,
    include: str | None = None,
    far: float | None = None,
    fill: int | None = None,
) -> DiskSet:
    """Opens the data set in `root`, of the given kind or of the one that its layout shows.

    `include` is a pattern of recording names, such as "Scene20/*" (default: all that are meant for training); what lies
    more than `far` metres away counts as sky; pointodyssey alone spreads depth up to `fill` pixels into its holes.
    Raises ConfigError for a `fill` of another kind.
    """
    kind = kind or find_kind(root)
    if kind not in DATASETS:
        raise InputError(f"There is no kind of data set {kind!r}; expected one of {', '.join(DATASETS)}.")
    if fill is None:
        return DATASETS[kind](root, include=include, far=far)
    if kind != PointOdyssey.kind:
        raise ConfigError(
            f"Holes of {PointOdyssey.kind} alone are filled with depth; got fill={fill} for {root}, a {kind}: leave it "
            "out."
        )
    return PointOdyssey(root, include=include, far=far, fill=fill)


__all__ = [
    "DATASETS",
    "PAPER_RATIOS",
    "BadData",
    "BadWindows",
    "DataSet",
    "DiskSet",
    "Frame",
    "FrameFiles",
    "Mixture",
    "MixtureConfig",
    "Photometric",
    "PhotometricConfig",
    "PlannedWindow",
    "PointOdyssey",
    "Problem",
    "ProceduralSet",
    "Recording",
    "Size",
    "View",
    "ViewConfig",
    "WindowBatch",
    "batches",
    "find_kind",
    "load_batch",
    "open_data",
]
