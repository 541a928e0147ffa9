"""Matrix products along the axes of a grid, without copies."""

import math

import torch
from jaxtyping import Shaped
from torch import Tensor


def along(
    values: Shaped[Tensor, "batch *sizes"], axis: int, matrix: Shaped[Tensor, "#batch rows columns"]
) -> Shaped[Tensor, "batch *new_sizes"]:
    """Multiply the vectors along one axis of a batch of arrays by a matrix, shared or one for each instance."""
    batch, *sizes = values.shape
    before, size, after = sizes[:axis], sizes[axis], sizes[axis + 1 :]
    rows = matrix.shape[1]
    if not after:
        product = torch.bmm(values.reshape(batch, -1, size), matrix.mT.expand(batch, size, rows))
    elif not before:
        product = torch.bmm(matrix.expand(batch, rows, size), values.reshape(batch, size, -1))
    else:
        shared = matrix[:, None].expand(batch, math.prod(before), rows, size)
        product = shared @ values.reshape(batch, -1, size, math.prod(after))
    return product.reshape(batch, *before, rows, *after)


def along_all(
    values: Shaped[Tensor, "batch *sizes"], matrices: list[Tensor]
) -> Shaped[Tensor, "batch *new_sizes"]:
    """Multiply the vectors along every axis by its matrix; the last axis is first."""
    for axis in range(len(matrices) - 1, -1, -1):
        values = along(values, axis, matrices[axis])
    return values
