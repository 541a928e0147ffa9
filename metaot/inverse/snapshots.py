"""Snapshots of a population, and the transport between each and the next: which position became which.

Without eps, each problem is solved exactly, as an assignment; with eps, as an entropic problem, from whose map the
one of the population to itself at the same eps is subtracted, because both shrink alike. A potential that does
not change with time has nearly the same dual potentials at every step; so each problem starts from the one before,
or, if these are better, from those between the clouds' coordinates one by one, which sorting finds.
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
from metaot.solvers.assignment import assigned_points

_GROUPS, _GROUP = 8, 32
"""Groups of points near each other by which starts are compared, and the points of each."""

_APART = 0.55
"""A start is good if this part of the points, or more, want others than their neighbours do."""


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
        found, before = [], None
        for x, y, tau in steps:
            count = max(len(x), len(y))
            old, new = _copies(x, count), _copies(y, count)
            columns, g = _pairs(old, new, before)
            new, is_one = new[columns], len(x) == len(y)
            found.append(Move(x, y, old, new, tau, g / 2 if is_one else None))
            moved = torch.empty_like(g).scatter_(0, columns, (old - new).square().sum(1))
            before = -(g + moved) if is_one else None
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
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], before: Float[Tensor, "n"] | None
) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
    """Return the best partners in y of x, and the potential of y; that of x may be near the one from `before`."""
    near, starts = _neighbours(y), [_of_axes(x, y), *([] if before is None else [before])]
    shares = [_apart(x, y, f, near) for f in starts]
    found = assigned_points(x, y, starts[shares.index(max(shares))] if max(shares) >= _APART else None)
    return found.columns, -found.prices


def _of_axes(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """Return the sum over coordinates of the potentials of x between the clouds on that axis.

    That is the potential of both clouds where no coordinate moves by what the others are.
    """
    (u, order), v = x.sort(0), y.sort(0).values
    rise = (u[1:] - v[:-1]).square() - (u[:-1] - v[:-1]).square()
    rise = 0.5 * (rise + (u[1:] - v[1:]).square() - (u[:-1] - v[1:]).square())
    f = torch.cat([torch.zeros_like(u[:1]), rise.cumsum(0)])
    return torch.empty_like(f).scatter_(0, order, f).sum(1)


def _apart(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], f: Float[Tensor, "n"], near: Int[Tensor, "groups k"]
) -> float:
    """Return the share of points y, in groups of those that are `near` each other, that want different x."""
    costs = torch.addmm(x.square().sum(1) - f, y[near.flatten()], x.mT, alpha=-2)  # less functions of y
    wanted = costs.argmin(1).reshape(near.shape).sort(1).values
    return float((wanted.diff(dim=1) != 0).sum() + len(near)) / near.numel()


def _neighbours(y: Float[Tensor, "m d"]) -> Int[Tensor, "groups k"]:
    """Return some groups of points that are near each other."""
    some = y[:: -(-len(y) // _GROUPS)]
    return torch.cdist(some, y).topk(min(_GROUP, len(y)), largest=False).indices


def _copies(cloud: Float[Tensor, "n d"], count: int) -> Float[Tensor, "count d"]:
    """Return each point as often as all others, or once more."""
    return cloud if len(cloud) == count else cloud[torch.arange(count, device=cloud.device) * len(cloud) // count]


def even(cloud: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    return cloud.new_full((len(cloud),), 1 / len(cloud))
