"""Verifies an installed data set.

Missing and unreadable files, absurd depth, cameras that jump, geometry that disagrees.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw

from geo4d.data.base import DiskSet
from geo4d.data.frames import BadData, Frame, Problem, Recording
from geo4d.geometry.camera import pixel_rays, project
from geo4d.geometry.rigid import transform_points

NEAREST, FARTHEST = 0.02, 600.0  # metres; no scene has its median depth outside
LEAST_KNOWN = 0.01  # share of a frame that is depth or sky
JUMP, JUMP_DEG = 10.0, 20.0  # times the usual step; and an angle that no usual step excuses
JUMP_SHARE = 0.05  # of the median depth, which a step must exceed as well
AGREE = 0.05  # relative difference of depth up to which two frames agree
LEAST_AGREEMENT, LEAST_PIXELS = 0.5, 200
TILE_HEIGHT, MAX_ROWS = 150, 24
SHEET, REPORTS = "contact_sheet.png", ("report.txt", "report.json")


@dataclass(frozen=True)
class Finding:
    """What one recording looks like."""

    recording: str
    frames: int
    read: int
    median_depth: float | None
    sky_share: float | None
    known_share: float | None  # depth or sky
    agreement: float | None  # share of pixels, seen in two neighbouring frames, whose depths agree


@dataclass(frozen=True)
class Report:
    """A data set, verified."""

    kind: str
    root: str
    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]

    def text(self) -> str:
        """A table of recordings, then the problems."""
        counts = {
            "recording": len(self.findings),
            "frame": sum(f.frames for f in self.findings),
            "problem": len(self.problems),
        }
        shown = ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for noun, count in counts.items())
        lines = [f"{self.kind} in {self.root}: {shown}", ""]
        lines.append(f"{'recording':40} {'frames':>7} {'read':>5} {'depth':>8} {'sky':>5} {'known':>6} {'agree':>6}")
        for f in self.findings:
            numbers = [_number(f.median_depth, "8.2f"), _number(f.sky_share, "5.2f"), _number(f.known_share, "6.2f")]
            lines.append(
                f"{f.recording[-40:]:40} {f.frames:7d} {f.read:5d} {' '.join(numbers)} {_number(f.agreement, '6.2f')}"
            )
        return (
            "\n".join([*lines, "", *(f"{problem.file}: {problem.reason}" for problem in self.problems)]).rstrip() + "\n"
        )


def check_data(
    data: DiskSet,
    *,
    samples: int | None = 3,
    progress: Callable[[int, int], None] | None = None,
    sheet: Path | None = None,
) -> Report:
    """Looks at `samples` pairs of neighbouring frames of every recording (None: at every frame), and at every camera.

    With `sheet` a picture is written: frames, their depth, and the points of one drawn into the next.
    """
    problems = list(data.problems)
    findings: list[Finding] = []
    strips: list[tuple[str, np.ndarray]] = []
    wanted = set(np.linspace(0, len(data.recordings) - 1, min(MAX_ROWS, len(data.recordings))).astype(int).tolist())
    for i, recording in enumerate(data.recordings):
        finding, wrong, pair = check_recording(data, recording, samples=samples)
        findings.append(finding)
        problems += wrong
        if sheet is not None and i in wanted and pair is not None:
            strips.append((recording.name, draw_pair(*pair)))
        if progress is not None:
            progress(i + 1, len(data.recordings))
    if not findings:
        problems.append(Problem(str(data.root), "holds no recording that can be used"))
    if sheet is not None and strips:
        write_sheet(sheet, strips)
    return Report(data.kind, str(data.root), tuple(findings), tuple(dict.fromkeys(problems)))


def check_recording(
    data: DiskSet, recording: Recording, *, samples: int | None
) -> tuple[Finding, list[Problem], tuple[Frame, Frame] | None]:
    """One recording; also gives a pair of its frames, for a picture."""
    problems: list[Problem] = []
    frames: dict[int, Frame] = {}
    pair = None
    medians, skies, known, shares = [], [], [], []
    for index in _sampled(recording.count, samples):
        try:
            frame = next(iter(data.frames(recording, [index])))
        except BadData as error:
            problems.append(error.problem)
            continue
        problems += [Problem(data.describe(recording, index), reason) for reason in odd_depth(frame)]
        skies.append(float(frame.sky.mean()))
        known.append(float((frame.sky | frame.valid).mean()))
        if frame.valid.any():
            medians.append(float(np.median(frame.depth[frame.valid])))
        if index - 1 in frames:
            before = frames[index - 1]
            pair = pair or (before, frame)
            shares += [] if (share := agreement(before, frame)) is None else [share]
        frames = {index: frame}  # the one before is all that is ever looked back at
    agreeing = _median(shares)
    if agreeing is not None and agreeing < LEAST_AGREEMENT:
        reason = (
            f"depth and cameras disagree: only {100 * agreeing:.0f} % of the points are found again in the next frame"
        )
        problems.append(Problem(str(data.camera_files(recording.name)[0]), reason))
    try:
        problems += find_jumps(data, recording, _median(medians) or 0.0)
    except BadData as error:
        problems.append(error.problem)
    finding = Finding(
        recording.name, recording.count, len(skies), _median(medians), _median(skies), _median(known), agreeing
    )
    return finding, problems, pair


def odd_depth(frame: Frame) -> list[str]:
    """What is absurd about a frame's depth."""
    if (frame.valid | frame.sky).mean() < LEAST_KNOWN:
        return ["has hardly a pixel whose depth is known"]
    median = float(np.median(frame.depth[frame.valid])) if frame.valid.any() else 1.0
    return [f"has absurd depth: half of it is within {median:.3g} m"] if not NEAREST < median < FARTHEST else []


