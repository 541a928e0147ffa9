"""Which method solves which instance, on which back end, and when it hands over: the only place that compares sizes.

Sinkhorn's steps are cheap and need many where eps is small; Newton's are few and cost the square of the smaller side.
So, unless the caller chose a solver:

1. Instances with few atoms with mass on one side go to Newton at once, and so do those with few atoms on one side and
   many on the other at an eps where Sinkhorn is slow.
2. All others make accelerated Sinkhorn steps; those with a small side hand over to Newton after `PATIENCE` of them.
3. Where Newton stalls, its start was too far: it follows the solution down from a temperature at which it is quick.
4. What is still not solved goes on with Sinkhorn.

A back end has no part in the choice. Compiled code does the steps for float64 on a CPU, torch for all else.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metaot import core
from metaot.geometry import Dense, Eps, Grid, Points
from metaot.problem import Problem
from metaot.solvers.back_end import BackEnd, Refined
from metaot.solvers.compiled import MOST_ENTRIES, Compiled
from metaot.solvers.in_torch import InTorch, no_result, refine
from metaot.solvers.iterate import Solver
from metaot.solvers.newton import FACTORISED, Newton
from metaot.solvers.sinkhorn import Sinkhorn

PATIENCE = 300
"""Sinkhorn steps after which Newton would have solved the problem in the same time."""

FEW = 16
"""Atoms with mass on one side up to which a step of Newton takes no longer than one of Sinkhorn."""

_SLOW, _FEW_ROWS, _LONG = 100.0, 256, 8
"""A range of costs, in units of eps, in which Sinkhorn takes hundreds of steps; up to so many atoms on one side, and so
many times more on the other, Newton is quicker from the first step."""

_LARGEST_GRID = 2**17
"""Atoms of the largest grid on which one thread of compiled code is quicker than torch."""

_QUICK, _LADDER = 10.0, 3.0
"""A range of costs, in units of the temperature, from which Newton is quick from zeros; and the ratio of two
temperatures on the way down."""

_FOLLOWED, _EACH = 0.05, 30
"""L1 error to which Newton goes at a higher temperature, in at most so many steps."""


def refine_by(
    solver: Solver | None,
    problem: Problem,
    f: Float[Tensor, "batch n"] | None,
    *,
    tol: float,
    max_steps: int,
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine f, in a flat batch of problems, by one method or by the choice; return who took part."""
    if solver is not None and not isinstance(solver, Sinkhorn | Newton):
        return refine(solver, problem, f, tol=tol, max_steps=max_steps, whole=True), (solver,)
    if len(problem.a) == 0:
        return no_result(problem), () if solver is None else (solver,)
    back_end = _back_end(problem, solver)
    if isinstance(solver, Sinkhorn):
        found = back_end.sinkhorn(problem, f, tol=tol, max_steps=max_steps, accelerated=solver.accelerated)
        return found, (solver,)
    if isinstance(solver, Newton):
        found = back_end.newton(problem, f, tol=tol, max_steps=max_steps)
        _from_higher_temperatures(back_end, problem, found, tol=tol, max_steps=max_steps)
        return found, (solver,)
    return _by_choice(back_end, problem, f, tol=tol, max_steps=max_steps)


