"""Continuous problems and networks that tests share."""

import torch
from torch import Tensor

from metaot.brenier import ACTIVATIONS, BrenierPotential, Frame, Icnn, SampleProblem

SMOOTH = [name for name in ACTIVATIONS if name != "leaky_relu"]


def clouds(*batch: int, n: int = 40, dim: int = 3, seed: int = 0) -> SampleProblem:
    """Two clouds that are not Gaussian, with means and covariances of their own."""
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for _ in range(2):
        z = torch.randn(*batch, n, dim, generator=generator, dtype=torch.float64)
        mix = torch.randn(*batch, dim, dim, generator=generator, dtype=torch.float64)
        shift = torch.randn(*batch, 1, dim, generator=generator, dtype=torch.float64)
        sides.append((z + 0.3 * z**2) @ mix + shift)
    return SampleProblem(*sides)


def random_weights(icnn: Icnn, *batch: int, seed: int = 0, strength: float = 2.0) -> Tensor:
    """Weights whose network is far from quadratic."""
    generator = torch.Generator().manual_seed(seed)
    weights = icnn.weights(generator, *batch).double()
    return weights + strength * torch.randn(weights.shape, generator=generator, dtype=torch.float64)


def random_potential(problem: SampleProblem, icnn: Icnn | None = None, seed: int = 0) -> BrenierPotential:
    icnn = icnn or Icnn(problem.dim, (16, 8))
    return BrenierPotential(icnn, random_weights(icnn, *problem.batch_shape, seed=seed), Frame.gaussian(problem))
