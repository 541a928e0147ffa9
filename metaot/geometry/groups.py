"""Groups of target atoms with nearly the same costs: a small problem in place of a large one."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry.base import Geometry
from metaot.geometry.checks import require_finite

_ITERATIONS = 15
_ROWS = 64
"""The most source atoms whose costs are compared."""


@final
@dataclass(frozen=True)
class Groups:
    """The group of each target atom, and the mean costs of each group."""

    index: Int[Tensor, "m"]
    costs: Float[Tensor, "n groups"]

    @classmethod
    def of(cls, geometry: Geometry, count: int, seed: int = 0) -> "Groups":
        """Divide the atoms into at most `count` groups by k-means on their costs.

        The mean cost of an atom is subtracted, because a constant changes no plan. With at least as many groups
        as atoms, each atom has its own. Raises ValueError for a batch of geometries and for infinite costs.
        """
        if geometry.batch_shape:
            raise ValueError(f"groups are of one geometry, got a batch {geometry.batch_shape} of them")
        C = geometry.cost_rows(slice(None)).detach().double().cpu()
        require_finite("C", C)
        if count >= C.shape[1]:
            return cls(torch.arange(C.shape[1]), C)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(C), generator=generator)[:_ROWS]
        features = (C[rows] - C[rows].mean(0)).T.float()
        index = _means(features, count, generator)
        index = index.unique(return_inverse=True)[1]
        sizes = torch.bincount(index)
        return cls(index, totals(C, index, len(sizes)) / sizes)


def _means(features: Float[Tensor, "m d"], count: int, generator: torch.Generator) -> Int[Tensor, "m"]:
    """Return the cluster of each row by Lloyd's algorithm; an empty cluster keeps its centre."""
    centres = features[torch.randperm(len(features), generator=generator)[:count]]
    index = torch.zeros(len(features), dtype=torch.int64)
    for _ in range(_ITERATIONS):
        distances = centres.square().sum(-1) - 2 * features @ centres.T
        index = distances.argmin(-1)
        sizes = torch.bincount(index, minlength=count)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, index, features)
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return index


def totals(b: Float[Tensor, "*batch m"], index: Int[Tensor, "m"], count: int) -> Float[Tensor, "*batch groups"]:
    """Return the weights of the groups."""
    return torch.zeros(*b.shape[:-1], count, dtype=b.dtype, device=b.device).index_add_(-1, index, b)
