"""The closed forms behind the autoencoder's start and the point decoder's loss."""

import numpy as np
import torch

from geo4d.training.autoencoder import fit_pca, laplace_nll


def test_pca_keeps_what_varies():
    images = torch.randn(20, 3, 1, 1).expand(20, 3, 16, 16)
    mean, basis = fit_pca(images, components=3)
    patch = images[0, :, :8, :8].flatten()
    torch.testing.assert_close(mean + basis.T @ (basis @ (patch - mean)), patch, atol=1e-4, rtol=1e-3)


def test_laplace_likelihood_is_least_at_the_true_scale():
    error = torch.distributions.Laplace(0.0, 1.0).sample((1, 1, 60, 60))
    target = torch.cat([error, torch.zeros(1, 2, 60, 60)], dim=1)

    def nll(sigma):
        logit = torch.full((1, 1, 60, 60), float(np.log(np.expm1(sigma))))
        return laplace_nll(torch.cat([torch.zeros(1, 3, 60, 60), logit], dim=1), target)[0].mean()

    best = 2**0.5 * float(error.abs().mean())
    assert nll(best) < nll(best * 1.2) and nll(best) < nll(best / 1.2)
