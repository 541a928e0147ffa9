r"""The loss of a cost for an observed coupling (Fenchel-Young), its gradient and its Hessian.

J(theta) = <c_theta, P^> - min_P <c_theta, P> + eps KL(P | a b^T) is convex, and least where the plan of c_theta
has the observed means of all features (Andrade, Peyre and Poon, ICLR 2024; Dupuy and Galichon, JPE 2014). Its
gradient is <c_k, P^ - P_theta>; its Hessian is 1/eps times the covariance under P_theta of what is left of the
features after the best functions of x and of y are taken away from them. These functions are the derivatives of
the potentials; they solve a linear system with the matrix of the solver's Newton steps.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry import Dense
from metaot.geometry.kernel import MatrixKernel
from metaot.inverse.features import Features
from metaot.marginals import Marginals
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Solution, solve
from metaot.solvers.local import Local, local
from metaot.solvers.quadratic import inverse_of, semi_dual_hessian

_RIDGE, _STRONGER = 1e-13, 100.0
"""The damping of a matrix that has no factor, as a part of its diagonal, and how much more is tried next."""

_ROUGH, _ITERATIONS = 0.05, 12
"""The relative residual at which conjugate gradients stop, and iterations after which a factor is quicker."""


@final
@dataclass(frozen=True)
class Observed:
    """What was observed: pairs (i, j) with their weights, of the mass of P^.

    a and b are the weights of the points.
    `means` are <c_k, P^>; `spread` is the covariance of features between independent points, of balanced sides
    without functions of x and of y, and `count` the number of observations that the weights stand for.
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
    spread: Float[Tensor, "K K"]
    count: float | None

    @cached_property
    def scale(self) -> float:
        """The largest standard deviation of a feature: the unit of gradients."""
        return float(self.spread.diagonal().max().clamp_min(0).sqrt())

    def problem(self, theta: Float[Tensor, "*shape"]) -> Problem:
        """Return the transport problem of a cost."""
        space = Dense.trusted(self.features.cost(theta))
        return Problem.trusted(self.a, self.b, space, self.eps, self.marginals)


