"""Barycenters on one support: debiased (Janati, Cuturi and Gramfort, arXiv 2006.02575), and blurred."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.arrays import ArrayLike, require_limits
from metaot.averages.problem import BarycenterProblem, Measures, best_potential
from metaot.averages.solver import Averaged, Averaging, averaged, flat_start
from metaot.averages.start import start_from
from metaot.core.status import Status, how_it_went
from metaot.geometry import Geometry
from metaot.potentials import DualPotentials, PotentialsLike
from metaot.problem import Problem
from metaot.solvers import solve
from metaot.solvers.start import PotentialPredictor, opened

_SELF_TOL = 1e-9
"""L1 error of the plans from measures to themselves, of which only the value is wanted."""


@final
@dataclass(frozen=True)
class Barycenter:
    """Barycenters of a batch, and the plans from each measure to its barycenter.

    `measure` holds the barycenter's weights on the atoms. `error` is the L1 error of the plans' marginals on the
    measures, the mean by the weights; their marginals on the barycenter are exact. `self_error` is that of the
    plan from the barycenter to itself, which debiases: how far further sharpening could still move it (zero where
    nothing is debiased).
    """

    measure: Float[Tensor, "*batch n"]
    error: Float[Tensor, "*batch"]
    self_error: Float[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]
    steps: Int[Tensor, "*batch"]
    measures: Float[Tensor, "*batch k n"]
    weights: Float[Tensor, "*batch k"]
    geometry: Geometry
    eps: float
    debiased: bool
    max_steps: int
    _state: Averaged = field(repr=False)
    """In float64, in units of eps and with one batch dimension: what the next solve goes on from."""

    @cached_property
    def status(self) -> Status:
        """The worst status of the batch."""
        return Status.worst(self.converged, self.error, self.steps >= self.max_steps)

    @cached_property
    def potentials(self) -> DualPotentials:
        """Potentials f on the measures and g on the barycenter, *batch k n, of a_k alpha exp((f_k + g_k - C)/eps).

        Those of measures without weight are those of one step from zeros.
        """
        with torch.no_grad():
            parts = _completed(self._problem, self._state)
        f, g = ((self.eps * part).reshape(self.measures.shape).to(self.measures) for part in parts)
        return DualPotentials(f, g)

    @property
    def _problem(self) -> BarycenterProblem:
        return Measures(self.measures, self.weights, self.geometry, self.eps).flat()

    @property
    def image(self) -> Float[Tensor, "..."]:
        """The barycenter in the shape of the grid."""
        sizes = self.geometry.sizes
        if not sizes:
            raise ValueError(f"only on a Grid a barycenter is an image, got {self.geometry}")
        return self.measure.unflatten(-1, sizes)

    @cached_property
    def divergences(self) -> Float[Tensor, "*batch k"]:
        """How far the barycenter is from each measure, in the units of the cost: what is averaged and least.

        The Sinkhorn divergence of both; where nothing is debiased, min <C, P> + eps KL(P | a_k u) for the uniform
        measure u.
        """
        with torch.no_grad():
            return self._divergences()

    @property
    def value(self) -> Float[Tensor, "*batch"]:
        """The mean of the divergences: what the barycenter minimises.

        Differentiable in the weights, if they are a tensor that asks for it: by the envelope theorem its
        derivative is the divergences.
        """
        return (self.weights * self.divergences).sum(-1)

    def _divergences(self) -> Float[Tensor, "*batch k"]:
        state, k = self._state, self.measures.shape[-2]
        problem = self._problem
        alpha = state.log_alpha.exp()
        alpha = (alpha / alpha.sum(-1, keepdim=True))[:, None]
        values = (state.f * problem.measures).sum(-1) + (state.g * alpha).sum(-1)
        if problem.active is not None:
            idle = ~problem.active
            others = problem.measures[idle], alpha.expand_as(problem.measures)[idle]
            between = Problem.trusted(*others, geometry=problem.geometry, eps=self.eps)
            values[idle] = solve(between, tol=_SELF_TOL).value / self.eps
        if self.debiased:
            own = 2 * (alpha * (state.log_d - state.log_alpha)[:, None]).sum(-1)
            sides = problem.measures.flatten(0, 1)
            selves = solve(Problem.trusted(sides, sides, problem.geometry, self.eps), tol=_SELF_TOL).value
            values = values - 0.5 * own - 0.5 * selves.reshape(-1, k) / self.eps
        else:
            entropy = alpha * (state.log_alpha[:, None] * (alpha > 0)).nan_to_num()
            values = values + entropy.sum(-1) + torch.tensor(float(alpha.shape[-1])).log()
        return (values * self.eps).reshape(self.weights.shape).to(self.measures)

    def __getitem__(self, index: Any) -> "Barycenter":
        """Return a part of the batch, to start from."""
        flat = torch.arange(len(self._state.error)).reshape(self.error.shape)[index].reshape(-1)
        parts = {name: value[flat.to(value.device)] for name, value in vars(self._state).items()}
        own = ("measure", "error", "self_error", "converged", "steps", "measures", "weights")
        rest = {name: getattr(self, name)[index] for name in own}
        return Barycenter(
            **rest, geometry=self.geometry, eps=self.eps, debiased=self.debiased, max_steps=self.max_steps,
            _state=Averaged(**parts),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Barycenter of {self.measures.shape[-2]} measures: {how_it_went(self.geometry.words, self)}"


Init = Barycenter | PotentialsLike | PotentialPredictor | str
"""Where to start: barycenters of the same measures, potentials *batch k n, or what predicts them."""


def barycenter(
    measures: ArrayLike,
    weights: ArrayLike,
    geometry: Geometry,
    eps: float,
    *,
    init: Init | None = None,
    tol: float = 1e-6,
    max_steps: int = 1000,
) -> Barycenter:
    """Return the measure with the least weighted mean of Sinkhorn divergences to k measures, which does not blur.

    `measures` are *batch k n, or images on a grid; `weights` are *batch k, not negative, with a sum of one, and
    zeros among them. Their batches are broadcast: one set of measures and many rows of weights give as many
    barycenters, and where there are enough rows they start from the plans between all pairs of measures.
    `geometry` is a `Grid` of any dimension, or another space with as many
    sources as targets and a symmetric cost. `eps` is in the units of the cost.

    `init` is where to start: an earlier `Barycenter` of these measures (one for all rows, or one for each), of
    which potentials are used, and, where the weights are the same, the barycenter too; potentials (f, g), *batch k
    n, of which f is used; or what predicts them, such as "universal": between all pairs of measures, and where
    these are many, or differ from row to row, between the measures and their linear mean.

    A row stops when its error is at most `tol`: the L1 error of the plans' marginals. The self-plan, which
    debiases, goes on as long as its error falls quickly; on a grid much finer than the root of `eps` that ends
    before it is as small (see `Barycenter.self_error`): the exact minimiser is ragged there, and barycenters that
    differ by some thousandths in the L1 norm, as those from two starts may, have nearly the same value. Not
    converging is a result. Calculated in float64, on the device of the measures; the results have their dtype.

    Raises ValueError for weights or measures that are negative, not finite or do not sum to one, and for measures
    that are not on the space; TypeError for what holds no numbers.
    """
    return _averaged(Measures.checked(measures, weights, geometry, eps), Averaging(), init, tol, max_steps)


def entropic_barycenter(
    measures: ArrayLike,
    weights: ArrayLike,
    geometry: Geometry,
    eps: float,
    *,
    init: Init | None = None,
    tol: float = 1e-6,
    max_steps: int = 1000,
) -> Barycenter:
    """Return the measure with the least weighted mean of entropic costs, with the uniform measure as reference.

    It is blurred by about the root of `eps`; its plans minimise <C, P> + eps KL(P | a_k u) with u uniform. All
    arguments are those of `barycenter`.
    """
    found = Measures.checked(measures, weights, geometry, eps)
    return _averaged(found, Averaging(debiased=False), init, tol, max_steps)


@torch.no_grad()
def _averaged(given: Measures, solver: Averaging, init: object, tol: object, max_steps: object) -> Barycenter:
    """Iterate all rows to the tolerance."""
    limit, most = require_limits(tol, max_steps)
    problem = given.flat()
    guess = _guess(problem, given, solver, init, limit)
    state, steps = averaged(problem, solver, guess, tol=limit, max_steps=most)
    batch = given.weights.shape[:-1]
    alpha = state.log_alpha.exp()
    measure = (alpha / alpha.sum(-1, keepdim=True)).reshape(*batch, alpha.shape[-1]).to(given.measures)
    error = torch.where(state.settled, state.error, torch.maximum(state.error, state.self_error))
    return Barycenter(
        measure=measure, error=state.error.reshape(batch), self_error=state.self_error.reshape(batch),
        converged=(error <= limit).reshape(batch), steps=steps.reshape(batch), measures=given.measures,
        weights=given.weights, geometry=given.geometry, eps=given.eps, debiased=solver.debiased, max_steps=most,
        _state=state,
    )  # fmt: skip


def _completed(
    problem: BarycenterProblem, state: Averaged
) -> tuple[Float[Tensor, "batch k n"], Float[Tensor, "batch k n"]]:
    """Return potentials also of measures without weight: those of a step from zeros."""
    if problem.active is None:
        return state.f, state.g
    idle, f, g = ~problem.active, state.f.clone(), state.g.clone()
    a, sides = problem.measures[idle], state.log_alpha.exp()[:, None].expand_as(problem.measures)[idle]
    g[idle] = best_potential(a, sides, torch.zeros_like(a), problem)
    f[idle] = best_potential(sides, a, g[idle], problem)
    return f, g


def _guess(
    problem: BarycenterProblem, given: Measures, solver: Averaging, init: object, tol: float
) -> Averaged | None:
    """Return the state to start from; None for zeros."""
    init = opened(init)
    return (
        _of_barycenter(problem, given, solver, init)
        if isinstance(init, Barycenter)
        else start_from(problem, given, init, solver, tol)
    )


def _of_barycenter(problem: BarycenterProblem, given: Measures, solver: Averaging, init: Barycenter) -> Averaged:
    """Return the potentials of a barycenter, and where the weights are the same the barycenter itself."""
    count, rows = len(init._state.error), len(problem.weights)
    if init.measures.shape[-2:] != given.measures.shape[-2:] or count not in (1, rows):
        raise ValueError(
            f"init is of {count} barycenters of {tuple(init.measures.shape[-2:])} measures, wanted: 1 or {rows} "
            f"of {tuple(given.measures.shape[-2:])}"
        )
    like, ratio = problem.measures, init.eps / problem.eps
    parts = {name: value.to(like.device) for name, value in vars(init._state).items()}
    parts = {name: value.expand(rows, *value.shape[1:]) for name, value in parts.items()}
    start, old = flat_start(problem, parts["f"] * ratio), init.weights.reshape(count, -1).to(problem.weights)
    if ratio != 1 or init.debiased != solver.debiased:
        return start
    same = torch.isclose(old, problem.weights, rtol=0, atol=1e-9).all(-1)
    log_d = torch.where(same[:, None], parts["log_d"], start.log_d)
    return Averaged(
        start.f, start.g, log_d, start.log_alpha, start.error, start.self_error, parts["settled"] & same
    )
