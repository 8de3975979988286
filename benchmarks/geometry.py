"""kornia's geometry beside hand-written parts.

The greatest float64 error against the truth, and the time at the sizes `align` uses.

    python benchmarks/geometry.py                         # one call of each part
    python benchmarks/geometry.py WINDOWS.npz TRACKS.npz  # and both ways at every call that their alignment makes

The package takes kornia's part unless it errs by more than 1e-9 or would make the whole `align` over 5 % slower. The
table judges errors alone. Speed is judged by the second form, of the parts that are called about a thousand times: one
call's time says little, for sizes differ from call to call. Where the hand-written part is not in the package it stands
here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import torch
from kornia.geometry import camera, conversions, depth, find_homography_dlt, liegroup, linalg
from kornia.geometry.epipolar import KRt_from_projection
from torch.nn.functional import normalize, pad

from geo4d.alignment import align
from geo4d.geometry import rigid as rigid_room
from geo4d.geometry import rotation
from geo4d.geometry.camera import intrinsics_from_focal, project, unproject
from geo4d.geometry.pixels import pixel_grid
from geo4d.geometry.plucker import plucker_rays
from geo4d.geometry.rays import camera_from_rays
from geo4d.geometry.rigid import invert_rigid, relative_to_first, rigid, transform_points
from geo4d.geometry.rotation import skew, so3_exp, so3_log
from geo4d.scene.files.tracks import load_tracks
from geo4d.scene.files.windows import load_windows

Tensor = torch.Tensor
LIMIT, SLOWER = 1e-9, 0.05
ANGLES = (0.0, 1e-12, 1e-9, 1e-6, 1e-3, 0.02, 0.5, 1.5, 3.0, 3.14, 3.1415, 3.141592, 3.14159265)  # radians


@dataclass(frozen=True)
class Row:
    """One part, both ways."""

    name: str
    kornia: Callable[[], Tensor]
    hand: Callable[[], Tensor]
    truth: Tensor  # of the inputs that both get
    timed: tuple[Callable[[], object], Callable[[], object]]  # kornia's and the hand-written, at the size of `align`


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    lines = [f"{'part':44s}{'kornia err':>12s}{'hand err':>12s}{'kornia us':>11s}{'hand us':>10s}  by error"]
    for row in (*rotations(), *transforms(), *cameras()):
        errors = [float((f() - row.truth).abs().max()) for f in (row.kornia, row.hand)]
        times = [1e6 * _seconds(f) for f in row.timed]
        verdict = "kornia" if errors[0] <= LIMIT else "by hand"
        lines.append(f"{row.name:44s}{errors[0]:12.1e}{errors[1]:12.1e}{times[0]:11.0f}{times[1]:10.0f}  {verdict}")
    sys.stdout.write("\n".join(lines) + "\n" + "\n".join(noisy_homography()) + "\n")
    if len(sys.argv) == 3:
        sys.stdout.write("\n".join(in_alignment(*sys.argv[1:])) + "\n")


def in_alignment(windows: str, tracks: str) -> list[str]:
    """What kornia's parts add to one alignment.

    Both ways are timed at each call, whose result is the hand-written one's.
    """
    ways = {
        "so3_log": (rotation, conversions.rotation_matrix_to_axis_angle, hand_log),
        "so3_exp": (rotation, conversions.axis_angle_to_rotation_matrix, hand_exp),
        "skew": (rotation, liegroup.So3.hat, hand_skew),
        "rigid": (rigid_room, rigid, hand_rigid),
    }
    predictions, followed = load_windows(windows), load_tracks(tracks)
    align(predictions, tracks=followed)  # what is loaded once is not counted
    spent = {name: [0.0, 0.0, 0] for name in ways}

    def both(name: str, theirs: Callable[..., Tensor], hand: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*tensors: Tensor) -> Tensor:
            times = [time.process_time()]
            for way in (theirs, hand):
                result = way(*tensors)
                times.append(time.process_time())
            spent[name][0] += times[1] - times[0]
            spent[name][1] += times[2] - times[1]
            spent[name][2] += 1
            return result

        return call

    for name, (room, theirs, hand) in ways.items():
        original, replacement = getattr(room, name), both(name, theirs, hand)
        for module in [value for key, value in sys.modules.items() if key.startswith("geo4d.")]:
            if getattr(module, name, None) is original:
                setattr(module, name, replacement)
    started = time.process_time()
    align(predictions, tracks=followed)
    whole = time.process_time() - started - sum(theirs for theirs, _, _ in spent.values())
    lines = [f"one alignment by hand: {whole:.2f} CPU seconds; kornia's would add"]
    for name, (theirs, hand, n) in spent.items():
        share = (theirs - hand) / whole
        lines.append(
            f"  {name:8s} {theirs - hand:+.3f} s = {share:+.1%} ({n} calls) -> "
            f"{'by hand' if share > SLOWER else 'kornia'}"
        )
    return lines


def _seconds(function: Callable[[], object], repeats: int = 60) -> float:
    """The median of one call's CPU time, the first left out."""
    function()
    found = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        found.append(time.process_time() - started)
    return sorted(found)[repeats // 2]


def rotations() -> list[Row]:
    """Near zero, near half turns and between, in a batch of another shape; times of 50 rotations."""
    generator = torch.Generator().manual_seed(0)
    axes = normalize(torch.randn(8, len(ANGLES), 3, generator=generator, dtype=torch.float64), dim=-1)
    vectors = axes * torch.tensor(ANGLES, dtype=torch.float64)[:, None]
    matrices = _exact_matrices(vectors)
    many = 0.3 * torch.randn(50, 3, generator=generator, dtype=torch.float64)
    turned = so3_exp(many)
    return [
        Row("so(3) exponential", lambda: conversions.axis_angle_to_rotation_matrix(vectors),
            lambda: hand_exp(vectors), matrices,
            (lambda: conversions.axis_angle_to_rotation_matrix(many), lambda: hand_exp(many))),
        Row("so(3) exponential by So3", lambda: liegroup.So3.exp(vectors).matrix(), lambda: hand_exp(vectors), matrices,
            (lambda: liegroup.So3.exp(many).matrix(), lambda: hand_exp(many))),
        Row("so(3) logarithm", lambda: conversions.rotation_matrix_to_axis_angle(matrices[:, :8]),
            lambda: hand_log(matrices[:, :8]), vectors[:, :8],
            (lambda: conversions.rotation_matrix_to_axis_angle(turned), lambda: so3_log(turned))),
        Row("so(3) logarithm near half turns", lambda: conversions.rotation_matrix_to_axis_angle(matrices[:, 8:]),
            lambda: hand_log(matrices[:, 8:]), vectors[:, 8:],
            (lambda: conversions.rotation_matrix_to_axis_angle(turned), lambda: hand_log(turned))),
        Row("cross-product matrix", lambda: liegroup.So3.hat(vectors), lambda: hand_skew(vectors), skew(vectors),
            (lambda: liegroup.So3.hat(many), lambda: hand_skew(many))),
    ]  # fmt: skip


def _exact_matrices(vectors: Tensor) -> Tensor:
    """Rotations about vectors (..., 3) to 40 digits, rounded once."""
    mpmath.mp.dps = 40
    found = []
    for vector in vectors.reshape(-1, 3).tolist():
        x, y, z = (mpmath.mpf(value) for value in vector)
        k = mpmath.matrix([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        angle = mpmath.sqrt(x * x + y * y + z * z)
        first, second = (
            (mpmath.sin(angle) / angle, (1 - mpmath.cos(angle)) / angle**2) if angle else (1, mpmath.mpf(1) / 2)
        )
        matrix = mpmath.eye(3) + first * k + second * k * k
        found.append([[float(matrix[i, j]) for j in range(3)] for i in range(3)])
    return torch.tensor(found, dtype=torch.float64).view(*vectors.shape[:-1], 3, 3)


def hand_skew(v: Tensor) -> Tensor:
    """The matrix of v cross."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def hand_exp(v: Tensor) -> Tensor:
    """Rodrigues' formula with its series at zero."""
    square = v.square().sum(-1)[..., None, None]
    angle = square.clamp_min(1e-24).sqrt()
    small = square < 1e-8
    a = torch.where(small, 1 - square / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / square.clamp_min(1e-24))
    k = hand_skew(v)
    return torch.eye(3, dtype=v.dtype) + a * k + b * (k @ k)


def hand_log(rotation: Tensor) -> Tensor:
    """By the antisymmetric part and the trace."""
    r = rotation
    axis = (
        torch.stack([r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], dim=-1) / 2
    )
    sine = axis.norm(dim=-1, keepdim=True)
    cosine = (r.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2
    return axis * torch.where(sine > 1e-9, torch.atan2(sine, cosine) / sine.clamp_min(1e-12), 1.0)


def hand_rigid(turn: Tensor, translation: Tensor) -> Tensor:
    """The 4x4 matrix of x -> R x + t."""
    top = torch.cat([turn, translation[..., None]], dim=-1)
    return torch.cat([top, top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)], dim=-2)


def transforms() -> list[Row]:
    """50 poses and 50 x 144 points; truth by general inverses and products in the same precision."""
    generator = torch.Generator().manual_seed(1)
    turn = so3_exp(torch.randn(50, 3, generator=generator, dtype=torch.float64))
    translation = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    points = torch.randn(50, 144, 3, generator=generator, dtype=torch.float64)
    pose = rigid(turn, translation)
    moved = points @ turn.mT + translation[:, None]
    inverse = torch.linalg.inv(pose)
    first = pose[:1].expand(50, 4, 4)
    linalg.relative_transformation(
        first, pose
    )  # its first call loads sympy: half a second of every run, not in the time below

    def theirs_rigid() -> Tensor:
        return conversions.Rt_to_matrix4x4(turn, translation[..., None])

    def by_hand() -> Tensor:
        return hand_rigid(turn, translation)

    def hand_inverse() -> Tensor:
        back = pose[..., :3, :3].mT
        return rigid(back, -(back @ pose[..., :3, 3:])[..., 0])

    theirs_points = lambda: transform_points(pose, points)  # noqa: E731
    return [
        Row("rigid 4x4", theirs_rigid, by_hand, by_hand(), (theirs_rigid, by_hand)),
        Row("inverse", lambda: invert_rigid(pose), hand_inverse, inverse, (lambda: invert_rigid(pose), hand_inverse)),
        Row("points by a transform", theirs_points, lambda: points @ turn.mT + translation[:, None], moved,
            (theirs_points, lambda: points @ turn.mT + translation[:, None])),
        Row("relative to the first (+ 0.5 s once)", lambda: linalg.relative_transformation(first, pose),
            lambda: relative_to_first(pose), inverse[:1] @ pose,
            (lambda: (linalg.relative_transformation(first, pose), time.sleep(0)), lambda: relative_to_first(pose))),
    ]  # fmt: skip


def cameras() -> list[Row]:
    """Maps 50 x 64 x 96 of cameras with and without skew; truth by K and its inverse."""
    generator = torch.Generator().manual_seed(2)
    focal = 60 + 20 * torch.rand(50, generator=generator, dtype=torch.float64)
    square = intrinsics_from_focal(focal, 64, 96)
    skewed = square.clone()
    skewed[:, 0, 1] = 3
    z = 1 + torch.rand(50, 64, 96, generator=generator, dtype=torch.float64)
    grid = pad(pixel_grid(64, 96, dtype=torch.float64), (0, 1), value=1.0)
    # kornia counts from the first centre
    shift = torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], dtype=torch.float64)

    def rays(k: Tensor) -> Tensor:
        return torch.einsum("bij,hwj->bhwi", torch.linalg.inv(k), grid)

    rows = []
    for name, k in (("", square), (", K with skew", skewed)):
        points = (rays(k) * z[..., None]).flatten(1, 2)
        truth = grid[..., :2].flatten(0, 1).expand(50, -1, -1)
        near = points * 1e-10
        rows += [
            Row(f"depth to points{name}", lambda k=k: depth.depth_to_3d_v2(z, k - shift), lambda k=k: unproject(z, k),
                rays(k) * z[..., None], (lambda k=k: depth.depth_to_3d_v2(z, k - shift), lambda k=k: unproject(z, k))),
            Row(f"projection{name}", lambda k=k, p=points: camera.project_points(p, k[:, None]),
                lambda k=k, p=points: project(p, k), truth,
                (lambda k=k, p=points: camera.project_points(p, k[:, None]), lambda k=k, p=points: project(p, k))),
            Row(f"projection, points 1e-10 away{name}", lambda k=k, p=near: camera.project_points(p, k[:, None]),
                lambda k=k, p=near: project(p, k), truth,
                (lambda k=k, p=near: camera.project_points(p, k[:, None]), lambda k=k, p=near: project(p, k))),
        ]  # fmt: skip
    return rows


def noisy_homography() -> list[str]:
    """Errors of K in pixels from noisy rays (0.05 a component), mean over 16 cameras.

    Kornia's DLT, and Eq. 7 under our constraint.
    """
    pixels = pixel_grid(96, 128, dtype=torch.float64).flatten(0, 1)
    intrinsics = torch.tensor([[100.0, 0, 66], [0, 105, 45], [0, 0, 1]], dtype=torch.float64)
    errors = []
    for seed in range(16):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: B023, E731
        pose = rigid(so3_exp(0.5 * draw(3)), draw(3))
        direction, moment = (value.flatten(0, 1) for value in plucker_rays(intrinsics, pose, 96, 128))
        noisy = normalize(direction + 0.05 * draw(*direction.shape), dim=-1)
        turned = noisy @ pose[:3, :3]  # kornia's needs slopes: it is even told the true rotation
        found = find_homography_dlt((turned[:, :2] / turned[:, 2:])[None], pixels[None])
        theirs = KRt_from_projection(pad(found, (0, 1)))[0][0]
        ours = camera_from_rays(noisy, moment, pixels).intrinsics
        errors.append([float((k / k[2, 2] - intrinsics).abs().max()) for k in (theirs, ours)])
    theirs, ours = torch.tensor(errors).mean(0).tolist()
    return [
        f"K of noisy rays: find_homography_dlt errs by {theirs:.2f} px, camera_from_rays by {ours:.2f} px -> by hand"
    ]


if __name__ == "__main__":
    main()
