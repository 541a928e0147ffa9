"""Layers that know the temperature."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from metaot.models.alone import BlockAlone, first, layer

TEMPERATURES = 5
"""The number of Chebyshev polynomials of log eps that networks read."""


def chebyshev(t: Float[Tensor, "k"]) -> Float[Tensor, "k temperatures"]:
    """Return the first Chebyshev polynomials at t in [-1, 1]."""
    terms = [torch.ones_like(t), t]
    while len(terms) < TEMPERATURES:
        terms.append(2 * t * terms[-1] - terms[-2])
    return torch.stack(terms, -1)


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

    def at(self, temperature: Float[Tensor, "k temperatures"]) -> "BlockAt":
        """Return the block at a temperature, shared or one for each instance."""
        scale, shift = self.modulation(temperature).chunk(2, -1)
        inner, outer = self.inner, self.outer
        return BlockAt(
            scale=self.norm.weight * (1 + scale),
            shift=self.norm.bias * (1 + scale) + shift,
            inner=(inner.weight, inner.bias),
            outer=(outer.weight, outer.bias),
        )


@final
@dataclass(frozen=True)
class BlockAt:
    """A `ModulatedBlock` at a temperature; the modulation and the affine part of the norm are one."""

    scale: Float[Tensor, "k width"]
    shift: Float[Tensor, "k width"]
    inner: tuple[Tensor, Tensor]
    outer: tuple[Tensor, Tensor]

    def __call__(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        normal = torch.layer_norm(x, x.shape[1:])
        gate, value = linear(torch.addcmul(self.shift, normal, self.scale), *self.inner).chunk(2, -1)
        return x + linear(gelu(gate) * value, *self.outer)

    def alone(self) -> BlockAlone:
        """Return the same in numpy, for one instance."""
        return BlockAlone(first(self.scale), first(self.shift), layer(self.inner), layer(self.outer))
