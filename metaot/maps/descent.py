"""The way down of plans between two spaces: one linear problem after another, along the slope."""

import math
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.maps.distortion import Distortion, Moments
from metaot.potentials import DualPotentials
from metaot.solvers import Solution, solve
from metaot.solvers.assignment import assigned, spread

_SETTLED = 0.02
"""The change of moments up to which the next eps follows."""

_ROUGH, _NEAR, _FINE = 0.03, 0.1, 1e-12
"""The L1 error of plans on the way, the part of the last change to which it is reduced, and the least one."""

_SAME = 1e-9
"""The relative fall of the distortion below which a permutation is the last one."""

_FLAT = 1e3
"""The spread of a slope, in roundings of that of the distortion, up to which all permutations are alike."""

_HOPE = 1.0
"""How many times its last fall the distortion may be above the best one found, for the descent to go on."""


@final
class Descent:
    """The plans of one start, or more, on the way down; f are potentials for the slope as it is."""

    def __init__(self, distortion: Distortion, M: Float[Tensor, "starts ..."], f: Tensor | None = None) -> None:
        far = torch.full((len(M),), torch.inf, dtype=M.dtype, device=M.device)
        self.distortion, self.moments = distortion, Moments(M, far)
        self.change = far
        """How far the last linear problem moved the moments, relative to them."""
        self.steps = self.inner_steps = 0
        self.f = f
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
        self.change = _moved(before.M, after.M)
        return after

    def settle(self, eps: float, rounds: int) -> None:
        """Go on at this eps until the moments have settled, roughly, or for some linear problems."""
        for _ in range(rounds):
            self.moments = self.step(eps, _ROUGH)
            if not float(self.change.amax()) > _SETTLED:
                break

    def converge(self, eps: float, tol: float, max_steps: int) -> None:
        """Go on with one start until a linear problem moves the moments by no more than `tol`."""
        finest = max(_NEAR * tol, _FINE)
        inner = max(_NEAR * _ROUGH, finest)
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

    def harden(self, max_steps: int, bar: float) -> tuple[Int[Tensor, "n"], DualPotentials]:
        """Go on with one start without entropy: to the permutation that is optimal for the slope at itself.

        Return it and its potentials. Stops where the distortion is not about to fall below `bar`.
        """
        C = self.distortion.slope(self.moments.M[0])
        prices = None if self.f is None else -(C - self.f[0][:, None]).amin(0)
        scale, last, M = 0.0, math.inf, self.moments.M
        best: Tensor | None = None
        while True:
            scale = scale or self._spread(C)
            order, _, prices = assigned(C, 0.0, scale, prices)
            self.steps += 1
            after = self.distortion.of_permutation(order)
            value = float(after.value)
            fall = last - value
            if best is not None and not fall > _SAME * abs(last):
                M = self.moments.M
                break
            best, last, M, self.moments = order, value, self.moments.M, after
            if value - bar > _HOPE * fall or self.steps >= max_steps:
                break
            C = self.distortion.slope(after.M[0])
        self.change = _moved(M, self.moments.M)
        g = -prices.to(C)
        return best, DualPotentials((C - g).amin(-1), g)

    def _spread(self, C: Float[Tensor, "n n"]) -> float:
        """Return the spread of a slope; zero where it is rounding, as of inner products at independent atoms."""
        found, flat = spread(C), _FLAT * torch.finfo(C.dtype).eps
        return found if found > flat * float(self.distortion.variance.clamp_min(0)) ** 0.5 else 0.0


def part_of(solution: Solution, index: int) -> Solution:
    """Return one problem of a batch."""
    parts = (solution.error[index], solution.converged[index], solution.steps[index])
    problem, potentials = solution.problem[index], solution.potentials[index]
    return Solution(problem, potentials, *parts, solution.solvers, solution.max_steps)


def _moved(before: Float[Tensor, "starts ..."], after: Float[Tensor, "starts ..."]) -> Float[Tensor, "starts"]:
    """Return how far moments moved, relative to them."""
    size = after.flatten(1).norm(dim=-1).clamp_min(torch.finfo(after.dtype).tiny)
    return (after - before).flatten(1).norm(dim=-1) / size


def permutation(order: Int[Tensor, "n"], like: Float[Tensor, ""]) -> Float[Tensor, "n n"]:
    """Return the plan that sends each atom of the source to one of the target."""
    P = like.new_zeros(len(order), len(order))
    P[torch.arange(len(order), device=order.device), order] = 1 / len(order)
    return P


def rounded(P: Float[Tensor, "n m"], a: Float[Tensor, "n"], b: Float[Tensor, "m"]) -> Float[Tensor, "n m"]:
    """Return a plan near P with the marginals a and b (Altschuler, Weed and Rigollet, arXiv 1705.09634)."""
    tiny = torch.finfo(P.dtype).tiny
    P = P * (a / P.sum(-1).clamp_min(tiny)).clamp_max(1.0)[:, None]
    P = P * (b / P.sum(-2).clamp_min(tiny)).clamp_max(1.0)
    missing, short = (a - P.sum(-1)).clamp_min(0), (b - P.sum(-2)).clamp_min(0)
    return P + missing[:, None] * short / short.sum().clamp_min(tiny)
