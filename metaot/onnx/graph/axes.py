"""Products along the axes of a grid, in a form that exports to one node for each axis."""

from collections.abc import Sequence

from torch import Tensor


def product(matrices: Sequence[Tensor], values: Tensor) -> Tensor:
    """Multiply values, batch *sizes, along all axes.

    Each matrix is rows x size, or has a batch before that; that of the last axis is transposed.
    """
    for axis in range(len(matrices) - 1, -1, -1):
        values = along(values, axis, matrices[axis])
    return values


def along(values: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Multiply along one axis."""
    sizes = values.shape[1:]
    if len(sizes) == 1:
        return (values[:, None] @ matrix)[:, 0]
    if axis == len(sizes) - 1:
        return values @ _lifted(matrix, len(sizes) - 2)
    if axis == len(sizes) - 2:
        return _lifted(matrix, axis) @ values
    lines = _lifted(matrix, axis) @ values.flatten(axis + 2)
    return lines.unflatten(-1, sizes[axis + 1 :])


def _lifted(matrix: Tensor, dims: int) -> Tensor:
    """Put dimensions of size one behind the batch of a matrix that has one."""
    if matrix.ndim == 2 or dims == 0:
        return matrix
    return matrix.reshape(-1, *[1] * dims, *matrix.shape[1:])
