"""A network as a potential: points to numbers."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.models.base import require_settings


@final
class PotentialNetwork(nn.Module):
    """A perceptron from points, k d, to their potentials, k: smooth, with inputs brought to unit scale.

    Args:
        width: units of each hidden layer.
        depth: hidden layers.
    """

    shift: Tensor
    scale: Tensor
    steepness: Tensor

    def __init__(self, dim: int, *, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        require_settings(type(self), {"width": width, "depth": depth})
        self.config = {"dim": dim, "width": width, "depth": depth}
        layers: list[nn.Module] = []
        for k in range(depth):
            layers += [nn.Linear(width if k else dim, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width if depth else dim, 1))
        one = torch.ones((), dtype=torch.float32)
        self.register_buffer("shift", torch.zeros(dim, dtype=torch.float32))
        self.register_buffer("scale", one)
        self.register_buffer("steepness", one.clone())

    @property
    def dim(self) -> int:
        """The dimension of the points."""
        return len(self.shift)

    def forward(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k"]:
        return self.steepness * self.scale * self.layers((x - self.shift) / self.scale)[:, 0]

    def standardise(self, x: Float[Tensor, "n d"], slopes: Float[Tensor, "n d"]) -> None:
        """Set the scale of points and of the gradients that are to be learned; called once, before training."""
        self.shift.copy_(x.mean(0))
        self.scale.copy_(x.std(0).mean().clamp_min(torch.finfo(x.dtype).tiny))
        self.steepness.copy_(slopes.square().mean().sqrt().clamp_min(torch.finfo(x.dtype).tiny))
