"""Point clouds and a cost function between them."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot import core
from metaot.arrays import ArrayLike, wrong
from metaot.geometry.base import Eps, Geometry, Projection, replaced
from metaot.geometry.checks import are_alike, first_place, given, require_finite, together
from metaot.geometry.costs import COSTS, Cost, exchanged, matrix_of_costs, name_of_cost, wrong_cost
from metaot.geometry.curve import plan_along_curve
from metaot.geometry.moments import MOMENTS, mean_and_variance
from metaot.geometry.projections import projection_of

_FEW_ANGLES = 2**22
"""Entries of the largest matrix of angles that is made for the compiled core: to make them takes long."""

_TAKEN = "points (a tensor, an array, a table or nested lists)"

_KEEP = 2**24
"""Cost matrices of up to this many entries (128 MiB in float64) are kept; larger ones are made in blocks."""

_LARGE, _MOST_DIMENSIONS = 2**22, 16
"""Entries of the costs above which compiled code sums over near points, and up to which dimension that pays."""


@final
class Points(Geometry):
    """Two point clouds, x of n d and y of m d, shared by the batch; or *batch n d and *batch m d.

    Clouds are tensors, arrays, tables or nested lists; float32 beside float64 becomes float64, and without y both
    are x. `cost` is a name: "sqeuclidean" (|x - y|^2), "euclidean", "sphere" (great-circle angle in radians
    between unit vectors), "cosine" (one less the cosine of the angle) or "dot" (-<x, y>). Or it is `LpPower(p)` of
    `metaot.geometry` (sum |x - y|^p), or a function of tensors (x, y) that returns the matrix, batched as they
    are, for any part of the points: where it returns +inf, a pair is forbidden. It is tried on a few points at
    once. Raises ValueError when the clouds are not finite, do not fit, or are not on the sphere that they claim,
    and when a function returns NaN, -inf or another shape; TypeError for what holds no numbers.

    Between large clouds in few dimensions, on a CPU, sums for the first three named costs are made in float64 by
    compiled code over the points that are near enough to count, unless autograd is to differentiate them.
    """

    def __init__(self, x: ArrayLike, y: ArrayLike | None = None, cost: str | Cost = "sqeuclidean") -> None:
        if not callable(cost) and (not isinstance(cost, str) or cost not in COSTS):
            raise wrong_cost(cost, COSTS, "a function of (x, y) that returns the matrix")
        if isinstance(y, str):
            raise wrong("y", f"{_TAKEN}; a cost is named as cost={y!r}", y)
        if y is None:
            y = x
        if not are_alike(x, y):
            x, y = together(*(given(name, cloud, _TAKEN) for name, cloud in (("x", x), ("y", y))))
        assert isinstance(x, Tensor)
        assert isinstance(y, Tensor)
        for name, cloud in (("x", x), ("y", y)):
            require_finite(name, cloud)
            if cloud.ndim < 2 or 0 in cloud.shape[-2:]:
                line = f": points on a line are {name}[:, None]" if cloud.ndim == 1 else ""
                raise ValueError(f"{name} must have the shape (*batch, atoms, d), got {tuple(cloud.shape)}{line}")
        if x.shape[-1] != y.shape[-1] or x.shape[:-2] != y.shape[:-2]:
            raise ValueError(
                f"clouds x of {tuple(x.shape)} and y of {tuple(y.shape)} do not fit: same batch, same d"
            )
        if cost in ("sphere", "cosine"):
            _require_directions(x, y, of_length_one=cost == "sphere")
        self.x, self.y, self.cost = x, y, cost
        if callable(cost):
            self._try_the_cost()

    @torch.no_grad()
    def _try_the_cost(self) -> None:
        """Raise unless the user's function returns a matrix on a corner that looks like no transpose, x or y."""
        n, m = self.shape
        rows = min(n, 3)
        columns = next((k for k in (2, 1, 3, 4) if k <= m and k not in (rows, self.x.shape[-1])), min(m, 2))
        self._costs(self.x[..., :rows, :], self.y[..., :columns, :])

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
    def of_each_side(self) -> "tuple[Points, Points]":
        return replaced(self, y=self.x), replaced(self, x=self.y)

    @property
    def cost_name(self) -> str | None:
        return None if callable(self.cost) else self.cost

    @property
    def core_costs(self) -> core.Costs:
        few = math.prod(self.shape) <= _FEW_ANGLES and not self.batch_shape
        if self.cost_name not in core.POINT_COSTS or (self.cost_name == "sphere" and few):
            return super().core_costs
        return core.Costs.between_points(self.x.detach().numpy(), self.y.detach().numpy(), self.cost_name)

    @property
    def projection(self) -> Projection | None:
        return projection_of(self.cost)

    def middle(
        self, weights: Float[Tensor, "*batch k"], points: Float[Tensor, "*batch k d"]
    ) -> Float[Tensor, "*batch d"]:
        """Return the mean of points by weights of sum one; of points on the sphere, its direction."""
        mean = (weights[..., None] * points).sum(-2)
        if self.cost_name != "sphere":
            return mean
        length = mean.norm(dim=-1, keepdim=True)
        return torch.where(length > 0, mean / length, points[..., 0, :])

    def distances(self, x: Float[Tensor, "*#batch k d"], y: Float[Tensor, "*#batch k d"]) -> Float[Tensor, "..."]:
        """Return the cost from each x_i to y_i."""
        return self._costs(x[..., None, :], y[..., None, :])[..., 0, 0]

    def seen_from(self, x: Float[Tensor, "*batch k d"]) -> "Points":
        return replaced(self, x=x)

    def cost_rows(self, rows: slice | Int[Tensor, "r"]) -> Float[Tensor, "..."]:
        n, m = self.shape
        if n * m * torch.Size(self.batch_shape).numel() <= _KEEP and not torch.is_grad_enabled():
            return self._matrix[..., rows, :]
        return self._costs(self.x[..., rows, :], self.y)

    @cached_property
    def _matrix(self) -> Tensor:
        """The cost without its history: kept for solvers, never for what may be differentiated."""
        return self._costs(self.x, self.y)

    def softmin(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        if self._suits_core(h, eps):
            return self._compiled(core.softmin_of_clouds, h, eps)
        return super().softmin(h, eps)

    def mean(
        self, h: Float[Tensor, "*batch m"], v: Float[Tensor, "*#batch m k"], eps: Eps
    ) -> Float[Tensor, "*batch n k"]:
        if self._suits_core(h, eps, v) and bool(v.isfinite().all()):
            return self._compiled(core.means_on_clouds, h, eps, v)
        return super().mean(h, v, eps)

    def expected_cost(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        if self._suits_core(h, eps):
            return self._compiled(core.mean_costs_of_clouds, h, eps)
        return super().expected_cost(h, eps)

    def hardmin(self, h: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        if self._suits_core(h):
            return self._compiled(core.softmin_of_clouds, h, 0.0)
        return super().hardmin(h)

    def times_cost(self, v: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        """Return C v; between large clouds from moments, if the cost has them."""
        if self._is_large and self.cost_name in MOMENTS:
            return MOMENTS[self.cost_name](self.x.to(v), self.y.to(v), v)
        return super().times_cost(v)

    def cost_of_a_plan(
        self, a: Float[Tensor, "*batch n"], b: Float[Tensor, "*batch m"]
    ) -> Float[Tensor, "*batch"]:
        """Return <C, P> of a plan; between large clouds of one along a curve, where that costs less."""
        if not self._is_large or callable(self.cost):
            return super().cost_of_a_plan(a, b)
        i, j, masses = plan_along_curve(self.x, self.y, a, b)
        pairs = [_chosen(z, at)[..., None, :] for z, at in ((self.x, i), (self.y, j))]
        cost = (masses * self._costs(*pairs)[..., 0, 0].to(masses)).sum(-1)
        if self.cost_name not in MOMENTS:
            return cost
        return torch.minimum(cost, super().cost_of_a_plan(a, b))

    @property
    def _is_large(self) -> bool:
        return math.prod(self.shape) > _LARGE

    @property
    def sums_near_points(self) -> bool:
        """Whether compiled code makes sums, over the points that are near enough to count: for large clouds."""
        pays = self._is_large and self.x.shape[-1] <= _MOST_DIMENSIONS
        return pays and core.COMPILED and self.cost_name in core.POINT_COSTS and self.x.is_cpu

    def _suits_core(self, h: Float[Tensor, "*batch m"], *others: Tensor | float) -> bool:
        """Return whether compiled code sums over the target with these potentials, without derivatives."""
        tensors = [z for z in (self.x, self.y, h, *others) if isinstance(z, Tensor)]
        wanted = torch.is_grad_enabled() and any(z.requires_grad for z in tensors)
        fits = h.is_cpu and h.numel() > 0 and self.batch_shape in ((), tuple(h.shape[:-1]))
        return self.sums_near_points and fits and not wanted and bool((h < torch.inf).all())

    def _compiled(
        self, function: Callable[..., np.ndarray], h: Float[Tensor, "*batch m"], eps: Eps, *values: Tensor
    ) -> Tensor:
        """Return what a function of the core says of each instance, in the dtype of h."""
        assert self.cost_name is not None
        batch, threads = h.shape[:-1], torch.get_num_threads()
        arrays = [_flat(batch, h, 1), *(_flat(batch, v, 2) for v in values)]
        x, y = (_flat(self.batch_shape, z, 2) for z in (self.x, self.y))
        temperatures = torch.as_tensor(eps, dtype=torch.float64).expand(batch).flatten().tolist()
        found = []
        for k, at in enumerate(temperatures):
            own = k if self.batch_shape else 0
            costs = core.Costs.between_points(x[own], y[own], self.cost_name)
            potential, *others = (array[k] for array in arrays)
            found.append(function(costs, potential, at, *others, threads=threads))
        return torch.from_numpy(np.stack(found)).reshape(*batch, *found[0].shape).to(h)

    def _cost_moments(
        self, a: Float[Tensor, "*batch n"], b: Float[Tensor, "*batch m"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Return mean and variance of C under the plan a b^T; of squared distances from moments of the clouds."""
        if self.cost_name != "sqeuclidean":
            return super()._cost_moments(a, b)
        return mean_and_variance(self.x, self.y, a, b)

    def _costs(self, x: Tensor, y: Tensor) -> Float[Tensor, "..."]:
        if not callable(self.cost):
            return COSTS[self.cost](x, y)
        return matrix_of_costs("cost(x, y)", self.cost(x, y), x, y.shape[-2])

    @property
    def words(self) -> str:
        return "{} x {} points".format(*self.shape)

    def tensors(self) -> dict[str, Tensor]:
        return {"x": self.x, "y": self.y}

    def settings(self) -> dict[str, Any]:
        return {"cost": self.cost}

    def __repr__(self) -> str:
        cost = name_of_cost(self.cost)
        return f"Points(x of {tuple(self.x.shape)}, y of {tuple(self.y.shape)}, cost={cost})"


def _flat(batch: tuple[int, ...], z: Float[Tensor, "..."], dims: int) -> np.ndarray:
    """Return a tensor with `dims` dimensions behind the batch as an array of float64 with one batch dimension."""
    inner = z.shape[z.ndim - dims :]
    return z.detach().double().expand(*batch, *inner).reshape(-1, *inner).numpy()


def _chosen(x: Float[Tensor, "*#batch n d"], at: Int[Tensor, "*batch k"]) -> Float[Tensor, "*batch k d"]:
    """Return the points at indices, of each instance its own."""
    if x.ndim == 2:
        return x[at]
    return x.gather(-2, at[..., None].expand(*at.shape, x.shape[-1]))


def _require_directions(x: Tensor, y: Tensor, *, of_length_one: bool) -> None:
    for name, cloud in (("x", x), ("y", y)):
        norm = cloud.detach().norm(dim=-1)
        bad = (norm - 1).abs() > 1e-4 if of_length_one else norm == 0
        if bad.any():
            first = f"|{name}|{first_place(bad, norm)}"
            if of_length_one:
                raise ValueError(f"cost 'sphere' wants unit vectors, got {first}: normalise them")
            raise ValueError(f"cost 'cosine' is of directions, and zero has no direction, got {first}")
