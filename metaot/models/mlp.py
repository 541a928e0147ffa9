"""The paper's network: both weight vectors in, the potential out (Meta OT, arXiv 2206.05262, section 3.1)."""

from itertools import pairwise
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.geometry import Geometry
from metaot.models.base import PotentialModel, log_unit


@final
class PotentialMLP(PotentialModel):
    """A fully connected network with ReLU; for any geometry that all problems share.

    Beside the paper's inputs it reads log eps, which is constant when the model is trained at one eps.
    """

    def __init__(self, n: int, m: int, eps: list[float], width: int = 1024, depth: int = 3) -> None:
        super().__init__()
        self.config = {"n": n, "m": m, "eps": eps, "width": width, "depth": depth}
        self.bounds, self.sizes = (eps[0], eps[1]), (n, m)
        sizes = [n + m + 1, *[width] * depth]
        layers = [nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(sizes)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, n))
        self.register_buffer("scale_a", torch.tensor(float(n), dtype=torch.float32))
        self.register_buffer("scale_b", torch.tensor(float(m), dtype=torch.float32))
        self.scale_a: Tensor
        self.scale_b: Tensor

    @classmethod
    def for_geometry(cls, geometry: Geometry, eps: tuple[float, float], **settings: Any) -> "PotentialMLP":
        n, m = geometry.shape
        return cls(n=n, m=m, eps=list(eps), **settings)

    def forward(  # type: ignore[override], the inputs by name
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Float[Tensor, "batch"]
    ) -> tuple[Tensor, ...]:
        t = log_unit(eps, self.bounds)[:, None]
        return (self.layers(torch.cat([a * self.scale_a, b * self.scale_b, t], -1)),)

    @torch.no_grad()
    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        self.scale_a.copy_(1 / a.std())
        self.scale_b.copy_(1 / b.std())
