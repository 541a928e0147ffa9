"""Cosine moments of both measures in, cosine coefficients of the potential out."""

import math
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.geometry import Geometry, Grid
from metaot.models.base import PotentialModel, log_unit
from metaot.models.cosines import Cosines
from metaot.models.layers import TEMPERATURES, ModulatedBlock, chebyshev

UNIT = 0.1
"""The size of a potential on the unit square, so that the network's outputs are of order one."""


@final
class SpectralPotential(PotentialModel):
    """A network between functions on a grid of any dimension.

    A potential is smooth at the scale of sqrt(eps), and what moves mass far are the low frequencies of a and
    b. So the network reads `moments` cosine moments for each axis of a and of b, and log eps, and writes
    `modes` cosine coefficients for each axis of f, damped by 1/(1 + |k|^2).
    """

    def __init__(
        self,
        sizes: list[int],
        eps: list[float],
        *,
        moments: int = 14,
        modes: int = 14,
        width: int = 384,
        hidden: int = 368,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.config = {
            "sizes": sizes, "eps": eps, "moments": moments, "modes": modes,
            "width": width, "hidden": hidden, "depth": depth,
        }  # fmt: skip
        self.bounds, self.sizes = (eps[0], eps[1]), (math.prod(sizes), math.prod(sizes))
        self.analysis, self.synthesis = Cosines(sizes, moments), Cosines(sizes, modes)
        self.register_buffer("centre", torch.zeros(self.analysis.count - 1, dtype=torch.float32))
        self.register_buffer("spread", torch.ones(self.analysis.count - 1, dtype=torch.float32))
        self.register_buffer("damping", UNIT * self.synthesis.damping(), persistent=False)
        self.centre: Tensor
        self.spread: Tensor
        self.damping: Tensor
        self.inputs = nn.Linear(2 * (self.analysis.count - 1) + TEMPERATURES, width)
        self.blocks = nn.ModuleList(ModulatedBlock(width, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.outputs = nn.Linear(width, self.synthesis.count)
        self.gain = nn.Linear(TEMPERATURES, self.synthesis.count)
        nn.init.zeros_(self.gain.weight)
        nn.init.ones_(self.gain.bias)

    @classmethod
    def for_geometry(cls, geometry: Geometry, eps: tuple[float, float], **settings: Any) -> "SpectralPotential":
        return cls(sizes=grid_sizes(cls.__name__, geometry), eps=list(eps), **settings)

    def forward(  # type: ignore[override], the inputs by name
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Float[Tensor, "batch"]
    ) -> tuple[Tensor, ...]:
        """Return f, the features x (batch width) and the polynomials of log eps (batch temperatures)."""
        temperature = chebyshev(log_unit(eps, self.bounds))
        moments = (self.analysis.moments(torch.cat([a, b]))[:, 1:] - self.centre) / self.spread
        x = self.inputs(torch.cat([moments[: a.shape[0]], moments[a.shape[0] :], temperature], -1))
        for block in self.blocks:
            x = block(x, temperature)
        coefficients = self.outputs(self.norm(x)) * self.gain(temperature) * self.damping
        return self.synthesis.function(coefficients), x, temperature

    @torch.no_grad()
    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        moments = self.analysis.moments(torch.cat([a, b]))[:, 1:]
        self.centre.copy_(moments.mean(0))
        self.spread.copy_(moments.std(0) + 1e-6)


def grid_sizes(model: str, geometry: Geometry) -> list[int]:
    """Return the sizes of a grid; ValueError for other geometries."""
    if not isinstance(geometry, Grid):
        raise ValueError(f"{model} reads images on a Grid, got {geometry}: use PotentialMLP")
    return list(geometry.sizes)