@final
@dataclass(frozen=True)
class Model:
    """Second derivatives of the loss, and first ones of the potentials, at a point or near it."""

    H: Float[Tensor, "K K"]
    f: Float[Tensor, "n K"]
    g: Float[Tensor, "m K"]

    def after(self, before: "Point", now: "Point") -> "Model":
        """Return the model that explains the last step too: BFGS for the Hessian, Broyden for the potentials."""
        step, change = (now.theta - before.theta).flatten(), (now.gradient - before.gradient).flatten()
        Hs, length = self.H @ step, step @ step
        if not float(change @ step) > 0:
            return self
        H = self.H - torch.outer(Hs, Hs) / (step @ Hs) + torch.outer(change, change) / (step @ change)
        old, new = before.solution.potentials, now.solution.potentials
        moved = (new.f - old.f, new.g - old.g)
        f, g = (
            slope + torch.outer((was - slope @ step) / length, step)
            for slope, was in zip((self.f, self.g), moved, strict=True)
        )
        return Model(H, f, g)


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
    def _near(self) -> tuple[Local, Float[Tensor, "n m"]]:
        """The semi-dual near the potentials, and the plan, whose columns have the sums that it asks for."""
        f = self.solution.potentials.f / self.observed.eps
        here, kernel = local(self.solution.problem.flat(), f[None])
        return here, kernel.K[0] if isinstance(kernel, MatrixKernel) else self.solution.plan()

    @property
    def plan(self) -> Float[Tensor, "n m"]:
        """The plan of the cost."""
        return self._near[1]

    @cached_property
    def loss(self) -> float:
        """J, but for what P^ alone says of it: its entropy, and the price of its marginals."""
        problem, potentials = self.solution.problem, self.solution.potentials
        explained = float((self.observed.means * self.theta.flatten()).sum())
        if not problem.is_balanced:
            return explained - float(self.solution.value)
        return explained - float(problem.a @ potentials.f + problem.b @ potentials.g)

    @cached_property
    def gradient(self) -> Float[Tensor, "*shape"]:
        """<c_k, P^ - P_theta>."""
        return (self.observed.means - self.observed.features.means(self.plan)).reshape(self.theta.shape)

    @cached_property
    def _sums(self) -> tuple[Float[Tensor, "n K"], Float[Tensor, "m K"], Float[Tensor, "m 1"]]:
        """Sums of rows of c_k P, without what the best functions of y explain; of columns; and shares over b."""
        here, P = self._near
        rows, columns = self.observed.features.sums(P)
        share = (inverse_of(here.b) * here.target.share)[0][:, None]
        return rows - P @ (share * columns), columns, share

    def _model(self, f: Float[Tensor, "n K"], left: Float[Tensor, "n K"] | None) -> Model:
        """Return the model from derivatives of f; if these are rough, `left` is what is left of their equation.

        The Hessian is a minimum over such functions, so that its error is the square of theirs.
        """
        rows, columns, share = self._sums
        H = self.observed.features.products(self.plan) - columns.mT @ (share * columns) - rows.mT @ f
        H = H if left is None else H - f.mT @ left
        return Model((H + H.mT) / (2 * self.observed.eps), f, share * (columns - self.plan.mT @ f))

    @cached_property
    def exact_model(self) -> Model:
        """The derivatives, by a factor of the semi-dual's Hessian."""
        (here, P), problem = self._near, self.solution.problem
        H, scale = semi_dual_hessian(P[None], P.sum(-1)[None], here, 0.0, anchored=problem.is_balanced)
        scale = scale[0][:, None]
        return self._model(torch.cholesky_solve(self._sums[0] / scale, damped_factor(H[0])) / scale, None)

    def rough_model(self) -> Model:
        """Return the derivatives by a few conjugate gradients for all features at once, if a few are enough.

        They are enough where the plan is far from a permutation.
        """
        if "exact_model" in vars(self):
            return self.exact_model
        (here, P), (rows, _, share) = self._near, self._sums
        source = P.sum(-1)
        diagonal = (source + torch.as_tensor(here.source.stiffness * here.a).reshape(-1))[:, None]
        inverse = torch.where(diagonal > 0, 1 / diagonal, 0.0)
        f, left, p = torch.zeros_like(rows), rows, inverse * rows
        square = (left * p).sum(0)
        enough = _ROUGH**2 * square
        for _ in range(_ITERATIONS):
            if not bool((square > enough).any()):
                return self._model(f, left)
            Sp = diagonal * p - P @ (share * (P.mT @ p))
            length = square / _positive((p * Sp).sum(0))
            f, left = f + length * p, left - length * Sp
            scaled, before = inverse * left, square
            square = (left * scaled).sum(0)
            p = scaled + square / _positive(before) * p
        return self.exact_model

    def influence(self) -> Float[Tensor, "N K"]:
        """Return how each observed pair moves the gradient: what the projected features are there."""
        observed, model = self.observed, self.exact_model
        left = observed.features.at(observed.i, observed.j) - model.f[observed.i] - model.g[observed.j]
        return left - (observed.weights @ left) / observed.weights.sum()


def _positive(values: Float[Tensor, "K"]) -> Float[Tensor, "K"]:
    return torch.where(values > 0, values, torch.inf)


def damped_factor(H: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return a Cholesky factor of H, or of H with as little more on its diagonal as it takes."""
    factor, failed = torch.linalg.cholesky_ex(H)
    ridge = _RIDGE * float(H.diagonal().abs().mean())
    while bool(failed) and ridge < math.inf:
        factor, failed = torch.linalg.cholesky_ex(H + ridge * torch.eye(len(H), dtype=H.dtype, device=H.device))
        ridge *= _STRONGER
    return factor
