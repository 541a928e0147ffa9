"""Snapshots of a population, and the transport between each and the next: which position became which.

Without eps, each problem is solved exactly, as an assignment; with eps, as an entropic problem, from whose map the
one of the population to itself at the same eps is subtracted, because both shrink alike. A potential that does
not change with time has nearly the same dual potentials at every step; so each problem starts from the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry import Points
from metaot.potentials import DualPotentials, c_transform
from metaot.problem import Problem
from metaot.solvers import Solution, Solver, Symmetric, solve
from metaot.solvers.assignment import assigned, spread

_TAKEN = "points (a tensor, an array or a list), n d"

_SOME, _APART = 512, 0.8
"""A start is good if so many points want different partners; of them, this part."""

_STILL = 5.0
"""Zeros are a good start if no point is farther from the other cloud, in squared distances of neighbours."""

_FINE, _NEAR = 0.5, 0.01
"""With a good start, prices are raised by this part of the squared distance of neighbours, or more; the other
number is the part of its scale that `assigned` takes for that."""

_NEIGHBOURS = 64
"""Points whose nearest neighbours are looked for."""


@final
@dataclass(frozen=True)
class Move:
    """One step of a population, from the cloud x, n d, to the cloud y, m d.

    `old` became `new`, k d each, in equal parts: points of the clouds, or what transport makes of them.
    `potential` is the first variation of W_2^2/2 to x at y, if it is known. `solutions` are the problems that were
    solved with entropy, the one between the clouds first.
    """

    x: Float[Tensor, "n d"]
    y: Float[Tensor, "m d"]
    old: Float[Tensor, "k d"]
    new: Float[Tensor, "k d"]
    tau: float
    potential: Float[Tensor, "m"] | None = None
    solutions: tuple[Solution, ...] = ()

    @property
    def force(self) -> Float[Tensor, "k d"]:
        """What the gradient of the potential must be: minus the velocity."""
        return (self.old - self.new) / self.tau


@final
@dataclass(frozen=True)
class Transport:
    """How positions are matched: exactly (eps None), or at a temperature, with solves to `tol`.

    `at_new` says whether the points of the new snapshot are kept, or those of the old one. `unbiased` subtracts
    the map of a population to itself.
    """

    eps: float | None
    at_new: bool = True
    unbiased: bool = True
    tol: float = 1e-4
    max_steps: int = 10_000

    @torch.no_grad()
    def moves(self, clouds: Sequence[Float[Tensor, "_ d"]], taus: Sequence[float]) -> list[Move]:
        """Match each cloud with the next one."""
        steps = zip(clouds[:-1], clouds[1:], taus, strict=True)
        return self._exact(list(steps)) if self.eps is None else self._entropic(list(steps), self.eps)

    def _exact(self, steps: list[tuple[Tensor, Tensor, float]]) -> list[Move]:
        found, f = [], None
        C = steps[0][0].new_empty(0)
        for x, y, tau in steps:
            count = max(len(x), len(y))
            C = C if len(C) == count else x.new_empty(count, count)
            old, new = _copies(x, count), _copies(y, count)
            columns, g = _pairs(old, new, f, C)
            new = new[columns]
            is_one = len(x) == len(y)
            found.append(Move(x, y, old, new, tau, g / 2 if is_one else None))
            moved = torch.empty_like(g).scatter_(0, columns, (old - new).square().sum(1))
            f = -(g + moved) if is_one else None
        return found

    def _entropic(self, steps: list[tuple[Tensor, Tensor, float]], eps: float) -> list[Move]:
        found: list[Move] = []
        before = own = None
        for x, y, tau in steps:
            last, kept = own, y if self.at_new else x
            if self.unbiased:
                own = self._own(kept, eps, last)
            problem = Problem(even(y), even(x), Points(y, x), eps)
            init = None if before is None else _start(problem, before, last if self.at_new else own)
            solution = before = self._solved(problem, init)
            back = solution if self.at_new else _exchanged(solution)
            sent, potential, solutions = back.transport(), back.potentials.f, (solution,)
            if own is not None:
                sent, potential = sent + kept - own.transport(), potential - own.potentials.f
                solutions = (solution, own)
            old, new = (sent, kept) if self.at_new else (kept, sent)
            found.append(Move(x, y, old, new, tau, potential / 2 if self.at_new else None, solutions))
        return found

    def _own(self, cloud: Float[Tensor, "n d"], eps: float, last: Solution | None) -> Solution:
        """Return the transport of a cloud to itself; the potential of the last one is a function on the space."""
        a, init = even(cloud), None
        if last is not None:
            space = last.problem.geometry.seen_from(cloud)
            assert space is not None
            f = c_transform(Problem(last.problem.a, a, space.T, eps), last.potentials.f)
            init = DualPotentials(f, f)
        return self._solved(Problem(a, a, Points(cloud), eps), init, Symmetric())

    def _solved(self, problem: Problem, init: DualPotentials | None, solver: Solver | None = None) -> Solution:
        return solve(problem, init=init, solver=solver, tol=self.tol, max_steps=self.max_steps)


def _start(problem: Problem, before: Solution, own: Solution | None) -> DualPotentials:
    """Return a start from the step before, for a potential that is the same in both.

    The cloud that was the new one is the old one now: its dual potential changes its sign, but for the part that
    the cloud has for itself, and the squared distance that it has moved.
    """
    f, points = before.potentials.f, before.problem.geometry.points
    assert points is not None
    stay, s = (points[0], torch.zeros_like(f)) if own is None else (own.transport(), own.potentials.f)
    g = 2 * s - f - (before.transport() - stay).square().sum(1)
    return DualPotentials(c_transform(problem.T, g), g)


def _exchanged(solution: Solution) -> Solution:
    return replace(solution, problem=solution.problem.T, potentials=solution.potentials.T)


def _pairs(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], f: Float[Tensor, "n"] | None, C: Float[Tensor, "n n"]
) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
    """Return the best partners in y of x, and the potential of y; f is near that of x, if it is known.

    C is memory for the costs.
    """
    rows = [-2 * x, (x.square().sum(1) - (0 if f is None else f))[:, None], x.new_ones(len(x), 1)]
    columns = [y, y.new_ones(len(y), 1), y.square().sum(1)[:, None]]
    torch.mm(torch.cat(rows, 1), torch.cat(columns, 1).mT, out=C)  # less f, which changes no pairs
    prices, gap = -C.amin(0), _gap(y)
    some = C[:: max(1, len(C) // _SOME)]
    if f is None:
        is_good = float(-prices.amin()) <= _STILL * gap
    else:
        is_good = len((some + prices).argmin(1).unique()) >= _APART * len(some)
    if is_good:
        found = assigned(C, 0.0, _FINE * gap / _NEAR, start=prices)
        return found.columns, -found.prices
    found = assigned(C, 0.0, spread(C))
    return found.columns, -found.prices


def _copies(cloud: Float[Tensor, "n d"], count: int) -> Float[Tensor, "count d"]:
    """Return each point as often as all others, or once more."""
    return cloud if len(cloud) == count else cloud[torch.arange(count, device=cloud.device) * len(cloud) // count]


def _gap(y: Float[Tensor, "n d"]) -> float:
    """Return the mean squared distance of some points to their nearest neighbours; 1 if all are in one place."""
    some = y[:: max(1, len(y) // _NEIGHBOURS)]
    nearest = torch.cdist(some, y).square().topk(min(2, len(y)), largest=False).values[:, -1]
    return float(nearest.mean()) or 1.0


def even(cloud: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    return cloud.new_full((len(cloud),), 1 / len(cloud))
