"""Newton's method on the semi-dual of entropic transport (Cuturi and Peyre 2016, arXiv 1503.02533, section 3).

With f on the smaller side as the only unknown, and g = g(f) the best for it, J(f) = <f, a> + <g(f), b> is
concave, with the gradient a - P 1 and the Hessian -(diag(P 1) - P diag(1/b) P^T)/eps.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.core.method import FACTORISED
from metaot.geometry.base import expand_eps, in_units_of
from metaot.geometry.kernel import MatrixKernel
from metaot.potentials import DualPotentials, c_transform, centred, tilted
from metaot.problem import Problem
from metaot.solvers import conjugate, factorised
from metaot.solvers.iterate import Solver


@final
@dataclass(frozen=True)
class NewtonState:
    """The unknown f of the smaller side, and the f that the next step sets out from: the best for g(f).

    In units of eps. `exchanged` where the smaller side is the target.
    """

    f: Float[Tensor, "batch k"]
    next_f: Float[Tensor, "batch k"]
    exchanged: bool


@final
@dataclass(frozen=True)
class Newton(Solver[Problem, NewtonState, DualPotentials]):
    """Second order in the potential of the smaller side; one step is one of Sinkhorn's and then one of Newton's.

    Of a guess, f is used. Up to about a thousand unknowns, a step factorises the Hessian; above, it solves with
    it by conjugate gradients, and no matrix is made. Steps never lower the dual value, and converge
    quadratically in the end (superlinearly with conjugate gradients), to about 1e-12 in float64.
    """

    def init(self, problem: Problem, guess: DualPotentials | None) -> NewtonState:
        n, m = problem.geometry.shape
        f = torch.zeros_like(problem.a) if guess is None else centred(problem.a, guess.f)
        if n > m:
            return _state(problem.T, c_transform(problem, f), True)
        return _state(problem, f, False)

    def step(self, problem: Problem, state: NewtonState) -> NewtonState:
        small = problem.T if state.exchanged else problem
        a, b = small.a, small.b
        h = (state.next_f + a.log()) * expand_eps(small.eps, a)
        _, kernel = small.geometry.best_plan(h, b, small.eps)
        if isinstance(kernel, MatrixKernel) and a.shape[-1] <= FACTORISED:
            shift = factorised.ascent(kernel.K, a, b)
        else:
            shift = conjugate.ascent(kernel, a, b)
        growth = _ratio(kernel.T.times(shift.exp()), b)
        source = shift.exp() * kernel.times(1 / growth)
        f = state.next_f + shift
        return replace(state, f=f, next_f=f - _ratio(source, a).log())

    def adjust(self, problem: Problem, state: NewtonState, error: Float[Tensor, "batch"]) -> NewtonState:
        return state

    def error(self, problem: Problem, state: NewtonState) -> Float[Tensor, "batch"]:
        """L1 error of the marginal on the smaller side; the other's is exact by construction."""
        a = problem.b if state.exchanged else problem.a
        return torch.linalg.vector_norm(tilted(a, state.f - state.next_f) - a, 1, -1)

    def value(self, problem: Problem, state: NewtonState, which: Tensor | slice) -> DualPotentials:
        problem, f = problem[which], state.f[which]
        small = problem.T if state.exchanged else problem
        potentials = DualPotentials.from_f(small, f * expand_eps(problem.eps, f))
        if not state.exchanged:
            return potentials
        return DualPotentials(c_transform(problem.T, potentials.f), potentials.f)


def _state(small: Problem, f: Float[Tensor, "batch k"], exchanged: bool) -> NewtonState:
    best = c_transform(small.T, c_transform(small, f))
    return NewtonState(in_units_of(small.eps, f), in_units_of(small.eps, best), exchanged)


def _ratio(marginal: Float[Tensor, "batch k"], weights: Float[Tensor, "batch k"]) -> Float[Tensor, "batch k"]:
    """Return marginal over weights, one where there are none; above zero."""
    return torch.where(weights != 0, marginal.clamp_min(torch.finfo(weights.dtype).tiny) / weights, 1.0)
