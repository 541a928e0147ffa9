"""The way down of plans between two spaces: one linear problem after another, along the slope."""

import math
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.maps.assignment import assigned, spread
from metaot.maps.distortion import Distortion, Moments
from metaot.potentials import DualPotentials
from metaot.solvers import Solution, solve

_SETTLED = 0.02
"""The change of moments up to which the next eps follows."""

ROUGH, _NEAR, _FINE = 0.03, 0.01, 1e-12
"""The L1 error of plans on the way, the part of the last change to which it is reduced, and the least one."""

_SAME = 1e-9
"""The relative fall of the distortion below which a permutation is the last one."""


@final
class Descent:
    """Plans of several starts that go down together."""

    def __init__(self, distortion: Distortion, M: Float[Tensor, "starts ..."]) -> None:
        far = torch.full((len(M),), torch.inf, dtype=M.dtype, device=M.device)
        self.distortion, self.moments = distortion, Moments(M, far)
        self.change = far
        """How far the last linear problem moved the moments, relative to them."""
        self.steps = self.inner_steps = 0
        self.f: Tensor | None = None
        """Potentials, for the slope as it is."""
        self.solution: Solution | None = None

    def step(self, eps: float, tol: float) -> Moments:
        """Return the moments after the linear problems at these, solved from the potentials of the last ones."""
        before = self.moments
        problem, added = self.distortion.linear_problem(before.M, eps)
        init = None if self.f is None else DualPotentials(self.f + added, torch.zeros_like(problem.b))
        self.solution = solve(problem, init=init, tol=tol)
        self.f = self.solution.potentials.f - added
        self.steps, self.inner_steps = self.steps + 1, self.inner_steps + int(self.solution.steps.sum())
        after = self.distortion.after(before, self.solution)
        size = after.M.flatten(1).norm(dim=-1).clamp_min(torch.finfo(after.M.dtype).tiny)
        self.change = (after.M - before.M).flatten(1).norm(dim=-1) / size
        return after

    def settle(self, eps: float, rounds: int) -> None:
        """Go on at this eps until the moments have settled, roughly, or for some linear problems."""
        for _ in range(rounds):
            self.moments = self.step(eps, ROUGH)
            if not float(self.change.amax()) > _SETTLED:
                break

    def alone(self, k: int) -> "Descent":
        """Return one of the starts, to go on by itself."""
        one = Descent(self.distortion, self.moments.M[k : k + 1])
        one.moments, one.change = self.moments[k : k + 1], self.change[k : k + 1]
        one.f = None if self.f is None else self.f[k : k + 1]
        one.solution = None if self.solution is None else part_of(self.solution, slice(k, k + 1))
        one.steps = self.steps
        return one

    def converge(self, eps: float, tol: float, max_steps: int) -> None:
        """Go on with one start until a linear problem moves the moments by no more than `tol`."""
        finest = max(_NEAR * tol, _FINE)
        inner = max(_NEAR * ROUGH, finest)
        last = math.inf
        while self.steps < max_steps:
            old = self.f
            self.moments = self.step(eps, inner)
            change = float(self.change)
            if math.isnan(change) or (change <= tol and inner <= finest):
                break
            inner = min(inner, max(_NEAR * change, finest))
            if old is not None and self.f is not None:
                self.f = self.f + min(change / last, 1.0) * (self.f - old)
            last = change

    def harden(self, max_steps: int) -> Int[Tensor, "n"] | None:
        """Go on with one start without entropy: to the permutation that is optimal for the slope at itself.

        Return it; None where it took more than `max_steps` linear problems.
        """
        assert self.f is not None
        best, prices, scale = None, None, 0.0
        while self.steps < max_steps:
            C = self.distortion.slope(self.moments.M[0])
            if prices is None:
                prices = -(C - self.f[0][:, None]).amin(0)
                scale = spread(C)
            order, _, prices = assigned(C, 0.0, scale, prices)
            self.steps += 1
            after = self.distortion.of_permutation(order)
            if best is not None:
                fall = float((self.moments.value - after.value)[0])
                if not fall > _SAME * abs(float(self.moments.value)):
                    self.change = torch.zeros_like(self.change)
                    return best
            self.moments, best = after, order
        return best


def part_of(solution: Solution, index: int | slice) -> Solution:
    """Return one problem of a batch, or some."""
    parts = (solution.error[index], solution.converged[index], solution.steps[index])
    problem, potentials = solution.problem[index], solution.potentials[index]
    return Solution(problem, potentials, *parts, solution.solvers, solution.max_steps)


def permutation(order: Int[Tensor, "n"], b: Float[Tensor, "n"]) -> Float[Tensor, "n n"]:
    """Return the plan that sends each atom of the source to one of the target."""
    P = b.new_zeros(len(order), len(order))
    P[torch.arange(len(order), device=order.device), order] = b[order]
    return P


def rounded(P: Float[Tensor, "n m"], a: Float[Tensor, "n"], b: Float[Tensor, "m"]) -> Float[Tensor, "n m"]:
    """Return a plan near P with the marginals a and b (Altschuler, Weed and Rigollet, arXiv 1705.09634)."""
    tiny = torch.finfo(P.dtype).tiny
    P = P * (a / P.sum(-1).clamp_min(tiny)).clamp_max(1.0)[:, None]
    P = P * (b / P.sum(-2).clamp_min(tiny)).clamp_max(1.0)
    missing, short = (a - P.sum(-1)).clamp_min(0), (b - P.sum(-2)).clamp_min(0)
    return P + missing[:, None] * short / short.sum().clamp_min(tiny)
