"""Progressive entropic transport, ProgOT (Kassraie et al., arXiv 2406.05061): a map and a plan in steps.

Each of K steps solves transport from the cloud as it is now, and goes a part of the way along the entropic map;
the last one goes all of it. The distances shrink, and with them the bias of a temperature that is still high
enough to be solved in few steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.arrays import ArrayLike, as_count, as_number
from metaot.core.status import Status, how_it_went
from metaot.geometry import Points
from metaot.geometry.checks import given, tensor, together
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.settings import require_positive
from metaot.solvers import Solution, Solver, Symmetric, solve

SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda k, steps: 1 / (steps - k + 1),
    "decelerating": lambda k, steps: 1 / math.e,
    "accelerating": lambda k, steps: (2 * k + 1) / ((steps + 1) ** 2 - k**2),
    "quartic": lambda k, steps: (k**4 - (k - 1) ** 4) / (steps**4 - (k - 1) ** 4),
}
"""Which part of the way that is left step k = 1, 2, ... goes: at constant speed, or slower or faster with time."""

_SCALE = 1 / 20
"""The scale of a temperature, as a part of the mean cost (section 4 of the paper)."""

_SHARES = tuple(2.0**k for k in range(-4, 3))
"""Temperatures, in that scale, among which the last one is chosen."""

_HELD_OUT, _MOST = 5, 2000
"""One point of so many is held out to choose it; at most so many are used."""

Schedule = str | Sequence[float]
"""A name in `SCHEDULES`, or the part of the way that is left for each step but the last."""


@final
@dataclass(frozen=True)
class ProgressiveMap:
    """A map in several steps: the `solutions` of K problems, and the parts of the rest of the way that they go.

    Numbers of steps, errors and whether it converged are those of all solutions, for each instance of the batch.
    """

    solutions: tuple[Solution, ...]
    lengths: tuple[float, ...]

    @torch.no_grad()
    def push(self, points: ArrayLike) -> Float[Tensor, "*batch k d"]:
        """Send points, k d or *batch k d, by all steps, one after another (algorithm 1)."""
        z = tensor("points", points, like=self.solutions[0].problem.a, taken="points (a tensor or an array), k d")
        for solution, length in zip(self.solutions, self.lengths, strict=True):
            z = z + length * (solution.map().push(z) - z)
        return z

    def plan(self) -> Float[Tensor, "*batch n m"]:
        """Return the plan between the cloud that was moved and the target (algorithm 2)."""
        return self.solutions[-1].plan()

    @property
    def eps(self) -> tuple[float | Tensor, ...]:
        """The temperature of each problem, in the units of the cost."""
        return tuple(solution.problem.eps for solution in self.solutions)

    @property
    def steps(self) -> Int[Tensor, "*batch"]:
        """The solver's steps in all problems."""
        return torch.stack([solution.steps for solution in self.solutions]).sum(0)

    @property
    def error(self) -> Float[Tensor, "*batch"]:
        """The largest L1 error of the marginals."""
        return torch.stack([solution.error for solution in self.solutions]).amax(0)

    @property
    def converged(self) -> Bool[Tensor, "*batch"]:
        """Whether all problems converged."""
        return torch.stack([solution.converged for solution in self.solutions]).all(0)

    @cached_property
    def status(self) -> Status:
        """The worst status."""
        return max(solution.status for solution in self.solutions)

    def __repr__(self) -> str:
        words = self.solutions[0].problem.geometry.words
        return f"ProgressiveMap of {how_it_went(f'{words}, {len(self.lengths)} maps', self)}"


