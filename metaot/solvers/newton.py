r"""Newton's method on the semi-dual of entropic transport (Cuturi and Peyre 2016, arXiv 1503.02533, section 3).

With f as the only unknown, and g = g(f) the best for it, J(f) = <f, a> + <g(f), b> is concave, with the gradient
a - P 1 and the Hessian -(diag(P 1) - P diag(1/b) P^T)/eps. A direction is found by a factor of the Hessian or by
conjugate gradients, and cut to a length that raises J. Both methods divide the Hessian by sqrt(P 1) on both sides:
then its eigenvalues are in [0, 1], most of them near one.

Where marginals have the price `KL(rho)`, the potentials ask for the weights $A = a e^{-f/\rho}$ and for B of the
target in place of a and b; the Hessian has diag(A)/rho more, and B (1 + eps/rho) in place of b.
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
from metaot.marginals import Marginal, Marginals
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

NEAR, FAR_ROW = 0.05, 10.0
"""Newton needs no help from Sinkhorn below this L1 error, if no row has this many times its mass, or this part."""

PATIENCE, PROGRESS = 16, 0.9
"""Steps in a row after which an instance stops whose error has not fallen below this part of its least one."""

_LEAST, _LONGEST, _DOUBLINGS = 1e-6, 40.0, 12
"""A plan's products are exact if this part of each weight arrives and no potential moves by this many eps; most
doublings of a step."""

_RIDGES = (1e-13, 1e-6, 1e-3)
"""Damping of the Hessian: a larger one where the direction does not raise J."""

_FARTHEST, _LENGTHS = 24.0, 12
"""The most that the first step tried changes a potential; how many steps are tried, each half of the last."""

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
        if not problem.marginals.are_smooth:
            raise ValueError("Newton takes smooth prices of marginals, as metaot.KL(rho), got TV: use Sinkhorn()")
        if guess is None:
            return _state(problem, torch.zeros_like(problem.a))
        return _state(problem, centred(problem.a, guess.f) if problem.is_balanced else guess.f)

    def step(self, problem: Problem, state: NewtonState) -> NewtonState:
        sides = problem.marginals.in_units_of(problem.eps)
        next_f = sides.source.best(state.exact_f, 1.0)
        ratio = torch.where(problem.a > 0, state.f - next_f, 0.0)
        near = (_error(problem, state) < NEAR) & (ratio.abs().amax(-1) < math.log(FAR_ROW))
        local, kernel = _local(problem, torch.where(near[:, None], state.f, next_f))
        if not (isinstance(kernel, MatrixKernel) and problem.a.shape[-1] <= FACTORISED):
            return _moved(problem, kernel, state, local, _by_products(kernel, local))
        shift, goes_on = _by_factor(kernel.K, local)
        shift = torch.where(shift.any(-1, keepdim=True), shift, next_f - local.f)
        further = goes_on.nonzero()[:, 0]
        if len(further) > 0:
            shift[further] = _doubled(problem[further], local.f[further], shift[further])
        return _moved(problem, kernel, state, local, shift)

    def adjust(self, problem: Problem, state: NewtonState, error: Float[Tensor, "batch"]) -> NewtonState:
        since = torch.where(error < PROGRESS * state.least, 0, state.since + 1)
        return replace(state, least=torch.minimum(state.least, error), since=since)

    def error(self, problem: Problem, state: NewtonState) -> Float[Tensor, "batch"]:
        """L1 error of the source marginal, NaN of a stalled instance; the target marginal is exact."""
        return torch.where(state.since < PATIENCE, _error(problem, state), torch.nan)

    def value(self, problem: Problem, state: NewtonState, which: Tensor | slice) -> DualPotentials:
        problem, f = problem[which], state.f[which]
        return DualPotentials.from_f(problem, f * expand_eps(problem.eps, f))


@final
@dataclass(frozen=True)
class _Local:
    """The weights that f and g(f) ask for, and the prices of changes of f and g: of balanced sides, a and b."""

    f: Float[Tensor, "batch n"]
    a: Float[Tensor, "batch n"]
    b: Float[Tensor, "batch m"]
    source: Marginal
    target: Marginal

    @property
    def stiffness(self) -> Tensor | float:
        """How much a changes with f, relative to itself."""
        return 1 / expand_eps(self.source.rho, self.a)

    @property
    def share(self) -> Tensor | float:
        """The part of a change of the best balanced g that the best g follows."""
        return 1 - 1 / expand_eps(self.target.rho, self.b)

    def __getitem__(self, index: Tensor) -> "_Local":
        sides = Marginals(self.source, self.target)[index]
        return _Local(self.f[index], self.a[index], self.b[index], sides.source, sides.target)


def _local(problem: Problem, f: Float[Tensor, "batch n"]) -> tuple[_Local, Kernel]:
    """Return what a step from f needs, at the best level of f, and the plan, whose columns have the sums b."""
    a, b, eps = problem.a, problem.b, expand_eps(problem.eps, problem.a)
    g, kernel = problem.geometry.best_plan((f + a.log()) * eps, b, problem.eps)
    if problem.is_balanced:
        return _Local(f, a, b, problem.marginals.source, problem.marginals.target), kernel
    sides, S = problem.marginals.in_units_of(problem.eps), g / eps
    level = sides.level(a, b, f, S)
    f, S = f + level, S - level
    g = sides.target.best(S, 1.0)
    if isinstance(kernel, MatrixKernel):
        kernel = MatrixKernel(kernel.K * (g - S).exp()[:, None, :])
    else:
        kernel = problem.geometry.kernel((f + a.log()) * eps, (g + b.log()) * eps, problem.eps)
    target = sides.target.priced(sides.target.rho + 1)
    return _Local(f, sides.source.asked(a, f), sides.target.asked(b, g), sides.source, target), kernel


def _state(problem: Problem, f: Float[Tensor, "batch n"]) -> NewtonState:
    best = exact_transform(problem.T, c_transform(problem, f))
    least = torch.full_like(f[:, 0], torch.inf)
    f, best = in_units_of(problem.eps, f), in_units_of(problem.eps, best)
    return NewtonState(f, best, least, torch.zeros_like(least, dtype=torch.int64))


def _error(problem: Problem, state: NewtonState) -> Float[Tensor, "batch"]:
    marginal = tilted(problem.a, state.f - state.exact_f)
    f = state.f if problem.is_balanced else state.f * expand_eps(problem.eps, state.f)
    return relative_error(problem, side_error(problem, f, marginal), marginal.sum(-1))


def _moved(problem: Problem, kernel: Kernel, state: NewtonState, local: _Local, shift: Tensor) -> NewtonState:
    """Shift f; find the best one for g(f) from the plan before the shift, or anew after a long one."""
    growth = _ratio(kernel.T.times(shift.exp()), local.b)
    source = _ratio(shift.exp() * kernel.times(growth.pow(-local.share)), local.a)
    f = local.f + shift
    best = f - source.log() + local.f * local.stiffness
    far = (~((source.amin(-1) > _LEAST) & (shift.abs().amax(-1) < _LONGEST))).nonzero()[:, 0]
    if len(far) > 0:
        part = problem[far]
        best = best.index_copy(0, far, _state(part, f[far] * expand_eps(part.eps, f)).exact_f)
    return replace(state, f=f, exact_f=best)


def _doubled(problem: Problem, f: Float[Tensor, "batch n"], shift: Float[Tensor, "batch n"]) -> Tensor:
    """Double a shift while the dual value rises: parts of a plan that hardly touch move freely until they do."""
    eps = expand_eps(problem.eps, f)

    def value(shift: Tensor) -> Tensor:
        return best_value(problem, DualPotentials.from_f(problem, (f + shift) * eps))

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


def _by_factor(
    P: Float[Tensor, "batch n m"], local: _Local
) -> tuple[Float[Tensor, "batch n"], Bool[Tensor, "batch"]]:
    """Return a change of f, zero where none is found that raises J, and whether a longer one may raise it more.

    It is the first of more and more damped Newton directions that raises J by enough, almost always the undamped
    one. A very long direction shows a plan that nearly falls apart: there the masses of the parts hide all else,
    and damping lets the rest move.
    """
    a, b, source = local.a, local.b, P.sum(-1)
    root, scale, gradient = source.sqrt(), _scale(source), _gradient(source, a)
    half = P * ((torch.where(b > 0, b, 1.0) / local.share).rsqrt()[:, None, :] / scale[:, :, None])
    H = root[:, :, None] * root[:, None, :] - half @ half.mT
    H.diagonal(dim1=-2, dim2=-1).add_(1)  # the one null vector, the constants', has the eigenvalue one
    if not local.source.is_exact:
        H.diagonal(dim1=-2, dim2=-1).add_(local.stiffness * a / scale.square())
    shift, goes_on = torch.zeros_like(a), torch.zeros_like(a[:, 0], dtype=torch.bool)
    left = torch.arange(len(a), device=a.device)
    for ridge in _RIDGES:
        damped = H[left]
        damped.diagonal(dim1=-2, dim2=-1).add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(damped)
        direction = torch.cholesky_solve((gradient[left] / scale[left])[:, :, None], factor).squeeze(-1)
        solved = (failed == 0) & direction.isfinite().all(-1)
        direction = torch.where(solved[:, None], direction, 0.0) / scale[left]
        shift[left], goes_on[left] = _shortened(P[left], source[left], local[left], direction)
        left = left[~shift[left].any(-1)]
        if len(left) == 0:
            break
    return shift, goes_on


def _shortened(P: Tensor, source: Tensor, local: _Local, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Try the whole of a direction, a half, and so on, until J rises by enough.

    J(f + d) - J(f) = <d, a> - <log (P/b)^T e^d, b>, right to rounding of the gain itself when d is small.
    """
    a, b = local.a, local.b
    size = direction.abs().amax(-1)
    halves = 0.5 ** torch.arange(_LENGTHS, dtype=a.dtype, device=a.device)
    lengths = (_FARTHEST / size.clamp_min(_FARTHEST))[:, None] * halves
    paths = lengths[:, None, :] * direction[:, :, None]
    weights = torch.where(b > 0, b, 1.0)[:, :, None]
    change = (P.mT @ paths.expm1()) / weights
    growth = torch.where(change.abs() < 0.5, change.log1p(), ((P.mT @ paths.exp()) / weights).log())
    growth = torch.where(b[:, :, None] > 0, growth, 0.0)
    worth = local.source.worth(paths.flatten(1)).unflatten(1, paths.shape[1:])
    lost = local.target.worth(-growth.flatten(1)).unflatten(1, growth.shape[1:])
    gains = (a[:, None, :] @ worth + b[:, None, :] @ lost).squeeze(1)
    expected = lengths * ((a - source) * direction).sum(-1, keepdim=True)
    enough = (gains >= _ENOUGH * expected - 10 * torch.finfo(a.dtype).eps) & (size > 0)[:, None]
    length = lengths.gather(1, enough.int().argmax(-1, keepdim=True)) * enough.any(-1, keepdim=True)
    return length * direction, enough[:, 0] & (size > 1) & (gains[:, 0] > _MUCH * expected[:, 0])


