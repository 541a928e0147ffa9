r"""The loss of a cost for an observed coupling (Fenchel-Young), its gradient and its Hessian.

J(theta) = <c_theta, P^> - min_P <c_theta, P> + eps KL(P | a b^T) is convex, and least where the plan of c_theta
has the observed means of all features (Andrade, Peyre and Poon, ICLR 2024; Dupuy and Galichon, JPE 2014). Its
gradient is <c_k, P^ - P_theta>; its Hessian is 1/eps times the covariance under P_theta of what is left of the
features after the best functions of x and of y are taken away from them.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry import Dense
from metaot.inverse.features import Features
from metaot.marginals import Marginals
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Solution, solve
from metaot.solvers.local import local
from metaot.solvers.quadratic import inverse_of, semi_dual_hessian

_RIDGE, _STRONGER = 1e-13, 100.0
"""The damping of a matrix that has no factor, as a part of its diagonal, and how much more is tried next."""


@final
@dataclass(frozen=True)
class Observed:
    """What was observed: pairs (i, j) with their weights, of the mass of P^.

    a and b are the weights of the points.
    `means` are <c_k, P^>; `scale` is the largest standard deviation of a feature between independent points, and
    `count` the number of observations that the weights stand for.
    """

    features: Features
    i: Int[Tensor, "N"]
    j: Int[Tensor, "N"]
    weights: Float[Tensor, "N"]
    a: Float[Tensor, "n"]
    b: Float[Tensor, "m"]
    eps: float
    marginals: Marginals
    means: Float[Tensor, "K"]
    scale: float
    count: float | None

    def problem(self, theta: Float[Tensor, "*shape"]) -> Problem:
        """Return the transport problem of a cost."""
        space = Dense.trusted(self.features.cost(theta))
        return Problem.trusted(self.a, self.b, space, self.eps, self.marginals)


@final
@dataclass(frozen=True)
class Point:
    """The loss near one theta: the solution of its problem, and the plan."""

    observed: Observed
    theta: Float[Tensor, "*shape"]
    solution: Solution

    @classmethod
    def of(cls, observed: Observed, theta: Tensor, start: DualPotentials | None, tol: float) -> "Point":
        """Solve the problem of theta from a start."""
        return cls(observed, theta, solve(observed.problem(theta), init=start, tol=tol))

    @cached_property
    def plan(self) -> Float[Tensor, "n m"]:
        """The plan of the cost."""
        return self.solution.plan()

    @cached_property
    def loss(self) -> float:
        """J, but for what P^ alone says of it: its entropy, and the price of its marginals."""
        observed = self.observed
        return float((observed.means * self.theta.flatten()).sum() - self.solution.value)

    @cached_property
    def gradient(self) -> Float[Tensor, "*shape"]:
        """<c_k, P^ - P_theta>."""
        return (self.observed.means - self.observed.features.means(self.plan)).reshape(self.theta.shape)

    @cached_property
    def slopes(self) -> tuple[Float[Tensor, "n K"], Float[Tensor, "m K"]]:
        """The derivatives of both potentials in theta: the best functions of x and of y for each feature."""
        problem, eps = self.solution.problem, self.observed.eps
        here, _ = local(problem.flat(), (self.solution.potentials.f / eps)[None])
        rows, columns = self.observed.features.sums(self.plan)
        share = inverse_of(here.b) * here.target.share
        rows = rows - self.plan @ (share[0][:, None] * columns)
        source = self.plan.sum(-1)[None]
        H, scale = semi_dual_hessian(self.plan[None], source, here, 0.0, anchored=problem.is_balanced)
        f = torch.cholesky_solve(rows / scale[0][:, None], damped_factor(H[0])) / scale[0][:, None]
        return f, share[0][:, None] * (columns - self.plan.mT @ f)

    @cached_property
    def hessian(self) -> Float[Tensor, "K K"]:
        """The second derivatives of J."""
        (f, g), features = self.slopes, self.observed.features
        rows, columns = features.sums(self.plan)
        H = features.products(self.plan) - rows.mT @ f - columns.mT @ g
        return (H + H.mT) / (2 * self.observed.eps)

    def influence(self) -> Float[Tensor, "N K"]:
        """Return how each observed pair moves the gradient: what the projected features are there."""
        observed, (f, g) = self.observed, self.slopes
        left = observed.features.at(observed.i, observed.j) - f[observed.i] - g[observed.j]
        return left - (observed.weights @ left) / observed.weights.sum()


def damped_factor(H: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return a Cholesky factor of H, or of H with as little more on its diagonal as it takes."""
    factor, failed = torch.linalg.cholesky_ex(H)
    ridge = _RIDGE * float(H.diagonal().abs().mean())
    while bool(failed) and ridge < math.inf:
        factor, failed = torch.linalg.cholesky_ex(H + ridge * torch.eye(len(H), dtype=H.dtype, device=H.device))
        ridge *= _STRONGER
    return factor