@torch.no_grad()
def progot(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    steps: int = 4,
    schedule: Schedule = "quartic",
    eps: Sequence[float | Tensor] | None = None,
    beta0: float = 5.0,
    share: float | None = None,
    solver: Solver | None = None,
    tol: float = 1e-3,
    max_steps: int = 10_000,
) -> ProgressiveMap:
    """Transport the cloud x, *batch n d, to y, *batch m d, in `steps` steps, for the cost |x - y|^2 (ProgOT).

    Weights `a`, *batch n, and `b`, *batch m, are equal by default. Step k goes the part alpha_k of the way that is
    left, by `schedule`: at "constant" speed 1/(K - k + 1); "decelerating", 1/e; "accelerating",
    (2k + 1)/((K + 1)^2 - k^2); "quartic", so that (k/K)^4 of the way is done; or `steps` - 1 numbers. The last
    one goes all of it. `eps` are the temperatures of the steps, in the units of the cost. By default they fall by
    equal factors from `beta0` mean_cost(x, y)/20 to `share` mean_cost(y, y)/20, where `share` is that which sends
    points of y that are held out nearest to themselves (algorithm 4). A high one is quick, and good for new
    points; for a sharp plan between points that belong together take a low one. Each problem starts from the
    potentials of the one before, times 1 - alpha. `solver`, `tol` and `max_steps` are those of `solve`.

    Raises ValueError for clouds, weights, schedules and temperatures that do not fit or are not positive.
    """
    x, y = together(given("x", x), given("y", y))
    space = Points(x.detach(), y.detach())
    a, b = (z.new_full(z.shape[:-1], 1 / z.shape[-2]) if w is None else w for w, z in ((a, x), (b, y)))
    first = Problem(a, b, space, 1.0)
    lengths = _lengths(schedule, as_count("steps", steps))
    if eps is None:
        require_positive(beta0=as_number("beta0", beta0))
        end = _best_share(space.y, first.b) if share is None else as_number("share", share)
        require_positive(share=end)
        high = float(beta0) * _SCALE * space.mean_cost(first.a, first.b)
        low = end * _SCALE * Points(space.y).mean_cost(first.b, first.b)
        eps = [high ** (1 - t) * low**t for t in _times(len(lengths))]
    if len(eps) != len(lengths):
        raise ValueError(f"eps must be {len(lengths)} temperatures, one for each step, got {len(eps)}")
    problems = [replace(first, eps=temperature) for temperature in eps]
    found: list[Solution] = []
    init: DualPotentials | None = None
    for problem, length in zip(problems, lengths, strict=True):
        moved = replace(problem, geometry=Points(x, y))
        found.append(solve(moved, init=init, solver=solver, tol=tol, max_steps=max_steps))
        potentials = found[-1].potentials
        init = DualPotentials((1 - length) * potentials.f, (1 - length) * potentials.g)
        if length < 1:
            x = x + length * (found[-1].transport() - x)
    return ProgressiveMap(tuple(found), lengths)


def _lengths(schedule: Schedule, steps: int) -> tuple[float, ...]:
    """Return which part of the rest of the way each step goes; the last one all of it."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {sorted(SCHEDULES)}, or numbers, got {schedule!r}")
        return (*(SCHEDULES[schedule](k, steps) for k in range(1, steps)), 1.0)
    lengths = tuple(as_number(f"schedule[{k}]", length) for k, length in enumerate(schedule))
    if len(lengths) != steps - 1 or not all(0 < length < 1 for length in lengths):
        raise ValueError(f"schedule must be {steps - 1} numbers between 0 and 1, got {list(lengths)}")
    return (*lengths, 1.0)


def _times(steps: int) -> list[float]:
    """Return how far each of the temperatures is between the first one and the last one."""
    return [k / (steps - 1) for k in range(steps)] if steps > 1 else [1.0]


def _best_share(y: Float[Tensor, "*batch m d"], b: Float[Tensor, "*batch m"]) -> float:
    """Return at which temperature the map from a part of y to itself is nearest to the identity on the rest."""
    y, b = (part[..., :_MOST, :].double() for part in (y, b[..., None]))
    chosen = torch.arange(y.shape[-2], device=y.device) % _HELD_OUT != _HELD_OUT - 1
    if bool(chosen.all()):
        return 1.0
    space, (known, rest) = Points(y[..., chosen, :]), (b[..., chosen, 0], b[..., ~chosen, 0])
    known = known / known.sum(-1, keepdim=True)
    scale = _SCALE * space.mean_cost(known, known)
    errors = []
    for share in _SHARES:
        solution = solve(Problem(known, known, space, share * scale), solver=Symmetric(), tol=1e-3)
        off = (solution.map().push(y[..., ~chosen, :]) - y[..., ~chosen, :]).square().sum(-1)
        errors.append(float((rest * off).sum()))
    return _SHARES[min(range(len(errors)), key=errors.__getitem__)]
