"""Newton's method on the semi-dual of entropic transport (Cuturi and Peyre 2016, arXiv 1503.02533, section 3).

With f on the smaller side as the only unknown, and g = g(f) the best for it, J(f) = <f, a> + <g(f), b> is
concave, with the gradient a - P 1 and the Hessian -(diag(P 1) - P diag(1/b) P^T)/eps. All of it on the atoms
with mass, and in units of eps.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.geometry.base import expand_eps
from metaot.objectives import dual_loss
from metaot.potentials import DualPotentials, c_transform, centred, tilted
from metaot.problem import Problem
from metaot.solvers.iterate import Solver
from metaot.solvers.support import Support

_RIDGES = (1e-13, 1e-6, 1e-3)
"""Damping of the Hessian, whose eigenvalues are at most one when both sides are divided by sqrt(P 1)."""

_FAR = 200.0
"""A direction that changes a potential by more than this many eps is compared with more damped ones."""

_LENGTHS = 12
"""Lengths of a step that are compared: the whole of it, a half, a quarter, ..."""


@final
@dataclass(frozen=True)
class NewtonState:
    """The support, the cost of it, the unknown f, and the f that the next step sets out from: the best for g(f).

    C and the potentials are in units of eps.
    """

    exchanged: Bool[Tensor, "batch"]
    rows: Int[Tensor, "batch k"]
    columns: Int[Tensor, "batch l"]
    a: Float[Tensor, "batch k"]
    b: Float[Tensor, "batch l"]
    C: Float[Tensor, "batch k l"]
    f: Float[Tensor, "batch k"]
    next_f: Float[Tensor, "batch k"]

    @property
    def support(self) -> Support:
        """The atoms with mass."""
        return Support(self.exchanged, self.rows, self.columns, self.a, self.b)


@final
@dataclass(frozen=True)
class Newton(Solver[Problem, NewtonState, DualPotentials]):
    """Second order in the potential of the smaller side; one step is one of Sinkhorn's and then one of Newton's.

    For problems with up to about a thousand atoms with mass on the smaller side: memory and time of a step
    are those of its Hessian. Of a guess, f is used. Steps never lower the dual value, and converge
    quadratically in the end, to about 1e-12 in float64.
    """

    def init(self, problem: Problem, guess: DualPotentials | None) -> NewtonState:
        support = Support.of(problem)
        C = support.cost(problem) / expand_eps(problem.eps, problem.a, 2)
        small = support.problem(C)
        f = _start(small, support, torch.zeros_like(problem.a))
        if guess is not None:
            warm = _start(small, support, centred(problem.a, guess.f / expand_eps(problem.eps, guess.f)))
            better = dual_loss(small, warm) <= dual_loss(small, f)
            f = DualPotentials(torch.where(better[:, None], warm.f, f.f), f.g)
        next_f = c_transform(small.T, c_transform(small, f.f))
        return NewtonState(**vars(support), C=C, f=f.f, next_f=next_f)

    def step(self, problem: Problem, state: NewtonState) -> NewtonState:
        a, b = state.a, state.b
        Q = _shares(state)
        shift = _ascent(Q, a, b)
        f = state.next_f + shift
        growth = _times(Q.mT, shift.exp())
        source = shift.exp() * _times(Q, b / growth)
        ratio = torch.where(a != 0, source.clamp_min(torch.finfo(a.dtype).tiny) / a, 1.0)
        return replace(state, f=f, next_f=f - ratio.log())

    def error(self, problem: Problem, state: NewtonState) -> Float[Tensor, "batch"]:
        """L1 error of the marginal on the rows; the columns' is exact by construction."""
        return (tilted(state.a, state.f - state.next_f) - state.a).abs().sum(-1)

    def value(self, problem: Problem, state: NewtonState) -> DualPotentials:
        return state.support.complete(problem, state.f * expand_eps(problem.eps, state.f))


def _start(small: Problem, support: Support, f: Float[Tensor, "batch n"]) -> DualPotentials:
    """Return a potential of the source and the best one for it, whichever of them is on the rows."""
    on_rows, on_columns = support.gather(f)
    swap = support.exchanged[:, None]
    return DualPotentials(
        torch.where(swap, c_transform(small.T, on_columns), on_rows),
        torch.where(swap, on_columns, c_transform(small, on_rows)),
    )