def _by_choice(
    back_end: BackEnd, problem: Problem, f: Tensor | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    suited, at_once = _suited_to_newton(problem)
    if bool(at_once.all()):
        result, taken = no_result(problem), [Newton()]
    else:
        patience = min(PATIENCE, max_steps) if bool(suited.any()) else max_steps
        result, taken = back_end.sinkhorn(problem, f, tol=tol, max_steps=patience), [Sinkhorn()]
        if bool(at_once.any()):  # few of a batch: their steps of Sinkhorn do not count
            result.steps[at_once], result.error[at_once] = 0, torch.inf
    if bool(at_once.any()):
        part = at_once.nonzero()[:, 0]
        start = None if f is None else f[part]
        result.update(part, back_end.newton(problem[part], start, tol=tol, max_steps=max_steps))
        taken.append(Newton())
    left = _unfinished(result, tol, max_steps) & suited & ~at_once
    if bool(left.any()):
        part = left.nonzero()[:, 0]
        budget = max_steps - int(result.steps[part].max())
        start = result.potentials.f[part]
        result.update(part, back_end.newton(problem[part], start, tol=tol, max_steps=budget))
        taken.append(Newton())
    if bool(_unfinished(result, tol, max_steps).any()):
        _from_higher_temperatures(back_end, problem, result, tol=tol, max_steps=max_steps, suited=suited)
    left = _unfinished(result, tol, max_steps)
    if bool(left.any()):
        part = left.nonzero()[:, 0]
        budget = max_steps - int(result.steps[part].max())
        start = result.potentials.f[part]
        result.update(part, back_end.sinkhorn(problem[part], start, tol=tol, max_steps=budget))
        taken.append(Sinkhorn())
    return result, tuple(dict.fromkeys(taken))


def _unfinished(result: Refined, tol: float, max_steps: int) -> Bool[Tensor, "batch"]:
    return ~(result.error <= tol) & (result.steps < max_steps)


def _from_higher_temperatures(
    back_end: BackEnd,
    problem: Problem,
    result: Refined,
    *,
    tol: float,
    max_steps: int,
    suited: Bool[Tensor, "batch"] | None = None,
) -> None:
    """Follow the solution of unfinished instances down from temperatures at which Newton is quick."""
    left = _unfinished(result, tol, max_steps)
    part = (left if suited is None else left & suited).nonzero()[:, 0]
    if len(part) == 0:
        return
    mine, steps = problem[part], result.steps[part].clone()
    scale = _cost_range(mine) / (_QUICK * _lowest(mine.eps))
    f = torch.zeros_like(mine.a)
    while scale > _LADDER / 2:
        hot = Problem.trusted(mine.a, mine.b, mine.geometry, mine.eps * scale)
        budget = min(_EACH, max_steps - int(steps.max()))
        found = back_end.newton(hot, f, tol=_FOLLOWED, max_steps=budget)
        f, steps = found.potentials.f, steps + found.steps
        scale /= _LADDER
    found = back_end.newton(mine, f, tol=tol, max_steps=max_steps - int(steps.max()))
    better = ~(found.error > result.error[part])
    kept = result.potentials[part]
    result.update(part, found)
    result.steps[part] = steps + found.steps
    worse = part[~better]
    result.potentials.f[worse], result.potentials.g[worse] = kept.f[~better], kept.g[~better]


def _back_end(problem: Problem, solver: Solver | None) -> BackEnd:
    """Choose compiled code where it is there, for float64 on a CPU and plans that it can hold."""
    (n, m), geometry = problem.geometry.shape, problem.geometry
    here = core.COMPILED and problem.a.is_cpu and problem.a.dtype == torch.float64
    if not here:
        return InTorch()
    if isinstance(geometry, Grid) and len(geometry.sizes) > 1 and not isinstance(solver, Newton):
        return Compiled() if n <= _LARGEST_GRID else InTorch()
    if isinstance(geometry, Grid | Dense | Points) and n * m <= MOST_ENTRIES:
        return Compiled()
    sizes = [weights.count_nonzero(-1) for weights in (problem.a, problem.b)]
    fits = int((sizes[0] * sizes[1]).max()) <= MOST_ENTRIES and int(torch.minimum(*sizes).max()) <= FACTORISED
    return Compiled() if fits and n * m <= MOST_ENTRIES else InTorch()


def _suited_to_newton(problem: Problem) -> tuple[Bool[Tensor, "batch"], Bool[Tensor, "batch"]]:
    """Return which instances Newton can solve, and which it should solve from the first step."""
    sizes = torch.stack([weights.count_nonzero(-1) for weights in (problem.a, problem.b)])
    few, many = sizes.amin(0), sizes.amax(0)
    suited = (few <= FACTORISED) & (few * many <= MOST_ENTRIES // 4)
    slow = bool(((few <= _FEW_ROWS) & (many >= _LONG * few)).any()) and _is_slow(problem)
    return suited, suited & ((few <= FEW) | (slow & (few <= _FEW_ROWS) & (many >= _LONG * few)))


def _is_slow(problem: Problem) -> bool:
    return _cost_range(problem) > _SLOW * _lowest(problem.eps)


def _lowest(eps: Eps) -> float:
    return float(eps.min()) if isinstance(eps, Tensor) else eps


def _cost_range(problem: Problem) -> float:
    """Return about how far the highest cost is above the lowest, from a few rows."""
    geometry = problem.geometry
    if isinstance(geometry, Grid):
        return sum(float(cost.max() - cost.min()) for cost in geometry.axis_costs)
    n = geometry.shape[0]
    rows = [geometry.cost_rows(slice(k, k + 1)) for k in range(0, n, max(1, n // 8))]
    finite = torch.cat([row[row.isfinite()] for row in rows])
    return float(finite.max() - finite.min()) if len(finite) else math.inf
