"""The barycenter iteration of Janati, Cuturi and Gramfort (arXiv 2006.02575, algorithm 1), accelerated.

With potentials in units of eps, f_k on the measures a_k and the best g_k for them on the barycenter, that
is

    log alpha = log d - sum_k w_k g_k,

and all plans have it as their marginal. A step replaces f_k by the best potential for (alpha, g_k). Where nothing
is debiased, d is the uniform measure, the reference of the entropy: that barycenter is blurred. The debiased d has
d (K d) = alpha: diag(d) K diag(d) is the plan from the barycenter to itself, and a step takes log d half the way
there. Anderson acceleration (`metaot.solvers.anderson`) works on all f_k and log d at once. Before the first step
log d is fitted to the plans of the start, which are not moved yet: that costs little, and saves steps.

Debiasing is a deconvolution. On a grid much finer than the root of eps it goes on for ever, sublinearly, while the
plans have long been right, and makes the barycenter ragged. So once the plans are nearly right, log d is fitted to
them. Where the self-plan is still farther off than they are, log d settles: it is fitted in so many moves from the
uniform measure, which does not depend on the start, and the last steps are those of the plans alone.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot import core
from metaot.averages.fitting import fitted, looking_at_itself
from metaot.averages.problem import BarycenterProblem
from metaot.problem import Problem
from metaot.solvers import Symmetric, solve
from metaot.solvers.anderson import Anderson
from metaot.solvers.iterate import Solver, iterate

PLAIN = 3
"""Steps before the first acceleration."""

EVERY = 5
"""The steps after which the sizes of residuals are weighed anew."""

FITS, ALL_FITS, RIGHT = 20, 60, 1e-9
"""The moves in which log d is fitted to plans, those from the uniform measure, and the error that is enough."""

NEARER, NEAR, PATIENCE, SLOW = 3e-4, 1e-3, 10, 0.6
"""log d settles where its fit to plans with the error `NEARER` is farther off than they are; or where the error of
the self-plan has not fallen by the factor `SLOW` in `PATIENCE` steps, in which that of the plans was at most
`NEAR`."""

ABSENT = -200.0
"""log d on atoms without mass: the barycenter's mass there is far below rounding."""

_SELF_TOL = 1e-12
"""L1 error of the plan of a measure with itself, which is its own barycenter."""


@final
@dataclass(frozen=True)
class Patience:
    """When log d is looked at next."""

    nearer: Float[Tensor, "batch"]
    """The error of the plans at which log d is fitted to them."""
    mark: Float[Tensor, "batch"]
    """The error of the self-plan when it was last looked at."""
    waiting: Int[Tensor, "batch"]
    """Steps since then with a small error of the plans."""


@final
@dataclass(frozen=True)
class AverageState:
    """Potentials f_k on the atoms with mass, log d, what follows from them, and the last points."""

    x: Float[Tensor, "batch k s"]
    log_d: Float[Tensor, "batch n"]
    g: Float[Tensor, "batch k n"]
    following: Float[Tensor, "batch k n"]
    """The f_k that a step leads to, on all atoms."""
    log_alpha: Float[Tensor, "batch n"]
    residual: Float[Tensor, "batch k s"]
    drift: Float[Tensor, "batch n"]
    """How a plain step moves x and log d."""
    error: Float[Tensor, "batch"]
    self_error: Float[Tensor, "batch"]
    settled: Bool[Tensor, "batch"]
    patience: Patience
    path: Anderson
    count: int


@final
@dataclass(frozen=True)
class Averaged:
    """What is asked for, in units of eps; or a start, of which f, log d and `settled` are used."""

    f: Float[Tensor, "batch k n"]
    g: Float[Tensor, "batch k n"]
    log_d: Float[Tensor, "batch n"]
    log_alpha: Float[Tensor, "batch n"]
    error: Float[Tensor, "batch"]
    self_error: Float[Tensor, "batch"]
    settled: Bool[Tensor, "batch"]


