"""The sharpened Fenchel-Young loss of a step (arXiv 2505.07124): what the observed one lacks of optimal.

L_r(V) = <V, b> + W_eps(b, a)/(2 tau) - min over measures q of <V, q> + W_eps(q, a)/(2 tau) + r KL(q | b), where
a became b. The entropy of W_eps is relative to q x a, so that the minimum is a transport problem between b and a
with the cost |x - y|^2 + 2 tau V, where the marginal b has the price 2 tau r - eps. Times r, the loss tends to
Var[V + f/tau]/2 as r grows. As in the paper no cloud's transport to itself is subtracted: what is learned is the
potential of steps with that entropy, which pulls points together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry import Dense, Points
from metaot.inverse.matching import Values, of_matrix
from metaot.inverse.penalties import Penalty
from metaot.inverse.quadratic import Quadratic
from metaot.inverse.snapshots import even
from metaot.marginals import KL
from metaot.potentials import source_marginal
from metaot.problem import Problem
from metaot.solvers import Solution, solve

_ROUNDS, _HALVINGS = 50, 20
"""The most Newton steps, and how often one is halved."""

_TOL = 1e-7
"""The optimality that ends the search, relative to the slope at zero."""

_INNER, _ROUNDING = 1e-10, 1e-11
"""The error of marginals of the inner solves, and what is rounding in the values of their problems."""


@final
class Found(NamedTuple):
    """Parameters, the model of second order there, how far from optimal they are, and what it took."""

    theta: Float[Tensor, "p"]
    model: Quadratic
    residual: float
    solutions: tuple[Solution, ...]
    steps: int

    @property
    def converged(self) -> bool:
        """Whether the optimality condition of the penalised problem holds."""
        return self.residual <= _TOL


@final
@dataclass(frozen=True)
class Sharpened:
    """The mean of r L_r over steps, with a penalty of the parameters in `shape`."""

    values: Sequence[Values]
    eps: float
    r: float
    penalty: Penalty | None
    shape: tuple[int, ...]
    max_steps: int

    def minimum(self) -> Found:
        """Return the best parameters: proximal Newton steps, each solve started from the one before."""
        p = self.values[0].features.shape[1]
        theta = self.values[0].features.new_zeros(p)
        model, solutions = self._model(theta, ())
        size = float((model.H @ theta - model.h).abs().max()) or 1.0
        steps = sum(int(each.steps) for each in solutions)
        for _ in range(_ROUNDS):
            residual = self._residual(theta, model) / size
            if residual <= _TOL:
                break
            aim = model.minimum(self.penalty, self.shape, 0.0, theta).theta
            level = self._objective(theta, model)
            for halving in range(_HALVINGS):
                tried = theta + 0.5**halving * (aim - theta)
                found, solved = self._model(tried, solutions)
                steps += sum(int(each.steps) for each in solved)
                if self._objective(tried, found) <= level + _ROUNDING * self.r:
                    break
            else:
                break
            theta, model, solutions = tried, found, solved
        return Found(theta, model, self._residual(theta, model) / size, solutions, steps)

    def _objective(self, theta: Tensor, model: Quadratic) -> float:
        penalty = 0.0 if self.penalty is None else float(self.penalty.value(theta.reshape(self.shape)))
        return float(model.value(theta)) + penalty

    def _residual(self, theta: Tensor, model: Quadratic) -> float:
        slope = model.H @ theta - model.h
        if self.penalty is None:
            return float(slope.abs().max())
        return self.penalty.residual(theta.reshape(self.shape), slope.reshape(self.shape))

    def _model(self, theta: Tensor, before: tuple[Solution, ...]) -> tuple[Quadratic, tuple[Solution, ...]]:
        """Return the loss to second order at theta, and the problems that were solved for it."""
        count, p = len(self.values), len(theta)
        H, slope, value = theta.new_zeros(p, p), torch.zeros_like(theta), theta.new_zeros(())
        solutions = []
        for k, each in enumerate(self.values):
            solutions.append(self._solved(each, theta, before[k] if before else None))
            part, towards, level = self._of_step(each, theta, solutions[-1])
            H, slope, value = H + part / count, slope + towards / count, value + level / count
        h = H @ theta - slope
        constant = 2 * (value - theta @ (0.5 * H @ theta - h))
        model = Quadratic(H, h, constant)
        return of_matrix(model) if len(self.shape) == 2 else model, tuple(solutions)

    def _solved(self, each: Values, theta: Tensor, before: Solution | None) -> Solution:
        move = each.move
        V = each.features @ theta
        C = Points(move.y, move.x).cost_rows(slice(None)) + 2 * move.tau * V[:, None]
        price = KL(2 * move.tau * self.r - self.eps)
        problem = Problem(even(move.y), even(move.x), Dense(C), self.eps, (price, None))
        init = None if before is None else before.potentials
        return solve(problem, init=init, tol=_INNER, max_steps=self.max_steps)

    def _of_step(self, each: Values, theta: Tensor, solution: Solution) -> tuple[Tensor, Tensor, Tensor]:
        """Return the second and the first derivative of r L_r, and r L_r."""
        tau, features, problem = each.move.tau, each.features, solution.problem
        P, rho = solution.plan(), 2 * tau * self.r - self.eps
        row, column = source_marginal(problem, solution.potentials), problem.b
        level = self.r * ((features @ theta).mean() + (each.move.solutions[0].value - solution.value) / (2 * tau))
        slope = self.r * (features.mean(0) - row @ features)
        ratio = self.eps / rho
        A = (1 + ratio) * row.diag() - (P / column) @ P.mT
        moved = 2 * tau * features
        inner = torch.linalg.solve(A, -ratio * row[:, None] * moved)
        H = self.r / rho * features.mT @ (row[:, None] * (inner + moved))
        return 0.5 * (H + H.mT), slope, level
