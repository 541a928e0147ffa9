"""One problem at a time on the CPU: to `metaot.single` and back, with potentials on all atoms."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final, overload

import numpy as np
import torch
from torch import Tensor

from metaot import single
from metaot.geometry import Eps, Geometry
from metaot.problem import Problem
from metaot.single import AxesKernel, DenseProblem, Kernels, Refined, Refinement
from metaot.single.choose import PATIENCE
from metaot.single.plan import Array, distance
from metaot.solvers.iterate import Solver
from metaot.solvers.newton import Newton
from metaot.solvers.sinkhorn import Sinkhorn

ROUNDS = 3
"""Times that a method may set out where the error of the potentials themselves is not small enough afterwards."""

_LARGEST_GRID = 2**17
"""Atoms of the largest grid on which numpy, with one thread but for products, is quicker than torch."""


@final
@dataclass(frozen=True)
class Alone:
    """A problem without a batch, its weights in numpy; potentials are in the units of the cost."""

    a: Array
    b: Array
    geometry: Geometry
    eps: float

    @classmethod
    def of(cls, problem: Problem) -> "Alone":
        """Take the one problem of a batch."""
        a, b = problem.a.detach().numpy(), problem.b.detach().numpy()
        return cls(a.reshape(-1), b.reshape(-1), problem.geometry, float(problem.eps))

    @classmethod
    def each(cls, problem: Problem) -> "Iterator[Alone]":
        """Take the problems of a batch, one after the other."""
        a, b, eps = problem.a.detach().numpy(), problem.b.detach().numpy(), problem.eps
        temperatures = eps.tolist() if isinstance(eps, Tensor) else [eps] * len(a)
        for k, one in enumerate(temperatures):
            yield cls(a[k], b[k], problem.geometry[k], one)

    @property
    def T(self) -> "Alone":
        """The same problem with source and target exchanged."""
        return Alone(self.b, self.a, self.geometry.T, self.eps)


@np.errstate(all="ignore")
def refine_alone(
    problem: Alone, f: Array | None, solver: Solver | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine a start by a method, or by Sinkhorn and then Newton; tell who took part."""
    result, taken = _set_out(problem, f, solver, tol=tol, max_steps=max_steps)
    for _ in range(ROUNDS - 1):
        left = max_steps - result.steps
        if not result.error > tol or left <= 0:
            break
        more, others = _set_out(problem, result.f, solver, tol=tol, max_steps=left)
        result, taken = _after(result, more), tuple(dict.fromkeys((*taken, *others)))
    return result, taken


def _after(result: Refined, more: Refined) -> Refined:
    return replace(more, steps=result.steps + more.steps)


