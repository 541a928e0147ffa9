"""Which method solves which instance, and when it hands over: the only place that compares sizes.

Sinkhorn's steps are cheap, and many where eps is small; Newton's are few, and cost the square of the smaller side.
So, unless the caller names a method:

1. Instances with few atoms with mass on one side go to Newton at once.
2. All others make accelerated Sinkhorn steps: on a grid with more points than potentials have detail from the
   solutions on coarser ones, between large clouds from those between clusters of their atoms. Those with a small
   side hand over to Newton after `SINKHORN_FIRST` steps, or more where another back end makes Newton's.
3. Where Newton stalls, its start was too far: it follows the solution down from a temperature at which it is
   quick.
4. What is still not solved goes on with Sinkhorn.

A back end makes the steps: compiled code for float64 on a CPU, torch (`metaot.solvers.in_torch`) elsewhere. Where
marginals have a price, compiled code makes Sinkhorn's and torch Newton's (`metaot.solvers.hand_over`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import numpy as np

SMALLEST_WEIGHT = 1e-20
"""Of mass one: atoms with less count as atoms without mass, and get the best potentials for the others."""

SINKHORN_FIRST = 300
"""Sinkhorn steps after which Newton would have solved the problem in the same time."""

FEW = 16
"""Atoms with mass on one side up to which a step of Newton takes no longer than one of Sinkhorn."""

FACTORISED = 1024
"""Most unknowns of a Newton step that factorises its Hessian."""

MOST_ENTRIES = 2**24
"""Entries of the largest plan that compiled code holds: 128 MiB."""

NEWTON_ENTRIES = 2**22
"""Entries of the largest plan for Newton, which needs several of its size."""

LARGEST_GRID = 2**21
"""Atoms of the largest grid that compiled code takes: what it holds is some hundred bytes for each."""

_DETAIL = 1.21
"""Of eps: the detail of the cost (see `Costs.details`) between points that are close enough for potentials."""

_FINEST = 2**11
"""Atoms with mass from which on coarser grids save time."""

_PAIRS, _COARSEST = 2**22, 128
"""Pairs of atoms from which on clusters of them save time, and about how many there are on the coarsest level."""

MOST_LEVELS = 12
"""Coarser levels at most."""

_QUICK, _LADDER = 10.0, 3.0
"""The range of costs, in units of the temperature, at which Newton is quick from zeros; and the ratio of two
temperatures on the way down."""

_FOLLOWED, _EACH = 0.05, 30
"""L1 error to which Newton goes at a higher temperature, and its most steps there."""

Array = Any
"""An array of numpy, or a tensor: what the back end works on."""

Index = slice | np.ndarray
"""Some instances of a batch."""

EVERY = slice(None)

Strides = Sequence[tuple[int, ...]]
"""Of each coarser grid, the finest first, the points along each axis from one of its own to the next."""


@final
class Result(NamedTuple):
    """Potentials on all atoms, the L1 marginal error and the steps, a row for each problem.

    Where there is no finite plan, potentials are zero and the error infinite.
    """

    f: Array
    g: Array
    error: Array
    steps: Array

    def update(self, index: Index, later: "Result") -> None:
        """Replace some instances by what became of them later, and add the steps."""
        self.f[index], self.g[index], self.error[index] = later.f, later.g, later.error
        self.steps[index] += later.steps


class Limits(NamedTuple):
    """When an instance stops: its error is at most `tol`, or it has made `max_steps` steps."""

    tol: float
    max_steps: int


class BackEnd(ABC):
    """A batch of problems, and both methods on some of its instances.

    They refine f, given on all atoms in the units of the cost, or zeros where these are better.
    """

    sizes: list[tuple[int, int]]
    """For each instance the numbers of atoms with mass, of the smaller side first."""
    axis_points: float
    """The number of points on all axes of a grid; infinity without axes."""
    dimension: int
    """That of the points between which costs are; zero elsewhere."""
    lowest_eps: float
    slowness: int = 1
    """How many times `SINKHORN_FIRST` steps come before Newton's. Few atoms begin with Newton where it is one."""

    @property
    @abstractmethod
    def cost_range(self) -> float:
        """About how far the highest cost is above the lowest."""

    @abstractmethod
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
        """Make Sinkhorn steps: with a matrix between the atoms with mass if `on_support`, else along axes.

        With `strides` from the solutions on coarser grids, and corrected by these.
        """

    @property
    @abstractmethod
    def details(self) -> "tuple[dict[int, float], ...]":
        """Those of the costs along the axes; none without axes."""

    @abstractmethod
    def newton(self, index: Index, f: Array | None, limits: Limits, *, warmer: float = 1.0) -> Result:
        """Make Newton steps, at eps times `warmer`; an instance stops too when its error no longer falls."""

    @abstractmethod
    def symmetric(self, f: Array | None, limits: Limits, *, on_support: bool = False) -> Result:
        """Make symmetric steps, for measures to themselves: both sides share f, and g is the best for it."""

    @abstractmethod
    def no_result(self) -> Result:
        """Return room for results: zeros, of no steps, with an infinite error."""

    @abstractmethod
    def numbers(self, values: Array) -> np.ndarray:
        """Return values for each instance in numpy."""