def _by_products(kernel: Kernel, local: _Local) -> Float[Tensor, "batch n"]:
    """Return a change of f that raises J, from products with the plan alone: a truncated Newton direction.

    The relative residual is at most the L1 error, and a tenth, so that the outer convergence is quadratic in the
    end (Dembo, Eisenstat and Steihaug 1982); but not below the rounding of the gradient, which directions of no
    curvature would amplify. A gradient that is rounding changes nothing.
    """
    a, source = local.a, kernel.times(torch.ones_like(local.b))
    gradient = _gradient(source, a)
    error, rounding = gradient.abs().sum(-1), 100 * torch.finfo(a.dtype).eps
    gradient = torch.where((error > rounding)[:, None], gradient, 0.0)
    accuracy = torch.maximum(error, rounding / error).clamp_max(0.1)
    scale = _scale(source)
    direction = _conjugated(kernel, local, scale, gradient / scale, accuracy) / scale
    return _halved(kernel, local, direction, (direction * gradient).sum(-1))


def _conjugated(
    kernel: Kernel, local: _Local, scale: Tensor, residual: Tensor, accuracy: Tensor
) -> Float[Tensor, "batch n"]:
    """Solve with the scaled Hessian to a relative accuracy, by conjugate gradients."""
    x, p, inverse = torch.zeros_like(residual), residual, torch.where(local.b > 0, local.share / local.b, 0.0)
    stiff = None if local.source.is_exact else local.stiffness * local.a / scale.square()
    square = residual.square().sum(-1, keepdim=True)
    enough = square * accuracy.square()[:, None]
    for count in range(_ITERATIONS):
        if count % _TESTED == 0 and not bool((square > enough).any()):
            break
        Hp = p - kernel.times(inverse * kernel.T.times(p / scale)) / scale
        Hp = Hp if stiff is None else Hp + stiff * p
        curvature = (p * Hp).sum(-1, keepdim=True)
        going = (square > enough) & (curvature > 0)
        step = torch.where(going, square / torch.where(going, curvature, 1.0), 0.0)
        x, residual = x + step * p, residual - step * Hp
        previous, square = square, residual.square().sum(-1, keepdim=True)
        p = residual + torch.where(going, square / previous, 0.0) * p
        square = torch.where(going, square, 0.0)
    return x


