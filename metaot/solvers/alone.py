"""One problem at a time on the CPU: the atoms with mass go to `metaot.single`, potentials of all atoms come back."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot import single
from metaot.geometry import Eps
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.single import AxesKernel, Refinement
from metaot.solvers.iterate import Solver
from metaot.solvers.newton import FACTORISED, Newton
from metaot.solvers.refine import Refined
from metaot.solvers.sinkhorn import Sinkhorn

PATIENCE = 300
"""Sinkhorn steps before Newton takes over."""

_LARGEST_GRID = 4096
"""Atoms of the largest grid on which calls take longer than the arithmetic."""

_NEWTON_STEPS = 16.0
"""Steps that Newton is thought to need where Sinkhorn could go on."""


def refine_alone(
    problem: Problem, guess: DualPotentials | None, solver: Solver | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine the one problem of a batch by a method, or by Sinkhorn and then Newton; tell who took part."""
    kernel = problem.geometry.axis_kernels(float(problem.eps), single.LARGEST)
    if kernel is None or isinstance(solver, Newton) or problem.a.shape[-1] > _LARGEST_GRID:
        return _on_support(problem, guess, solver, tol, max_steps)
    patience = min(PATIENCE, max_steps) if solver is None else max_steps
    sinkhorn = solver if isinstance(solver, Sinkhorn) else Sinkhorn()
    result = _on_axes(problem, guess, kernel, sinkhorn, tol, patience)
    left = max_steps - int(result.steps)
    if solver is not None or left == 0 or not float(result.error) > tol:
        return result, (sinkhorn,)
    more, others = _on_support(problem, result.potentials, None, tol, left)
    return replace(more, steps=more.steps + result.steps), tuple(dict.fromkeys((sinkhorn, *others)))


def _on_axes(
    problem: Problem, guess: DualPotentials | None, kernel: AxesKernel, solver: Sinkhorn, tol: float, max_steps: int
) -> Refined:
    a, b, eps = problem.a[0].numpy(), problem.b[0].numpy(), float(problem.eps)
    f = None if guess is None else guess.f[0].numpy() / eps
    result = single.sinkhorn_on_axes(kernel, a, b, f, tol=tol, max_steps=max_steps, relaxed=solver.relaxed)
    f, g = (torch.from_numpy(potential * eps)[None] for potential in (result.f, result.g))
    return Refined(DualPotentials(f, g), f.new_tensor([result.error]), torch.tensor([result.steps]))


def _on_support(
    problem: Problem, guess: DualPotentials | None, solver: Solver | None, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine on the atoms with mass; the smaller side is the unknown."""
    rows, columns = problem.a[0].nonzero()[:, 0], problem.b[0].nonzero()[:, 0]
    a, b = problem.a[0][rows].numpy(), problem.b[0][columns].numpy()
    eps = float(problem.eps)
    C = problem.geometry.cost_block(rows[None], columns[None])[0].numpy() / eps
    f = None if guess is None else guess.f[0][rows].numpy() / eps
    if len(rows) > len(columns):
        f = None if f is None else single.c_transform(C, a, f - f @ a)
        result, solvers = _refined(C.T, b, a, f, solver, tol, max_steps)
        return _everywhere(problem.T, columns, rows, result).T, solvers
    result, solvers = _refined(C, a, b, f, solver, tol, max_steps)
    return _everywhere(problem, rows, columns, result), solvers


def _refined(
    C: np.ndarray, a: np.ndarray, b: np.ndarray, f: np.ndarray | None, solver: Solver | None, tol: float, max_steps: int
) -> tuple[Refinement, tuple[Solver, ...]]:
    start = single.better_start(C, a, b, f)
    if isinstance(solver, Newton):
        return single.newton(C, a, b, start, tol=tol, max_steps=max_steps), (solver,)
    if isinstance(solver, Sinkhorn):
        result = single.sinkhorn(C, a, b, start, tol=tol, max_steps=max_steps, relaxed=solver.relaxed)
        return result, (solver,)
    suited = len(a) <= FACTORISED
    patience = min(PATIENCE, max_steps) if suited else max_steps
    ahead = _newton_in_steps(*C.shape) if suited else math.inf
    result = single.sinkhorn(C, a, b, start, tol=tol, max_steps=patience, most_ahead=ahead)
    left = max_steps - result.steps
    if not (suited and result.error > tol and left > 0):
        return result, (Sinkhorn(),)
    more = single.newton(C, a, b, result.f, tol=tol, max_steps=left)
    return replace(more, steps=more.steps + result.steps), (Sinkhorn(), Newton())


def _newton_in_steps(k: int, l: int) -> float:
    """Return the Sinkhorn steps that take the time of the few Newton steps after which the problem is solved.

    Microseconds measured on one core of 2.6 GHz; only their ratio counts.
    """
    sinkhorn = 12 + 3e-4 * k * l
    newton = 150 + 0.012 * k * l + 1e-4 * k * k * l
    return _NEWTON_STEPS * newton / sinkhorn


def _everywhere(problem: Problem, rows: Tensor, columns: Tensor, result: Refinement) -> Refined:
    """Continue f, known on the atoms with mass, by the best g and to all atoms; measure the error on the whole.

    As `refine.completed`, with as few calls.
    """
    f = torch.from_numpy(result.f) * float(problem.eps)
    g = problem.geometry.T.softmin(_tilted(problem.a, rows, f, problem.eps), problem.eps)
    best = problem.geometry.softmin(_tilted(problem.b, columns, g[0, columns], problem.eps), problem.eps)
    a = problem.a[0, rows]
    missing = a * ((f - best[0, rows]) / problem.eps).exp() - a
    best[0, rows] = f
    error = torch.linalg.vector_norm(missing, 1).reshape(1)
    return Refined(DualPotentials(best, g), error, torch.tensor([result.steps]))


def _tilted(weights: Float[Tensor, "1 n"], atoms: Tensor, f: Float[Tensor, "k"], eps: Eps) -> Float[Tensor, "1 n"]:
    """Return f + eps log(weights), -inf where there is no mass."""
    h = torch.full_like(weights, -math.inf)
    h[0, atoms] = f + weights[0, atoms].log() * eps
    return h
