"""Where a barycenter starts: potentials, what predicts them, or those between all pairs of the measures.

Where maps between measures commute, as on a line, the map from one of them to the barycenter is the mean of its
maps to all of them: f_k = sum_j w_j f_kj, with f_kj the potential of the plan from measure k to measure j.
Elsewhere that is a start, for every row of weights.

A large grid is solved coarse to fine, as `metaot.solvers.levels` says: the potentials of the barycenter on a
coarser grid lead to those on the finer one.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import wrong
from metaot.averages.problem import BarycenterProblem, Measures
from metaot.averages.solver import Averaged, Averaging, averaged, flat_start
from metaot.core.method import coarser_grids
from metaot.geometry import Grid
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Symmetric, solve
from metaot.solvers.hierarchy import COARSE_STEPS, COARSEST, RATIO
from metaot.solvers.levels import levels_of
from metaot.solvers.start import PotentialPredictor, warm_start

_ROUGH = 1e-2
"""L1 error of the plans between pairs."""

_LARGE = 2**13
"""Points of the smallest grid on which a barycenter begins on coarser ones."""

_MORE = 2
"""How many times as many pairs as measures of all rows are predicted at most."""


def start_from(
    problem: BarycenterProblem, given: Measures, init: object, solver: Averaging, tol: float
) -> Averaged | None:
    """Return the state to start from; None for zeros.

    Without `init`, pairs are solved where there are at least as many rows of weights as measures, and else coarser
    grids of large ones.
    """
    k, n = given.measures.shape[-2:]
    rows = len(problem.weights)
    if init is None:
        if given.shared and rows >= k > 1:
            return flat_start(problem, _from_pairs(problem, None))
        return _from_coarser_grids(problem, solver, tol)
    if isinstance(init, PotentialPredictor) or hasattr(init, "warm_start"):
        pairs = given.shared and k > 1 and k - 1 <= 2 * _MORE * rows
        f = _from_pairs(problem, init) if pairs else _from_mean(problem, init)
        return flat_start(problem, f)
    found = getattr(init, "potentials", init)
    pair = DualPotentials(*found) if isinstance(found, list | tuple) and len(found) == 2 else found
    if not isinstance(pair, DualPotentials):
        raise wrong("init", "a Barycenter, potentials (f, g) of *batch k n, or what predicts them", init)
    try:
        f = pair.f.to(problem.measures)
        f = torch.where(f.isfinite().all(-1, keepdim=True), f, 0.0).expand(given.measures.shape)
    except RuntimeError as error:
        shapes = f"{tuple(pair.f.shape)}, the measures {tuple(given.measures.shape)}"
        raise ValueError(f"init.f has the shape {shapes}") from error
    return flat_start(problem, f.reshape(-1, k, n) / problem.eps)


def _from_pairs(problem: BarycenterProblem, predictor: object | None) -> Float[Tensor, "batch k n"]:
    """Return the mean of the potentials from each measure to all of them, in units of eps."""
    a, geometry, eps = problem.measures[0], problem.geometry, problem.eps
    i, j = torch.triu_indices(len(a), len(a), 1, device=a.device)
    between = Problem.trusted(a[i], a[j], geometry, eps)
    if predictor is None:
        potentials = solve(between, tol=_ROUGH).potentials
    else:
        potentials = DualPotentials.from_f(between, warm_start(between, predictor))
    f = a.new_zeros(len(a), *a.shape)
    f[i, j], f[j, i] = potentials.f, potentials.g
    own = solve(Problem.trusted(a, a, geometry, eps), solver=Symmetric(), tol=_ROUGH).potentials.f
    f.diagonal().copy_(own.T)
    return torch.einsum("rj,kjn->rkn", problem.weights, f) / eps


def _from_coarser_grids(problem: BarycenterProblem, solver: Averaging, tol: float) -> Averaged | None:
    """Solve coarser grids, the coarsest one first; None where there are none, or the grid is small."""
    grid, (rows, k, n) = problem.geometry, problem.measures.shape
    strides = coarser_grids(grid.details, problem.eps) if isinstance(grid, Grid) and n >= _LARGE else ()
    if rows == 0 or not strides:
        return None
    measures = problem.measures.flatten(0, 1)
    levels = levels_of(Problem.trusted(measures, measures, grid, problem.eps), strides)
    problems = [problem]
    for level in levels:
        coarse = level.problem.a.reshape(rows, k, -1)
        problems.append(BarycenterProblem.of(coarse, problem.weights, level.problem.geometry, problem.eps))
    guess: Averaged | None = None
    for down in range(len(levels), 0, -1):
        enough = max(tol, COARSEST / RATIO ** (len(levels) - down))
        state, _ = averaged(problems[down], solver, guess, tol=enough, max_steps=COARSE_STEPS)
        alpha = state.log_alpha.softmax(-1).repeat_interleave(k, 0)
        f = levels[down - 1].lifted(problem.eps * state.g.flatten(0, 1), alpha) / problem.eps
        guess = flat_start(problems[down - 1], f.reshape(rows, k, -1))
    return guess


def _from_mean(problem: BarycenterProblem, predictor: object) -> Float[Tensor, "batch k n"]:
    """Return what is predicted between the measures and their linear mean, in units of eps."""
    mean = (problem.weights[..., None] * problem.measures).sum(1, keepdim=True).expand_as(problem.measures)
    a, b = problem.measures.flatten(0, 1), mean.flatten(0, 1)
    f = warm_start(Problem.trusted(a, b, problem.geometry, problem.eps), predictor)
    return f.reshape(problem.measures.shape) / problem.eps
