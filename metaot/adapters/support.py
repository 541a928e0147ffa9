"""One problem on its atoms with mass, in float64 and numpy, and in the convention of other libraries.

This is P = exp((F + G - C)/eps), with F = f + eps log a and G = g + eps log b, which are infinite on atoms without
mass. These atoms are left out; their potentials are computed from the others afterwards.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import require_limits
from metaot.geometry.checks import require_finite
from metaot.potentials import DualPotentials, c_transform
from metaot.problem import Problem, require_balanced, require_problem
from metaot.solvers.solution import Solution
from metaot.solvers.start import Start, guessed

Array = np.ndarray
Init = Start
"""A start, as `metaot.solve` takes it."""
Run = Callable[[Problem, DualPotentials | None], tuple[DualPotentials, float, int]]
"""What a library does with one problem and its start: the potentials, the L1 error of its plan, and its steps."""


@final
@dataclass(frozen=True)
class Support:
    """Weights and costs of one problem on its atoms with mass; `problem` is the whole problem, normalised.

    A negative least cost is subtracted from C, because POT fails with it, and added to potentials and total costs:
    it is `least`, else zero.
    """

    problem: Problem
    a: Array
    b: Array
    C: Array
    eps: float
    least: float

    @classmethod
    def of(cls, problem: Problem) -> "Support":
        """Find the atoms with mass, and the costs between them, row by row in memory."""
        a, b = problem.a, problem.b
        rows, columns = (weights.nonzero().squeeze(-1) for weights in (a, b))
        C = problem.geometry.cost_block(rows[None], columns[None])[0].to(a)
        w, v, M = (np.ascontiguousarray(z.numpy(force=True)) for z in (a[rows], b[columns], C))
        least = min(0.0, float(M.min()))
        return cls(problem, w, v, M - least, float(problem.eps), least)

    def absorbed(self, potentials: DualPotentials) -> tuple[Array, Array]:
        """Return F = f + eps log a and G = g + eps log b for the costs C, with F centred at zero."""
        f, g = potentials.f[self.problem.a > 0], potentials.g[self.problem.b > 0]
        F = f.numpy(force=True) + self.eps * np.log(self.a)
        G = g.numpy(force=True) + self.eps * np.log(self.b) - self.least
        middle = (F.max() + F.min()) / 2
        return F - middle, G + middle

    def completed(self, F: Array, G: Array) -> DualPotentials:
        """Return f and g of F and G; on atoms without mass, the c-transforms of the others."""
        f, g = F - self.eps * np.log(self.a), G - self.eps * np.log(self.b) + self.least
        return without_mass_completed(self.problem, *self.on_all_atoms(f, g))

    def on_all_atoms(self, f: Array, g: Array, without_mass: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return f and g on all atoms, with one value on those without mass."""
        a, b = self.problem.a, self.problem.b
        whole = [
            torch.full_like(weights, without_mass).masked_scatter(weights > 0, torch.as_tensor(values).to(weights))
            for values, weights in ((f, a), (g, b))
        ]
        return whole[0], whole[1]

    def plan_error(self, P: Array) -> float:
        """Return the L1 error of both marginals of a plan on the atoms with mass."""
        return float(np.abs(P.sum(1) - self.a).sum() + np.abs(P.sum(0) - self.b).sum())


def library(name: str, extra: str) -> ModuleType:
    """Import a module of another library; where that is missing, the error says what to install."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} is not installed ({error}): pip install 'metaot[{extra}]'") from error


def without_mass_completed(problem: Problem, f: Float[Tensor, "n"], g: Float[Tensor, "m"]) -> DualPotentials:
    """Return the potentials; on atoms without mass, the c-transforms of the others."""
    rows, columns = problem.a > 0, problem.b > 0
    f, g = torch.where(rows, f, 0.0), torch.where(columns, g, 0.0)
    best_f = f if bool(rows.all()) else c_transform(problem.T, g)
    best_g = g if bool(columns.all()) else c_transform(problem, f)
    return DualPotentials(torch.where(rows, f, best_f), torch.where(columns, g, best_g))


def one(problem: Problem, init: Init | None = None) -> tuple[Problem, Any]:
    """Return the only problem of a batch, normalised, without its batch dimensions, and its start."""
    if require_problem(problem).batch_shape.numel() != 1:
        raise ValueError(
            f"one problem at a time has a start, got a batch {tuple(problem.batch_shape)}: take problem[i]"
        )
    return next(each(problem, init))


def each(problem: Problem, init: Init | None) -> Iterator[tuple[Problem, DualPotentials | None]]:
    """Return the problems of a batch one by one, normalised, with their starts.

    A predictor is called once for all of them.
    """
    flat, starts = require_balanced(problem, "another library's solver").normalised().flat(), None
    if init is not None:
        guess = guessed(problem, init)
        for name, z in (("init.f", guess.f), ("init.g", guess.g)):
            require_finite(name, z)
        starts = [z.to(rows).reshape(rows.shape) for z, rows in ((guess.f, flat.a), (guess.g, flat.b))]
    for i in range(len(flat.a)):
        yield flat[i], None if starts is None else DualPotentials(starts[0][i], starts[1][i])


def solved(problem: Problem, init: Init | None, run: Run, *, tol: float, max_steps: int, solver: str) -> Solution:
    """Return the solution of a batch whose problems a library solves one after the other."""
    tol, max_steps = require_limits(tol, max_steps)
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least one, got {max_steps}")
    batch, like = require_problem(problem).batch_shape, problem.a
    found = [run(single, guess) for single, guess in each(problem, init)]
    error = torch.tensor([error for _, error, _ in found], dtype=torch.float64)
    return Solution(
        problem=problem,
        potentials=stacked(problem, [potentials for potentials, _, _ in found]),
        error=error.to(like).reshape(batch),
        converged=(error <= tol).to(like.device).reshape(batch),
        steps=torch.tensor([steps for *_, steps in found], device=like.device).reshape(batch),
        solvers=(solver,),
    )


def stacked(problem: Problem, potentials: list[DualPotentials]) -> DualPotentials:
    """Return the potentials of a batch from those of its problems, one after the other."""
    a, b = problem.a, problem.b
    f, g = ([getattr(pair, name) for pair in potentials] for name in "fg")
    f, g = (torch.stack(rows).to(like).reshape(like.shape) if rows else like for rows, like in ((f, a), (g, b)))
    return DualPotentials(f, g)
