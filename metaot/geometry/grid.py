"""Grids with a cost that is a sum over axes: sums go axis by axis, and no n x m matrix is made."""

import math
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot import core
from metaot.arrays import ArrayLike, wrong
from metaot.geometry.base import Eps, Geometry, MeanKernel
from metaot.geometry.checks import require_finite, tensor
from metaot.geometry.costs import matrix_of_costs, name_of_cost, wrong_cost
from metaot.geometry.kernel import Kernel, Separable, contract
from metaot.geometry.points import Points

AxisCost = Callable[[Tensor, Tensor], Tensor]

_KEEP = 2**20
"""Entries of the costs of all axes, 8 MiB, up to which kernels at several eps are kept."""

_BLOCK = 2**18
"""Entries of a block of (rows, lines, points), 2 MiB in float64: it stays in the cache."""

AXIS_COSTS: dict[str, AxisCost] = {"sqeuclidean": lambda s, t: (s - t).square(), "l1": lambda s, t: (s - t).abs()}


@final
class Grid(Geometry):
    """A grid of any dimension, the same for source and target; atoms in C order, as `image.flatten()`.

    Each axis is a number of points, evenly spaced on [0, 1], or a vector of coordinates (a tensor, an array, a
    list): `Grid(28, 28)` is the unit square, as is `Grid((28, 28))`, and `Grid(np.linspace(0, 2, 64), 32)` a
    rectangle. `cost` is "sqeuclidean" (|x - y|^2), "l1", or a function of tensors (s, t) -> cost of one axis,
    elementwise and finite; the cost of the grid is its sum over the axes. A tuple holds one cost for each axis.
    Sums are computed in float64, because the exponents of float32 are too short for small eps; results have the
    dtype of h. Autograd does not differentiate them (but `c_transform`).

    One tuple holds all axes; of a list, numbers with a point are coordinates, and whole numbers alone, which may
    mean either, raise ValueError. So do coordinates and costs that are not finite, and costs that are not
    elementwise. TypeError for what is no axis.
    """

    def __init__(
        self,
        *axes: int | ArrayLike | tuple[int | ArrayLike, ...],
        cost: str | AxisCost | tuple[str | AxisCost, ...] = "sqeuclidean",
    ) -> None:
        for each in cost if isinstance(cost, tuple) else (cost,):
            _require_cost(each)
        axes = _unpacked(axes)
        if not axes:
            raise ValueError("a Grid needs at least one axis, such as Grid(28, 28)")
        if isinstance(cost, tuple) and len(cost) != len(axes):
            raise ValueError(f"a tuple of costs has one for each of the {len(axes)} axes, got {len(cost)}")
        self.axes = tuple(_coordinates(k, axis) for k, axis in enumerate(axes))
        self.cost = cost
        for k, C in enumerate(self._axis_costs):
            require_finite(f"the cost along axis {k}", C)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self._sizes

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        """The number of points along each axis."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def shape(self) -> tuple[int, int]:
        n = math.prod(self.sizes)
        return n, n

    @property
    def _cost_of_each(self) -> tuple[str | AxisCost, ...]:
        return self.cost if isinstance(self.cost, tuple) else (self.cost,) * len(self.axes)

    @property
    def axis_costs(self) -> tuple[Float[Tensor, "_ _"], ...]:
        return self._axis_costs

    @cached_property
    def _axis_costs(self) -> tuple[Float[Tensor, "_ _"], ...]:
        pairs = enumerate(zip(self._cost_of_each, self.axes, strict=True))
        return tuple(_costs_along(k, cost, t) for k, (cost, t) in pairs)

    @property
    def core_costs(self) -> core.Costs:
        return self._core_costs

    @cached_property
    def _core_costs(self) -> core.Costs:
        costs, axes = (tuple(part.detach().numpy() for part in parts) for parts in (self._axis_costs, self.axes))
        return core.Costs.on_axes(costs, axes)

    @cached_property
    def details(self) -> tuple[dict[int, float], ...]:
        """How much detail the cost has between points, for each axis; see `core.Costs.details`."""
        pairs = zip(self._axis_costs, self.axes, strict=True)
        return tuple(core.details_along(C.detach().cpu().numpy(), axis.cpu().numpy()) for C, axis in pairs)

    @property
    def T(self) -> "Grid":
        return self._transposed

    @cached_property
    def _transposed(self) -> "Grid":
        if isinstance(self.cost, tuple):
            return Grid(*self.axes, cost=tuple(_exchange(cost) for cost in self.cost))
        return self if isinstance(self.cost, str) else Grid(*self.axes, cost=_exchange(self.cost))

    @property
    def points(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
        return self._mesh, self._mesh

    @cached_property
    def _mesh(self) -> Float[Tensor, "n d"]:
        return torch.stack(torch.meshgrid(*self.axes, indexing="ij"), -1).flatten(0, -2)

    def seen_from(self, x: Float[Tensor, "*batch k d"]) -> Points:
        cost = self.cost if self.cost == "sqeuclidean" else partial(_sum_over_axes, self._cost_of_each)
        return Points(x, self._mesh.to(x), cost)

    @property
    def of_each_side(self) -> "tuple[Grid, Grid]":
        return self, self

    @property
    def cost_name(self) -> str | None:
        return self.cost if isinstance(self.cost, str) else None

    def softmin(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        return self._at(eps, h).softmin(_flat(h)).reshape(h.shape).to(h)

    def mean(
        self, h: Float[Tensor, "*batch m"], v: Float[Tensor, "*#batch m k"], eps: Eps
    ) -> Float[Tensor, "*batch n k"]:
        values = [_flat(column.expand(h.shape)) for column in v.unbind(-1)]
        means = self._at(eps, h).mean(_flat(h), values)
        return torch.stack(means, -1).reshape(*h.shape, len(means)).to(h)

    def expected_cost(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        return self._at(eps, h).expected_cost(_flat(h)).reshape(h.shape).to(h)

    def kernel(self, f: Float[Tensor, "batch n"], g: Float[Tensor, "batch m"], eps: Eps) -> Kernel:
        axes, f, g = self._at(eps, f), f.double(), g.double()
        return ScaledKernel(self, f, g, eps, axes) if axes.is_plain else MeanKernel(self, f, g, eps)

    @cached_property
    def spacings(self) -> tuple[float, ...]:
        """The largest distance between neighbouring points of each axis."""
        return tuple(float(axis.diff().abs().max()) if len(axis) > 1 else math.inf for axis in self.axes)

    def hardmin(self, h: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        if core.COMPILED and h.is_cpu and len(self.sizes) > 1 and not (h.requires_grad or h.isnan().any()):
            found = core.hard_minimum(self.core_costs, _flat(h).numpy(), threads=torch.get_num_threads())
            return torch.from_numpy(found).reshape(h.shape).to(h)
        least = -h.double().reshape(-1, *self.sizes)
        for axis, cost in enumerate(self.axis_costs, 1):
            lines = least.movedim(axis, -1)
            rows = _min_plus(cost, lines.reshape(-1, cost.shape[1]))
            least = rows.reshape(len(cost), *lines.shape[:-1]).movedim(0, axis)
        return least.reshape(h.shape).to(h)

    def _cost_moments(
        self, a: Float[Tensor, "*batch n"], b: Float[Tensor, "*batch m"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Return mean and variance of C under the plan a b^T, from the marginals on one axis and on two."""
        axes, dims = self.axis_costs, len(self.sizes)
        source, target = (w.double().reshape(*w.shape[:-1], *self.sizes) for w in (a, b))
        means = torch.stack([_expected(cost, *_on((k,), dims, source, target)) for k, cost in enumerate(axes)])
        variance = torch.zeros_like(means[0])
        for k, cost in enumerate(axes):
            off = cost - means[k][..., None, None]
            variance = variance + _expected(off.square(), *_on((k,), dims, source, target))
            for l in range(k):
                other = axes[l] - means[l][..., None, None]
                p, q = _on((l, k), dims, source, target)
                variance = variance + 2 * (p * (other @ q @ off.mT)).sum((-2, -1))
        return means.sum(0).to(a), variance.to(a)

    def times_cost(self, v: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        masses = v.double().reshape(-1, *self.sizes)
        total = torch.zeros_like(masses)
        for axis, cost in enumerate(self.axis_costs, 1):
            marginal = masses
            for other in range(1, masses.ndim):
                if other != axis:
                    marginal = marginal.sum(other, keepdim=True)
            total = total + (marginal.movedim(axis, -1) @ cost.mT).movedim(-1, axis)
        return total.reshape(v.shape).to(v)

    def cost_rows(self, rows: slice | Int[Tensor, "r"]) -> Float[Tensor, "r m"]:
        return self._part_of_cost(rows, slice(None))

    def _part_of_cost(
        self, rows: slice | Int[Tensor, "k"], columns: slice | Int[Tensor, "l"]
    ) -> Float[Tensor, "k l"]:
        pairs = zip(self._axis_indices, self.axis_costs, strict=True)
        parts = [cost.index_select(1, at[columns]).index_select(0, at[rows]) for at, cost in pairs]
        return sum(parts[1:], parts[0])

    @cached_property
    def _axis_indices(self) -> tuple[Int[Tensor, "n"], ...]:
        """For each axis, the index of every atom along it."""
        return torch.unravel_index(torch.arange(self.shape[0], device=self.axes[0].device), self.sizes)

    @property
    def words(self) -> str:
        return f"{' x '.join(map(str, self.sizes))} grid"

    def tensors(self) -> dict[str, Tensor]:
        return {f"axis{k}": axis for k, axis in enumerate(self.axes)}

    def with_tensors(self, tensors: dict[str, Tensor]) -> "Grid":
        return Grid(*tensors.values(), cost=self.cost)

    def settings(self) -> dict[str, Any]:
        if not isinstance(self.cost, tuple):
            return {"cost": self.cost}
        return {f"cost{k}": cost for k, cost in enumerate(self.cost)}

    @classmethod
    def rebuilt(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> "Grid":
        each = range(len(tensors))
        cost = settings["cost"] if "cost" in settings else tuple(settings[f"cost{k}"] for k in each)
        return cls(*(tensors[f"axis{k}"] for k in each), cost=cost)

    def to(self, like: Tensor) -> Geometry:
        return self._mapped(lambda axis: axis.to(like.device))

    def _at(self, eps: Eps, h: Tensor) -> Separable:
        """Return the kernel at eps, a number or one for each instance of h."""
        if isinstance(eps, Tensor):
            if eps.numel() > 1:
                return self._kernels(tuple(eps.double().expand(h.shape[:-1]).reshape(-1).tolist()))
            eps = float(eps) if eps.numel() else 1.0
        return self._kernels(eps)

    @cached_property
    def _kernels(self) -> Callable[[float | tuple[float, ...]], Separable]:
        """Kernels by their eps; the last few are kept, of large axes the last one."""
        few = sum(cost.numel() for cost in self.axis_costs) > _KEEP
        return lru_cache(1 if few else 4)(partial(Separable, self.axis_costs))

    def __repr__(self) -> str:
        names = [name_of_cost(cost) for cost in self._cost_of_each]
        return f"Grid{self.sizes} with cost {' + '.join(names) if isinstance(self.cost, tuple) else names[0]}"


@final
class ScaledKernel(MeanKernel):
    """The kernel of potentials on a grid whose plain kernels fit into float64: these between two scalings."""

    def __init__(self, grid: Grid, f: Tensor, g: Tensor, eps: Eps, axes: Separable) -> None:
        super().__init__(grid, f, g, eps)
        self._right, top = axes.powers(g)
        self._left = ((f + (top - axes.offset)) / axes.unit).exp2_()
        self._axes = axes.kernels

    def times(self, v: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        return (self._left * contract(self._right * v.double(), self._axes)).to(v)


def _exchange(cost: str | AxisCost) -> str | AxisCost:
    return cost if isinstance(cost, str) else partial(_exchanged, cost)


def _exchanged(cost: AxisCost, s: Tensor, t: Tensor) -> Tensor:
    return cost(t, s)


def _min_plus(cost: Float[Tensor, "n m"], lines: Float[Tensor, "lines m"]) -> Float[Tensor, "n lines"]:
    r"""Return $\min_j c_{ij} + x_j$ for each line x."""
    count, m = lines.shape
    together = max(1, _BLOCK // max(1, count * m))
    parts = lines.split(max(1, _BLOCK // (m * together)))
    blocks = [[(rows[:, None] + x).amin(-1) for x in parts] for rows in cost.split(together)]
    return torch.cat([torch.cat(block, 1) for block in blocks])


def _flat(h: Float[Tensor, "*batch m"]) -> Float[Tensor, "flat m"]:
    return h.double().reshape(math.prod(h.shape[:-1]), h.shape[-1])


def _unpacked(axes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the axes of a grid, which may be given as one tuple."""
    if len(axes) != 1 or not isinstance(axes[0], list | tuple):
        return axes
    (only,) = axes
    whole = [isinstance(axis, int | np.integer) and not isinstance(axis, bool) for axis in only]
    if isinstance(only, list):
        if only and all(whole):
            raise ValueError(
                f"Grid({only}) may mean sizes or coordinates: for sizes say Grid{tuple(only)}, for coordinates "
                f"Grid(np.array({only}))"
            )
        return axes
    is_line = only and all(isinstance(axis, float) for axis in only)
    return axes if is_line else tuple(only)


def _require_cost(cost: object) -> None:
    if not callable(cost) and (not isinstance(cost, str) or cost not in AXIS_COSTS):
        hint = "; for distances that are no sum over axes take Points" if cost in ("euclidean", "sphere") else ""
        raise wrong_cost(cost, AXIS_COSTS, f"a function of the coordinates (s, t) of one axis{hint}")


def _costs_along(k: int, cost: str | AxisCost, t: Float[Tensor, "n"]) -> Float[Tensor, "n n"]:
    """Return the costs along an axis; a function of the user's is tried on a corner of them before."""
    if isinstance(cost, str):
        return AXIS_COSTS[cost](t[:, None], t[None, :])
    name, few = f"the cost along axis {k}", t[: max(1, len(t) - 1)]
    if len(few) < len(t):
        with torch.no_grad():
            matrix_of_costs(name, cost(t[:, None], few[None, :]), t[:, None], len(few))
    return matrix_of_costs(name, cost(t[:, None], t[None, :]), t[:, None], len(t))


def _coordinates(k: int, axis: object) -> Float[Tensor, "points"]:
    if isinstance(axis, int | np.integer) and not isinstance(axis, bool):
        if axis < 1:
            raise ValueError(f"axis {k} of a Grid must have at least one point, got {axis}")
        return torch.linspace(0, 1, int(axis), dtype=torch.float64)
    taken = "a number of points (an int) or coordinates (a tensor, an array or a list)"
    if isinstance(axis, float | bool):
        raise wrong(f"axis {k} of a Grid", taken, axis)
    if isinstance(axis, str):
        raise wrong(f"axis {k} of a Grid", f"{taken}; the cost is named as cost='sqeuclidean'", axis)
    axis = tensor(f"axis {k} of a Grid", axis, taken=taken)
    require_finite(f"axis {k}", axis)
    if axis.ndim != 1 or len(axis) == 0:
        raise ValueError(f"axis {k} of a Grid must be a vector of coordinates, got {tuple(axis.shape)}")
    return axis.double()


def _on(kept: tuple[int, ...], dims: int, *masses: Tensor) -> list[Tensor]:
    """Return marginals of masses, *batch and `dims` axes, on some of the axes."""
    others = [k - dims for k in range(dims) if k not in kept]
    return [mass.sum(others) if others else mass for mass in masses]


def _expected(
    cost: Float[Tensor, "... n m"], a: Float[Tensor, "*batch n"], b: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch"]:
    return (a * (cost @ b[..., None])[..., 0]).sum(-1)


def _sum_over_axes(costs: tuple[str | AxisCost, ...], x: Tensor, y: Tensor) -> Tensor:
    functions = [AXIS_COSTS[cost] if isinstance(cost, str) else cost for cost in costs]
    parts = (cost(x[..., :, None, k], y[..., None, :, k]) for k, cost in enumerate(functions))
    return sum(parts, start=torch.zeros((), dtype=x.dtype, device=x.device))
