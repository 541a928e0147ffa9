"""Torch as a back end: any device, dtype and size; on the atoms with mass where that pays."""

import math
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.core.method import FACTORISED, BackEnd, Index, Result
from metaot.geometry import Grid
from metaot.geometry.base import expand_eps
from metaot.objectives.dual import linear_value
from metaot.potentials import DualPotentials, c_transform, centred, exact_marginal_error, tilted
from metaot.problem import Problem
from metaot.solvers.iterate import Solver, StateT, iterate
from metaot.solvers.newton import Newton
from metaot.solvers.sinkhorn import Sinkhorn
from metaot.solvers.support import Support

GOOD = 0.01
"""L1 error of a start up to which it is taken without comparison."""

DOUBTFUL = 0.1
"""L1 error of a start above which it must beat two steps from zeros by dual value, and halve the error of one."""

LARGEST = 1e8
"""Potentials beyond this many eps leave too few digits for the cost."""

_BLOCK = 2**22
"""Entries of the plans that Newton holds at once."""


@final
class InTorch(BackEnd):
    """A flat batch of problems, and the solvers of this package, iterated by the one loop."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        sizes = [weights.count_nonzero(-1).numpy(force=True) for weights in (problem.a, problem.b)]
        self.sizes = list(zip(np.minimum(*sizes).tolist(), np.maximum(*sizes).tolist(), strict=True))
        self._exchanged, geometry, eps = sizes[0] > sizes[1], problem.geometry, problem.eps
        self.axis_points = math.inf
        if isinstance(geometry, Grid) and len(geometry.sizes) > 1:
            self.axis_points = float(sum(geometry.sizes))
        self.lowest_eps = float(eps.min()) if isinstance(eps, Tensor) else eps

    @property
    def cost_range(self) -> float:
        geometry = self.problem.geometry
        if isinstance(geometry, Grid):
            return sum(float(cost.max() - cost.min()) for cost in geometry.axis_costs)
        n = geometry.shape[0]
        rows = [geometry.cost_rows(slice(k, k + 1)) for k in range(0, n, max(1, n // 8))]
        finite = torch.cat([row[row.isfinite()] for row in rows])
        return float(finite.max() - finite.min()) if len(finite) else 0.0

    def sinkhorn(
        self,
        index: Index,
        f: Tensor | None,
        *,
        tol: float,
        max_steps: int,
        accelerated: bool = True,
        on_support: bool = False,
    ) -> Result:
        part, solver = self._part(index), Sinkhorn(accelerated)
        return refine(solver, part, f, tol=tol, max_steps=max_steps, on_support=on_support)

    def newton(self, index: Index, f: Tensor | None, *, tol: float, max_steps: int, warmer: float = 1.0) -> Result:
        problem, limits = self._part(index), {"tol": tol, "max_steps": max_steps}
        problem = Problem.trusted(problem.a, problem.b, problem.geometry, problem.eps * warmer)
        sizes = self.sizes if isinstance(index, slice) else [self.sizes[k] for k in index]
        if max(few for few, _ in sizes) > FACTORISED:
            return refine(Newton(), problem, f, **limits, on_support=False)
        result, exchanged = no_result(problem), self._exchanged[index]
        together = max(1, _BLOCK // max(few * many for few, many in sizes))
        for side, turned in ((exchanged, True), (~exchanged, False)):
            some = side.nonzero()[0]
            for chosen in (some[k : k + together] for k in range(0, len(some), together)):
                part, start = problem[torch.from_numpy(chosen)], None if f is None else f[chosen]
                if turned:
                    start, part = None if start is None else c_transform(part, start), part.T
                found = refine(Newton(), part, start, **limits, on_support=True)
                result.update(chosen, Result(found.g, found.f, found.error, found.steps) if turned else found)
        return result

    def no_result(self) -> Result:
        return no_result(self.problem)

    def numbers(self, values: Tensor) -> np.ndarray:
        return values.numpy(force=True)

    def _part(self, index: Index) -> Problem:
        return self.problem if isinstance(index, slice) else self.problem[torch.from_numpy(index)]


def no_result(problem: Problem) -> Result:
    """Return room for results: zeros, of no steps, with an infinite error."""
    error = problem.a.new_full((len(problem.a),), torch.inf)
    steps = torch.zeros_like(error, dtype=torch.int64)
    return Result(torch.zeros_like(problem.a), torch.zeros_like(problem.b), error, steps)


def refine(
    solver: Solver,
    problem: Problem,
    f: Float[Tensor, "batch n"] | None,
    *,
    tol: float,
    max_steps: int,
    on_support: bool,
) -> Result:
    """Refine f by one method: on the atoms with mass, or on all."""
    guess = None if f is None else DualPotentials(f, problem.b.new_zeros(1).expand_as(problem.b))
    if not on_support:
        result = iterate(solver, problem, _start(solver, problem, guess), tol=tol, max_steps=max_steps)
        return completed(problem, result.value.f, result.steps)
    support = Support.of(problem)
    guess = None if guess is None else support.gathered(problem, guess)
    state = _start(solver, support.problem, guess)
    result = iterate(solver, support.problem, state, tol=tol, max_steps=max_steps)
    return completed(problem, support.spread(problem, result.value.f), result.steps)


def completed(problem: Problem, f: Float[Tensor, "batch n"], steps: Int[Tensor, "batch"]) -> Result:
    """Continue f, known on the atoms with mass, by the best g and to all atoms; measure the error in float64.

    The error is that of the source's marginal; the target's is exact, up to the dtype.
    """
    g = c_transform(problem, f)
    best = c_transform(problem.T, g)
    whole = torch.where(problem.a != 0, f, best)
    if problem.a.dtype != torch.float64:
        return Result(whole, g, exact_marginal_error(problem, DualPotentials(whole, g)).to(f), steps)
    marginal = tilted(problem.a, (f - best) / expand_eps(problem.eps, f))
    return Result(whole, g, torch.linalg.vector_norm(marginal - problem.a, 1, -1), steps)


def _start(
    solver: Solver[Problem, StateT, DualPotentials], problem: Problem, guess: DualPotentials | None
) -> StateT:
    """Return the state of a guess, or of zeros where these are the better start."""
    if guess is None:
        return solver.init(problem, None)
    guess = DualPotentials(_reasonable(problem, centred(problem.a, guess.f)), guess.g)
    state = solver.init(problem, guess)
    worse = worse_than_zeros(problem, solver.value(problem, state, slice(None)), solver.error(problem, state))
    if not bool(worse.any()):
        return state
    return solver.init(problem, DualPotentials(torch.where(worse[:, None], 0.0, guess.f), guess.g))


def worse_than_zeros(
    problem: Problem, start: DualPotentials, error: Float[Tensor, "batch"]
) -> Bool[Tensor, "batch"]:
    """Return which starts are worse than f = 0.

    A start with a small error is not. Others are where their dual value is below that of zeros, and doubtful ones
    where they are not clearly better than the first steps from zeros.
    """
    if bool((error <= GOOD).all()):
        return torch.zeros_like(error, dtype=torch.bool)
    value = linear_value(problem, start)
    zeros = DualPotentials.from_f(problem, torch.zeros_like(start.f))
    worse = ~(value >= linear_value(problem, zeros)) & ~(error <= GOOD)
    doubtful = ~(error <= DOUBTFUL)
    if bool(doubtful.any()):
        f = c_transform(problem.T, zeros.g)
        first = DualPotentials.from_f(problem, f)
        f = c_transform(problem.T, first.g)
        second = DualPotentials(f, first.g)
        missing = tilted(problem.a, (first.f - f) / expand_eps(problem.eps, f)) - problem.a
        rival = torch.linalg.vector_norm(missing, 1, -1)
        worse |= doubtful & ~((value >= linear_value(problem, second)) & (error <= 0.5 * rival))
    return worse


def _reasonable(problem: Problem, f: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Replace potentials by zeros where they are huge or not finite."""
    size = torch.where(problem.a != 0, f, 0.0).abs().amax(-1, keepdim=True)
    good = (size <= LARGEST * expand_eps(problem.eps, f)) & f.isfinite().all(-1, keepdim=True)
    return torch.where(good, f, 0.0)
