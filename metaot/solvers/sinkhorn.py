"""Sinkhorn's algorithm (Cuturi 2013; algorithm 1 of Meta OT, arXiv 2206.05262), accelerated, with scalings.

The potentials of the start are absorbed into a Gibbs kernel, which is then about the plan; a step is two products
with it (Schmitzer, arXiv 1610.06519). Marginals that leave floating point are summed in the log domain. Anderson
acceleration (`metaot.solvers.anderson`) says how to go on from the last steps.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.geometry.base import expand_eps, in_units_of
from metaot.geometry.kernel import Kernel
from metaot.potentials import DualPotentials, exact_transform, relative_error, side_error, tilted
from metaot.problem import Problem
from metaot.solvers.anderson import Anderson
from metaot.solvers.correction import Correction
from metaot.solvers.iterate import Solver


@final
@dataclass(frozen=True)
class SinkhornState:
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
    lost: Int[Tensor, "batch"]
    """Points in a row that left floating point."""
    path: Anderson | None
    beyond: Float[Tensor, "batch n"] | None = None
    """How far the unknown of the iteration is from x, where potentials have bounds, between which x is put."""
    correction: Correction | None = None

    @property
    def unknown(self) -> Float[Tensor, "batch n"]:
        """What the residual leads on from."""
        return self.x if self.beyond is None else self.x + self.beyond


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
        start = torch.zeros_like(problem.a) if guess is None else problem.marginals.source.bounded(guess.f)
        never = torch.zeros(len(start), dtype=torch.int64, device=start.device)
        return _absorbed(problem, start, Anderson.of(problem.a) if self.accelerated else None, never)

    def step(self, problem: Problem, state: SinkhornState) -> SinkhornState:
        x, path = state.unknown + state.residual, state.path
        if path is not None:
            beyond = None if state.correction is None else state.correction.active
            x, path = path.next(state.unknown, state.residual, exact=beyond)
        state = _scaled(problem, state, x, path)
        state = state if x.is_cuda else _within_reach(problem, state)
        return corrected(problem, state, state.correction)

    def adjust(self, problem: Problem, state: SinkhornState, error: Float[Tensor, "batch"]) -> SinkhornState:
        if state.x.is_cuda:
            state = _within_reach(problem, state)
        if state.path is None:
            return state
        state, error = _judged(problem, state, error)
        assert state.path is not None
        return replace(state, path=state.path.judged(state.unknown, state.residual, error))

    def error(self, problem: Problem, state: SinkhornState) -> Float[Tensor, "batch"]:
        """L1 error of the source marginal: that of f and the best g for it; NaN where no step can mend it."""
        if problem.is_balanced:
            error = torch.linalg.vector_norm(state.marginal - problem.a, 1, -1)
        else:
            f = state.f + expand_eps(problem.eps, state.f) * state.x
            error = relative_error(problem, side_error(problem, f, state.marginal), state.marginal.sum(-1))
        hopeless = state.lost >= (1 if state.path is None or state.path.count == 0 else 2)
        return torch.where(hopeless, torch.nan, error.nan_to_num(nan=torch.inf))

    def value(self, problem: Problem, state: SinkhornState, which: Tensor | slice) -> DualPotentials:
        eps = expand_eps(problem.eps, state.f)
        return DualPotentials(state.f + eps * state.x, state.g + eps * state.v.log())[which]


def corrected(problem: Problem, state: SinkhornState, correction: Correction | None) -> SinkhornState:
    """Return the state with a residual that leads on to what is smooth in the error, too."""
    if correction is None:
        return state
    residual, following = correction(problem.a, state.residual)
    path, ended = state.path, correction.active & ~following.active
    if path is not None and bool(ended.any()):
        path = path.restarted(ended)
    return replace(state, residual=residual, correction=following, path=path)


def _judged(
    problem: Problem, state: SinkhornState, error: Float[Tensor, "batch"]
) -> tuple[SinkhornState, Float[Tensor, "batch"]]:
    """Go on without correction where it does not lower the error, and undo it where it has raised it.

    Return the error of the point to go on from, too.
    """
    if state.correction is None or state.path is None:
        return state, error
    eps = expand_eps(problem.eps, state.f)
    correction, failed = state.correction.judged(state.f + eps * state.x, error)
    if failed is None or not bool(failed.any()):
        return replace(state, correction=correction), error
    x = torch.where(failed[:, None], (correction.point - state.f) / eps, state.x)
    plain = _within_reach(problem, _scaled(problem, state, x, state.path.restarted(failed)))
    residual = torch.where(failed[:, None], plain.residual, state.residual)
    return replace(plain, residual=residual, correction=correction), torch.where(failed, correction.mark, error)


def near(problem: Problem, potentials: DualPotentials, kernel: Kernel) -> SinkhornState:
    """Return the state of smooth potentials, and of a kernel that has them, and both weights, absorbed already.

    Only f is kept; g may be any that is near the best one. NaN in `residual` where it is not.
    """
    f, never = potentials.f, torch.zeros(len(potentials.f), dtype=torch.int64, device=potentials.f.device)
    path, zero = Anderson.of(problem.a), torch.zeros_like(f)
    start = SinkhornState(f, potentials.g, kernel, zero, torch.ones_like(problem.b), zero, zero, never, path)
    return _scaled(problem, start, zero, path)


def _scaled(
    problem: Problem, state: SinkhornState, x: Float[Tensor, "batch n"], path: Anderson | None
) -> SinkhornState:
    """Return the state of scalings x of the same kernel, with the target's that are best for them."""
    f, g, beyond = state.f, state.g, None
    if problem.is_balanced:
        u = x.exp()
        v = _ratio(problem.b, state.kernel.T.times(u))
        marginal = state.kernel.times(v).mul_(u)
        residual = _ratio(problem.a, marginal).log_()
    else:
        x, beyond = _between_bounds(problem, f, x)
        u = x.exp()
        f, g, v = _priced(problem, f, g, x, _ratio(problem.b, state.kernel.T.times(u)))
        marginal = state.kernel.times(v).mul_(u)
        residual = _priced_residual(problem, f, x, beyond, _ratio(problem.a, marginal).log_())
    lost = torch.where(marginal.isfinite().all(-1), 0, state.lost + 1)
    return SinkhornState(f, g, state.kernel, x, v, marginal, residual, lost, path, beyond, state.correction)


