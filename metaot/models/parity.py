"""Layers that commute with reflections of both axes.

Features have four classes: even or odd along the first axis, and along the second. A reflection changes the sign
of the two classes that are odd along its axis. A linear map that keeps the classes apart commutes with that, at a
quarter of the weights. A pointwise function does not, unless it is applied to the four mirror images, which are
the sums and differences of the classes.
"""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from metaot.models.layers import TEMPERATURES

CLASSES = 4
"""(even, even), (even, odd), (odd, even), (odd, odd)."""

_SIGNS = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
_TINY = 1e-6


@final
class ParityLinear(nn.Module):
    """A linear map for each class; a constant is even, so that only the first class has a bias."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = 1.0) -> None:
        super().__init__()
        weight = torch.randn(CLASSES, inputs, outputs, dtype=torch.float32)
        self.weight = nn.Parameter(weight * (gain / math.sqrt(inputs)))
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float32))

    def forward(self, x: Float[Tensor, "4 batch inputs"]) -> Float[Tensor, "4 batch outputs"]:
        return x @ self.weight + torch.stack([self.bias, *[torch.zeros_like(self.bias)] * (CLASSES - 1)])[:, None]


def normal(x: Float[Tensor, "4 batch width"]) -> Float[Tensor, "4 batch width"]:
    """Scale all features of an instance to a mean square of one."""
    return x / (x.square().mean((0, 2), keepdim=True) + _TINY).sqrt()


def mirrored(x: Float[Tensor, "4 batch width"]) -> Float[Tensor, "4 batch width"]:
    """Turn classes into mirror images, or mirror images into classes: its own inverse."""
    signs = torch.tensor(_SIGNS, dtype=x.dtype, device=x.device) / 2
    return (signs @ x.flatten(1)).reshape(x.shape)


@final
class ParityBlock(nn.Module):
    """A residual gated layer, as `ModulatedBlock`, that commutes with reflections."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CLASSES, 1, width, dtype=torch.float32))
        self.modulation = nn.Linear(TEMPERATURES, width, bias=False, dtype=torch.float32)
        self.inner = ParityLinear(width, 2 * hidden)
        self.outer = ParityLinear(hidden, width, gain=0.5)
        nn.init.zeros_(self.modulation.weight)

    def forward(
        self, x: Float[Tensor, "4 batch width"], temperature: Float[Tensor, "batch temperatures"]
    ) -> Float[Tensor, "4 batch width"]:
        inner = self.inner(normal(x) * (self.scale * (1 + self.modulation(temperature))))
        gate, value = mirrored(inner).chunk(2, -1)
        return x + self.outer(mirrored(gelu(gate) * value))
