"""Costs between point clouds: functions (x, y) -> C, batched, differentiable in both clouds."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Cost = Callable[[Float[Tensor, "*batch n d"], Float[Tensor, "*batch m d"]], Float[Tensor, "..."]]

_DIRECT_DIMENSION = 8
"""Up to this dimension differences are summed axis by axis, which loses no digits of small costs."""


def squared_euclidean(
    x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]
) -> Float[Tensor, "*batch n m"]:
    """Return |x_i - y_j|^2."""
    if x.shape[-1] <= _DIRECT_DIMENSION:
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for axis in range(x.shape[-1]):
            total = total + (x[..., :, None, axis] - y[..., None, :, axis]).square()
        return total
    centre = x.mean(-2, keepdim=True)
    x, y = x - centre, y - centre
    products = x @ y.mT
    squares = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :]
    return (squares - 2 * products).clamp_min(0)


def euclidean(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch n m"]:
    """Return |x_i - y_j|; the derivative at coinciding points is taken as zero."""
    return _safe_sqrt(squared_euclidean(x, y))


def great_circle(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch n m"]:
    """Return the angle between unit vectors, in radians; accurate for close and for antipodal ones.

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


def named_cost(cost: str | Cost) -> Cost:
    """Return the cost function of that name; a callable is its own."""
    if callable(cost):
        return cost
    if cost not in COSTS:
        raise ValueError(f"cost must be a callable or one of {sorted(COSTS)}, got {cost!r}")
    return COSTS[cost]
