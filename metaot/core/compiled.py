"""Compiled code for arrays of float64 on a CPU, without torch: what is packed, and what comes back."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, final

import numpy as np

from metaot.core.costs import POINT_COSTS, Costs
from metaot.core.method import SMALLEST_WEIGHT, BackEnd, Index, Limits, Result, Strides

try:
    from metaot.core import _core
except ImportError:  # installed where there was no compiler
    _core = None

Array = np.ndarray
Limited = tuple[float, int, bool]
"""The tolerance, the most steps, and whether they are accelerated."""

COMPILED = _core is not None
"""Whether there is compiled code."""

_BY_AXES, _BY_MATRIX, _NEWTON, _STEP, _TRANSFORM, _HARD_MINIMUM = range(6)
_SYMMETRIC_BY_AXES, _SYMMETRIC_BY_MATRIX = 6, 7

_MISSING = "the compiled core is not there: install metaot where there is a C compiler"

_WORTH_A_THREAD = 2**14
"""Atoms of all problems of a thread, from which on it is worth waking."""

_LARGE, _AXIS = 2**17, 2**6
"""Entries of a matrix from which on another thread is worth waking; how many an atom of a grid counts for."""

Problems = tuple[Array, Array, Array, Array | None, Array | None]
"""Weights of both sides, eps, starts, and prices of marginals."""

Call = tuple[
    int,
    tuple[int, int, tuple[Array, ...], tuple[Array, ...] | None],
    Problems,
    tuple[Array, Array, Array, Array],
    Limited,
]
"""What compiled code is asked for; its results are arrays that it fills."""


@final
class Compiled(BackEnd):
    """Problems as arrays, one after another on each thread: weights batch n and batch m, eps batch."""

    def __init__(
        self,
        costs: Costs,
        a: Array,
        b: Array,
        eps: Array,
        *,
        prices: Array | None = None,
        threads: int = 1,
        deferred: list[Call] | None = None,
        along: list[Call] | None = None,
    ) -> None:
        """Hold problems. Calls are put off into `deferred`, if given; those in `along` go with the first one."""
        self._deferred, self._along = deferred, along
        self._costs, self._a, self._b, self._eps, self._threads = costs, a, b, eps, threads
        self._prices, self.axis_points = prices, costs.axis_points
        self.dimension = costs.dimension

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """For each instance the numbers of atoms with mass, of the smaller side first."""
        is_relaxed = self._prices is not None
        of_source = _support_sizes(self._a, is_relaxed)
        of_target = of_source if self._b is self._a else _support_sizes(self._b, is_relaxed)
        return [(n, m) if n <= m else (m, n) for n, m in zip(of_source, of_target, strict=True)]

    @cached_property
    def lowest_eps(self) -> float:
        """The lowest temperature of the batch."""
        return min(self._eps.tolist())

    @property
    def cost_range(self) -> float:
        return self._costs.range

    @property
    def details(self) -> tuple[dict[int, float], ...]:
        return self._costs.details

    def sinkhorn(
        self,
        index: Index,
        f: Array | None,
        limits: Limits,
        *,
        accelerated: bool = True,
        on_support: bool = False,
        strides: Strides = (),
    ) -> Result:
        method = _BY_AXES if self._costs.has_axes and not on_support else _BY_MATRIX
        return self._solve(method, index, f, (limits.tol, limits.max_steps, accelerated), strides=strides)

    def newton(self, index: Index, f: Array | None, limits: Limits, *, warmer: float = 1.0) -> Result:
        return self._solve(_NEWTON, index, f, (limits.tol, limits.max_steps, True), warmer=warmer)

    def symmetric(self, f: Array | None, limits: Limits, *, on_support: bool = False) -> Result:
        method = _SYMMETRIC_BY_AXES if self._costs.has_axes and not on_support else _SYMMETRIC_BY_MATRIX
        return self._solve(method, slice(None), f, (limits.tol, limits.max_steps, True))

    def of_each_side(self, deferred: list[Call]) -> "Compiled":
        """Return the balanced problems of all sources to themselves, and then of all targets, with these costs."""
        weights, eps = np.concatenate((self._a, self._b)), np.concatenate((self._eps, self._eps))
        return Compiled(self._costs, weights, weights, eps, threads=self._threads, deferred=deferred)

    def no_result(self) -> Result:
        f, g, error = np.zeros(self._a.shape), np.zeros(self._b.shape), np.full(len(self._a), np.inf)
        return Result(f, g, error, np.zeros(len(error), dtype=np.int64))

    def numbers(self, values: Array) -> Array:
        return values

    def _solve(
        self,
        method: int,
        index: Index,
        f: Array | None,
        limits: Limited,
        *,
        warmer: float = 1.0,
        strides: Strides = (),
    ) -> Result:
        levels = (np.array(strides, dtype=np.int64), *self._costs.coordinates) if strides else None
        costs = self._costs if isinstance(index, slice) else self._costs[index]
        prices = None if self._prices is None else self._prices[index]
        problems = self._a[index], self._b[index], self._eps[index] * warmer, f, prices
        found, call = _call(method, costs, problems, limits, levels)
        if self._deferred is not None:
            self._deferred.append(call)
        elif self._along:
            useful = (
                self._threads if self._a.size * (_AXIS if costs.has_axes else self._b.shape[-1]) >= _LARGE else 1
            )
            run_together([call, *self._along], useful)
            self._along.clear()
        else:
            _run(call, found, self._threads)
        return found


def run_together(calls: list[Call], threads: int) -> None:
    """Make calls, their problems on these threads."""
    if calls and _core is not None:
        _core.solve_together(tuple(calls), threads)


def _support_sizes(weights: Array, relaxed: bool) -> list[int]:
    """Count the atoms with mass that counts, of a mass of one or of what there is."""
    least = SMALLEST_WEIGHT * weights.sum(-1, keepdims=True) if relaxed else SMALLEST_WEIGHT
    return [int(np.count_nonzero(row)) for row in weights >= least]


@final
class Step(NamedTuple):
    """The f that one Sinkhorn step leads to; a - P 1 and the dual value of the f before it, with the best g."""

    f: Array
    missing: Array
    value: Array


def sinkhorn_step(costs: Costs, a: Array, b: Array, eps: Array, f: Array, *, threads: int = 1) -> Step:
    """Make one Sinkhorn step from f on the axes of a grid, or with a matrix that is one axis."""
    result = _solve_each(_STEP, costs, (a, b, eps, f, None), (0.0, 1, False), threads)
    return Step(result.f, result.g, result.error)


def best_potential(costs: Costs, a: Array, b: Array, eps: Array, f: Array, *, threads: int = 1) -> Array:
    """Return the best g for f on the axes of two grids: -eps log sum_i a_i exp((f_i - C_ij)/eps)."""
    return _solve_each(_TRANSFORM, costs, (a, b, eps, f, None), (0.0, 0, False), threads).g


def hard_minimum(costs: Costs, h: Array, *, threads: int = 1) -> Array:
    """Return min_j C_ij - h_j for the atoms of a grid, batch m -> batch n."""
    batch, (n, _) = len(h), costs.shape
    weights, eps = np.ones((batch, n)), np.ones(batch)
    return _solve_each(_HARD_MINIMUM, costs, (weights, h, eps, None, None), (0.0, 0, False), threads).f


def softmin_of_clouds(costs: Costs, h: Array, eps: float, *, threads: int = 1) -> Array:
    """Return -eps log sum_j exp((h_j - C_ij)/eps) between two clouds, m -> n; for eps = 0, min_j C_ij - h_j."""
    found = np.empty(costs.shape[0])
    _sum_clouds(costs, (h, None, eps), (found, None, None), threads)
    return found


def mean_costs_of_clouds(costs: Costs, h: Array, eps: float, *, threads: int = 1) -> Array:
    """Return the mean of C_ij under the weights of the softmin, m -> n; zero where all h are -inf."""
    found = np.empty(costs.shape[0])
    _sum_clouds(costs, (h, None, eps), (None, found, None), threads)
    return found


def means_on_clouds(costs: Costs, h: Array, eps: float, values: Array, *, threads: int = 1) -> Array:
    """Return the means of values, m k, under the weights of the softmin, n k; zero where all h are -inf."""
    found = np.empty((costs.shape[0], values.shape[1]))
    _sum_clouds(costs, (h, _contiguous(values), eps), (None, None, found), threads)
    return found


def _sum_clouds(
    costs: Costs,
    wanted: tuple[Array, Array | None, float],
    found: tuple[Array | None, Array | None, Array | None],
    threads: int,
) -> None:
    if _core is None:
        raise RuntimeError(_MISSING)
    (x, y), (h, values, eps) = costs.arrays, wanted
    _core.sum_clouds(costs.point_cost, x, y, _contiguous(h), values, eps, found, threads)


def exponential_sums(x: Array, y: Array, v: Array, *, threads: int = 1) -> Array:
    """Return exp(x y^T) v for arrays of the same batch, of n p, m p and m q numbers; no n x m matrix is made."""
    if _core is None:
        raise RuntimeError(_MISSING)
    out = np.empty((*x.shape[:-1], v.shape[-1]))
    flat = [z.reshape(-1, *z.shape[-2:]) for z in (_contiguous(x), _contiguous(y), _contiguous(v), out)]
    for k in range(len(flat[0])):
        _core.exponential_sums(flat[0][k], flat[1][k], flat[2][k], flat[3][k], threads)
    return out


def sort_rows(values: Array, order: Array | None, *, threads: int = 1) -> None:
    """Sort rows of float32 or float64 where they are, and put where each number was into `order`, int64."""
    if _core is None:
        raise RuntimeError(_MISSING)
    useful = max(1, min(threads, len(values), values.size // _WORTH_A_THREAD))
    _core.sort_rows(values, order, useful)


def assign_rows(
    costs: Array | tuple[Array, Array, Array], eps: Array, prices: Array, *, exact: bool
) -> tuple[Array, float]:
    """Assign rows of costs, n n, to columns, from `prices`, which are overwritten: by auctions, one for each eps.

    `costs` may be points x and y, n d each in float64, for their squared distances, of which no matrix is made,
    and a potential f of x, n, from which the first prices are found.
    Returns the columns and a lower bound of the sum of costs of all assignments; see metaot/core/src/assign.c.
    """
    if _core is None:
        raise RuntimeError(_MISSING)
    rows = tuple(map(np.ascontiguousarray, costs)) if isinstance(costs, tuple) else np.ascontiguousarray(costs)
    columns = np.empty(len(prices), dtype=np.int64)
    bound = _core.assign_rows(rows, _contiguous(eps), prices, columns, exact)
    return columns, bound


def assign_points(
    x: Array, y: Array, cost: str, eps: Array, prices: Array, *, exact: bool = False, quick: bool = False
) -> tuple[Array, float, float]:
    """Assign points x to points y, n d each, by one auction for each eps; `prices` of y are overwritten.

    If `quick`, points that lose their best ones share what is left, without an auction. No n x n matrix is made.
    `cost` is a name in `POINT_COSTS`. Returns the columns, the sum of their costs, and a lower bound of that of
    all assignments; see metaot/core/src/pairs.c.
    """
    if _core is None:
        raise RuntimeError(_MISSING)
    columns = np.empty(len(prices), dtype=np.int64)
    place = POINT_COSTS.index(cost)
    points, steps = (_contiguous(x), _contiguous(y)), _contiguous(eps)
    return columns, *_core.assign_points(place, *points, steps, prices, columns, exact, quick)


@final
class Learnt(NamedTuple):
    """A `metaot.models.costs.CostNetwork` in arrays; see `_core.pyi`."""

    settings: tuple[int, int, int, int]
    """Width, hidden, cells and rows."""
    rounds: tuple[int, ...]
    """Rounds at each level."""
    weights: Array
    temperatures: Array


def learnt_potentials(
    net: Learnt, counts: list[int], C: Array, problems: Sequence[Array], *, threads: int = 1
) -> tuple[Array, Array]:
    """Return f, and by how many eps costs differ, for levels of so many targets; see metaot/core/src/learnt.c.

    `problems` are a, b and eps. The second is -1 for problems that only torch can prepare; f is then not to be
    used.
    """
    if _core is None:
        raise RuntimeError(_MISSING)
    C, (a, b, eps) = _contiguous(C), map(_contiguous, problems)
    f, spreads = np.empty(a.shape), np.empty(len(a))
    settings = np.array([*net.settings, len(counts), *counts, *net.rounds], dtype=np.int64)
    useful = max(1, min(threads, len(a)))
    _core.learnt_potentials(C, a, b, eps, settings, net.weights, net.temperatures, f, spreads, useful)
    return f, spreads


def quick_products() -> bool:
    """Return whether `multiply_rows` is faster here than products of floats."""
    return _core is not None and _core.has_quick_products()


def multiply_rows(x: Array, y: Array, factor: float = 1, *, threads: int = 1) -> tuple[Array, float]:
    """Return factor x y^T for matrices n d and m d in float32, from numbers of 16 bits.

    With it the largest error of a mean of its entries, over pairs that have each row of x and of y as often as any
    other; see metaot/core/src/products.c.
    """
    if _core is None:
        raise RuntimeError(_MISSING)
    out = np.empty((len(x), len(y)), dtype=np.float32)
    error = _core.multiply_rows(np.ascontiguousarray(x), np.ascontiguousarray(y), out, factor, threads)
    return out, error


@final
class Averages(NamedTuple):
    """Measures, batch k n, with their weights and eps, and a start of their barycenters, in units of eps."""

    measures: Array
    weights: Array
    eps: Array
    f: Array
    log_d: Array
    settled: Array


@final
class Averaged(NamedTuple):
    """Barycenters in units of eps; `errors` has those of plans and self-plan, and whether log d has settled."""

    f: Array
    g: Array
    log_d: Array
    log_alpha: Array
    errors: Array
    steps: Array


def average(costs: Costs, given: Averages, limits: Limits, *, debiased: bool, threads: int = 1) -> Averaged:
    """Find barycenters of measures on the axes of one grid."""
    if _core is None:
        raise RuntimeError(_MISSING)
    shape = count, _, n = given.measures.shape
    f, g, log_d, log_alpha = np.empty(shape), np.empty(shape), np.empty((count, n)), np.empty((count, n))
    found = Averaged(f, g, log_d, log_alpha, np.empty((count, 3)), np.empty(count, dtype=np.int64))
    problems = Averages(*map(_contiguous, given))
    _core.average_each(costs.arrays, problems, found, (limits.tol, limits.max_steps, debiased), threads)
    return found


@final
class Pairs(NamedTuple):
    """Potentials on atoms with mass, zero elsewhere; the dual value half a step later; L1 errors and steps."""

    f: Array | None
    g: Array | None
    value: Array
    error: Array
    steps: Array


@final
class PairSolver:
    """Sinkhorn between pairs of measures, rows of weights, N n, at one temperature.

    `costs` are among the atoms that all measures share, or, with a batch, between the points of each and of each.
    """

    def __init__(self, costs: Costs, weights: Array, eps: float) -> None:
        self._costs, self._weights, self._eps = costs, _contiguous(weights), eps
        mean = sum(_support_sizes(weights, relaxed=False)) / max(1, len(weights))
        self._by_axes = costs.has_axes and 2 * mean > costs.axis_points

    def __call__(
        self,
        pairs: Array,
        start: Array | None,
        limits: Limits,
        *,
        potentials: bool = False,
        threads: int = 1,
    ) -> Pairs:
        """Make steps for pairs of rows, k 2, from f, k n, or zeros; return potentials too if asked."""
        if _core is None:
            raise RuntimeError(_MISSING)
        count, n = len(pairs), self._weights.shape[1]
        f, g = (np.empty((count, n)) if potentials else None for _ in range(2))
        found = Pairs(f, g, np.empty(count), np.empty(count), np.empty(count, dtype=np.int64))
        packed = self._costs.kind, self._costs.point_cost, self._costs.arrays
        start = None if start is None else _contiguous(start)
        problems = self._weights, np.full(count, self._eps), start, np.ascontiguousarray(pairs, dtype=np.int64)
        useful = max(1, min(threads, count))
        results = found.f, found.g, found.value, found.error, found.steps
        _core.solve_pairs(self._by_axes, packed, problems, results, (limits.tol, limits.max_steps, True), useful)
        return found


def _solve_each(
    method: int,
    costs: Costs,
    problems: Problems,
    limits: Limited,
    threads: int,
) -> Result:
    found, call = _call(method, costs, problems, limits)
    _run(call, found, threads)
    return found


def _call(
    method: int,
    costs: Costs,
    problems: Problems,
    limits: Limited,
    levels: tuple[Array, ...] | None = None,
) -> tuple[Result, Call]:
    """Return room for results, and the call that fills it."""
    a, b, eps = map(_contiguous, problems[:3])
    start, prices = (None if part is None else _contiguous(part) for part in problems[3:])
    second = a if method == _STEP else b
    found = Result(np.empty(a.shape), np.empty(second.shape), np.empty(len(a)), np.empty(len(a), dtype=np.int64))
    packed = costs.kind, costs.point_cost, costs.arrays, levels
    return found, (method, packed, (a, b, eps, start, prices), tuple(found), limits)


def _run(call: Call, found: Result, threads: int) -> None:
    if _core is None:
        raise RuntimeError(_MISSING)
    count, atoms = len(found.error), found.f.size + found.g.size
    useful = threads if count == 1 else max(1, min(threads, count, atoms // _WORTH_A_THREAD))
    _core.solve_each(*call, useful)


def _contiguous(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=np.float64)
