"""Which method takes part, on which atoms: by size, eps and what is left to do; shown in the result."""

import torch
from jaxtyping import Int
from torch import Tensor

from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers.iterate import Solver
from metaot.solvers.newton import FACTORISED, Newton
from metaot.solvers.refine import Refined, refine
from metaot.solvers.sinkhorn import Sinkhorn

PATIENCE = 300
"""Sinkhorn steps before Newton takes over."""

_BLOCK = 2**22
"""Entries of the plans that Newton holds at once: a few hundred MiB in all."""

_ROUNDS = 3
"""Times that a method may set out again where the error of the potentials themselves is not yet small enough."""


def refine_by(
    solver: Solver, problem: Problem, guess: DualPotentials | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine a guess by one method."""
    whole = _whole(solver, problem)
    result = refine(solver, problem, guess, tol=tol, max_steps=max_steps, whole=whole)
    for _ in range(_ROUNDS - 1):
        left = _left(result, tol, max_steps)
        if len(left) == 0:
            break
        _go_on(result, solver, problem, left, tol=tol, max_steps=max_steps)
    return result, (solver,)


def refine_by_choice(
    problem: Problem, guess: DualPotentials | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine a guess by Sinkhorn, and go on with Newton where that is the better; return who took part."""
    sizes = _sizes(problem)
    suited = sizes.amin(0) <= FACTORISED
    patience = min(PATIENCE, max_steps) if bool(suited.any()) else max_steps
    result, _ = refine_by(Sinkhorn(), problem, guess, tol=tol, max_steps=patience)
    left = _left(result, tol, max_steps)
    if len(left) == 0:
        return result, (Sinkhorn(),)
    hard = left[suited[left]]
    rounds: list[tuple[Solver, Tensor]] = [(Sinkhorn(), left[~suited[left]])]
    if len(hard):
        block = max(1, _BLOCK // int(sizes[:, hard].amax(1).prod()))
        rounds += [(Newton(), index) for index in hard.split(block)] * 2
    for solver, index in rounds:
        if len(index):
            _go_on(result, solver, problem, index, tol=tol, max_steps=max_steps)
    return result, (Sinkhorn(), Newton())


def _go_on(
    result: Refined, solver: Solver, problem: Problem, index: Int[Tensor, "some"], *, tol: float, max_steps: int
) -> None:
    """Refine some instances further, as far as they are not done."""
    index = index[(result.error[index] > tol) & (result.steps[index] < max_steps)]
    if len(index):
        part, guess = problem[index], result.potentials[index]
        steps = max_steps - int(result.steps[index].max())
        result.put(index, refine(solver, part, guess, tol=tol, max_steps=steps, whole=_whole(solver, part)))


def _left(result: Refined, tol: float, max_steps: int) -> Int[Tensor, "some"]:
    """Return the instances that are not done and may go on."""
    return ((result.error > tol) & (result.steps < max_steps)).nonzero()[:, 0]


def _whole(solver: Solver, problem: Problem) -> bool:
    """Tell whether a method had better work on all atoms than on those with mass."""
    if len(problem.a) == 0:
        return True
    sizes = _sizes(problem)
    if isinstance(solver, Newton):
        return int(sizes.amin(0).max()) > FACTORISED
    return int(sizes.amax(1).prod()) >= problem.geometry.kernel_work(problem.eps)


def _sizes(problem: Problem) -> Int[Tensor, "2 batch"]:
    """Return the numbers of atoms with mass."""
    return torch.stack([(problem.a != 0).sum(-1), (problem.b != 0).sum(-1)])
