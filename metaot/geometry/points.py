"""Point clouds and a cost function between them."""

from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry.checks import first_place, require_finite
from metaot.geometry.costs import Cost, named_cost
from metaot.geometry.rowwise import RowwiseGeometry, chosen_block

_KEEP = 2**24
"""Cost matrices of up to this many entries (128 MiB in float64) are kept; larger ones are made in blocks."""


@final
class Points(RowwiseGeometry):
    """Two point clouds, x of n d and y of m d, shared by the batch; or *batch n d and *batch m d.

    `cost` is "sqeuclidean" (|x - y|^2), "euclidean", "sphere" (great-circle angle in radians between
    unit vectors) or a function of (x, y) that returns the matrix, batched as they are.
    Raises ValueError when the clouds are not finite, do not fit, or are not on the sphere that they claim.
    """

    def __init__(
        self,
        x: Float[Tensor, "..."],
        y: Float[Tensor, "..."],
        cost: str | Cost = "sqeuclidean",
    ) -> None:
        for name, cloud in (("x", x), ("y", y)):
            require_finite(name, cloud)
            if cloud.ndim < 2 or 0 in cloud.shape[-2:]:
                raise ValueError(f"{name} must have the shape (*batch, atoms, d), got {tuple(cloud.shape)}")
        if x.shape[-1] != y.shape[-1] or x.shape[:-2] != y.shape[:-2]:
            raise ValueError(
                f"clouds x of {tuple(x.shape)} and y of {tuple(y.shape)} do not fit: same batch, same d"
            )
        if x.dtype != y.dtype or x.device != y.device:
            raise ValueError(f"x is {x.dtype} on {x.device}, y is {y.dtype} on {y.device}: bring them together")
        if cost == "sphere":
            _require_unit("x", x)
            _require_unit("y", y)
        self._set(x, y, cost)

    def _set(self, x: Tensor, y: Tensor, cost: str | Cost) -> None:
        self.x, self.y, self.cost = x, y, cost
        self._cost = named_cost(cost)

    @classmethod
    def trusted(cls, x: Tensor, y: Tensor, cost: str | Cost) -> "Points":
        """Make a geometry of clouds that were checked before."""
        geometry = object.__new__(cls)
        geometry._set(x, y, cost)
        return geometry

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[-2], self.y.shape[-2]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[:-2])

    @property
    def T(self) -> "Points":
        return self._transposed

    @cached_property
    def _transposed(self) -> "Points":
        cost = self.cost
        if callable(cost):
            return Points.trusted(self.y, self.x, lambda y, x: cost(x, y).mT)
        return Points.trusted(self.y, self.x, cost)

    @property
    def points(self) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        return self.x, self.y

    @property
    def cost_name(self) -> str | None:
        return None if callable(self.cost) else self.cost

    def cost_rows(self, rows: slice) -> Float[Tensor, "..."]:
        if self._is_kept:
            return self._matrix[..., rows, :]
        return self._cost(self.x[..., rows, :], self.y)

    def cost_block(
        self, rows: Int[Tensor, "batch k"], columns: Int[Tensor, "batch l"]
    ) -> Float[Tensor, "batch k l"]:
        if self.batch_shape:
            return self._cost(_chosen(self.x, rows), _chosen(self.y, columns))
        blocks = [self._block(i, j) for i, j in zip(rows.unbind(), columns.unbind(), strict=True)]
        if len(blocks) == 1:
            return blocks[0][None]
        return torch.stack(blocks) if blocks else self.x.new_zeros(*rows.shape, columns.shape[-1])

    def _block(self, rows: Int[Tensor, "k"], columns: Int[Tensor, "l"]) -> Float[Tensor, "k l"]:
        """Return a part of C; a function of the user's is asked about two clouds alone."""
        if self._is_kept:
            return chosen_block(self._matrix, rows, columns)
        return self._cost(self.x[rows], self.y[columns])

    @property
    def _is_kept(self) -> bool:
        n, m = self.shape
        small = n * m * torch.Size(self.batch_shape).numel() <= _KEEP
        return small and not torch.is_grad_enabled()

    @cached_property
    def _matrix(self) -> Tensor:
        """The cost without its history: kept for solvers, never for what may be differentiated."""
        return self._cost(self.x, self.y)

    def tensors(self) -> dict[str, Tensor]:
        return {"x": self.x, "y": self.y}

    def to(self, like: Tensor) -> "Points":
        x, y = self.x.to(like), self.y.to(like)
        return self if x is self.x and y is self.y else Points.trusted(x, y, self.cost)

    def __getitem__(self, index: object) -> "Points":
        if not self.batch_shape:
            return self
        return Points.trusted(self.x[index], self.y[index], self.cost)  # type: ignore[index]

    def flat(self) -> "Points":
        if len(self.batch_shape) <= 1:
            return self
        (n, m), d = self.shape, self.x.shape[-1]
        return Points.trusted(self.x.reshape(-1, n, d), self.y.reshape(-1, m, d), self.cost)

    def __repr__(self) -> str:
        return f"Points(x of {tuple(self.x.shape)}, y of {tuple(self.y.shape)}, cost={self.cost!r})"


def _chosen(cloud: Tensor, atoms: Int[Tensor, "batch k"]) -> Float[Tensor, "batch k d"]:
    """Return these atoms of a cloud for each instance."""
    return cloud.gather(-2, atoms[..., None].expand(*atoms.shape, cloud.shape[-1]))


def _require_unit(name: str, x: Tensor) -> None:
    norm = x.norm(dim=-1)
    bad = (norm - 1).abs() > 1e-4
    if bad.any():
        raise ValueError(f"cost 'sphere' wants unit vectors, got |{name}|{first_place(bad, norm)}: normalise them")