def find_jumps(data: DiskSet, recording: Recording, median_depth: float) -> list[Problem]:
    """Places where the camera moves or turns far more from one frame to the next than it usually does."""
    poses = np.stack([data.camera(recording.name, recording.number(i))[1] for i in range(recording.count)])
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    rotations = poses[:-1, :3, :3].swapaxes(1, 2) @ poses[1:, :3, :3]
    angles = np.degrees(np.arccos(np.clip((np.trace(rotations, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    if not len(steps):
        return []
    far = (steps > JUMP * np.median(steps)) & (steps > JUMP_SHARE * median_depth)
    wide = (angles > JUMP * np.median(angles)) & (angles > JUMP_DEG)
    file, problems = str(data.camera_files(recording.name)[0]), []
    for i in np.flatnonzero(far | wide).tolist():
        where = f"between frames {recording.number(i)} and {recording.number(i + 1)}"
        problems.append(Problem(file, f"lets the camera jump {where}: {steps[i]:.3g} m, {angles[i]:.3g} degrees"))
    return problems


def reproject(source: Frame, target: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The valid points of one frame in another.

    Row and column there, depth there, and which of `source.valid` they are. Points outside the other frame are left
    out.
    """
    places = np.argwhere(source.valid)
    rays = pixel_rays(
        torch.from_numpy(places[:, ::-1] + 0.5), torch.tensor(source.intrinsics, dtype=torch.float64)
    ).numpy()
    points_cam = rays * source.depth[source.valid][:, None].astype(np.float64)
    cam_to_cam = torch.from_numpy(np.linalg.inv(target.cam_to_world) @ source.cam_to_world)
    there = transform_points(cam_to_cam.double(), torch.from_numpy(points_cam)).numpy()
    ahead = there[:, 2] > 1e-3
    pixels = np.full((len(places), 2), -1.0)
    pixels[ahead] = project(
        torch.from_numpy(there[ahead]), torch.tensor(target.intrinsics, dtype=torch.float64)
    ).numpy()
    inside = ahead & (pixels >= 0).all(1) & (pixels < target.size[::-1]).all(1)
    column, row = np.floor(pixels[inside]).astype(np.int64).T
    return row, column, there[inside, 2], np.flatnonzero(inside)


def agreement(source: Frame, target: Frame) -> float | None:
    """Share of the points seen in both frames whose depths agree; None where too few are.

    Occlusion and motion take their part.
    """
    row, column, depth, _ = reproject(source, target)
    valid = target.valid[row, column]
    if valid.sum() < LEAST_PIXELS:
        return None
    seen = target.depth[row[valid], column[valid]]
    return float((np.abs(seen - depth[valid]) < AGREE * depth[valid]).mean())


def draw_pair(source: Frame, target: Frame) -> np.ndarray:
    """One strip: a frame, its depth, the next frame, and there the points of the first.

    Where geometry is right, the last two agree.
    """
    row, column, depth, origin = reproject(source, target)
    order = np.argsort(-depth)  # near points are drawn last
    painted = (target.rgb * 0.25).astype(np.uint8)
    painted[row[order], column[order]] = source.rgb[source.valid][origin[order]]
    disparity = np.divide(1, source.depth, out=np.zeros_like(source.depth), where=source.valid)
    top = float(np.quantile(disparity[source.valid], 0.98)) if source.valid.any() else 1.0
    colours = (matplotlib.colormaps["turbo"](np.clip(disparity / max(top, 1e-9), 0, 1))[..., :3] * 255).astype(np.uint8)
    colours[~source.valid] = 60
    colours[source.sky] = 0
    return np.concatenate([source.rgb, colours, target.rgb, painted], axis=1)


def write_sheet(path: Path, strips: list[tuple[str, np.ndarray]]) -> None:
    """The strips below one another, with their names."""
    pictures = []
    for name, strip in strips:
        width = max(4, round(strip.shape[1] * TILE_HEIGHT / strip.shape[0]))
        picture = Image.fromarray(strip).resize((width, TILE_HEIGHT), Image.Resampling.BILINEAR)
        ImageDraw.Draw(picture).text((4, 4), name, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
        pictures.append(picture)
    sheet = Image.new("RGB", (max(picture.width for picture in pictures), TILE_HEIGHT * len(pictures)))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (0, i * TILE_HEIGHT))
    sheet.save(path)


def write_report(report: Report, folder: Path) -> None:
    """report.txt and report.json."""
    text, numbers = REPORTS
    (folder / text).write_text(report.text())
    (folder / numbers).write_text(json.dumps(asdict(report), indent=1) + "\n")


def _sampled(count: int, samples: int | None) -> list[int]:
    """Indices of pairs of neighbours, spread evenly."""
    if samples is None or 2 * samples >= count:
        return list(range(count))
    starts = np.linspace(0, count - 2, samples).astype(int).tolist() if samples > 1 else [0]
    return sorted({index for start in starts for index in (start, start + 1)})


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _number(value: float | None, form: str) -> str:
    width = int(form.partition(".")[0])
    return "-".rjust(width) if value is None else format(value, form)
