"""One problem at a time on the CPU: to `metaot.single` and back, with potentials on all atoms."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot import single
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.single import AxesKernel, DenseProblem, Refinement
from metaot.single.plan import distance
from metaot.solvers.iterate import Solver
from metaot.solvers.newton import FACTORISED, Newton
from metaot.solvers.refine import Refined
from metaot.solvers.sinkhorn import Sinkhorn

PATIENCE = 300
"""Sinkhorn steps before Newton takes over."""

_LARGEST_GRID = 4096
"""Atoms of the largest grid on which calls take longer than the arithmetic."""

_NEWTON_STEPS = 16.0
"""Steps of Newton that must be cheaper than what is ahead of Sinkhorn: three are needed, in colder caches."""


@np.errstate(all="ignore")
def refine_alone(
    problem: Problem, guess: DualPotentials | None, solver: Solver | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine the one problem of a batch by a method, or by Sinkhorn and then Newton; tell who took part."""
    kernel = problem.geometry.axis_kernels(float(problem.eps), single.LARGEST)
    if kernel is None or isinstance(solver, Newton) or problem.a.shape[-1] > _LARGEST_GRID:
        return _on_support(problem, guess, solver, tol=tol, max_steps=max_steps)
    patience = min(PATIENCE, max_steps) if solver is None else max_steps
    sinkhorn = solver if isinstance(solver, Sinkhorn) else Sinkhorn()
    result = _on_axes(problem, guess, kernel, sinkhorn, tol=tol, max_steps=patience)
    left = max_steps - int(result.steps)
    if solver is not None or left == 0 or not float(result.error) > tol:
        return result, (sinkhorn,)
    more, others = _on_support(problem, result.potentials, None, tol=tol, max_steps=left)
    return replace(more, steps=more.steps + result.steps), tuple(dict.fromkeys((sinkhorn, *others)))


def _on_axes(
    problem: Problem,
    guess: DualPotentials | None,
    kernel: AxesKernel,
    solver: Sinkhorn,
    *,
    tol: float,
    max_steps: int,
) -> Refined:
    """Refine on the whole of a grid."""
    eps = float(problem.eps)
    mine = single.AxesProblem(kernel, problem.a[0].numpy(), problem.b[0].numpy())
    f = None if guess is None else guess.f[0].numpy() / eps
    result = single.sinkhorn_on_axes(mine, f, tol=tol, max_steps=max_steps, relaxed=solver.relaxed)
    f, g = (torch.from_numpy(potential * eps)[None] for potential in (result.f, result.g))
    return Refined(DualPotentials(f, g), f.new_tensor([result.error]), torch.tensor([result.steps]))


def _on_support(
    problem: Problem, guess: DualPotentials | None, solver: Solver | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine on the atoms with mass; the smaller side is the unknown, where Newton may take part."""
    rows, columns = problem.a[0].nonzero()[:, 0], problem.b[0].nonzero()[:, 0]
    eps = float(problem.eps)
    C = problem.geometry.cost_block(rows[None], columns[None])[0].numpy() / eps
    mine = DenseProblem(C, problem.a[0][rows].numpy(), problem.b[0][columns].numpy())
    f = None if guess is None else guess.f[0][rows].numpy() / eps
    if len(rows) <= len(columns) or isinstance(solver, Sinkhorn):
        result, solvers = _refined(mine, f, solver, tol=tol, max_steps=max_steps)
        return _everywhere(problem, rows, columns, result), solvers
    f = None if f is None else mine.best_g(f - f @ mine.a)
    result, solvers = _refined(mine.T, f, solver, tol=tol, max_steps=max_steps)
    return _everywhere(problem.T, columns, rows, result).T, solvers


def _refined(
    problem: DenseProblem, f: np.ndarray | None, solver: Solver | None, *, tol: float, max_steps: int
) -> tuple[Refinement, tuple[Solver, ...]]:
    start, plan = single.better_start(problem, f)
    if isinstance(solver, Newton):
        return single.newton(problem, start, tol=tol, max_steps=max_steps), (solver,)
    if isinstance(solver, Sinkhorn):
        result = single.sinkhorn(problem, start, tol=tol, max_steps=max_steps, plan=plan, relaxed=solver.relaxed)
        return result, (solver,)
    suited = len(problem.a) <= FACTORISED
    patience = min(PATIENCE, max_steps) if suited else max_steps
    ahead = _newton_in_steps(*problem.C.shape) if suited else math.inf
    result = single.sinkhorn(problem, start, tol=tol, max_steps=patience, plan=plan, most_ahead=ahead)
    left = max_steps - result.steps
    if not (suited and result.error > tol and left > 0):
        return result, (Sinkhorn(),)
    more = single.newton(problem, result.f, tol=tol, max_steps=left)
    return replace(more, steps=more.steps + result.steps), (Sinkhorn(), Newton())


def _newton_in_steps(k: int, l: int) -> float:
    """Return the Sinkhorn steps that take the time of the few Newton steps after which the problem is solved.

    In microseconds, measured on one core of 2.6 GHz; only their ratio counts.
    """
    sinkhorn = 12 + 3e-4 * k * l
    newton = 150 + 0.012 * k * l + 1e-4 * k * k * l
    return _NEWTON_STEPS * newton / sinkhorn


def _everywhere(problem: Problem, rows: Tensor, columns: Tensor, result: Refinement) -> Refined:
    """Continue f, known on the atoms with mass, by the best g and to all atoms; measure the error on the whole.

    As `refine.completed`, with as few calls.
    """
    eps, i, j = float(problem.eps), rows.numpy(), columns.numpy()
    f, a, b = result.f * eps, problem.a[0].numpy(), problem.b[0].numpy()
    g = problem.geometry.T.softmin(_tilted(a, i, f, eps), eps)
    best = problem.geometry.softmin(_tilted(b, j, g[0].numpy()[j], eps), eps)
    mine = best[0].numpy()
    error = distance(a[i] * np.exp((f - mine[i]) / eps), a[i])
    mine[i] = f
    return Refined(DualPotentials(best, g), g.new_tensor([error]), torch.tensor([result.steps]))


def _tilted(weights: np.ndarray, atoms: np.ndarray, f: np.ndarray, eps: float) -> Float[Tensor, "1 n"]:
    """Return f + eps log(weights), with f given at the atoms that have mass; -inf elsewhere."""
    h = np.full_like(weights, -math.inf)
    h[atoms] = f + np.log(weights[atoms]) * eps
    return torch.from_numpy(h)[None]
