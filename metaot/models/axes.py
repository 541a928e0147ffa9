"""Linear maps of arrays that are a product of one matrix for each axis."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Shaped
from torch import Tensor

from metaot.models.alone import AxesAlone, first


@final
@dataclass(frozen=True)
class Separable:
    """One matrix for each axis, of the shape (1 or batch, rows, columns); that of the last axis is transposed.

    Stored so that for two axes neither the matrices nor the values are transposed or copied.
    """

    matrices: list[Tensor]

    @classmethod
    def of(cls, matrices: list[Tensor]) -> "Separable":
        """Take matrices that multiply from the left."""
        return cls([*matrices[:-1], matrices[-1].mT])

    def __call__(self, values: Shaped[Tensor, "batch *sizes"]) -> Shaped[Tensor, "batch *new_sizes"]:
        """Multiply along all axes, the last one first."""
        for axis in range(len(self.matrices) - 1, -1, -1):
            values = self.along(values, axis)
        return values

    def alone(self) -> AxesAlone:
        """Return the same in numpy, without a batch."""
        *others, last = map(first, self.matrices)
        return AxesAlone([last.T, *reversed(others)])

    def along(self, values: Shaped[Tensor, "batch *sizes"], axis: int) -> Shaped[Tensor, "batch *new_sizes"]:
        """Multiply along one axis."""
        matrix, batch = self.matrices[axis], values.shape[0]
        if len(self.matrices) != 2:
            return _along(values, axis, matrix)
        if axis == 1:
            return torch.bmm(values, matrix.expand(batch, -1, -1))
        return torch.bmm(matrix.expand(batch, -1, -1), values)


def _along(values: Tensor, axis: int, matrix: Tensor) -> Tensor:
    batch, *sizes = values.shape
    before, size, after = sizes[:axis], sizes[axis], sizes[axis + 1 :]
    if not after:
        return (values.reshape(batch, -1, size) @ matrix).reshape(batch, *before, -1)
    rows = matrix[:, None] @ values.reshape(batch, math.prod(before), size, -1)
    return rows.reshape(batch, *before, -1, *after)
