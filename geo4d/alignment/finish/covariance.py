"""How far the cameras that the windows lead to may be off."""

from __future__ import annotations

import torch

from geo4d._typing import Float, Tensor
from geo4d.alignment.joint.steps import Joint
from geo4d.alignment.joint.terms.points import point_jacobian
from geo4d.geometry.rotation import so3_log

CHI_SQUARE_6 = 5.35  # median of six squared normal errors


def camera_covariance(joint: Joint, correlated_frames: float) -> Float[Tensor, "t 6 6"]:
    """Of each camera's rotation (radians, about the first camera's axes) and centre in the alignment's unit.

    nan if undetermined. The first camera is exact. Errors are shared by as many neighbouring frames of a window as are
    `correlated_frames`.
    """
    found = correlated_frames * shared_errors(joint) * joint.solved.camera_covariance()
    first = joint.unknowns.rotation[0]
    rotation = torch.block_diag(first, first)
    return rotation.T @ found @ rotation


def disagreement_of_cameras(joint: Joint) -> tuple[Float[Tensor, "g v 3"], Float[Tensor, "g v 3"]]:
    """Per-window PnP poses against the common cameras, in the world: rotation vectors and shifts of the centres."""
    u, poses = joint.unknowns, joint.window_poses
    w = u.windows
    rotation = w.rotation[:, None] @ poses[..., :3, :3]
    centre = w.scale[:, None, None] * poses[..., :3, 3] @ w.rotation.mT + w.translation[:, None]
    windows = joint.observations.windows
    return so3_log(rotation @ u.rotation[windows].mT), centre - u.centre[windows]


def shared_errors(joint: Joint) -> float:
    """How many times more the windows disagree about cameras than errors independent between pixels would make them.

    By the reweighted problem: the distance of each per-window PnP pose from the common camera, in the metric of its
    Hessian.
    """
    points, fixed = joint.solved.term("points")
    seen, stiffness = points.seen(joint.unknowns), points.rows(joint.unknowns, fixed)[0].stiffness()
    disagreement = torch.cat(disagreement_of_cameras(joint), dim=-1)
    found = []
    for g, frames in enumerate(joint.observations.windows):
        window = torch.full((len(frames), 1), g)
        jacobian = point_jacobian(joint.unknowns, seen.local[g][:, None], seen.world[g][:, None], frames, window)[
            :, 0, :, :2, :6
        ]
        hessian = torch.einsum("vp,vpij,vpik->vjk", stiffness[g], jacobian, jacobian)
        found.append(torch.einsum("vi,vij,vj->v", disagreement[g], hessian, disagreement[g]))
    return max(1.0, float(torch.cat(found).median()) / CHI_SQUARE_6)