def _shares(state: NewtonState) -> Float[Tensor, "batch k l"]:
    """Return P diag(1/b) for the plan that each step sets out from: how a column's mass is shared by the rows."""
    return ((state.next_f + state.a.log())[:, :, None] - state.C).softmax(1)


def _ascent(
    Q: Float[Tensor, "batch k l"], a: Float[Tensor, "batch k"], b: Float[Tensor, "batch l"]
) -> Float[Tensor, "batch k"]:
    """Return the change of f that raises J most, of Newton directions with more and more damping.

    Almost always the undamped one alone. One that is very long shows a plan that nearly falls apart: there
    the masses of the parts hide all else, and damping lets the rest move.
    """
    H, source = _hessian(Q, b), _times(Q, b)
    best, best_gain = torch.zeros_like(a), a.new_zeros(len(a))
    todo = torch.arange(len(a), device=a.device)
    for ridge in _RIDGES:
        direction = _direction(H[todo], source[todo], a[todo], ridge)
        shift, gain = _best_length(Q[todo], a[todo], b[todo], direction)
        better = gain > best_gain[todo]
        best[todo[better]], best_gain[todo[better]] = shift[better], gain[better]
        size = direction.abs().amax(-1)
        todo = todo[~((size > 0) & (size <= _FAR))]
        if len(todo) == 0:
            break
    return best


def _hessian(Q: Float[Tensor, "batch k l"], b: Float[Tensor, "batch l"]) -> Float[Tensor, "batch k k"]:
    """Return minus the Hessian, times eps, divided by sqrt(P 1) on both sides; the identity on atoms without mass.

    Its one null vector, the constants', is given the eigenvalue one.
    """
    root = _times(Q, b).sqrt()
    half = Q * b.sqrt()[:, None, :] / torch.where(root > 0, root, 1.0)[:, :, None]
    H = root[:, :, None] * root[:, None, :] - half @ half.mT
    H.diagonal(dim1=-2, dim2=-1).add_(1)
    return H


def _direction(H: Tensor, source: Tensor, a: Tensor, ridge: float) -> Float[Tensor, "batch k"]:
    """Return Newton's direction, without a constant; zero where the Hessian has no Cholesky factor."""
    root = torch.where(source > 0, source, 1.0).sqrt()
    gradient = a - source * (a.sum(-1) / source.sum(-1))[:, None]
    damped = H + ridge * torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    factor, failed = torch.linalg.cholesky_ex(damped)
    direction = torch.cholesky_solve((gradient / root)[:, :, None], factor).squeeze(-1) / root
    good = (failed == 0) & direction.isfinite().all(-1)
    return torch.where(good[:, None], direction, 0.0)


def _best_length(
    Q: Tensor, a: Tensor, b: Tensor, direction: Tensor
) -> tuple[Float[Tensor, "batch k"], Float[Tensor, "batch"]]:
    """Return the part of a direction that raises J most, and by how much, in units of eps.

    J(f + d) - J(f) = <d, a> - <log Q^T e^d, b>, right to rounding of the gain itself when d is small.
    """
    longest = math.log(torch.finfo(a.dtype).max) / 3.5
    whole = (longest / direction.abs().amax(-1).clamp_min(longest))[:, None, None]
    halves = 0.5 ** torch.arange(_LENGTHS, dtype=a.dtype, device=a.device)
    paths = whole * halves * direction[:, :, None]
    change = Q.mT @ paths.expm1()
    growth = torch.where(change.abs() < 0.5, change.log1p(), (Q.mT @ paths.exp()).log())
    gain, best = ((a[:, None, :] @ paths) - b[:, None, :] @ growth).squeeze(1).max(-1)
    shift = paths.gather(2, best[:, None, None].expand(-1, paths.shape[1], 1)).squeeze(2)
    return shift, gain


def _times(matrix: Float[Tensor, "batch r c"], vector: Float[Tensor, "batch c"]) -> Float[Tensor, "batch r"]:
    return (matrix @ vector[:, :, None]).squeeze(-1)
