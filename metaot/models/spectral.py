"""Cosine moments of both measures in, cosine coefficients of the potential out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from metaot.geometry import Geometry, Grid
from metaot.models.alone import DecoderAlone, SpectralAlone, array, first, layer
from metaot.models.axes import Separable
from metaot.models.base import Evaluator, PotentialModel, log_unit
from metaot.models.cosines import Cosines
from metaot.models.layers import TEMPERATURES, BlockAt, ModulatedBlock, chebyshev

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
        self.bounds = (eps[0], eps[1])
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

    def at(self, eps: Float[Tensor, "temperatures"]) -> "SpectralAt":
        temperature = self.temperature(eps)
        weight, bias = self._inputs(temperature)
        return SpectralAt(
            sizes=self.analysis.sizes,
            analysis=self.analysis.analysis,
            weight=weight,
            bias=bias,
            blocks=[block.at(temperature) for block in self.blocks],  # type: ignore[operator], a ModulatedBlock
            norm=(self.norm.weight, self.norm.bias),
            outputs=(self.outputs.weight, self.outputs.bias),
            gain=self.gain(temperature) * self.damping,
            modes=[self.synthesis.modes] * len(self.synthesis.sizes),
            synthesis=self.synthesis.synthesis,
        )

    def temperature(self, eps: Float[Tensor, "k"]) -> Float[Tensor, "k temperatures"]:
        """Return what the network reads of eps."""
        return chebyshev(log_unit(eps, self.bounds))

    def _inputs(
        self, temperature: Float[Tensor, "k temperatures"]
    ) -> tuple[Float[Tensor, "width moments"], Float[Tensor, "k width"]]:
        """Return the first layer as one that reads the moments as they are, with the zeroth, which is ignored."""
        of_moments, of_eps = self.inputs.weight.split([2 * len(self.spread), TEMPERATURES], 1)
        weight = of_moments.unflatten(1, (2, len(self.spread))) / self.spread
        bias = linear(temperature, of_eps, self.inputs.bias - (weight * self.centre).sum((1, 2)))
        return pad(weight.permute(1, 2, 0), (0, 0, 1, 0)).flatten(0, 1).mT, bias

    @torch.no_grad()
    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        moments = self.analysis.moments(torch.cat([a, b]))[:, 1:]
        self.centre.copy_(moments.mean(0))
        self.spread.copy_(moments.std(0) + 1e-6)


@final
@dataclass(frozen=True)
class SpectralAt(Evaluator):
    """A `SpectralPotential` at a temperature."""

    sizes: list[int]
    analysis: Separable
    weight: Float[Tensor, "width moments"]
    bias: Float[Tensor, "k width"]
    blocks: list[BlockAt]
    norm: tuple[Tensor, Tensor]
    outputs: tuple[Tensor, Tensor]
    gain: Float[Tensor, "k count"]
    modes: list[int]
    synthesis: Separable

    def __call__(
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]
    ) -> Iterator[Float[Tensor, "batch n"]]:
        yield self.decode(self.encode(a, b))

    def encode(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> Float[Tensor, "batch width"]:
        """Return the features of a problem."""
        both = torch.stack([a, b], 1).reshape(-1, *self.sizes)
        moments = self.analysis(both).reshape(a.shape[0], -1)
        x = torch.addmm(self.bias, moments, self.weight.mT)
        for block in self.blocks:
            x = block(x)
        return x

    def decode(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch n"]:
        """Return the potential of these features."""
        coefficients = linear(torch.layer_norm(x, x.shape[1:], *self.norm), *self.outputs) * self.gain
        return self.synthesis(coefficients.reshape(-1, *self.modes)).flatten(1)

    def alone(self) -> SpectralAlone:
        synthesis = self.synthesis.alone()
        return SpectralAlone(
            analysis=self.analysis.alone(),
            inputs=(array(self.weight), first(self.bias)),
            blocks=[block.alone() for block in self.blocks],
            decode=DecoderAlone(layer(self.norm), layer(self.outputs), first(self.gain), synthesis),
        )


def grid_sizes(model: str, geometry: Geometry) -> list[int]:
    """Return the sizes of a grid; ValueError for other geometries."""
    if not isinstance(geometry, Grid):
        raise ValueError(f"{model} reads images on a Grid, got {geometry}: use PotentialMLP")
    return list(geometry.sizes)
