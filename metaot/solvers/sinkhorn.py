"""Sinkhorn's algorithm (Cuturi 2013; algorithm 1 of Meta OT, arXiv 2206.05262), over-relaxed, with scalings.

The potentials of the start are absorbed into a Gibbs kernel, which is then about the plan; a step is two products
with it, and no exponential (Schmitzer, arXiv 1610.06519). Starts so far away that marginals leave floating point
make steps in the log domain. Over-relaxation (Thibault et al., arXiv 1711.01851) takes each update omega times.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.base import expand_eps
from metaot.geometry.kernel import Kernel
from metaot.potentials import DualPotentials, c_transform, tilted
from metaot.problem import Problem
from metaot.solvers.iterate import Solver
from metaot.solvers.relaxation import Relaxation, expected_factor

_HIGHEST = 2.0
"""The L1 error is never above it without over-relaxation."""


@final
@dataclass(frozen=True)
class Logarithmic:
    """Potentials of which g is the best for f, and the f that the next step takes: the best for g."""

    f: Float[Tensor, "batch n"]
    g: Float[Tensor, "batch m"]
    next_f: Float[Tensor, "batch n"]


@final
@dataclass(frozen=True)
class Scaled:
    """Scalings u and v of a kernel that has the potentials f and g absorbed; `rows` is K v, `columns` K^T u.

    `empty` is one for atoms without mass: their marginals and weights are both taken as one, not as zero.
    """

    f: Float[Tensor, "batch n"]
    g: Float[Tensor, "batch m"]
    kernel: Kernel
    u: Float[Tensor, "batch n"]
    v: Float[Tensor, "batch m"]
    rows: Float[Tensor, "batch n"]
    columns: Float[Tensor, "batch m"]
    empty_rows: Float[Tensor, "batch n"]
    empty_columns: Float[Tensor, "batch m"]
    relaxation: Relaxation
    steps: int


SinkhornState = Logarithmic | Scaled


@final
@dataclass(frozen=True)
class Sinkhorn(Solver[Problem, SinkhornState, DualPotentials]):
    """Alternating maximisation of the dual in f and in g; one step updates both.

    Of a guess, f is used. With `relaxed`, updates go beyond the maximum by a factor that is fitted to the rate
    observed, instance by instance: several times fewer steps where many are needed. Without, each step
    maximises exactly. Safe at every eps in float64; in float32 errors below about 1e-7 |C|/eps are rounding.
    """

    relaxed: bool = True

    def init(self, problem: Problem, guess: DualPotentials | None) -> SinkhornState:
        start = torch.zeros_like(problem.a) if guess is None else guess.f
        return _absorbed(problem, start, self._relaxation(problem))

    def step(self, problem: Problem, state: SinkhornState) -> SinkhornState:
        if isinstance(state, Logarithmic):
            return _logarithmic(problem, DualPotentials.from_f(problem, state.next_f))
        u = _updated(state.u, problem.a, state.rows, state.empty_rows, state.relaxation)
        columns = state.kernel.T.times(u)
        v = _updated(state.v, problem.b, columns, state.empty_columns, state.relaxation)
        rows = state.kernel.times(v)
        return replace(state, u=u, v=v, rows=rows, columns=columns, steps=state.steps + 1)

    def adjust(self, problem: Problem, state: SinkhornState, error: Float[Tensor, "batch"]) -> SinkhornState:
        if isinstance(state, Logarithmic):
            far = (_gap(problem, state) < -math.log(_reach(state.f))) & (problem.a > 0)
            return state if bool(far.any()) else _absorbed(problem, state.f, self._relaxation(problem))
        if not self.relaxed:
            return state
        relaxation = state.relaxation.adjusted(state.steps, error)
        due = relaxation.changed > state.relaxation.changed or bool((error > _HIGHEST).any())
        if due and bool((_growth(state) > _reach(state.u)).any()):
            return _absorbed(problem, self.value(problem, state, slice(None)).f, relaxation, state.steps)
        return replace(state, relaxation=relaxation)

    def error(self, problem: Problem, state: SinkhornState) -> Float[Tensor, "batch"]:
        """L1 error of the source marginal, plus the target's where over-relaxation has left it.

        At least the error of f and the best g for it.
        """
        if isinstance(state, Logarithmic):
            return _distance(tilted(problem.a, _gap(problem, state)), problem.a)
        error = _distance(state.u * state.rows, problem.a)
        return error if state.relaxation.plain else error + _distance(state.v * state.columns, problem.b)

    def value(self, problem: Problem, state: SinkhornState, which: Tensor | slice) -> DualPotentials:
        f, g = state.f[which], state.g[which]
        if isinstance(state, Logarithmic):
            return DualPotentials(f, g)
        eps = expand_eps(problem.eps, state.f)
        eps = eps[which] if isinstance(eps, Tensor) else eps
        return DualPotentials(f + eps * state.u[which].log(), g + eps * state.v[which].log())

    def _relaxation(self, problem: Problem) -> Relaxation:
        return Relaxation.expecting(expected_factor(problem) if self.relaxed else torch.ones_like(problem.a[:, 0]))


def _logarithmic(problem: Problem, start: DualPotentials) -> Logarithmic:
    return Logarithmic(start.f, start.g, c_transform(problem.T, start.g))


def _gap(problem: Problem, state: Logarithmic) -> Float[Tensor, "batch n"]:
    """Return the logarithm of the source marginal over the weights."""
    return (state.f - state.next_f) / expand_eps(problem.eps, state.f)


def _absorbed(
    problem: Problem, f: Float[Tensor, "batch n"], relaxation: Relaxation, steps: int = 0
) -> SinkhornState:
    """Absorb f and the best g for it into a kernel, if the other marginal is near enough to be a number."""
    h = f + expand_eps(problem.eps, f) * problem.a.log()
    g, kernel = problem.geometry.best_plan(h, problem.b, problem.eps)
    u, v = torch.ones_like(problem.a), torch.ones_like(problem.b)
    rows = kernel.times(v)
    if bool((rows * _reach(rows) < problem.a).any()):
        return _logarithmic(problem, DualPotentials(f, g))
    return Scaled(
        f=f,
        g=g,
        kernel=kernel,
        u=u,
        v=v,
        rows=rows,
        columns=problem.b,
        empty_rows=(problem.a == 0).to(f),
        empty_columns=(problem.b == 0).to(f),
        relaxation=relaxation,
        steps=steps,
    )


def _updated(u: Tensor, weights: Tensor, products: Tensor, empty: Tensor, relaxation: Relaxation) -> Tensor:
    """Return the scaling with which the marginal is right; over-relaxed, beyond it."""
    reach = _reach(weights)
    factor = (weights + empty).div_((u * products).add_(empty)).clamp_(1 / reach, reach)
    if not relaxation.plain:
        factor.pow_(relaxation.omega[:, None])
    return factor.mul_(u)


def _reach(like: Tensor) -> float:
    """Return a number far from one, of which some powers fit into the dtype: 1e15 in float64."""
    return torch.finfo(like.dtype).tiny ** -0.05


def _growth(state: Scaled) -> Float[Tensor, "batch"]:
    return state.u.amax(-1) * state.v.amax(-1)


def _distance(marginal: Tensor, weights: Tensor) -> Float[Tensor, "batch"]:
    return torch.linalg.vector_norm(marginal - weights, 1, -1)
