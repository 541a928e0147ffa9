"""Bounds of the transport cost without entropy, from any potentials: a certificate that needs no exact solver.

From below by potentials that are feasible for the linear programme, from above by a plan that is: the rounding of
Altschuler, Weed and Rigollet (arXiv 1705.09634, algorithm 2).
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.core.method import EVERY
from metaot.geometry.base import expand_eps
from metaot.potentials import (
    DualPotentials,
    c_transform,
    centred,
    source_marginal,
    target_marginal,
    transport_cost,
)
from metaot.problem import Problem
from metaot.solvers.in_torch import InTorch

_ROUNDING, _NEWTON_STEPS = 1e-11, 50
"""Error of marginals that count as exact; the most steps to it."""


@final
@dataclass(frozen=True)
class Bounds:
    """Numbers in the units of the cost with min <C, P>, over the plans with marginals a and b, between them."""

    lower: Float[Tensor, "*batch"]
    upper: Float[Tensor, "*batch"]

    @property
    def gap(self) -> Float[Tensor, "*batch"]:
        """How far either bound may be from the cost; below zero only by rounding."""
        return self.upper - self.lower


@torch.no_grad()
def transport_bounds(problem: Problem, potentials: DualPotentials) -> Bounds:
    """Bound min <C, P> over the plans with marginals a and b, in float64; the bounds hold whatever eps is.

    They hold for all potentials, of a prediction or of a solution, up to rounding (a relative error of about
    1e-16 max |potentials|/eps). Of an exact solution, the gap is at most eps times the entropy of the plan given a
    marginal, the smaller of the two, and so at most eps log(atoms with mass on either side).

    Masses are made one, with coordinates or the matrix as the problem's dtype holds them. NaN in the potentials of
    an atom with mass gives NaN for its instance. No n x m matrix is made on a grid or for large clouds. Where
    forbidden pairs leave no plan, `upper` is +inf; `lower` is +inf where an atom with mass reaches no mass.
    """
    problem = problem.normalised()
    f = torch.where(problem.a > 0, potentials.f.to(problem.a), 0.0)
    g = torch.where(problem.b > 0, potentials.g.to(problem.b), 0.0)
    level = (g * problem.b).sum(-1, keepdim=True)
    f, g = f + level, g - level
    lower = torch.maximum(_feasible_value(problem, centred(problem.a, f)), _feasible_value(problem.T, g))
    return Bounds(lower, _rounded_cost(problem, DualPotentials(f, g)))


def _feasible_value(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return <f, a> + <g, b> for potentials near f with f_i + g_j <= C_ij wherever a_i and b_j are not zero.

    The start is f + eps log a, as in the soft transform: the hard one is then the larger of the two, and only the
    entropy of the plan given b is lost. Atoms without mass start at -inf, and take no part.
    """
    g = problem.geometry.T.hardmin(f + expand_eps(problem.eps, f) * problem.a.log())
    f = problem.geometry.hardmin(torch.where(problem.b > 0, g, -torch.inf))
    value = _weighted_sum(problem.a, f) + _weighted_sum(problem.b, g)
    unreached = ((g == torch.inf) & (problem.b > 0)).any(-1)
    return torch.where(unreached, torch.inf, value)


def _weighted_sum(weights: Float[Tensor, "*batch n"], f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    return torch.where(weights > 0, weights * f, 0.0).sum(-1)


def _rounded_cost(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return <C, P> for a plan near that of the potentials whose marginals are a and b.

    Rows with too much mass are scaled down, then columns: min(1, a/P1) is, in the log domain, the minimum with the
    best potential. The missing mass is added as a product of what is missing on either side.
    """
    f = torch.minimum(potentials.f, c_transform(problem.T, potentials.g))
    g = torch.minimum(potentials.g, c_transform(problem, f))
    scaled = DualPotentials(f, g)
    missing_a = (problem.a - source_marginal(problem, scaled)).clamp_min(0)
    missing_b = (problem.b - target_marginal(problem, scaled)).clamp_min(0)
    total = missing_b.sum(-1, keepdim=True)
    cost = problem.geometry.times_cost(missing_b / torch.where(total > 0, total, 1.0))
    upper = transport_cost(problem, scaled) + _weighted_sum(missing_a, cost)
    forbidden = (upper == torch.inf).reshape(-1)
    if not bool(forbidden.any()):
        return upper
    upper = upper.flatten()
    upper[forbidden] = _allowed_cost(problem.flat()[forbidden], f.reshape(-1, f.shape[-1])[forbidden])
    return upper.reshape(problem.batch_shape)


def _allowed_cost(problem: Problem, f: Float[Tensor, "batch n"]) -> Float[Tensor, "batch"]:
    """Return <C, P> for potentials that Newton's method has made exact; +inf where it finds no plan.

    Missing mass could not be added as a product: that uses forbidden pairs.
    """
    exact = InTorch(problem).newton(EVERY, f, tol=_ROUNDING / 10, max_steps=_NEWTON_STEPS)
    cost = transport_cost(problem, DualPotentials(exact.f, exact.g))
    return torch.where(exact.error <= _ROUNDING, cost, torch.inf)