@final
@dataclass(frozen=True)
class Averaging(Solver[BarycenterProblem, AverageState, Averaged]):
    """The iteration of this module, debiased or with a uniform reference."""

    debiased: bool = True

    def init(self, problem: BarycenterProblem, guess: Averaged | None) -> AverageState:
        guess = _start(problem, guess, self.debiased)
        x, log_d = torch.where(problem.masses > 0, guess.f.gather(-1, problem.atoms), 0.0), guess.log_d
        path = Anderson.of(self._norm(problem, torch.full_like(log_d, 1 / log_d.shape[-1])))
        zeros = torch.zeros_like(log_d[:, 0])
        patience = Patience(zeros + NEARER, zeros + torch.inf, zeros.long())
        return self._evaluated(problem, (x, log_d), guess.settled, patience, path, count=0)

    def step(self, problem: BarycenterProblem, state: AverageState) -> AverageState:
        point, residual = _joined(state)
        z, path = (point + residual, state.path) if state.count < PLAIN else state.path.next(point, residual)
        x, log_d = z.tensor_split([state.x[0].numel()], -1)
        x = x.reshape(state.x.shape)
        return self._evaluated(problem, (x, log_d), state.settled, state.patience, path, count=state.count + 1)

    def adjust(
        self, problem: BarycenterProblem, state: AverageState, error: Float[Tensor, "batch"]
    ) -> AverageState:
        if state.count < PLAIN:  # the first errors say nothing: the mass is not yet one
            return state
        path = state.path
        if state.count % EVERY == 0 or state.count == PLAIN:
            path = replace(path, roots=self._norm(problem, state.log_alpha.exp()).sqrt())
        state = replace(state, path=path)
        if self.debiased and not bool(state.settled.all()):
            state = self._settled(problem, state)
        total = state.error + torch.where(state.settled, 0.0, state.self_error)
        return replace(state, path=state.path.judged(*_joined(state), total))

    def _settled(self, problem: BarycenterProblem, state: AverageState) -> AverageState:
        """Have log d settle where, fitted to the plans, it is farther off than they are, or improves slowly."""
        nearer, mark = state.patience.nearer, state.patience.mark
        waiting = state.patience.waiting + (state.error <= NEAR)
        late, tried = waiting > PATIENCE, ~state.settled & (state.error <= nearer)
        slow = ~state.settled & late & (state.self_error > SLOW * mark)
        looks = late | tried
        patience = Patience(
            torch.where(tried | slow, -1.0, nearer),
            torch.where(looks, state.self_error, mark),
            torch.where(looks, 0, waiting),
        )
        state = replace(state, patience=patience)
        if not bool((tried | slow).any()):
            return state
        goal = torch.where(tried | slow, state.error, torch.inf)
        mean = (problem.weights[..., None] * state.g).sum(1)
        _, self_error = fitted(problem, state.log_d, mean, goal, moves=FITS)
        settles = slow | (tried & ~(self_error <= goal))
        if not bool(settles.any()):
            return state
        uniform = torch.full_like(mean, -math.log(mean.shape[-1]))
        log_d, _ = fitted(problem, uniform, mean, torch.where(settles, RIGHT, torch.inf), moves=ALL_FITS)
        point = state.x, torch.where(settles[:, None], log_d, state.log_d)
        path, settled = state.path.restarted(settles), state.settled | settles
        return self._evaluated(problem, point, settled, patience, path, count=state.count)

    def error(self, problem: BarycenterProblem, state: AverageState) -> Float[Tensor, "batch"]:
        """L1 error of the plans' marginals on the measures, the mean by the weights.

        Until log d has settled, at least that of the self-plan.
        """
        return torch.where(state.settled, state.error, torch.maximum(state.error, state.self_error))

    def value(self, problem: BarycenterProblem, state: AverageState, which: Tensor | slice) -> Averaged:
        known = torch.where(problem.masses > 0, state.x, state.following.gather(-1, problem.atoms))
        f = state.following.scatter(-1, problem.atoms, known)
        parts = (
            f,
            state.g,
            state.log_d + state.drift,
            state.log_alpha,
            state.error,
            state.self_error,
            state.settled,
        )
        return Averaged(*(part[which] for part in parts))

    def _norm(self, problem: BarycenterProblem, alpha: Float[Tensor, "batch n"]) -> Float[Tensor, "batch z"]:
        """Return the weights of x and of log d in the sizes of residuals."""
        masses = problem.weights[..., None] * problem.masses
        alpha = alpha / alpha.sum(-1, keepdim=True) if self.debiased else torch.zeros_like(alpha)
        return torch.cat([masses.flatten(1), alpha], -1)

    def _evaluated(
        self,
        problem: BarycenterProblem,
        point: tuple[Float[Tensor, "batch k s"], Float[Tensor, "batch n"]],
        settled: Bool[Tensor, "batch"],
        patience: Patience,
        path: Anderson,
        *,
        count: int,
    ) -> AverageState:
        """Return the state at a point; at first log d is fitted to its plans."""
        (x, log_d), weights, masses = point, problem.weights[..., None], problem.masses
        g = problem.towards_barycenter(torch.zeros_like(problem.measures).scatter(-1, problem.atoms, x))
        mean = (weights * g).sum(1)
        drift, self_error = torch.zeros_like(log_d), torch.zeros_like(log_d[:, 0])
        if self.debiased:
            if count == 0:
                log_d = fitted(problem, log_d, mean, torch.where(settled, torch.inf, RIGHT), moves=FITS)[0]
            ahead, self_error = looking_at_itself(problem, log_d, mean)
            drift = torch.where(settled[:, None], 0.0, 0.5 * ahead)
        log_alpha = log_d + drift - mean  # with the next d: side by side, f and d would oscillate
        following = problem.towards_measures(log_alpha.exp(), g)
        residual = torch.where((masses > 0) & (weights > 0), following.gather(-1, problem.atoms) - x, 0.0)
        error = (weights[..., 0] * (masses * residual.neg().expm1()).abs().sum(-1)).sum(-1)
        return AverageState(
            x, log_d, g, following, log_alpha, residual, drift, error, self_error, settled, patience, path, count
        )


