"""Costs between point clouds: functions (x, y) -> C, batched, differentiable in both clouds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

Cost = Callable[[Float[Tensor, "*batch n d"], Float[Tensor, "*batch m d"]], Float[Tensor, "..."]]

_DIRECT_DIMENSION = 8
"""Up to this dimension differences are summed axis by axis, which loses no digits of small costs."""

_CANCELLED = 1 / 8
"""A sum of squares and products below this part of the squares has lost digits by cancellation."""

_FEW = 1 / 32
"""Up to this part of the pairs are computed again one by one; more are computed all together."""


def squared_euclidean(
    x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]
) -> Float[Tensor, "*batch n m"]:
    """Return |x_i - y_j|^2, right to rounding in every dimension.

    In many dimensions from matrix products; where these cancel, from differences.
    """
    if x.shape[-1] <= _DIRECT_DIMENSION:
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for axis in range(x.shape[-1]):
            total = total + (x[..., :, None, axis] - y[..., None, :, axis]).square()
        return total
    centre = x.detach().mean(-2, keepdim=True)
    s, t = x - centre, y - centre
    squares = s.square().sum(-1)[..., :, None] + t.square().sum(-1)[..., None, :]
    total = squares - 2 * (s @ t.mT)
    pairs = (total.detach() < _CANCELLED * squares.detach()).nonzero(as_tuple=True)
    count = len(pairs[0])
    if count > _FEW * total.numel():
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    if count == 0:
        return total
    *batch, i, j = pairs
    return total.index_put(pairs, (x[*batch, i] - y[*batch, j]).square().sum(-1))


def euclidean(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch n m"]:
    """Return |x_i - y_j|; the derivative at coinciding points is taken as zero."""
    return _safe_sqrt(squared_euclidean(x, y))


def great_circle(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch n m"]:
    """Return the angle between unit vectors in radians, accurate for close and for antipodal vectors.

    Kahan's form 2 atan2(|x - y|, |x + y|) of arccos(<x, y>).
    """
    return 2 * torch.atan2(_safe_sqrt(squared_euclidean(x, y)), _safe_sqrt(squared_euclidean(x, -y)))


def _safe_sqrt(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0)


COSTS: dict[str, Cost] = {
    "sqeuclidean": squared_euclidean,
    "euclidean": euclidean,
    "sphere": great_circle,
}


@final
@dataclass(frozen=True)
class Exchanged:
    """A cost function with source and target exchanged."""

    cost: Cost

    def __call__(self, y: Tensor, x: Tensor) -> Tensor:
        return self.cost(x, y).mT


def exchanged(cost: Cost) -> Cost:
    """Return a cost function with source and target exchanged; the original one after two exchanges."""
    return cost.cost if isinstance(cost, Exchanged) else Exchanged(cost)