def suits_compiled_code(shape: tuple[int, int], *, has_axes: bool, needs_matrix: bool) -> bool:
    """Return whether compiled code solves problems of this size, and sooner than torch."""
    if has_axes:
        return shape[0] <= LARGEST_GRID
    return not needs_matrix or shape[0] * shape[1] <= MOST_ENTRIES


def coarser_grids(details: "tuple[dict[int, float], ...]", eps: float) -> Strides:
    """Return the strides of coarser grids, each twice the last, as far as potentials have no detail.

    `details` are those of the costs along the axes, and eps is the lowest of a batch.
    """
    most = [max((s for s, detail in axis.items() if detail <= _DETAIL * eps), default=1) for axis in details]
    return [tuple(min(2**k, last) for last in most) for k in range(1, max(most, default=1).bit_length())]


def clusters(sizes: list[tuple[int, int]], dimension: int) -> Strides:
    """Return how many atoms of two clouds are one of each coarser level.

    Each level has a fourth of the points of the one before; `sizes` are those of a batch, the smaller side first.
    """
    if dimension == 0 or max((few * many for few, many in sizes), default=0) < _PAIRS:
        return ()
    most = max(many for _, many in sizes) // _COARSEST
    return [(4**k,) for k in range(1, MOST_LEVELS + 1) if 4**k <= most]


def is_on_support(back_end: BackEnd, index: Index) -> bool:
    """Return whether a matrix between the atoms with mass is smaller than what steps along the axes take."""
    if back_end.axis_points == math.inf:
        return True
    sizes = _sizes(back_end, index)
    return sum(map(sum, sizes)) <= back_end.axis_points * len(sizes)


def goes_coarse_to_fine(back_end: BackEnd) -> bool:
    """Return whether `choose` begins on coarser levels."""
    return bool(_strides(back_end, EVERY))


def _strides(back_end: BackEnd, index: Index) -> Strides:
    sizes = _sizes(back_end, index)
    if back_end.dimension:
        return clusters(sizes, back_end.dimension)
    if is_on_support(back_end, index) or sum(map(sum, sizes)) < 2 * _FINEST * len(sizes):
        return []
    return coarser_grids(back_end.details, back_end.lowest_eps)


def _sizes(back_end: BackEnd, index: Index) -> list[tuple[int, int]]:
    return back_end.sizes if isinstance(index, slice) else [back_end.sizes[k] for k in index]


def suits_newton(back_end: BackEnd) -> list[bool]:
    """Return which instances are small enough for a Newton step that factorises its Hessian."""
    return [few <= FACTORISED and few * many <= NEWTON_ENTRIES for few, many in back_end.sizes]


def only_sinkhorn(back_end: BackEnd, f: Array | None, limits: Limits, *, accelerated: bool = True) -> Result:
    """Refine by Sinkhorn alone."""
    return _Run(back_end, limits).only_sinkhorn(f, accelerated=accelerated)


def only_symmetric(back_end: BackEnd, f: Array | None, limits: Limits) -> Result:
    """Refine the potential of each measure to itself."""
    return _Run(back_end, limits).symmetric(f)


def only_newton(back_end: BackEnd, f: Array | None, limits: Limits) -> Result:
    """Refine by Newton alone."""
    run = _Run(back_end, limits)
    run.result = run.newton(EVERY, f, limits.max_steps)
    run.descend(run.unfinished())
    return run.result


