"""Newton where few entries of the plan are not zero, from the temperature that a start deserves.

The steps are those of `metaot.single.newton`, one of Sinkhorn's and then one of Newton's, on the entries that
count.
"""

import math
from collections.abc import Iterator, Sequence
from typing import final

import numpy as np

from metaot.single.near import Near, NearPlan, best_of_rows, highest
from metaot.single.newton import RIDGES
from metaot.single.plan import Array, DenseProblem, Refinement, distance
from metaot.single.spread import spread

_SLACK = 50.0
"""How far, in units of eps, potentials may move before entries are chosen anew."""

_LAST = 0.05
"""L1 error below which Newton needs no help from Sinkhorn."""

_FAR = 40.0
"""The longest change of a potential, in units of eps, that is tried."""

_LENGTHS = 12
"""How often a step is halved."""

_LADDER = 3.0
"""By how much the temperature falls from one stage to the next."""

_EASY = 3.0
"""A spread of the cost, in units of the temperature, from which Newton is quick from zeros."""

_FOLLOWED = 0.05
"""L1 error to which the stages before the last go."""

_HOT, _SAMPLED = 8.0, 20
"""Above so many times the temperature of the problem a stage looks at a sample: so many columns for each row."""

_NEAR_ENOUGH, _LOST = 0.05, 0.6
"""L1 errors of a start: up to the first the last stage is enough; from the second on, zeros are better."""

_DESERVED = ((0.35, (10.0, 4.0, 2.0)), (math.inf, (30.0, 10.0, 4.0, 2.0)))
"""Temperatures that other starts go through, a step at each, by the largest L1 error: far potentials are mended
there."""


def sharp_newton(problem: DenseProblem, f: Array | None, *, tol: float, max_steps: int) -> Refinement:
    """Step until the error is at most `tol`: from a guess, or from zeros where there is none or it is lost."""
    with np.errstate(all="ignore"):
        state = None if f is None else _start(problem, f)
        steps = 0
        if state is None:
            f, steps = _descended(problem, np.zeros_like(problem.a), _ladder(problem), max_steps)
            state = State.at(problem, f)
        elif state.error > _NEAR_ENOUGH:
            f, steps = _descended(problem, state.plan.f, _deserved(state.error), max_steps, most=1)
            state = State.at(problem, f)
        return _refined(state, tol=tol, max_steps=max_steps, steps=steps)


@final
class State:
    """A potential with its plan on the entries near the largest."""

    def __init__(self, near: Near, plan: NearPlan) -> None:
        self.near, self.plan = near, plan
        self.error = distance(plan.source, near.problem.a)

    @classmethod
    def at(cls, problem: DenseProblem, f: Array) -> "State":
        """Choose the entries that count for f."""
        near = Near(problem, f, _SLACK)
        return cls(near, near.plan(f))

    def to(self, f: Array) -> "State":
        """Return the state of another potential, on the same entries as long as they suffice."""
        if self.near.reaches(f):
            return State(self.near, self.near.plan(f))
        return State.at(self.near.problem, f)

    def rise(self, other: "State") -> float:
        """Return how much higher the dual value of another state is."""
        if other.near is self.near:
            return self.near.gain(self.plan, other.plan)
        return other.near.value(other.plan) - self.near.value(self.plan)


def _start(problem: DenseProblem, f: Array) -> State | None:
    """Return the state of a guess; None for one that is lost, or has a lower dual value than zeros."""
    f = f - f @ problem.a
    if not np.abs(f).max() <= 1e8:
        return None
    state = State.at(problem, f)
    if state.error <= 0.01:
        return state
    if not state.error < _LOST:
        return None
    value = state.near.value(state.plan)
    if value >= _zeros_at_most(problem):
        return state
    zeros = State.at(problem, np.zeros_like(f))
    return state if value >= zeros.near.value(zeros.plan) else None


def _zeros_at_most(problem: DenseProblem) -> float:
    """Return a bound of the dual value of zeros from above, by the largest entry of each column."""
    return float(-highest(problem.C, np.log(problem.a)) @ problem.b)


