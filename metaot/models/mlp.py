"""The paper's network: both weight vectors in, the potential out (Meta OT, arXiv 2206.05262, section 3.1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.geometry import Geometry
from metaot.models.alone import PerceptronAlone, array, first, layer
from metaot.models.base import Evaluator, PotentialModel, log_unit


@final
class PotentialMLP(PotentialModel):
    """A fully connected network with ReLU; for any geometry that all problems share.

    Beside the paper's inputs it reads log eps, which is constant when the model is trained at one eps.
    """

    def __init__(self, n: int, m: int, eps: list[float], width: int = 1024, depth: int = 3) -> None:
        super().__init__()
        self.config = {"n": n, "m": m, "eps": eps, "width": width, "depth": depth}
        self.bounds = (eps[0], eps[1])
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

    def at(self, eps: Float[Tensor, "temperatures"]) -> "PerceptronAt":
        return PerceptronAt(log_unit(eps, self.bounds)[:, None], self.scale_a, self.scale_b, self.layers)

    @torch.no_grad()
    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        self.scale_a.copy_(1 / a.std())
        self.scale_b.copy_(1 / b.std())


@final
@dataclass(frozen=True)
class PerceptronAt(Evaluator):
    """A `PotentialMLP` at a temperature."""

    t: Float[Tensor, "k 1"]
    scale_a: Tensor
    scale_b: Tensor
    layers: nn.Sequential

    def __call__(
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]
    ) -> Iterator[Float[Tensor, "batch n"]]:
        inputs = [a * self.scale_a, b * self.scale_b, self.t.expand(a.shape[0], 1)]
        yield self.layers(torch.cat(inputs, -1))

    def alone(self) -> PerceptronAlone:
        *hidden, last = [
            layer((part.weight, part.bias)) for part in self.layers.modules() if isinstance(part, nn.Linear)
        ]
        return PerceptronAlone(first(self.t), (array(self.scale_a), array(self.scale_b)), hidden, last)
