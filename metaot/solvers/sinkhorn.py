"""Sinkhorn's algorithm (Cuturi 2013; algorithm 1 of Meta OT, arXiv 2206.05262), accelerated, with scalings.

The potentials of the start are absorbed into a Gibbs kernel, which is then about the plan; a step is two products
with it (Schmitzer, arXiv 1610.06519). Starts so far away that marginals leave floating point make steps in the log
domain. Anderson acceleration (`metaot.solvers.anderson`) tells how to go on from the last steps.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metaot.geometry.base import expand_eps
from metaot.geometry.kernel import Kernel
from metaot.potentials import DualPotentials, c_transform, tilted
from metaot.problem import Problem
from metaot.solvers.anderson import Anderson
from metaot.solvers.iterate import Solver

_HIGHEST = 2.0
"""The L1 error of plain steps is never above it."""

_OFTEN = 8
"""Steps after which scalings are looked at."""


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
    """Scalings of a kernel that has the potentials f and g absorbed: x is the logarithm of the source's.

    The target's are the best for it; `marginal` is the source's, and `residual` log a less its logarithm.
    """

    f: Float[Tensor, "batch n"]
    g: Float[Tensor, "batch m"]
    kernel: Kernel
    x: Float[Tensor, "batch n"]
    v: Float[Tensor, "batch m"]
    marginal: Float[Tensor, "batch n"]
    residual: Float[Tensor, "batch n"]
    empty_rows: Float[Tensor, "batch n"]
    empty_columns: Float[Tensor, "batch m"]
    """One for atoms without mass: their marginals and weights are both taken as one, not as zero."""
    path: Anderson | None
    steps: int


SinkhornState = Logarithmic | Scaled


@final
@dataclass(frozen=True)
class Sinkhorn(Solver[Problem, SinkhornState, DualPotentials]):
    """Alternating maximisation of the dual in f and in g; one step updates both.

    Of a guess, f is used. With `accelerated`, a step sets out from the best point between the last ones
    (Anderson): several times fewer steps where many are needed. Without, from the last. Safe at every eps in
    float64; in float32 errors below about 1e-7 |C|/eps are rounding.
    """

    accelerated: bool = True

    def init(self, problem: Problem, guess: DualPotentials | None) -> SinkhornState:
        start = torch.zeros_like(problem.a) if guess is None else guess.f
        return _absorbed(problem, start, self._path(problem))

    def step(self, problem: Problem, state: SinkhornState) -> SinkhornState:
        if isinstance(state, Logarithmic):
            return _logarithmic(problem, DualPotentials.from_f(problem, state.next_f))
        x, path = state.x + state.residual, state.path
        if path is not None:
            x, path = path.next(state.x, state.residual)
        u = x.exp()
        v = (problem.b + state.empty_columns) / (state.kernel.T.times(u) + state.empty_columns)
        marginal = state.kernel.times(v).mul_(u)
        residual = _residual(problem.a, marginal, state.empty_rows)
        return replace(state, x=x, v=v, marginal=marginal, residual=residual, path=path, steps=state.steps + 1)

    def adjust(self, problem: Problem, state: SinkhornState, error: Float[Tensor, "batch"]) -> SinkhornState:
        if isinstance(state, Logarithmic):
            far = (_gap(problem, state) < -_reach(state.f)) & (problem.a > 0)
            return state if bool(far.any()) else _absorbed(problem, state.f, self._path(problem))
        if state.path is not None:
            state = replace(state, path=state.path.judged(state.x, state.residual, error))
        due = state.steps % _OFTEN == 0 or bool((error > _HIGHEST).any())
        if due and bool(_too_far(state).any()):
            return _absorbed_again(problem, state)
        return state

    def error(self, problem: Problem, state: SinkhornState) -> Float[Tensor, "batch"]:
        """L1 error of the source marginal: that of f and the best g for it."""
        if isinstance(state, Logarithmic):
            return _distance(tilted(problem.a, _gap(problem, state)), problem.a)
        error = _distance(state.marginal, problem.a)
        return error if state.steps == 0 else error.nan_to_num_(nan=torch.inf)

    def value(self, problem: Problem, state: SinkhornState, which: Tensor | slice) -> DualPotentials:
        f, g = state.f[which], state.g[which]
        if isinstance(state, Logarithmic):
            return DualPotentials(f, g)
        eps = expand_eps(problem.eps, state.f)
        eps = eps[which] if isinstance(eps, Tensor) else eps
        return DualPotentials(f + eps * state.x[which], g + eps * state.v[which].log())

    def _path(self, problem: Problem) -> Anderson | None:
        return Anderson.of(problem.a) if self.accelerated else None


def _logarithmic(problem: Problem, start: DualPotentials) -> Logarithmic:
    return Logarithmic(start.f, start.g, c_transform(problem.T, start.g))


def _gap(problem: Problem, state: Logarithmic) -> Float[Tensor, "batch n"]:
    """Return the logarithm of the source marginal over the weights."""
    return (state.f - state.next_f) / expand_eps(problem.eps, state.f)


def _absorbed(
    problem: Problem, f: Float[Tensor, "batch n"], path: Anderson | None, steps: int = 0
) -> SinkhornState:
    """Absorb f and the best g for it into a kernel, if the other marginal is near enough to be a number."""
    h = f + expand_eps(problem.eps, f) * problem.a.log()
    g, kernel = problem.geometry.best_plan(h, problem.b, problem.eps)
    empty_rows, empty_columns = ((weights == 0).to(f) for weights in (problem.a, problem.b))
    v = torch.ones_like(problem.b)
    marginal = kernel.times(v)
    residual = _residual(problem.a, marginal, empty_rows)
    if bool((residual >= _reach(f)).any()):
        return _logarithmic(problem, DualPotentials(f, g))
    return Scaled(
        f=f,
        g=g,
        kernel=kernel,
        x=torch.zeros_like(f),
        v=v,
        marginal=marginal,
        residual=residual,
        empty_rows=empty_rows,
        empty_columns=empty_columns,
        path=path,
        steps=steps,
    )


def _absorbed_again(problem: Problem, state: Scaled) -> SinkhornState:
    """Absorb the scalings, or the best ones so far where these have gone too far."""
    path, eps = state.path, expand_eps(problem.eps, state.f)
    if path is None:
        return _absorbed(problem, state.f + eps * state.x, None, state.steps)
    x = state.x if path.lost is None else torch.where(path.lost[:, None], path.best, state.x)
    path = replace(path, lost=None)
    again = _absorbed(problem, state.f + eps * x, path.moved(x), state.steps)
    if isinstance(again, Scaled):
        return again
    x, path = path.back()
    return _absorbed(problem, state.f + eps * x, path.moved(x), state.steps)


def _residual(weights: Tensor, marginal: Tensor, empty: Tensor) -> Tensor:
    reach = _reach(weights)
    return (weights + empty).div_(marginal + empty).log_().clamp_(-reach, reach)


def _too_far(state: Scaled) -> Bool[Tensor, "batch"]:
    """Tell where a scaling has left the range that the kernel stands."""
    return ~(state.x.amax(-1) - state.x.amin(-1) <= _reach(state.x))


def _reach(like: Tensor) -> float:
    """Return the logarithm of a number far from one, of which some powers fit into the dtype: 35 in float64."""
    return -0.05 * math.log(torch.finfo(like.dtype).tiny)


def _distance(marginal: Tensor, weights: Tensor) -> Float[Tensor, "batch"]:
    return torch.linalg.vector_norm(marginal - weights, 1, -1)