def choose(back_end: BackEnd, f: Array | None, limits: Limits) -> tuple[Result, tuple[str, ...]]:
    """Refine by the methods that the module lists; return their names too."""
    run, suited = _Run(back_end, limits), suits_newton(back_end)
    first = suited if back_end.slowness == 1 else [False] * len(suited)
    few = [k for k, (rows, _) in enumerate(back_end.sizes) if first[k] and rows <= FEW]
    run.carry_on(run.newton, few, f)
    others = [k for k in range(len(suited)) if k not in few]
    run.carry_on(run.sinkhorn, others, f, back_end.slowness * SINKHORN_FIRST if any(suited) else limits.max_steps)
    if left := run.unfinished():
        run.carry_on(run.newton, [k for k in left if suited[k] and k not in few])
        run.descend([k for k in run.unfinished() if suited[k]])
        run.carry_on(run.sinkhorn, run.unfinished())
    return run.result, tuple(dict.fromkeys(run.taken))


class _Run:
    """A batch of problems on its way through the methods."""

    def __init__(self, back_end: BackEnd, limits: Limits) -> None:
        self.back_end, (self.tol, self.max_steps) = back_end, limits
        self.result: Result
        self.taken: list[str] = []

    def unfinished(self) -> list[int]:
        """Return which instances have too large an error, and steps left."""
        result, numbers = self.result, self.back_end.numbers
        found = enumerate(zip(numbers(result.error).tolist(), numbers(result.steps).tolist(), strict=True))
        return [k for k, (error, steps) in found if not error <= self.tol and steps < self.max_steps]

    def sinkhorn(self, index: Index, f: Array | None, max_steps: int) -> Result:
        self.taken.append("sinkhorn")
        limits, on_support = Limits(self.tol, max_steps), is_on_support(self.back_end, index)
        strides = () if max_steps == 0 else _strides(self.back_end, index)
        return self.back_end.sinkhorn(index, f, limits, on_support=on_support, strides=strides)

    def only_sinkhorn(self, f: Array | None, *, accelerated: bool) -> Result:
        limits = Limits(self.tol, self.max_steps)
        return self.back_end.sinkhorn(
            EVERY, f, limits, accelerated=accelerated, on_support=is_on_support(self.back_end, EVERY)
        )

    def symmetric(self, f: Array | None) -> Result:
        """Make symmetric steps: of what is smooth in the error they leave nothing for coarser grids."""
        limits = Limits(self.tol, self.max_steps)
        return self.back_end.symmetric(f, limits, on_support=is_on_support(self.back_end, EVERY))

    def newton(self, index: Index, f: Array | None, max_steps: int) -> Result:
        self.taken.append("newton")
        return self.back_end.newton(index, f, Limits(self.tol, max_steps))

    def carry_on(
        self, method: Callable[..., Result], which: list[int], f: Array | None = None, patience: int | None = None
    ) -> None:
        """Go on with some instances, from f or from where they are, in the steps that are left."""
        if not which:
            return
        if not self.taken:
            if len(which) == len(self.back_end.sizes):
                self.result = method(EVERY, f, min(self.max_steps, patience or self.max_steps))
                return
            self.result = self.back_end.no_result()
        index = np.array(which)
        budget = self.max_steps - int(self.result.steps[index].max())
        start = f[index] if f is not None else None
        if f is None and self.taken and bool((self.result.error[index] < np.inf).any()):
            start = self.result.f[index]
        self.result.update(index, method(index, start, min(budget, patience or budget)))

    def descend(self, which: list[int]) -> None:
        """Follow the solution of some instances down from a temperature at which Newton is quick."""
        if not which:
            return
        self.taken.append("newton")
        index, f = np.array(which), None
        steps, scale = self.result.steps[index], self.back_end.cost_range / (_QUICK * self.back_end.lowest_eps)
        while scale > _LADDER / 2:
            budget = min(_EACH, self.max_steps - int(steps.max()))
            found = self.back_end.newton(index, f, Limits(_FOLLOWED, budget), warmer=scale)
            f, steps, scale = found.f, steps + found.steps, scale / _LADDER
        found = self.back_end.newton(index, f, Limits(self.tol, self.max_steps - int(steps.max())))
        better = self.back_end.numbers(found.error) <= self.back_end.numbers(self.result.error[index])
        self.result.update(index[better], Result(*(values[better] for values in found)))
        self.result.steps[index] = steps + found.steps
