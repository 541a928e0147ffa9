"""Bounds of the transport cost without entropy, from any potentials: a certificate that needs no exact solver.

From below by potentials that are feasible for the linear programme, from above by a plan that is: the rounding of
Altschuler, Weed and Rigollet (arXiv 1705.09634, algorithm 2).
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

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
    """Bound min <C, P> over the plans with marginals a and b; eps has no part in what is bounded.

    The bounds hold whatever the potentials are, a prediction's or a solution's, up to rounding (a relative error
    of about 1e-16 max |potentials|/eps). They are close when the potentials are good and eps is small: of an
    exact solution, the gap is at most eps times the entropy of the plan given a marginal, the smaller of the
    two, and so at most eps log(atoms with mass on either side).

    All is done in float64. A mass that is one only within `Problem`'s tolerance is made one: bounded is the cost
    between a/sum(a) and b/sum(b), with the coordinates or the matrix as the problem's dtype holds them. NaN in the
    potentials of an instance gives NaN for it. Never n x m: axis by axis on a grid, in blocks on other spaces.
    """
    problem = problem.normalised()
    f, g = potentials.f.to(problem.a), potentials.g.to(problem.b)
    level = (g * problem.b).sum(-1, keepdim=True)
    f, g = f + level, g - level
    lower = torch.maximum(_feasible_value(problem, centred(problem.a, f)), _feasible_value(problem.T, g))
    return Bounds(lower, _rounded_cost(problem, DualPotentials(f, g)))


def _feasible_value(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return <f, a> + <g, b> for potentials near f with f_i + g_j <= C_ij wherever a_i and b_j are not zero.

    The start is f + eps log a, as in the soft transform: the hard one is then the larger of the two, and what is
    lost is only the entropy of the plan given b. Atoms without mass start at -inf, and have no say.
    """
    g = problem.geometry.T.hardmin(f + expand_eps(problem.eps, f) * problem.a.log())
    f = problem.geometry.hardmin(torch.where(problem.b > 0, g, -torch.inf))
    return (f * problem.a).sum(-1) + (g * problem.b).sum(-1)


def _rounded_cost(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return <C, P> for a plan near that of the potentials whose marginals are a and b.

    Rows with too much mass are scaled down, then columns: min(1, a/P1) is, in the log domain, the minimum with the
    best potential. The mass that is then missing is added as a product of what is missing on either side.
    """
    f = torch.minimum(potentials.f, c_transform(problem.T, potentials.g))
    g = torch.minimum(potentials.g, c_transform(problem, f))
    scaled = DualPotentials(f, g)
    missing_a = (problem.a - source_marginal(problem, scaled)).clamp_min(0)
    missing_b = (problem.b - target_marginal(problem, scaled)).clamp_min(0)
    total = missing_b.sum(-1, keepdim=True)
    cost = problem.geometry.times_cost(missing_b / torch.where(total > 0, total, 1.0))
    return transport_cost(problem, scaled) + (missing_a * cost).sum(-1)
