"""What `solve` does when it is not told: Sinkhorn, then Newton for the instances that Sinkhorn leaves unfinished.

A good start needs a few cheap steps of the first; the slow linear tail is for the second, as long as the smaller
side has few atoms with mass.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers.iterate import Solver, iterate
from metaot.solvers.newton import Newton
from metaot.solvers.sinkhorn import Sinkhorn

PATIENCE = 100
"""Sinkhorn steps before Newton takes over."""

ATOMS = 1024
"""Atoms with mass on the smaller side, up to which Newton takes over."""

_BLOCK = 2**22
"""Entries of the plans that Newton holds at once: a few hundred MiB in all."""


@final
@dataclass(frozen=True)
class Refined:
    """Potentials of a flat batch, and for each instance its error, whether it converged, and its steps."""

    potentials: DualPotentials
    error: Float[Tensor, "batch"]
    converged: Bool[Tensor, "batch"]
    steps: Int[Tensor, "batch"]


def refine(
    solver: Solver, problem: Problem, guess: DualPotentials | None, *, tol: float, max_steps: int
) -> Refined:
    """Refine a guess by one method."""
    result = iterate(solver, problem, solver.init(problem, guess), tol=tol, max_steps=max_steps)
    return Refined(solver.value(problem, result.state), result.error, result.converged, result.steps)


def refine_by_choice(
    problem: Problem, guess: DualPotentials | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine a guess by Sinkhorn, and go on with Newton where that is the better; return who took part."""
    sizes = torch.stack([(problem.a != 0).sum(-1), (problem.b != 0).sum(-1)])
    suited = sizes.amin(0) <= ATOMS
    patience = min(PATIENCE, max_steps) if bool(suited.any()) else max_steps
    result = refine(Sinkhorn(), problem, guess, tol=tol, max_steps=patience)
    left = ~result.converged
    if patience == max_steps or not bool(left.any()):
        return result, (Sinkhorn(),)
    block = max(1, _BLOCK // int(sizes[:, left].amax(1).prod()))
    rounds: list[tuple[Solver, Tensor]] = [(Sinkhorn(), (left & ~suited).nonzero()[:, 0])]
    rounds += [(Newton(), index) for index in (left & suited).nonzero()[:, 0].split(block)]
    for solver, index in rounds:
        if len(index):
            more = refine(
                solver, problem[index], result.potentials[index], tol=tol, max_steps=max_steps - patience
            )
            _put(result, index, more)
    return result, (Sinkhorn(), Newton())


def _put(result: Refined, index: Tensor, more: Refined) -> None:
    """Write what became of some instances into the result of all."""
    result.potentials.f[index], result.potentials.g[index] = more.potentials.f, more.potentials.g
    result.error[index], result.converged[index] = more.error, more.converged
    result.steps[index] += more.steps
