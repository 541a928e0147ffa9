"""A geometry that is its cost matrix."""

from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry.checks import require_finite
from metaot.geometry.rowwise import RowwiseGeometry, chosen_block


@final
class Dense(RowwiseGeometry):
    """The space of a cost matrix C, n m, or *batch n m for one matrix for each instance.

    Raises ValueError when C is not a finite floating-point tensor of two or more dimensions.
    """

    def __init__(self, C: Float[Tensor, "..."]) -> None:
        require_finite("C", C)
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
        return Dense.trusted(self.C.mT)

    @property
    def points(self) -> None:
        return None

    @property
    def cost_name(self) -> None:
        return None

    def cost_rows(self, rows: slice) -> Float[Tensor, "..."]:
        return self.C[..., rows, :]

    def cost_block(
        self, rows: Int[Tensor, "batch k"], columns: Int[Tensor, "batch l"]
    ) -> Float[Tensor, "batch k l"]:
        if not self.batch_shape and len(rows) == 1:
            return chosen_block(self.C, rows[0], columns[0])[None]
        rows, columns = rows[:, :, None], columns[:, None, :]
        if not self.batch_shape:
            return self.C[rows, columns]
        return self.C[torch.arange(len(self.C), device=rows.device)[:, None, None], rows, columns]

    def tensors(self) -> dict[str, Tensor]:
        return {"C": self.C}

    def to(self, like: Tensor) -> "Dense":
        C = self.C.to(like)
        return self if C is self.C else Dense.trusted(C)

    def __getitem__(self, index: object) -> "Dense":
        return Dense.trusted(self.C[index]) if self.batch_shape else self  # type: ignore[index]

    def flat(self) -> "Dense":
        return Dense.trusted(self.C.reshape(-1, *self.shape)) if len(self.batch_shape) > 1 else self

    def __repr__(self) -> str:
        return f"Dense(C of shape {tuple(self.C.shape)})"
