"""The network's cameras from frame to frame: a weak prior, for frames where little could be followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
import torch

from geo4d._typing import Float, Tensor
from geo4d.geometry.rotation import so3_log
from geo4d.solver.robust import Loss


@dataclass(frozen=True)
class Motion:
    """What is expected of the camera from each frame to the next, and how far it may be off."""

    rotation: Float[Tensor, "s 3 3"]  # of the next frame's camera in this frame's, whatever the world's axes are
    step: Float[Tensor, "s 3"]  # in this frame's camera
    rotation_sigma: Float[Tensor, "s"]  # radians
    step_sigma: Float[Tensor, "s"]
    loss: Loss

    def residuals(
        self, rotation: Float[Tensor, "t 3 3"], centre: Float[Tensor, "t 3"]
    ) -> tuple[Float[Tensor, "s 3"], Float[Tensor, "s 3"]]:
        """Rotation vectors and steps, both in this frame's camera, by their sigmas."""
        rotation_error = so3_log(rotation[:-1].mT @ rotation[1:] @ self.rotation.mT) / self.rotation_sigma[:, None]
        step = torch.einsum("sji,sj->si", rotation[:-1], centre.diff(dim=0)) - self.step
        return rotation_error, step / self.step_sigma[:, None]

    def cost(self, rotation: Float[Tensor, "t 3 3"], centre: Float[Tensor, "t 3"]) -> Tensor:
        """Robust, so that a few wrong expectations do not count."""
        rotation_error, step = self.residuals(rotation, centre)
        return self.loss.value(rotation_error.square().sum(-1)).sum() + self.loss.value(step.square().sum(-1)).sum()

    def system(
        self, rotation: Float[Tensor, "t 3 3"], centre: Float[Tensor, "t 3"]
    ) -> tuple[sparse.dia_array, np.ndarray]:
        """Normal equations (7 t, 7 t) and gradient (t, 7) of the cameras.

        What is left out of them is left to acceptance.
        """
        rotation_error, step = self.residuals(rotation, centre)
        by_rotation, by_step = (self.loss.weight(r.square().sum(-1)) for r in (rotation_error, step))
        frames = len(centre)
        weight, pull = np.zeros((frames - 1, 7)), np.zeros((frames - 1, 7))
        weight[:, :3], weight[:, 3:6] = (
            (by_rotation / self.rotation_sigma.square())[:, None],
            (by_step / self.step_sigma.square())[:, None],
        )
        in_world = rotation[:-1] @ torch.stack([rotation_error, step], dim=2)
        pull[:, :3] = (by_rotation / self.rotation_sigma)[:, None] * in_world[..., 0]
        pull[:, 3:6] = (by_step / self.step_sigma)[:, None] * in_world[..., 1]
        none = np.zeros((1, 7))
        diagonal = np.concatenate([weight, none]) + np.concatenate([none, weight])
        matrix = sparse.diags_array([diagonal.ravel(), -weight.ravel(), -weight.ravel()], offsets=[0, 7, -7])
        return matrix, np.concatenate([none, pull]) - np.concatenate([pull, none])