def _absorbed(
    problem: Problem,
    f: Float[Tensor, "batch n"],
    path: Anderson | None,
    lost: Tensor,
    *,
    beyond: Float[Tensor, "batch n"] | None = None,
    correction: Correction | None = None,
) -> SinkhornState:
    """Absorb f and the best g for it into a kernel."""
    eps = expand_eps(problem.eps, f)
    g, kernel = problem.geometry.best_plan(f + eps * problem.a.log(), problem.b, problem.eps)
    x, v = torch.zeros_like(f), torch.ones_like(problem.b)
    if not problem.is_balanced:
        f, g, v = _priced(problem, f, g, x, v)
    marginal = kernel.times(v).mul_(x.exp())
    residual = _priced_residual(problem, f, x, beyond, _ratio(problem.a, marginal).log_())
    far = _far(residual)
    if bool(far.any()):
        best = exact_transform(problem.T, problem.marginals.target.best(g, problem.eps))
        exact = torch.where(problem.a > 0, (best - f) / eps - x, 0.0)
        residual = torch.where(far[:, None], _priced_residual(problem, f, x, beyond, exact), residual)
        marginal = torch.where(far[:, None], tilted(problem.a, -exact), marginal)
    lost = torch.where(marginal.isfinite().all(-1), 0, lost + 1)
    return SinkhornState(f, g, kernel, x, v, marginal, residual, lost, path, beyond, correction)


def _between_bounds(
    problem: Problem, f: Float[Tensor, "batch n"], x: Float[Tensor, "batch n"]
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"] | None]:
    """Return x such that f + eps x is between the bounds of the source's potential, and what is beyond them."""
    if problem.marginals.are_smooth:
        return x, None
    eps = expand_eps(problem.eps, f)
    inside = (problem.marginals.source.bounded(f + eps * x) - f) / eps
    return inside, x - inside


def _priced(
    problem: Problem, f: Tensor, g: Tensor, x: Float[Tensor, "batch n"], ratio: Float[Tensor, "batch m"]
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"], Float[Tensor, "batch m"]]:
    """Return f and g at the best level, of which the kernel knows nothing, and the target's best scalings.

    `ratio` are those that would make the target's marginal the weights.
    """
    eps, sides = expand_eps(problem.eps, f), problem.marginals.in_units_of(problem.eps)
    level = eps * sides.level(problem.a, problem.b, f / eps + x, g / eps + ratio.log())
    return f + level, g - level, sides.target.scaling(ratio, (g - level) / eps)


def _priced_residual(
    problem: Problem, f: Tensor, x: Tensor, beyond: Tensor | None, log_ratio: Tensor
) -> Float[Tensor, "batch n"]:
    """Return how far the best x for the target's scalings is, from log a less the logarithm of the marginal."""
    if problem.marginals.source.is_exact:
        return log_ratio
    sides = problem.marginals.in_units_of(problem.eps)
    residual = sides.source.move(log_ratio, in_units_of(problem.eps, f) + x)
    residual = residual if beyond is None else residual - beyond
    return torch.where(problem.a > 0, residual, 0.0)


def _within_reach(problem: Problem, state: SinkhornState) -> SinkhornState:
    """Absorb the scalings if one has left the range in which products with the kernel are exact."""
    if not bool((_far(state.x) | _far(state.residual)).any()):
        return state
    path = None if state.path is None else state.path.moved(state.x)
    f = state.f + expand_eps(problem.eps, state.f) * state.x
    lost = (state.lost - 1).clamp_min(0)
    return _absorbed(problem, f, path, lost, beyond=state.beyond, correction=state.correction)


def _ratio(weights: Tensor, marginal: Tensor) -> Tensor:
    """Return weights over marginal, one for atoms without mass."""
    return torch.where(weights != 0, weights / marginal, 1.0)


def _far(logarithms: Float[Tensor, "batch n"]) -> Bool[Tensor, "batch"]:
    """Return where numbers are so far from one that sums of their products may lose digits."""
    reach = min(35.0, -0.25 * math.log(torch.finfo(logarithms.dtype).tiny))
    return ~(logarithms.abs().amax(-1) <= reach)
