"""`solve`: refine a start until each instance has converged."""

from typing import Any, Protocol, overload, runtime_checkable

import torch
from torch import Tensor

from metaot.brenier import BrenierPair, SampleProblem
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers.choose import refine_by
from metaot.solvers.iterate import Solver
from metaot.solvers.maps import MapSolution, PairPredictor, solve_map
from metaot.solvers.solution import Solution


@runtime_checkable
class PotentialPredictor(Protocol):
    """Anything that predicts potentials of a problem."""

    def predict(self, problem: Problem) -> DualPotentials:
        """Return a guess of the solution."""
        ...


@overload
def solve(
    problem: Problem,
    *,
    init: DualPotentials | PotentialPredictor | None = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> Solution: ...


@overload
def solve(
    problem: SampleProblem,
    *,
    init: BrenierPair | PairPredictor | None = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> MapSolution: ...


@torch.no_grad()
def solve(
    problem: Problem | SampleProblem,
    *,
    init: Any = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> Solution | MapSolution:
    """Solve a batch of entropic transport problems, each to an L1 marginal error of at most `tol`.

    `init` is where to start: potentials, of which f is used, or anything with `predict(problem)`. A start that
    zeros are better than, or NaN, is replaced by zeros, instance by instance: by dual value, and far from the
    solution by the first steps as well. `solver` holds the settings of a method; None makes over-relaxed Sinkhorn
    steps, and turns to Newton for instances with up to about a thousand atoms with mass on the smaller side that
    Sinkhorn would take long for. An instance that needs more than `max_steps` steps is returned as it is then,
    with `converged` false; nothing is raised. ValueError is raised for contradictory arguments.

    One small problem on a CPU, in float64, is solved in numpy; others together in torch, on their device.
    A `SampleProblem` is solved by `W2GN`: see `metaot.solvers.maps.solve_map`.
    """
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    if max_steps < 0:
        raise ValueError(f"max_steps must not be negative, got {max_steps}")
    if isinstance(problem, SampleProblem):
        return solve_map(problem, init=init, solver=solver, tol=tol, max_steps=max_steps)
    flat = problem.flat()
    guess = None if init is None else _guess(problem, init)
    result, solvers = refine_by(solver, flat, guess, tol=tol, max_steps=max_steps)
    potentials, batch = result.potentials, problem.batch_shape
    return Solution(
        problem=problem,
        potentials=DualPotentials(potentials.f.reshape(problem.a.shape), potentials.g.reshape(problem.b.shape)),
        error=result.error.reshape(batch),
        converged=(result.error <= tol).reshape(batch),
        steps=result.steps.reshape(batch),
        solvers=solvers,
    )


def _guess(problem: Problem, init: DualPotentials | PotentialPredictor) -> DualPotentials:
    """Return potentials with one batch dimension. Solvers make g themselves: a predictor may give f alone."""
    predict_f = getattr(init, "predict_f", None)
    if predict_f is not None:
        f = _fitted("f", predict_f(problem), problem.a)
        return DualPotentials(f, torch.zeros_like(problem.b).reshape(len(f), -1))
    guess = init if isinstance(init, DualPotentials) else init.predict(problem)
    return DualPotentials(
        _fitted("f", torch.as_tensor(guess.f), problem.a), _fitted("g", torch.as_tensor(guess.g), problem.b)
    )


def _fitted(name: str, potential: Tensor, weights: Tensor) -> Tensor:
    if potential.shape != weights.shape:
        raise ValueError(
            f"init.{name} has the shape {tuple(potential.shape)}, the problem's weights {tuple(weights.shape)}"
        )
    return potential.to(weights).reshape(-1, weights.shape[-1])