def _halved(kernel: Kernel, local: _Local, direction: Tensor, slope: Tensor) -> Float[Tensor, "batch n"]:
    """Halve a direction until it raises J by enough; zero where it never does."""
    a, b = local.a, local.b
    tiny, inverse = torch.finfo(a.dtype).eps, torch.where(b > 0, 1 / b, 0.0)
    longest = math.log(torch.finfo(a.dtype).max) / 3.5
    cut = longest / direction.abs().amax(-1).clamp_min(longest)
    shift, slope = direction * cut[:, None], slope * cut
    length, short = torch.ones_like(slope), torch.ones_like(slope, dtype=torch.bool)
    for _ in range(_HALVINGS):
        d = length[:, None] * shift
        growth = (kernel.T.times(d.expm1()) * inverse).clamp_min(-1 + tiny).log1p()
        gain = (a * local.source.worth(d)).sum(-1) + (b * local.target.worth(-growth)).sum(-1)
        short = ~(gain >= _LITTLE * length * slope - 10 * tiny)
        if not bool(short.any()):
            return d
        length = torch.where(short, 0.5 * length, length)
    return torch.where(short[:, None], 0.0, length[:, None] * shift)


def _scale(source: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Return sqrt(P 1), one without mass."""
    return torch.where(source > 0, source, 1.0).sqrt()


def _gradient(source: Float[Tensor, "batch n"], a: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Return a - P 1, for a plan scaled to the mass of a."""
    return a - source * (a.sum(-1) / source.sum(-1))[:, None]
