"""Hypernetworks: from two measures to the weights of two input-convex networks."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.brenier import Icnn

Halves = tuple[Float[Tensor, "batch count"], Float[Tensor, "batch count"]]
"""The weights of phi, and those of psi."""


class HyperNetwork(nn.Module, ABC):
    """A network that maps two measures to the weights of phi and of psi, float32.

    One network is applied to (source, target) and to (target, source): exchanging the measures exchanges phi and
    psi, by construction. The constructor takes JSON values only, and keeps them in `config`; nothing branches on
    values, so that it exports.
    """

    def __init__(self, dim: int, hidden: list[int], activation: str, **settings: Any) -> None:
        """Keep the settings and the ICNN. The network predicts a change of `base`, which is learnt as well."""
        super().__init__()
        self.config = {"dim": dim, "hidden": list(hidden), "activation": activation, **settings}
        self.icnn = Icnn(dim, tuple(hidden), activation)
        self.base = nn.Parameter(self.icnn.weights(torch.Generator().manual_seed(0)))

    @classmethod
    def for_dim(cls, dim: int, **settings: Any) -> "HyperNetwork":
        """Return a new model for measures on R^dim; with 64 hidden units unless `hidden` says otherwise."""
        return cls(dim, **{"hidden": [64], **settings})

    @abstractmethod
    def stages(
        self,
        u: Float[Tensor, "batch n d"],
        v: Float[Tensor, "batch m d"],
        context: Tensor | None,
    ) -> list[Halves]:
        """Return the first prediction and each correction of it; no gradient flows from one to another.

        u and v are samples in the coordinates of a `Frame`.
        """

    def forward(self, u: Tensor, v: Tensor, context: Tensor | None = None) -> Halves:
        return self.stages(u, v, context)[-1]

    @abstractmethod
    def standardise(self, u: Float[Tensor, "batch n d"]) -> None:
        """Set the scale of the inputs from samples of many measures; called once, before training."""
