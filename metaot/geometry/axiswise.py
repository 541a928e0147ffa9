"""Minima and products with a cost that is a sum over the axes of a grid, exact, one axis at a time."""

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK = 2**22
"""Entries of a block of (batch, *sizes, points): 32 MiB in float64."""


def grid_hardmin(
    z: Float[Tensor, "batch *sizes"], costs: tuple[Float[Tensor, "_ _"], ...]
) -> Float[Tensor, "batch *sizes"]:
    r"""Return $\min_j \sum_k c^k_{ij} - z_j$ over all atoms j of a grid: a min-plus product with each axis."""
    least = -z
    for axis, cost in enumerate(costs, 1):
        lines = least.movedim(axis, -1)
        step = max(1, _BLOCK // max(1, lines.numel()))
        parts = [(rows + lines[..., None, :]).amin(-1) for rows in cost.split(step)]
        least = torch.cat(parts, -1).movedim(-1, axis)
    return least


def grid_times_cost(
    v: Float[Tensor, "batch *sizes"], costs: tuple[Float[Tensor, "_ _"], ...]
) -> Float[Tensor, "batch *sizes"]:
    r"""Return $\sum_j (\sum_k c^k_{ij}) v_j$: the cost of each axis sees the marginal of v on that axis only."""
    total = torch.zeros_like(v)
    for axis, cost in enumerate(costs, 1):
        marginal = v
        for other in range(1, v.ndim):
            if other != axis:
                marginal = marginal.sum(other, keepdim=True)
        total = total + (marginal.movedim(axis, -1) @ cost.mT).movedim(-1, axis)
    return total
