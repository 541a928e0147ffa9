"""Which method solves which instance, and when it hands over: the only place that compares sizes.

Sinkhorn's steps are cheap, and many where eps is small; Newton's are few, and cost the square of the smaller side.
So, unless the caller names a method:

1. Instances with few atoms with mass on one side go to Newton at once; so do those with few atoms on one side and
   many on the other, at an eps where Sinkhorn is slow.
2. All others make accelerated Sinkhorn steps. Those with a small side hand over to Newton after `PATIENCE` steps.
3. Where Newton stalls, its start was too far: it follows the solution down from a temperature at which it is
   quick.
4. What is still not solved goes on with Sinkhorn.

A back end makes the steps: compiled code for float64 on a CPU, torch (`metaot.solvers.in_torch`) elsewhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, final

import numpy as np

SMALLEST_WEIGHT = 1e-20
"""Of mass one: atoms with less are as good as without mass, and get the best potentials for the others."""

PATIENCE = 300
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

_SLOW, _FEW_ROWS, _LONG = 100.0, 256, 8
"""The range of costs, in units of eps, above which Sinkhorn takes hundreds of steps; with up to `_FEW_ROWS` atoms
on one side, and `_LONG` times as many on the other, Newton is then quicker from the first step."""

_ENTRY = 4
"""Multiplications along axes, in blocks, that take the time of one with a matrix between the atoms with mass."""

_QUICK, _LADDER = 10.0, 3.0
"""The range of costs, in units of the temperature, at which Newton is quick from zeros; and the ratio of two
temperatures on the way down."""

_FOLLOWED, _EACH = 0.05, 30
"""L1 error to which Newton goes at a higher temperature, and its most steps there."""

_DESERVED = (0.35, 10.0), (0.6, 30.0)
"""Temperatures, in units of the problem's, from which starts with at most these L1 errors are mended."""

Array = Any
"""An array of numpy, or a tensor: what the back end works on."""

Index = slice | np.ndarray
"""Some instances of a batch."""

EVERY = slice(None)


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


class BackEnd(ABC):
    """A batch of problems, and both methods on some of its instances.

    They refine f, given on all atoms in the units of the cost, or zeros where these are better. An instance stops
    when its error is at most `tol`, or after `max_steps` steps.
    """

    few: np.ndarray
    """The numbers of atoms with mass on the smaller sides."""
    many: np.ndarray
    """Those on the larger sides."""
    axis_work: float
    """The multiplications of a product along the axes of a grid; infinity without axes."""
    lowest_eps: float

    @property
    @abstractmethod
    def cost_range(self) -> float:
        """About how far the highest cost is above the lowest."""

    @abstractmethod
    def sinkhorn(
        self,
        index: Index,
        f: Array | None,
        *,
        tol: float,
        max_steps: int,
        accelerated: bool = True,
        on_support: bool = False,
    ) -> Result:
        """Make Sinkhorn steps: with a matrix between the atoms with mass if `on_support`, else along axes."""

    @abstractmethod
    def newton(self, index: Index, f: Array | None, *, tol: float, max_steps: int, warmer: float = 1.0) -> Result:
        """Make Newton steps, at eps times `warmer`; an instance stops too when its error no longer falls."""

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


def suits_newton(back_end: BackEnd) -> np.ndarray:
    """Return which instances are small enough for a Newton step that factorises its Hessian."""
    return (back_end.few <= FACTORISED) & (back_end.few * back_end.many <= NEWTON_ENTRIES)


def only_sinkhorn(
    back_end: BackEnd, f: Array | None, *, tol: float, max_steps: int, accelerated: bool = True
) -> Result:
    """Refine by Sinkhorn alone."""
    return _Run(back_end, tol, max_steps).sinkhorn(EVERY, f, max_steps, accelerated=accelerated)


def only_newton(back_end: BackEnd, f: Array | None, *, tol: float, max_steps: int) -> Result:
    """Refine by Newton alone."""
    run = _Run(back_end, tol, max_steps)
    run.result = run.newton(EVERY, f, max_steps)
    run.descend(run.unfinished())
    return run.result


