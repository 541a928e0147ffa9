"""Point clouds and a cost function between them."""

import math
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot import core
from metaot.geometry.base import Geometry, replaced
from metaot.geometry.checks import first_place, require_costs, require_finite
from metaot.geometry.costs import COSTS, Cost, exchanged

_FEW_ANGLES = 2**22
"""Entries of the largest matrix of angles that is made for the compiled core: to make them takes long."""

_KEEP = 2**24
"""Cost matrices of up to this many entries (128 MiB in float64) are kept; larger ones are made in blocks."""


@final
class Points(Geometry):
    """Two point clouds, x of n d and y of m d, shared by the batch; or *batch n d and *batch m d.

    `cost` is "sqeuclidean" (|x - y|^2), "euclidean", "sphere" (great-circle angle in radians between
    unit vectors) or a function of (x, y) that returns the matrix, batched as they are; where it returns +inf, a
    pair is forbidden. Raises ValueError when the clouds are not finite, do not fit, or are not on the sphere that
    they claim, and when a function, called at its first use, returns NaN, -inf or another shape.
    """

    def __init__(self, x: Float[Tensor, "..."], y: Float[Tensor, "..."], cost: str | Cost = "sqeuclidean") -> None:
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
        for name, cloud in (("x", x), ("y", y)) if cost == "sphere" else ():
            norm = cloud.norm(dim=-1)
            bad = (norm - 1).abs() > 1e-4
            if bad.any():
                first = f"|{name}|{first_place(bad, norm)}"
                raise ValueError(f"cost 'sphere' wants unit vectors, got {first}: normalise them")
        if not callable(cost) and cost not in COSTS:
            raise ValueError(f"cost must be a callable or one of {sorted(COSTS)}, got {cost!r}")
        self.x, self.y, self.cost = x, y, cost

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
        cost = exchanged(self.cost) if callable(self.cost) else self.cost
        return replaced(self, x=self.y, y=self.x, cost=cost)

    @property
    def points(self) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        return self.x, self.y

    @property
    def cost_name(self) -> str | None:
        return None if callable(self.cost) else self.cost

    @property
    def core_costs(self) -> core.Costs:
        few = math.prod(self.shape) <= _FEW_ANGLES and not self.batch_shape
        if self.cost_name is None or (
            self.cost_name == "sphere" and few
        ):  # angles take longer to make than to read
            return super().core_costs
        return core.Costs.between_points(self.x.detach().numpy(), self.y.detach().numpy(), self.cost_name)

    def cost_rows(self, rows: slice | Int[Tensor, "r"]) -> Float[Tensor, "..."]:
        n, m = self.shape
        if n * m * torch.Size(self.batch_shape).numel() <= _KEEP and not torch.is_grad_enabled():
            return self._matrix[..., rows, :]
        return self._costs(self.x[..., rows, :], self.y)

    @cached_property
    def _matrix(self) -> Tensor:
        """The cost without its history: kept for solvers, never for what may be differentiated."""
        return self._costs(self.x, self.y)

    def _costs(self, x: Tensor, y: Tensor) -> Float[Tensor, "..."]:
        if not callable(self.cost):
            return COSTS[self.cost](x, y)
        C = self.cost(x, y)
        if C.shape != (*x.shape[:-1], y.shape[-2]):
            raise ValueError(
                f"cost(x, y) of x {tuple(x.shape)} and y {tuple(y.shape)} must have one row for each x and one "
                f"column for each y, got {tuple(C.shape)}"
            )
        C = C if C.is_floating_point() else C.to(x)
        require_costs("cost(x, y)", C)
        return C

    def tensors(self) -> dict[str, Tensor]:
        return {"x": self.x, "y": self.y}

    def settings(self) -> dict[str, Any]:
        return {"cost": self.cost}

    def __repr__(self) -> str:
        return f"Points(x of {tuple(self.x.shape)}, y of {tuple(self.y.shape)}, cost={self.cost!r})"
