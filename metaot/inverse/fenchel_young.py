r"""The loss of a cost for an observed coupling (Fenchel-Young), its gradient and its Hessian.

J(theta) = <c_theta, P^> - min_P <c_theta, P> + eps KL(P | a b^T) is convex, and least where the plan of c_theta
has the observed means of all features (Andrade, Peyre and Poon, ICLR 2024; Dupuy and Galichon, JPE 2014). Its
gradient is <c_k, P^ - P_theta>; its Hessian is 1/eps times the covariance under P_theta of what is left of the
features after the best functions of x and of y are taken away from them. These functions are the derivatives of
the potentials; they solve a linear system with the matrix of the solver's Newton steps.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry import Dense
from metaot.geometry.kernel import MatrixKernel
from metaot.inverse.features import Features
from metaot.marginals import Marginals
from metaot.potentials import DualPotentials, plan, reference_mass
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve
from metaot.solvers.local import Local, local
from metaot.solvers.quadratic import inverse_of, semi_dual_hessian
from metaot.solvers.sinkhorn import SinkhornState, near

_RIDGE, _STRONGER = 1e-13, 100.0
"""The damping of a matrix that has no factor, as a part of its diagonal, and how much more is tried next."""

_ROUGH, _ITERATIONS = 0.02, 12
"""The relative residual at which conjugate gradients stop, and iterations after which a factor is quicker."""

_NEAR = 30.0
"""The largest change of a potential of the target, in units of eps, over which sums lose no digits."""

_SINKHORN, _FEW = Sinkhorn(), 6
"""Steps from a good start, and how many of them are made before `solve` chooses a method."""


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
    base: Float[Tensor, "n m"] | None = None
    """A known part of the cost; infinite where a pair is forbidden."""

    @cached_property
    def scale(self) -> float:
        """The largest standard deviation of a feature: the unit of gradients."""
        return float(self.spread.diagonal().max().clamp_min(0).sqrt())

    @cached_property
    def costless(self) -> Problem:
        """The problem of zero costs, for steps that only ask for its weights and marginals."""
        C = self.a.new_zeros(()).expand(self.features.points)
        return Problem.trusted(self.a, self.b, Dense.trusted(C), self.eps, self.marginals).flat()

    def exponents(
        self, theta: Float[Tensor, "*shape"], f: Float[Tensor, "n"], g: Float[Tensor, "m"]
    ) -> Float[Tensor, "n m"]:
        """Return the logarithms of the plan of a cost and of potentials."""
        h, k = f / self.eps + self.a.log(), g / self.eps + self.b.log()
        z = self.features.exponents(-theta / self.eps, h, k)
        return z if self.base is None else z.sub_(self.base, alpha=1 / self.eps)

    def resampled(self, drawn: Int[Tensor, "draws"]) -> tuple["Observed", Int[Tensor, "r"]]:
        """Return the balanced observation of pairs that were drawn, between their points, and the x of these."""
        pairs, counts = drawn.unique(return_counts=True)
        weights = counts.to(self.weights) / len(drawn)
        (rows, i), (columns, j) = (k[pairs].unique(return_inverse=True) for k in (self.i, self.j))
        features = self.features.part(rows, columns)
        a, b = (weights.new_zeros(len(w)).index_add_(0, k, weights) for w, k in ((rows, i), (columns, j)))
        means = features.at(i, j).mT @ weights
        base = None if self.base is None else self.base[rows[:, None], columns]
        found = replace(self, features=features, i=i, j=j, weights=weights, a=a, b=b, means=means, base=base)
        return found, rows

    def problem(self, theta: Float[Tensor, "*shape"]) -> Problem:
        """Return the transport problem of a cost."""
        C = self.features.cost(theta)
        space = Dense.trusted(C if self.base is None else C + self.base)
        return Problem.trusted(self.a, self.b, space, self.eps, self.marginals)


@final
@dataclass(frozen=True)
class Model:
    """Second derivatives of the loss, and the first ones of the source's potential, at a point or near it."""

    H: Float[Tensor, "K K"]
    f: Float[Tensor, "K n"]
    factor: tuple[Float[Tensor, "n n"], Float[Tensor, "n"]] | None = None
    """Of minus the semi-dual's Hessian, divided by a scale on both sides; and the scale. Of hard problems only."""

    def after(self, before: "Point", now: "Point") -> "Model":
        """Return the model that explains the last step too: BFGS for the Hessian, Broyden for the potential."""
        step, change = (now.theta - before.theta).flatten(), (now.slope(self) - before.slope(self)).flatten()
        if not float(change @ step) > 0:
            return self
        Hs, moved = self.H @ step, now.ahead(self) - before.ahead(self)
        H = self.H - torch.outer(Hs, Hs) / (step @ Hs) + torch.outer(change, change) / (step @ change)
        return Model(H, self.f + torch.outer(step, (moved - step @ self.f) / (step @ step)), self.factor)