def choose(back_end: BackEnd, f: Array | None, *, tol: float, max_steps: int) -> tuple[Result, tuple[str, ...]]:
    """Refine by the methods that the module lists; return their names too."""
    run = _Run(back_end, tol, max_steps)
    suited = suits_newton(back_end)
    few, long = suited & (back_end.few <= FEW), suited & _are_long(back_end)
    at_once, near = few | long, run.descend_from(f, long & ~few)
    run.carry_on(run.newton, few | near, f)
    run.carry_on(run.sinkhorn, ~at_once, f, PATIENCE if suited.any() else max_steps)
    if run.unfinished().any():
        run.carry_on(run.newton, run.unfinished() & suited & ~at_once)
        run.descend(run.unfinished() & suited)
        run.carry_on(run.sinkhorn, run.unfinished())
    return run.result, tuple(dict.fromkeys(run.taken))


def _are_long(back_end: BackEnd) -> np.ndarray:
    """Return which instances have few atoms on one side and many on the other, where Sinkhorn is slow."""
    long = (back_end.few <= _FEW_ROWS) & (back_end.many >= _LONG * back_end.few)
    return long & (back_end.cost_range > _SLOW * back_end.lowest_eps) if long.any() else long


class _Run:
    """A batch of problems on its way through the methods."""

    def __init__(self, back_end: BackEnd, tol: float, max_steps: int) -> None:
        self.back_end, self.tol, self.max_steps = back_end, tol, max_steps
        self.result = back_end.no_result()
        self.taken: list[str] = []

    def unfinished(self) -> np.ndarray:
        """Return which instances have too large an error, and steps left."""
        error, steps = map(self.back_end.numbers, (self.result.error, self.result.steps))
        return ~(error <= self.tol) & (steps < self.max_steps)

    def sinkhorn(self, index: Index, f: Array | None, max_steps: int, *, accelerated: bool = True) -> Result:
        self.taken.append("sinkhorn")
        entries = float((self.back_end.few * self.back_end.many)[index].mean())
        on_support = entries * _ENTRY <= self.back_end.axis_work
        limits = {"tol": self.tol, "max_steps": max_steps, "accelerated": accelerated}
        return self.back_end.sinkhorn(index, f, **limits, on_support=on_support)

    def newton(self, index: Index, f: Array | None, max_steps: int) -> Result:
        self.taken.append("newton")
        return self.back_end.newton(index, f, tol=self.tol, max_steps=max_steps)

    def carry_on(
        self, method: Callable[..., Result], which: np.ndarray, f: Array | None = None, patience: int | None = None
    ) -> None:
        """Go on with some instances, from f or from where they are, in the steps that are left."""
        if not which.any():
            return
        if not self.taken and which.all():
            self.result = method(EVERY, f, min(self.max_steps, patience or self.max_steps))
            return
        index = which.nonzero()[0]
        budget = self.max_steps - int(self.result.steps[index].max())
        start = f[index] if f is not None else None
        if f is None and self.taken and bool((self.result.error[index] < np.inf).any()):
            start = self.result.f[index]
        self.result.update(index, method(index, start, min(budget, patience or budget)))

    def descend_from(self, f: Array | None, which: np.ndarray) -> np.ndarray:
        """Solve some instances from a temperature that their starts need; return those whose starts are near."""
        if f is None or not which.any():
            self.descend(which)
            return np.zeros_like(which)
        index, error = which.nonzero()[0], np.full(which.shape, np.inf)
        found = self.back_end.newton(index, f[index], tol=self.tol, max_steps=0)
        error[index] = self.back_end.numbers(found.error)
        lowest = _FOLLOWED
        for highest, scale in _DESERVED:
            self.descend(which & (error > lowest) & (error <= highest), f, scale, each=1)
            lowest = highest
        self.descend(which & ~(error <= lowest))
        return which & (error <= _FOLLOWED)

    def descend(
        self, which: np.ndarray, f: Array | None = None, scale: float | None = None, each: int = _EACH
    ) -> None:
        """Follow the solution of some instances down from a temperature: by default, at which Newton is quick."""
        if not which.any():
            return
        self.taken.append("newton")
        index = which.nonzero()[0]
        steps, f = self.result.steps[index], None if f is None else f[index]
        scale = scale or self.back_end.cost_range / (_QUICK * self.back_end.lowest_eps)
        while scale > _LADDER / 2:
            budget = min(each, self.max_steps - int(steps.max()))
            found = self.back_end.newton(index, f, tol=_FOLLOWED, max_steps=budget, warmer=scale)
            f, steps, scale = found.f, steps + found.steps, scale / _LADDER
        found = self.back_end.newton(index, f, tol=self.tol, max_steps=self.max_steps - int(steps.max()))
        better = self.back_end.numbers(found.error) <= self.back_end.numbers(self.result.error[index])
        self.result.update(index[better], Result(*(values[better] for values in found)))
        self.result.steps[index] = steps + found.steps
