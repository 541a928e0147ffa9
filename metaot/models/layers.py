"""Layers that know the temperature."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

_CHEBYSHEV = [
    [1.0, 0.0, -1.0, 0.0, 1.0],
    [0.0, 1.0, 0.0, -3.0, 0.0],
    [0.0, 0.0, 2.0, 0.0, -8.0],
    [0.0, 0.0, 0.0, 4.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 8.0],
]
"""The coefficients of the powers (rows) in the first Chebyshev polynomials (columns)."""

TEMPERATURES = len(_CHEBYSHEV)
"""The number of Chebyshev polynomials of log eps that networks read."""


def chebyshev(t: Float[Tensor, "k"]) -> Float[Tensor, "k temperatures"]:
    """Return the first Chebyshev polynomials at t in [-1, 1]."""
    powers = t[:, None] ** torch.arange(TEMPERATURES, dtype=t.dtype, device=t.device)
    return powers @ torch.tensor(_CHEBYSHEV, dtype=t.dtype, device=t.device)


@final
class ModulatedBlock(nn.Module):
    """A residual gated layer (GEGLU, Shazeer, arXiv 2002.05202) with its input scaled by the temperature."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(TEMPERATURES, 2 * width, bias=False)
        self.inner = nn.Linear(width, 2 * hidden)
        self.outer = nn.Linear(hidden, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.outer.bias)
        with torch.no_grad():
            self.outer.weight.mul_(0.5)

    def forward(
        self, x: Float[Tensor, "batch width"], temperature: Float[Tensor, "batch temperatures"]
    ) -> Float[Tensor, "batch width"]:
        scale, shift = self.modulation(temperature).chunk(2, -1)
        gate, value = self.inner(self.norm(x) * (1 + scale) + shift).chunk(2, -1)
        return x + self.outer(gelu(gate) * value)
