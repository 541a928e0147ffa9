"""One problem on its atoms with mass, in float64 and numpy, and in the convention of other libraries.

This is P = exp((F + G - C)/eps), with F = f + eps log a and G = g + eps log b, which are infinite on atoms without
mass. These atoms are left out; their potentials are computed from the others afterwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.checks import require_finite
from metaot.potentials import DualPotentials, c_transform
from metaot.problem import Problem
from metaot.solvers.solution import Solution
from metaot.solvers.solve import PotentialPredictor

Array = np.ndarray
Init = DualPotentials | PotentialPredictor
"""A start: potentials, or anything with `predict(problem)`."""


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

    def restricted(self, potentials: DualPotentials) -> tuple[Array, Array]:
        """Return f and g on the atoms with mass, in metaot's convention."""
        f, g = potentials.f[self.problem.a > 0], potentials.g[self.problem.b > 0]
        return f.numpy(force=True), g.numpy(force=True)

    def absorbed(self, potentials: DualPotentials) -> tuple[Array, Array]:
        """Return F = f + eps log a and G = g + eps log b for the costs C, with F centred at zero."""
        f, g = self.restricted(potentials)
        F, G = f + self.eps * np.log(self.a), g + self.eps * np.log(self.b) - self.least
        middle = (F.max() + F.min()) / 2
        return F - middle, G + middle

    def completed(self, F: Array, G: Array) -> DualPotentials:
        """Return f and g of F and G; on atoms without mass, the c-transforms of the others."""
        f = self._on_all_atoms(F - self.eps * np.log(self.a), self.problem.a)
        g = self._on_all_atoms(G - self.eps * np.log(self.b) + self.least, self.problem.b)
        return without_mass_completed(self.problem, f, g)

    def plan_error(self, P: Array) -> float:
        """Return the L1 error of both marginals of a plan on the atoms with mass."""
        return float(np.abs(P.sum(1) - self.a).sum() + np.abs(P.sum(0) - self.b).sum())

    @staticmethod
    def _on_all_atoms(values: Array, weights: Tensor) -> Tensor:
        return torch.zeros_like(weights).masked_scatter(weights > 0, torch.as_tensor(values).to(weights))


@final
@dataclass(frozen=True)
class Outcome:
    """A library's result for one problem."""

    potentials: DualPotentials
    error: float
    steps: int


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


def guessed(problem: Problem, init: Init) -> DualPotentials:
    """Return the start, in the dtype of the problem; ValueError unless it is finite and of the problem's sizes."""
    guess = init if isinstance(init, DualPotentials) else init.predict(problem)
    f, g = _checked("f", guess.f, problem.a), _checked("g", guess.g, problem.b)
    return DualPotentials(f, g)


def one(problem: Problem) -> Problem:
    """Return the only problem of a batch, normalised, without its batch dimensions."""
    if problem.batch_shape.numel() != 1:
        raise ValueError(
            f"one problem at a time has a start, got a batch {tuple(problem.batch_shape)}: take problem[i]"
        )
    return problem.normalised().flat()[0]


def one_guess(problem: Problem, init: Init) -> DualPotentials:
    """Return the start of the only problem of a batch, as `one` returns that."""
    guess = guessed(problem, init)
    return DualPotentials(guess.f.double().flatten(), guess.g.double().flatten())


def each(problem: Problem, init: Init | None) -> Iterator[tuple[Support, DualPotentials | None]]:
    """Return the problems of a batch one by one on their atoms with mass, with their starts."""
    return ((Support.of(single), guess) for single, guess in each_whole(problem, init))


def each_whole(problem: Problem, init: Init | None) -> Iterator[tuple[Problem, DualPotentials | None]]:
    """Return the problems of a batch one by one, normalised, with their starts.

    A predictor is called once for all of them.
    """
    guess = None if init is None else guessed(problem, init)
    flat, (n, m) = problem.normalised().flat(), problem.geometry.shape
    starts = None if guess is None else (guess.f.double().reshape(-1, n), guess.g.double().reshape(-1, m))
    for i in range(len(flat.a)):
        yield flat[i], None if starts is None else DualPotentials(starts[0][i], starts[1][i])


def solution(problem: Problem, outcomes: list[Outcome], tol: float, solver: str) -> Solution:
    """Return the solution of a batch from a library's results; `error` is that of the library's plans."""
    batch, like = problem.batch_shape, problem.a
    n, m = problem.geometry.shape
    f = torch.cat([outcome.potentials.f.reshape(-1) for outcome in outcomes] or [like.new_zeros(0)])
    g = torch.cat([outcome.potentials.g.reshape(-1) for outcome in outcomes] or [like.new_zeros(0)])
    error = torch.tensor([outcome.error for outcome in outcomes], dtype=torch.float64)
    return Solution(
        problem=problem,
        potentials=DualPotentials(f.to(like).reshape(*batch, n), g.to(like).reshape(*batch, m)),
        error=error.to(like).reshape(batch),
        converged=(error <= tol).to(like.device).reshape(batch),
        steps=torch.tensor([outcome.steps for outcome in outcomes], device=like.device).reshape(batch),
        solvers=(solver,),
    )


def require_settings(tol: float, max_steps: int) -> None:
    """Raise unless these can be the settings of a solver."""
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least one, got {max_steps}")


def _checked(name: str, potential: object, weights: Tensor) -> Tensor:
    potential = torch.as_tensor(potential).to(weights)
    if potential.shape != weights.shape:
        raise ValueError(
            f"init.{name} has the shape {tuple(potential.shape)}, the problem's weights {tuple(weights.shape)}"
        )
    require_finite(f"init.{name}", potential)
    return potential