def flat_start(problem: BarycenterProblem, f: Float[Tensor, "batch k n"]) -> Averaged:
    """Return the start from these potentials, and from a barycenter of which nothing is known."""
    zeros = torch.zeros_like(problem.measures[:, 0])
    one, never = zeros[:, 0], torch.zeros_like(zeros[:, 0], dtype=torch.bool)
    return Averaged(f, f, zeros - math.log(zeros.shape[-1]), zeros, one, one, never)


def averaged(
    problem: BarycenterProblem, solver: Averaging, guess: Averaged | None, *, tol: float, max_steps: int
) -> tuple[Averaged, Int[Tensor, "batch"]]:
    """Return barycenters from a start, and the steps of each: by compiled code on the axes of a grid."""
    if not problem.suits_core:
        result = iterate(solver, problem, solver.init(problem, guess), tol=tol, max_steps=max_steps)
        return result.value, result.steps
    guess = _start(problem, guess, solver.debiased)
    eps = torch.full_like(problem.weights[:, 0], problem.eps)
    parts = (problem.measures, problem.weights, eps, guess.f, guess.log_d, guess.settled)
    given, limits = core.Averages(*(part.numpy() for part in parts)), core.Limits(tol, max_steps)
    costs, threads = problem.geometry.core_costs, torch.get_num_threads()
    found = core.average(costs, given, limits, debiased=solver.debiased, threads=threads)
    f, g, log_d, log_alpha, errors, steps = map(torch.from_numpy, found)
    error, self_error, settled = errors.unbind(-1)
    return Averaged(f, g, log_d, log_alpha, error, self_error, settled > 0), steps


def _start(problem: BarycenterProblem, guess: Averaged | None, debiased: bool) -> Averaged:
    """Return where to start; log d that is not for debiasing has settled."""
    guess = flat_start(problem, torch.zeros_like(problem.measures)) if guess is None else guess
    if not debiased:
        return replace(guess, settled=torch.ones_like(guess.settled))
    return _from_single_measures(problem, guess)


def _joined(state: AverageState) -> tuple[Float[Tensor, "batch z"], Float[Tensor, "batch z"]]:
    """Return the point and its residual as vectors."""
    return (
        torch.cat([state.x.flatten(1), state.log_d], -1),
        torch.cat([state.residual.flatten(1), state.drift], -1),
    )


def _from_single_measures(problem: BarycenterProblem, guess: Averaged) -> Averaged:
    """Start instances whose whole weight is that of one measure from that measure, which is their barycenter."""
    each, chosen = (problem.weights == 1).nonzero(as_tuple=True)
    if len(each) == 0:
        return guess
    a = problem.measures[each, chosen]
    own = solve(Problem.trusted(a, a, problem.geometry, problem.eps), solver=Symmetric(), tol=_SELF_TOL)
    h = own.potentials.f / problem.eps
    f, log_d = guess.f.clone(), guess.log_d.clone()
    f[each, chosen], log_d[each] = h, torch.where(a > 0, a.log() + h, ABSENT)
    return replace(guess, f=f, log_d=log_d)
