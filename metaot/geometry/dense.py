"""A geometry that is its cost matrix."""

from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.arrays import ArrayLike
from metaot.geometry.base import Geometry, replaced
from metaot.geometry.checks import require_costs, tensor


@final
class Dense(Geometry):
    """The space of a cost matrix C, n m, or *batch n m for one matrix for each instance.

    C is a tensor, an array or nested lists. An entry +inf forbids a pair. Raises ValueError when C is not float32,
    float64 or integers, has less than two dimensions, or an entry NaN or -inf; TypeError when it holds no numbers.
    """

    def __init__(self, C: ArrayLike) -> None:
        C = tensor("C", C, taken="a cost matrix (a tensor, an array or nested lists)")
        require_costs("C", C)
        if C.ndim < 2 or 0 in C.shape[-2:]:
            raise ValueError(f"C must have the shape (n, m) or (*batch, n, m), got {tuple(C.shape)}")
        self.C = C

    @classmethod
    def trusted(cls, C: Float[Tensor, "..."]) -> "Dense":
        """Make a geometry of a matrix that was checked before."""
        geometry = object.__new__(cls)
        geometry.C = C
        return geometry

    @property
    def shape(self) -> tuple[int, int]:
        return self.C.shape[-2], self.C.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.C.shape[:-2])

    @property
    def T(self) -> "Dense":
        return self._transposed

    @cached_property
    def _transposed(self) -> "Dense":
        return replaced(self, C=self.C.mT)

    @property
    def of_each_side(self) -> "tuple[Dense, Dense] | None":
        C = self.C.detach()
        square = C.shape[-2] == C.shape[-1]
        one_support = square and torch.equal(C, C.mT) and not bool(C.diagonal(dim1=-2, dim2=-1).any())
        return (self, self) if one_support else None

    @property
    def cost_name(self) -> None:
        return None

    @property
    def words(self) -> str:
        return "{} x {} costs".format(*self.shape)

    def cost_rows(self, rows: slice | Int[Tensor, "r"]) -> Float[Tensor, "..."]:
        return self.C if rows == slice(None) else self.C[..., rows, :]

    def tensors(self) -> dict[str, Tensor]:
        return {"C": self.C}

    def __repr__(self) -> str:
        return f"Dense(C of shape {tuple(self.C.shape)})"
