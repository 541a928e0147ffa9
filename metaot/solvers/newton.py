r"""Newton's method on the semi-dual of entropic transport (Cuturi and Peyre 2016, arXiv 1503.02533, section 3).

With f as the only unknown, and g = g(f) the best for it, J(f) = <f, a> + <g(f), b> is concave, with the gradient
a - P 1 and the Hessian -(diag(P 1) - P diag(1/b) P^T)/eps. A direction is found by a factor of the Hessian or by
conjugate gradients, and cut to a length that raises J. Both methods divide the Hessian by sqrt(P 1) on both sides:
then its eigenvalues are in [0, 1], most of them near one.

Where marginals have the price `KL(rho)`, the potentials ask for the weights $A = a e^{-f/\rho}$ and for B of the
target in place of a and b; the Hessian has diag(A)/rho more, and B (1 + eps/rho) in place of b. With `TV(rho)`, f
and g are between bounds: those which these hold take no part in the Hessian.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.core.method import FACTORISED
from metaot.geometry.base import expand_eps, in_units_of
from metaot.geometry.kernel import Kernel, MatrixKernel
from metaot.objectives.dual import best_value
from metaot.potentials import (
    DualPotentials,
    c_transform,
    centred,
    exact_transform,
    relative_error,
    side_error,
    tilted,
)
from metaot.problem import Problem
from metaot.solvers.iterate import Solver
from metaot.solvers.local import Local, local
from metaot.solvers.quadratic import FARTHEST, highest_change, inverse_of, scale_of

NEAR, FAR_ROW = 0.05, 10.0
"""Newton needs no help from Sinkhorn below this L1 error, if no row has this many times its mass, or this part."""

PATIENCE, PROGRESS = 16, 0.9
"""Steps in a row after which an instance stops whose error has not fallen below this part of its least one."""

_LEAST, _LONGEST, _DOUBLINGS = 1e-6, 40.0, 12
"""A plan's products are exact if this part of each weight arrives and no potential moves by this many eps; most
doublings of a step."""

_RIDGES = (1e-13, 1e-6, 1e-3)
"""Damping of the Hessian: a larger one where the direction does not raise J."""

_LENGTHS = 12
"""How many steps are tried, each half of the last."""

_ENOUGH, _MUCH = 0.25, 0.75
"""Parts of the first-order gain: what a step must bring (Armijo), and what shows that a longer one may help."""

_ITERATIONS, _TESTED = 300, 5
"""Most iterations of conjugate gradients, and iterations between two tests, each of which makes a GPU wait."""

_HALVINGS, _LITTLE = 30, 1e-4
"""Most halvings of their direction, and the part of the first-order gain that it must bring."""


@final
@dataclass(frozen=True)
class NewtonState:
    """The unknown f, in units of eps."""

    f: Float[Tensor, "batch n"]
    exact_f: Float[Tensor, "batch n"]
    """The f that would make the source's marginal the weights, for g(f)."""
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
        if guess is None:
            return _state(problem, torch.zeros_like(problem.a))
        f = centred(problem.a, guess.f) if problem.is_balanced else problem.marginals.source.bounded(guess.f)
        return _state(problem, f)

    def step(self, problem: Problem, state: NewtonState) -> NewtonState:
        sides = problem.marginals.in_units_of(problem.eps)
        next_f = sides.source.best(state.exact_f, 1.0)
        ratio = torch.where(problem.a > 0, state.f - next_f, 0.0)
        near = (_error(problem, state) < NEAR) & (ratio.abs().amax(-1) < math.log(FAR_ROW))
        here, kernel = local(problem, torch.where(near[:, None], state.f, next_f))
        if not (isinstance(kernel, MatrixKernel) and problem.a.shape[-1] <= FACTORISED):
            shift = _by_products(kernel, here)
            if not here.are_smooth:
                shift = torch.where(shift.any(-1, keepdim=True), shift, next_f - here.f)
            return _moved(problem, kernel, state, here, shift)
        shift, goes_on = _by_factor(kernel.K, here)
        shift = torch.where(shift.any(-1, keepdim=True), shift, next_f - here.f)
        further = goes_on.nonzero()[:, 0]
        if len(further) > 0:
            shift[further] = _doubled(problem[further], here[further], shift[further])
        return _moved(problem, kernel, state, here, shift)

    def adjust(self, problem: Problem, state: NewtonState, error: Float[Tensor, "batch"]) -> NewtonState:
        since = torch.where(error < PROGRESS * state.least, 0, state.since + 1)
        return replace(state, least=torch.minimum(state.least, error), since=since)

    def error(self, problem: Problem, state: NewtonState) -> Float[Tensor, "batch"]:
        """L1 error of the source marginal, NaN of a stalled instance; the target marginal is exact."""
        return torch.where(state.since < PATIENCE, _error(problem, state), torch.nan)

    def value(self, problem: Problem, state: NewtonState, which: Tensor | slice) -> DualPotentials:
        problem, f = problem[which], state.f[which]
        return DualPotentials.from_f(problem, f * expand_eps(problem.eps, f))


