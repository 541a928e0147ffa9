"""Continuous problems and networks that tests share."""

import torch
from torch import Tensor

from metaot.amortize.universal import UniversalPotential
from metaot.brenier import ACTIVATIONS, BrenierPotential, Frame, Icnn, SampleProblem
from metaot.models.universal import UniversalNetwork

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


def small_predictor(generator: torch.Generator, passes: int) -> UniversalPotential:
    """Return one with weights that are not zero: some are in a new network, and would hide what they break."""
    torch.default_generator.manual_seed(0)
    network = UniversalNetwork(modes=8, width=12, hidden=10, depth=2, correction=10, passes=passes)
    for weight in network.parameters():
        weight.data += 0.03 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return UniversalPotential(network.eval().requires_grad_(False), (1e-3, 1e-1))
