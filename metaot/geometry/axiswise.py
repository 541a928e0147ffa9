"""Minima and products with a cost that is a sum over the axes of a grid, exact, one axis at a time."""

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK = 2**18
"""Entries of a block of (rows, lines, points), 2 MiB in float64: it stays in the cache."""


def grid_hardmin(
    z: Float[Tensor, "batch *sizes"], costs: tuple[Float[Tensor, "_ _"], ...]
) -> Float[Tensor, "batch *sizes"]:
    r"""Return $\min_j \sum_k c^k_{ij} - z_j$ over all atoms j of a grid: a min-plus product with each axis."""
    least = -z
    for axis, cost in enumerate(costs, 1):
        lines = least.movedim(axis, -1)
        rows = _min_plus(cost, lines.reshape(-1, cost.shape[1]))
        least = rows.reshape(len(cost), *lines.shape[:-1]).movedim(0, axis)
    return least


def _min_plus(cost: Float[Tensor, "n m"], lines: Float[Tensor, "lines m"]) -> Float[Tensor, "n lines"]:
    r"""Return $\min_j c_{ij} + x_j$ for each line x."""
    count, m = lines.shape
    together = max(1, _BLOCK // max(1, count * m))
    parts = lines.split(max(1, _BLOCK // (m * together)))
    blocks = [[(rows[:, None] + x).amin(-1) for x in parts] for rows in cost.split(together)]
    return torch.cat([torch.cat(block, 1) for block in blocks])


def grid_times_cost(
    v: Float[Tensor, "batch *sizes"], costs: tuple[Float[Tensor, "_ _"], ...]
) -> Float[Tensor, "batch *sizes"]:
    r"""Return $\sum_j (\sum_k c^k_{ij}) v_j$: of each axis, the cost times the marginal of v."""
    total = torch.zeros_like(v)
    for axis, cost in enumerate(costs, 1):
        marginal = v
        for other in range(1, v.ndim):
            if other != axis:
                marginal = marginal.sum(other, keepdim=True)
        total = total + (marginal.movedim(axis, -1) @ cost.mT).movedim(-1, axis)
    return total