def _state(problem: Problem, f: Float[Tensor, "batch n"]) -> NewtonState:
    best = exact_transform(problem.T, c_transform(problem, f))
    least = torch.full_like(f[:, 0], torch.inf)
    f, best = in_units_of(problem.eps, f), in_units_of(problem.eps, best)
    return NewtonState(f, best, least, torch.zeros_like(least, dtype=torch.int64))


def _error(problem: Problem, state: NewtonState) -> Float[Tensor, "batch"]:
    marginal = tilted(problem.a, state.f - state.exact_f)
    f = state.f if problem.is_balanced else state.f * expand_eps(problem.eps, state.f)
    return relative_error(problem, side_error(problem, f, marginal), marginal.sum(-1))


def _moved(problem: Problem, kernel: Kernel, state: NewtonState, here: Local, shift: Tensor) -> NewtonState:
    """Shift f; find the best one for g(f) from the plan before the shift, or anew after a long one."""
    growth = _ratio(kernel.T.times(shift.exp()), here.b).log()
    source = _ratio(shift.exp() * kernel.times(here.target.followed(-growth).exp()), here.a)
    f = here.f + shift
    best = f - source.log() + here.f * here.source.stiffness
    far = (~((source.amin(-1) > _LEAST) & (shift.abs().amax(-1) < _LONGEST))).nonzero()[:, 0]
    if len(far) > 0:
        part = problem[far]
        best = best.index_copy(0, far, _state(part, f[far] * expand_eps(part.eps, f)).exact_f)
    return replace(state, f=f, exact_f=best)


def _doubled(problem: Problem, here: Local, shift: Float[Tensor, "batch n"]) -> Tensor:
    """Double a shift while the dual value rises: parts of a plan that hardly touch move freely until they do."""
    eps = expand_eps(problem.eps, shift)

    def value(shift: Tensor) -> Tensor:
        return best_value(problem, DualPotentials.from_f(problem, (here.f + shift) * eps))

    longer, most, going = shift, value(shift), torch.ones_like(shift[:, 0], dtype=torch.bool)
    for _ in range(_DOUBLINGS):
        longer = here.source.within(2 * longer)
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


def _by_factor(
    P: Float[Tensor, "batch n m"], here: Local
) -> tuple[Float[Tensor, "batch n"], Bool[Tensor, "batch"]]:
    """Return a change of f, zero where none is found that raises J, and whether a longer one may raise it more.

    It is the first of more and more damped Newton directions that raises J by enough, almost always the undamped
    one. A very long direction shows a plan that nearly falls apart: there the masses of the parts hide all else,
    and damping lets the rest move.
    """
    source = P.sum(-1)
    shift, goes_on = torch.zeros_like(here.a), torch.zeros_like(here.a[:, 0], dtype=torch.bool)
    left = torch.arange(len(shift), device=shift.device)
    for ridge in _RIDGES:
        part = here[left]
        direction = highest_change(P[left], source[left], part, ridge)
        shift[left], goes_on[left] = _shortened(P[left], source[left], part, direction)
        left = left[~shift[left].any(-1)]
        if len(left) == 0:
            break
    return shift, goes_on


