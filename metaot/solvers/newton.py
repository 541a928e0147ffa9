"""Newton's method on the semi-dual of entropic transport (Cuturi and Peyre 2016, arXiv 1503.02533, section 3).

With f as the only unknown, and g = g(f) the best for it, J(f) = <f, a> + <g(f), b> is concave, with the gradient
a - P 1 and the Hessian -(diag(P 1) - P diag(1/b) P^T)/eps.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.core.method import FACTORISED
from metaot.geometry.base import expand_eps, in_units_of
from metaot.geometry.kernel import Kernel, MatrixKernel
from metaot.objectives.dual import linear_value
from metaot.potentials import DualPotentials, c_transform, centred, tilted
from metaot.problem import Problem
from metaot.solvers import ascent
from metaot.solvers.iterate import Solver

NEAR, FAR_ROW = 0.05, 10.0
"""Newton needs no help from Sinkhorn below this L1 error, if no row has this many times its mass, or this part."""

PATIENCE, PROGRESS = 16, 0.9
"""Steps in a row after which an instance stops whose error has not fallen below this part of its least one."""

_LEAST, _LONGEST, _DOUBLINGS = 1e-6, 40.0, 12
"""A plan's products are exact if this part of each weight arrives and no potential moves by this many eps; most
doublings of a step."""


@final
@dataclass(frozen=True)
class NewtonState:
    """The unknown f, and what a Sinkhorn step would make of it, both in units of eps."""

    f: Float[Tensor, "batch n"]
    next_f: Float[Tensor, "batch n"]
    least: Float[Tensor, "batch"]
    since: Int[Tensor, "batch"]
    """The least error, and the steps without progress since then."""


@final
@dataclass(frozen=True)
class Newton(Solver[Problem, NewtonState, DualPotentials]):
    """Second order in the potential of the source; `solve` makes the smaller side the source.

    Far from the solution each step begins with one of Sinkhorn's. Of a guess, f is used. Up to about a thousand
    unknowns, a step factorises the Hessian; above, it solves with it by conjugate gradients, and no matrix is
    made. Steps never lower the dual value, and converge quadratically in the end (superlinearly with conjugate
    gradients), to about 1e-12 in float64. An instance whose error no longer falls stops.
    """

    def init(self, problem: Problem, guess: DualPotentials | None) -> NewtonState:
        return _state(problem, torch.zeros_like(problem.a) if guess is None else centred(problem.a, guess.f))

    def step(self, problem: Problem, state: NewtonState) -> NewtonState:
        a, b = problem.a, problem.b
        ratio = torch.where(a > 0, state.f - state.next_f, 0.0)
        near = (_error(a, state) < NEAR) & (ratio.abs().amax(-1) < math.log(FAR_ROW))
        f = torch.where(near[:, None], state.f, state.next_f)
        _, kernel = problem.geometry.best_plan((f + a.log()) * expand_eps(problem.eps, a), b, problem.eps)
        if not (isinstance(kernel, MatrixKernel) and a.shape[-1] <= FACTORISED):
            return _moved(problem, kernel, state, f, ascent.by_products(kernel, a, b))
        shift, goes_on = ascent.by_factor(kernel.K, a, b)
        shift = torch.where(shift.any(-1, keepdim=True), shift, state.next_f - f)
        further = goes_on.nonzero()[:, 0]
        if len(further) > 0:
            shift[further] = _doubled(problem[further], f[further], shift[further])
        return _moved(problem, kernel, state, f, shift)

    def adjust(self, problem: Problem, state: NewtonState, error: Float[Tensor, "batch"]) -> NewtonState:
        since = torch.where(error < PROGRESS * state.least, 0, state.since + 1)
        return replace(state, least=torch.minimum(state.least, error), since=since)

    def error(self, problem: Problem, state: NewtonState) -> Float[Tensor, "batch"]:
        """L1 error of the source marginal, NaN of a stalled instance; the target marginal is exact."""
        return torch.where(state.since < PATIENCE, _error(problem.a, state), torch.nan)

    def value(self, problem: Problem, state: NewtonState, which: Tensor | slice) -> DualPotentials:
        problem, f = problem[which], state.f[which]
        return DualPotentials.from_f(problem, f * expand_eps(problem.eps, f))


def _state(problem: Problem, f: Float[Tensor, "batch n"]) -> NewtonState:
    best = c_transform(problem.T, c_transform(problem, f))
    least = torch.full_like(f[:, 0], torch.inf)
    f, best = in_units_of(problem.eps, f), in_units_of(problem.eps, best)
    return NewtonState(f, best, least, torch.zeros_like(least, dtype=torch.int64))


def _error(a: Float[Tensor, "batch n"], state: NewtonState) -> Float[Tensor, "batch"]:
    return torch.linalg.vector_norm(tilted(a, state.f - state.next_f) - a, 1, -1)


def _moved(problem: Problem, kernel: Kernel, state: NewtonState, f: Tensor, shift: Tensor) -> NewtonState:
    """Shift f; find the best one for g(f) from the plan before the shift, or anew after a long one."""
    growth = _ratio(kernel.T.times(shift.exp()), problem.b)
    source = _ratio(shift.exp() * kernel.times(1 / growth), problem.a)
    f = f + shift
    best = f - source.log()
    far = (~((source.amin(-1) > _LEAST) & (shift.abs().amax(-1) < _LONGEST))).nonzero()[:, 0]
    if len(far) > 0:
        part = problem[far]
        exact = _state(part, f[far] * expand_eps(part.eps, f))
        best = best.index_copy(0, far, exact.next_f)
    return replace(state, f=f, next_f=best)


def _doubled(problem: Problem, f: Float[Tensor, "batch n"], shift: Float[Tensor, "batch n"]) -> Tensor:
    """Double a shift while the dual value rises: parts of a plan that hardly touch move freely until they do."""
    eps = expand_eps(problem.eps, f)

    def value(shift: Tensor) -> Tensor:
        return linear_value(problem, DualPotentials.from_f(problem, (f + shift) * eps))

    longer, most, going = shift, value(shift), torch.ones_like(f[:, 0], dtype=torch.bool)
    for _ in range(_DOUBLINGS):
        longer = 2 * longer
        reached = value(longer)
        going = going & (reached > most)
        if not bool(going.any()):
            break
        most = torch.where(going, reached, most)
        shift = torch.where(going[:, None], longer, shift)
    return shift


def _ratio(marginal: Float[Tensor, "batch n"], weights: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Return marginal over weights, one where there are none; above zero."""
    return torch.where(weights != 0, marginal.clamp_min(torch.finfo(weights.dtype).tiny) / weights, 1.0)
