"""Small networks for tests of the universal model."""

import torch

from metaot.amortize.universal import UniversalPotential
from metaot.models.universal import UniversalNetwork


def small_predictor(generator: torch.Generator, passes: int) -> UniversalPotential:
    """Return one with weights that are not zero: some are in a new network, and would hide what they break."""
    torch.manual_seed(0)
    network = UniversalNetwork(modes=8, width=12, hidden=10, depth=2, correction=10, passes=passes)
    for weight in network.parameters():
        weight.data += 0.03 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return UniversalPotential(network.eval().requires_grad_(False), (1e-3, 1e-1))