def _shortened(P: Tensor, source: Tensor, here: Local, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Try the whole of a direction, a half, and so on, until J rises by enough.

    J(f + d) - J(f) = <d, a> - <log (P/b)^T e^d, b>, right to rounding of the gain itself when d is small.
    """
    a, b = here.a, here.b
    size = direction.abs().amax(-1)
    halves = 0.5 ** torch.arange(_LENGTHS, dtype=a.dtype, device=a.device)
    lengths = (FARTHEST / size.clamp_min(FARTHEST))[:, None] * halves
    paths = lengths[:, None, :] * direction[:, :, None]
    weights = torch.where(b > 0, b, 1.0)[:, :, None]
    change = (P.mT @ paths.expm1()) / weights
    growth = torch.where(change.abs() < 0.5, change.log1p(), ((P.mT @ paths.exp()) / weights).log())
    growth = torch.where(b[:, :, None] > 0, growth, 0.0)
    gains = a[:, None, :] @ here.source.worth(paths) + b[:, None, :] @ here.target.worth_of_best(-growth)
    gains = gains.squeeze(1)
    rounding = 10 * torch.finfo(a.dtype).eps * b.sum(-1, keepdim=True)
    expected = lengths * (here.gradient(source) * direction).sum(-1, keepdim=True)
    enough = (gains >= _ENOUGH * expected - rounding) & (size > 0)[:, None]
    length = lengths.gather(1, enough.int().argmax(-1, keepdim=True)) * enough.any(-1, keepdim=True)
    return length * direction, enough[:, 0] & (size > 1) & (gains[:, 0] > _MUCH * expected[:, 0])


def _by_products(kernel: Kernel, here: Local) -> Float[Tensor, "batch n"]:
    """Return a change of f that raises J, from products with the plan alone: a truncated Newton direction.

    The relative residual is at most the L1 error, and a tenth, so that the outer convergence is quadratic in the
    end (Dembo, Eisenstat and Steihaug 1982); but not below the rounding of the gradient, which directions of no
    curvature would amplify. A gradient that is rounding changes nothing. Potentials that bounds hold stay, and all
    others stop at their bounds (Bertsekas, SIAM J. Control Optim. 1982).
    """
    a, source = here.a, kernel.times(torch.ones_like(here.b))
    gradient = here.gradient(source)
    gradient = torch.where(here.source.within(gradient.sign()) != 0, gradient, 0.0)
    error, rounding = gradient.abs().sum(-1), 100 * torch.finfo(a.dtype).eps
    gradient = torch.where((error > rounding)[:, None], gradient, 0.0)
    accuracy = torch.maximum(error, rounding / error).clamp_max(0.1)
    scale = scale_of(source)
    direction = _conjugated(kernel, here, scale, gradient / scale, accuracy) / scale
    return _halved(kernel, here, direction, (direction * gradient).sum(-1))


def _conjugated(
    kernel: Kernel, here: Local, scale: Tensor, residual: Tensor, accuracy: Tensor
) -> Float[Tensor, "batch n"]:
    """Solve with the scaled Hessian to a relative accuracy, by conjugate gradients."""
    x, p, inverse = torch.zeros_like(residual), residual, inverse_of(here.b) * here.target.share
    stiff, free = here.source.stiffness * here.a / scale.square(), (residual != 0) | here.are_smooth
    square = residual.square().sum(-1, keepdim=True)
    enough = square * accuracy.square()[:, None]
    for count in range(_ITERATIONS):
        if count % _TESTED == 0 and not bool((square > enough).any()):
            break
        Hp = p - kernel.times(inverse * kernel.T.times(p / scale)) / scale
        Hp = torch.where(free, Hp + stiff * p, 0.0)
        curvature = (p * Hp).sum(-1, keepdim=True)
        going = (square > enough) & (curvature > 0)
        step = torch.where(going, square / torch.where(going, curvature, 1.0), 0.0)
        x, residual = x + step * p, residual - step * Hp
        previous, square = square, residual.square().sum(-1, keepdim=True)
        p = residual + torch.where(going, square / previous, 0.0) * p
        square = torch.where(going, square, 0.0)
    return x


def _halved(kernel: Kernel, here: Local, direction: Tensor, slope: Tensor) -> Float[Tensor, "batch n"]:
    """Halve a direction until it raises J by enough; zero where it never does."""
    a, b = here.a, here.b
    tiny, inverse = torch.finfo(a.dtype).eps, inverse_of(b)
    longest = math.log(torch.finfo(a.dtype).max) / 3.5
    cut = longest / direction.abs().amax(-1).clamp_min(longest)
    shift, slope = direction * cut[:, None], slope * cut
    d, length, short = shift, torch.ones_like(slope), torch.ones_like(slope, dtype=torch.bool)
    for _ in range(_HALVINGS):
        d = here.source.within(length[:, None] * shift)
        growth = (kernel.T.times(d.expm1()) * inverse).clamp_min(-1 + tiny).log1p()
        gain = (a * here.source.worth(d)).sum(-1) + (b * here.target.worth_of_best(-growth)).sum(-1)
        short = ~(gain >= _LITTLE * length * slope - 10 * tiny * b.sum(-1))
        if not bool(short.any()):
            return d
        length = torch.where(short, 0.5 * length, length)
    return torch.where(short[:, None], 0.0, d)
