"""Which method solves which instance, on which back end, and when it hands over: the only place that compares sizes.

Sinkhorn's steps are cheap, and many where eps is small; Newton's are few, and cost the square of the smaller side. So,
unless the caller names a solver:

1. Instances with few atoms with mass on one side go to Newton at once; so do those with few atoms on one side and many
   on the other, at an eps where Sinkhorn is slow.
2. All others make accelerated Sinkhorn steps. Those with a small side hand over to Newton after `PATIENCE` of them.
3. Where Newton stalls, its start was too far: it follows the solution down from a temperature at which it is quick.
4. What is still not solved goes on with Sinkhorn.

Compiled code makes the steps for float64 on a CPU, torch makes the same steps elsewhere.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot import core
from metaot.geometry import Eps, Grid
from metaot.problem import Problem
from metaot.solvers.back_end import BackEnd, Refined, no_result
from metaot.solvers.compiled import Compiled
from metaot.solvers.in_torch import InTorch, refine
from metaot.solvers.iterate import Solver
from metaot.solvers.newton import FACTORISED, Newton
from metaot.solvers.sinkhorn import Sinkhorn
from metaot.solvers.support import SMALLEST_WEIGHT

PATIENCE = 300
"""Sinkhorn steps after which Newton would have solved the problem in the same time."""

FEW = 16
"""Atoms with mass on one side up to which a step of Newton takes no longer than one of Sinkhorn."""

MOST_ENTRIES = 2**24
"""Entries of the largest plan that compiled code holds: 128 MiB."""

LARGEST_GRID = 2**17
"""Atoms of the largest grid on which one thread of compiled code is quicker than torch."""

_NEWTON_ENTRIES = 2**22
"""Entries of the largest plan for Newton, which needs several of its size."""

_SLOW, _FEW_ROWS, _LONG = 100.0, 256, 8
"""The range of costs, in units of eps, above which Sinkhorn takes hundreds of steps; with up to `_FEW_ROWS` atoms on
one side, and `_LONG` times as many on the other, Newton is then quicker from the first step."""

_ENTRY = 4
"""Multiplications along axes, in blocks, that take the time of one with a matrix between the atoms with mass."""

_QUICK, _LADDER = 10.0, 3.0
"""The range of costs, in units of the temperature, at which Newton is quick from zeros; and the ratio of two
temperatures on the way down."""

_FOLLOWED, _EACH = 0.05, 30
"""L1 error to which Newton goes at a higher temperature, and its most steps there."""


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
        return refine(solver, problem, f, tol=tol, max_steps=max_steps, on_support=False), (solver,)
    if len(problem.a) == 0:
        return no_result(problem), () if solver is None else (solver,)
    run = _Run(problem, solver, tol, max_steps)
    if isinstance(solver, Sinkhorn):
        run.result = run.sinkhorn(slice(None), f, max_steps, accelerated=solver.accelerated)
    elif isinstance(solver, Newton):
        run.result = run.newton(slice(None), f, max_steps)
        run.descend(run.unfinished())
    else:
        run.choose(f)
    return run.result, tuple(dict.fromkeys(run.taken)) if solver is None else (solver,)


class _Run:
    """A batch of problems on its way through the methods."""

    def __init__(self, problem: Problem, solver: Solver | None, tol: float, max_steps: int) -> None:
        self.problem, self.tol, self.max_steps = problem, tol, max_steps
        a, b = _support_sizes(problem.a), _support_sizes(problem.b)
        self.few, self.many = np.minimum(a, b), np.maximum(a, b)
        self.back_end = self._back_end(isinstance(solver, Newton))
        self.result = no_result(problem)
        self.taken: list[Solver] = []

    def choose(self, f: Tensor | None) -> None:
        """Refine by the steps that are listed above."""
        suited = (self.few <= FACTORISED) & (self.few * self.many <= _NEWTON_ENTRIES)
        at_once = suited & self._at_once()
        if at_once.any():
            self._continue_by(self.newton, at_once, f)
        if not at_once.all():
            patience = PATIENCE if suited.any() else self.max_steps
            self._continue_by(self.sinkhorn, ~at_once, f, patience)
        left = self.unfinished()
        if not left.any():
            return
        self._continue_by(self.newton, left & suited & ~at_once)
        self.descend(self.unfinished() & suited)
        self._continue_by(self.sinkhorn, self.unfinished())

    def unfinished(self) -> np.ndarray:
        """Return which instances have too large an error, and steps left."""
        error, steps = (values.numpy(force=True) for values in (self.result.error, self.result.steps))
        return ~(error <= self.tol) & (steps < self.max_steps)

    def sinkhorn(
        self, index: Tensor | slice, f: Tensor | None, max_steps: int, *, accelerated: bool = True
    ) -> Refined:
        self.taken.append(Sinkhorn())
        part = self.problem if isinstance(index, slice) else self.problem[index]
        entries = (self.few * self.many)[index if isinstance(index, slice) else index.numpy(force=True)]
        return self.back_end.sinkhorn(
            part,
            f,
            tol=self.tol,
            max_steps=max_steps,
            accelerated=accelerated,
            on_support=float(entries.mean()) * _ENTRY <= _axis_work(part),
        )

    def newton(self, index: Tensor | slice, f: Tensor | None, max_steps: int) -> Refined:
        self.taken.append(Newton())
        part = self.problem if isinstance(index, slice) else self.problem[index]
        return self.back_end.newton(part, f, tol=self.tol, max_steps=max_steps)

    def _continue_by(self, method, mask: np.ndarray, f: Tensor | None = None, patience: int | None = None) -> None:
        """Go on with some instances, from f or from where they are, in the steps that are left."""
        if not mask.any():
            return
        if mask.all() and not self.taken:
            self.result = method(slice(None), f, min(self.max_steps, patience or self.max_steps))
            return
        part = torch.from_numpy(mask.nonzero()[0]).to(self.problem.a.device)
        budget = self.max_steps - int(self.result.steps[part].max())
        start = None if f is None else f[part]
        if start is None and self.taken:
            start = self.result.potentials.f[part]
        self.result.update(part, method(part, start, min(budget, patience or budget)))

    def descend(self, mask: np.ndarray) -> None:
        """Follow the solution of some instances down from temperatures at which Newton is quick."""
        if not mask.any():
            return
        part = torch.from_numpy(mask.nonzero()[0]).to(self.problem.a.device)
        mine, steps = self.problem[part], self.result.steps[part]
        scale, f = _cost_range(mine) / (_QUICK * _lowest(mine.eps)), torch.zeros_like(mine.a)
        while scale > _LADDER / 2:
            hot = Problem.trusted(mine.a, mine.b, mine.geometry, mine.eps * scale)
            budget = min(_EACH, self.max_steps - int(steps.max()))
            found = self.back_end.newton(hot, f, tol=_FOLLOWED, max_steps=budget)
            f, steps = found.potentials.f, steps + found.steps
            scale /= _LADDER
        found = self.back_end.newton(mine, f, tol=self.tol, max_steps=self.max_steps - int(steps.max()))
        steps = steps + found.steps
        better = found.error <= self.result.error[part]
        self.result.update(part[better], found.part(better))
        self.result.steps[part] = steps

    def _at_once(self) -> np.ndarray:
        """Return which instances Newton should solve from the first step, if it can."""
        at_once = self.few <= FEW
        long = (self.few <= _FEW_ROWS) & (self.many >= _LONG * self.few)
        if (long & ~at_once).any() and _cost_range(self.problem) > _SLOW * _lowest(self.problem.eps):
            return at_once | long
        return at_once

    def _back_end(self, newton: bool) -> BackEnd:
        """Choose compiled code where it is there, for float64 on a CPU and sizes that it can hold."""
        problem, geometry = self.problem, self.problem.geometry
        if not (core.COMPILED and problem.a.is_cpu and problem.a.dtype == torch.float64):
            return InTorch()
        entries = int((self.few * self.many).max())
        if newton:
            fits = entries <= _NEWTON_ENTRIES and int(self.few.max()) <= FACTORISED
        else:
            n, m = geometry.shape
            fits = n <= LARGEST_GRID if isinstance(geometry, Grid) else n * m <= MOST_ENTRIES
        return Compiled() if fits else InTorch()


def _support_sizes(weights: Float[Tensor, "batch n"]) -> np.ndarray:
    """Count the atoms with mass that counts."""
    if weights.is_cpu and len(weights) == 1:
        return np.array([np.count_nonzero(weights.detach().numpy() >= SMALLEST_WEIGHT)])
    return (weights >= SMALLEST_WEIGHT).sum(-1).numpy(force=True)


def _axis_work(problem: Problem) -> float:
    """Return the multiplications of a product along the axes of a grid; without axes, those with a matrix."""
    geometry = problem.geometry
    if isinstance(geometry, Grid) and len(geometry.sizes) > 1:
        return float(geometry.shape[0] * sum(geometry.sizes))
    return math.inf


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
    return float(finite.max() - finite.min()) if len(finite) else 0.0