def _set_out(
    problem: Alone, f: Array | None, solver: Solver | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    kernel = None if isinstance(solver, Newton) else small_kernel(problem.geometry, problem.eps)
    if kernel is None:
        return _on_support(problem, f, solver, tol=tol, max_steps=max_steps)
    patience = min(PATIENCE, max_steps) if solver is None else max_steps
    sinkhorn = solver if isinstance(solver, Sinkhorn) else Sinkhorn()
    result = _on_axes(problem, f, kernel, solver, tol=tol, max_steps=patience)
    if result is None:
        return _on_support(problem, f, solver, tol=tol, max_steps=max_steps)
    left = max_steps - result.steps
    if solver is not None or left == 0 or not result.error > tol:
        return result, (sinkhorn,)
    more, others = _on_support(problem, result.f, None, tol=tol, max_steps=left)
    return _after(result, more), tuple(dict.fromkeys((sinkhorn, *others)))


@overload
def small_kernel(geometry: Geometry, eps: float) -> AxesKernel | None: ...


@overload
def small_kernel(geometry: Geometry, eps: Eps) -> Kernels | None: ...


def small_kernel(geometry: Geometry, eps: Eps) -> Kernels | None:
    """Return the kernel of a grid that is small, or one for each eps, where products with it are worth trying."""
    return geometry.axis_kernels(eps, single.LARGEST) if geometry.shape[0] <= _LARGEST_GRID else None


def _on_axes(
    problem: Alone, f: Array | None, kernel: AxesKernel, solver: Solver | None, *, tol: float, max_steps: int
) -> Refined | None:
    """Refine on a whole grid, until Newton would be sooner there; None where numbers leave floating point."""
    eps, start = problem.eps, None if f is None else f / problem.eps
    if isinstance(solver, Sinkhorn) and not solver.accelerated:
        mine = single.AxesProblem(kernel, problem.a, problem.b)
        result = single.sinkhorn_on_axes(mine, start, tol=tol, max_steps=max_steps, accelerated=False)
    else:
        result = single.sinkhorn_on_grid(
            kernel, problem.a, problem.b, start, tol=tol, max_steps=max_steps, before_newton=solver is None
        )
    return None if result is None else replace(result, f=result.f * eps, g=result.g * eps)


def _on_support(
    problem: Alone, f: Array | None, solver: Solver | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine on the atoms with mass; the smaller side is the unknown, where Newton alone is to be used."""
    i, j, eps = problem.a.nonzero()[0], problem.b.nonzero()[0], problem.eps
    C = _block(problem.geometry, i, j)
    C /= eps
    mine = DenseProblem(C, problem.a[i], problem.b[j])
    start = None if f is None else f[i] / eps
    if len(i) <= len(j) or isinstance(solver, Sinkhorn) or (solver is None and not single.is_sharp(mine.T)):
        result, solvers = _refined(mine, start, solver, tol=tol, max_steps=max_steps)
        return _everywhere(problem, i, j, result), solvers
    start = None if start is None else mine.best_g(start - start @ mine.a)
    result, solvers = _refined(mine.T, start, solver, tol=tol, max_steps=max_steps)
    return _everywhere(problem.T, j, i, result).T, solvers


def _block(geometry: Geometry, rows: Array, columns: Array) -> Array:
    """Return a copy of the costs at these rows and columns."""
    return geometry.cost_block(torch.from_numpy(rows)[None], torch.from_numpy(columns)[None])[0].detach().numpy()


def _refined(
    problem: DenseProblem, f: Array | None, solver: Solver | None, *, tol: float, max_steps: int
) -> tuple[Refinement, tuple[Solver, ...]]:
    if isinstance(solver, Newton):
        start, _ = single.better_start(problem, f)
        return single.newton(problem, start, tol=tol, max_steps=max_steps), (solver,)
    if isinstance(solver, Sinkhorn):
        start, plan = single.better_start(problem, f)
        result = single.sinkhorn(
            problem, start, tol=tol, max_steps=max_steps, plan=plan, accelerated=solver.accelerated
        )
        return result, (solver,)
    if single.is_sharp(problem):
        return single.sharp_newton(problem, f, tol=tol, max_steps=max_steps), (Newton(),)
    result, newton = single.refine(problem, f, tol=tol, max_steps=max_steps)
    return result, (Sinkhorn(), Newton()) if newton else (Sinkhorn(),)


def _everywhere(problem: Alone, i: Array, j: Array, result: Refinement) -> Refined:
    """Continue f, known on the atoms with mass, by the best g and to all atoms; measure the error on the whole.

    As `refine.completed`, with as few calls. Where all target atoms have mass and the best g is known with the
    error, only source atoms without mass are left.
    """
    eps, f, mass = problem.eps, result.f * problem.eps, problem.a[i]
    if result.g is not None and len(j) == len(problem.b):
        best = np.empty_like(problem.a)
        best[i], others = f, (problem.a == 0).nonzero()[0]
        best[others] = single.best_of_rows(_block(problem.geometry, others, j), result.g, problem.b, eps)
        return Refined(best, result.g * eps, result.error, result.steps)
    g = _continued(problem.geometry.T, problem.a, i, f, eps)
    best = _continued(problem.geometry, problem.b, j, g[j], eps)
    error = distance(mass * np.exp((f - best[i]) / eps), mass)
    best[i] = f
    return Refined(best, g, error, result.steps)


def _continued(geometry: Geometry, weights: Array, atoms: Array, f: Array, eps: float) -> Array:
    """Return the best potential on all atoms of a side for f, known on the atoms of the other that have mass."""
    h = np.full_like(weights, -math.inf)
    h[atoms] = f + np.log(weights[atoms]) * eps
    return geometry.softmin_alone(h, eps)
