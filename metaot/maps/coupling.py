"""Pairs for flow matching: which noise goes to which sample, in every batch.

Large batches straighten paths (arXiv 2506.05526). The most probable pairs of an entropic plan are those with the
least cost, whatever its eps; so an auction assigns pairs within eps of the least cost, and the plan is made where
it is asked for.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot import core
from metaot.arrays import ArrayLike, as_number, require_limits
from metaot.core.status import Status
from metaot.geometry import Points
from metaot.geometry.checks import first_place, given, masses, require_finite, together
from metaot.geometry.costs import Cost
from metaot.maps.pair_costs import pair_costs
from metaot.potentials import source_marginal, target_marginal
from metaot.problem import Problem
from metaot.solvers.assignment import assigned, spread
from metaot.solvers.cloud_assignment import assigned_clouds, some_costs
from metaot.solvers.solution import Bounds, Solution
from metaot.solvers.solve import solve

_DEFAULT = 0.1
"""The default eps, in units of the spread of the costs (`metaot.solvers.assignment.spread`)."""

_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6}
"""Digits of sums of costs that may be lost, relative to their size."""

_LARGEST_ERROR = 0.25
"""The part of eps that may be lost to rounded costs, which are faster."""

_LARGE, _FEW = 4096, 3
"""Squared distances between points with few coordinates need no matrix of costs from so many points on."""

_HUGE, _MOST = 16384, 8
"""Other costs do without it from so many points on, where it takes much memory, up to so many coordinates."""

_ROWS = 256
"""Rows of costs that are made at once."""

_WHOLE = 1e-7
"""Rounding of weights, of a mass of one."""


@final
class _Wanted(NamedTuple):
    """What was asked for."""

    eps: float | None
    tol: float
    cost: str | Cost
    weighted: bool
    generator: torch.Generator | None
    clouds: tuple[Tensor, Tensor]


@final
@dataclass(frozen=True)
class Part:
    """The pairs of one class: its points, their weights, eps, and its share of all pairs."""

    i: Int[Tensor, "pairs"]
    j: Int[Tensor, "pairs"]
    a: Float[Tensor, "n"]
    b: Float[Tensor, "m"]
    x: Float[Tensor, "n d"]
    y: Float[Tensor, "m d"]
    cost_function: str | Cost
    eps: float
    tol: float
    cost: Float[Tensor, ""]
    independent_cost: Float[Tensor, ""]
    lower: Float[Tensor, ""]
    rows: Int[Tensor, "n"] | None = None
    columns: Int[Tensor, "m"] | None = None
    """Which points of all are those of the class; None for all."""

    @cached_property
    def solution(self) -> Solution:
        """The solution of the entropic problem between the points of the class; in float64 on a CPU."""
        if self.eps == 0:
            raise ValueError("pairs with eps=0 have no plan with entropy: name an eps, or leave it out")
        a, b = (w.double() if w.is_cpu else w for w in (self.a, self.b))
        return solve(Problem(a, b, Points(self.x, self.y, self.cost_function), self.eps), tol=self.tol)

    @property
    def entropy(self) -> Float[Tensor, ""]:
        """One less KL(P | a b^T) over the largest that it may be."""
        problem, potentials = self.solution.problem, self.solution.potentials
        sent = (source_marginal(problem, potentials) * potentials.f).sum()
        received = (target_marginal(problem, potentials) * potentials.g).sum()
        most = torch.stack([-(w * w.log().nan_to_num(neginf=0.0)).sum() for w in (problem.a, problem.b)]).amin()
        information = (sent + received - self.solution.cost()) / self.eps
        return torch.where(most > 0, 1 - information / most, 1.0)


@final
@dataclass(frozen=True)
class Coupling:
    """Pairs of points, and what they cost: `i, j = coupling`, then `x0[i]` and `x1[j]`.

    `cost` is the mean cost of the pairs, `independent_cost` that of all pairs of both sides, and no pairs with the
    same points have a lower mean cost than `lower`. With classes there is one part for each, else one in all.
    """

    i: Int[Tensor, "pairs"]
    j: Int[Tensor, "pairs"]
    cost: Float[Tensor, ""]
    independent_cost: Float[Tensor, ""]
    lower: Float[Tensor, ""]
    parts: tuple[Part, ...]

    def __iter__(self) -> Iterator[Int[Tensor, "pairs"]]:
        """Yield i and j."""
        return iter((self.i, self.j))

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.i)

    @property
    def bounds(self) -> Bounds:
        """The certificate: the least mean cost of pairs with the same points is between these numbers."""
        return Bounds(self.lower, self.cost)

    @property
    def eps(self) -> Float[Tensor, ""]:
        """How far the mean cost may be above the least one: of classes, the mean over the pairs."""
        return _mean(self.parts, (part.eps for part in self.parts))

    @cached_property
    def status(self) -> Status:
        """CONVERGED, or STALLED where the dtype has not the digits to certify eps."""
        size = float(self.independent_cost.abs() + self.cost.abs())
        rounding = _ROUNDING[self.parts[0].a.dtype] * size
        return Status.CONVERGED if float(self.cost - self.lower - self.eps) <= rounding else Status.STALLED

    @property
    def converged(self) -> bool:
        """Whether the bounds prove that the mean cost is within eps of the least one."""
        return self.status == Status.CONVERGED

    @property
    def solutions(self) -> tuple[Solution, ...]:
        """The solution of the entropic problem of each part at its eps, to `tol`: made when it is asked for."""
        return tuple(part.solution for part in self.parts)

    @cached_property
    def entropy(self) -> Float[Tensor, ""]:
        """The normalised entropy of the entropic plan: 1 for independent points, 0 for a permutation.

        One less KL(P | a b^T) over the smaller entropy of a and b; with n points of equal weights, H(P)/log n - 1.
        Of classes, the mean over the pairs. ValueError for eps=0.
        """
        return _mean(self.parts, (part.entropy for part in self.parts))

    def plan(self) -> Float[Tensor, "n m"]:
        """Return the entropic plan, between points of one class only; ValueError for eps=0."""
        first = self.parts[0]
        if first.rows is None or first.columns is None:
            return first.solution.plan().to(first.a)
        n, m = (sum(len(w) for w in side) for side in zip(*((p.a, p.b) for p in self.parts), strict=True))
        P = first.a.new_zeros(n, m)
        for part in self.parts:
            assert part.rows is not None
            P[part.rows[:, None], part.columns] = part.solution.plan().to(P) * (len(part.i) / len(self))
        return P

    def __repr__(self) -> str:
        classes = "" if self.parts[0].rows is None else f" of {len(self.parts)} classes"
        costs = f"cost {float(self.cost):.4g}, of independent pairs {float(self.independent_cost):.4g}"
        return f"Coupling of {len(self)} pairs{classes}: {costs}, at least {float(self.lower):.4g}"


@torch.no_grad()
def couple(
    x0: ArrayLike,
    x1: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    eps: ArrayLike | None = None,
    tol: float = 1e-2,
    cost: str | Cost = "sqeuclidean",
    classes: ArrayLike | tuple[ArrayLike, ArrayLike] | None = None,
    generator: torch.Generator | None = None,
) -> Coupling:
    """Pair points x0, n *shape, with points x1, m *shape, at a low mean cost, each point once.

        i, j = metaot.couple(noise, data)
        x0, x1 = noise[i], data[j]

    The mean cost is within `eps` of the least one, in units of the cost, and `bounds` proves it; 0 asks for the
    least one itself. By default eps is a tenth of the standard deviation of the costs, after the best functions of
    x0 and of x1 are subtracted. It is the eps of the plan, too, which is solved to `tol` when it is asked for
    (`plan()`, `entropy`); the pairs are the most probable ones of that plan, which are the same for every eps.

    For n = m the pairs are a permutation, with i in order. For other sizes, or weights a and b, there are
    max(n, m) pairs, and a point takes part in about as many of them as its weight asks for: rounded up or down, at
    random by `generator`. `classes` names the class of each point: for both sides alike (x0[k] and x1[k] of class
    k), or as a pair of these; points are paired within a class only, each class as a problem of its own.

    Large clouds with as many points on both sides and few coordinates are paired without their matrix of costs,
    on a CPU and for the costs "sqeuclidean", "euclidean" and "sphere"; the certificate is the same.

    `cost` is that of `metaot.Points`. Points may be images: all but the first axis is flattened. Works on the
    device of the points, without a copy to the host; no derivatives. Raises ValueError for what is not finite or
    does not fit, for pairs that are forbidden (a cost of +inf), for a negative eps and for a class without points
    on one side.
    """
    tol, _ = require_limits(tol, 0)
    slack = None if eps is None else as_number("eps", eps)
    if slack is not None and not 0 <= slack < math.inf:
        raise ValueError(f"eps must be finite and not negative, got {slack}")
    x, y = _points(x0, x1)
    weights = [_weights(name, w, z) for name, w, z in (("a", a, x), ("b", b, y))]
    wanted = _Wanted(slack, tol, cost, a is not None or b is not None, generator, (x, y))
    parts = tuple(_part(x, y, weights, place, wanted) for place in _classes(classes, len(x), len(y)))
    i, j = (torch.cat(side) for side in zip(*((part.i, part.j) for part in parts), strict=True))
    order = slice(None) if len(parts) == 1 else i.argsort(stable=True)
    cost_of_pairs = _mean(parts, (part.cost for part in parts))
    independent = _mean(parts, (part.independent_cost for part in parts))
    lower = _mean(parts, (part.lower for part in parts))
    return Coupling(i[order], j[order], cost_of_pairs, independent, lower, parts)


def _points(x0: ArrayLike, x1: ArrayLike) -> list[Float[Tensor, "_ d"]]:
    """Return both clouds, of one dtype and on one device, with a vector for each point."""
    taken = "points (a tensor, an array or a list)"
    clouds = together(*(given(name, z, taken) for name, z in (("x0", x0), ("x1", x1))))
    for name, cloud in zip(("x0", "x1"), clouds, strict=True):
        if cloud.ndim < 2 or 0 in cloud.shape:
            line = f": points on a line are {name}[:, None]" if cloud.ndim == 1 else ""
            raise ValueError(f"{name} must have the shape (points, *shape), got {tuple(cloud.shape)}{line}")
    x, y = clouds
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"points x0 of shape {tuple(x.shape[1:])} and x1 of {tuple(y.shape[1:])} do not fit")
    return [cloud.detach().flatten(1) for cloud in clouds]


def _weights(name: str, weights: ArrayLike | None, points: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """Return weights of mass one."""
    n = len(points)
    return points.new_full((n,), 1 / n) if weights is None else masses(name, weights, n, points, ())


def _classes(classes: ArrayLike | tuple[ArrayLike, ArrayLike] | None, n: int, m: int) -> list[list[Tensor] | None]:
    """Return which points are of each class, on both sides; None for all."""
    if classes is None:
        return [None]
    both = classes if isinstance(classes, tuple) and len(classes) == 2 else (classes, classes)
    labels = [torch.as_tensor(side) for side in both]
    for name, side, count in zip(("x0", "x1"), labels, (n, m), strict=True):
        if side.shape != (count,):
            raise ValueError(f"classes of {name} must be one for each of {count} points, got {tuple(side.shape)}")
    labels[1] = labels[1].to(labels[0].device)
    found = torch.cat(labels).unique()
    places = [[(side == label).nonzero()[:, 0] for side in labels] for label in found]
    for label, (rows, columns) in zip(found.tolist(), places, strict=True):
        if 0 in (len(rows), len(columns)):
            raise ValueError(f"class {label} has {len(rows)} points of x0 and {len(columns)} of x1: it needs both")
    return [*places]


def _part(x: Tensor, y: Tensor, weights: list[Tensor], place: list[Tensor] | None, wanted: _Wanted) -> Part:
    """Pair the points of a class, which are at these places."""
    if place is None:
        return _paired(x, y, weights, wanted)
    rows, columns = (side.to(x.device) for side in place)
    own = [w[side] for w, side in zip(weights, (rows, columns), strict=True)]
    if not all(bool(w.sum() > 0) for w in own):
        raise ValueError(f"a class needs weights on both sides, got masses {[float(w.sum()) for w in own]}")
    part = _paired(x[rows], y[columns], [w / w.sum() for w in own], wanted)
    return replace(part, i=rows[part.i], j=columns[part.j], rows=rows, columns=columns)


def _paired(x: Tensor, y: Tensor, weights: list[Tensor], wanted: _Wanted) -> Part:
    """Pair points."""
    count = max(len(x), len(y))
    copies = [_copies(w, count, wanted) for w in weights]
    each_once = copies[0] is None and copies[1] is None
    if each_once and _are_large(x, wanted):
        return _paired_clouds(x, y, weights, wanted)
    costs = pair_costs(x, y, wanted.cost, rounded=each_once and wanted.eps != 0).taken(*copies)
    alone = costs.rows.mean(dtype=torch.float64) + costs.columns.mean(dtype=torch.float64)
    independent = alone + costs.mean()
    if not bool(independent.isfinite()):
        raise _not_finite(costs.C, wanted)
    scale = spread(costs.C)
    eps = (_DEFAULT * scale or 1.0) if wanted.eps is None else wanted.eps
    if costs.error > _LARGEST_ERROR * eps:
        costs = pair_costs(x, y, wanted.cost, rounded=False)
    found, lower, _ = assigned(costs.C, eps - 2 * costs.error, scale)
    i, j = (torch.arange(count, device=x.device) if side is None else side for side in copies)
    own = costs.C.gather(1, found[:, None]).mean(dtype=torch.float64)
    a, b = weights
    return Part(
        i,
        j[found],
        a,
        b,
        x,
        y,
        wanted.cost,
        eps,
        wanted.tol,
        alone + own,
        independent,
        alone + lower - costs.error,
    )


def _are_large(x: Float[Tensor, "n d"], wanted: _Wanted) -> bool:
    """Return whether pairs of so many points are found faster without the matrix of costs."""
    least = _LARGE if wanted.cost == "sqeuclidean" and x.shape[1] <= _FEW else _HUGE
    known = isinstance(wanted.cost, str) and wanted.cost in core.POINT_COSTS
    return known and len(x) >= least and x.shape[1] <= _MOST and x.is_cpu and core.COMPILED


def _paired_clouds(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], weights: list[Tensor], wanted: _Wanted
) -> Part:
    """Pair as many points as there are on the other side, each once, without the matrix of costs."""
    for name, cloud in zip(("x0", "x1"), wanted.clouds, strict=True):
        require_finite(name, cloud)
    geometry, (a, b) = Points(x.double(), y.double(), wanted.cost), weights
    independent = _mean_of_squares(geometry) if wanted.cost == "sqeuclidean" else _mean_by_rows(geometry)
    if not bool(independent.isfinite()):
        raise ValueError("pairs need finite costs, and these are too large: scale the points")
    eps = (_DEFAULT * spread(some_costs(geometry)) or 1.0) if wanted.eps is None else wanted.eps
    found = assigned_clouds(geometry, eps)
    cost, lower = (independent.new_tensor(value) for value in (found.cost, found.lower))
    each = torch.arange(len(x))
    return Part(each, found.columns, a, b, x, y, wanted.cost, eps, wanted.tol, cost, independent, lower)


def _mean_of_squares(geometry: Points) -> Float[Tensor, ""]:
    """Return the mean squared distance of all pairs of points, from the moments of both clouds."""
    (var_x, mean_x), (var_y, mean_y) = (torch.var_mean(cloud, 0, correction=0) for cloud in geometry.points)
    return (var_x + var_y + (mean_x - mean_y).square()).sum()


def _mean_by_rows(geometry: Points) -> Float[Tensor, ""]:
    """Return the mean of the costs of all pairs of points."""
    rows = torch.arange(geometry.shape[0]).split(_ROWS)
    return torch.stack([geometry.cost_rows(some).sum() for some in rows]).sum() / math.prod(geometry.shape)


def _not_finite(C: Float[Tensor, "n m"], wanted: _Wanted) -> ValueError:
    """Return the error for points or costs that are not finite; a point is named first."""
    for name, cloud in zip(("x0", "x1"), wanted.clouds, strict=True):
        require_finite(name, cloud)
    bad = ~C.isfinite()
    first = f"got C{first_place(bad, C)}" if bool(bad.any()) else "and these are too large: scale the points"
    return ValueError(f"pairs need finite costs in {C.dtype}, {first}")


def _copies(weights: Float[Tensor, "n"], count: int, wanted: _Wanted) -> Int[Tensor, "count"] | None:
    """Return which points take part in `count` pairs, as often as their weights ask for; None for each once.

    Systematic sampling: each about weight times count, rounded up or down, with that mean.
    """
    if not wanted.weighted and len(weights) == count:
        return None
    generator = wanted.generator
    device = None if generator is None else generator.device
    offset = float(torch.rand((), generator=generator, device=device, dtype=torch.float64))
    ends = weights.double().cumsum(0)
    ends = ends / ends[-1] * count
    ends = torch.where((ends - ends.round()).abs() < _WHOLE * count, ends.round(), ends)
    times = (ends + offset).floor().diff(prepend=ends.new_zeros(1)).long()
    return torch.arange(len(weights), device=weights.device).repeat_interleave(times)


def _mean(parts: tuple[Part, ...], values: Iterable[Float[Tensor, ""] | float]) -> Float[Tensor, ""]:
    """Return the mean of values of the parts over their pairs."""
    if len(parts) == 1:
        (value,) = values
        return torch.as_tensor(value, dtype=parts[0].cost.dtype, device=parts[0].cost.device)
    count, like = sum(len(part.i) for part in parts), parts[0].cost
    terms = [
        torch.as_tensor(value, dtype=like.dtype, device=like.device) * (len(part.i) / count)
        for part, value in zip(parts, values, strict=True)
    ]
    return torch.stack(terms).sum()