def _deserved(error: float) -> tuple[float, ...]:
    """Return the temperatures, in units of the problem's, that a start with this error had better go through."""
    return next(scales for most, scales in _DESERVED if error <= most)


def _ladder(problem: DenseProblem) -> list[float]:
    """Return temperatures, in units of that of the problem, from one at which Newton is quick down to near one."""
    highest, scales = spread(problem.C, problem.a, problem.b) / _EASY, []
    while highest > _LADDER / 2:
        scales.append(highest)
        highest /= _LADDER
    return scales


def _descended(
    problem: DenseProblem, f: Array, scales: Sequence[float], max_steps: int, most: int = 100
) -> tuple[Array, int]:
    """Follow the solution down the temperatures, `most` steps at each; return the potential and the steps."""
    sample, steps = _sample(problem), 0
    for scale in scales:
        part = sample if scale > _HOT else problem
        hot = DenseProblem(part.C / scale, part.a, part.b)
        state = State.at(hot, f / scale)
        result = _refined(state, tol=_FOLLOWED, max_steps=min(max_steps, steps + most), steps=steps)
        f, steps = result.f * scale, result.steps
    return f, steps


def _sample(problem: DenseProblem) -> DenseProblem:
    """Return the problem with some columns, those in which evenly spaced quantiles of the mass lie."""
    count = _SAMPLED * len(problem.a)
    if 2 * count >= len(problem.b):
        return problem
    places = (np.arange(count) + 0.5) / count * problem.b.sum()
    columns, mass = np.unique(np.searchsorted(np.cumsum(problem.b), places), return_counts=True)
    return DenseProblem(problem.C[:, columns], problem.a, mass / count)


def _refined(state: State, *, tol: float, max_steps: int, steps: int) -> Refinement:
    while state.error > tol and steps < max_steps:
        state = _stepped(state)
        steps += 1
    plan = state.plan
    return Refinement(plan.f, state.error, steps, state.near.best_g(plan))


def _stepped(state: State) -> State:
    """Return the state after a step of Sinkhorn's and one of Newton's; near the solution, of Newton's alone."""
    problem = state.near.problem
    start = state if state.error < _LAST else state.to(_best_f(state))
    gradient = problem.a - start.plan.source
    for direction in _directions(start):
        expected, length = gradient @ direction, min(1.0, _FAR / np.abs(direction).max())
        for _ in range(_LENGTHS):
            end = start.to(start.plan.f + length * direction)
            if start.rise(end) >= 0.25 * length * expected - 10 * np.finfo(np.float64).eps:
                return end
            length /= 2
    return start


def _best_f(state: State) -> Array:
    """Return the best f for the g of a state; rows that have next to nothing are looked at as a whole."""
    problem, source, f = state.near.problem, state.plan.source, state.plan.f
    poor = (source < 1e-6 * problem.a).nonzero()[0]
    best = f - np.log(np.maximum(source, np.finfo(np.float64).tiny) / problem.a)
    if len(poor) > 0:
        j = problem.b.nonzero()[0]
        best[poor] = best_of_rows(problem.C[np.ix_(poor, j)], state.near.best_g(state.plan)[j], problem.b[j])
    return best


def _directions(state: State) -> Iterator[Array]:
    """Yield Newton's direction, and with more and more damping others."""
    source = state.plan.source
    root = np.sqrt(np.maximum(source, np.finfo(np.float64).tiny))
    H = state.near.hessian(state.plan)
    H /= root
    H /= root[:, None]
    H += np.outer(root, root)
    gradient = (state.near.problem.a - source) / root
    for ridge in RIDGES:
        damped = H.copy()
        damped.flat[:: len(H) + 1] += ridge
        try:
            direction = np.linalg.solve(damped, gradient) / root
        except np.linalg.LinAlgError:
            continue
        last = ridge == RIDGES[-1]
        if np.isfinite(direction).all() and (last or np.abs(direction).max() <= _FAR):
            yield direction
