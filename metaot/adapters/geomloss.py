"""GeomLoss (kernel-operations.io/geomloss): its result objects, from solutions that started at a prediction.

No function of GeomLoss 0.3 takes a start: `geomloss.ot.solve` and the older `SamplesLoss` begin with a large eps,
which erases even a start that is hidden in the costs, as C - f - g. So `metaot.solve` does the work, and returns
an object of GeomLoss, with `plan`, `value`, `potential_a`, `marginal_a` ... Its potentials are in metaot's
convention.
"""

from typing import Any

import torch

from metaot.adapters.support import Init, library
from metaot.problem import Problem, require_balanced
from metaot.solvers import solve as refine
from metaot.solvers.solution import Solution


def solve(problem: Problem, *, init: Init | None = None, tol: float = 1e-6, max_steps: int = 10_000) -> Any:
    """Return a result of `geomloss.ot.solve` (a batch: `solve_batch`), computed by `metaot.solve` from `init`."""
    return result(refine(problem, init=init, tol=tol, max_steps=max_steps))


def result(solution: Solution) -> Any:
    """Return a solution as GeomLoss's `OTResultMatrix`; costs are made dense, and eps must be one number.

    GeomLoss makes the object in one iteration; then its potentials are replaced by those of the solution.
    """
    problem, potentials = require_balanced(solution.problem, "GeomLoss's result"), solution.potentials
    if isinstance(problem.eps, torch.Tensor):
        raise ValueError(f"GeomLoss has one eps for a batch, got {problem.eps.tolist()}: solve in groups")
    ot, (n, m), count = library("geomloss.ot", "peers"), problem.geometry.shape, problem.batch_shape.numel()
    C = problem.geometry.cost_rows(slice(None)).to(problem.a)
    if not problem.batch_shape:
        empty = ot.solve(C, reg=problem.eps, a=problem.a, b=problem.b, max_iter=1)
    else:
        costs = C.expand(*problem.batch_shape, n, m).reshape(count, n, m)
        a, b = problem.a.reshape(count, n), problem.b.reshape(count, m)
        empty = ot.solve_batch(costs, reg=problem.eps, a=a, b=b, max_iter=1)
    f, g = potentials.f.reshape(count, n), potentials.g.reshape(count, m)
    empty._potentials = empty._potentials._replace(f_ba=f, g_ab=g)
    return empty
