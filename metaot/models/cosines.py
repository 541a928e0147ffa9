"""Cosine moments of measures on a grid, and functions on it from cosine coefficients."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@final
class Cosines(nn.Module):
    """The lowest `modes` cosines of each axis of a grid, as one matrix for each axis.

    The atoms are taken to be evenly spaced.
    """

    def __init__(self, sizes: list[int], modes: int) -> None:
        super().__init__()
        self.sizes, self.modes = sizes, modes
        for axis, size in enumerate(sizes):
            self.register_buffer(f"basis{axis}", _cosines(modes, size), persistent=False)

    @property
    def count(self) -> int:
        """The number of coefficients."""
        return self.modes ** len(self.sizes)

    def moments(self, weights: Float[Tensor, "batch n"]) -> Float[Tensor, "batch count"]:
        """Return sum_i w_i cos(pi k x_i) for all frequencies k, the zeroth first."""
        return _contracted(self._bases(), weights)

    def function(self, coefficients: Float[Tensor, "batch count"]) -> Float[Tensor, "batch n"]:
        """Return sum_k c_k cos(pi k x_i), the function on the grid."""
        return _contracted([basis.mT for basis in self._bases()], coefficients)

    def damping(self) -> Float[Tensor, "count"]:
        """Return 1/(1 + |k|^2) for each coefficient: a potential is smooth."""
        squares = torch.arange(self.modes, dtype=torch.float32).square()
        grid = torch.meshgrid(*[squares] * len(self.sizes), indexing="ij")
        return (1 / (1 + torch.stack(grid).sum(0))).flatten()

    def _bases(self) -> list[Tensor]:
        return [getattr(self, f"basis{axis}") for axis in range(len(self.sizes))]


def _contracted(matrices: list[Tensor], values: Float[Tensor, "batch n"]) -> Float[Tensor, "batch m"]:
    """Multiply along each axis, the last one first."""
    batch, after = values.shape[0], 1
    for matrix in reversed(matrices):
        rows, columns = matrix.shape
        if after == 1:
            values = values.reshape(-1, columns) @ matrix.mT
        else:
            values = matrix @ values.reshape(-1, columns, after)
        after *= rows
    return values.reshape(batch, -1)


def _cosines(count: int, size: int) -> Float[Tensor, "count size"]:
    k = torch.arange(count, dtype=torch.float64)
    x = torch.linspace(0, 1, size, dtype=torch.float64)
    return torch.cos(math.pi * k[:, None] * x).float()