@final
@dataclass(frozen=True)
class Point:
    """The loss near one theta: Sinkhorn's iteration on its problem, as far as it has gone."""

    observed: Observed
    theta: Float[Tensor, "*shape"]
    state: SinkhornState
    steps: int

    @classmethod
    def of(
        cls, observed: Observed, theta: Tensor, f: Float[Tensor, "n"], g: Float[Tensor, "m"] | None = None
    ) -> "Point":
        """Return the point of theta with the potential f, and the best one of the target, which may be near g."""
        if g is not None:
            kernel = MatrixKernel(observed.exponents(theta, f, g).exp_()[None])
            state = near(observed.costless, DualPotentials(f[None], g[None]), kernel)
            if bool(state.residual.isfinite().all() & (state.v.log().abs() <= _NEAR).all()):
                return cls(observed, theta, state, 0)
        problem = observed.problem(theta).flat()
        return cls(observed, theta, _SINKHORN.init(problem, DualPotentials(f[None], observed.b[None])), 0)

    @cached_property
    def problem(self) -> Problem:
        """The transport problem of theta, in a batch of one."""
        return self.observed.problem(self.theta).flat()

    def settled(self, tol: float) -> "Point":
        """Return the point with marginals right to `tol`, by a few Sinkhorn steps, or else by `solve`."""
        point, problem = self, self.observed.costless
        while point.marginal_error > tol:
            if point.steps - self.steps == _FEW or point.state.kernel is not self.state.kernel:
                start = point if point.state.kernel is self.state.kernel else self
                solution = solve(self.problem, init=DualPotentials(start.f[None], start.g[None]), tol=tol)
                solved = Point.of(self.observed, self.theta, solution.potentials.f[0])
                return replace(solved, steps=point.steps + int(solution.steps))
            state = _SINKHORN.step(problem, point.state)
            state = _SINKHORN.adjust(problem, state, _SINKHORN.error(problem, state))
            point = replace(point, state=state, steps=point.steps + 1)
        return point

    @property
    def f(self) -> Float[Tensor, "n"]:
        """The potential of the source."""
        return (self.state.f + self.observed.eps * self.state.x)[0]

    def ahead(self, model: Model) -> Float[Tensor, "n"]:
        """Return the potential after a Newton step, or the next Sinkhorn step: known without a product."""
        if model.factor is not None:
            L, scale = model.factor
            change = torch.cholesky_solve((self._missing / scale)[:, None], L)[:, 0] / scale
            if float(change.abs().max()) <= 1:
                return self.f + self.observed.eps * change
        return self.f + self.observed.eps * self.state.residual[0]

    @property
    def g(self) -> Float[Tensor, "m"]:
        """The potential of the target."""
        return (self.state.g + self.observed.eps * self.state.v.log())[0]

    @cached_property
    def marginal_error(self) -> float:
        """The L1 error of the marginals, relative to the mass."""
        return float(_SINKHORN.error(self.observed.costless, self.state))

    @property
    def _kernel(self) -> Float[Tensor, "n m"]:
        """The kernel that the scalings of the state make a plan of."""
        kernel = self.state.kernel
        if isinstance(kernel, MatrixKernel):
            return kernel.K[0]
        return plan(self.problem, DualPotentials(self.state.f, self.state.g))[0]

    @cached_property
    def loss(self) -> float:
        """J, but for what P^ alone says of it: its entropy, and the price of its marginals.

        With what a Sinkhorn step would bring, in second order, so that it hardly depends on the marginal error.
        """
        problem = self.observed.costless
        source, target = problem.marginals.source, problem.marginals.target
        worth = problem.a[0] @ source.worth(self.f) + problem.b[0] @ target.worth(self.g)
        marginal = self.state.marginal[0]
        gap = 0.5 * (self._missing.square() / torch.where(marginal > 0, marginal, torch.inf)).sum()
        excess = marginal.sum() - reference_mass(problem) - gap
        return float(self.observed.means @ self.theta.flatten() - worth + self.observed.eps * excess)

    @cached_property
    def gradient(self) -> Float[Tensor, "*shape"]:
        """<c_k, P^ - P_theta>."""
        found = self.observed.features.means(self._kernel, self.state.x[0].exp(), self.state.v[0])
        return (self.observed.means - found).reshape(self.theta.shape)

    def slope(self, model: Model | None) -> Float[Tensor, "*shape"]:
        """Return the gradient at the solution: right to second order in the error of the potentials."""
        if model is None:
            return self.gradient
        return self.gradient - (model.f @ self._missing).reshape(self.theta.shape)

    @property
    def _missing(self) -> Float[Tensor, "n"]:
        """What the rows of the plan lack of what the potential asks for."""
        problem = self.observed.costless
        return problem.marginals.source.missing(problem.a, self.f[None], self.state.marginal)[0]

    @cached_property
    def _near(self) -> tuple[Local, Float[Tensor, "n m"]]:
        """The semi-dual near the potential, and the plan, whose columns have the sums that it asks for."""
        here, kernel = local(self.problem, (self.f / self.observed.eps)[None])
        return here, kernel.K[0] if isinstance(kernel, MatrixKernel) else self._kernel

    @cached_property
    def _sums(self) -> tuple[Float[Tensor, "K n"], Float[Tensor, "K m"], Float[Tensor, "m"]]:
        """Sums of rows of c_k P, without what the best functions of y explain; of columns; and shares over b."""
        here, P = self._near
        rows, columns = self.observed.features.sums(P)
        share = (inverse_of(here.b) * here.target.share)[0]
        return rows - (share * columns) @ P.mT, columns, share

    def _model(self, f: Float[Tensor, "K n"], left: Float[Tensor, "K n"] | None) -> Model:
        """Return the model from derivatives of f; if these are rough, `left` is what is left of their equation.

        The Hessian is a minimum over such functions, so that its error is the square of theirs.
        """
        rows, columns, share = self._sums
        H = self.observed.features.products(self._near[1]) - (share * columns) @ columns.mT - f @ rows.mT
        H = H if left is None else H - left @ f.mT
        return Model((H + H.mT) / (2 * self.observed.eps), f)

    @cached_property
    def exact_model(self) -> Model:
        """The derivatives, by a factor of the semi-dual's Hessian."""
        here, P = self._near
        H, scale = semi_dual_hessian(
            P[None], P.sum(-1)[None], here, 0.0, anchored=self.observed.costless.is_balanced
        )
        L = damped_factor(H[0])
        f = torch.cholesky_solve((self._sums[0] / scale[0]).mT, L).mT / scale[0]
        return replace(self._model(f, None), factor=(L, scale[0]))

    def rough_model(self, near: Model | None = None) -> Model:
        """Return the derivatives by a few conjugate gradients for all features at once, if a few are enough.

        They start at those of a model near by, and are enough where the plan is far from a permutation.
        """
        if "exact_model" in vars(self):
            return self.exact_model
        (here, P), (rows, _, share) = self._near, self._sums
        diagonal = P.sum(-1) + torch.as_tensor(here.source.stiffness * here.a).reshape(-1)
        inverse = torch.where(diagonal > 0, 1 / diagonal, 0.0)

        def product(p: Float[Tensor, "K n"]) -> Float[Tensor, "K n"]:
            return diagonal * p - (share * (p @ P)) @ P.mT

        f = torch.zeros_like(rows) if near is None else near.f
        left = rows if near is None else rows - product(f)
        enough = _ROUGH**2 * (inverse * rows.square()).sum(1)
        p, before = torch.zeros_like(rows), torch.full_like(enough, torch.inf)
        for _ in range(_ITERATIONS):
            scaled = inverse * left
            square = (left * scaled).sum(1)
            if not bool((square > enough).any()):
                return self._model(f, left)
            p = scaled + (square / _positive(before))[:, None] * p
            Sp = product(p)
            length = (square / _positive((p * Sp).sum(1)))[:, None]
            f, left, before = f + length * p, left - length * Sp, square
        return self.exact_model

    def influence(self) -> Float[Tensor, "N K"]:
        """Return how each observed pair moves the gradient: what the projected features are there."""
        observed, f, (_, columns, share) = self.observed, self.exact_model.f, self._sums
        g = share * (columns - f @ self._near[1])
        left = observed.features.at(observed.i, observed.j) - f[:, observed.i].mT - g[:, observed.j].mT
        return left - left.mT @ observed.weights / observed.weights.sum()


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
